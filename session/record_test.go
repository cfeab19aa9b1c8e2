package session_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/crumb-go/crumb/session"
)

var t0 = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// record returns a live record of a visitor, with a change of its own.
func record(change ...func(r *session.Record)) *session.Record {
	r := &session.Record{
		Info:   session.Info{ID: "AAAAAAAAAAAAAAAA", Created: t0, Seen: t0, Expires: t0.Add(time.Hour), Addr: netip.MustParseAddr("192.0.2.1"), Agent: "old"},
		Secret: session.Hash{1}, Idle: time.Hour, Absolute: t0.Add(24 * time.Hour), Version: 7,
		Values: session.Values{{Key: "f.flash", JSON: []byte(`"hi"`)}, {Key: "n.n", JSON: []byte(`5`)}},
	}
	for _, f := range change {
		f(r)
	}
	return r
}

func signedIn(user string) func(r *session.Record) {
	return func(r *session.Record) { r.User, r.SignedIn, r.Auth = user, t0, 3 }
}

func set(key, value string) session.Op {
	return session.Op{Kind: session.OpSet, Key: key, Value: []byte(value)}
}

// text shows values as "key=json key=json".
func text(vs session.Values) string {
	var b strings.Builder
	for _, v := range vs {
		fmt.Fprintf(&b, "%s=%s ", v.Key, v.JSON)
	}
	return strings.TrimSpace(b.String())
}

