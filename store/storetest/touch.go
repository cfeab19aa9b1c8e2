package storetest

import (
	"errors"
	"time"

	"github.com/crumb-go/crumb/session"
)

var touchChecks = []check{{
	name: "a touch moves the seen-time forward only",
	rule: "a touch that is not later than the last request changes nothing, not even the version",
	from: "Touch.Apply",
	run: func(t *tester) {
		to := t.toucher()
		rec := t.full(1)
		t.create(rec)
		for _, d := range []time.Duration{-time.Hour, -time.Microsecond, 0} {
			t.touch(to, session.Touch{ID: rec.ID, Seen: rec.Seen.Add(d)})
			t.same("the record after a touch from before", t.load(rec.ID), rec)
		}
		want := clone(rec)
		want.Seen, want.Expires, want.Version = rec.Seen.Add(time.Microsecond), rec.Expires.Add(time.Microsecond), rec.Version+1
		t.touch(to, session.Touch{ID: rec.ID, Seen: want.Seen})
		t.same("the touched record", t.load(rec.ID), want)
	},
}, {
	name: "a touch creates nothing",
	rule: "absent records are skipped, and those beside them are not",
	from: "Toucher.Touch",
	run: func(t *tester) {
		to := t.toucher()
		t.create(t.visitor(2))
		seen := t.now.Add(time.Second)
		t.touch(to, session.Touch{ID: id(1), Seen: seen}, session.Touch{ID: id(2), Seen: seen}, session.Touch{ID: id(3), Seen: seen})
		t.touch(to)
		t.absent(id(1))
		t.absent(id(3))
		if rec := t.load(id(2)); !rec.Seen.Equal(seen) {
			t.Fatalf("beside absent records, one was not touched: seen at %s", rec.Seen)
		}
	},
}, {
	name: "a touch revives nothing",
	rule: "a session that had ended or expired by the time of the touch stays so, also if it was ended by a process whose clock is ahead",
	from: "Touch.Apply",
	run: func(t *tester) {
		to := t.toucher()
		expiring, ending := t.of(1, "ana"), t.of(2, "ana")
		t.create(expiring, ending)
		ended := t.update(ending, &session.Change{Now: t.now.Add(50 * time.Minute), End: true})
		for _, seen := range []time.Time{expiring.Expires, expiring.Expires.Add(time.Hour)} {
			t.touch(to, session.Touch{ID: expiring.ID, Seen: seen})
			t.same("an expired record after a touch", t.load(expiring.ID), expiring)
		}
		for _, d := range []time.Duration{time.Minute, 50 * time.Minute, 2 * time.Hour} {
			t.touch(to, session.Touch{ID: ended.ID, Seen: t.now.Add(d)})
			t.same("an ended record after a touch", t.load(ended.ID), ended)
		}
	},
}, {
	name: "a touch derives the expiry from the record's own limits",
	rule: "the expiry after a touch is the lesser of seen plus the record's own Idle and its own Absolute",
	from: "Touch.Apply; docs/design.md#what-is-written-and-when",
	run: func(t *tester) {
		to := t.toucher()
		visitor, signedIn, remember := t.visitor(1), t.of(2, "ana"), t.of(3, "ana")
		signedIn.Idle, signedIn.Expires = 30*time.Minute, t.now.Add(30*time.Minute)
		remember.Remember, remember.Idle = true, 14*24*time.Hour
		remember.Absolute = t.now.Add(20 * 24 * time.Hour)
		remember.Expires = t.now.Add(14 * 24 * time.Hour)
		short := t.visitor(4)
		short.Absolute = t.now.Add(61 * time.Minute)
		recs := []*session.Record{visitor, signedIn, remember, short}
		t.create(recs...)
		for _, d := range []time.Duration{time.Minute, 25 * time.Minute} {
			var touches []session.Touch
			for i, rec := range recs {
				touch := session.Touch{ID: rec.ID, Seen: t.now.Add(d + time.Duration(i)*time.Microsecond)}
				touches = append(touches, touch)
				recs[i], _ = touch.Apply(rec)
			}
			t.touch(to, touches...)
			for _, rec := range recs {
				t.same("a touched record", t.load(rec.ID), rec)
			}
		}
	},
}, {
	name: "a touch moves the version",
	rule: "Version moves with every touch that changes something, for stores to compare: an update from before it still lands, on what the touch left",
	from: "session.Record",
	run: func(t *tester) {
		to := t.toucher()
		base := t.holding(1, "a.b", "1")
		t.create(base)
		seen := t.now.Add(time.Minute)
		t.touch(to, session.Touch{ID: base.ID, Seen: seen})
		if rec := t.load(base.ID); rec.Version != base.Version+1 {
			t.Fatalf("the version is %d before a touch and %d after it", base.Version, rec.Version)
		}
		rec := t.update(base, t.ops(when(session.OrFail, "1", set("a.b", "2"))))
		if !rec.Seen.Equal(seen) || !rec.Expires.Equal(seen.Add(time.Hour)) || rec.Version != base.Version+2 {
			t.Fatalf("an update from before a touch led to %s", dump(rec))
		}
	},
}, {
	name: "a thousand touches are one call",
	rule: "many seen-times are written in one go, whatever their order, absent ones among them",
	from: "session.Toucher",
	run: func(t *tester) {
		const n, every = 1000, 4
		to := t.toucher()
		var recs []*session.Record
		var touches []session.Touch
		for i := range n {
			i = i * 7919 % n
			if i%every == 0 {
				recs = append(recs, t.visitor(i))
			}
			touches = append(touches, session.Touch{ID: id(i), Seen: t.now.Add(time.Duration(i+1) * time.Microsecond)})
		}
		t.create(recs...)
		t.touch(to, touches...)
		for i := range n {
			if i%every != 0 {
				if i%50 == 1 {
					t.absent(id(i))
				}
				continue
			}
			want, _ := session.Touch{ID: id(i), Seen: t.now.Add(time.Duration(i+1) * time.Microsecond)}.Apply(t.visitor(i))
			t.same("a touched record", t.load(id(i)), want)
		}
	},
}, {
	name: "touches of the same sessions at once leave the latest",
	rule: "a seen-time never moves back, in whatever order calls with many of them meet",
	from: "Touch.Apply; docs/design.md#what-is-written-and-when",
	run: func(t *tester) {
		const rounds, calls, n = 6, 8, 20
		to := t.toucher()
		var recs []*session.Record
		for i := range n {
			recs = append(recs, t.visitor(i))
		}
		t.create(recs...)
		for round := range rounds {
			begin := t.now.Add(time.Duration(round*calls) * time.Second)
			last := begin.Add(calls * time.Second)
			together(calls, func(call int) {
				var touches []session.Touch
				for i := range n {
					if call%2 == 1 {
						i = n - 1 - i
					}
					touches = append(touches, session.Touch{ID: id(i), Seen: begin.Add(time.Duration((call*5+i)%calls+1) * time.Second)})
				}
				if err := to.Touch(t.ctx, touches); err != nil {
					t.Errorf("Touch: %v", err)
				}
			})
			for i := range n {
				if rec := t.load(id(i)); !rec.Seen.Equal(last) {
					t.Fatalf("touched at last at %s, a session was seen at %s", last, rec.Seen)
				}
			}
		}
	},
}}

