package session_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crumb-go/crumb/session"
)

// µs is the grain of a record's times.
const µs = time.Microsecond

const day = 24 * time.Hour

// A class is one of the three classes of session, with its default limits.
type class struct {
	name     string
	begin    func(s *session.Session)
	idle     time.Duration
	absolute time.Duration
	maxAge   int // of the cookie; 0 is none
}

var classes = []class{
	{"visitor", func(s *session.Session) { theme.Set(s, "x") }, 30 * day, 180 * day, 180 * 86400},
	{"signed in", func(s *session.Session) { s.SignIn("ann"); theme.Set(s, "x") }, 30 * time.Minute, day, 0},
	{"remembered", func(s *session.Session) { s.SignIn("ann"); s.Remember(); theme.Set(s, "x") }, 14 * day, 30 * day, 30 * 86400},
}

// begin starts a session of class c whose cookie has come back.
func (c class) start(t *testing.T, w *world) *browser {
	t.Helper()
	b := w.browser()
	a := b.visit(c.begin)
	if got := a.cookie(); got == nil || got.MaxAge != c.maxAge {
		t.Fatalf("the cookie is %v, want Max-Age %d", got, c.maxAge)
	}
	b.visit(func(*session.Session) {})
	return b
}

// alive reports whether the server still knows b. It asks another Manager, so
// that nothing is touched: its clock stands still at the time it asks.
func alive(w *world, b *browser) bool {
	_, err := w.Info(context.Background(), session.ID(b.token()[:16]))
	served := read(b.on(w.another(session.Config{Now: w.clock.now})), theme) != ""
	if (err == nil) != served {
		w.t.Errorf("Info says %v, but the request is served: %v", err, served)
	}
	return served
}

func TestLimits(t *testing.T) {
	for _, c := range classes {
		t.Run(c.name+": lives until the idle limit and not a microsecond longer", func(t *testing.T) {
			w := newWorld(t, session.Config{})
			w.clock.advance(7 * time.Nanosecond) // clocks are finer than records
			b := c.start(t, w)
			w.clock.advance(c.idle - µs)
			if _, err := w.Info(t.Context(), session.ID(b.token()[:16])); err != nil {
				t.Error("gone a microsecond early")
			}
			w.clock.advance(µs)
			if alive(w, b) {
				t.Error("alive at the limit")
			}
			_ = w.events.kinds()
			b.visit(func(s *session.Session) {
				if s.User() != "" || theme.Get(s) != "" {
					t.Error("served")
				}
			})
			if got := w.events.kinds(); got != "rejected:expired" {
				t.Error(got)
			}
		})
		t.Run(c.name+": a visit a microsecond before the idle limit keeps it", func(t *testing.T) {
			w := newWorld(t, session.Config{})
			b := c.start(t, w)
			for range 2 { // no class reaches its absolute limit by then
				w.clock.advance(c.idle - µs)
				if a := b.visit(func(s *session.Session) {
					if theme.Get(s) != "x" {
						t.Fatal("gone early")
					}
				}); a.Header["Set-Cookie"] != nil {
					t.Error("a touch sends a cookie:", a.Header)
				}
			}
		})
		t.Run(c.name+": busy or not it ends at the absolute limit", func(t *testing.T) {
			w := newWorld(t, session.Config{})
			began := w.clock.now()
			b := c.start(t, w)
			for next := w.clock.now().Add(c.idle / 2); next.Before(began.Add(c.absolute - µs)); next = next.Add(c.idle / 2) {
				w.clock.advance(next.Sub(w.clock.now()))
				a := b.visit(func(s *session.Session) { hits.Add(s, 1); s.Renew() })
				if got := a.cookie(); got != nil && c.maxAge > 0 {
					left := int(began.Add(c.absolute).Sub(w.clock.now()).Seconds())
					if got.MaxAge != left {
						t.Fatalf("after a renewal Max-Age is %d, want the %d s that are left", got.MaxAge, left)
					}
				}
			}
			w.clock.advance(began.Add(c.absolute - µs).Sub(w.clock.now()))
			b.visit(func(s *session.Session) {
				if theme.Get(s) != "x" {
					t.Error("gone a microsecond early")
				}
				if want := began.Add(c.absolute); !s.Info().Expires.Equal(want) {
					t.Errorf("expires %v, want %v", s.Info().Expires, want)
				}
			})
			w.clock.advance(µs)
			if alive(w, b) {
				t.Error("alive at the limit")
			}
		})
		t.Run(c.name+": its Info says when it expires", func(t *testing.T) {
			w := newWorld(t, session.Config{})
			b := c.start(t, w)
			b.visit(func(s *session.Session) {
				if want := w.clock.now().Add(c.idle); !s.Info().Expires.Equal(want) {
					t.Errorf("%v, want %v", s.Info().Expires, want)
				}
			})
		})
	}
	t.Run("limits of one's own hold as exactly", func(t *testing.T) {
		w := newWorld(t, session.Config{IdleTimeout: 10 * time.Second, Lifetime: 25 * time.Second, TouchInterval: time.Second})
		b := w.browser()
		b.visit(func(s *session.Session) { s.SignIn("ann"); theme.Set(s, "x") })
		for range 2 {
			w.clock.advance(10*time.Second - µs)
			b.visit(func(*session.Session) {})
		}
		w.clock.advance(5*time.Second + µs)
		if !alive(w, b) {
			t.Error("gone early")
		}
		w.clock.advance(µs)
		if alive(w, b) {
			t.Error("alive at the limit")
		}
	})
}

