package sqlite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	zs "zombiezen.com/go/sqlite"

	"github.com/crumb-go/crumb/session"
)

type stmt = zs.Stmt

// raw opens the file of s beside it, as another process would.
func raw(t *testing.T, path string) *zs.Conn {
	t.Helper()
	c, err := openConn(path, zs.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// until waits for cond without sleeping.
func until(t *testing.T, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("it did not happen within ten seconds")
		}
	}
}

func TestURL(t *testing.T) {
	t.Run("every form names its file", func(t *testing.T) {
		dir, err := os.Getwd()
		must(t, err)
		for raw, want := range map[string]string{
			"crumb.db":               filepath.Join(dir, "crumb.db"),
			"sqlite:crumb.db":        filepath.Join(dir, "crumb.db"),
			"sqlite://crumb.db":      filepath.Join(dir, "crumb.db"),
			"sqlite:data/x%20y.db":   filepath.Join(dir, "data", "x y.db"),
			"sqlite:/var/lib/x.db":   "/var/lib/x.db",
			"sqlite:///var/lib/x.db": "/var/lib/x.db",
			"/var/lib/100%?.db":      "/var/lib/100%?.db",
		} {
			if got, err := parseURL(raw); err != nil || got != want {
				t.Errorf("parseURL(%q) = %q, %v, want %q", raw, got, err, want)
			}
		}
	})
	t.Run("others are refused with what would work", func(t *testing.T) {
		for raw, hint := range map[string]string{
			"":                        "sqlite:crumb.db",
			"sqlite:":                 "sqlite:crumb.db",
			"sqlite::memory:":         "memory store",
			":memory:":                "memory store",
			"sqlite:x.db?mode=ro":     `"mode"`,
			"sqlite:x.db?":            "unknown parameter",
			"postgres://u:hunter2@h/": "sqlite:crumb.db",
			"sqlite:%zz":              "%25",
			"sqlite:a%00b":            "zero byte",
		} {
			_, err := Open(t.Context(), raw, Config{})
			if err == nil || !strings.Contains(err.Error(), hint) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("Open(%q): %v, want a hint at %s", raw, err, hint)
			}
		}
	})
	t.Run("a prefix that is no name is refused", func(t *testing.T) {
		for _, prefix := range []string{"1a", "a-b", `a"`, "a;", "é"} {
			if _, err := Open(t.Context(), filepath.Join(t.TempDir(), "x.db"), Config{TablePrefix: prefix}); err == nil {
				t.Errorf("prefix %q was taken", prefix)
			}
		}
	})
}

func TestFile(t *testing.T) {
	t.Run("what a path cannot be is said", func(t *testing.T) {
		dir := t.TempDir()
		text := filepath.Join(dir, "notes.txt")
		must(t, os.WriteFile(text, bytes.Repeat([]byte("These are notes, and no database.\n"), 100), 0o600))
		for path, hint := range map[string]string{
			filepath.Join(dir, "none", "x.db"): "does not exist; create it first",
			text:                               "no SQLite database",
			dir:                                "open " + dir,
		} {
			_, err := Open(t.Context(), path, Config{})
			if err == nil || !strings.Contains(err.Error(), hint) {
				t.Errorf("Open(%s): %v, want %q", path, err, hint)
			}
		}
		if left, err := filepath.Glob(filepath.Join(dir, "*-*")); err != nil || len(left) > 0 {
			t.Errorf("files were left behind: %v, %v", left, err)
		}
	})
	t.Run("a newer schema is refused and stays as it is", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "crumb.db")
		openAt(t, path)
		must(t, exec(raw(t, path), "UPDATE crumb_schema SET version = 7"))
		_, err := Open(t.Context(), path, Config{})
		if err == nil || !strings.Contains(err.Error(), "schema version 7") || !strings.Contains(err.Error(), "newer program") {
			t.Errorf("Open: %v", err)
		}
		if v, err := Status(t.Context(), path, Config{}); v != 7 || err != nil {
			t.Errorf("Status: %d, %v", v, err)
		}
	})
	t.Run("Status tells without changing anything", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "crumb.db")
		if _, err := Status(t.Context(), path, Config{}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Status of no file: %v", err)
		}
		if _, err := os.Stat(path); err == nil {
			t.Error("Status created the file")
		}
		openAt(t, path)
		if v, err := Status(t.Context(), path, Config{}); v != SchemaVersion || err != nil {
			t.Errorf("Status: %d, %v", v, err)
		}
		if v, err := Status(t.Context(), path, Config{TablePrefix: "other_"}); v != 0 || err != nil {
			t.Errorf("Status of another prefix: %d, %v", v, err)
		}
		if !strings.Contains(Schema("my_"), "CREATE TABLE my_sessions") || strings.Contains(Schema("my_"), "crumb_") {
			t.Errorf("Schema(my_): %s", Schema("my_"))
		}
	})
	t.Run("two prefixes share a file and no session", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "crumb.db")
		a := openAt(t, path)
		b, err := Open(t.Context(), path, Config{TablePrefix: "App2"})
		must(t, err)
		defer b.Close()
		must(t, a.Create(t.Context(), record(1)))
		if _, err := b.Load(t.Context(), testID(1)); err != session.ErrNotFound {
			t.Errorf("Load under the other prefix: %v", err)
		}
		must(t, b.Create(t.Context(), record(1)))
	})
	t.Run("the table can be read with any tool", func(t *testing.T) {
		s := openNew(t)
		must(t, s.Create(t.Context(), record(1)))
		got := ""
		must(t, query(raw(t, s.path), `SELECT user IS '' AND signed_in IS NULL AND old_secret IS NULL, typeof("values"),
			json_extract("values", '$."bench.v3".name') FROM crumb_sessions`, func(st *stmt) {
			got = fmt.Sprintln(st.ColumnInt(0), st.ColumnText(1), st.ColumnText(2))
		}))
		if got != "1 text Ann\n" {
			t.Errorf("got %s", got)
		}
	})
}

