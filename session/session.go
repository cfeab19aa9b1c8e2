package session

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// A Session is the session of one request. It is safe for use by several
// goroutines. After the request has ended, reads still answer and changes are
// dropped and logged. Only methods that take a context do I/O.
type Session struct {
	m     *Manager
	r     *http.Request   // as it came to the Manager
	ctx   context.Context // of r
	rider *rider          // of a middleware inside the Manager's, or nil

	mu      sync.Mutex // guards what follows
	rec     *Record    // as the store last returned it; nil if there is none
	was     *Record    // that of a late session, for the log
	p       *pending   // what the request changed and did not commit yet
	err     error      // why a late session is empty, or the store's error
	secret  *Hash      // of the token the request came with, or was given since; nil without rec
	cookie  string     // the Set-Cookie line that waits for the first byte
	started bool       // the first byte has left, or is about to
	over    bool       // the request has ended
	late    bool       // the session ended, or somebody signed in: err says which
	used    bool       // the response depends on the session
	raise   bool       // the cookie of a first visit came back
	came    bool       // the new token came back after a renewal
	due     bool       // the store was last told of a visit an interval ago
	begun   bool       // the response committed, or tried to; not guarded, the handler's goroutine alone looks

	call callContext // of the load, and of the commit too if the load left it unused
}

// A pending is what a request changed and did not commit yet.
type pending struct {
	end    *Record // the session to end first
	reason string  // for ending it

	user      string // who signed in, or ""
	at        time.Time
	remember  bool
	renew     bool
	keep      bool   // a session is to be stored even without values
	seal      string // the Set-Cookie line of a first visit, if there is no session in the end
	ops       []Op   // at most one a key after the last OpClear of its group
	changed   bool   // whether ops are more than values set to what they were
	size      int    // an upper bound of what the values come to
	bad       *ValueError
	events    []Event
	change    Change // what is sent to the store
	firstOp   [1]Op  // most requests need no more
	idle      bool   // there was nothing to commit
	again     bool   // a call of the store was made more than once
	discarded bool   // that changes came after the request's end was logged
	blind     bool   // a change to a session that could not be loaded
}

// From returns the session of r. It panics outside [Manager.Handler] and
// [Manager.Optional]: that is a wiring mistake the first request shows.
func From(r *http.Request) *Session {
	s, ok := FromContext(r.Context())
	if !ok {
		panic("session: no session in the request to " + r.URL.Path + "; wrap the handler in Manager.Handler")
	}
	return s
}

// FromContext is [From] for code that has a context only; ok is false outside
// the middleware.
func FromContext(ctx context.Context) (s *Session, ok bool) {
	s, ok = ctx.Value(contextKey{}).(*Session)
	return s, ok
}

type contextKey struct{}

// ID returns the public name of the session, safe to log and to show. It is ""
// until the session is stored.
func (s *Session) ID() ID { return s.Info().ID }

// User returns who is signed in, or "".
func (s *Session) User() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = true
	return s.user()
}

func (s *Session) user() string {
	switch {
	case s.p != nil && s.p.user != "":
		return s.p.user
	case s.rec != nil:
		return s.rec.User
	}
	return ""
}

// Info returns a copy of what is known about the session.
func (s *Session) Info() Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = true
	var in Info
	if s.rec != nil {
		in = s.rec.Info
	}
	if p := s.p; p != nil && p.user != "" {
		in.Remember = p.remember || in.Remember && p.user == in.User
		in.User, in.SignedIn = p.user, p.at
	}
	return in
}

// Err returns why the session could not be loaded, the store's error, or nil. It
// is never nil only inside [Manager.Optional]: a page can then say that it does
// not know who asks, rather than that nobody is signed in.
func (s *Session) Err() error {
	s.mu.Lock()
	s.used = true
	s.mu.Unlock()
	return s.failed()
}

// failed is Err for those whose answer does not depend on the session.
func (s *Session) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.late {
		return nil
	}
	return s.err
}