func TestFirstVisit(t *testing.T) {
	set := func(s *session.Session) { theme.Set(s, "x") }
	t.Run("one who never came back is gone after an hour, to the microsecond", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		b.visit(set)
		w.clock.advance(time.Hour - µs)
		if !alive(w, b.copy()) {
			t.Error("gone early")
		}
		w = newWorld(t, session.Config{})
		b = w.browser()
		b.visit(set)
		w.clock.advance(time.Hour)
		if alive(w, b) {
			t.Error("alive at the limit")
		}
	})
	t.Run("one who came back once is there after 61 idle minutes, and after 30 days less a microsecond", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		b.visit(set)
		w.clock.advance(time.Second)
		b.visit(func(*session.Session) {}) // the page need not even look
		w.clock.advance(61 * time.Minute)
		if !alive(w, b) {
			t.Fatal("gone after 61 minutes")
		}
		w.clock.advance(30*day - 61*time.Minute - µs) // alive has touched
		if !alive(w, b) {
			t.Error("gone early")
		}
	})
	t.Run("one Update raises it, once, whatever the page does", func(t *testing.T) {
		for name, f := range map[string]func(s *session.Session){
			"nothing": func(*session.Session) {}, "reads": func(s *session.Session) { theme.Get(s) }, "writes": func(s *session.Session) { hits.Add(s, 1) },
		} {
			w := newWorld(t, session.Config{})
			b := w.browser()
			b.visit(set)
			w.store.forget()
			b.visit(f)
			for range 10 {
				b.visit(func(s *session.Session) { theme.Get(s) })
			}
			if n := w.store.writes(); n != 1 || w.store.count("Update") != 1 {
				t.Errorf("%s: %d writes", name, n)
			}
		}
	})
	t.Run("a failed raise is tried again by the next request", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		b.visit(set)
		w.store.fail("Update", 1, fmt.Errorf("not now"))
		if a := b.visit(func(*session.Session) {}); a.StatusCode != 200 {
			t.Error(a.StatusCode)
		}
		b.visit(func(*session.Session) {})
		w.clock.advance(2 * time.Hour)
		if !alive(w, b) {
			t.Error("gone")
		}
	})
	t.Run("two writes before the answer do not count as coming back", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		b.get(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			set(s)
			_ = s.Commit(r.Context())
			hits.Add(s, 1)
			_ = s.Commit(r.Context())
			hits.Add(s, 1)
		})
		w.clock.advance(time.Hour)
		if alive(w, b) {
			t.Error("alive")
		}
	})
	t.Run("who signs in at the first visit has the limits of the signed in", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		b.visit(func(s *session.Session) { s.SignIn("ann"); s.Remember(); theme.Set(s, "x") })
		w.clock.advance(14*day - µs)
		if !alive(w, b) {
			t.Error("gone early")
		}
	})
}