func TestClosedStore(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "crumb.db"), Config{})
	must(t, err)
	must(t, s.Create(t.Context(), record(1)))
	t.Run("the file is whole without its log", func(t *testing.T) {
		must(t, s.Close())
		must(t, s.Close())
		if left, err := filepath.Glob(s.path + "-*"); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		if _, err := openAt(t, s.path).Load(t.Context(), testID(1)); err != nil {
			t.Error(err)
		}
	})
	t.Run("every call says that it is closed", func(t *testing.T) {
		ctx := t.Context()
		_, load := s.Load(ctx, testID(1))
		_, update := s.Update(ctx, record(1), add(0))
		_, list := s.List(ctx, session.Query{All: true, Now: now})
		_, check := s.Check(ctx, now, []session.ID{testID(1)})
		_, sweep := s.Sweep(ctx, now, 1)
		for _, err := range []error{load, update, list, check, sweep, s.Create(ctx, record(2)), s.Delete(ctx, testID(1)), s.Touch(ctx, []session.Touch{{ID: testID(1)}})} {
			if !errors.Is(err, errClosed) {
				t.Errorf("got %v", err)
			}
		}
	})
}

func TestUnknownRowFormat(t *testing.T) {
	s := openNew(t)
	ctx := t.Context()
	rec := record(1)
	rec.User = "ann"
	must(t, s.Create(ctx, rec))
	must(t, s.Create(ctx, record(2)))
	must(t, exec(raw(t, s.path), "UPDATE crumb_sessions SET format = 9, expires = 5, expires_10min = 0 WHERE id = '"+string(rec.ID)+"'"))
	says := func(what string, err error) {
		t.Helper()
		if err == nil || errors.Is(err, session.ErrNotFound) || !strings.Contains(err.Error(), "format 9") {
			t.Errorf("%s: %v", what, err)
		}
	}
	t.Run("it is neither served nor absent", func(t *testing.T) {
		_, err := s.Load(ctx, rec.ID)
		says("Load", err)
		_, err = s.Update(ctx, rec, add(0))
		says("Update", err)
		if err := s.Create(ctx, rec); err != session.ErrExists {
			t.Errorf("Create: %v", err)
		}
		_, err = s.List(ctx, session.Query{All: true, Now: time.UnixMicro(1)})
		says("List", err)
		_, err = s.List(ctx, session.Query{User: "ann", Now: time.UnixMicro(1)})
		says("List of the user", err)
	})
	t.Run("a touch and a sweep leave it alone", func(t *testing.T) {
		must(t, s.Touch(ctx, []session.Touch{{ID: rec.ID, Seen: now.Add(time.Minute)}, {ID: testID(2), Seen: now.Add(time.Minute)}}))
		if n, err := s.Sweep(ctx, now, 10); n != 0 || err != nil {
			t.Errorf("Sweep: %d, %v", n, err)
		}
		_, err := s.Load(ctx, rec.ID)
		says("Load", err)
		if other, err := s.Load(ctx, testID(2)); err != nil || !other.Seen.Equal(now.Add(time.Minute)) {
			t.Errorf("the one beside: %v, %v", other, err)
		}
	})
	t.Run("erasing removes it", func(t *testing.T) {
		must(t, s.Delete(ctx, rec.ID))
		if _, err := s.Load(ctx, rec.ID); err != session.ErrNotFound {
			t.Errorf("Load: %v", err)
		}
	})
}

