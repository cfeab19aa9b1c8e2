package session_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/crumb-go/crumb/session"
)

// signIn is a page that signs user in.
func signIn(user string) page { return do(func(s *session.Session) { s.SignIn(user) }) }

// wantQuiet fails if a says anything about cookies.
func wantQuiet(t *testing.T, a *answer) {
	t.Helper()
	if got := a.Header["Set-Cookie"]; got != nil {
		t.Errorf("the answer sets a cookie: %q", got)
	}
	if a.StatusCode != 200 {
		t.Errorf("status %d", a.StatusCode)
	}
}

func TestASlowRequestAfterAnEnd(t *testing.T) {
	ends := map[string]func(w *world, b *browser, id session.ID){
		"a sign-out": func(_ *world, b *browser, _ session.ID) { b.visit((*session.Session).SignOut) },
		"a sign-out through another manager": func(w *world, b *browser, _ session.ID) {
			b.on(w.another(session.Config{})).visit((*session.Session).SignOut)
		},
		"a revocation by another manager": func(w *world, _ *browser, id session.ID) {
			if err := w.another(session.Config{}).Revoke(context.Background(), id); err != nil {
				t.Error(err)
			}
		},
		"a revocation of the user": func(w *world, _ *browser, _ session.ID) {
			if n, err := w.RevokeUser(context.Background(), "alice"); n != 1 || err != nil {
				t.Error(n, err)
			}
		},
		"a sign-in as somebody else": func(_ *world, b *browser, _ session.ID) { b.get(signIn("bob")) },
	}
	for name, end := range ends {
		for _, late := range []time.Duration{0, 2 * time.Minute} {
			t.Run(name+", "+late.String()+" later: no cookie, no session, and Commit says why", func(t *testing.T) {
				w := newWorld(t, session.Config{})
				b := w.browser()
				b.visit(func(s *session.Session) {
					s.SignIn("alice")
					theme.Set(s, "dark")
				})
				old := b.copy()
				var id session.ID
				b.visit(func(s *session.Session) { id = s.ID() })
				pages := map[string]page{
					"set":    do(func(s *session.Session) { theme.Set(s, "light") }),
					"add":    do(func(s *session.Session) { hits.Add(s, 1) }),
					"delete": do(func(s *session.Session) { theme.Delete(s) }),
					"renew":  do((*session.Session).Renew),
					"out":    do((*session.Session).SignOut),
					"out and flash": do(func(s *session.Session) {
						s.SignOut()
						note.Set(s, "bye")
					}),
					"nothing": nothing,
					"after the first byte": func(s *session.Session, w http.ResponseWriter, r *http.Request) {
						w.WriteHeader(200)
						hits.Add(s, 1)
					},
					"commit": func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
						note.Set(s, "x")
						if err := s.Commit(r.Context()); err != session.ErrEnded {
							t.Errorf("Commit returned %v", err)
						}
						if theme.Get(s) != "" || s.User() != "" || note.Get(s) != "" {
							t.Error("the late session is not empty")
						}
						note.Set(s, "y")
						hits.Add(s, 1)
					},
					"commit of nothing": func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
						if err := s.Commit(r.Context()); err != session.ErrEnded {
							t.Errorf("Commit of nothing returned %v", err)
						}
					},
					"commit of a renewal": func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
						s.Renew()
						if err := s.Commit(r.Context()); err != session.ErrEnded {
							t.Errorf("Commit of a renewal returned %v", err)
						}
					},
					"update": func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
						if _, err := theme.Update(r.Context(), s, func(string) (string, error) { return "z", nil }); err != session.ErrEnded {
							t.Errorf("Update returned %v", err)
						}
						note.Set(s, "y")
					},
					"take": func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
						if _, ok, err := theme.Take(r.Context(), s); ok || err != session.ErrEnded {
							t.Errorf("Take returned %v, %v", ok, err)
						}
					},
				}
				slow := map[string]*held{}
				for what, p := range pages {
					slow[what] = old.hold(p)
				}
				end(w, b, id)
				live := w.live()
				w.clock.advance(late)
				w.store.forget()
				for what, r := range slow {
					a := r.finish()
					if a.Header["Set-Cookie"] != nil || a.StatusCode != 200 {
						t.Errorf("%s: status %d, Set-Cookie %q", what, a.StatusCode, a.Header["Set-Cookie"])
					}
				}
				if w.live() != live || w.store.count("Create") != 0 {
					t.Errorf("%d sessions live, %d before; %d creates", w.live(), live, w.store.count("Create"))
				}
				if old.user() != "" {
					t.Error("the old token opens a session")
				}
			})
		}
	}

	t.Run("and its refused change is an event", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		b.visit(func(s *session.Session) { note.Set(s, "x") })
		slow := b.hold(do(func(s *session.Session) { hits.Add(s, 1) }))
		b.visit((*session.Session).SignOut)
		w.events.kinds()
		slow.finish()
		if all := w.events.all(); len(all) != 1 || all[0].Kind != session.EventLate || all[0].Err != session.ErrEnded || all[0].Info.ID == "" {
			t.Errorf("events %+v", all)
		}
	})

	t.Run("and a sign-in in it gets a new session", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		b.visit(func(s *session.Session) { note.Set(s, "x") })
		slow := b.hold(do(func(s *session.Session) {
			s.SignIn("alice")
			theme.Set(s, "dark")
		}))
		b.visit((*session.Session).SignOut)
		b.receive(slow.finish())
		if b.user() != "alice" || read(b, theme) != "dark" || read(b, note) != "" {
			t.Errorf("user %q, theme %q, note %q", b.user(), read(b, theme), read(b, note))
		}
	})
}

