package sqlite

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/crumb-go/crumb/session"
)

func TestBackupIsTheDatabaseAtOneMoment(t *testing.T) {
	ctx := t.Context()
	// Two sessions change together, in one batch each time: a copy that shows one
	// change without the other is of no single moment.
	dir := t.TempDir()
	path := filepath.Join(dir, "crumb.db")
	s := openAt(t, path)
	a, b := record(1), record(2)
	must(t, s.Create(ctx, a))
	must(t, s.Create(ctx, b))
	c := raw(t, path)
	over, begun := make(chan struct{}), make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() {
		for {
			err := whileBusy(ctx, func() error { return exec(c, "BEGIN IMMEDIATE") })
			for _, id := range []session.ID{a.ID, b.ID} {
				if err == nil {
					err = exec(c, "UPDATE crumb_sessions SET version = version + 1 WHERE id = '"+string(id)+"'")
				}
			}
			if err == nil {
				err = exec(c, "COMMIT")
			}
			select {
			case begun <- struct{}{}:
			default:
			}
			select {
			case <-over:
				ended <- err
				return
			default:
			}
			if err != nil {
				ended <- err
				return
			}
		}
	}()
	for i := range 10 {
		<-begun
		file := filepath.Join(dir, string(rune('a'+i))+".db")
		must(t, Backup(ctx, "sqlite:"+path, file, Config{}))
		got := openAt(t, file)
		x, err := got.Load(ctx, a.ID)
		must(t, err)
		y, err := got.Load(ctx, b.ID)
		must(t, err)
		if x.Version != y.Version || x.Version == a.Version {
			t.Errorf("the copy holds versions %d and %d", x.Version, y.Version)
		}
	}
	close(over)
	must(t, <-ended)
}

func TestBackupErrors(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	path := filepath.Join(dir, "crumb.db")
	s := openAt(t, path)
	must(t, s.Create(ctx, record(1)))
	to := filepath.Join(dir, "to.db")

	t.Run("a file that exists is left alone", func(t *testing.T) {
		must(t, os.WriteFile(to, nil, 0o600))
		if err := Backup(ctx, path, to, Config{}); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%v", err)
		}
		must(t, os.Remove(to))
	})
	t.Run("a name that is taken meanwhile is left alone", func(t *testing.T) {
		partial := filepath.Join(dir, "partial")
		must(t, os.WriteFile(partial, []byte("copy"), 0o600))
		must(t, os.WriteFile(to, []byte("precious"), 0o600))
		if err := appear(partial, to); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%v", err)
		}
		if text, _ := os.ReadFile(to); string(text) != "precious" {
			t.Errorf("it holds %q", text)
		}
		must(t, errors.Join(os.Remove(to), os.Remove(partial)))
	})
	t.Run("a context that is done makes no file", func(t *testing.T) {
		done, cancel := context.WithCancel(ctx)
		cancel()
		if err := Backup(done, path, to, Config{}); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
	t.Run("without sessions needs the tables", func(t *testing.T) {
		if err := BackupWithoutSessions(ctx, path, to, Config{TablePrefix: "other_"}); err == nil {
			t.Error("no error")
		}
	})
	t.Run("no database", func(t *testing.T) {
		other := filepath.Join(dir, "text")
		must(t, os.WriteFile(other, []byte("no database at all, but some text that is long enough"), 0o600))
		if err := Backup(ctx, other, to, Config{}); err == nil {
			t.Error("no error")
		}
		must(t, os.Remove(other))
	})
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		switch e.Name() {
		case "crumb.db", "crumb.db-wal", "crumb.db-shm":
		default:
			t.Errorf("%s is left", e.Name())
		}
	}
}

func TestInspectChangesNothingAndTellsWhatIsOverdue(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "crumb.db")
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	if in, err := Inspect(ctx, path, Config{}, now, time.Second); !errors.Is(err, fs.ErrNotExist) || in.Path != path {
		t.Errorf("%+v, %v", in, err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("it made the file")
	}
	s := openAt(t, path)
	for i, age := range []time.Duration{25 * time.Hour, 23 * time.Hour, -time.Hour, -48 * time.Hour} {
		rec := record(i)
		rec.Created, rec.Seen, rec.Absolute = now.Add(-age).Add(-time.Hour), now.Add(-age).Add(-time.Hour), now.Add(-age)
		rec.Expires = rec.Absolute
		must(t, s.Create(ctx, rec))
	}
	ended := record(9)
	ended.Created, ended.Seen, ended.Idle, ended.Expires, ended.Absolute = now, now, 0, now.Add(time.Hour), now.Add(time.Hour)
	must(t, s.Create(ctx, ended))
	in, err := Inspect(ctx, path, Config{}, now, time.Second)
	must(t, err)
	if in.Sessions != 2 || in.Overdue != 1 || in.Future != 1 || in.Ahead != 47*time.Hour || in.SchemaVersion != 1 || in.JournalMode != "wal" || in.Problems != nil {
		t.Errorf("%+v", in)
	}
	t.Run("a lock is waited for", func(t *testing.T) {
		c := raw(t, path)
		must(t, exec(c, "BEGIN IMMEDIATE"))
		if _, err := Inspect(ctx, path, Config{}, now, time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		must(t, exec(c, "ROLLBACK"))
		_, err := Inspect(ctx, path, Config{}, now, time.Second)
		must(t, err)
	})
}

func TestStatsCountCommitsByWhatTheyCarried(t *testing.T) {
	ctx := t.Context()
	s := openNew(t)
	var st stats
	for _, n := range []int{1, 1, 2, 3, 4, 5, 8, 9, 1024, 2000} {
		st.committed(n)
	}
	for i, want := range []int64{2, 1, 2, 2, 1, 0, 0, 0, 0, 0, 2} {
		if got := st.batches[i].Load(); got != want {
			t.Errorf("of up to %d there are %d, want %d", 1<<i, got, want)
		}
	}
	for i := range 5 {
		must(t, s.Create(ctx, record(i)))
	}
	if got := s.Stats(); got.Batches[0] != 5 || got.Calls != 5 || got.LogBytes == 0 {
		t.Errorf("%+v", got)
	}
}

func TestCountIsByClassAndOfThoseThatLive(t *testing.T) {
	ctx := t.Context()
	s := openNew(t)
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	must(t, s.Close())
	if _, _, _, err := s.Count(ctx, now); err == nil {
		t.Error("a closed store counts")
	}
	s = openNew(t)
	n := 0
	create := func(user string, remember bool, expires time.Duration, ended bool) {
		n++
		rec := record(n)
		rec.User, rec.Remember, rec.Expires, rec.Idle = user, remember, now.Add(expires), time.Hour
		rec.Absolute = rec.Expires
		if ended {
			rec.Idle = 0
		}
		must(t, s.Create(ctx, rec))
	}
	if a, b, c, err := s.Count(ctx, now); a+b+c != 0 || err != nil {
		t.Errorf("an empty store counts %d, %d, %d, %v", a, b, c, err)
	}
	create("", false, time.Minute, false)
	create("", false, 0, false)
	create("", false, time.Minute, true)
	create("ana", false, time.Minute, false)
	create("ana", false, time.Minute, false)
	create("ana", true, time.Minute, false)
	create("bea", true, time.Minute, false)
	create("bea", true, time.Microsecond, false)
	create("bea", true, -time.Minute, false)
	if a, b, c, err := s.Count(ctx, now); a != 1 || b != 2 || c != 3 || err != nil {
		t.Errorf("it counts %d, %d, %d, %v", a, b, c, err)
	}
}
