package storetest

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/crumb-go/crumb/session"
)

var updateChecks = []check{{
	name: "an update never creates",
	rule: "Update of a record that is not there returns ErrNotFound and creates nothing, whatever the change and whatever base says",
	from: "Store.Update",
	run: func(t *tester) {
		in := t.signIn("ana", secret(1), secret(2))
		in.Ops = []session.Op{set("a.b", "1")}
		changes := []*session.Change{
			{Now: t.now},
			{Now: t.now, Seen: t.now, Idle: time.Hour, Agent: "agent"},
			t.ops(set("a.b", "1"), add("a.c", 1)),
			t.ops(when(session.OrFail, "", set("a.b", "1"))),
			{Now: t.now, End: true},
			{Now: t.now, Renew: &session.Renew{From: secret(1), To: secret(2), OldUntil: t.now}},
			in,
		}
		for _, c := range changes {
			t.refused(t.visitor(1), c, session.ErrNotFound)
			t.refused(bare(1), c, session.ErrNotFound)
		}
		t.create(t.visitor(1))
		base := t.load(id(1))
		if err := t.store.Delete(t.ctx, id(1)); err != nil {
			t.Fatalf("Delete: %v", err)
		}
		for _, c := range changes {
			t.refused(base, c, session.ErrNotFound)
		}
	},
}, {
	name: "an expired session takes no change",
	rule: "a record that expired by Change.Now is gone; one that expires a microsecond later is not",
	from: "Change.Apply",
	run: func(t *tester) {
		rec := t.holding(1, "a.b", "1")
		t.create(rec)
		for _, now := range []time.Time{rec.Expires, rec.Expires.Add(time.Hour)} {
			t.refused(rec, &session.Change{Now: now, Seen: now, Idle: 2 * time.Hour, Ops: []session.Op{set("a.b", "2")}}, session.ErrNotFound)
			in := t.signIn("ana", secret(1), secret(2))
			in.Now = now
			t.refused(rec, in, session.ErrNotFound)
		}
		last := rec.Expires.Add(-time.Microsecond)
		got := t.update(rec, &session.Change{Now: last, Seen: last})
		if want := last.Add(time.Hour); !got.Expires.Equal(want) {
			t.Fatalf("seen a microsecond before its expiry, the session expires at %s, not %s", got.Expires, want)
		}
	},
}, {
	name: "an end ends a session that has expired too",
	rule: "what expired by the clock of who ends it may live by another's: the end is written down all the same, once",
	from: "Change.Apply",
	run: func(t *tester) {
		rec := t.holding(1, "a.b", "1")
		t.create(rec)
		end := &session.Change{Now: rec.Expires.Add(time.Second), End: true}
		if got := t.update(rec, end); !got.Ended() {
			t.Fatalf("told to end an expired session, the store returned %s", dump(got))
		}
		if got := t.load(rec.ID); !got.Ended() {
			t.Fatalf("an expired session that was ended is %s", dump(got))
		}
		t.refused(rec, end, session.ErrNotFound)
	},
}, {
	name: "an ended session stays ended whatever the clock says",
	rule: "ended is a fact, not a time: a process whose clock is behind the one that ended the session changes nothing either",
	from: "Record.Ended, Change.Apply",
	run: func(t *tester) {
		rec := t.holding(1, "a.b", "1")
		t.create(rec)
		ahead := t.now.Add(30 * time.Minute)
		ended := t.update(rec, &session.Change{Now: ahead, End: true})
		if !ended.Ended() || ended.Live(t.now) {
			t.Fatalf("an ended record says Ended %t, Live %t", ended.Ended(), ended.Live(t.now))
		}
		for _, base := range []*session.Record{rec, ended, bare(1)} {
			t.refused(base, t.ops(set("a.b", "2")), session.ErrNotFound)
			t.refused(base, &session.Change{Now: t.now, Seen: t.now, Idle: time.Hour}, session.ErrNotFound)
			t.refused(base, t.signIn("ana", secret(1), secret(2)), session.ErrNotFound)
			t.refused(base, &session.Change{Now: t.now, End: true}, session.ErrNotFound)
		}
	},
}, {
	name: "an end empties the record and leaves it",
	rule: "ending empties the record and leaves it, expired, so that late requests are told from unknown ones; Delete is for erasing",
	from: "Change.Apply; docs/design.md#late-requests",
	run: func(t *tester) {
		rec := t.full(1)
		t.create(rec)
		now := t.now.Add(time.Second)
		c := &session.Change{Now: now, End: true, Auth: rec.Auth}
		want, _ := c.Apply(rec)
		t.same("the ended record", t.update(rec, c), want)
		t.same("the ended record, loaded,", t.load(rec.ID), want)
	},
}, {
	name: "an end asks for no Auth",
	rule: "an end is stronger than any Auth: a sign-out from before a sign-in ends the session too",
	from: "Change.End",
	run: func(t *tester) {
		t.create(t.of(1, "ana"), t.of(2, "ana"))
		t.update(bare(1), &session.Change{Now: t.now, End: true, Auth: 0})
		t.update(bare(2), &session.Change{Now: t.now, End: true, Auth: 7, Ops: []session.Op{when(session.OrFail, "1", set("a.b", "2"))}})
		for n := 1; n <= 2; n++ {
			if rec := t.load(id(n)); !rec.Ended() || rec.User != "" || len(rec.Values) > 0 {
				t.Fatalf("the session has not ended: %s", dump(rec))
			}
		}
	},
}, {
	name: "an addition counts from what is stored",
	rule: "the change is applied to the record as it stands, not to base",
	from: "Store.Update",
	run: func(t *tester) {
		base := t.holding(1, "n.n", "10")
		t.create(base)
		for i := range 5 {
			want := strconv.Itoa(11 + i)
			if got := t.update(base, t.ops(add("n.n", 1))).Values.Get("n.n"); string(got) != want {
				t.Fatalf("10 and %d additions of 1 are %s", i+1, got)
			}
		}
	},
}, {
	name: "different keys from one stale base are all kept",
	rule: "two requests that write different keys both survive",
	from: "docs/design.md#a-record-a-change-a-store",
	run: func(t *tester) {
		base := t.holding(1, "a.a", "0")
		t.create(base)
		t.update(base, t.ops(set("a.b", "1")))
		t.update(base, t.ops(set("a.c", "2")))
		t.update(base, t.ops(remove("a.a")))
		want := t.holding(1, "a.b", "1", "a.c", "2")
		want.Version = 3
		t.same("the record", t.load(id(1)), want)
	},
}, {
	name: "a base proves nothing",
	rule: "base may be stale or hold nothing but the ID; an error of Apply on base proves nothing, nor does a success",
	from: "Store.Update",
	run: func(t *tester) {
		early := t.holding(1, "a.b", "1")
		t.create(early)
		late := t.now.Add(90 * time.Minute)
		seen := t.update(early, &session.Change{Now: t.now.Add(50 * time.Minute), Seen: t.now.Add(50 * time.Minute), Ops: []session.Op{set("a.b", "2")}})
		// By early the session is over and the condition fails; it is neither.
		got := t.update(early, &session.Change{Now: late, Ops: []session.Op{when(session.OrFail, "2", set("a.b", "3"))}})
		want := clone(seen)
		want.Values[0].JSON, want.Version = []byte("3"), seen.Version+1
		t.same("the record", got, want)
		// By seen and by early the condition holds; it does not.
		t.refused(seen, t.ops(when(session.OrFail, "2", set("a.b", "4"))), session.ErrConflict)
		t.refused(early, t.ops(when(session.OrFail, "1", set("a.b", "4"))), session.ErrConflict)
		t.refused(bare(1), t.ops(when(session.OrFail, "", set("a.b", "4"))), session.ErrConflict)

		in := t.update(early, t.signIn("ana", secret(1), secret(2)))
		c := t.ops(set("a.b", "5"))
		c.Auth = in.Auth
		t.update(early, c)
		t.update(bare(1), c)
		t.update(early, &session.Change{Now: t.now, End: true})
		t.refused(in, c, session.ErrNotFound)
	},
}, {
	name: "a change whose condition fails does nothing at all",
	rule: "if an OrFail condition fails the whole change fails with ErrConflict, the record beside it",
	from: "Store.Update, session.OrFail",
	run: func(t *tester) {
		rec := t.holding(1, "a.b", "1", "cart.a", "1")
		t.create(rec)
		c := t.ops(set("a.c", "1"), add("n.n", 1), clearGroup("cart"), when(session.OrFail, "2", set("a.b", "3")))
		c.Seen, c.Agent = t.now.Add(time.Second), "agent"
		t.refused(rec, c, session.ErrConflict)
		t.refused(rec, t.ops(when(session.OrFail, "2", remove("a.b"))), session.ErrConflict)
		t.refused(rec, t.ops(when(session.OrFail, "1", set("a.d", "3"))), session.ErrConflict)
		t.refused(rec, t.ops(when(session.OrFail, "", set("a.b", "3"))), session.ErrConflict)
		t.refused(rec, t.ops(when(session.OrFail, "2", add("a.b", 3))), session.ErrConflict)
		got := t.update(rec, t.ops(when(session.OrFail, "1", set("a.b", "2")), when(session.OrFail, "2", add("a.b", 5)), when(session.OrFail, "", set("a.d", "4"))))
		if string(got.Values.Get("a.b")) != "7" || string(got.Values.Get("a.d")) != "4" {
			t.Fatalf("conditions that hold, also on what the change itself wrote, led to %s", values(got))
		}
	},
}, {
	name: "a condition compares bytes",
	rule: "a condition is on the bytes the key held, as the store returned them; null is a value",
	from: "session.Op",
	run: func(t *tester) {
		rec := t.holding(1, "a.null", "null", "a.object", `{"b":1, "a":2}`, "a.one", "1")
		t.create(rec)
		for key, olds := range map[string][]string{
			"a.null":   {"", "0", "NULL"},
			"a.object": {`{"a":2,"b":1}`, `{"b":1,"a":2}`},
			"a.one":    {"1.0", "01", " 1", "1 ", `"1"`, "true", "10"},
		} {
			for _, old := range olds {
				t.refused(rec, t.ops(when(session.OrFail, old, set(key, "2"))), session.ErrConflict)
			}
		}
		got := t.update(rec, t.ops(when(session.OrFail, "null", set("a.null", "2")), when(session.OrFail, `{"b":1, "a":2}`, set("a.object", "2"))))
		if string(got.Values.Get("a.null")) != "2" || string(got.Values.Get("a.object")) != "2" {
			t.Fatalf("conditions on the same bytes led to %s", values(got))
		}
	},
}, {
	name: "popping a message leaves a newer one alone",
	rule: "an OrSkip whose condition fails does nothing; the rest of the change goes on",
	from: "session.OrSkip",
	run: func(t *tester) {
		base := t.holding(1, "f.flash", `"old"`)
		t.create(base)
		t.update(base, t.ops(set("f.flash", `"new"`)))
		got := t.update(base, t.ops(when(session.OrSkip, `"old"`, remove("f.flash")), add("n.n", 1)))
		if string(got.Values.Get("f.flash")) != `"new"` || string(got.Values.Get("n.n")) != "1" {
			t.Fatalf("popping the old message led to %s", values(got))
		}
		got = t.update(base, t.ops(when(session.OrSkip, `"new"`, remove("f.flash"))))
		if got.Values.Get("f.flash") != nil {
			t.Fatalf("popping the new message led to %s", values(got))
		}
	},
}, {
	name: "a change made under another Auth is refused",
	rule: "a request that loaded before a sign-in and commits after it is refused with ErrStale, the record beside it: it must not write into the session of whoever signed in",
	from: "Store.Update; docs/design.md#late-requests",
	run: func(t *tester) {
		before := t.holding(1, "a.b", "1")
		t.create(before)
		after := t.update(before, t.signIn("ana", secret(1), secret(2)))
		slow := t.ops(set("a.b", `"planted"`))
		t.refused(before, slow, session.ErrStale)
		t.refused(after, slow, session.ErrStale)
		t.refused(bare(1), slow, session.ErrStale)
		slow.Auth = after.Auth + 1
		t.refused(after, slow, session.ErrStale)
		renew := &session.Change{Now: t.now, Renew: &session.Renew{From: secret(2), To: secret(3), OldUntil: t.now}}
		t.refused(before, renew, session.ErrStale)
		slow.Auth = after.Auth
		t.update(after, slow)
	},
}, {
	name: "a sign-in keeps no value but those in Keep or under it",
	rule: "a sign-in sets the user, moves Auth, replaces the secret, begins new limits, and drops values from before except the keys in Keep and those under them; those of the same change stay",
	from: "session.SignIn, Change.Apply",
	run: func(t *tester) {
		base := t.holding(1, "a.b", `"planted"`, "cart", "0", "cart.items", "[1]", "cartoon.seen", "1", "ui.theme", "2", "ui.theme.old", "3", "ui.themes", "4")
		t.create(base)
		c := t.signIn("ana", secret(9), secret(2))
		c.SignIn.Keep = []string{"cart", "ui.theme"}
		c.Ops = []session.Op{set("a.new", "1")}
		want := t.holding(1, "a.new", "1", "cart", "0", "cart.items", "[1]", "ui.theme", "2", "ui.theme.old", "3")
		want.User, want.SignedIn, want.Auth, want.Version = "ana", t.now, 1, 1
		want.Idle, want.Expires, want.Absolute = 30*time.Minute, t.now.Add(30*time.Minute), t.now.Add(12*time.Hour)
		want.Secret, want.OldSecret, want.OldUntil = secret(2), secret(1), t.now
		t.same("the signed-in record", t.update(base, c), want)
		t.same("the signed-in record, loaded,", t.load(id(1)), want)
	},
}, {
	name: "nobody takes over another's session",
	rule: "a sign-in over another user's session is ErrStale; so is a step-up under a secret that is no longer current",
	from: "Change.Apply",
	run: func(t *tester) {
		rec := t.of(1, "ana")
		rec.Values = session.Values{{Key: "a.b", JSON: []byte("1")}}
		t.create(rec)
		sign := func(user string, from session.Hash) *session.Change {
			c := t.signIn(user, from, secret(2))
			c.Auth = rec.Auth
			return c
		}
		for _, user := range []string{"bob", "Ana", "ana ", "aná"} {
			t.refused(rec, sign(user, secret(1)), session.ErrStale)
		}
		t.refused(rec, sign("ana", secret(5)), session.ErrStale)
		c := sign("ana", secret(1))
		c.Renew = nil
		t.refused(rec, c, session.ErrStale)
		if got := t.update(rec, sign("ana", secret(1))); got.Auth != rec.Auth+1 || got.Secret != secret(2) || len(got.Values) != 1 {
			t.Fatalf("a step-up led to %s", dump(got))
		}
	},
}, {
	name: "a change from before a plain renewal lands however late",
	rule: "a plain renewal does not move Auth: a request however slow commits to the same record",
	from: "docs/design.md#late-requests",
	run: func(t *tester) {
		base := t.visitor(1)
		t.create(base)
		renewed := t.update(base, &session.Change{Now: t.now, Renew: &session.Renew{From: secret(1), To: secret(2), OldUntil: base.Absolute}})
		c := t.ops(set("a.b", "1"))
		c.Now = t.now.Add(50 * time.Minute)
		want := clone(renewed)
		want.Values, want.Version = session.Values{{Key: "a.b", JSON: []byte("1")}}, renewed.Version+1
		t.same("the record", t.update(base, c), want)
	},
}, {
	name: "a renewal waits until the one before has come back",
	rule: "the old secret works until the new one has come back and a little longer; until then another Renew does nothing",
	from: "session.Renew; docs/design.md#renewal-and-sign-in",
	run: func(t *tester) {
		base := t.visitor(1)
		t.create(base)
		renew := func(at time.Duration, from, to int, came *session.Came) *session.Record {
			return t.update(base, &session.Change{
				Now: t.now.Add(at), Came: came,
				Renew: &session.Renew{From: secret(from), To: secret(to), OldUntil: base.Absolute},
			})
		}
		want := func(got *session.Record, current, old int, until time.Time) {
			t.Helper()
			if got.Secret != secret(current) || got.OldSecret != secret(old) || !got.OldUntil.Equal(until) {
				t.Fatalf("the secret is %x, the one before %x until %s", got.Secret, got.OldSecret, got.OldUntil)
			}
			t.same("the loaded record", t.load(got.ID), got)
		}
		grace := t.now.Add(10 * time.Second)
		want(renew(0, 1, 2, nil), 2, 1, base.Absolute)
		want(renew(0, 1, 3, nil), 2, 1, base.Absolute)
		want(renew(0, 2, 3, nil), 2, 1, base.Absolute)
		want(renew(time.Second, 2, 3, &session.Came{Secret: secret(2), Until: grace}), 2, 1, grace)
		want(renew(10*time.Second-time.Microsecond, 2, 3, nil), 2, 1, grace)
		want(renew(10*time.Second, 1, 3, nil), 2, 1, grace)
		want(renew(10*time.Second, 2, 3, nil), 3, 2, base.Absolute)
	},
}, {
	name: "only the return of the current secret shortens the life of the one before",
	rule: "Came does nothing if its secret is no longer current, and never lengthens",
	from: "session.Came",
	run: func(t *tester) {
		base := t.visitor(1)
		base.OldSecret, base.OldUntil = secret(0), t.now.Add(time.Hour)
		t.create(base)
		until := func(n int, until time.Time) time.Time {
			return t.update(base, &session.Change{Now: t.now, Came: &session.Came{Secret: secret(n), Until: until}}).OldUntil
		}
		for _, n := range []int{0, 7} {
			if got := until(n, t.now); !got.Equal(base.OldUntil) {
				t.Fatalf("the return of a secret that is not current moved OldUntil to %s", got)
			}
		}
		if got := until(1, t.now.Add(10*time.Second)); !got.Equal(t.now.Add(10 * time.Second)) {
			t.Fatalf("the return of the current secret moved OldUntil to %s", got)
		}
		if got := until(1, t.now.Add(time.Minute)); !got.Equal(t.now.Add(10 * time.Second)) {
			t.Fatalf("a second return of the current secret moved OldUntil to %s", got)
		}
	},
}, {
	name: "a sum out of range is an error",
	rule: "adds are exact: an overflow is a *ValueError and changes nothing",
	from: "Change.Apply; docs/design.md#a-record-a-change-a-store",
	run: func(t *tester) {
		rec := t.holding(1, "n.max", strconv.Itoa(math.MaxInt64-1), "n.min", strconv.Itoa(math.MinInt64))
		t.create(rec)
		for key, delta := range map[string]int64{"n.max": 2, "n.min": -1} {
			_, err := t.store.Update(t.ctx, rec, t.ops(set("a.b", "1"), add(key, delta)))
			t.isValueError(err, key)
			t.same("after an overflow the record", t.load(rec.ID), rec)
		}
		got := t.update(rec, t.ops(add("n.max", 1), add("n.min", math.MaxInt64), add("n.big", 1<<53+1)))
		for key, want := range map[string]string{"n.max": "9223372036854775807", "n.min": "-1", "n.big": "9007199254740993"} {
			if sum := got.Values.Get(key); string(sum) != want {
				t.Fatalf("the sum of %s is %s, not %s", key, sum, want)
			}
		}
	},
}, {
	name: "a value that is no integer counts as nothing",
	rule: "a value that is no int64 counts as 0 when it is added to, on every store",
	from: "session.OpAdd",
	run: func(t *tester) {
		olds := []string{`"7"`, "null", "[]", "[7]", "{}", "true", "1.0", "1e2", " 7", "7 ", "9223372036854775808", "-9223372036854775809"}
		var pairs []string
		var adds []session.Op
		for i, old := range olds {
			pairs = append(pairs, "n.n"+strconv.Itoa(i), old)
			adds = append(adds, add("n.n"+strconv.Itoa(i), 5))
		}
		t.create(t.holding(1, append(pairs, "n.zero", "-0")...))
		got := t.update(bare(1), t.ops(append(adds, add("n.zero", 5), add("n.absent", 5))...))
		for i, old := range olds {
			if sum := got.Values.Get("n.n" + strconv.Itoa(i)); string(sum) != "5" {
				t.Fatalf("%s and 5 are %s", old, sum)
			}
		}
		if sum := got.Values.Get("n.zero"); string(sum) != "5" {
			t.Fatalf("-0 and 5 are %s", sum)
		}
		if sum := got.Values.Get("n.absent"); string(sum) != "5" {
			t.Fatalf("nothing and 5 are %s", sum)
		}
	},
}, {
	name: "a change that grows past MaxBytes fails",
	rule: "what parallel requests write together is limited too: a change that grows the values past MaxBytes is a *ValueError and changes nothing; one that shrinks them is not",
	from: "Change.MaxBytes",
	run: func(t *tester) {
		rec := t.holding(1, "a.b", `"`+strings.Repeat("x", 95)+`"`)
		t.create(rec)
		limited := func(max int, ops ...session.Op) *session.Change {
			c := t.ops(ops...)
			c.MaxBytes = max
			return c
		}
		for _, c := range []*session.Change{limited(102, set("a.c", "1")), limited(103, add("a.c", 1)), limited(50, set("a.c", "1"))} {
			_, err := t.store.Update(t.ctx, bare(1), c)
			t.isValueError(err, "a.c")
			t.same("after a change that was too big the record", t.load(rec.ID), rec)
		}
		t.update(bare(1), limited(104, set("a.c", "1")))
		t.update(bare(1), limited(50, set("a.b", `"`+strings.Repeat("x", 90)+`"`)))
		t.update(bare(1), limited(50, remove("a.c")))
	},
}, {
	name: "clearing a group spares its neighbours",
	rule: "OpClear removes every key that begins with the prefix and a dot, and no other",
	from: "session.OpClear",
	run: func(t *tester) {
		t.create(t.holding(1, "a_b.c", "1", "a_b.c.d", "1", "axb.c", "1", "a_b", "1", "a_bc.d", "1", "A_B.c", "1", "a%.c", "1", "b.a_b.c", "1"))
		got := t.update(bare(1), t.ops(clearGroup("a_b"), clearGroup("a%"), clearGroup("none")))
		want := t.holding(1, "A_B.c", "1", "a_b", "1", "a_bc.d", "1", "axb.c", "1", "b.a_b.c", "1")
		want.Version = 1
		t.same("the record", got, want)
		t.same("the record, loaded,", t.load(id(1)), want)
	},
}, {
	name: "operations are applied in their order",
	rule: "Change.Ops are applied in order, each to what the one before left",
	from: "session.Change",
	run: func(t *tester) {
		t.create(t.holding(1, "a.b", "1", "a.c", "1"))
		got := t.update(bare(1), t.ops(set("a.b", "5"), add("a.b", 2), clearGroup("a"), add("a.b", 3), set("a.d", "1"), remove("a.d"), remove("a.d")))
		want := t.holding(1, "a.b", "3")
		want.Version = 1
		t.same("the record", got, want)
	},
}, {
	name: "an update never moves seen back and never lowers idle",
	rule: "Change.Seen never moves Record.Seen back and Change.Idle only raises Record.Idle; expiry is the lesser of Seen+Idle and Absolute",
	from: "session.Change, session.Record",
	run: func(t *tester) {
		rec := t.visitor(1)
		t.create(rec)
		at := func(seen, idle time.Duration) {
			t.Helper()
			c := &session.Change{Now: t.now, Seen: t.now.Add(seen), Idle: idle}
			want, err := c.Apply(rec)
			if err != nil {
				t.Fatalf("Apply: %v", err)
			}
			t.same("the record", t.update(bare(1), c), want)
			rec = want
		}
		at(30*time.Minute, 0)
		at(10*time.Minute, 0)
		at(-time.Minute, 30*time.Minute)
		at(0, 2*time.Hour)
		at(0, time.Hour)
		at(23*time.Hour, 0)
		if !rec.Expires.Equal(rec.Absolute) {
			t.Fatalf("the session expires at %s, after its absolute limit %s", rec.Expires, rec.Absolute)
		}
	},
}, {
	name: "every update moves the version",
	rule: "Version moves with every Update, also one that changes nothing else, and is part of what Load returns",
	from: "session.Record",
	run: func(t *tester) {
		rec := t.visitor(1)
		t.create(rec)
		for i, c := range []*session.Change{{Now: t.now}, t.ops(remove("a.b")), t.ops(set("a.b", "1")), t.ops(set("a.b", "1")), {Now: t.now, End: true}} {
			got := t.update(bare(1), c)
			if got.Version != int64(i+1) || t.load(rec.ID).Version != got.Version {
				t.Fatalf("after %d updates the version is %d, loaded %d", i+1, got.Version, t.load(rec.ID).Version)
			}
		}
	},
}}
