package storetest

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/crumb-go/crumb/session"
)

// exotic are values that engines are known to damage: they refuse NUL, make
// floats of large integers, print 14 digits, sort keys, escape, normalize, or
// mistake an empty array for an empty object.
var exotic = map[string]string{
	"json.array":     `[]`,
	"json.big":       `9223372036854775807`,
	"json.empty":     `""`,
	"json.escapes":   `"\u003c\u00e9\/\ud83c\udf6a"`,
	"json.exponent":  `1e400`,
	"json.fraction":  `0.1000000000000000055511151231257827021181583404541015625`,
	"json.html":      `"<a href='x'>&amp;</a>"`,
	"json.lines":     "\"\u2028\u2029\"",
	"json.long":      `12345678901234567890123456789012345678901234567890`,
	"json.negative":  `-0`,
	"json.nul":       `"\u0000"`,
	"json.null":      `null`,
	"json.object":    `{}`,
	"json.order":     `{"b":1,"a":2,"b":3}`,
	"json.point":     `1.0`,
	"json.quotes":    `"'; DROP TABLE \"sessions\"; -- \\ %s $1 ? {tag}"`,
	"json.space":     " { \"a\" :\t1,\r\n\"b\" : [ ] } ",
	"json.surrogate": `"\ud800"`,
	"json.unicode":   "\"日本語 🍪 ñ n\u0303 \u202e\"",
}