func TestApplyToValues(t *testing.T) {
	const start = `f.flash="hi" n.n=5`
	op := func(kind session.OpKind, key string) session.Op { return session.Op{Kind: kind, Key: key} }
	sum := func(key string, n int64) session.Op {
		return session.Op{Kind: session.OpAdd, Key: key, Delta: n}
	}
	given := func(o session.Op, c session.Condition, old string) session.Op {
		if o.If = c; old != "" {
			o.Old = []byte(old)
		}
		return o
	}
	for _, c := range []struct {
		name string
		ops  []session.Op
		want string
		err  error
	}{
		{"no operation changes nothing", nil, start, nil},
		{"set replaces, and adds in the order of keys", []session.Op{set("f.flash", `"x"`), set("g.g", `1`), set("a.a", `2`), set("z.z", `3`)}, `a.a=2 f.flash="x" g.g=1 n.n=5 z.z=3`, nil},
		{"of two sets of one key the later wins", []session.Op{set("g.g", `1`), set("g.g", `2`)}, `f.flash="hi" g.g=2 n.n=5`, nil},
		{"JSON stays byte for byte", []session.Op{set("g.g", ` {"b" : 1.0,"a":1e400} `)}, `f.flash="hi" g.g= {"b" : 1.0,"a":1e400}  n.n=5`, nil},
		{"delete takes out", []session.Op{op(session.OpDelete, "f.flash")}, `n.n=5`, nil},
		{"delete of an absent key is fine", []session.Op{op(session.OpDelete, "x.x")}, start, nil},
		{"add adds", []session.Op{sum("n.n", 2), sum("n.n", -10)}, `f.flash="hi" n.n=-3`, nil},
		{"add begins at 0", []session.Op{sum("m.m", 2)}, `f.flash="hi" m.m=2 n.n=5`, nil},
		{"add to what is no integer begins at 0", []session.Op{sum("f.flash", 2)}, `f.flash=2 n.n=5`, nil},
		{"add of 0 makes the key", []session.Op{sum("m.m", 0)}, `f.flash="hi" m.m=0 n.n=5`, nil},
		{"add reaches the largest number", []session.Op{sum("n.n", math.MaxInt64-5)}, `f.flash="hi" n.n=9223372036854775807`, nil},
		{"a sum beyond it fails all", []session.Op{set("a.a", `1`), sum("n.n", math.MaxInt64-4)}, "", &session.ValueError{}},
		{"add reaches the smallest number", []session.Op{sum("n.n", -5), sum("n.n", math.MinInt64)}, `f.flash="hi" n.n=-9223372036854775808`, nil},
		{"a sum below it fails all", []session.Op{sum("n.n", -6), sum("n.n", math.MinInt64)}, "", &session.ValueError{}},
		{"clear takes the group", []session.Op{set("c.a", `1`), set("c.b.c", `2`), set("cc.a", `3`), op(session.OpClear, "c")}, `cc.a=3 f.flash="hi" n.n=5`, nil},
		{"clear of a key's own name leaves the key", []session.Op{op(session.OpClear, "f.flash")}, start, nil},
		{"clear and set in order", []session.Op{op(session.OpClear, "f"), set("f.new", `1`)}, `f.new=1 n.n=5`, nil},
		{"a condition that holds", []session.Op{given(set("f.flash", `1`), session.OrFail, `"hi"`), given(op(session.OpDelete, "n.n"), session.OrSkip, `5`)}, `f.flash=1`, nil},
		{"OrFail on another value fails all", []session.Op{set("a.a", `1`), given(op(session.OpDelete, "f.flash"), session.OrFail, `"ho"`)}, "", session.ErrConflict},
		{"OrFail on an absent value fails", []session.Op{given(op(session.OpDelete, "x.x"), session.OrFail, `1`)}, "", session.ErrConflict},
		{"OrFail that wants none fails if there is one", []session.Op{given(set("n.n", `1`), session.OrFail, "")}, "", session.ErrConflict},
		{"OrFail that wants none holds if there is none", []session.Op{given(set("x.x", `1`), session.OrFail, "")}, `f.flash="hi" n.n=5 x.x=1`, nil},
		{"OrFail compares bytes, not numbers", []session.Op{given(set("n.n", `1`), session.OrFail, `5.0`)}, "", session.ErrConflict},
		{"OrSkip on another value skips itself alone", []session.Op{given(op(session.OpDelete, "f.flash"), session.OrSkip, `"ho"`), set("a.a", `1`)}, `a.a=1 f.flash="hi" n.n=5`, nil},
		{"a condition sees the operations before it", []session.Op{set("f.flash", `1`), given(set("f.flash", `2`), session.OrFail, `1`)}, `f.flash=2 n.n=5`, nil},
		{"OrSkip on an add", []session.Op{given(sum("n.n", 1), session.OrSkip, `4`)}, start, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			rec := record()
			out, err := (&session.Change{Now: t0, Ops: c.ops}).Apply(rec)
			if ve := (*session.ValueError)(nil); c.err != nil && !errors.Is(err, c.err) && !(errors.As(c.err, &ve) && errors.As(err, &ve)) || c.err == nil && err != nil {
				t.Fatal(err)
			}
			if c.err == nil && text(out.Values) != c.want {
				t.Errorf("%s, want %s", text(out.Values), c.want)
			}
			if c.err == session.ErrConflict && out != rec {
				t.Error("beside ErrConflict comes", out)
			}
			if !reflect.DeepEqual(rec, record()) {
				t.Error("the record was changed:", rec)
			}
		})
	}
	t.Run("MaxBytes counts keys and values, to the byte, and only growth fails", func(t *testing.T) {
		size := len(`f.flash"hi"n.n5`)
		for _, c := range []struct {
			limit int
			op    session.Op
			fits  bool
		}{
			{0, set("g.g", strings.Repeat("1", 1000)), true},
			{size + 4, set("g.g", "1"), true}, {size + 3, set("g.g", "1"), false},
			{size + 1, sum("n.n", 5), true}, {size, sum("n.n", 5), false}, {size, sum("n.n", 4), true},
			{1, set("f.flash", `"ho"`), true}, {1, op(session.OpDelete, "n.n"), true}, {1, set("f.flash", `"hello"`), false},
		} {
			_, err := (&session.Change{Now: t0, Ops: []session.Op{c.op}, MaxBytes: c.limit}).Apply(record())
			if ve := (*session.ValueError)(nil); (err == nil) != c.fits || err != nil && (!errors.As(err, &ve) || ve.Key != c.op.Key) {
				t.Errorf("limit %d, %s: %v", c.limit, c.op.Key, err)
			}
		}
	})
	t.Run("Get finds every key and no other", func(t *testing.T) {
		vs := session.Values{{Key: "a.a", JSON: []byte("1")}, {Key: "b.b", JSON: []byte("2")}, {Key: "b.b.c", JSON: []byte("3")}}
		for key, want := range map[string]string{"a.a": "1", "b.b": "2", "b.b.c": "3", "": "", "a": "", "b.b.": "", "z": "", "A.A": ""} {
			if got := string(vs.Get(key)); got != want {
				t.Errorf("%q: %q", key, got)
			}
		}
	})
}

