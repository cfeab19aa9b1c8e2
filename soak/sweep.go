package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
	"github.com/crumb-go/crumb/store/sqlite"
)

const (
	sweepLive    = 20_000
	sweepClients = 8
	sweepPause   = 10 * time.Millisecond // of a client between two updates
)

// A swept store tells what is swept, how much in one go, and when nothing is left.
type swept struct {
	session.Store
	sweeper session.Sweeper

	mu          sync.Mutex // guards what follows
	total, most int
	batches     int
	busy        time.Duration
	through     bool
}

func (s *swept) Sweep(ctx context.Context, then time.Time, limit int) (int, error) {
	began := time.Now()
	n, err := s.sweeper.Sweep(ctx, then, limit)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total, s.most, s.busy = s.total+n, max(s.most, n), s.busy+time.Since(began)
	s.batches++
	s.through = s.through || err == nil && n < limit
	return n, err
}

func runSweep(ctx context.Context, r *run, f *figures) (*figures, error) {
	dir := filepath.Join(r.dir, "sweep")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return nil, err
	}
	f.Rows = nil
	mem := memory.New()
	err := sweepOne(ctx, r, f, "memory", mem, mem, 200*time.Millisecond)
	st, oerr := sqlite.Open(ctx, filepath.Join(dir, "crumb.db"), sqlite.Config{})
	if oerr != nil {
		return nil, oerr
	}
	defer st.Close()
	return f, errors.Join(err, sweepOne(ctx, r, f, "SQLite", st, st, 4*time.Second))
}

// sweepOne fills st with expired sessions and some live ones. Then the manager
// sweeps for a while, and rests for as long, by turns until all is swept or there
// were as many turns as were asked for, and updates of the live ones in the one half are compared with those in the other:
// a machine that has other work to do spoils both alike.
func sweepOne(ctx context.Context, r *run, f *figures, name string, st session.Store, sweeper session.Sweeper, turn time.Duration) error {
	now := time.Now().UTC()
	dead, live := &filling{now: now, expired: true, prefix: "d"}, &filling{now: now, prefix: "l"}
	if err := errors.Join(dead.fill(ctx, st, 0, r.Sessions, r.bar), live.fill(ctx, st, 0, sweepLive, r.bar)); err != nil {
		return err
	}
	sw := &swept{Store: st, sweeper: sweeper}
	m, err := session.NewManager(sw, session.Config{SweepInterval: 10 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		return err
	}
	tr := &traffic{store: st, fl: live, now: now}
	stop := tr.start(ctx)
	var with, without []time.Duration
	var with50, with99, without50, without99 []float64
	for !sw.isThrough() && len(with99) < r.Sweeps && ctx.Err() == nil {
		r.bar.at(sw.soFar(), r.Sessions, name+": swept")
		rest := tr.window(ctx, turn)
		sweeping, cancel := context.WithCancel(ctx)
		var run sync.WaitGroup
		run.Go(func() { _ = m.Run(sweeping) })
		busy := tr.window(ctx, turn)
		cancel()
		run.Wait()
		with, without = append(with, busy...), append(without, rest...)
		with50, with99 = append(with50, float64(quantile(busy, 0.5))), append(with99, float64(quantile(busy, 0.99)))
		without50, without99 = append(without50, float64(quantile(rest, 0.5))), append(without99, float64(quantile(rest, 0.99)))
	}
	// What the turns left goes without the manager's pauses, for the counts.
	var rest error
	for !sw.isThrough() && rest == nil {
		r.bar.at(sw.soFar(), r.Sessions, name+": swept")
		_, rest = sw.Sweep(ctx, now.Add(-time.Hour), 500)
	}
	if err := errors.Join(rest, stop(), ctx.Err()); err != nil {
		return err
	}
	for n := range sweepLive {
		if rec, err := st.Load(ctx, live.id(n)); err != nil || !rec.Live(now) {
			return fmt.Errorf("%s: the sweep took a session that lives: %w", name, err)
		}
	}
	ratio := median(with99) / median(without99)
	f.add(name+": expired sessions, swept of them, batches, largest", "%d, %d, %d, %d", r.Sessions, sw.total, sw.batches, sw.most)
	f.add(name+": the store was at it for", "%v", sw.busy.Round(10*time.Millisecond))
	f.add(fmt.Sprintf("%s: an update of a live session without a sweep, p50, p99 (medians of %d turns of %v), number", name, len(with99), turn),
		"%v, %v, %d", roundish(median(without50)), roundish(median(without99)), len(without))
	f.add(name+": with it", "%v, %v, %d", roundish(median(with50)), roundish(median(with99)), len(with))
	f.add(name+": p99 with it, as a multiple of without", "%.2f×", ratio)
	switch {
	case sw.total > r.Sessions || sw.total < r.Sessions-500*(len(with99)+1): // a turn's end may leave one batch uncounted
		return fmt.Errorf("%s: %d of %d were swept", name, sw.total, r.Sessions)
	case sw.most > 1000:
		return fmt.Errorf("%s: a batch of %d", name, sw.most)
	case ratio > 2:
		return fmt.Errorf("%s: p99 is %.2f times what it is without a sweep", name, ratio)
	}
	return nil
}

func (s *swept) isThrough() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.through
}

func (s *swept) soFar() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}

// Traffic updates live sessions.
type traffic struct {
	store session.Store
	fl    *filling
	now   time.Time

	mu   sync.Mutex // guards took
	took []time.Duration
}

func (t *traffic) start(ctx context.Context) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	errs := make([]error, sweepClients)
	var all sync.WaitGroup
	for i := range sweepClients {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 3))
			pace := time.NewTicker(sweepPause)
			defer pace.Stop()
			for errs[i] == nil {
				select {
				case <-pace.C:
				case <-ctx.Done():
					return
				}
				rec := t.fl.record(rng.IntN(sweepLive))
				began := time.Now()
				if _, err := t.store.Update(ctx, rec, addOne(rec, t.now)); err != nil && ctx.Err() == nil {
					errs[i] = err
				}
				t.mu.Lock()
				t.took = append(t.took, time.Since(began))
				t.mu.Unlock()
			}
		})
	}
	return func() error {
		cancel()
		all.Wait()
		return errors.Join(errs...)
	}
}

// take returns what updates took since it was last called.
func (t *traffic) take() []time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	took := t.took
	t.took = nil
	return took
}

// window lets traffic go on for d and returns what updates took in it.
func (t *traffic) window(ctx context.Context, d time.Duration) []time.Duration {
	t.take()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return t.take()
}