func TestASlowRequestFromBeforeASignIn(t *testing.T) {
	begin := func(t *testing.T, p page) (*world, *browser, *held) {
		w := newWorld(t, session.Config{KeepOnSignIn: []string{"test"}})
		b := w.browser()
		b.visit(func(s *session.Session) { theme.Set(s, "dark") })
		slow := b.hold(p)
		b.get(signIn("alice"))
		w.events.kinds()
		return w, b, slow
	}

	t.Run("cannot write into the signed-in session, and that is an event", func(t *testing.T) {
		w, b, slow := begin(t, do(func(s *session.Session) {
			theme.Set(s, "planted")
			hits.Add(s, 1)
		}))
		wantQuiet(t, slow.finish())
		if all := w.events.all(); len(all) != 1 || all[0].Kind != session.EventLate || all[0].Err != session.ErrStale {
			t.Errorf("events %+v", all)
		}
		if read(b, theme) != "dark" || read(b, hits.Key) != 0 || b.user() != "alice" {
			t.Error("the slow request wrote into the signed-in session")
		}
		if w.live() != 1 {
			t.Errorf("%d sessions", w.live())
		}
	})

	t.Run("is told by Commit, Update and Take", func(t *testing.T) {
		_, b, slow := begin(t, func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			if _, err := theme.Update(r.Context(), s, func(string) (string, error) { return "planted", nil }); err != session.ErrStale {
				t.Errorf("Update returned %v", err)
			}
			hits.Add(s, 1)
			if err := s.Commit(r.Context()); err != session.ErrStale {
				t.Errorf("Commit returned %v", err)
			}
			if s.Err() != nil {
				t.Errorf("Err is %v inside Handler", s.Err())
			}
			hits.Add(s, 1)
		})
		wantQuiet(t, slow.finish())
		if read(b, theme) != "dark" || read(b, hits.Key) != 0 {
			t.Error("the slow request wrote into the signed-in session")
		}
	})

	t.Run("learns it from a Commit that has nothing to write", func(t *testing.T) {
		_, _, slow := begin(t, func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			if err := s.Commit(r.Context()); err != session.ErrStale {
				t.Errorf("Commit returned %v", err)
			}
		})
		wantQuiet(t, slow.finish())
	})

	t.Run("cannot take a single-use value", func(t *testing.T) {
		_, b, slow := begin(t, func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			if v, ok, err := theme.Take(r.Context(), s); ok || v != "" || err != session.ErrStale {
				t.Errorf("Take returned %q, %v, %v", v, ok, err)
			}
		})
		wantQuiet(t, slow.finish())
		if read(b, theme) != "dark" {
			t.Error("the value is gone")
		}
	})

	t.Run("can still sign out: an end is stronger than any sign-in", func(t *testing.T) {
		w, b, slow := begin(t, do((*session.Session).SignOut))
		slow.finish()
		if b.user() != "" || w.live() != 0 {
			t.Error("the session lives")
		}
	})
}

