// Package storetest checks that a store keeps the contract of [session.Store].
//
// A store's own test is one call:
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) session.Store {
//			st := mystore.Open(…)
//			t.Cleanup(func() { st.Close() })
//			return st
//		})
//	}
//
// What a check defends, and where it is promised, is printed when it fails.
package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crumb-go/crumb/session"
)

// Run runs every check, each on a store of its own: open returns one that is
// empty, and closes it by t.Cleanup. Checks of an optional interface that the
// store does not implement are skipped, with what the library does instead.
//
// The times of the checks lie within days of the wall clock, none that a check
// looks for again more than an hour behind it, so that an engine may drop by
// itself what expired longer ago. One check is a random sequence; its seed is
// printed when it fails and can be given again in STORETEST_SEED.
func Run(t *testing.T, open func(t *testing.T) session.Store) {
	for _, c := range checks() {
		t.Run(c.name, func(t *testing.T) { c.on(t, open(t)) })
	}
}

// A check is one promise of the contract.
type check struct {
	name string // a sentence
	rule string // the promise in words
	from string // where it stands
	run  func(t *tester)
}

func checks() []check {
	return slices.Concat(recordChecks, updateChecks, applyChecks, raceChecks, listChecks, touchChecks, sweepChecks, watchChecks)
}

// on runs the check on an empty store.
func (c check) on(out output, st session.Store) {
	c.run(&tester{
		output: out,
		check:  c,
		ctx:    context.Background(),
		now:    time.Now().UTC().Truncate(time.Microsecond),
		store:  st,
	})
}

// output is what a check needs of a *testing.T, so that the tests of this package
// can run checks that have to fail.
type output interface {
	Errorf(format string, args ...any)
	FailNow()
	Helper()
	Logf(format string, args ...any)
	SkipNow()
}

// A tester is a check under way.
type tester struct {
	output
	check check
	ctx   context.Context
	now   time.Time // when the check began, in whole microseconds
	store session.Store
}

// Errorf reports what went wrong beside the rule that it breaks.
func (t *tester) Errorf(format string, args ...any) {
	t.Helper()
	t.output.Errorf("%s\n\trule: %s\n\tfrom: %s", fmt.Sprintf(format, args...), t.check.rule, t.check.from)
}

// Fatalf is for the goroutine of the check alone.
func (t *tester) Fatalf(format string, args ...any) {
	t.Helper()
	t.Errorf(format, args...)
	t.FailNow()
}

func (t *tester) skipf(format string, args ...any) {
	t.Helper()
	t.Logf(format, args...)
	t.SkipNow()
}

func (t *tester) lister() session.Lister {
	t.Helper()
	l, ok := t.store.(session.Lister)
	if !ok {
		t.skipf("not a session.Lister: Manager.List, RevokeUser and RevokeAll return errors.ErrUnsupported")
	}
	return l
}

func (t *tester) toucher() session.Toucher {
	t.Helper()
	to, ok := t.store.(session.Toucher)
	if !ok {
		t.skipf("not a session.Toucher: each seen-time is an Update")
	}
	return to
}

func (t *tester) sweeper() session.Sweeper {
	t.Helper()
	sw, ok := t.store.(session.Sweeper)
	if !ok {
		t.skipf("not a session.Sweeper: the store is taken to drop by itself what expired")
	}
	return sw
}

func (t *tester) checker() session.Checker {
	t.Helper()
	ch, ok := t.store.(session.Checker)
	if !ok {
		t.skipf("not a session.Checker: Session.Watch asks with a Load for each session")
	}
	return ch
}

// visitor returns the record of the nth visitor: nobody signed in, idle for an
// hour, a day at most.
func (t *tester) visitor(n int) *session.Record {
	return &session.Record{
		Info:     session.Info{ID: id(n), Created: t.now, Seen: t.now, Expires: t.now.Add(time.Hour)},
		Secret:   secret(n),
		Idle:     time.Hour,
		Absolute: t.now.Add(24 * time.Hour),
	}
}

// holding returns the record of the nth visitor with values: key, JSON, key, …
func (t *tester) holding(n int, pairs ...string) *session.Record {
	rec := t.visitor(n)
	for i := 0; i < len(pairs); i += 2 {
		rec.Values = append(rec.Values, session.Value{Key: pairs[i], JSON: []byte(pairs[i+1])})
	}
	slices.SortFunc(rec.Values, func(a, b session.Value) int { return strings.Compare(a.Key, b.Key) })
	return rec
}

