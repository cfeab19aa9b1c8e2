package session

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// A Sealer encrypts and authenticates under keys that nobody else has, such as
// those of a *keyring.Ring. It is used by several goroutines at once.
type Sealer interface {
	// Seal encrypts plain and binds it to a purpose and to extra, neither of which
	// is secret. The result may be 32 bytes longer than plain.
	Seal(purpose string, plain, extra []byte) []byte

	// Unseal returns what was sealed for the same purpose and with the same extra,
	// or an error if that cannot be told for sure.
	Unseal(purpose string, sealed, extra []byte) ([]byte, error)
}

// Seals make sessions for visitors who only look, without a row in the store for
// those who never come back. The first answer gives the browser a cookie of its
// own, named like that of the session with "-v" at its end: a token, the time and a
// note, sealed, at most 300 bytes under the default names. For 24 hours whoever
// brings it back gets the session of that token, and the cookie of the session in
// its place. Requests that bring it back at once get the same one.
//
// Neither tokens nor IDs are anybody's choice: the Manager makes them, and only
// the keys open a seal. One of a session that has ended, or was signed in to, opens
// nothing: an ended record stays as long as a seal of it could live.
type Seals struct {
	m      *Manager
	keys   Sealer
	erased func(ctx context.Context, id ID) (bool, error)
	cookie cookie
}

const (
	// sealLife is how long a first-visit cookie counts.
	sealLife = day
	// sealSkew is how far the clock of the process that sealed may be ahead.
	sealSkew    = time.Hour
	sealPurpose = "session first visit"
	maxSealed   = tokenBytes + 8 + MaxNote + 32

	// MaxNote is how long the note in a first-visit cookie may be, in bytes.
	MaxNote = 128
)

// Seals returns the maker of first-visit cookies under keys, of which a Manager has
// one. Without keys it makes none, and [Visit.Keep] is what remains. erased reports
// whether a visitor was erased, whose seal may still be about; nil says that nobody
// is.
func (m *Manager) Seals(keys Sealer, erased func(ctx context.Context, id ID) (bool, error)) *Seals {
	if erased == nil {
		erased = func(context.Context, ID) (bool, error) { return false, nil }
	}
	q := &Seals{m: m, keys: keys, erased: erased, cookie: m.cookie}
	q.cookie.name += "-v"
	m.seals.Store(q)
	return q
}

// A Visit is a request of somebody who came without a session.
type Visit struct {
	// First is when a visitor who has come back was here before; zero if this is
	// the first visit.
	First time.Time
	// Note is what was sealed then.
	Note []byte
	// Created says that this request brought the cookie back first, and that the
	// session was made for it.
	Created bool

	q     *Seals
	s     *Session
	token string // of the session; "" if the visitor may hold a newer one
}

// Visit looks at who comes with r. Call it inside [Manager.Handler], before what
// uses the session. It returns nil if the visitor has a session, had one until a
// moment ago, or the store could not tell. If r brings a first-visit cookie back it
// opens the session, or makes it: that is a Create, and a Load for those who were
// not the first. A cookie that opens nothing is an [EventRejected].
//
// After an error, which is of the store or of erased, r has no session and the
// cookie stays.
func (q *Seals) Visit(r *http.Request) (*Visit, error) {
	s, ok := FromContext(r.Context())
	if !ok || s.m != q.m || !s.isStranger() {
		return nil, nil
	}
	v := &Visit{q: q, s: s}
	value, found, ambiguous := q.cookie.find(r.Header)
	switch {
	case !found || q.keys == nil:
		return v, nil
	case ambiguous:
		q.m.reject(r, "", "ambiguous")
		return v, nil
	}
	token, first, note, ok := q.unseal(value)
	switch {
	case !ok:
		q.m.reject(r, "", "malformed")
		return v, nil
	case q.tooOld(first):
		q.m.reject(r, "", "expired")
		return v, nil
	}
	return q.open(&Visit{First: first, Note: note, q: q, s: s}, token)
}

// isStranger reports whether nothing is known about the visitor, for sure, and
// nothing has been done about that.
func (s *Session) isStranger() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rec == nil && s.err == nil && s.cookie == "" && !s.started && !s.over
}

func (q *Seals) tooOld(first time.Time) bool {
	age := q.m.now().Sub(first)
	return age >= sealLife || age < -sealSkew
}