func TestARequestThatLoadsJustAfter(t *testing.T) {
	for what, change := range map[string]page{
		"a sign-out": do((*session.Session).SignOut),
		"a sign-in":  signIn("alice"),
		"a step-up":  signIn("carol"),
	} {
		begin := func(t *testing.T) (w *world, old *browser) {
			w = newWorld(t, session.Config{})
			b := w.browser()
			b.visit(func(s *session.Session) {
				theme.Set(s, "dark")
				if what == "a step-up" {
					s.SignIn("carol")
				}
			})
			old = b.copy()
			b.get(change)
			w.store.forget()
			w.events.kinds()
			return w, old
		}

		t.Run(what+" with the old token reads an empty session and gets no cookie and no session", func(t *testing.T) {
			w, old := begin(t)
			live := w.live()
			for _, after := range []time.Duration{0, time.Second, time.Minute - time.Second - time.Microsecond} {
				w.clock.advance(after)
				a := old.get(do(func(s *session.Session) {
					if s.User() != "" || theme.Get(s) != "" || s.ID() != "" || s.Err() != nil {
						t.Errorf("a late request reads %+v, %q, %v", s.Info(), theme.Get(s), s.Err())
					}
					theme.Set(s, "light")
					hits.Add(s, 1)
					s.Renew()
				}))
				wantQuiet(t, a)
				wantQuiet(t, old.visit((*session.Session).SignOut))
				wantQuiet(t, old.visit(func(s *session.Session) {
					s.SignOut()
					note.Set(s, "bye")
				}))
			}
			// Who signs out a session that has ended asks the store whether that will last.
			ends := 0
			if what == "a sign-out" {
				ends = 6
			}
			if w.live() != live || w.store.writes() != ends {
				t.Errorf("%d sessions live, %d before; %d writes", w.live(), live, w.store.writes())
			}
			if w.events.count(session.EventReused) != 0 {
				t.Error("a late token counts as reused")
			}
		})

		t.Run(what+" with the old token is a new visitor after the minute", func(t *testing.T) {
			w, old := begin(t)
			w.clock.advance(time.Minute)
			a := old.visit(func(s *session.Session) {
				if s.User() != "" || theme.Get(s) != "" {
					t.Errorf("it reads %+v", s.Info())
				}
				note.Set(s, "new")
			})
			if a.cookie() == nil || read(old, note) != "new" {
				t.Error("the visitor did not start anew")
			}
		})

		t.Run(what+" with the old token and signs in gets a session", func(t *testing.T) {
			w, old := begin(t)
			old.get(signIn("dora"))
			if old.user() != "dora" {
				t.Errorf("signed in as %q", old.user())
			}
			_ = w
		})
	}
}

func TestADoubleClickedSignInLeavesTheBrowserSignedIn(t *testing.T) {
	for _, order := range []string{"first answer last", "second answer last"} {
		arrive := func(b *browser, first, second *answer) {
			if order == "first answer last" {
				first, second = second, first
			}
			b.receive(first)
			b.receive(second)
		}
		for _, before := range []string{"a visitor", "alice", "bob"} {
			b0 := func(t *testing.T) (*world, *browser) {
				w := newWorld(t, session.Config{})
				b := w.browser()
				b.visit(func(s *session.Session) {
					theme.Set(s, "dark")
					if before != "a visitor" {
						s.SignIn(before)
					}
				})
				return w, b
			}
			t.Run("both load first, "+before+" before, "+order, func(t *testing.T) {
				_, b := b0(t)
				first, second := b.hold(signIn("alice")), b.hold(signIn("alice"))
				one, two := first.finish(), second.finish()
				arrive(b, one, two)
				if b.user() != "alice" {
					t.Errorf("signed in as %q", b.user())
				}
			})
			t.Run("the second loads after the first, "+before+" before, "+order, func(t *testing.T) {
				_, b := b0(t)
				one := b.send(signIn("alice"))
				two := b.send(signIn("alice"))
				arrive(b, one, two)
				if b.user() != "alice" {
					t.Errorf("signed in as %q", b.user())
				}
			})
			t.Run("another request begun before ends last, "+before+" before, "+order, func(t *testing.T) {
				_, b := b0(t)
				slow := b.hold(do(func(s *session.Session) { hits.Add(s, 1) }))
				one, two := b.send(signIn("alice")), b.send(signIn("alice"))
				arrive(b, one, two)
				b.receive(slow.finish())
				if b.user() != "alice" {
					t.Errorf("signed in as %q", b.user())
				}
			})
		}
	}
}