// of returns the record of the nth visitor, signed in as user.
func (t *tester) of(n int, user string) *session.Record {
	rec := t.visitor(n)
	rec.User, rec.SignedIn, rec.Auth = user, t.now, 1
	return rec
}

// full returns a record with every field set.
func (t *tester) full(n int) *session.Record {
	rec := t.holding(n, "cart.items", `[1,2]`, "ui.theme", `"dark"`)
	rec.User, rec.Remember = "ana", true
	rec.Created, rec.SignedIn = t.now.Add(-50*time.Hour-time.Microsecond), t.now.Add(-49*time.Hour+time.Microsecond)
	rec.Seen, rec.Idle = t.now.Add(-3*time.Microsecond), 90*time.Minute+time.Microsecond
	rec.Expires = rec.Seen.Add(rec.Idle)
	rec.Absolute = t.now.Add(14*24*time.Hour + 7*time.Microsecond)
	rec.Addr, rec.Agent = netip.MustParseAddr("2001:db8::"), "Mozilla/5.0 (🍪; ünï) 'quoted\" \\"
	rec.Auth, rec.Version = 1<<62+1, 1<<53+1
	rec.OldSecret, rec.OldUntil = secret(n+1000), t.now.Add(10*time.Second+time.Microsecond)
	return rec
}

// bare returns a record that holds nothing but an ID, as the base of an update.
func bare(n int) *session.Record { return &session.Record{Info: session.Info{ID: id(n)}} }

func id(n int) session.ID { return session.ID(fmt.Sprintf("Storetest_%06d", n)) }

// secret returns the nth hash: arbitrary bytes, as real ones are.
func secret(n int) session.Hash { return sha256.Sum256(fmt.Append(nil, n)) }

// create stores records, many of them at once.
func (t *tester) create(recs ...*session.Record) {
	t.Helper()
	const workers = 16
	errs := make([]error, len(recs))
	together(min(workers, len(recs)), func(w int) {
		for i := w; i < len(recs); i += workers {
			errs[i] = t.store.Create(t.ctx, recs[i])
		}
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("Create: %v", err)
	}
}

func (t *tester) load(id session.ID) *session.Record {
	t.Helper()
	rec, err := t.store.Load(t.ctx, id)
	if err != nil || rec == nil {
		t.Fatalf("Load %s: %s, %v", id, dump(rec), err)
	}
	return rec
}

func (t *tester) update(base *session.Record, c *session.Change) *session.Record {
	t.Helper()
	rec, err := t.store.Update(t.ctx, base, c)
	if err != nil || rec == nil {
		t.Fatalf("Update %s: %s, %v", dump(c), dump(rec), err)
	}
	return rec
}

// refused runs an update that has to fail with want, and checks that it changed
// nothing and that the record stands beside the errors that promise it.
func (t *tester) refused(base *session.Record, c *session.Change, want error) {
	t.Helper()
	before, errBefore := t.store.Load(t.ctx, base.ID)
	got, err := t.store.Update(t.ctx, base, c)
	t.isError("Update", err, want)
	if errBefore != nil {
		t.absent(base.ID)
		return
	}
	if want == session.ErrConflict || want == session.ErrStale {
		t.same("the record beside the error", got, before)
	}
	t.same("after a refused update the stored record", t.load(base.ID), before)
}

func (t *tester) absent(id session.ID) {
	t.Helper()
	rec, err := t.store.Load(t.ctx, id)
	if !errors.Is(err, session.ErrNotFound) {
		t.Fatalf("Load of %s, which must not be there: %s, %v", id, dump(rec), err)
	}
}

func (t *tester) isError(what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: got error %q, want %q", what, fmt.Sprint(err), want)
	}
}

// isValueError checks that err is a *session.ValueError of key.
func (t *tester) isValueError(err error, key string) {
	t.Helper()
	ve, ok := errors.AsType[*session.ValueError](err)
	if !ok || ve.Key != key {
		t.Fatalf("got error %v, want a *session.ValueError of %s", err, key)
	}
}

// same compares records in every field.
func (t *tester) same(what string, got, want *session.Record) {
	t.Helper()
	if d := diff(got, want); d != "" {
		t.Fatalf("%s differs: %s", what, d)
	}
}