// SignIn makes user the session's user and replaces the token; the old one is
// dead at once. Values stay only under [Config.KeepOnSignIn], so that nobody
// can plant them; those set after it stay. Called again for the same user it
// keeps all values and refreshes Info.SignedIn (step-up). Over another user's
// session it ends that one and starts anew. The request that signs in always
// ends signed in: if its session ended or somebody signed in meanwhile, it gets a
// new one. It panics if user is "", longer than 255 bytes, no valid UTF-8, or
// holds control characters.
func (s *Session) SignIn(user string) {
	if user == "" || len(user) > 255 || !utf8.ValidString(user) || strings.ContainsFunc(user, unicode.IsControl) {
		panic(fmt.Sprintf("session: SignIn(%q): a user is 1 to 255 bytes of UTF-8 without control characters", user))
	}
	s.edit("SignIn", func(p *pending) {
		if p.user != "" && p.user != user {
			p.remember = false
		}
		switch {
		case s.rec != nil && s.rec.User != "" && s.rec.User != user:
			p.endFirst(s.rec, "replaced")
			s.rec = nil
		case p.user != "" && p.user != user:
			p.clearOps() // what an earlier SignIn of this request brought is that user's
		case p.user == "" && s.user() != user:
			p.ops = slices.DeleteFunc(p.ops, func(op Op) bool {
				return op.Kind != OpClear && !underAny(op.Key, s.m.cfg.KeepOnSignIn)
			})
		}
		p.user, p.at = user, s.m.now()
	})
}

// Remember puts the session under the remember limits of [Config] ("keep me
// signed in"). Call it with SignIn; alone it does nothing.
func (s *Session) Remember() { s.edit("Remember", func(p *pending) { p.remember = true }) }

// SignOut ends the session, signed in or not, and clears the cookie. Values set
// after it (a flash message) start a new session.
func (s *Session) SignOut() {
	s.edit("SignOut", func(p *pending) {
		switch {
		case s.rec != nil:
			p.endFirst(s.rec, "signed out")
		case s.late && s.err == ErrEnded:
			p.endFirst(s.was, "signed out") // who ended it may not know yet whether that will last
		}
		p.clearOps()
		p.user, p.remember, p.renew = "", false, false
		s.rec = nil
	})
}

// Renew replaces the token. The old one works until the new one has come back and
// [Config.RenewGrace] has passed; until then another Renew does nothing.
func (s *Session) Renew() { s.edit("Renew", func(p *pending) { p.renew = true }) }

// Clear deletes every key whose name begins with prefix and a dot: Clear("cart")
// deletes "cart.items" and not "cartoon.seen".
func (s *Session) Clear(prefix string) {
	s.edit("Clear", func(p *pending) {
		p.ops = slices.DeleteFunc(p.ops, func(op Op) bool { return under(op.Key, prefix) || op.Kind == OpClear && op.Key == prefix })
		if p.bad == nil && s.rec != nil {
			p.changed = p.changed || slices.ContainsFunc(s.rec.Values, func(v Value) bool { return under(v.Key, prefix) })
			op := Op{Kind: OpClear, Key: prefix}
			p.ops = append(p.ops, op)
			s.weigh(&op)
		}
	})
}

func (p *pending) endFirst(rec *Record, reason string) {
	p.end, p.reason = rec, reason
	p.clearOps()
}

func (p *pending) clearOps() { p.ops, p.bad, p.size = nil, nil, 0 }

// edit runs f on what is pending. After the request's end nothing would commit
// it: that is logged, once, and never a panic, for the goroutine that is late may
// be nobody's to recover.
func (s *Session) edit(what string, f func(p *pending)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = true
	p := s.pend()
	if s.over {
		if !p.discarded {
			p.discarded = true
			s.m.cfg.Logger.WarnContext(s.ctx, "session: a change after the request has ended is dropped", "change", what, "id", s.id())
		}
		return
	}
	// A Delete or SignOut finds nothing there, and must not claim success.
	p.blind = p.blind || s.err != nil && !s.late
	f(p)
}

func (s *Session) pend() *pending {
	if s.p == nil {
		s.p = pendings.Get().(*pending)
		s.p.ops = s.p.firstOp[:0]
	}
	return s.p
}

// pendings saves the largest allocation of a request that writes.
var pendings = sync.Pool{New: func() any { return new(pending) }}

