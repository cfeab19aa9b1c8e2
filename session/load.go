package session

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// lateFor is how long after a session's end, or a sign-in on it, a request that
// comes with its former token is taken for one that was under way. The answer of
// such a request sets no cookie: the browser may hold a newer one by now.
const lateFor = time.Minute

// open finds the session of r. An error means that the store could not tell; then
// nothing is known about the visitor, and the cookie must stay.
func (s *Session) open() error {
	m, r := s.m, s.r
	value, found, ambiguous := m.cookie.find(r.Header)
	switch {
	case !found:
		return nil
	case ambiguous:
		m.reject(r, "", "ambiguous")
		return nil
	}
	id, secret, ok := parseToken(value)
	if !ok {
		m.reject(r, "", "malformed")
		return nil
	}
	// Who left already is not asked for. Later a load goes on, as a commit does: many
	// drivers throw a connection away whose query is cancelled.
	var rec *Record
	err := s.ctx.Err()
	if err == nil {
		ctx := s.callToLoad(&s.call)
		defer ctx.done()
		rec, err = m.load(ctx, id)
	}
	switch {
	case errors.Is(err, ErrNotFound):
		m.reject(r, id, "unknown")
		return nil
	case err != nil:
		s.err = fmt.Errorf("session: load: %w", err)
		return s.err
	}
	s.judge(rec, secret, m.now())
	return nil
}

// judge decides what the token opens.
//
// While a session is late no secret is looked at: a request may be under way with
// any of those it had, not just the last two that the record still knows.
func (s *Session) judge(rec *Record, secret Hash, now time.Time) {
	m, r := s.m, s.r
	s.due = now.Sub(rec.Seen) >= m.cfg.TouchInterval
	current := rec.Secret.equal(&secret)
	former := !current && rec.OldSecret != Hash{} && rec.OldSecret.equal(&secret)
	switch {
	case rec.Ended() && now.Before(rec.Absolute.Add(lateFor)):
		s.late, s.err, s.was = true, ErrEnded, rec
	case rec.Ended():
		m.reject(r, rec.ID, "ended")
	case !rec.Live(now):
		m.reject(r, rec.ID, "expired")
	case current:
		s.rec, s.secret = rec, &rec.Secret
		s.raise = rec.User == "" && rec.Idle < m.cfg.VisitorIdleTimeout
		s.came = now.Add(m.cfg.RenewGrace).Before(rec.OldUntil)
	case former && now.Before(rec.OldUntil):
		s.rec, s.secret = rec, &rec.OldSecret
		s.raise = rec.User == "" && rec.Idle < m.cfg.VisitorIdleTimeout
	case !rec.SignedIn.IsZero() && now.Before(rec.SignedIn.Add(lateFor)):
		s.late, s.err, s.was = true, ErrStale, rec
	case former:
		m.emit(s.ctx, Event{Kind: EventReused, Info: rec.Info})
	default:
		m.reject(r, rec.ID, "unknown")
	}
}

func (m *Manager) reject(r *http.Request, id ID, reason string) {
	m.emit(r.Context(), Event{Kind: EventRejected, Info: Info{ID: id, Addr: m.addr(r)}, Reason: reason})
}

// callFor prepares the context of a step. It is own unless that became a real one
// in an earlier step: then contexts derived from it may still be about.
func (m *Manager) callFor(own *callContext, parent context.Context, detached bool) *callContext {
	if own.real() != nil {
		own = &callContext{}
	}
	*own = callContext{parent: parent, limit: &m.timeout, detached: detached}
	return own
}

// callToLoad is callFor what is read for the request: until the time-out, though the
// client leaves, or until the deadline that somebody gave the request.
func (s *Session) callToLoad(own *callContext) *callContext {
	_, bounded := s.ctx.Deadline()
	return s.m.callFor(own, s.ctx, !bounded)
}

// load repeats an unknown outcome: reading twice is reading once.
func (m *Manager) load(ctx *callContext, id ID) (*Record, error) {
	for try := 0; ; try++ {
		rec, err := m.store.Load(ctx, id)
		if errors.Is(err, ErrUnknown) && wait(ctx, try) {
			continue
		}
		if err == nil && rec.ID != id {
			// A driver that hands one caller another's answer (redis-py, 2023) must
			// not hand one visitor another's session.
			return nil, fmt.Errorf("the store answered with session %q when asked for %q", rec.ID, id)
		}
		return rec, err
	}
}

