package session

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Manager connects a [Store] to HTTP. It is safe for use by several
// goroutines.
type Manager struct {
	cfg    Config
	cookie cookie

	store   Store
	lister  Lister // nil where the store is none, as below
	toucher Toucher
	sweeper Sweeper
	checker Checker

	timeout timeout
	claims  claims
	touches touches
	streams streams
	seals   atomic.Pointer[Seals] // nil without first-visit cookies

	mu  sync.Mutex
	bad map[string]bool // keys whose values could not be decoded; guarded by mu
}

// NewManager checks cfg against what browsers and the store can do, and returns
// an error that says what to change. It starts nothing.
func NewManager(store Store, cfg Config) (*Manager, error) {
	if store == nil {
		return nil, errors.New("session: NewManager needs a store, such as memory.New()")
	}
	cfg, err := cfg.WithDefaults()
	if err != nil {
		return nil, err
	}
	m := &Manager{cfg: cfg, cookie: newCookie(&cfg), store: store, bad: map[string]bool{}}
	m.lister, _ = store.(Lister)
	m.toucher, _ = store.(Toucher)
	m.sweeper, _ = store.(Sweeper)
	m.checker, _ = store.(Checker)
	m.timeout.after = cfg.StoreTimeout
	m.streams.m = m
	return m, nil
}

// now is the clock in the form that records hold.
func (m *Manager) now() time.Time { return m.cfg.Now().UTC().Truncate(time.Microsecond) }

// Run sweeps expired sessions and writes seen-times in batches until ctx is
// done, then flushes and returns nil. Without it everything is as correct:
// seen-times are written by the requests themselves, and expired records are
// never served but stay in the store. A second Run at once is an error.
func (m *Manager) Run(ctx context.Context) error {
	if !m.touches.start() {
		return errors.New("session: Run is running already")
	}
	flush := time.NewTicker(flushInterval)
	defer flush.Stop()
	sweep := time.NewTicker(m.cfg.SweepInterval)
	defer sweep.Stop()
	var sweeping sync.WaitGroup
	defer sweeping.Wait()
	busy := make(chan struct{}, 1) // a long sweep never holds up the seen-times
	for {
		select {
		case <-ctx.Done():
			m.flush(ctx, true)
			return nil
		case <-flush.C:
			m.flush(ctx, false)
		case <-sweep.C:
			if m.sweeper == nil {
				continue
			}
			select {
			case busy <- struct{}{}:
				sweeping.Go(func() {
					m.sweep(ctx)
					<-busy
				})
			default:
			}
		}
	}
}

// List yields sessions that have not expired, newest first. It holds nothing
// open between two of them, so the loop may revoke. It yields
// [errors.ErrUnsupported] if the store is no [Lister].
func (m *Manager) List(ctx context.Context, q Query) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		q.Now = m.now()
		m.listAt(ctx, q)(yield)
	}
}

func (m *Manager) listAt(ctx context.Context, q Query) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if q.Limit <= 0 {
			q.Limit = 100
		}
		for {
			page, err := m.page(ctx, q)
			if err != nil {
				yield(Info{}, fmt.Errorf("session: list: %w", err))
				return
			}
			for _, in := range page {
				if !yield(in, nil) {
					return
				}
			}
			if len(page) < q.Limit {
				return
			}
			last := page[len(page)-1]
			q.After = &last
		}
	}
}

func (m *Manager) page(ctx context.Context, q Query) ([]Info, error) {
	if m.lister == nil {
		return nil, fmt.Errorf("the store cannot list: %w", errors.ErrUnsupported)
	}
	if err := q.Check(); err != nil {
		return nil, err
	}
	call := m.callFor(&callContext{}, ctx, false)
	defer call.done()
	return m.lister.List(call, q)
}

// Info returns one session, or [ErrNotFound] if there is none or it ended or
// expired. Compare its User before you show or revoke it for somebody.
func (m *Manager) Info(ctx context.Context, id ID) (Info, error) {
	call := m.callFor(&callContext{}, ctx, false)
	defer call.done()
	rec, err := m.load(call, id)
	if err != nil {
		return Info{}, fmt.Errorf("session: info: %w", err)
	}
	if !rec.Live(m.now()) {
		return Info{}, fmt.Errorf("session: info: %w", ErrNotFound)
	}
	return rec.Info, nil
}

