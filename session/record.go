package session

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An ID names a session in lists, logs, URLs and the store's primary key. It is
// 16 characters (96 random bits), stays the same for the life of the session,
// also across renewals, and is no secret: it opens nothing without the token.
type ID string

// Info is what is known about a session besides its values. Times are UTC; a
// zero Created means the session is not stored yet.
type Info struct {
	ID       ID
	User     string // "" while nobody is signed in
	Created  time.Time
	Seen     time.Time // last request, exact to [Config.TouchInterval]
	Expires  time.Time // idle or absolute limit, whichever comes first
	SignedIn time.Time // last time the user proved who they are
	Remember bool      // under the remember limits of [Config]
	Addr     netip.Addr
	Agent    string // User-Agent, at most 256 bytes of valid UTF-8
}

// A Hash is the SHA-256 of the secret part of a token.
type Hash [32]byte

// A Record is a session as a [Store] keeps it. Times are UTC and whole
// microseconds. It is immutable once it has been handed to or by a store.
type Record struct {
	Info
	Auth      int64 // moves at sign-in; a Change made under another is refused
	Secret    Hash  // of the secret in the cookie
	OldSecret Hash  // of the one before; zero if there is none
	OldUntil  time.Time
	Idle      time.Duration // Expires = min(Absolute, Seen + Idle); zero once ended
	Absolute  time.Time     // once ended, when that was
	Values    Values
	Version   int64 // one more with every Update, and Touch that changed it, for stores to compare
}

// Ended reports whether somebody ended the session: a sign-out, a revocation, a
// sign-in as another user. A clock cannot tell: the process that ended it may be
// ahead of the one that asks.
func (r *Record) Ended() bool { return r.Idle == 0 }

// Live reports whether the session can be served at now: neither ended nor
// expired.
func (r *Record) Live(now time.Time) bool { return !r.Ended() && now.Before(r.Expires) }

// Values are the values of a record, in the order of their keys, each key once.
// They are immutable once they are in a [Record]. A slice, not a map: a request
// that changes one value then copies the others in one allocation.
type Values []Value

// A Value is one value of a session: JSON text that no store may reformat.
type Value struct {
	Key  string
	JSON json.RawMessage
}

// Get returns the value of key, or nil if there is none.
func (vs Values) Get(key string) json.RawMessage {
	if i, ok := vs.find(key); ok {
		return vs[i].JSON
	}
	return nil
}

// find returns the index of key, or where it would stand. Written out, it takes
// less than half the time of slices.BinarySearchFunc.
func (vs Values) find(key string) (int, bool) {
	lo, hi := 0, len(vs)
	for lo < hi {
		mid := (lo + hi) / 2
		switch c := strings.Compare(vs[mid].Key, key); {
		case c == 0:
			return mid, true
		case c < 0:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return lo, false
}

// size is what [Change.MaxBytes] limits.
func (vs Values) size() (n int) {
	for _, v := range vs {
		n += len(v.Key) + len(v.JSON)
	}
	return n
}

// under reports whether key is in the group of prefix: "cart.items" is in
// "cart", "cartoon.seen" is not.
func under(key, prefix string) bool {
	return len(key) > len(prefix) && key[len(prefix)] == '.' && key[:len(prefix)] == prefix
}

// underAny reports whether key is in one of the groups, or named itself.
func underAny(key string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return key == p || under(key, p) })
}

// A Change is what one request did to a session. A zero field means unchanged.
type Change struct {
	Now  time.Time // of the commit; a record that expired by then is gone
	Auth int64     // of the record the request saw
	Ops  []Op      // in order

	Seen   time.Time     // never moves back
	Idle   time.Duration // raises Record.Idle: the visitor's cookie came back
	SignIn *SignIn       // needs Renew
	Renew  *Renew
	Came   *Came
	End    bool // ends the session, whatever its Auth
	Addr   netip.Addr
	Agent  string

	MaxBytes int // of keys and values; a Change that grows past it fails
}

// A Came reports that the new secret came back: the one before lives no longer
// than Until. It does nothing if Secret is no longer current.
type Came struct {
	Secret Hash
	Until  time.Time
}