func TestWhatMovesTheLimits(t *testing.T) {
	expires := func(b *browser) (at time.Time) {
		b.send(do(func(s *session.Session) { at = s.Info().Expires }))
		return at
	}
	for _, c := range classes[1:] {
		t.Run(c.name+": a step-up restarts both clocks and keeps the class", func(t *testing.T) {
			w := newWorld(t, session.Config{})
			b := c.start(t, w)
			for end := w.clock.now().Add(c.absolute - time.Minute); w.clock.now().Before(end); {
				w.clock.advance(min(c.idle/2, end.Sub(w.clock.now())))
				b.visit(func(*session.Session) {})
			}
			a := b.visit(func(s *session.Session) { s.SignIn("ann") })
			if got := a.cookie(); got == nil || got.MaxAge != c.maxAge {
				t.Error("the cookie is", got)
			}
			if want := w.clock.now().Add(c.idle); !expires(b).Equal(want) {
				t.Errorf("expires %v, want %v", expires(b), want)
			}
			w.clock.advance(c.idle / 2) // past the first absolute limit
			b.visit(func(*session.Session) {})
			w.clock.advance(c.idle - µs)
			if !alive(w, b) {
				t.Error("gone early")
			}
		})
	}
	t.Run("a sign-in gives a visitor the limits of the signed in, and a sign-out takes them", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := classes[0].start(t, w)
		w.clock.advance(10 * day)
		b.visit(func(s *session.Session) { s.SignIn("ann") })
		if want := w.clock.now().Add(30 * time.Minute); !expires(b).Equal(want) {
			t.Errorf("%v, want %v", expires(b), want)
		}
		w.clock.advance(30 * time.Minute)
		if u := b.user(); u != "" {
			t.Error("signed in after", u)
		}
	})
	t.Run("Remember at a step-up gives the limits of the remembered", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := classes[1].start(t, w)
		a := b.visit(func(s *session.Session) { s.SignIn("ann"); s.Remember() })
		if want := w.clock.now().Add(14 * day); !expires(b).Equal(want) || a.cookie().MaxAge != 30*86400 {
			t.Error(expires(b), a.cookie())
		}
	})
	t.Run("Remember alone does nothing", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := classes[1].start(t, w)
		before := expires(b)
		if a := b.visit(func(s *session.Session) { s.Remember() }); a.Header["Set-Cookie"] != nil || !expires(b).Equal(before) {
			t.Error(a.Header, expires(b))
		}
	})
	t.Run("one who is not remembered is not by the next user's choice", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := classes[2].start(t, w)
		a := b.visit(func(s *session.Session) { s.SignIn("bob") })
		if got := a.cookie(); got == nil || got.MaxAge != 0 || !expires(b).Equal(w.clock.now().Add(30*time.Minute)) {
			t.Error(got, expires(b))
		}
	})
}

