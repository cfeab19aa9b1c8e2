package storetest

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crumb-go/crumb/session"
)

var raceChecks = []check{{
	name: "no addition of two hundred clients is lost",
	rule: "adds are exact, and Update returns the record as it then stands: no two of them the same sum",
	from: "Store.Update; docs/design.md#a-record-a-change-a-store",
	run: func(t *tester) {
		const clients, adds = 200, 5
		base := t.visitor(1)
		t.create(base)
		var seen sync.Map
		together(clients, func(int) {
			for range adds {
				rec, err := t.store.Update(t.ctx, base, t.ops(add("n.n", 1)))
				if err != nil || rec == nil {
					t.Errorf("Update: %v", err)
					return
				}
				sum := string(rec.Values.Get("n.n"))
				if _, twice := seen.LoadOrStore(sum, true); twice {
					t.Errorf("two additions of 1 returned the same sum %s", sum)
					return
				}
			}
		})
		if sum := t.load(base.ID).Values.Get("n.n"); string(sum) != strconv.Itoa(clients*adds) {
			t.Fatalf("%d additions of 1 are %s", clients*adds, sum)
		}
	},
}, {
	name: "ten keys written at once are all kept",
	rule: "two requests that write different keys both survive",
	from: "docs/design.md#a-record-a-change-a-store",
	run: func(t *tester) {
		const rounds, keys = 5, 10
		var recs []*session.Record
		for n := range rounds {
			recs = append(recs, t.visitor(n))
		}
		t.create(recs...)
		for n := range rounds {
			together(keys, func(i int) {
				if _, err := t.store.Update(t.ctx, recs[n], t.ops(set(fmt.Sprintf("k.k%d", i), "1"))); err != nil {
					t.Errorf("Update: %v", err)
				}
			})
			if rec := t.load(id(n)); len(rec.Values) != keys {
				t.Fatalf("of %d keys %d are there: %s", keys, len(rec.Values), values(rec))
			}
		}
	},
}, {
	name: "of fifty takers one gets the value",
	rule: "an operation whose condition fails is refused: a value that is taken once is given once",
	from: "session.OrFail; docs/design.md#one-request",
	run: func(t *tester) {
		base := t.holding(1, "oauth.state", `"x"`, "ui.theme", "1")
		t.create(base)
		var got atomic.Int32
		together(50, func(int) {
			rec, err := t.store.Update(t.ctx, base, t.ops(when(session.OrFail, `"x"`, remove("oauth.state"))))
			switch {
			case err == nil:
				got.Add(1)
			case !errors.Is(err, session.ErrConflict):
				t.Errorf("Update: %v", err)
			case rec == nil || rec.Values.Get("oauth.state") != nil:
				t.Errorf("beside ErrConflict stands %s, not the record without the value", dump(rec))
			}
		})
		if got.Load() != 1 {
			t.Fatalf("%d of 50 took the value", got.Load())
		}
	},
}, {
	name: "fifty updates at once all count",
	rule: "a change whose condition fails comes back with the record as it stands, which is what to try again with",
	from: "Store.Update; docs/design.md#one-request",
	run: func(t *tester) {
		const clients, tries = 50, 1000
		base := t.holding(1, "n.n", "0")
		t.create(base)
		together(clients, func(int) {
			rec := base
			for range tries {
				n, _ := strconv.Atoi(string(rec.Values.Get("n.n")))
				next, err := t.store.Update(t.ctx, rec, t.ops(when(session.OrFail, strconv.Itoa(n), set("n.n", strconv.Itoa(n+1)))))
				if err == nil {
					return
				}
				if !errors.Is(err, session.ErrConflict) || next == nil {
					t.Errorf("Update: %s, %v", dump(next), err)
					return
				}
				rec = next
			}
			t.Errorf("an update found the value changed %d times, with %d writers", tries, clients)
		})
		if sum := t.load(base.ID).Values.Get("n.n"); string(sum) != strconv.Itoa(clients) {
			t.Fatalf("%d updates that add 1 led to %s", clients, sum)
		}
	},
}, {
	name: "of many who create one session one does",
	rule: "an ID is taken once, also by those who take it at the same moment",
	from: "Store.Create",
	run: func(t *tester) {
		const rounds, clients = 5, 20
		for n := range rounds {
			var won atomic.Int32
			won.Store(-1)
			together(clients, func(i int) {
				switch err := t.store.Create(t.ctx, t.holding(n, "n.n", strconv.Itoa(i))); {
				case err == nil && !won.CompareAndSwap(-1, int32(i)):
					t.Errorf("two created the same session")
				case err != nil && !errors.Is(err, session.ErrExists):
					t.Errorf("Create: %v", err)
				}
			})
			if got, want := t.load(id(n)).Values.Get("n.n"), strconv.Itoa(int(won.Load())); string(got) != want {
				t.Fatalf("the session is that of %s, but %s created it", got, want)
			}
		}
	},
}, {
	name: "of many ends one succeeds",
	rule: "an end happens once: of those who end a session one is told so, the others ErrNotFound",
	from: "docs/design.md#late-requests",
	run: func(t *tester) {
		const rounds, clients = 5, 20
		for n := range rounds {
			base := t.of(n, "ana")
			t.create(base)
			var ended atomic.Int32
			together(clients, func(int) {
				_, err := t.store.Update(t.ctx, base, &session.Change{Now: t.now, End: true})
				if err == nil {
					ended.Add(1)
				} else if !errors.Is(err, session.ErrNotFound) {
					t.Errorf("Update: %v", err)
				}
			})
			if ended.Load() != 1 {
				t.Fatalf("%d of %d ended the session", ended.Load(), clients)
			}
		}
	},
}, {
	name: "nothing lands after an end",
	rule: "a session that was ended while requests were under way stays ended, and empty",
	from: "Store.Update",
	run: func(t *tester) {
		const writers, most, before = 8, 300, 10
		base := t.holding(1, "n.n", "0")
		t.create(base)
		var landed, ended atomic.Int32
		enough, begin := signal()
		together(writers+1, func(i int) {
			if i == writers {
				<-enough
				if _, err := t.store.Update(t.ctx, base, &session.Change{Now: t.now, End: true}); err != nil {
					t.Errorf("Update that ends: %v", err)
				}
				ended.Store(1)
				return
			}
			defer begin()
			for range most {
				late := ended.Load() == 1
				_, err := t.store.Update(t.ctx, base, &session.Change{Now: t.now, Seen: t.now, Ops: []session.Op{add("n.n", 1), set("k.k"+strconv.Itoa(i), "1")}})
				if err == nil && late {
					t.Errorf("an update that began after the end landed")
					return
				}
				if landed.Add(1) == before {
					begin()
				}
				if errors.Is(err, session.ErrNotFound) {
					return
				}
				if err != nil {
					t.Errorf("Update: %v", err)
				}
			}
		})
		if rec := t.load(base.ID); !rec.Ended() || len(rec.Values) > 0 {
			t.Fatalf("the session was ended and is %s", dump(rec))
		}
	},
}, {
	name: "nothing from before a sign-in lands after it",
	rule: "what slow requests from before a sign-in write is either dropped by it or refused with ErrStale, the record beside it",
	from: "Store.Update; docs/design.md#late-requests",
	run: func(t *tester) {
		const writers, most, before = 8, 300, 10
		base := t.visitor(1)
		t.create(base)
		var landed atomic.Int32
		enough, begin := signal()
		together(writers+1, func(i int) {
			if i == writers {
				<-enough
				if _, err := t.store.Update(t.ctx, base, t.signIn("ana", secret(1), secret(2))); err != nil {
					t.Errorf("Update that signs in: %v", err)
				}
				return
			}
			defer begin()
			for n := range most {
				rec, err := t.store.Update(t.ctx, base, t.ops(set(fmt.Sprintf("k.k%d", n%10), `"planted"`)))
				if landed.Add(1) == before {
					begin()
				}
				if errors.Is(err, session.ErrStale) {
					if rec == nil || rec.User != "ana" || rec.Auth != 1 {
						t.Errorf("beside ErrStale stands %s, not the record of ana", dump(rec))
					}
					return
				}
				if err != nil {
					t.Errorf("Update: %v", err)
				}
			}
		})
		if rec := t.load(base.ID); rec.User != "ana" || rec.Secret != secret(2) || len(rec.Values) > 0 {
			t.Fatalf("after the sign-in the session is %s", dump(rec))
		}
	},
}, {
	name: "of an end beside sign-ins and renewals the end remains",
	rule: "an end asks for no Auth and no secret: whoever signs in or renews at the same moment, the session has ended, is nobody's and is in no list",
	from: "Change.End; docs/design.md#late-requests",
	run: func(t *tester) {
		const rounds, clients = 8, 6
		for n := range rounds {
			base := t.visitor(n)
			t.create(base)
			together(clients, func(i int) {
				var c *session.Change
				switch {
				case i == 0:
					c = &session.Change{Now: t.now, End: true}
				case i%2 == 1:
					c = t.signIn("ana", secret(n), secret(100+i))
				default:
					c = &session.Change{Now: t.now, Renew: &session.Renew{From: secret(n), To: secret(100 + i), OldUntil: base.Absolute}}
				}
				_, err := t.store.Update(t.ctx, base, c)
				if late := errors.Is(err, session.ErrNotFound) || errors.Is(err, session.ErrStale); err != nil && (i == 0 || !late) {
					t.Errorf("Update %s: %v", dump(c), err)
				}
			})
			if rec := t.load(id(n)); !rec.Ended() || rec.User != "" {
				t.Fatalf("the session was ended and is %s", dump(rec))
			}
		}
		if l, ok := t.store.(session.Lister); ok {
			t.lists(l, session.Query{User: "ana"})
		}
	},
}, {
	name: "a sign-in beside lists is in the next list",
	rule: "a session that somebody signed in to is under its user from then on, whoever lists the user at that moment: a revocation of the user must not miss it",
	from: "Lister.List; docs/design.md#a-record-a-change-a-store",
	run: func(t *tester) {
		const rounds, listers = 8, 3
		l := t.lister()
		var want []session.ID
		for n := range rounds {
			t.create(t.visitor(n))
			want = append(want, id(n))
			var done atomic.Bool
			together(listers+1, func(i int) {
				if i == 0 {
					if _, err := t.store.Update(t.ctx, bare(n), t.signIn("ana", secret(n), secret(100+n))); err != nil {
						t.Errorf("Update: %v", err)
					}
					done.Store(true)
					return
				}
				for again := true; again; again = !done.Load() {
					if _, err := l.List(t.ctx, session.Query{User: "ana", Limit: 100, Now: t.now}); err != nil {
						t.Errorf("List: %v", err)
					}
				}
			})
			t.lists(l, session.Query{User: "ana"}, want...)
		}
	},
}, {
	name: "of many sign-ins to one session one succeeds",
	rule: "a sign-in that finds somebody signed in meanwhile is refused with ErrStale",
	from: "Change.Apply",
	run: func(t *tester) {
		const rounds, clients = 5, 20
		for n := range rounds {
			base := t.visitor(n)
			t.create(base)
			var won sync.Map
			together(clients, func(i int) {
				user := "user " + strconv.Itoa(i)
				_, err := t.store.Update(t.ctx, base, t.signIn(user, secret(n), secret(100+i)))
				if err == nil {
					won.Store(user, true)
				} else if !errors.Is(err, session.ErrStale) {
					t.Errorf("Update: %v", err)
				}
			})
			var users []string
			won.Range(func(user, _ any) bool {
				users = append(users, user.(string))
				return true
			})
			if rec := t.load(id(n)); len(users) != 1 || rec.User != users[0] {
				t.Fatalf("the session is that of %q; told that they signed in were %q", rec.User, users)
			}
		}
	},
}, {
	name: "of fifty renewals there is one successor",
	rule: "a Renew whose From is no longer current, or that comes before the last one has come back, does nothing: nobody is signed out whose answer arrived",
	from: "session.Renew",
	run: func(t *tester) {
		const clients = 50
		base := t.visitor(1)
		t.create(base)
		var got [clients]session.Hash
		together(clients, func(i int) {
			rec, err := t.store.Update(t.ctx, base, &session.Change{Now: t.now, Renew: &session.Renew{From: secret(1), To: secret(100 + i), OldUntil: base.Absolute}})
			if err != nil || rec == nil {
				t.Errorf("Update: %v", err)
				return
			}
			got[i] = rec.Secret
		})
		rec := t.load(base.ID)
		if rec.OldSecret != secret(1) {
			t.Fatalf("the secret from before the renewals works no longer")
		}
		for _, secret := range got {
			if secret != rec.Secret {
				t.Fatalf("a renewal was told another secret than the one that is current")
			}
		}
	},
}, {
	name: "touches and updates at once lose nothing of each other",
	rule: "a touch moves the seen-time and leaves everything else, also what is written at the same moment",
	from: "Toucher.Touch",
	run: func(t *tester) {
		const writers, most, touches = 8, 300, 40
		to := t.toucher()
		base := t.visitor(1)
		t.create(base)
		var added, touched atomic.Int32
		together(writers+1, func(i int) {
			if i == writers {
				for touched.Load() < touches {
					seen := t.now.Add(time.Duration(touched.Add(1)) * time.Second)
					if err := to.Touch(t.ctx, []session.Touch{{ID: base.ID, Seen: seen}}); err != nil {
						t.Errorf("Touch: %v", err)
					}
				}
				return
			}
			for n := 0; n < most && touched.Load() < touches; n++ {
				if _, err := t.store.Update(t.ctx, base, t.ops(add("n.n", 1))); err != nil {
					t.Errorf("Update: %v", err)
					return
				}
				added.Add(1)
			}
		})
		rec := t.load(base.ID)
		if sum, _ := strconv.Atoi(string(rec.Values.Get("n.n"))); sum != int(added.Load()) {
			t.Fatalf("%d additions of 1 beside touches are %d", added.Load(), sum)
		}
		if want := t.now.Add(touches * time.Second); !rec.Seen.Equal(want) {
			t.Fatalf("touched at last at %s, the session was seen at %s", want, rec.Seen)
		}
	},
}}

// signal returns a channel and what closes it, once.
func signal() (<-chan struct{}, func()) {
	c := make(chan struct{})
	return c, sync.OnceFunc(func() { close(c) })
}