var recordChecks = []check{{
	name: "a record comes back as it was given",
	rule: "every field of a record is kept, set or zero",
	from: "session.Record; Store.Create, Store.Load",
	run: func(t *tester) {
		ended := t.visitor(3)
		ended.Idle, ended.Expires, ended.Absolute = 0, t.now, t.now
		four, mapped, zone := t.visitor(4), t.visitor(5), t.visitor(6)
		four.Addr = netip.MustParseAddr("192.0.2.1")
		mapped.Addr = netip.MustParseAddr("::ffff:192.0.2.1")
		zone.Addr = netip.MustParseAddr("fe80::1%eth0")
		agent := t.visitor(7)
		agent.Agent = strings.Repeat("é", 128)
		recs := []*session.Record{t.visitor(1), t.full(2), ended, four, mapped, zone, agent}
		t.create(recs...)
		for _, rec := range recs {
			t.same("the loaded record", t.load(rec.ID), rec)
		}
	},
}, {
	name: "values come back byte for byte",
	rule: "values are JSON text that no store may reformat",
	from: "session.Value; docs/design.md#a-record-a-change-a-store",
	run: func(t *tester) {
		var pairs []string
		var sets []session.Op
		for key, json := range exotic {
			pairs = append(pairs, key, json)
			sets = append(sets, set(key, json))
		}
		large := `"` + strings.Repeat("é\\n", 15_000) + `"`
		created := t.holding(1, append(pairs, "json.large", large)...)
		t.create(created, t.visitor(2))
		t.same("the created record", t.load(created.ID), created)

		want := t.holding(2, append(pairs, "json.large", large)...)
		want.Version = 1
		t.same("the updated record", t.update(bare(2), t.ops(append(sets, set("json.large", large))...)), want)
		t.same("the updated record, loaded,", t.load(want.ID), want)
	},
}, {
	name: "values come back in the byte order of their keys",
	rule: "values stand in the order of the bytes of their keys, and keys that differ in one byte are two keys",
	from: "session.Values",
	run: func(t *tester) {
		keys := []string{"a.b", "a.b.c", "a.b0", "a.b_", "a.ba", "a_b", "a0", "a.B", "A.b", "state.at.Ana@example.org", "state.at.ana@example.org", "state.at.aná", "state.at.a b", "state.at.a b "}
		var pairs []string
		for _, key := range keys {
			pairs = append(pairs, key, `"`+key+`"`)
		}
		want := t.holding(1, pairs...)
		t.create(t.visitor(1))
		for _, key := range keys {
			t.update(bare(1), t.ops(set(key, `"`+key+`"`)))
		}
		want.Version = int64(len(keys))
		t.same("the record", t.load(want.ID), want)
	},
}, {
	name: "times come back to the microsecond and in UTC",
	rule: "times are UTC and whole microseconds; a zero one stays zero",
	from: "session.Record; docs/design.md#a-record-a-change-a-store",
	run: func(t *tester) {
		created, updated := t.visitor(1), t.visitor(2)
		created.Created = t.now.Add(-400 * 24 * time.Hour).Truncate(time.Millisecond).Add(time.Microsecond)
		created.SignedIn = t.now.Truncate(time.Second).Add(999_999 * time.Microsecond)
		created.OldUntil = time.Date(2199, 12, 31, 23, 59, 59, 999_999_000, time.UTC)
		created.Absolute = created.OldUntil
		t.create(created, updated)
		t.same("the created record", t.load(created.ID), created)

		seen := t.now.Truncate(time.Millisecond).Add(time.Minute + 123*time.Microsecond)
		got := t.update(updated, &session.Change{Now: seen, Seen: seen, Idle: 2*time.Hour + time.Microsecond})
		want := clone(updated)
		want.Seen, want.Idle, want.Expires, want.Version = seen, 2*time.Hour+time.Microsecond, seen.Add(2*time.Hour+time.Microsecond), 1
		t.same("the updated record", got, want)
		t.same("the updated record, loaded,", t.load(updated.ID), want)
		if !t.load(updated.ID).SignedIn.IsZero() {
			t.Fatalf("a zero time came back as %s", t.load(updated.ID).SignedIn)
		}
	},
}, {
	name: "an ID is taken once",
	rule: "Create returns ErrExists if the ID is taken, and leaves the record that has it alone",
	from: "Store.Create",
	run: func(t *tester) {
		first := t.full(1)
		t.create(first)
		t.isError("Create with a taken ID", t.store.Create(t.ctx, t.holding(1, "a.b", "1")), session.ErrExists)
		t.isError("Create of the same record again", t.store.Create(t.ctx, first), session.ErrExists)
		t.same("the first record", t.load(first.ID), first)
	},
}, {
	name: "the ID of an ended or expired session stays taken",
	rule: "an ended record stays for a while, so that its ID is not taken again; an expired one until it is swept",
	from: "Change.Apply; docs/design.md#late-requests",
	run: func(t *tester) {
		expired := t.visitor(2)
		expired.Seen, expired.Expires = t.now.Add(-61*time.Minute), t.now.Add(-time.Minute)
		t.create(t.visitor(1), expired)
		ended := t.update(bare(1), &session.Change{Now: t.now, End: true})
		t.isError("Create with the ID of an ended session", t.store.Create(t.ctx, t.visitor(1)), session.ErrExists)
		t.isError("Create with the ID of an expired session", t.store.Create(t.ctx, t.visitor(2)), session.ErrExists)
		t.same("the ended record", t.load(ended.ID), ended)
		t.same("the expired record", t.load(expired.ID), expired)
	},
}, {
	name: "an expired session still loads",
	rule: "Load returns the record, expired or not: who asks judges, by a clock of their own",
	from: "Store.Load",
	run: func(t *tester) {
		expired := t.full(1)
		expired.Seen, expired.Expires = t.now.Add(-50*time.Minute), t.now.Add(-time.Microsecond)
		t.create(expired)
		t.same("the expired record", t.load(expired.ID), expired)
	},
}, {
	name: "an unknown ID is not found",
	rule: "Load of an ID that no record has returns ErrNotFound",
	from: "Store.Load",
	run: func(t *tester) {
		t.absent(id(1))
		t.create(t.visitor(2))
		t.absent(id(1))
		t.absent("")
	},
}, {
	name: "IDs are compared byte for byte",
	rule: "IDs that differ in case alone are two IDs: they are base64url",
	from: "session.ID",
	run: func(t *tester) {
		lower, upper := t.holding(1, "a.b", "1"), t.holding(2, "a.b", "2")
		lower.ID, upper.ID = "abcdefghijklmn_-", "ABCDEFGHIJKLMN_-"
		t.create(lower)
		t.absent(upper.ID)
		t.create(upper)
		t.same("the record of the lower ID", t.load(lower.ID), lower)
		t.same("the record of the upper ID", t.load(upper.ID), upper)
	},
}, {
	name: "deleting twice is fine and frees the ID",
	rule: "Delete removes the record whatever its state, no other one, and an absent one is fine",
	from: "Store.Delete",
	run: func(t *tester) {
		ended := t.visitor(2)
		ended.Idle, ended.Expires, ended.Absolute = 0, t.now, t.now
		other := t.visitor(3)
		t.create(t.full(1), ended, other)
		for range 2 {
			for n := range 3 {
				if err := t.store.Delete(t.ctx, id(n)); err != nil {
					t.Fatalf("Delete: %v", err)
				}
			}
		}
		t.absent(id(1))
		t.absent(id(2))
		t.refused(bare(1), t.ops(set("a.b", "1")), session.ErrNotFound)
		t.same("another record", t.load(other.ID), other)
		t.create(t.visitor(1))
	},
}, {
	name: "a record does not change once it is handed out",
	rule: "a record is immutable once it has been handed to or by a store",
	from: "session.Record, session.Store",
	run: func(t *tester) {
		given := t.holding(1, "a.a", `"one"`, "a.b", "1", "a.c", "[1]", "b.a", "2")
		t.create(given)
		kept := []*session.Record{given, t.load(id(1)), t.load(id(1))}
		copies := []*session.Record{clone(given), clone(kept[1]), clone(kept[2])}
		keep := func(rec *session.Record) {
			kept, copies = append(kept, rec), append(copies, clone(rec))
		}
		keep(t.update(given, t.ops(set("a.a", `"two"`), add("a.b", 8), set("a.0", "0"))))
		keep(t.update(given, t.ops(remove("a.0"), clearGroup("b"), set("a.c", "[2]"))))
		c := t.ops(set("a.a", `"3"`))
		c.Seen, c.Agent, c.Renew = t.now.Add(time.Second), "agent", &session.Renew{From: secret(1), To: secret(2), OldUntil: t.now}
		keep(t.update(given, c))
		if rec, err := t.store.Update(t.ctx, given, t.ops(when(session.OrFail, "7", set("a.b", "1")))); rec != nil && errors.Is(err, session.ErrConflict) {
			keep(rec)
		}
		if to, ok := t.store.(session.Toucher); ok {
			if err := to.Touch(t.ctx, []session.Touch{{ID: id(1), Seen: t.now.Add(time.Minute)}}); err != nil {
				t.Fatalf("Touch: %v", err)
			}
			keep(t.load(id(1)))
		}
		keep(t.update(given, t.signIn("ana", secret(2), secret(3))))
		keep(t.update(given, &session.Change{Now: t.now, End: true}))
		for i, rec := range kept {
			t.same("a record handed over before", rec, copies[i])
		}
	},
}, {
	name: "a canceled call is an error that has changed nothing",
	rule: "an error other than ErrUnknown means that nothing happened, and none of those named says anything untrue: a canceled Load is not ErrNotFound",
	from: "session.Store, session.ErrUnknown",
	run: func(t *tester) {
		rec := t.holding(1, "a.b", "1")
		t.create(rec)
		ctx, cancel := context.WithCancel(t.ctx)
		cancel()
		definite := func(what string, err error) {
			t.Helper()
			if err == nil {
				t.Fatalf("%s with a context that was canceled before returned no error", what)
			}
			for _, untrue := range []error{session.ErrUnknown, session.ErrNotFound, session.ErrExists, session.ErrConflict, session.ErrStale} {
				if errors.Is(err, untrue) {
					t.Fatalf("%s with a context that was canceled before returned %q", what, err)
				}
			}
		}
		_, err := t.store.Load(ctx, rec.ID)
		definite("Load", err)
		_, err = t.store.Load(ctx, id(2))
		definite("Load of an unknown ID", err)
		definite("Create", t.store.Create(ctx, t.visitor(2)))
		definite("Create of a taken ID", t.store.Create(ctx, rec))
		_, err = t.store.Update(ctx, rec, t.ops(set("a.b", "2")))
		definite("Update", err)
		_, err = t.store.Update(ctx, rec, &session.Change{Now: t.now, End: true})
		definite("an end", err)
		definite("Delete", t.store.Delete(ctx, rec.ID))
		if to, ok := t.store.(session.Toucher); ok {
			definite("Touch", to.Touch(ctx, []session.Touch{{ID: rec.ID, Seen: t.now.Add(time.Minute)}}))
		}
		if sw, ok := t.store.(session.Sweeper); ok {
			_, err = sw.Sweep(ctx, rec.Expires, 10)
			definite("Sweep", err)
		}
		if l, ok := t.store.(session.Lister); ok {
			_, err = l.List(ctx, session.Query{All: true, Limit: 10, Now: t.now})
			definite("List", err)
		}
		if ch, ok := t.store.(session.Checker); ok {
			_, err = ch.Check(ctx, t.now, []session.ID{rec.ID})
			definite("Check", err)
		}
		t.same("the record", t.load(rec.ID), rec)
		t.absent(id(2))
	},
}}
