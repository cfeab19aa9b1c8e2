package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
	"github.com/crumb-go/crumb/store/sqlite"
)

// In each turn every database has so many calls. Turns are short, so that a moment in
// which the machine is busy hits all sizes alike.
const (
	sizesLoads   = 20
	sizesUpdates = 5
	sizesLists   = 2
)

// A fullStore is what the stores of the project all are.
type fullStore interface {
	session.Store
	session.Lister
	session.Sweeper
}

// An opened database is empty, and nobody else uses it.
type opened struct {
	store fullStore
	other fullStore                       // of another process, if that makes a difference; else store
	bytes func() (total int64, err error) // what the database takes
	close func() error
}

// A sized is a database of so many sessions and what was measured with it.
type sized struct {
	n int
	opened

	loads, between, updates, lists []time.Duration
	each                           float64 // bytes
	filled                         time.Duration
}

func runSizes(ctx context.Context, r *run, f *figures) (*figures, error) {
	return f, sizeEngine(ctx, r, f, filepath.Join(r.dir, "sizes"), openSizedSQLite)
}

// sizeEngine measures databases of 1,000 sessions and ten times as many again and
// again, which open makes.
func sizeEngine(ctx context.Context, r *run, f *figures, dir string, open func(ctx context.Context, dir string) (opened, error)) (err error) {
	fl := &filling{now: time.Now().UTC(), prefix: "s"}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	var all []*sized
	defer func() {
		for _, s := range all {
			err = errors.Join(err, s.close())
		}
	}()
	for n := 1000; n <= r.Sessions; n *= 10 {
		own := filepath.Join(dir, strconv.Itoa(n))
		if err := os.MkdirAll(own, 0o700); err != nil {
			return err
		}
		db, err := open(ctx, own)
		if err != nil {
			return err
		}
		s := &sized{n: n, opened: db}
		all = append(all, s)
		if err := s.fill(ctx, fl, r.bar); err != nil {
			return err
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for turn := range r.Turns {
		for _, s := range all {
			r.bar.at(turn, r.Turns, "turns")
			if err := s.measure(ctx, fl, rng); err != nil {
				return err
			}
		}
	}
	return reportSizes(f, fl, all)
}

func (s *sized) fill(ctx context.Context, fl *filling, b *bar) error {
	before, err := s.bytes()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := fl.fill(ctx, s.store, 0, s.n, b); err != nil {
		return err
	}
	s.filled = time.Since(began)
	after, err := s.bytes()
	s.each = float64(after-before) / float64(s.n)
	return err
}

// openSizedSQLite opens a file twice, the second time as another process would.
func openSizedSQLite(ctx context.Context, dir string) (db opened, err error) {
	path := filepath.Join(dir, "crumb.db")
	first, err := sqlite.Open(ctx, path, sqlite.Config{})
	if err != nil {
		return db, err
	}
	second, err := sqlite.Open(ctx, path, sqlite.Config{})
	if err != nil {
		return db, errors.Join(err, first.Close())
	}
	return opened{
		store: first, other: second,
		bytes: func() (int64, error) { return sqliteBytes(ctx, path) },
		close: func() error { return errors.Join(first.Close(), second.Close()) },
	}, nil
}

// measure makes one turn: loads of sessions at random, one after the other; loads
// and updates by turns; and lists of one user's sessions. A load between updates
// is what an app does: after each commit SQLite reads pages anew that it had kept.
// Another process commits before each turn, so that the sessions are read in the
// file: the store on SQLite keeps the last ten thousand or so in memory while it is
// alone.
func (s *sized) measure(ctx context.Context, fl *filling, rng *rand.Rand) error {
	load := func(to *[]time.Duration) (*session.Record, error) {
		id := fl.id(rng.IntN(s.n))
		began := time.Now()
		rec, err := s.store.Load(ctx, id)
		*to = append(*to, time.Since(began))
		return rec, err
	}
	if _, err := s.other.Update(ctx, fl.record(0), addOne(fl.record(0), fl.now)); err != nil {
		return err
	}
	for range sizesLoads {
		if _, err := load(&s.loads); err != nil {
			return err
		}
	}
	for range sizesUpdates {
		rec, err := load(&s.between)
		// A writer of SQLite that has met another leaves it the lock for a moment
		// after each commit. These loads outlast that.
		for range 4 {
			var unmeasured []time.Duration
			_, other := load(&unmeasured)
			err = errors.Join(err, other)
		}
		if err != nil {
			return err
		}
		began := time.Now()
		if _, err := s.store.Update(ctx, rec, addOne(rec, fl.now)); err != nil {
			return err
		}
		s.updates = append(s.updates, time.Since(began))
	}
	for range sizesLists {
		q := session.Query{User: userOf(rng.IntN(s.n)), Limit: 100, Now: fl.now}
		began := time.Now()
		page, err := s.store.List(ctx, q)
		if err != nil {
			return err
		}
		if len(page) != usersSessions {
			return fmt.Errorf("%s has %d sessions, not %d", q.User, len(page), usersSessions)
		}
		s.lists = append(s.lists, time.Since(began))
	}
	return nil
}

// listMost is how long a list of one user's sessions may take in the middle.
const listMost = 5 * time.Millisecond

func reportSizes(f *figures, fl *filling, all []*sized) error {
	f.Rows = nil
	last := all[len(all)-1]
	f.add(fmt.Sprintf("to make %d sessions with 128 clients", last.n), "%v, %.0f/s", last.filled.Round(time.Second), float64(last.n)/last.filled.Seconds())
	f.add("data of a session: ID, user, agent, keys and values", "%d bytes", dataBytes(fl.record(0)))
	for _, s := range all {
		f.add(fmt.Sprintf("%d sessions: the database, each", s.n), "%.0f bytes", s.each)
	}
	var errs []error
	for _, m := range []struct {
		name string
		of   func(s *sized) []time.Duration
		flat bool
	}{
		{"load, no update between", func(s *sized) []time.Duration { return s.loads }, true},
		{"load, by turns with updates", func(s *sized) []time.Duration { return s.between }, true},
		{"update", func(s *sized) []time.Duration { return s.updates }, true},
		{"list of a user's 20 sessions", func(s *sized) []time.Duration { return s.lists }, false},
	} {
		for _, s := range all {
			p50 := quantile(m.of(s), 0.5)
			ratio := float64(p50) / float64(quantile(m.of(all[0]), 0.5))
			f.add(fmt.Sprintf("%d sessions: %s, p50 and p99 (p50 as a multiple of that with 1000)", s.n, m.name), "%v, %v (%.2f×)",
				p50, quantile(m.of(s), 0.99), ratio)
			if m.flat && ratio > 2 {
				errs = append(errs, fmt.Errorf("with %d sessions a %s takes %.2f times as long as with %d", s.n, m.name, ratio, all[0].n))
			}
			if !m.flat && p50 > listMost {
				errs = append(errs, fmt.Errorf("with %d sessions a %s takes %v", s.n, m.name, p50))
			}
		}
	}
	return errors.Join(errs...)
}

func roundish(ns float64) time.Duration { return quantile([]time.Duration{time.Duration(ns)}, 0) }

func runMemory(ctx context.Context, r *run, f *figures) (*figures, error) {
	fl := &filling{now: time.Now().UTC(), prefix: "m"}
	st := memory.New()
	before := heap()
	began := time.Now()
	if err := fl.fill(ctx, st, 0, r.Sessions, r.bar); err != nil {
		return nil, err
	}
	took := time.Since(began)
	each := float64(heap()-before) / float64(r.Sessions)
	data, shared := 0.0, 0
	for n := range 1000 {
		data += float64(dataBytes(fl.record(n))) / 1000
	}
	for _, key := range fillKeys {
		shared += len(key)
	}
	over := each - data + float64(shared) // the names of the keys are there once
	f.Rows = nil
	f.add("sessions made", "%d in %v", r.Sessions, took.Round(time.Second))
	f.add("heap for a session of eight values", "%.0f bytes", each)
	f.add("of these its data: ID, user, agent and values", "%.0f bytes", data-float64(shared))
	f.add("memory over its data", "%.0f bytes", over)
	loads := make([]time.Duration, 0, 100_000)
	rng := rand.New(rand.NewPCG(1, 2))
	for range cap(loads) {
		id := fl.id(rng.IntN(r.Sessions))
		t := time.Now()
		if _, err := st.Load(ctx, id); err != nil {
			return nil, err
		}
		loads = append(loads, time.Since(t))
	}
	f.add("load, p50 and p99", "%v, %v", quantile(loads, 0.5), quantile(loads, 0.99))
	runtime.KeepAlive(st)
	if over > 1024 {
		return f, fmt.Errorf("%.0f bytes over its data a session", over)
	}
	return f, nil
}

// heap returns what is in use after a collection.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
