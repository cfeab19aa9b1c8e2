package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// All calls of the store that a request makes are in this file and in load.go.

// send commits what is pending, with op, for a handler that waits for it. After
// an error nothing stays pending: the handler was told. A conflict is no error
// yet, exchange tries again.
func (s *Session) send(ctx context.Context, op *Op) error {
	events, err := s.sendLocked(ctx, op)
	s.m.emit(ctx, events...)
	return err
}

func (s *Session) sendLocked(ctx context.Context, op *Op) ([]Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock() // also if the store panics: the request must not hang
	s.used = true
	if s.over {
		return nil, ErrAnswered
	}
	p := s.pend()
	err := s.commit(ctx, false, op)
	if err == nil && op == nil && p.idle {
		err = s.refresh(ctx)
	}
	events := p.events
	p.events = nil
	if !errors.Is(err, ErrConflict) {
		s.settled(err)
	}
	return events, err
}

func (s *Session) discard(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settled(err)
}

// A settlement is what the first byte of a response needs to know.
type settlement struct {
	cookie string // the Set-Cookie line to send, if any
	seal   bool   // it is that of a first visit
	used   bool   // the response depends on the session
	events []Event
	err    error
}

// settle commits before the first byte of the response.
func (s *Session) settle() (out settlement) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seal := s.seal()
	out.events, out.err = s.commitRest()
	switch {
	case out.err != nil:
	case s.rec != nil:
		s.seen()
	case seal != "" && !s.late && s.cookie == "":
		s.cookie, out.seal = seal, true
	}
	s.started = true
	out.cookie, out.used = s.cookie, s.used
	return out
}

// seal returns the cookie of a first visit that waits, or "".
func (s *Session) seal() string {
	if s.p == nil {
		return ""
	}
	return s.p.seal
}

// finish commits what changed after the first byte and ends the request. Nobody
// is left to tell but the log.
func (s *Session) finish() {
	id, events, err := s.finishLocked()
	if err != nil {
		s.m.cfg.Logger.ErrorContext(s.ctx, "session: a change made after the first byte of the response is lost", "id", id, "err", err)
	}
	s.m.emit(s.ctx, events...)
}

func (s *Session) finishLocked() (id ID, events []Event, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id = s.id()
	events, err = s.commitRest()
	s.over = true
	return id, events, err
}

// commitRest commits what is pending without being asked to. That a session ended
// or somebody signed in meanwhile is no error: the response goes out, without a
// cookie.
func (s *Session) commitRest() (events []Event, err error) {
	p := s.p
	if p == nil {
		return nil, nil
	}
	if err = s.commit(s.ctx, true, nil); s.late && err == s.err {
		err = nil
	}
	events = p.events
	s.settled(err)
	return events, err
}

// abandon ends the request of a handler that panicked. Nothing pending is kept.
func (s *Session) abandon() (cookie string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over, s.p = true, nil
	if s.started {
		return ""
	}
	return s.cookie
}

// commit sends what is pending, with op, to the store: first the end of a
// session, then one Create or one Update. The lock is held throughout, so that
// of several goroutines of one request each sees the others' changes whole.
func (s *Session) commit(parent context.Context, detached bool, op *Op) error {
	p := s.p
	ops := p.ops
	if op != nil {
		ops = append(slices.Clip(ops), *op)
	}
	if detached && !p.changed && p.user == "" && !p.renew {
		ops = nil // values as they were: nothing to write, unless it is asked for
	}
	p.keep = p.keep && s.rec == nil
	changes := len(ops) > 0 || p.user != "" || p.renew || p.end != nil || p.keep
	switch {
	case p.bad != nil:
		return p.bad
	case s.err != nil && !s.late: // Optional let the request pass
		if changes || p.blind || !detached {
			return s.err
		}
		return nil
	case !changes:
		p.idle = true
		return s.lateError()
	}
	if limit := s.m.cfg.MaxBytes; p.size > limit {
		if size := s.exactSize(); size > limit && size > s.recordSize() {
			return tooBig(p.ops[len(p.ops)-1].Key, limit)
		}
	}
	var lost error
	if s.started {
		lost = s.loseToken(&ops, op != nil)
		if lost != nil && p.end == nil && len(ops) == 0 {
			return lost
		}
	}
	ctx := s.m.callFor(&s.call, parent, detached)
	defer s.called(ctx)
	now := s.m.now()
	if p.end != nil {
		if err := s.end(ctx, now); err != nil {
			return err
		}
	}
	var err error
	switch {
	case p.user != "":
		err = s.signIn(ctx, now, ops)
	case s.late:
		if len(ops) > 0 || p.renew {
			p.events = append(p.events, Event{Kind: EventLate, Info: s.was.Info, Err: s.err})
		}
		err = s.err
	case s.rec == nil:
		err = s.create(ctx, now, ops, nil)
	case len(ops) > 0 || p.renew:
		err = s.update(ctx, now, ops)
	}
	if err == nil {
		err = lost
	}
	return err
}

func (s *Session) lateError() error {
	if s.late {
		return s.err
	}
	return nil
}