// diff says how got differs from want, or "".
func diff(got, want *session.Record) string {
	if got == nil || want == nil {
		if got == want {
			return ""
		}
		return fmt.Sprintf("got %s, want %s", dump(got), dump(want))
	}
	d := diffInfo(&got.Info, &want.Info)
	d.field("Auth", got.Auth, want.Auth)
	d.field("Secret", got.Secret, want.Secret)
	d.field("OldSecret", got.OldSecret, want.OldSecret)
	d.time("OldUntil", got.OldUntil, want.OldUntil)
	d.field("Idle", got.Idle, want.Idle)
	d.time("Absolute", got.Absolute, want.Absolute)
	d.field("Version", got.Version, want.Version)
	if !slices.EqualFunc(got.Values, want.Values, func(a, b session.Value) bool {
		return a.Key == b.Key && bytes.Equal(a.JSON, b.JSON)
	}) {
		d.addf("Values are %s, not %s", values(got), values(want))
	}
	return d.String()
}

func diffInfo(got, want *session.Info) (d differences) {
	d.field("ID", got.ID, want.ID)
	d.field("User", got.User, want.User)
	d.time("Created", got.Created, want.Created)
	d.time("Seen", got.Seen, want.Seen)
	d.time("Expires", got.Expires, want.Expires)
	d.time("SignedIn", got.SignedIn, want.SignedIn)
	d.field("Remember", got.Remember, want.Remember)
	d.field("Addr", got.Addr, want.Addr)
	d.field("Agent", got.Agent, want.Agent)
	return d
}

type differences []string

func (d differences) String() string { return strings.Join(d, "; ") }

func (d *differences) addf(format string, args ...any) { *d = append(*d, fmt.Sprintf(format, args...)) }

func (d *differences) field(name string, got, want any) {
	if got != want {
		d.addf("%s is %s, not %s", name, dump(got), dump(want))
	}
}

func (d *differences) time(name string, got, want time.Time) {
	switch {
	case !got.Equal(want):
		d.addf("%s is %s, not %s", name, got.Format(time.RFC3339Nano), want.Format(time.RFC3339Nano))
	case got.Location() != time.UTC:
		d.addf("%s is in %s, not in UTC", name, got.Location())
	}
}

// values writes the values of rec in one line, long ones cut.
func values(rec *session.Record) string {
	var b strings.Builder
	for _, v := range rec.Values {
		fmt.Fprintf(&b, "%q=%.60q ", v.Key, v.JSON)
	}
	return "[" + strings.TrimSpace(b.String()) + "]"
}

// clone returns a copy of rec that shares no memory with it.
func clone(rec *session.Record) *session.Record {
	out := *rec
	out.Values = slices.Clone(rec.Values)
	for i := range out.Values {
		out.Values[i].JSON = bytes.Clone(out.Values[i].JSON)
	}
	return &out
}

// together calls fn with 0 to n-1 at once and returns when all are done.
func together(n int, fn func(i int)) {
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-begin
			fn(i)
		})
	}
	close(begin)
	wg.Wait()
}

// ops is a change of values alone.
func (t *tester) ops(ops ...session.Op) *session.Change {
	return &session.Change{Now: t.now, Ops: ops}
}

func set(key, json string) session.Op {
	return session.Op{Kind: session.OpSet, Key: key, Value: []byte(json)}
}

func add(key string, n int64) session.Op {
	return session.Op{Kind: session.OpAdd, Key: key, Delta: n}
}

func remove(key string) session.Op { return session.Op{Kind: session.OpDelete, Key: key} }

func clearGroup(prefix string) session.Op { return session.Op{Kind: session.OpClear, Key: prefix} }

// when makes op conditional on old; "" means no value.
func when(cond session.Condition, old string, op session.Op) session.Op {
	if op.If = cond; old != "" {
		op.Old = []byte(old)
	}
	return op
}

// signIn is a change that signs user in under the secret from.
func (t *tester) signIn(user string, from, to session.Hash) *session.Change {
	return &session.Change{
		Now:    t.now,
		Seen:   t.now,
		SignIn: &session.SignIn{User: user, At: t.now, Idle: 30 * time.Minute, Absolute: t.now.Add(12 * time.Hour)},
		Renew:  &session.Renew{From: from, To: to, OldUntil: t.now},
	}
}