func TestApplyToSessions(t *testing.T) {
	in := func(user string) *session.SignIn {
		return &session.SignIn{User: user, At: t0.Add(time.Minute), Idle: 30 * time.Minute, Absolute: t0.Add(10 * time.Hour), Keep: []string{"n"}}
	}
	renew := func(from, to byte) *session.Renew {
		return &session.Renew{From: session.Hash{from}, To: session.Hash{to}, OldUntil: t0.Add(24 * time.Hour)}
	}
	now := t0.Add(time.Minute)
	fails := func(t *testing.T, rec *session.Record, c session.Change, want error) {
		t.Helper()
		before := *rec
		out, err := c.Apply(rec)
		if !errors.Is(err, want) || want == session.ErrStale && out != rec || want == session.ErrNotFound && out != nil {
			t.Errorf("%v, %v; want %v", out, err, want)
		}
		if !reflect.DeepEqual(*rec, before) {
			t.Error("the record was changed")
		}
	}
	apply := func(t *testing.T, rec *session.Record, c session.Change) *session.Record {
		t.Helper()
		out, err := c.Apply(rec)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	t.Run("a record lives until the microsecond before it expires", func(t *testing.T) {
		apply(t, record(), session.Change{Now: t0.Add(time.Hour - µs)})
		fails(t, record(), session.Change{Now: t0.Add(time.Hour)}, session.ErrNotFound)
		if out := apply(t, record(), session.Change{Now: t0.Add(time.Hour), End: true}); !out.Ended() {
			t.Error("an end passes by what expired by one clock and may live by another")
		}
		fails(t, record(), session.Change{Now: t0.Add(time.Hour), Seen: t0.Add(time.Hour)}, session.ErrNotFound)
	})
	t.Run("a change made under another Auth is stale, be it older or newer", func(t *testing.T) {
		for _, auth := range []int64{0, 2, 4, -3} {
			fails(t, record(signedIn("ann")), session.Change{Now: now, Auth: auth, Ops: []session.Op{set("x.x", "1")}}, session.ErrStale)
			fails(t, record(signedIn("ann")), session.Change{Now: now, Auth: auth, SignIn: in("ann"), Renew: renew(1, 2)}, session.ErrStale)
			fails(t, record(signedIn("ann")), session.Change{Now: now, Auth: auth, Seen: now}, session.ErrStale)
		}
	})
	t.Run("a sign-in sets user, limits and secret, moves Auth and drops what was planted", func(t *testing.T) {
		rec := record()
		out := apply(t, rec, session.Change{Now: now, Seen: now, SignIn: in("bob"), Renew: renew(1, 2), Ops: []session.Op{set("f.after", "1")}})
		if out.User != "bob" || !out.SignedIn.Equal(now) || out.Auth != rec.Auth+1 || out.Secret != (session.Hash{2}) || out.OldSecret != (session.Hash{1}) || out.Remember {
			t.Error(out)
		}
		if !out.Expires.Equal(now.Add(30*time.Minute)) || !out.Absolute.Equal(t0.Add(10*time.Hour)) || out.Idle != 30*time.Minute {
			t.Error(out.Expires, out.Absolute, out.Idle)
		}
		if text(out.Values) != `f.after=1 n.n=5` || out.ID != rec.ID || !out.Created.Equal(rec.Created) {
			t.Error(text(out.Values))
		}
	})
	t.Run("a sign-in replaces whatever secret is current", func(t *testing.T) {
		out := apply(t, record(func(r *session.Record) {
			r.Secret, r.OldSecret, r.OldUntil = session.Hash{5}, session.Hash{1}, t0.Add(24*time.Hour)
		}), session.Change{Now: now, SignIn: in("bob"), Renew: &session.Renew{From: session.Hash{1}, To: session.Hash{6}, OldUntil: now}})
		if out.Secret != (session.Hash{6}) || out.OldSecret != (session.Hash{5}) || out.OldUntil.After(now) {
			t.Error(out.Secret, out.OldSecret, out.OldUntil)
		}
	})
	t.Run("no user takes over another's session", func(t *testing.T) {
		fails(t, record(signedIn("ann")), session.Change{Now: now, Auth: 3, SignIn: in("bob"), Renew: renew(1, 2)}, session.ErrStale)
		fails(t, record(signedIn("ann")), session.Change{Now: now, Auth: 3, SignIn: in("ANN"), Renew: renew(1, 2)}, session.ErrStale)
	})
	t.Run("a sign-in without a new secret is refused", func(t *testing.T) {
		fails(t, record(), session.Change{Now: now, SignIn: in("bob")}, session.ErrStale)
	})
	t.Run("a step-up keeps values, moves Auth and restarts the limits", func(t *testing.T) {
		out := apply(t, record(signedIn("ann")), session.Change{Now: now, Seen: now, Auth: 3, SignIn: in("ann"), Renew: renew(1, 2)})
		if text(out.Values) != `f.flash="hi" n.n=5` || out.Auth != 4 || !out.SignedIn.Equal(now) || !out.Absolute.Equal(t0.Add(10*time.Hour)) {
			t.Error(out)
		}
	})
	t.Run("a step-up under a former secret is refused", func(t *testing.T) {
		fails(t, record(signedIn("ann")), session.Change{Now: now, Auth: 3, SignIn: in("ann"), Renew: renew(9, 2)}, session.ErrStale)
	})
	t.Run("a step-up never forgets Remember nor shortens its idle time", func(t *testing.T) {
		long := func(r *session.Record) { r.Remember, r.Idle = true, 14*day }
		out := apply(t, record(signedIn("ann"), long), session.Change{Now: now, Auth: 3, SignIn: in("ann"), Renew: renew(1, 2)})
		if !out.Remember || out.Idle != 14*day {
			t.Error(out.Remember, out.Idle)
		}
	})
	t.Run("of two renewals from one secret the first wins", func(t *testing.T) {
		one := apply(t, record(), session.Change{Now: t0, Renew: renew(1, 2)})
		two := apply(t, one, session.Change{Now: t0, Renew: renew(1, 3), Ops: []session.Op{set("x.x", "1")}})
		if two.Secret != (session.Hash{2}) || two.Values.Get("x.x") == nil {
			t.Error(two)
		}
	})
	t.Run("a change begun before a plain renewal lands, however late", func(t *testing.T) {
		one := apply(t, record(), session.Change{Now: t0, Renew: renew(1, 2)})
		if one.Auth != 0 {
			t.Error("a plain renewal moves Auth")
		}
		apply(t, one, session.Change{Now: t0.Add(59 * time.Minute), Ops: []session.Op{set("x.x", "1")}})
	})
	t.Run("the old secret lives until the new one came back, and a renewal waits for that", func(t *testing.T) {
		rec := apply(t, record(), session.Change{Now: t0, Renew: renew(1, 2)})
		came := func(secret byte, until time.Time) *session.Came {
			return &session.Came{Secret: session.Hash{secret}, Until: until}
		}
		if rec.OldSecret != (session.Hash{1}) || !rec.OldUntil.Equal(t0.Add(24*time.Hour)) {
			t.Fatal(rec)
		}
		rec = apply(t, rec, session.Change{Now: t0.Add(time.Second), Came: came(2, t0.Add(10*time.Second)), Renew: renew(2, 3)})
		if rec.Secret != (session.Hash{2}) || !rec.OldUntil.Equal(t0.Add(10*time.Second)) {
			t.Fatal("renewed while the old one still works", rec)
		}
		rec = apply(t, rec, session.Change{Now: t0.Add(2 * time.Second), Came: came(2, t0.Add(12*time.Second))})
		if !rec.OldUntil.Equal(t0.Add(10 * time.Second)) {
			t.Error("a later sign lengthens the grace:", rec.OldUntil)
		}
		early := apply(t, rec, session.Change{Now: t0.Add(10*time.Second - µs), Renew: renew(2, 3)})
		if early.Secret != (session.Hash{2}) {
			t.Error("renewed a microsecond early")
		}
		rec = apply(t, rec, session.Change{Now: t0.Add(10 * time.Second), Renew: renew(2, 3)})
		if rec.Secret != (session.Hash{3}) || rec.OldSecret != (session.Hash{2}) {
			t.Error("not renewed at the end of the grace:", rec)
		}
		rec = apply(t, rec, session.Change{Now: t0.Add(21 * time.Second), Came: came(2, t0.Add(31*time.Second))})
		if !rec.OldUntil.Equal(t0.Add(24 * time.Hour)) {
			t.Error("a late sign of secret 2 shortens its grace:", rec.OldUntil)
		}
	})
	t.Run("an end is stronger than any Auth, empties the record and happens once", func(t *testing.T) {
		rec := record(signedIn("ann"))
		out := apply(t, rec, session.Change{Now: now, Auth: 99, End: true})
		if !out.Ended() || out.Live(t0.Add(-1000*day)) || out.User != "" || out.Values != nil || out.Addr.IsValid() || out.Agent != "" || !out.Absolute.Equal(now) || out.Version == rec.Version {
			t.Error(out)
		}
		for _, at := range []time.Time{now, now.Add(-time.Hour), t0.Add(-1000 * day)} { // a clock that is behind too
			fails(t, out, session.Change{Now: at, End: true}, session.ErrNotFound)
			fails(t, out, session.Change{Now: at, Auth: 3, Ops: []session.Op{set("x.x", "1")}}, session.ErrNotFound)
			fails(t, out, session.Change{Now: at, Auth: 3, Idle: time.Hour, Seen: at}, session.ErrNotFound)
			fails(t, out, session.Change{Now: at, Auth: 3, SignIn: in("ann"), Renew: renew(1, 2)}, session.ErrNotFound)
			if r, ok := (session.Touch{ID: out.ID, Seen: at}).Apply(out); ok || r != out {
				t.Error("a touch revives it")
			}
		}
	})
	t.Run("an ended record stays until a first-visit cookie could name it no more", func(t *testing.T) {
		created := record().Created
		for end, want := range map[time.Duration]time.Duration{time.Minute: 24 * time.Hour, 24 * time.Hour: 24 * time.Hour, 30 * time.Hour: 30 * time.Hour} {
			out := apply(t, record(), session.Change{Now: created.Add(end), End: true})
			if !out.Absolute.Equal(created.Add(end)) || !out.Expires.Equal(created.Add(want)) {
				t.Errorf("ended %v after it was created: %v", end, out)
			}
		}
	})
	t.Run("a touch moves Seen forward and Expires with it, never past the absolute limit", func(t *testing.T) {
		rec := record()
		for at, want := range map[time.Duration]time.Duration{time.Minute: 61 * time.Minute, 59 * time.Minute: 119 * time.Minute} {
			out, ok := session.Touch{ID: rec.ID, Seen: t0.Add(at)}.Apply(rec)
			if !ok || !out.Seen.Equal(t0.Add(at)) || !out.Expires.Equal(t0.Add(want)) || out.Version == rec.Version {
				t.Error(at, out)
			}
		}
		for _, at := range []time.Duration{0, -time.Minute, time.Hour, 3 * time.Hour} {
			if out, ok := (session.Touch{ID: rec.ID, Seen: t0.Add(at)}).Apply(rec); ok || out != rec {
				t.Error(at, out)
			}
		}
		short := record(func(r *session.Record) { r.Absolute = t0.Add(70 * time.Minute) })
		out, _ := session.Touch{ID: rec.ID, Seen: t0.Add(50 * time.Minute)}.Apply(short)
		if !out.Expires.Equal(t0.Add(70 * time.Minute)) {
			t.Error(out.Expires)
		}
	})
	t.Run("address and agent change if they are given", func(t *testing.T) {
		out := apply(t, record(), session.Change{Now: t0})
		if out.Addr != record().Addr || out.Agent != "old" {
			t.Error(out)
		}
		out = apply(t, out, session.Change{Now: t0, Addr: netip.MustParseAddr("::1"), Agent: "new"})
		if out.Addr.String() != "::1" || out.Agent != "new" {
			t.Error(out)
		}
	})
}

// generate makes a change as a request, honest or not, could.
func generate(r *rand.Rand, rec *session.Record) *session.Change {
	keys := []string{"a.a", "a.b", "a.b.c", "b.n", "cart.items"}
	values := []string{`1`, `"x"`, `-9223372036854775808`, `9223372036854775807`, `[]`, `null`}
	pick := func(list []string) string { return list[r.IntN(len(list))] }
	c := &session.Change{Now: t0.Add(time.Duration(r.IntN(200)-20) * time.Minute), Auth: rec.Auth}
	if r.IntN(8) == 0 {
		c.Auth += int64(r.IntN(3) - 1)
	}
	for range r.IntN(4) {
		op := session.Op{Kind: session.OpKind(1 + r.IntN(4)), Key: pick(keys), Value: json.RawMessage(pick(values)), Delta: int64(r.IntN(7) - 3)}
		if op.Kind == session.OpClear {
			op.Key = pick([]string{"a", "a.b", "cart"})
		}
		if r.IntN(4) == 0 && op.Kind != session.OpClear {
			op.If = session.Condition(1 + r.IntN(2))
			if op.Old = rec.Values.Get(op.Key); r.IntN(3) == 0 {
				op.Old = json.RawMessage(pick(values))
			}
		}
		c.Ops = append(c.Ops, op)
	}
	if r.IntN(2) == 0 {
		c.Seen = c.Now.Add(time.Duration(r.IntN(20)-10) * time.Minute)
	}
	secrets := []session.Hash{rec.Secret, rec.OldSecret, {9}}
	if r.IntN(4) == 0 {
		c.Renew = &session.Renew{From: secrets[r.IntN(3)], To: session.Hash{byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256)), 1}, OldUntil: rec.Absolute}
		if r.IntN(2) == 0 {
			c.SignIn = &session.SignIn{User: pick([]string{"ann", "bob"}), At: c.Now, Remember: r.IntN(2) == 0, Idle: time.Duration(1+r.IntN(60)) * time.Minute, Absolute: c.Now.Add(5 * time.Hour), Keep: []string{"cart"}}
		}
	}
	if r.IntN(6) == 0 {
		c.Came = &session.Came{Secret: secrets[r.IntN(3)], Until: c.Now.Add(10 * time.Second)}
	}
	if r.IntN(10) == 0 && c.SignIn == nil {
		c.Idle = time.Duration(r.IntN(180)) * time.Minute
	}
	if r.IntN(6) == 0 {
		c.MaxBytes = 1 + r.IntN(60)
	}
	c.End = r.IntN(25) == 0
	return c
}