// create repeats an unknown outcome: if the ID is taken then, it is by us if the
// secret is ours.
func (m *Manager) create(ctx *callContext, rec *Record) error {
	for try := 0; ; try++ {
		err := m.store.Create(ctx, rec)
		switch {
		case errors.Is(err, ErrUnknown) && wait(ctx, try):
			continue
		case errors.Is(err, ErrExists) && try > 0:
			got, lerr := m.load(ctx, rec.ID)
			switch {
			case lerr == nil && got.Secret.equal(&rec.Secret):
				return nil
			case lerr != nil && !errors.Is(lerr, ErrNotFound):
				return cannotTell(lerr)
			}
		}
		return err
	}
}

// cannotTell is the error of a call that was repeated, if err kept the manager
// from learning whether the first time took effect.
func cannotTell(err error) error {
	if errors.Is(err, ErrUnknown) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}

// update repeats an unknown outcome if doing c twice is the same as once.
func (m *Manager) update(ctx *callContext, base *Record, c *Change) (*Record, error) {
	for try := 0; ; try++ {
		rec, err := m.store.Update(ctx, base, c)
		if errors.Is(err, ErrUnknown) && c.repeatable() && wait(ctx, try) {
			continue
		}
		return rec, err
	}
}

func (c *Change) repeatable() bool {
	for i := range c.Ops {
		if c.Ops[i].If != Always || c.Ops[i].Kind == OpAdd {
			return false
		}
	}
	return true
}

// signIn repeats an unknown outcome whatever c holds: it moves Auth, so that it
// can be applied once at most. If it was, the secret is ours.
func (m *Manager) signIn(ctx *callContext, base *Record, c *Change) (*Record, error) {
	for try := 0; ; try++ {
		rec, err := m.store.Update(ctx, base, c)
		switch {
		case errors.Is(err, ErrUnknown) && wait(ctx, try):
			continue
		case errors.Is(err, ErrStale) && try > 0:
			got, lerr := m.load(ctx, base.ID)
			switch {
			case lerr == nil && got.Secret.equal(&c.Renew.To) && !got.Ended():
				return got, nil
			case lerr != nil && !errors.Is(lerr, ErrNotFound):
				return nil, cannotTell(lerr)
			}
		}
		return rec, err
	}
}

// end ends the session of rec. ErrNotFound says that it had ended before. After
// an unknown outcome the end is ours if it bears our time.
func (m *Manager) end(ctx *callContext, rec *Record, now time.Time) error {
	for try := 0; ; try++ {
		_, err := m.store.Update(ctx, rec, &Change{Now: now, End: true})
		switch {
		case errors.Is(err, ErrUnknown) && wait(ctx, try):
			continue
		case errors.Is(err, ErrNotFound) && try > 0:
			got, lerr := m.load(ctx, rec.ID)
			if lerr != nil && !errors.Is(lerr, ErrNotFound) {
				return cannotTell(lerr)
			}
			if lerr == nil && got.Ended() && (got.Absolute.Equal(now) || got.Absolute.Equal(got.Seen) && got.Seen.After(now)) {
				err = nil
			}
		case err != nil && try > 0:
			return cannotTell(err)
		}
		if err == nil || errors.Is(err, ErrNotFound) {
			m.streams.ended(rec.ID)
		}
		return err
	}
}

// touch writes seen-times. Doing it twice is the same as once.
func (m *Manager) touch(ctx *callContext, touches []Touch) error {
	if m.toucher != nil {
		return m.toucher.Touch(ctx, touches)
	}
	for _, t := range touches {
		rec, err := m.load(ctx, t.ID)
		if err == nil {
			if _, ok := t.Apply(rec); ok {
				_, err = m.update(ctx, rec, &Change{Now: t.Seen, Auth: rec.Auth, Seen: t.Seen})
			}
		}
		if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrStale) {
			return err
		}
	}
	return nil
}

// wait pauses before an unknown outcome is tried again and reports whether it is
// to be: three tries in all, and none beyond ctx.
func wait(ctx *callContext, try int) bool {
	pauses := [...]time.Duration{5 * time.Millisecond, 50 * time.Millisecond}
	ctx.again.Store(true)
	if try >= len(pauses) || ctx.Err() != nil {
		return false
	}
	timer := time.NewTimer(pauses[try])
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