// Revoke ends one session. When it returns, no request that begins later is
// served with it, on any process. An absent one is fine.
func (m *Manager) Revoke(ctx context.Context, id ID) error {
	call := m.callFor(&callContext{}, ctx, false)
	defer call.done()
	rec, err := m.load(call, id)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("session: revoke %s: %w", id, err)
	}
	_, err = m.endAll(ctx, []Info{rec.Info})
	return err
}

// RevokeUser ends all sessions of user but those in except, and returns how
// many. An empty user is an error.
func (m *Manager) RevokeUser(ctx context.Context, user string, except ...ID) (int, error) {
	if user == "" {
		return 0, errors.New("session: RevokeUser needs a user; RevokeAll ends everybody's sessions")
	}
	total := 0
	for {
		// A sign-in may have come while the pages were read: go round until none has.
		n, err := m.revokeThose(ctx, Query{User: user}, except)
		total += n
		if err != nil || n == 0 {
			return total, err
		}
	}
}

// RevokeAll ends every session that existed when it was called, and returns how
// many. If it is interrupted call it again.
func (m *Manager) RevokeAll(ctx context.Context) (int, error) {
	return m.revokeThose(ctx, Query{All: true}, nil)
}

// revokeAtOnce is how many sessions are ended at a time: a store that commits many
// changes together needs many to come at once.
const revokeAtOnce = 64

// revokeThose ends the sessions of q and returns how many it ended.
func (m *Manager) revokeThose(ctx context.Context, q Query, except []ID) (n int, err error) {
	q.Limit = 1000
	// What expired by this clock may live by that of another process.
	q.Now = m.now().Add(-keepExpired)
	batch := make([]Info, 0, revokeAtOnce)
	flush := func() error {
		ended, err := m.endAll(ctx, batch)
		n += ended
		batch = batch[:0]
		return err
	}
	for in, err := range m.listAt(ctx, q) {
		if err != nil {
			return n, errors.Join(err, flush())
		}
		if slices.Contains(except, in.ID) {
			continue
		}
		if batch = append(batch, in); len(batch) == cap(batch) {
			if err := flush(); err != nil {
				return n, err
			}
		}
	}
	return n, flush()
}

// endAll ends sessions at once and returns how many had lived until then.
func (m *Manager) endAll(ctx context.Context, list []Info) (n int, err error) {
	call := m.callFor(&callContext{}, ctx, false)
	defer call.done()
	now := m.now()
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i, in := range list {
		wg.Go(func() { errs[i] = m.end(call, &Record{Info: in}, now) })
	}
	wg.Wait()
	for i, in := range list {
		switch {
		case errs[i] == nil && now.Before(in.Expires):
			n++
			m.emit(ctx, Event{Kind: EventEnded, Info: in, Reason: "revoked"})
		case errs[i] != nil && !errors.Is(errs[i], ErrNotFound) && err == nil:
			err = fmt.Errorf("session: revoke %s: %w", in.ID, errs[i])
		}
	}
	return n, err
}

// emit tells the operator. Never call it with a lock held: OnEvent is the app's.
func (m *Manager) emit(ctx context.Context, events ...Event) {
	for _, e := range events {
		level, msg := slog.LevelDebug, ""
		switch {
		case e.Kind == EventReused:
			level, msg = slog.LevelWarn, "session: an old token came back; it may have been stolen"
		case e.Kind == EventLate:
			level, msg = slog.LevelInfo, "session: a change came too late and was refused"
		case e.Kind == EventRejected && e.Reason == "ambiguous":
			level, msg = slog.LevelWarn, "session: two session cookies with different values came at once; neither counts"
		}
		if msg != "" {
			m.cfg.Logger.Log(ctx, level, msg, "id", e.Info.ID, "user", e.Info.User, "addr", e.Info.Addr, "err", e.Err)
		}
		m.cfg.OnEvent(ctx, e)
	}
}

// maxBadKeys bounds the memory of undecodable: names may hold a part from outside.
const maxBadKeys = 1000

// undecodable logs, once a key, that its value is taken for absent.
func (m *Manager) undecodable(ctx context.Context, key string, err error) {
	m.mu.Lock()
	known := m.bad[key] || len(m.bad) >= maxBadKeys
	if !known {
		m.bad[key] = true
	}
	m.mu.Unlock()
	if !known {
		m.cfg.Logger.WarnContext(ctx, "session: a value cannot be decoded and counts as absent; a key whose type changed needs a new name", "key", key, "err", err)
	}
}