func (t *tester) touch(to session.Toucher, touches ...session.Touch) {
	t.Helper()
	if err := to.Touch(t.ctx, touches); err != nil {
		t.Fatalf("Touch: %v", err)
	}
}

var watchChecks = []check{{
	name: "a check tells which sessions live",
	rule: "Check returns the Auth of those that live at now: not of expired, ended or unknown ones",
	from: "Checker.Check",
	run: func(t *tester) {
		ch := t.checker()
		expired, ended, visitor, ana := t.of(1, "ana"), t.of(2, "ana"), t.visitor(3), t.of(4, "ana")
		expired.Seen, expired.Expires = t.now.Add(-time.Hour), t.now
		ana.Auth, ana.Expires = 1<<53+1, t.now.Add(time.Microsecond)
		t.create(expired, ended, visitor, ana, t.visitor(6))
		t.update(ended, &session.Change{Now: t.now.Add(time.Minute), End: true})
		t.checks(ch, map[session.ID]int64{visitor.ID: 0, ana.ID: ana.Auth}, expired.ID, ended.ID, visitor.ID, ana.ID, id(5))
		t.checks(ch, nil, id(5))
		t.checks(ch, nil)
		t.update(visitor, t.signIn("ana", secret(3), secret(13)))
		t.checks(ch, map[session.ID]int64{visitor.ID: 1}, visitor.ID)
		t.update(visitor, &session.Change{Now: t.now, End: true})
		t.checks(ch, nil, visitor.ID)
	},
}, {
	name: "a check asks after a thousand sessions at once",
	rule: "one question a second serves all open streams of a process",
	from: "session.Checker; docs/design.md#a-record-a-change-a-store",
	run: func(t *tester) {
		ch := t.checker()
		var asked []session.ID
		var recs []*session.Record
		want := map[session.ID]int64{}
		for i := range 1000 {
			asked = append(asked, id(i))
			if i%20 == 0 {
				rec := t.of(i, "ana")
				rec.Auth = int64(i)
				recs, want[rec.ID] = append(recs, rec), rec.Auth
			}
		}
		t.create(recs...)
		t.checks(ch, want, asked...)
	},
}}

func (t *tester) checks(ch session.Checker, want map[session.ID]int64, asked ...session.ID) {
	t.Helper()
	got, err := ch.Check(t.ctx, t.now, asked)
	if err != nil {
		t.Fatalf("Check: %v", err)
	}
	var wrong error
	for id, auth := range want {
		if a, ok := got[id]; !ok || a != auth {
			wrong = errors.New("a live session is missing or has another Auth")
		}
	}
	if wrong != nil || len(got) != len(want) {
		t.Fatalf("Check says %v, not %v", got, want)
	}
}
