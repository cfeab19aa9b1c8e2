package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"time"

	"github.com/crumb-go/crumb/session"
)

var applyChecks = []check{{
	name: "a long random life is what Apply says",
	rule: "Change.Apply is the definition of Update, Touch.Apply that of Touch: same record, same error, after every step",
	from: "Store.Update, Toucher.Touch",
	run: func(t *tester) {
		const lives, steps = 8, 120
		seed := rand.Uint64()
		if s := os.Getenv("STORETEST_SEED"); s != "" {
			var err error
			if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
				t.Fatalf("STORETEST_SEED: %v", err)
			}
		}
		all := make([]*life, lives)
		together(lives, func(i int) {
			l := &life{tester: t, rand: rand.New(rand.NewPCG(seed, uint64(i))), first: 10 * i, now: t.now, model: map[session.ID]*session.Record{}}
			all[i] = l
			for step := range steps {
				if what, wrong := l.step(); wrong != "" {
					t.Errorf("STORETEST_SEED=%d, life %d, step %d: %s: %s", seed, i, step, what, wrong)
					return
				}
			}
		})
	},
}}

// A life is a random sequence of calls on a few records of its own, each done to
// the store and to the model.
type life struct {
	*tester
	rand  *rand.Rand
	first int
	now   time.Time
	model map[session.ID]*session.Record
	past  []*session.Record // what the store returned: stale bases
	made  int               // secrets
}

// step does one thing, and says what and how the store did otherwise.
func (l *life) step() (what, wrong string) {
	switch {
	case l.one(3): // another process, whose clock is behind
		l.now = l.now.Add(-time.Duration(l.rand.IntN(1000)) * time.Millisecond)
	case l.one(40):
		l.now = l.now.Add(40 * time.Minute)
	default:
		l.now = l.now.Add(time.Duration(l.rand.IntN(120_000_001)) * time.Microsecond)
	}
	id := l.id()
	switch n := l.rand.IntN(100); {
	case n < 8 || l.model[id] == nil && n < 60:
		return l.create(id)
	case n < 10:
		delete(l.model, id)
		return "Delete", l.errs(l.store.Delete(l.ctx, id), nil, id)
	case n < 20:
		if to, ok := l.store.(session.Toucher); ok {
			return l.touch(to)
		}
	}
	return l.update(id)
}

func (l *life) create(id session.ID) (what, wrong string) {
	rec := &session.Record{
		Info:     session.Info{ID: id, Created: l.now, Seen: l.now},
		Secret:   l.secret(),
		Idle:     l.pick(20*time.Minute, time.Hour),
		Absolute: l.now.Add(l.pick(time.Hour, 5*time.Hour)),
		Values:   session.Values{{Key: "cart.items", JSON: []byte("[]")}, {Key: "n.n", JSON: []byte("1")}},
	}
	if l.one(3) {
		rec.User, rec.SignedIn, rec.Auth, rec.Remember = l.user(), l.now, 1, l.one(2)
	}
	rec.Expires = rec.Seen.Add(rec.Idle)
	var want error
	if l.model[id] != nil {
		want = session.ErrExists
	} else {
		l.model[id] = rec
	}
	return "Create", l.errs(l.store.Create(l.ctx, rec), want, id)
}

func (l *life) update(id session.ID) (what, wrong string) {
	model := l.model[id]
	base := &session.Record{Info: session.Info{ID: id}}
	switch {
	case l.one(3):
	case len(l.past) > 0 && l.one(2):
		if old := l.past[l.rand.IntN(len(l.past))]; old.ID == id {
			base = old
		}
	case model != nil:
		base = model
	}
	c := l.change(model)
	what = fmt.Sprintf("Update of %s from base %s with %s", dump(model), dump(base), dump(c))
	var want *session.Record
	wantErr := session.ErrNotFound
	if model != nil {
		want, wantErr = c.Apply(model)
	}
	got, err := l.store.Update(l.ctx, base, c)
	switch {
	case wantErr == nil:
		l.model[id] = want
		if got != nil {
			l.past = append(l.past, got)
		}
		fallthrough
	case errors.Is(wantErr, session.ErrConflict), errors.Is(wantErr, session.ErrStale):
		if wrong = diff(got, want); wrong != "" {
			return what, "the returned record differs: " + wrong
		}
	}
	return what, l.errs(err, wantErr, id)
}

func (l *life) touch(to session.Toucher) (what, wrong string) {
	var touches []session.Touch
	for i := range 4 {
		if l.one(2) {
			continue
		}
		t := session.Touch{ID: id(l.first + i), Seen: l.now.Add(time.Duration(l.rand.IntN(600)-300) * time.Second)}
		touches = append(touches, t)
		if rec := l.model[t.ID]; rec != nil {
			l.model[t.ID], _ = t.Apply(rec)
		}
	}
	what = fmt.Sprintf("Touch %v", touches)
	err := to.Touch(l.ctx, touches)
	for i := range 4 {
		if wrong := l.errs(err, nil, id(l.first+i)); wrong != "" {
			return what, wrong
		}
	}
	return what, ""
}