func TestContexts(t *testing.T) {
	s := openNew(t)
	must(t, s.Create(t.Context(), record(1)))
	other := raw(t, s.path)
	views := func() string {
		t.Helper()
		rec, err := s.Load(t.Context(), testID(1))
		must(t, err)
		return string(rec.Values.Get("bench.v0"))
	}
	blocked := func(ctx context.Context) chan error {
		answer := make(chan error, 1)
		go func() {
			_, err := s.Update(ctx, record(1), add(0))
			answer <- err
		}()
		until(t, func() bool { n, _, _ := s.writer.queue.waiting(); return n == 1 })
		return answer
	}
	t.Run("a change whose context ends in the queue is withdrawn for sure", func(t *testing.T) {
		must(t, exec(other, "BEGIN IMMEDIATE"))
		ctx, cancel := context.WithCancel(t.Context())
		answer := blocked(ctx)
		cancel()
		if err := <-answer; !errors.Is(err, context.Canceled) || errors.Is(err, session.ErrUnknown) {
			t.Errorf("got %v", err)
		}
		must(t, exec(other, "COMMIT"))
		if _, err := s.Update(t.Context(), record(1), add(0)); err != nil {
			t.Error(err)
		}
		if got := views(); got != "2" {
			t.Errorf("the counter is %s, want 2", got)
		}
	})
	t.Run("one that was being written is of unknown outcome", func(t *testing.T) {
		must(t, exec(other, "BEGIN IMMEDIATE"))
		ctx, cancel := context.WithCancel(t.Context())
		answer := blocked(ctx)
		s.writer.queue.take(nil, 1, true) // as the writer does once it has the lock
		cancel()
		if err := <-answer; !errors.Is(err, context.Canceled) || !errors.Is(err, session.ErrUnknown) {
			t.Errorf("got %v", err)
		}
		must(t, exec(other, "ROLLBACK"))
	})
	t.Run("a lock held by another process is waited for", func(t *testing.T) {
		must(t, exec(other, "BEGIN IMMEDIATE"))
		answer := blocked(t.Context())
		must(t, exec(other, "COMMIT"))
		must(t, <-answer)
		if got := views(); got != "3" {
			t.Errorf("the counter is %s, want 3", got)
		}
	})
	t.Run("an ended context reads and writes nothing", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, load := s.Load(ctx, testID(1))
		_, update := s.Update(ctx, record(1), add(0))
		_, list := s.List(ctx, session.Query{All: true, Now: now})
		_, check := s.Check(ctx, now, []session.ID{testID(1)})
		for _, err := range []error{load, update, list, check} {
			if !errors.Is(err, context.Canceled) || errors.Is(err, session.ErrUnknown) {
				t.Errorf("got %v", err)
			}
		}
	})
	t.Run("a read does not wait for a connection longer than its context", func(t *testing.T) {
		var taken []*reader
		for range cap(s.readers.free) {
			r, err := s.readers.take(t.Context())
			must(t, err)
			taken = append(taken, r)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := s.Load(ctx, testID(2)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		for _, r := range taken {
			s.readers.put(r)
		}
	})
	t.Run("an Open that waits for another process gives up with its context", func(t *testing.T) {
		must(t, exec(other, "BEGIN IMMEDIATE"))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if _, err := Open(ctx, s.path, Config{}); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "another process") {
			t.Errorf("got %v", err)
		}
		must(t, exec(other, "ROLLBACK"))
	})
}