// A SignIn makes User the user of the record, under new limits.
type SignIn struct {
	User     string
	At       time.Time
	Remember bool
	Idle     time.Duration
	Absolute time.Time
	Keep     []string // keys, and prefixes of keys, that stay when the user changes
}

// A Renew replaces the secret. Alone it does nothing if From is no longer
// current or the one before From still works. With a SignIn it replaces whatever
// is current; only a step-up, the same user again, needs From to be current.
type Renew struct {
	From, To Hash
	OldUntil time.Time // of what it replaces: Now at a sign-in, else Absolute
}

// An Op changes one key, or with OpClear all keys under a prefix.
type Op struct {
	Kind  OpKind
	If    Condition // what the value must be: Old
	Key   string
	Value json.RawMessage // of OpSet
	Delta int64           // of OpAdd
	Old   json.RawMessage // as the store last returned it; nil if there was none
}

// A Condition says what happens to an [Op] whose key holds another value.
type Condition uint8

const (
	Always Condition = iota
	OrFail           // the whole Change fails with ErrConflict: Update, Take
	OrSkip           // the Op does nothing: Pop
)

// An OpKind says what an [Op] does.
type OpKind uint8

const (
	OpSet    OpKind = iota + 1
	OpDelete        // an absent key is fine
	OpAdd           // a value that is no int64 counts as 0
	OpClear         // every key that begins with Key and a dot
)