// errs says how got differs from want, and the stored record from the model.
func (l *life) errs(got, want error, id session.ID) string {
	gotValue, isValue := errors.AsType[*session.ValueError](got)
	switch wantValue, ok := errors.AsType[*session.ValueError](want); {
	case ok && !(isValue && gotValue.Key == wantValue.Key), !ok && !errors.Is(got, want):
		return fmt.Sprintf("the error is %v, not %v", got, want)
	}
	stored, err := l.store.Load(l.ctx, id)
	if err != nil && !errors.Is(err, session.ErrNotFound) {
		return "Load: " + err.Error()
	}
	if err != nil {
		stored = nil
	}
	if wrong := diff(stored, l.model[id]); wrong != "" {
		return "the stored record differs: " + wrong
	}
	return ""
}

// change returns a random change of rec, which may be nil.
func (l *life) change(rec *session.Record) *session.Change {
	if rec == nil {
		rec = &session.Record{}
	}
	c := &session.Change{Now: l.now, Auth: rec.Auth}
	if l.one(12) {
		c.Auth += int64(l.rand.IntN(3) - 1)
	}
	for l.one(2) {
		c.Ops = append(c.Ops, l.op(rec))
	}
	if !l.one(3) {
		c.Seen = l.now.Add(-time.Duration(l.rand.IntN(120)) * time.Second)
	}
	if l.one(6) {
		c.Idle = l.pick(30*time.Minute, 2*time.Hour)
	}
	if l.one(8) {
		c.SignIn = &session.SignIn{User: l.user(), At: l.now, Remember: l.one(2), Idle: l.pick(10*time.Minute, time.Hour), Absolute: l.now.Add(l.pick(time.Hour, 9*time.Hour))}
		if rec.User != "" && !l.one(4) {
			c.SignIn.User = rec.User
		}
		if l.one(2) {
			c.SignIn.Keep = []string{"cart", "n"}
		}
	}
	if c.SignIn != nil && !l.one(10) || l.one(8) {
		c.Renew = &session.Renew{From: l.oldSecret(rec), To: l.secret(), OldUntil: l.now.Add(l.pick(0, 30*time.Minute))}
	}
	if l.one(8) {
		c.Came = &session.Came{Secret: l.oldSecret(rec), Until: l.now.Add(10 * time.Second)}
	}
	c.End = l.one(30)
	if l.one(5) {
		c.Addr = netip.AddrFrom4([4]byte{192, 0, 2, byte(l.rand.IntN(3))})
	}
	if l.one(5) {
		c.Agent = "agent " + strconv.Itoa(l.rand.IntN(3))
	}
	if l.one(5) {
		c.MaxBytes = 30 + l.rand.IntN(80)
	}
	return c
}

func (l *life) op(rec *session.Record) session.Op {
	keys := []string{"cart.items", "cart.total", "cartoon.seen", "f.flash", "n.n", "n.o", "ui.theme"}
	jsons := []string{"0", "1", "-5", "9223372036854775800", `"\u0000"`, "[]", "{}", "1e400", "null", `{"b":1,"a":"é"}`, `"0123456789abcdefghij"`}
	op := session.Op{Kind: session.OpKind(1 + l.rand.IntN(4)), Key: keys[l.rand.IntN(len(keys))]}
	switch op.Kind {
	case session.OpSet:
		op.Value = []byte(jsons[l.rand.IntN(len(jsons))])
	case session.OpAdd:
		op.Delta = int64(l.rand.IntN(21) - 10)
	case session.OpClear:
		op.Key = []string{"cart", "n", "c"}[l.rand.IntN(3)]
		return op
	}
	if op.If = session.Condition(l.rand.IntN(3)); op.If != session.Always {
		op.Old = rec.Values.Get(op.Key)
		if l.one(4) {
			op.Old = []byte(jsons[l.rand.IntN(len(jsons))])
		}
	}
	return op
}

// one is true once in n times.
func (l *life) one(n int) bool { return l.rand.IntN(n) == 0 }

func (l *life) id() session.ID { return id(l.first + l.rand.IntN(4)) }

func (l *life) user() string { return []string{"ana", "Ana ", "aná"}[l.rand.IntN(3)] }

func (l *life) pick(low, high time.Duration) time.Duration {
	return low + time.Duration(l.rand.Int64N(int64((high-low)/time.Microsecond)+1))*time.Microsecond
}

func (l *life) secret() session.Hash {
	l.made++
	return secret(l.first*100_000 + l.made)
}

// oldSecret returns the current secret mostly, the one before, or none of rec.
func (l *life) oldSecret(rec *session.Record) session.Hash {
	switch {
	case !l.one(3):
		return rec.Secret
	case l.one(2):
		return rec.OldSecret
	}
	return secret(-1)
}