// loseToken takes out of what is pending that which would need a cookie, because
// the response has begun: a sign-in with all that came with it, the first values
// of a new session, a renewal. It returns ErrAnswered, but not for a renewal
// beside the one change that an Update or Take is about: that is made, and must
// not be reported as lost.
func (s *Session) loseToken(ops *[]Op, one bool) error {
	p := s.p
	switch {
	case p.user != "":
		if p.end != nil && p.reason == "replaced" {
			s.rec, p.end = p.end, nil
		}
		p.user, p.renew, *ops = "", false, nil
		return ErrAnswered
	case s.rec == nil && !s.late && (len(*ops) > 0 || p.keep):
		p.renew, p.keep, *ops = false, false, nil
		return ErrAnswered
	case p.renew:
		p.renew = false
		if !one {
			return ErrAnswered
		}
		s.m.cfg.Logger.WarnContext(s.ctx, "session: a renewal after the first byte of the response is dropped", "id", s.id())
	}
	return nil
}

// end ends the session that a sign-out, or a sign-in as somebody else, leaves. One
// that had ended already makes the request late: the browser may hold a newer
// cookie by now, so this answer must not clear it.
func (s *Session) end(ctx *callContext, now time.Time) error {
	p := s.p
	rec, reason := p.end, p.reason
	switch err := s.m.end(ctx, rec, now); {
	case err == nil:
		p.end = nil
		p.events = append(p.events, Event{Kind: EventEnded, Info: rec.Info, Reason: reason})
		s.late, s.err = false, nil
		s.cookie = s.m.cookie.clear()
	case errors.Is(err, ErrNotFound):
		p.end = nil
		s.late, s.err, s.was, s.cookie = true, ErrEnded, rec, ""
	default:
		return fmt.Errorf("session: sign out: %w", err)
	}
	return nil
}

// signIn makes the pending user the user of the session, or, if that ended or
// somebody signed in meanwhile, of a new one.
func (s *Session) signIn(ctx *callContext, now time.Time, ops []Op) error {
	p := s.p
	// From now, not from the call of SignIn: requests with the former token are
	// late for a minute after it is replaced.
	in := &SignIn{User: p.user, At: now, Remember: p.remember, Keep: s.m.cfg.KeepOnSignIn}
	if s.rec != nil {
		in.Remember = in.Remember || s.rec.Remember && s.rec.User == p.user
	}
	in.Idle, in.Absolute = s.m.cfg.IdleTimeout, now.Add(s.m.cfg.Lifetime)
	if in.Remember {
		in.Idle, in.Absolute = s.m.cfg.RememberIdleTimeout, now.Add(s.m.cfg.RememberLifetime)
	}
	if s.rec == nil {
		return s.create(ctx, now, ops, in)
	}
	c := s.change(now, ops)
	c.Idle, c.Came = 0, nil
	c.SignIn, c.Renew = in, &Renew{From: *s.secret, OldUntil: now}
	var token string
	token, c.Renew.To = renewToken(s.rec.ID)
	rec, err := s.m.signIn(ctx, s.rec, c)
	switch {
	case err == nil:
		s.adopt(rec, &c.Renew.To, token, now)
		p.events = append(p.events, Event{Kind: EventSignedIn, Info: rec.Info})
		return nil
	case errors.Is(err, ErrConflict):
		s.rec = rec
		return err
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrStale):
		s.rec = nil
		return s.create(ctx, now, ops, in)
	}
	return fmt.Errorf("session: sign in: %w", err)
}

// create stores a new session, if there is anything to store.
func (s *Session) create(ctx *callContext, now time.Time, ops []Op, in *SignIn) error {
	p := s.p
	c := Change{Ops: ops, MaxBytes: s.m.cfg.MaxBytes}
	values, err := c.applyValues(&Record{})
	if err != nil || in == nil && len(values) == 0 && !p.keep {
		return err
	}
	token, id, secret := newToken()
	rec := &Record{
		Info:   Info{ID: id, Created: now, Seen: now, Addr: s.m.addr(s.r), Agent: agent(s.r)},
		Secret: secret, Values: values,
		Idle: s.m.cfg.FirstVisit, Absolute: now.Add(s.m.cfg.VisitorLifetime),
	}
	if in != nil {
		rec.User, rec.SignedIn, rec.Remember = in.User, in.At, in.Remember
		rec.Idle, rec.Absolute = in.Idle, in.Absolute
	}
	rec.limit()
	if err := s.m.create(ctx, rec); err != nil {
		return fmt.Errorf("session: create: %w", err)
	}
	s.adopt(rec, &rec.Secret, token, now)
	p.events = append(p.events, Event{Kind: EventCreated, Info: rec.Info})
	if in != nil {
		p.events = append(p.events, Event{Kind: EventSignedIn, Info: rec.Info})
	}
	return nil
}