func TestASlowSecondSignOutLeavesTheNewSignInAlone(t *testing.T) {
	w := newWorld(t, session.Config{})
	b := w.browser()
	b.get(signIn("alice"))
	slow := b.hold(do((*session.Session).SignOut))
	if c := b.visit((*session.Session).SignOut).cookie(); c == nil || c.MaxAge >= 0 || b.token() != "" {
		t.Fatalf("the sign-out does not clear the cookie: %v", c)
	}
	b.get(signIn("alice"))
	a := slow.finish()
	wantQuiet(t, a)
	b.receive(a)
	if b.user() != "alice" {
		t.Errorf("signed in as %q", b.user())
	}
}

func TestASignInOverAnotherUsersSessionEndsThatOne(t *testing.T) {
	w := newWorld(t, session.Config{KeepOnSignIn: []string{"test"}})
	begin := func() (b, old *browser) {
		b = w.browser()
		b.visit(func(s *session.Session) {
			s.SignIn("alice")
			theme.Set(s, "dark")
		})
		w.events.kinds()
		return b, b.copy()
	}

	t.Run("and starts anew, whatever is kept otherwise", func(t *testing.T) {
		b, old := begin()
		b.visit(func(s *session.Session) {
			hits.Add(s, 5)
			s.SignIn("bob")
			if theme.Get(s) != "" || hits.Get(s) != 0 || s.User() != "bob" {
				t.Errorf("bob reads %q, %d", theme.Get(s), hits.Get(s))
			}
			note.Set(s, "hello bob")
		})
		if got := w.events.kinds(); got != "ended:replaced created signedin" {
			t.Errorf("events %q", got)
		}
		if b.user() != "bob" || read(b, theme) != "" || read(b, note) != "hello bob" || read(b, hits.Key) != 0 {
			t.Errorf("bob has %q %q %d", read(b, theme), read(b, note), read(b, hits.Key))
		}
		if old.user() != "" {
			t.Error("alice's session lives")
		}
	})

	for name, f := range map[string]func(s *session.Session){
		"after a step-up in the same request": func(s *session.Session) { s.SignIn("alice"); s.SignIn("bob") },
		"after a sign-out in the same request": func(s *session.Session) {
			s.SignOut()
			s.SignIn("bob")
		},
		"after a third user in the same request": func(s *session.Session) { s.SignIn("carol"); s.SignIn("bob") },
	} {
		t.Run(name, func(t *testing.T) {
			b, old := begin()
			b.visit(func(s *session.Session) {
				f(s)
				if s.User() != "bob" || theme.Get(s) != "" {
					t.Errorf("%q reads %q", s.User(), theme.Get(s))
				}
			})
			if b.user() != "bob" || read(b, theme) != "" {
				t.Errorf("%q has %q", b.user(), read(b, theme))
			}
			if old.user() != "" {
				t.Error("alice's session lives")
			}
		})
	}
}