// open makes the session of token, or finds it.
func (q *Seals) open(v *Visit, token []byte) (*Visit, error) {
	m, s := q.m, v.s
	now := m.now()
	text := base64url.EncodeToString(token)
	rec := &Record{
		Info:   Info{ID: ID(text[:idChars]), Created: v.First, Seen: now, Addr: m.addr(s.r), Agent: agent(s.r)},
		Secret: hashSecret(token),
		// The browser has shown that it keeps cookies: this is no first visit.
		Idle: m.cfg.VisitorIdleTimeout, Absolute: now.Add(m.cfg.VisitorLifetime),
	}
	rec.limit()
	ctx := s.callToLoad(&callContext{})
	defer ctx.done()
	found := &Session{m: m, r: s.r, ctx: s.ctx} // by itself, so that judging needs no lock
	switch err := m.create(ctx, rec); {
	case err == nil:
		v.Created = true
		found.rec, found.secret = rec, &rec.Secret
	case errors.Is(err, ErrExists):
		stored, err := m.load(ctx, rec.ID)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, fmt.Errorf("session: first visit: %w", err)
		}
		if err == nil {
			found.judge(stored, rec.Secret, now)
		}
	default:
		return nil, fmt.Errorf("session: first visit: %w", err)
	}
	if found.rec == nil {
		return q.refuse(v, found), nil
	}
	// Only now: whoever erases notes the ID first and deletes the record then. So
	// either the record came before the deletion, or the note is seen here.
	erased, err := q.erased(ctx, rec.ID)
	if erased {
		m.reject(s.r, rec.ID, "erased")
		if err = m.store.Delete(ctx, rec.ID); err == nil {
			return q.refuse(v, &Session{}), nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("session: first visit: %w", err)
	}
	if *found.secret == found.rec.Secret {
		v.token = text
	}
	if v.Created {
		m.emit(s.ctx, Event{Kind: EventCreated, Info: rec.Info})
	}
	v.admit(found)
	return v, nil
}

// refuse returns the visit of somebody whose seal opened nothing: a stranger, or
// nil if the session ended a moment ago. The browser may hold a newer cookie then.
func (q *Seals) refuse(v *Visit, found *Session) *Visit {
	if found.late {
		v.admit(found)
		return nil
	}
	return &Visit{q: q, s: v.s}
}

// admit hands what was found to the session of the request.
func (v *Visit) admit(found *Session) {
	s := v.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rec, s.secret, s.due, s.raise, s.came = found.rec, found.secret, found.due, found.raise, found.came
	s.late, s.err, s.was = found.late, found.err, found.was
}

// Seal has a first-visit cookie sent with the response, holding note, which may be
// up to [MaxNote] bytes: a longer one panics. It sends none if the visitor has a
// session when the response begins, or the response sets or clears the cookie of
// one. Call it before the first byte of a response that nobody may cache: the
// cookie brings Cache-Control: no-store along.
func (v *Visit) Seal(note []byte) {
	if len(note) > MaxNote {
		panic(fmt.Sprintf("session: a note of %d bytes; a first-visit cookie holds at most %d", len(note), MaxNote))
	}
	if v.q.keys == nil || !v.s.isStranger() {
		return
	}
	line := v.q.cookie.set(v.q.seal(note), sealLife)
	s := v.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = true
	s.pend().seal = line
}

// Keep has the session stored and its cookie sent though nothing was written to it,
// under the same conditions as Seal.
func (v *Visit) Keep() {
	if !v.s.isStranger() {
		return
	}
	s := v.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = true
	s.pend().keep = true
}

// Send has the cookie of the session sent to a visitor who has come back, under
// the same conditions as Seal. Until then the first-visit cookie serves. It loads
// the session once more: somebody may have signed in since, and the browser then
// holds a newer cookie. If the store does not answer nothing is sent.
func (v *Visit) Send() {
	s := v.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.token == "" || s.rec == nil || s.started || s.cookie != "" {
		return
	}
	ctx := s.callToLoad(&callContext{})
	defer ctx.done()
	now := s.m.now()
	rec, err := s.m.load(ctx, s.rec.ID)
	if err != nil || !rec.Live(now) || rec.Secret != *s.secret {
		return
	}
	s.used = true
	s.cookie = s.m.cookie.set(v.token, rec.Absolute.Sub(now))
}

// clear adds the line that makes the browser forget a first-visit cookie, if r came
// with one. It goes with every cookie of a session, which takes its place.
func (q *Seals) clear(h http.Header, r *http.Request) {
	if _, found, _ := q.cookie.find(r.Header); found {
		h["Set-Cookie"] = append(h["Set-Cookie"], q.cookie.clear())
	}
}

// seal returns the value of a first-visit cookie: a token, the time, and note.
func (q *Seals) seal(note []byte) string {
	plain := make([]byte, tokenBytes, tokenBytes+8+MaxNote)
	rand.Read(plain)
	plain = binary.BigEndian.AppendUint64(plain, uint64(q.m.now().UnixMicro()))
	return base64url.EncodeToString(q.keys.Seal(sealPurpose, append(plain, note...), []byte(q.cookie.name)))
}

// unseal is the reverse.
func (q *Seals) unseal(value string) (token []byte, first time.Time, note []byte, ok bool) {
	if len(value) > base64url.EncodedLen(maxSealed) {
		return nil, first, nil, false
	}
	sealed, err := base64url.DecodeString(value)
	if err != nil || base64url.EncodeToString(sealed) != value { // the decoder skips line breaks
		return nil, first, nil, false
	}
	plain, err := q.keys.Unseal(sealPurpose, sealed, []byte(q.cookie.name))
	if err != nil || len(plain) < tokenBytes+8 {
		return nil, first, nil, false
	}
	first = time.UnixMicro(int64(binary.BigEndian.Uint64(plain[tokenBytes:]))).UTC()
	return plain[:tokenBytes], first, plain[tokenBytes+8:], true
}