// settled drops what is pending. It goes back to the pool only if every call of
// the store succeeded the first time: a store that gave up on one may still be
// reading the change. A session that was to end and did not is the request's
// again: it must not read as signed out.
func (s *Session) settled(err error) {
	if s.p != nil && s.p.end != nil {
		s.rec = s.p.end
	}
	if p := s.p; p != nil && err == nil && !p.again && !s.late {
		*p = pending{}
		pendings.Put(p)
	}
	s.p = nil
}

func (s *Session) id() ID {
	if s.rec == nil {
		return ""
	}
	return s.rec.ID
}

// get returns the value of key as the request sees it, or nil.
func (s *Session) get(key string) json.RawMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = true
	return s.value(key)
}

func (s *Session) value(key string) json.RawMessage {
	raw := s.stored(key)
	if s.p == nil {
		return raw
	}
	for i := range s.p.ops {
		switch op := &s.p.ops[i]; {
		case op.Kind == OpClear && under(key, op.Key):
			raw = nil
		case op.Kind == OpClear || op.Key != key:
		case op.If == OrSkip && !equalRaw(raw, op.Old): // popped, but by now it has a successor
		case op.Kind == OpSet:
			raw = op.Value
		case op.Kind == OpDelete:
			raw = nil
		case op.Kind == OpAdd:
			if sum, ok := add(parseInt(raw), op.Delta); ok {
				raw, _ = encode(sum)
			}
		}
	}
	return raw
}

// stored returns the value that the record has, or keeps at the sign-in to come.
func (s *Session) stored(key string) json.RawMessage {
	if s.rec == nil || s.signsInAnew() && !underAny(key, s.m.cfg.KeepOnSignIn) {
		return nil
	}
	return s.rec.Values.Get(key)
}

// signsInAnew reports whether a sign-in that changes the user is pending.
func (s *Session) signsInAnew() bool { return s.p != nil && s.p.user != "" && s.p.user != s.rec.User }

func (s *Session) set(key string, raw json.RawMessage, err error) {
	s.edit(key, func(p *pending) {
		switch {
		case err != nil:
			p.bad = &ValueError{key, err}
		case p.bad == nil:
			p.changed = p.changed || !equalRaw(s.value(key), raw)
			s.push(Op{Kind: OpSet, Key: key, Value: raw})
		}
	})
}

func equalRaw(a, b json.RawMessage) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

func (s *Session) delete(key string) {
	s.edit(key, func(p *pending) {
		if p.bad == nil && (s.rec != nil || s.lastOp(key) >= 0) {
			p.changed = p.changed || s.value(key) != nil
			s.push(Op{Kind: OpDelete, Key: key})
		}
	})
}

func (s *Session) pop(key string) json.RawMessage {
	raw := s.get(key)
	if raw == nil {
		return nil
	}
	s.edit(key, func(p *pending) {
		op := Op{Kind: OpDelete, Key: key}
		if s.lastOp(key) < 0 {
			op.If, op.Old = OrSkip, raw
		}
		p.changed = true
		s.push(op)
	})
	return raw
}

func (s *Session) add(key string, n int64) (sum int64) {
	s.edit(key, func(p *pending) {
		if p.bad != nil { // nothing is kept: a loop over many keys need not look at them all
			sum = n
			return
		}
		old := parseInt(s.value(key))
		var ok bool
		if sum, ok = add(old, n); !ok {
			sum, p.bad = old, &ValueError{key, errOverflow}
		} else if n != 0 {
			p.changed = true
			s.push(Op{Kind: OpAdd, Key: key, Delta: n})
		}
	})
	return sum
}

// lastOp returns the index of the pending operation that decides the value of
// key, or -1.
func (s *Session) lastOp(key string) int {
	for i, op := range slices.Backward(s.p.ops) {
		switch {
		case op.Kind == OpClear && under(key, op.Key):
			return -1
		case op.Kind != OpClear && op.Key == key:
			return i
		}
	}
	return -1
}