func TestSignIn(t *testing.T) {
	t.Run("keeps only what KeepOnSignIn names of before, and all of after", func(t *testing.T) {
		cart, drafts := session.NewKey[string]("cart.items"), session.NewKey[string]("cartoon.seen")
		w := newWorld(t, session.Config{KeepOnSignIn: []string{"cart"}})
		b := w.browser()
		b.visit(func(s *session.Session) {
			cart.Set(s, "apple")
			drafts.Set(s, "old")
			theme.Set(s, "planted")
			hits.Add(s, 7)
		})
		b.visit(func(s *session.Session) {
			cart.Set(s, cart.Get(s)+" pear")
			note.Set(s, "before")
			hits.Add(s, 1)
			s.SignIn("alice")
			if cart.Get(s) != "apple pear" || drafts.Get(s) != "" || theme.Get(s) != "" || note.Get(s) != "" || hits.Get(s) != 0 {
				t.Errorf("the request reads %q %q %q %q %d", cart.Get(s), drafts.Get(s), theme.Get(s), note.Get(s), hits.Get(s))
			}
			if n := hits.Add(s, 1); n != 1 {
				t.Errorf("Add returned %d", n)
			}
			drafts.Set(s, "after")
		})
		if read(b, cart) != "apple pear" || read(b, drafts) != "after" || read(b, theme) != "" || read(b, note) != "" || read(b, hits.Key) != 1 {
			t.Errorf("the session has %q %q %q %q %d", read(b, cart), read(b, drafts), read(b, theme), read(b, note), read(b, hits.Key))
		}
	})

	t.Run("of a new visitor makes one session", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		a := b.visit(func(s *session.Session) {
			s.SignIn("alice")
			theme.Set(s, "dark")
		})
		if c := a.cookie(); c == nil || c.MaxAge != 0 {
			t.Errorf("cookie %v", c)
		}
		if got := w.events.kinds(); got != "created signedin" {
			t.Errorf("events %q", got)
		}
		if w.live() != 1 || b.user() != "alice" || read(b, theme) != "dark" {
			t.Error("the session is not as it was made")
		}
	})

	t.Run("twice in one request is one sign-in; as another user the first leaves nothing", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		b.visit(func(s *session.Session) { s.SignIn("alice"); s.SignIn("alice") })
		if got := w.events.kinds(); got != "created signedin" || b.user() != "alice" {
			t.Errorf("events %q", got)
		}
		c := w.browser()
		c.visit(func(s *session.Session) {
			s.SignIn("alice")
			theme.Set(s, "alice's")
			s.SignIn("bob")
		})
		if c.user() != "bob" || read(c, theme) != "" {
			t.Errorf("%q has %q", c.user(), read(c, theme))
		}
		if got := w.events.kinds(); got != "created signedin" {
			t.Errorf("events %q", got)
		}
	})

	t.Run("keeps the ID, ends the token and is told as an event", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		b.visit(func(s *session.Session) { theme.Set(s, "dark") })
		var before, after session.ID
		old := b.copy()
		b.visit(func(s *session.Session) { before = s.ID(); s.SignIn("alice") })
		b.visit(func(s *session.Session) { after = s.ID() })
		if before == "" || before != after || old.token() == b.token() {
			t.Errorf("IDs %q and %q, tokens equal: %v", before, after, old.token() == b.token())
		}
		if got := w.events.kinds(); got != "created signedin" {
			t.Errorf("events %q", got)
		}
		if old.user() != "" {
			t.Error("the token from before is signed in")
		}
	})

	t.Run("with a token two renewals and a sign-in old is late, and gets no cookie without a sign-in", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		b.get(signIn("alice"))
		oldest := b.copy()
		for range 2 {
			b.visit((*session.Session).Renew)
			b.visit(func(s *session.Session) { hits.Add(s, 1) })
			w.clock.advance(11 * time.Second)
		}
		b.get(signIn("alice"))
		wantQuiet(t, oldest.visit(func(s *session.Session) {
			if s.User() != "" {
				t.Error("a dead token reads the session")
			}
			note.Set(s, "x")
		}))
		if oldest.get(signIn("alice")); oldest.user() != "alice" || b.user() != "alice" {
			t.Error("one of the two is not signed in")
		}
	})
}