func size(vs session.Values) (n int) {
	for _, v := range vs {
		n += len(v.Key) + len(v.JSON)
	}
	return n
}

// clone copies rec so deep that nothing is shared.
func clone(rec *session.Record) *session.Record {
	out := *rec
	out.Values = slices.Clone(rec.Values)
	for i := range out.Values {
		out.Values[i].JSON = slices.Clone(out.Values[i].JSON)
	}
	return &out
}

func TestASignInKeepsTheKeysNamedAndTheGroups(t *testing.T) {
	rec := record(func(r *session.Record) {
		r.Values = nil
		for _, key := range []string{"cart.items", "cart.items.a", "cart.itemsold", "cart.x", "ui.theme", "uix.y"} {
			r.Values = append(r.Values, session.Value{Key: key, JSON: []byte("1")})
		}
	})
	out, err := (&session.Change{Now: t0, SignIn: &session.SignIn{User: "ann", At: t0, Idle: time.Hour, Absolute: t0.Add(time.Hour),
		Keep: []string{"cart.items", "ui"}}, Renew: &session.Renew{From: rec.Secret, To: session.Hash{2}}}).Apply(rec)
	if err != nil || text(out.Values) != "cart.items=1 cart.items.a=1 ui.theme=1" {
		t.Fatalf("kept %s, %v", text(out.Values), err)
	}
}

