package sqlite

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crumb-go/crumb/session"
)

// Two stores on one file are to SQLite what two processes are.
func TestNoLoadIsOlderThanACommitThatWasAnswered(t *testing.T) {
	const sessions, updates = 8, 150
	path := filepath.Join(t.TempDir(), "crumb.db")
	stores := []*Store{openAt(t, path), openAt(t, path)}
	ctx := t.Context()
	var answered [sessions]atomic.Int64 // the highest version
	for i := range sessions {
		must(t, stores[0].Create(ctx, record(i)))
		answered[i].Store(1)
	}
	load := func(s *Store, i int) error {
		least := answered[i].Load()
		rec, err := s.Load(ctx, testID(i))
		if err == nil && rec.Version < least {
			err = fmt.Errorf("session %d was loaded with version %d when %d had been answered", i, rec.Version, least)
		}
		return err
	}
	var writers, readers sync.WaitGroup
	var writing atomic.Int64
	for i := range sessions {
		writing.Add(1)
		writers.Go(func() {
			defer writing.Add(-1)
			for n := range updates {
				// Sometimes one process writes for a while alone, and sometimes both do.
				s := stores[(n/10+i*(n/50%2))%2]
				rec, err := s.Update(ctx, record(i), add(0))
				if err != nil {
					t.Error(err)
					return
				}
				answered[i].Store(rec.Version)
				for _, s := range stores {
					if err := load(s, i); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	for _, s := range stores {
		for from := range 2 {
			readers.Go(func() {
				for i := from; writing.Load() > 0; i++ {
					if err := load(s, i%sessions); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	writers.Wait()
	readers.Wait()
	for i := range sessions {
		rec, err := stores[0].Load(ctx, testID(i))
		must(t, err)
		if got, want := string(rec.Values.Get("bench.v0")), fmt.Sprint(1+updates); got != want {
			t.Errorf("session %d counts %s, want %s", i, got, want)
		}
	}
}

func TestWhatIsKeptInMemory(t *testing.T) {
	s := openNew(t)
	ctx := t.Context()
	other := raw(t, s.path)
	must(t, s.Create(ctx, record(1)))
	must(t, s.Create(ctx, record(2)))

	// withoutRows holds all connections that read rows: a load can only be answered
	// from memory then.
	withoutRows := func(do func(ctx context.Context)) {
		t.Helper()
		var taken []*reader
		for range cap(s.readers.free) {
			r, err := s.readers.take(ctx)
			must(t, err)
			taken = append(taken, r)
		}
		short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		defer cancel()
		do(short)
		for _, r := range taken {
			s.readers.put(r)
		}
	}
	inMemory := func(n int) bool {
		t.Helper()
		var err error
		withoutRows(func(ctx context.Context) { _, err = s.Load(ctx, testID(n)) })
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		return err == nil
	}
	load := func(n int) *session.Record {
		t.Helper()
		rec, err := s.Load(ctx, testID(n))
		must(t, err)
		return rec
	}
	t.Run("what this process wrote or read is loaded without reading it again", func(t *testing.T) {
		if !inMemory(1) {
			t.Error("it was read in the file")
		}
		if _, err := s.Update(ctx, record(1), add(0)); err != nil {
			t.Fatal(err)
		}
		if !inMemory(1) || !inMemory(2) {
			t.Error("after an update it was read in the file")
		}
	})
	t.Run("after another process has committed, all is read again", func(t *testing.T) {
		must(t, exec(other, "UPDATE crumb_sessions SET user = 'eve' WHERE id = '"+string(testID(2))+"'"))
		if inMemory(1) || inMemory(2) {
			t.Error("it was not read in the file")
		}
		if got := load(2).User; got != "eve" {
			t.Errorf("the user is %q", got)
		}
		if !inMemory(2) || inMemory(1) {
			t.Error("what was read is not kept, or the other is")
		}
	})
	t.Run("an update builds on what another process wrote", func(t *testing.T) {
		must(t, exec(other, "UPDATE crumb_sessions SET user = 'bob' WHERE id = '"+string(testID(2))+"'"))
		rec, err := s.Update(ctx, record(2), add(0))
		must(t, err)
		if rec.User != "bob" || load(2).User != "bob" {
			t.Errorf("the user is %q, then %q", rec.User, load(2).User)
		}
	})
	t.Run("what was deleted is gone", func(t *testing.T) {
		must(t, s.Delete(ctx, testID(2)))
		if _, err := s.Load(ctx, testID(2)); err != session.ErrNotFound {
			t.Errorf("Load: %v", err)
		}
	})
	t.Run("a batch may change sessions, sweep some and change them again", func(t *testing.T) {
		must(t, s.Create(ctx, record(3)))
		must(t, exec(other, "BEGIN IMMEDIATE"))
		var all sync.WaitGroup
		queued := 0
		queue := func(do func() error) {
			all.Go(func() {
				if err := do(); err != nil {
					t.Error(err)
				}
			})
			queued++
			until(t, func() bool { n, _, _ := s.writer.queue.waiting(); return n == queued })
		}
		count := func(n int) func() error {
			return func() error { _, err := s.Update(ctx, record(n), add(0)); return err }
		}
		longer := &session.Change{Now: now, Seen: now.Add(2 * time.Hour), Idle: 3 * time.Hour}
		queue(func() error { _, err := s.Update(ctx, record(1), longer); return err })
		queue(count(1))
		queue(func() error {
			n, err := s.Sweep(ctx, now.Add(90*time.Minute), 10)
			if err == nil && n != 1 {
				err = fmt.Errorf("%d were swept, not 1", n)
			}
			return err
		})
		queue(count(1))
		queue(func() error {
			if _, err := s.Update(ctx, record(3), add(0)); err != session.ErrNotFound {
				return fmt.Errorf("update of a swept session: %v", err)
			}
			return nil
		})
		must(t, exec(other, "COMMIT"))
		all.Wait()
		if got := string(load(1).Values.Get("bench.v0")); got != "4" {
			t.Errorf("the counter is %s, want 4", got)
		}
		if _, err := s.Load(ctx, testID(3)); err != session.ErrNotFound {
			t.Errorf("Load of a swept session: %v", err)
		}
	})
	t.Run("it is bounded", func(t *testing.T) {
		var r recent
		r.clear()
		for n := range 2000 {
			rec := record(n)
			rec.Agent = strings.Repeat("a", n*n%(64<<10))
			r.put(rec)
			if r.get(rec.ID) != rec {
				t.Fatal("the last one is not kept")
			}
			r.get(testID(n / 2))
			sum := 0
			for _, of := range []map[session.ID]*session.Record{r.young, r.old} {
				for _, rec := range of {
					sum += recordSize(rec)
				}
			}
			if sum > recentBytes {
				t.Fatalf("%d bytes are kept", sum)
			}
		}
		if len(r.young)+len(r.old) < 200 {
			t.Errorf("only %d are kept", len(r.young)+len(r.old))
		}
	})
}