func TestAStepUp(t *testing.T) {
	t.Run("keeps values, Remember and its limits, and refreshes SignedIn", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		b.visit(func(s *session.Session) { theme.Set(s, "planted") })
		b.visit(func(s *session.Session) {
			s.SignIn("alice")
			s.Remember()
			theme.Set(s, "dark")
		})
		signedIn := w.clock.now()
		old := b.copy()
		w.clock.advance(24 * time.Hour)
		a := b.visit(func(s *session.Session) {
			s.SignIn("alice")
			if theme.Get(s) != "dark" || !s.Info().Remember || !s.Info().SignedIn.Equal(w.clock.now()) {
				t.Errorf("the request reads %q, %+v", theme.Get(s), s.Info())
			}
		})
		if c := a.cookie(); c == nil || c.MaxAge != 30*24*3600 {
			t.Errorf("cookie %v", c)
		}
		b.visit(func(s *session.Session) {
			in := s.Info()
			if theme.Get(s) != "dark" || !in.Remember || in.SignedIn.Equal(signedIn) || !in.Expires.Equal(w.clock.now().Add(14*24*time.Hour)) {
				t.Errorf("after it reads %q, %+v", theme.Get(s), in)
			}
		})
		if old.user() != "" {
			t.Error("the token from before the step-up is signed in")
		}
	})

	t.Run("under a former secret gets a session of its own", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		b.visit(func(s *session.Session) { s.SignIn("alice"); theme.Set(s, "dark") })
		former := b.copy()
		b.visit((*session.Session).Renew)
		if read(former, theme) != "dark" {
			t.Fatal("the former secret does not read while it works")
		}
		former.get(signIn("alice"))
		if former.user() != "alice" || read(former, theme) != "" {
			t.Errorf("%q has %q", former.user(), read(former, theme))
		}
		if b.user() != "alice" || read(b, theme) != "dark" || w.live() != 2 {
			t.Error("the other session changed")
		}
	})
}

func TestSignOut(t *testing.T) {
	t.Run("then a flash message starts a new session", func(t *testing.T) {
		w := newWorld(t, session.Config{KeepOnSignIn: []string{"test"}})
		b := w.browser()
		b.visit(func(s *session.Session) { s.SignIn("alice"); theme.Set(s, "dark") })
		old := b.copy()
		w.events.kinds()
		a := b.visit(func(s *session.Session) {
			hits.Add(s, 1)
			s.SignOut()
			if s.User() != "" || theme.Get(s) != "" || hits.Get(s) != 0 || s.ID() != "" {
				t.Error("the session is not empty after SignOut")
			}
			note.Set(s, "bye")
		})
		if n := len(a.Header["Set-Cookie"]); n != 1 {
			t.Errorf("%d Set-Cookie lines", n)
		}
		if got := w.events.kinds(); got != "ended:signed out created" {
			t.Errorf("events %q", got)
		}
		if b.user() != "" || read(b, note) != "bye" || read(b, theme) != "" || old.user() != "" || read(b, hits.Key) != 0 {
			t.Errorf("the new session has %q %q", b.user(), read(b, theme))
		}
	})

	t.Run("and SignIn in one request ends the one and starts the other", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		b.visit(func(s *session.Session) { s.SignIn("alice"); theme.Set(s, "dark") })
		old := b.copy()
		b.visit(func(s *session.Session) { s.SignOut(); s.SignIn("alice") })
		if b.user() != "alice" || read(b, theme) != "" || old.user() != "" || w.live() != 1 {
			t.Errorf("%q has %q, %d sessions", b.user(), read(b, theme), w.live())
		}
	})

	t.Run("after SignIn in one request leaves nobody signed in", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		for _, before := range []string{"", "alice", "bob"} {
			b := w.browser()
			if before != "" {
				b.get(signIn(before))
			}
			b.visit(func(s *session.Session) { s.SignIn("alice"); theme.Set(s, "x"); s.SignOut() })
			if b.user() != "" || w.live() != 0 || b.token() != "" {
				t.Errorf("before %q: %q is signed in, %d sessions", before, b.user(), w.live())
			}
		}
	})

	t.Run("clears the cookie; of a visitor without a session it does nothing", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		a := b.visit((*session.Session).SignOut)
		if a.cookie() != nil || w.store.count() != 0 {
			t.Errorf("cookie %v, %d store calls", a.cookie(), w.store.count())
		}
		b.get(signIn("alice"))
		if c := b.visit((*session.Session).SignOut).cookie(); c == nil || c.MaxAge != -1 || c.Value != "" || !c.Secure || c.Path != "/" {
			t.Errorf("cookie %v", c)
		}
	})

	t.Run("that follows a commit of its own still ends the session", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		b.get(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			s.SignIn("alice")
			if err := s.Commit(r.Context()); err != nil {
				t.Error(err)
			}
			s.SignOut()
			if err := s.Commit(r.Context()); err != nil {
				t.Error(err)
			}
			note.Set(s, "bye")
		})
		if w.live() != 1 || b.user() != "" || read(b, note) != "bye" {
			t.Errorf("%d sessions, user %q", w.live(), b.user())
		}
	})
}