func TestApplyKeepsItsInvariants(t *testing.T) {
	outcomes := map[string]int{}
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		rec := record(func(r *session.Record) { r.Version = 1 })
		for step := range 15 {
			c := generate(r, rec)
			before := clone(rec)
			out, err := c.Apply(rec)
			fail := func(what string) {
				t.Fatalf("seed %d, step %d: %s\nrecord %+v\nchange %+v\nresult %+v, %v", seed, step, what, before, c, out, err)
			}
			again, err2 := c.Apply(clone(before))
			switch {
			case !reflect.DeepEqual(rec, before):
				fail("the record was changed in place")
			case fmt.Sprint(err) != fmt.Sprint(err2) || err == nil && !reflect.DeepEqual(out, again):
				fail("the same again has another outcome")
			}
			var ve *session.ValueError
			switch {
			case err == nil:
				outcomes["applied"]++
			case errors.Is(err, session.ErrNotFound):
				outcomes["not found"]++
				if rec.Live(c.Now) || out != nil {
					fail("not found, though it lives")
				}
			case errors.Is(err, session.ErrStale):
				outcomes["stale"]++
				if c.Auth == rec.Auth && c.SignIn == nil || c.End || out != rec {
					fail("stale without a reason")
				}
			case errors.Is(err, session.ErrConflict):
				outcomes["conflict"]++
				if out != rec || !slices.ContainsFunc(c.Ops, func(op session.Op) bool { return op.If == session.OrFail }) {
					fail("conflict without a condition")
				}
			case errors.As(err, &ve):
				outcomes["value"]++
			default:
				fail("an error that is not documented")
			}
			if err != nil {
				if rec.Ended() {
					break
				}
				continue
			}
			if rec.Ended() || !c.End && !rec.Live(c.Now) {
				fail("a record that had ended or expired was changed")
			}
			if out.ID != rec.ID || !out.Created.Equal(rec.Created) || out.Version == rec.Version {
				fail("ID or Created moved, or Version did not")
			}
			if c.End {
				outcomes["ended"]++
				if !out.Ended() || out.Live(c.Now) || out.Live(t0.Add(-365*day)) || len(out.Values) != 0 || out.User != "" || out.Auth < rec.Auth {
					fail("an end that is none")
				}
				rec = out
				continue
			}
			want := out.Seen.Add(out.Idle)
			if out.Absolute.Before(want) {
				want = out.Absolute
			}
			signsIn := c.SignIn != nil
			switch {
			case out.Ended():
				fail("ended by itself")
			case !out.Expires.Equal(want):
				fail("Expires is not the earlier of Absolute and Seen+Idle")
			case out.Seen.Before(rec.Seen):
				fail("Seen went back")
			case out.Auth < rec.Auth, (out.Auth > rec.Auth) != signsIn:
				fail("Auth moves at a sign-in, forward, and only there")
			case !signsIn && (!out.Absolute.Equal(rec.Absolute) || out.User != rec.User || !out.SignedIn.Equal(rec.SignedIn) || out.Remember != rec.Remember):
				fail("what belongs to the sign-in moved without one")
			case !signsIn && out.Idle < rec.Idle:
				fail("Idle shrank")
			case signsIn && (out.User != c.SignIn.User || out.Secret != c.Renew.To || rec.User != "" && rec.User != out.User):
				fail("a sign-in of another, or without a new secret")
			case !signsIn && out.Secret != rec.Secret && (c.Renew == nil || c.Renew.From != rec.Secret || c.Now.Before(rec.OldUntil) || out.OldSecret != rec.Secret):
				fail("the secret moved without a right to it")
			case out.Secret == rec.Secret && (out.OldSecret != rec.OldSecret || out.OldUntil.After(rec.OldUntil)):
				fail("the former secret moved, or lives longer")
			case c.MaxBytes > 0 && len(c.Ops) > 0 && size(out.Values) > c.MaxBytes && size(out.Values) > size(rec.Values):
				fail("grew past MaxBytes")
			case !slices.IsSortedFunc(out.Values, func(a, b session.Value) int { return strings.Compare(a.Key, b.Key) }):
				fail("values out of order")
			case slices.ContainsFunc(out.Values, func(v session.Value) bool { return v.JSON == nil }):
				fail("a value without JSON")
			}
			for i := 1; i < len(out.Values); i++ {
				if out.Values[i].Key == out.Values[i-1].Key {
					fail("a key twice")
				}
			}
			if touched, ok := (session.Touch{ID: out.ID, Seen: c.Now.Add(time.Minute)}).Apply(out); ok && (touched.Seen.Before(out.Seen) || touched.Expires.Before(out.Expires) || touched.Expires.After(out.Absolute)) {
				fail("a touch moved a limit back, or past the absolute one")
			}
			rec = out
		}
	}
	for _, what := range []string{"applied", "not found", "stale", "conflict", "value", "ended"} {
		if outcomes[what] < 100 {
			t.Errorf("too few changes end as %q to prove anything: %v", what, outcomes)
		}
	}
}