func TestDurability(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(s *Store) error
		full bool
	}{
		"a counter does not wait for the disk": {func(s *Store) error {
			_, err := s.Update(t.Context(), record(1), add(0))
			return err
		}, false},
		"an end does": {func(s *Store) error {
			_, err := s.Update(t.Context(), record(1), &session.Change{Now: now, End: true})
			return err
		}, true},
		"a renewal does": {func(s *Store) error {
			_, err := s.Update(t.Context(), record(1), &session.Change{Now: now, Renew: &session.Renew{From: record(1).Secret, OldUntil: now}})
			return err
		}, true},
		"a delete does":                      {func(s *Store) error { return s.Delete(t.Context(), testID(1)) }, true},
		"a new session with a user does":     {func(s *Store) error { r := record(2); r.User = "ann"; return s.Create(t.Context(), r) }, true},
		"a new session of a visitor doesn't": {func(s *Store) error { return s.Create(t.Context(), record(2)) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := openNew(t)
			must(t, s.Create(t.Context(), record(1)))
			must(t, c.do(s))
			s.writer.stop() // what the writer holds may be read from here on
			level := 0
			must(t, query(s.writer.conn, "PRAGMA synchronous", func(st *stmt) { level = st.ColumnInt(0) }))
			if full := level == 2; full != c.full {
				t.Errorf("it was committed at synchronous = %d", level)
			}
		})
	}
}

func TestDiskFull(t *testing.T) {
	s := openNew(t)
	ctx := t.Context()
	must(t, exec(s.writer.conn, "PRAGMA max_page_count = 100")) // before its goroutine has anything to do
	big := func(n int) *session.Record {
		rec := record(n)
		rec.Values = append(rec.Values, session.Value{Key: "big", JSON: []byte(`"` + strings.Repeat("x", 10_000) + `"`)})
		return rec
	}
	created := 0
	var err error
	for err == nil && created < 100 {
		if err = s.Create(ctx, big(created)); err == nil {
			created++
		}
	}
	if err == nil || created == 0 || !strings.Contains(err.Error(), "SQLITE_FULL") || errors.Is(err, session.ErrUnknown) {
		t.Fatalf("after %d creates: %v, want a definite SQLITE_FULL", created, err)
	}
	t.Logf("after %d creates: %v", created, err)
	t.Run("nothing of what failed is there, and all of what was acknowledged", func(t *testing.T) {
		if _, err := s.Load(ctx, testID(created)); err != session.ErrNotFound {
			t.Errorf("the one that failed: %v", err)
		}
		for i := range created {
			if rec, err := s.Load(ctx, testID(i)); err != nil || len(rec.Values) != 9 {
				t.Errorf("session %d: %v, %v", i, rec, err)
			}
		}
	})
	t.Run("what needs no room still works", func(t *testing.T) {
		if _, err := s.Update(ctx, big(0), &session.Change{Now: now, End: true}); err != nil {
			t.Error(err)
		}
	})
	t.Run("service returns with the room", func(t *testing.T) {
		must(t, s.Delete(ctx, testID(1)))
		must(t, s.Create(ctx, big(created)))
		if _, err := s.Update(ctx, big(created), add(0)); err != nil {
			t.Error(err)
		}
	})
}

func TestABadChangeConcernsOnlyItsCaller(t *testing.T) {
	s := openNew(t)
	must(t, s.Create(t.Context(), record(1)))
	other := raw(t, s.path)
	must(t, exec(other, "BEGIN IMMEDIATE")) // so that one batch takes them all
	const callers = 9
	answers := make(chan error, callers)
	for i := range callers {
		go func() {
			c := add(0)
			switch i % 3 {
			case 1:
				c.Auth = 5
			case 2:
				c.Ops[0].If, c.Ops[0].Old = session.OrFail, []byte("no such")
			}
			rec, err := s.Update(t.Context(), record(1), c)
			if err != nil && rec == nil {
				err = fmt.Errorf("no record beside %w", err)
			}
			answers <- err
		}()
	}
	until(t, func() bool { n, _, _ := s.writer.queue.waiting(); return n == callers })
	must(t, exec(other, "COMMIT"))
	count := make(map[error]int)
	for range callers {
		count[<-answers]++
	}
	if count[nil] != 3 || count[session.ErrStale] != 3 || count[session.ErrConflict] != 3 {
		t.Errorf("answers: %v", count)
	}
	rec, err := s.Load(t.Context(), testID(1))
	must(t, err)
	if got := string(rec.Values.Get("bench.v0")); got != "4" || rec.Version != 4 {
		t.Errorf("the counter is %s at version %d, want 4 at 4", got, rec.Version)
	}
}