func TestASignOutNeverClaimsSuccess(t *testing.T) {
	down := errors.New("connection refused")
	begin := func(t *testing.T) (*world, *browser) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		b.get(signIn("alice"))
		w.store.down(down)
		w.store.on("Load", nil)
		return w, b
	}

	t.Run("when the store refuses it: 503 and the cookie stays", func(t *testing.T) {
		w, b := begin(t)
		a := b.get(func(s *session.Session, w http.ResponseWriter, _ *http.Request) {
			s.SignOut()
			w.Header().Set("Location", "/bye")
			w.WriteHeader(http.StatusSeeOther)
		})
		if a.StatusCode != 503 || a.Header["Set-Cookie"] != nil || a.Header.Get("Location") != "" {
			t.Errorf("status %d, headers %v", a.StatusCode, a.Header)
		}
		w.store.heal()
		if b.user() != "alice" {
			t.Error("the session is gone")
		}
	})

	t.Run("when the handler commits it again", func(t *testing.T) {
		w, b := begin(t)
		a := b.get(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			for range 3 {
				s.SignOut()
				if err := s.Commit(r.Context()); !errors.Is(err, down) {
					t.Errorf("Commit of a refused sign-out returned %v", err)
				}
				if s.User() != "alice" {
					t.Error("the request reads as signed out while the session lives")
				}
			}
			w.store.heal()
			s.SignOut()
			if err := s.Commit(r.Context()); err != nil {
				t.Error(err)
			}
		})
		if c := a.cookie(); c == nil || c.MaxAge != -1 || w.live() != 0 {
			t.Errorf("cookie %v, %d sessions", c, w.live())
		}
	})

	t.Run("when it was made and may not last, also not to who signs out again", func(t *testing.T) {
		w, b := begin(t)
		for range 2 {
			w.store.lose("Update", 3)
			wantDown(t, b.get(do((*session.Session).SignOut)))
		}
		w.store.heal()
		wantQuiet(t, b.get(do((*session.Session).SignOut)))
		if w.live() != 0 {
			t.Error("the session lives")
		}
	})

	t.Run("when a value fails the same commit", func(t *testing.T) {
		w, b := begin(t)
		w.store.heal()
		bad := session.NewKey[func()]("test.bad")
		b.get(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			s.SignOut()
			bad.Set(s, func() {})
			var value *session.ValueError
			if err := s.Commit(r.Context()); !errors.As(err, &value) {
				t.Errorf("Commit returned %v", err)
			}
			if s.User() != "alice" {
				t.Error("the request reads as signed out while the session lives")
			}
			s.SignOut()
			if err := s.Commit(r.Context()); err != nil {
				t.Error(err)
			}
		})
		if w.live() != 0 {
			t.Error("a second sign-out claims success and the session lives")
		}
	})
}

func TestTheLateMinuteBeginsWhenTheTokenIsReplaced(t *testing.T) {
	w := newWorld(t, session.Config{})
	b := w.browser()
	b.visit(func(s *session.Session) { theme.Set(s, "dark") })
	old := b.copy()
	b.visit(func(s *session.Session) {
		s.SignIn("alice")
		w.clock.advance(10 * time.Minute) // a handler that goes on for long
	})
	wantQuiet(t, old.visit(func(s *session.Session) { hits.Add(s, 1) }))
	if user := b.user(); user != "alice" {
		t.Errorf("the browser is signed in as %q", user)
	}
}
