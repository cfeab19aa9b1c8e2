package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	zs "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/sqlite"
)

const (
	killsAFile    = 100 // rounds with one database
	killsAHistory = 5   // rounds in which one shared session lives
)

// A killing is a series of rounds with one database. In each a child calls the
// store until it is killed; then the file is opened again and every session that
// was called looked at.
type killing struct {
	path  string
	left  map[session.ID]*session.Record // as each session was when its rounds were over; nil is none
	calls int                            // acknowledged
	lost  int                            // begun and not acknowledged
	ended int                            // sessions that ended or were deleted
	took  []time.Duration                // to open the file again
}

func newKilling(dir string) *killing {
	return &killing{path: filepath.Join(dir, "crumb.db"), left: map[session.ID]*session.Record{}}
}

// round lets a child work for some events and kills it.
func (k *killing) round(ctx context.Context, n int, shared session.ID, after int) error {
	child, err := newChild(ctx, "load", k.path, fmt.Sprint(n), string(shared))
	if err != nil {
		return err
	}
	out, err := child.StdoutPipe()
	if err != nil {
		return err
	}
	if err := child.Start(); err != nil {
		return err
	}
	var events []event
	acknowledged := 0
	ids := map[session.ID]bool{}
	byClient := map[[2]int]session.ID{}
	readEvents(out, func(e event) {
		at := [2]int{e.Client, e.N}
		if e.Call != nil {
			byClient[at] = e.Call.ID
			ids[e.Call.ID] = true
		} else {
			acknowledged++
		}
		events = append(events, e)
		if after--; after == 0 {
			err = child.Process.Kill()
		}
	})
	var exit interface{ ExitCode() int }
	if werr := child.Wait(); err != nil || !errors.As(werr, &exit) || exit.ExitCode() != -1 {
		return fmt.Errorf("the child ended by itself: %w, %w", werr, err)
	}
	k.calls += acknowledged
	k.lost += len(byClient) - acknowledged
	return k.look(ctx, events, ids, n)
}

// look opens the file again, loads every session of ids, and checks the history of
// each from what it was when the round began to what it is now. What was under way
// when the child was killed has happened by now or never will.
func (k *killing) look(ctx context.Context, events []event, ids map[session.ID]bool, round int) error {
	began := time.Now()
	st, err := sqlite.Open(ctx, k.path, sqlite.Config{})
	if err != nil {
		return err
	}
	k.took = append(k.took, time.Since(began))
	defer st.Close()
	rec := &recorder{to: func(e event) error {
		events = append(events, e)
		return nil
	}}
	now := map[session.ID]*session.Record{}
	looker := caller{n: -1, store: st, rec: rec}
	for id := range ids {
		looker.id = id
		a, err := looker.do(ctx, &call{What: "load"})
		if err != nil {
			return err
		}
		if now[id] = a.Rec; a.Rec == nil || a.Rec.Ended() {
			k.ended++
		}
	}
	for id, history := range operations(events) {
		if err := check(callModelFrom(k.left[id]), history, ""); err != nil {
			return fmt.Errorf("session %s: %w", id, err)
		}
	}
	maps.Copy(k.left, now)
	return nil
}

// end looks at every session of the file once more: nothing that had ended came
// back, and nothing else changed, in all the kills since.
func (k *killing) end(ctx context.Context) error {
	st, err := sqlite.Open(ctx, k.path, sqlite.Config{})
	if err != nil {
		return err
	}
	for id, want := range k.left {
		got, err := st.Load(ctx, id)
		if err != nil && (want != nil || !errors.Is(err, session.ErrNotFound)) {
			return errors.Join(fmt.Errorf("session %s: %w", id, err), st.Close())
		}
		if !sameRecord(got, want) {
			return errors.Join(fmt.Errorf("session %s is %s and was %s", id, describeRecord(got), describeRecord(want)), st.Close())
		}
	}
	if err := st.Close(); err != nil {
		return err
	}
	return quickCheck(k.path)
}

// quickCheck asks SQLite whether the file is in order.
func quickCheck(path string) error {
	c, err := zs.OpenConn(path, zs.OpenReadOnly)
	if err != nil {
		return err
	}
	defer c.Close()
	verdict := ""
	err = sqlitex.ExecuteTransient(c, "PRAGMA quick_check", &sqlitex.ExecOptions{ResultFunc: func(st *zs.Stmt) error {
		verdict += st.ColumnText(0)
		return nil
	}})
	if err == nil && verdict != "ok" {
		err = errors.New("quick_check: " + verdict)
	}
	return err
}

func runKills(ctx context.Context, r *run, f *figures) (*figures, error) {
	dir := filepath.Join(r.dir, "kill")
	var opens []time.Duration
	began, earlier := time.Now(), f.Took
	for f.Count["rounds"] < r.Rounds && ctx.Err() == nil {
		if err := os.RemoveAll(dir); err != nil {
			return nil, err
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		k := newKilling(dir)
		first := f.Count["rounds"]
		last := min(first+killsAFile, r.Rounds)
		for n := first; n < last && ctx.Err() == nil; n++ {
			r.bar.at(n, r.Rounds, "kills")
			shared := session.ID(fmt.Sprintf("shared%010d", n/killsAHistory))
			if err := k.round(ctx, n, shared, 1+rand.IntN(3000)); err != nil {
				return nil, fmt.Errorf("round %d: %w; the database is in %s", n, err, dir)
			}
			f.count("rounds", 1)
		}
		if err := k.end(context.WithoutCancel(ctx)); err != nil {
			return nil, fmt.Errorf("after round %d: %w; the database is in %s", last, err, dir)
		}
		f.count("calls", k.calls)
		f.count("unanswered", k.lost)
		f.count("sessions", len(k.left))
		f.count("ended", k.ended)
		opens = append(opens, k.took...)
		f.Rows = nil
		f.add("rounds of kill -9", "%d", f.Count["rounds"])
		f.add("calls that were answered, each checked", "%d", f.Count["calls"])
		f.add("calls under way when it struck", "%d", f.Count["unanswered"])
		f.add("sessions, of these ended or deleted", "%d, %d", f.Count["sessions"], f.Count["ended"])
		f.add("answered calls that were lost, ends undone, torn records", "0")
		f.add("to open the file again", "p50 %v, max %v", quantile(opens, 0.5), quantile(opens, 1))
		f.Took = earlier + time.Since(began).Round(time.Second)
		if err := r.results.keep("kill", f); err != nil {
			return nil, err
		}
	}
	return f, nil
}