// Apply returns rec changed by c, or an error: [ErrNotFound] if rec ended or,
// unless c is an End, expired by c.Now; [ErrStale] if c.Auth is not its Auth; [ErrConflict] if a
// condition fails; a [*ValueError] if a sum overflows or the values grow too
// big. Beside an error other than ErrNotFound it returns rec. rec stays as it
// is. Apply is the definition of [Store.Update]: a store runs it under a lock or
// in a transaction, or does the same in its own language.
//
// An ended record stays for a while, empty, so that a late request is told apart
// from an unknown one and its ID is not taken again: its Absolute says when it
// ended, its Expires until when a first-visit cookie ([Seals]) might name it.
func (c *Change) Apply(rec *Record) (*Record, error) {
	switch {
	case rec.Ended():
		return nil, ErrNotFound
	case c.End: // also of one that expired by now: by another clock it may live
		out := *rec
		out.Version++
		out.Values, out.User, out.Addr, out.Agent = nil, "", netip.Addr{}, ""
		// The sweep goes by Expires, and a clock that lags far behind must not have
		// the record swept at once.
		at := later(c.Now, rec.Seen)
		out.Idle, out.Absolute = 0, at
		// It outlives every first-visit cookie that could make it anew.
		out.Expires = later(at, rec.Created.Add(sealLife))
		return &out, nil
	case !rec.Live(c.Now):
		return nil, ErrNotFound
	case c.Auth != rec.Auth, c.SignIn != nil && !c.maySignIn(rec):
		return rec, ErrStale
	}
	values, err := c.applyValues(rec)
	if err != nil {
		return rec, err
	}
	out := *rec
	out.Version++
	out.Values = values
	if in := c.SignIn; in != nil {
		stepUp := in.User == rec.User
		out.Remember = in.Remember || stepUp && rec.Remember
		if in.Idle > out.Idle || !stepUp || !rec.Remember {
			out.Idle = in.Idle
		}
		out.User, out.SignedIn, out.Absolute = in.User, in.At, in.Absolute
		out.Auth++
	}
	if c.Seen.After(out.Seen) {
		out.Seen = c.Seen
	}
	out.Idle = max(out.Idle, c.Idle)
	if k := c.Came; k != nil && k.Secret == out.Secret && k.Until.Before(out.OldUntil) {
		out.OldUntil = k.Until
	}
	if re := c.Renew; re != nil && (c.SignIn != nil || re.From == out.Secret && !c.Now.Before(out.OldUntil)) {
		out.OldSecret, out.OldUntil, out.Secret = out.Secret, re.OldUntil, re.To
	}
	if c.Addr.IsValid() {
		out.Addr = c.Addr
	}
	if c.Agent != "" {
		out.Agent = c.Agent
	}
	out.limit()
	return &out, nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// maySignIn reports whether c.SignIn fits rec: one user never takes over
// another's session, and a step-up, which keeps every value, takes the current
// secret, not a former one.
func (c *Change) maySignIn(rec *Record) bool {
	return c.Renew != nil && (rec.User == "" || rec.User == c.SignIn.User && c.Renew.From == rec.Secret)
}

// limit derives Expires.
func (r *Record) limit() {
	r.Expires = r.Seen.Add(r.Idle)
	if r.Absolute.Before(r.Expires) {
		r.Expires = r.Absolute
	}
}

// applyValues returns the values of rec after c: those a sign-in leaves, changed
// by the operations in their order.
func (c *Change) applyValues(rec *Record) (Values, error) {
	values, own := rec.Values, false
	if in := c.SignIn; in != nil && in.User != rec.User {
		values, own = slices.DeleteFunc(slices.Clone(values), func(v Value) bool { return !underAny(v.Key, in.Keep) }), true
	}
	if len(c.Ops) == 0 {
		return values, nil
	}
	if !own {
		n := len(values)
		for i := range c.Ops {
			if op := &c.Ops[i]; op.Kind == OpSet || op.Kind == OpAdd {
				if _, ok := values.find(op.Key); !ok {
					n++
				}
			}
		}
		values = append(make(Values, 0, n), values...)
	}
	for i := range c.Ops {
		var err error
		if values, err = c.Ops[i].apply(values); err != nil {
			return nil, err
		}
	}
	if c.MaxBytes > 0 {
		if size := values.size(); size > c.MaxBytes && size > rec.Values.size() {
			return nil, tooBig(c.Ops[len(c.Ops)-1].Key, c.MaxBytes)
		}
	}
	return values, nil
}

func tooBig(key string, limit int) *ValueError {
	return &ValueError{key, errors.New("with it the session would hold more than the " + strconv.Itoa(limit) +
		" bytes of Config.MaxBytes; keep a reference in the session and the data elsewhere")}
}

var errOverflow = errors.New("the sum is out of the range of int64")

// apply changes vs, which it may, and returns it.
func (op *Op) apply(vs Values) (Values, error) {
	if op.Kind == OpClear {
		return slices.DeleteFunc(vs, func(v Value) bool { return under(v.Key, op.Key) }), nil
	}
	i, ok := vs.find(op.Key)
	var old json.RawMessage
	if ok {
		old = vs[i].JSON
	}
	if op.If != Always && (ok != (op.Old != nil) || !bytes.Equal(old, op.Old)) {
		if op.If == OrSkip {
			return vs, nil
		}
		return vs, ErrConflict
	}
	value := op.Value
	switch op.Kind {
	case OpDelete:
		if ok {
			vs = slices.Delete(vs, i, i+1)
		}
		return vs, nil
	case OpAdd:
		sum, fits := add(parseInt(old), op.Delta)
		if !fits {
			return vs, &ValueError{op.Key, errOverflow}
		}
		value = strconv.AppendInt(nil, sum, 10)
	}
	if ok {
		vs[i].JSON = value
		return vs, nil
	}
	return slices.Insert(vs, i, Value{op.Key, value}), nil
}

// parseInt reads a counter. A value that is no int64 counts as 0, on every store.
func parseInt(raw json.RawMessage) int64 {
	if n, ok := decodeInt(raw); ok {
		return n
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil || len(raw) > 0 && raw[0] == '+' {
		return 0
	}
	return n
}

// add returns a+b, or false if the sum overflows.
func add(a, b int64) (int64, bool) {
	sum := a + b
	return sum, (sum > a) == (b > 0) || b == 0
}

// A Touch is the seen-time of one session.
type Touch struct {
	ID   ID
	Seen time.Time
}

// Apply returns rec as seen at t.Seen, and true; or rec itself and false if that
// changes nothing, because the session had ended or expired by then or was seen
// later. The expiry follows from the record's own limits; neither moves back.
// Apply is the definition of [Toucher.Touch].
func (t Touch) Apply(rec *Record) (*Record, bool) {
	if !rec.Live(t.Seen) || !t.Seen.After(rec.Seen) {
		return rec, false
	}
	out := *rec
	out.Version++
	out.Seen = t.Seen
	out.limit()
	return &out, true
}