// push adds op to what is pending, or folds it into what the key has there, so
// that a loop over one key costs the store one operation. It keeps watch over
// the size: what can be known to be too big fails before any I/O.
func (s *Session) push(op Op) {
	p := s.p
	i := s.lastOp(op.Key)
	switch {
	case i < 0:
		p.ops = append(p.ops, op)
	case op.Kind == OpAdd && p.ops[i].Kind == OpAdd:
		delta, ok := add(p.ops[i].Delta, op.Delta)
		if !ok {
			p.bad = &ValueError{op.Key, errOverflow}
			return
		}
		p.ops[i].Delta = delta
	case op.Kind == OpAdd && p.ops[i].If != Always: // the value popped may have a successor by now
		p.ops = append(p.ops, op)
	case op.Kind == OpAdd:
		sum, _ := add(parseInt(s.value(op.Key)), op.Delta)
		raw, _ := encode(sum)
		p.ops[i] = Op{Kind: OpSet, Key: op.Key, Value: raw}
	default:
		p.ops[i] = op
	}
	s.weigh(&op)
}

// weigh gives up on a change once it comes to twice what a session may hold: a
// loop that runs wild must not fill the memory. What is between is judged by the
// commit, for a value may yet be deleted. The exact size costs a copy of all
// values, so it is worked out only beyond the bound.
func (s *Session) weigh(op *Op) {
	p, limit := s.p, s.m.cfg.MaxBytes
	if p.size == 0 {
		p.size = s.recordSize()
	}
	p.size += len(op.Key) + len(op.Value)
	if op.Kind == OpAdd {
		p.size += len("-9223372036854775808")
	}
	if p.size <= 2*limit {
		return
	}
	p.size = s.exactSize()
	for i := range p.ops {
		if k := p.ops[i].Kind; k == OpDelete || k == OpClear {
			p.size += len(p.ops[i].Key)
		}
	}
	if p.size > max(2*limit, s.recordSize()+limit) {
		p.bad = tooBig(op.Key, limit)
	}
}

func (s *Session) recordSize() int {
	if s.rec == nil {
		return 0
	}
	return s.rec.Values.size()
}

// exactSize returns what the session would hold after the pending operations.
func (s *Session) exactSize() int {
	p, rec := s.p, s.rec
	if rec == nil {
		rec = &Record{}
	}
	c := Change{Ops: p.ops}
	if p.user != "" {
		c.SignIn = &SignIn{User: p.user, Keep: s.m.cfg.KeepOnSignIn}
	}
	values, err := c.applyValues(rec)
	if err != nil {
		return 0 // the store will say so
	}
	return values.size()
}

// exchange replaces the value of key by what f makes of it, or deletes it if
// that is nil, in the store and now. f runs without the lock: it may read other
// keys.
func (s *Session) exchange(ctx context.Context, key string, f func(old json.RawMessage) (json.RawMessage, error)) error {
	for first := true; ; first = false {
		old := s.get(key)
		value, err := f(old)
		if err != nil {
			return err
		}
		if value == nil && old == nil { // Take of what is not there
			return s.Err()
		}
		op := Op{Kind: OpSet, Key: key, Value: value, If: OrFail, Old: old}
		if value == nil {
			op.Kind = OpDelete
		}
		if !first {
			s.m.emit(ctx, Event{Kind: EventRetried, Info: s.Info()})
		}
		if err = s.send(ctx, &op); !errors.Is(err, ErrConflict) {
			return err
		}
		if err := ctx.Err(); err != nil {
			s.discard(err)
			return fmt.Errorf("session: update of %s: %w", key, err)
		}
	}
}

// Commit writes what changed so far, now rather than before the first byte, and
// refreshes s from the store: after it a counter is exact. A token that it makes
// goes out with the response, whatever happens later. A renewal that had nothing
// to do, because the token before still works, is no error.
//
// If it returns an error, what was pending is dropped: [ErrEnded] or [ErrStale] if
// the session ended or somebody signed in meanwhile, [*ValueError], an error that
// wraps [ErrUnknown], or the store's own. [ErrAnswered] is about what needs a
// cookie and came after the first byte of the response: that is dropped, the end
// of a session or values beside a renewal are not.
func (s *Session) Commit(ctx context.Context) error { return s.send(ctx, nil) }
