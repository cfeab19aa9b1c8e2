package ops

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/crumb-go/crumb/session"
)

// The methods of a store, and what came of a call.
const (
	createCall = iota
	loadCall
	updateCall
	deleteCall
	listCall
	touchCall
	sweepCall
	checkCall
	callCount
)

var callNames = [callCount]string{"create", "load", "update", "delete", "list", "touch", "sweep", "check"}

var results = [...]struct {
	name string
	err  error // that the call's error is or wraps; nil in the last, which is any other
}{
	{"ok", nil},
	{"not_found", session.ErrNotFound},
	{"exists", session.ErrExists},
	{"conflict", session.ErrConflict},
	{"stale", session.ErrStale},
	{"unknown", session.ErrUnknown},
	{"error", nil},
}

func resultOf(err error) int {
	last := len(results) - 1
	if err == nil {
		return 0
	}
	for i := 1; i < last; i++ {
		if errors.Is(err, results[i].err) {
			return i
		}
	}
	return last
}

// latencyBounds are those of the buckets of the time that calls take.
var latencyBounds = [...]time.Duration{
	10 * time.Microsecond, 25 * time.Microsecond, 50 * time.Microsecond,
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second,
}

// A calls counts those of one method.
type calls struct {
	results [len(results)]atomic.Int64
	buckets [len(latencyBounds) + 1]atomic.Int64
	nanos   atomic.Int64
	_       [64]byte // so that methods do not slow each other down
}

// clock is half the price of time.Now, which asks for the time of day too.
func clock() time.Duration { return time.Since(began) }

var began = time.Now()

// end notes a call that began at start and ended with err.
func (c *calls) end(start time.Duration, err error) {
	took := clock() - start
	i := 0
	for i < len(latencyBounds) && took > latencyBounds[i] {
		i++
	}
	c.results[resultOf(err)].Add(1)
	c.buckets[i].Add(1)
	c.nanos.Add(int64(took))
}

// counted is a store whose calls are counted. Its methods beyond those of
// [session.Store] are for stores that have them: see [Metrics.Store].
type counted struct {
	session.Store
	calls *[callCount]calls
}

func (s *counted) Create(ctx context.Context, rec *session.Record) error {
	start := clock()
	err := s.Store.Create(ctx, rec)
	s.calls[createCall].end(start, err)
	return err
}

func (s *counted) Load(ctx context.Context, id session.ID) (*session.Record, error) {
	start := clock()
	rec, err := s.Store.Load(ctx, id)
	s.calls[loadCall].end(start, err)
	return rec, err
}

func (s *counted) Update(ctx context.Context, base *session.Record, c *session.Change) (*session.Record, error) {
	start := clock()
	rec, err := s.Store.Update(ctx, base, c)
	s.calls[updateCall].end(start, err)
	return rec, err
}

func (s *counted) Delete(ctx context.Context, id session.ID) error {
	start := clock()
	err := s.Store.Delete(ctx, id)
	s.calls[deleteCall].end(start, err)
	return err
}

func (s *counted) List(ctx context.Context, q session.Query) ([]session.Info, error) {
	lister, ok := s.Store.(session.Lister)
	if !ok {
		return nil, fmt.Errorf("the store cannot list: %w", errors.ErrUnsupported)
	}
	start := clock()
	page, err := lister.List(ctx, q)
	s.calls[listCall].end(start, err)
	return page, err
}

func (s *counted) Touch(ctx context.Context, touches []session.Touch) error {
	start := clock()
	err := s.Store.(session.Toucher).Touch(ctx, touches)
	s.calls[touchCall].end(start, err)
	return err
}

func (s *counted) Sweep(ctx context.Context, then time.Time, limit int) (int, error) {
	sweeper, ok := s.Store.(session.Sweeper)
	if !ok {
		return 0, nil
	}
	start := clock()
	n, err := sweeper.Sweep(ctx, then, limit)
	s.calls[sweepCall].end(start, err)
	return n, err
}

func (s *counted) Check(ctx context.Context, now time.Time, ids []session.ID) (map[session.ID]int64, error) {
	start := clock()
	live, err := s.Store.(session.Checker).Check(ctx, now, ids)
	s.calls[checkCall].end(start, err)
	return live, err
}

// Store returns store with its calls counted. It is a [session.Toucher] and a
// [session.Checker] exactly if store is: the manager has its own ways for one that
// is not. A store that is no [session.Lister] or [session.Sweeper] answers as the
// manager would for it.
func (m *Metrics) Store(store session.Store) session.Store {
	type both struct {
		session.Store
		session.Lister
		session.Sweeper
	}
	c := &counted{store, &m.calls}
	_, touches := store.(session.Toucher)
	_, checks := store.(session.Checker)
	switch {
	case touches && checks:
		return c
	case touches:
		return struct {
			both
			session.Toucher
		}{both{c, c, c}, c}
	case checks:
		return struct {
			both
			session.Checker
		}{both{c, c, c}, c}
	}
	return both{c, c, c}
}