func TestClocksThatDisagree(t *testing.T) {
	t.Run("a clock that goes back moves nothing back and locks nobody out", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := classes[1].start(t, w)
		seen := func() (in session.Info) {
			b.visit(func(s *session.Session) { hits.Add(s, 1) })
			b.send(do(func(s *session.Session) { in = s.Info() }))
			return in
		}
		before := seen()
		w.clock.advance(-3 * time.Hour)
		after := seen()
		if !after.Seen.Equal(before.Seen) || !after.Expires.Equal(before.Expires) || after.User != "ann" {
			t.Errorf("before %+v\nafter  %+v", before, after)
		}
		for range 5 {
			b.visit(func(*session.Session) {})
		}
		w.clock.advance(3*time.Hour + time.Minute)
		if in := seen(); !in.Seen.Equal(before.Seen.Add(time.Minute)) {
			t.Error(in.Seen)
		}
	})
	t.Run("a node whose clock is behind does not serve a session that has ended", func(t *testing.T) {
		for name, end := range map[string]func(w *world, b *browser){
			"sign-out": func(_ *world, b *browser) { b.visit(func(s *session.Session) { s.SignOut() }) },
			"revoked":  func(w *world, b *browser) { _ = w.Revoke(context.Background(), session.ID(b.token()[:16])) },
			"replaced": func(_ *world, b *browser) { b.visit(func(s *session.Session) { s.SignIn("bob") }) },
		} {
			w := newWorld(t, session.Config{})
			b := classes[1].start(t, w)
			old := b.copy()
			end(w, b)
			for _, behind := range []time.Duration{0, µs, time.Minute, 20 * time.Minute, 24 * 365 * time.Hour} {
				at := w.clock.now().Add(-behind)
				m := w.another(session.Config{Now: func() time.Time { return at }})
				if old.on(m).user() != "" || read(old.on(m), theme) != "" {
					t.Errorf("%s: served by a node %v behind", name, behind)
				}
				if a := old.on(m).visit(func(s *session.Session) { theme.Set(s, "back") }); a.Header["Set-Cookie"] != nil && behind < 30*time.Second {
					t.Errorf("%s: a late answer sets a cookie %v behind", name, behind)
				}
			}
		}
	})
	t.Run("a node whose clock is ahead ends nothing for the others", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := classes[1].start(t, w)
		ahead := w.another(session.Config{Now: func() time.Time { return w.clock.now().Add(time.Hour) }})
		if b.on(ahead).user() != "" {
			t.Error("served past its limit")
		}
		if b.user() != "ann" {
			t.Error("gone for the others")
		}
	})
	t.Run("an expired session never revives, not by a request that loaded it before", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := classes[1].start(t, w)
		h := b.hold(do(func(s *session.Session) { hits.Add(s, 1) }))
		w.clock.advance(30 * time.Minute)
		if a := h.finish(); a.Header["Set-Cookie"] != nil {
			t.Error(a.Header)
		}
		if b.user() != "" || w.live() != 0 {
			t.Error("revived")
		}
	})
}

func TestTouches(t *testing.T) {
	t.Run("one a minute, however many requests", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := classes[0].start(t, w)
		w.store.forget()
		for range 300 { // 10 minutes
			w.clock.advance(2 * time.Second)
			b.visit(func(s *session.Session) { theme.Get(s) })
		}
		if n := w.store.writes(); n > 10 || n < 9 {
			t.Error(n, "writes in 10 minutes")
		}
	})
	t.Run("1,000 at once write at most once", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := classes[0].start(t, w)
		w.clock.advance(time.Hour)
		w.store.forget()
		together(1000, func(int) { b.send(page(nothing)) })
		if n := w.store.writes(); n != 1 {
			t.Error(n, "writes")
		}
	})
	t.Run("the first due after half the idle time is written at once, one before waits for Run", func(t *testing.T) {
		for _, lag := range []time.Duration{15*time.Minute - µs, 15 * time.Minute} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, session.Config{Now: time.Now})
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- w.Run(ctx) }()
				synctest.Wait()
				b := w.browser()
				b.visit(classes[1].begin)
				<-time.After(lag) // on the bubble's clock
				synctest.Wait()
				w.store.forget()
				b.visit(func(*session.Session) {})
				if atOnce := w.store.writes() == 1; atOnce != (lag >= 15*time.Minute) {
					t.Errorf("after %v: %d writes at once", lag, w.store.writes())
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
				if n := w.store.writes(); n != 1 {
					t.Errorf("after %v: %d writes in all", lag, n)
				}
			})
		}
	})
	t.Run("a change writes the time on the occasion", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := classes[0].start(t, w)
		w.clock.advance(time.Hour)
		w.store.forget()
		b.visit(func(s *session.Session) { hits.Add(s, 1) })
		if n := w.store.writes(); n != 1 {
			t.Error(n, "writes")
		}
		b.send(do(func(s *session.Session) {
			if !s.Info().Seen.Equal(w.clock.now()) {
				t.Error(s.Info().Seen)
			}
		}))
	})
}