// update sends ops, and a renewal if one is pending, to the stored session.
func (s *Session) update(ctx *callContext, now time.Time, ops []Op) error {
	p := s.p
	// A former token cannot renew, and while the one before still works nobody can.
	renew := p.renew && s.secret.equal(&s.rec.Secret) && !now.Before(s.rec.OldUntil)
	if !renew && len(ops) == 0 {
		p.idle = true
		return nil
	}
	c := s.change(now, ops)
	var token string
	if renew {
		c.Renew = &Renew{From: *s.secret, OldUntil: s.rec.Absolute}
		token, c.Renew.To = renewToken(s.rec.ID)
	}
	rec, err := s.m.update(ctx, s.rec, c)
	switch {
	case err == nil:
		if renew && rec.Secret.equal(&c.Renew.To) {
			s.adopt(rec, &c.Renew.To, token, now)
			p.events = append(p.events, Event{Kind: EventRenewed, Info: rec.Info})
		}
		s.rec, s.raise, s.came = rec, false, false
		return nil
	case errors.Is(err, ErrConflict):
		s.rec = rec
		return err
	case errors.Is(err, ErrNotFound):
		return s.fallLate(ErrEnded)
	case errors.Is(err, ErrStale):
		return s.fallLate(ErrStale)
	}
	return fmt.Errorf("session: commit: %w", err)
}

// called ends the calls of the store that were made with ctx.
func (s *Session) called(ctx *callContext) {
	ctx.done()
	s.p.again = s.p.again || ctx.again.Load()
}

// change returns the Change that carries ops and what the store should learn on
// the occasion.
func (s *Session) change(now time.Time, ops []Op) *Change {
	rec, m := s.rec, s.m
	c := &s.p.change
	*c = Change{Now: now, Auth: rec.Auth, Ops: ops, Seen: now, MaxBytes: m.cfg.MaxBytes}
	if s.raise {
		c.Idle = m.cfg.VisitorIdleTimeout
	}
	if s.came {
		c.Came = &Came{Secret: *s.secret, Until: now.Add(m.cfg.RenewGrace)}
	}
	if !m.isAddr(s.r, rec.Addr) {
		if addr := m.addr(s.r); addr.IsValid() && !sameNet(addr, rec.Addr) {
			c.Addr = addr
		}
	}
	if userAgent(s.r) != rec.Agent { // seldom: then it may still be the same, cut
		if a := agent(s.r); a != rec.Agent {
			c.Agent = a
		}
	}
	return c
}

// adopt makes rec the session and token the cookie to send.
func (s *Session) adopt(rec *Record, secret *Hash, token string, now time.Time) {
	s.rec, s.secret, s.late, s.err = rec, secret, false, nil
	s.raise, s.came = false, false
	var life time.Duration
	if rec.User == "" || rec.Remember {
		life = rec.Absolute.Sub(now)
	}
	s.cookie = s.m.cookie.set(token, life)
}

// fallLate empties the session: it ended, or somebody signed in, after the
// request had loaded it. What the request changed is refused, and the answer
// sets no cookie, for the browser may hold a newer one by now.
func (s *Session) fallLate(why error) error {
	s.p.events = append(s.p.events, Event{Kind: EventLate, Info: s.rec.Info, Err: why})
	s.rec, s.was, s.late, s.err, s.cookie = nil, s.rec, true, why, ""
	return why
}

// refresh reads the session again for a Commit that had nothing to write.
func (s *Session) refresh(parent context.Context) error {
	if s.rec == nil {
		return nil
	}
	ctx := s.m.callFor(&s.call, parent, false)
	defer s.called(ctx)
	rec, err := s.m.load(ctx, s.rec.ID)
	switch {
	case errors.Is(err, ErrNotFound) || err == nil && !rec.Live(s.m.now()):
		return s.fallLate(ErrEnded)
	case err != nil:
		return fmt.Errorf("session: load: %w", err)
	case rec.Auth != s.rec.Auth:
		return s.fallLate(ErrStale)
	}
	s.rec = rec
	return nil
}

// seen tells the store that the visitor was here, seldom and for many requests at
// once: of those that see the same record one in an interval writes.
func (s *Session) seen() {
	if !s.due && !s.raise && !s.came {
		return // without a look at the clock
	}
	m, rec := s.m, s.rec
	now := m.now()
	lag := now.Sub(rec.Seen)
	key := claim{id: rec.ID}
	switch {
	case s.came:
		key.of = *s.secret
	case s.raise:
		key.of = Hash{1}
	case lag < m.cfg.TouchInterval:
		return
	}
	if !m.claims.take(key, now, m.cfg.TouchInterval) {
		return
	}
	if !s.came && !s.raise && lag < rec.Idle/2 && m.touches.queue(Touch{rec.ID, now}) {
		return
	}
	s.pend()
	err := s.sendSeen(now)
	s.settled(err)
	if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrStale) {
		m.claims.release(key)
		m.cfg.Logger.WarnContext(s.ctx, "session: the time of the visit was not written; the next request tries again", "id", rec.ID, "err", err)
	}
}

func (s *Session) sendSeen(now time.Time) error {
	ctx := s.m.callFor(&s.call, s.ctx, true)
	defer s.called(ctx)
	if !s.came && !s.raise {
		return s.m.touch(ctx, []Touch{{s.rec.ID, now}})
	}
	rec, err := s.m.update(ctx, s.rec, s.change(now, nil))
	if err == nil {
		s.rec, s.raise, s.came = rec, false, false
	}
	return err
}
