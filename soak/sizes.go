package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
	"github.com/crumb-go/crumb/store/sqlite"
)

// Every database has so many turns, with so many calls in each. They are short, so
// that a moment in which the machine is busy hits all sizes alike.
const (
	sizesTurns   = 900
	sizesLoads   = 20
	sizesUpdates = 5
	sizesLists   = 2
)

// A sized is a database of so many sessions and what was measured with it.
type sized struct {
	n     int
	path  string
	store *sqlite.Store
	other *sqlite.Store // on the same file, as another process would have it

	loads, between, updates, lists []time.Duration
	each                           float64 // bytes on disk
	filled                         time.Duration
}

func runSizes(ctx context.Context, r *run, f *figures) (*figures, error) {
	fl := &filling{now: time.Now().UTC(), prefix: "s"}
	dir := filepath.Join(r.dir, "sizes")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return nil, err
	}
	var all []*sized
	for n := 1000; n <= r.Sessions; n *= 10 {
		s := &sized{n: n, path: filepath.Join(dir, fmt.Sprintf("%d.db", n))}
		if err := s.make(ctx, fl, r.bar); err != nil {
			return nil, err
		}
		all = append(all, s)
		defer func() { s.store.Close(); s.other.Close() }()
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for turn := range sizesTurns {
		for _, s := range all {
			r.bar.at(turn, sizesTurns, "turns")
			if err := s.measure(ctx, fl, rng); err != nil {
				return nil, err
			}
		}
	}
	return f, reportSizes(f, fl, all)
}

// make fills a database, closes it to see its size, and opens it again.
func (s *sized) make(ctx context.Context, fl *filling, b *bar) error {
	st, err := sqlite.Open(ctx, s.path, sqlite.Config{})
	if err != nil {
		return err
	}
	began := time.Now()
	if err := errors.Join(fl.fill(ctx, st, 0, s.n, b), st.Close()); err != nil {
		return err
	}
	s.filled = time.Since(began)
	s.each = float64(fileSize(s.path)) / float64(s.n)
	if s.store, err = sqlite.Open(ctx, s.path, sqlite.Config{}); err != nil {
		return err
	}
	s.other, err = sqlite.Open(ctx, s.path, sqlite.Config{})
	return err
}

// measure makes one turn: loads of sessions at random, one after the other; loads
// and updates by turns; and lists of one user's sessions. A load between updates
// is what an app does: after each commit SQLite reads pages anew that it had kept.
// Another process commits before each turn, so that the sessions are read in the
// file: a store keeps the last ten thousand or so in memory while it is alone.
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
		// A writer that has met another leaves it the lock for a moment after each
		// commit. These loads outlast that.
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

func reportSizes(f *figures, fl *filling, all []*sized) error {
	f.Rows = nil
	last := all[len(all)-1]
	f.add(fmt.Sprintf("to make %d sessions with 128 clients", last.n), "%v, %.0f/s", last.filled.Round(time.Second), float64(last.n)/last.filled.Seconds())
	f.add("data of a session: ID, user, agent, keys and values", "%d bytes", dataBytes(fl.record(0)))
	for _, s := range all {
		f.add(fmt.Sprintf("%d sessions: on disk, each", s.n), "%.0f bytes", s.each)
	}
	var errs []error
	for _, m := range []struct {
		name string
		of   func(s *sized) []time.Duration
		must bool
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
			if m.must && ratio > 2 {
				errs = append(errs, fmt.Errorf("with %d sessions a %s takes %.2f times as long as with %d", s.n, m.name, ratio, all[0].n))
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
