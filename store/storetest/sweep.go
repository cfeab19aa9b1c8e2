package storetest

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/crumb-go/crumb/session"
)

var sweepChecks = []check{{
	name: "a sweep deletes what expired and nothing else",
	rule: "Sweep deletes records that expired at or before then, ended ones too, and leaves every other one",
	from: "Sweeper.Sweep",
	run: func(t *tester) {
		sw := t.sweeper()
		then := t.now.Add(-30 * time.Minute)
		at, after, live, ended := t.of(1, "ana"), t.of(2, "ana"), t.of(3, "ana"), t.of(4, "ana")
		at.Seen, at.Expires = then.Add(-time.Hour), then
		after.Seen, after.Expires = then.Add(time.Microsecond-time.Hour), then.Add(time.Microsecond)
		// An ended record stays for a day after it was created; this one has.
		ended.Created, ended.Seen = then.Add(-25*time.Hour), then.Add(-time.Minute)
		ended.Expires = ended.Seen.Add(time.Hour)
		late := t.of(5, "ana")
		t.create(at, after, live, ended, late)
		t.update(ended, &session.Change{Now: then.Add(-time.Second), End: true})
		lateEnd := t.update(late, &session.Change{Now: t.now, End: true})
		if n := t.sweep(sw, then, 100); n != 2 {
			t.Fatalf("Sweep says it deleted %d, not 2", n)
		}
		t.absent(at.ID)
		t.absent(ended.ID)
		t.same("a record that expired a microsecond later", t.load(after.ID), after)
		t.same("a live record", t.load(live.ID), live)
		t.same("a record that ended later", t.load(late.ID), lateEnd)
		if n := t.sweep(sw, then, 100); n != 0 {
			t.Fatalf("a second Sweep says it deleted %d, not 0", n)
		}
		t.create(t.visitor(1), t.visitor(4))
		if l, ok := t.store.(session.Lister); ok {
			t.lists(l, session.Query{User: "ana"}, live.ID)
		}
	},
}, {
	name: "a sweep stops at its limit",
	rule: "Sweep deletes at most limit records and returns how many; called until it returns less, it leaves nothing",
	from: "Sweeper.Sweep",
	run: func(t *tester) {
		const n, limit = 25, 10
		sw := t.sweeper()
		recs := t.expired(n)
		live := t.visitor(n)
		t.create(append(recs, live)...)
		deleted := 0
		for _, want := range []int{10, 10, 5, 0} {
			if got := t.sweep(sw, t.now, limit); got != want {
				t.Fatalf("Sweep with limit %d says it deleted %d, not %d", limit, got, want)
			}
			gone := 0
			for _, rec := range recs {
				if _, err := t.store.Load(t.ctx, rec.ID); errors.Is(err, session.ErrNotFound) {
					gone++
				}
			}
			if deleted += want; gone != deleted {
				t.Fatalf("of %d expired records %d are gone, not %d", n, gone, deleted)
			}
		}
		t.same("a live record", t.load(live.ID), live)
	},
}, {
	name: "two sweepers delete each record once",
	rule: "sweeps at once count each deleted record once between them, and leave nothing",
	from: "Sweeper.Sweep; docs/security.md#faults",
	run: func(t *tester) {
		const n, limit = 120, 7
		sw := t.sweeper()
		recs := t.expired(n)
		live := t.visitor(n)
		t.create(append(recs, live)...)
		var total atomic.Int32
		together(2, func(int) {
			for range n {
				got, err := sw.Sweep(t.ctx, t.now, limit)
				if err != nil {
					t.Errorf("Sweep: %v", err)
					return
				}
				if total.Add(int32(got)); got < limit {
					return
				}
			}
		})
		for t.sweep(sw, t.now, 1) == 1 {
			total.Add(1)
		}
		if total.Load() != n {
			t.Fatalf("two sweepers say they deleted %d records of %d", total.Load(), n)
		}
		for _, rec := range recs {
			t.absent(rec.ID)
		}
		t.same("a live record", t.load(live.ID), live)
	},
}, {
	name: "a sweep loses nobody who was seen meanwhile",
	rule: "a sweep repeats its condition in the delete: a session whose expiry a late touch or update moved stays",
	from: "docs/design.md#a-record-a-change-a-store",
	run: func(t *tester) {
		sw := t.sweeper()
		for range 8 {
			t.sweepBesideTouches(sw)
		}
	},
}}

// sweepBesideTouches sweeps sessions that expire while others see them.
func (t *tester) sweepBesideTouches(sw session.Sweeper) {
	t.Helper()
	const n, limit = 20, 3
	var recs []*session.Record
	for i := range n {
		recs = append(recs, t.visitor(i))
	}
	t.create(recs...)
	then, seen := recs[0].Expires, t.now.Add(30*time.Minute)
	var kept [n]bool
	together(3, func(i int) {
		if i == 2 {
			for got := limit; got == limit; {
				var err error
				if got, err = sw.Sweep(t.ctx, then, limit); err != nil {
					t.Errorf("Sweep: %v", err)
				}
			}
			return
		}
		for k := i; k < n; k += 2 {
			kept[k] = t.see(recs[k], seen, k%4 < 2)
		}
	})
	for i := range n {
		if _, err := t.store.Load(t.ctx, id(i)); kept[i] && err != nil {
			t.Fatalf("a session that was seen, and expires later than what is swept, is gone: %v", err)
		}
		if err := t.store.Delete(t.ctx, id(i)); err != nil {
			t.Fatalf("Delete: %v", err)
		}
	}
}

// see tells the store that rec was seen, by a touch if it can and should, and
// reports whether it was still there.
func (t *tester) see(rec *session.Record, seen time.Time, touch bool) bool {
	to, ok := t.store.(session.Toucher)
	if !ok || !touch {
		_, err := t.store.Update(t.ctx, rec, &session.Change{Now: seen, Seen: seen})
		if err != nil && !errors.Is(err, session.ErrNotFound) {
			t.Errorf("Update: %v", err)
		}
		return err == nil
	}
	if err := to.Touch(t.ctx, []session.Touch{{ID: rec.ID, Seen: seen}}); err != nil {
		t.Errorf("Touch: %v", err)
	}
	got, err := t.store.Load(t.ctx, rec.ID)
	return err == nil && got != nil && got.Seen.Equal(seen)
}

// expired returns n records that expired up to half an hour ago.
func (t *tester) expired(n int) (recs []*session.Record) {
	for i := range n {
		rec := t.visitor(i)
		rec.Expires = t.now.Add(-time.Duration(i%30) * time.Minute)
		rec.Seen = rec.Expires.Add(-time.Hour)
		recs = append(recs, rec)
	}
	return recs
}

func (t *tester) sweep(sw session.Sweeper, then time.Time, limit int) int {
	t.Helper()
	n, err := sw.Sweep(t.ctx, then, limit)
	if err != nil {
		t.Fatalf("Sweep: %v", err)
	}
	return n
}
