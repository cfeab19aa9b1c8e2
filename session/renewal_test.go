package session_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/crumb-go/crumb/session"
)

// aged returns a world and a browser whose session holds a value and came back
// once, so that nothing is left to write but what a test does.
func aged(t *testing.T, cfg session.Config) (*world, *browser) {
	t.Helper()
	w := newWorld(t, cfg)
	b := w.browser()
	b.visit(func(s *session.Session) { s.SignIn("alice"); theme.Set(s, "dark") })
	b.get(nothing)
	w.store.forget()
	w.events.kinds()
	return w, b
}

// wantServed fails if b's token does not open the session with its value.
func wantServed(t *testing.T, b *browser, when string) {
	t.Helper()
	if user, v := b.user(), read(b, theme); user != "alice" || v != "dark" {
		t.Errorf("%s: the token opens %q, %q", when, user, v)
	}
}

func Test50ParallelRequestsDuringARenewalAreServedAndOneTokenIsNew(t *testing.T) {
	w, b := aged(t, session.Config{})
	var requests []*held
	for i := range 50 {
		requests = append(requests, b.hold(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			hits.Add(s, 1)
			if i%2 == 0 {
				s.Renew()
			}
			if s.User() != "alice" || theme.Get(s) != "dark" {
				t.Error("a request is served without its data")
			}
		}))
	}
	before := b.token()
	for _, r := range requests {
		close(r.release)
	}
	tokens := map[string]bool{}
	for _, r := range requests {
		a := <-r.done
		if a.StatusCode != 200 {
			t.Errorf("status %d", a.StatusCode)
		}
		if c := a.cookie(); c != nil {
			tokens[c.Value] = true
			b.receive(a)
		}
	}
	if len(tokens) != 1 || b.token() == before {
		t.Errorf("%d new tokens", len(tokens))
	}
	wantServed(t, b, "after the renewal")
	if got := read(b, hits.Key); got != 50 {
		t.Errorf("%d requests count, want 50", got)
	}
	if n := w.events.count(session.EventRenewed); n != 1 {
		t.Errorf("%d renewals", n)
	}
}

func TestARenewalWhoseAnswerIsLost(t *testing.T) {
	long := session.Config{IdleTimeout: 12 * time.Hour, TouchInterval: time.Minute}

	t.Run("leaves the old token working, an hour later too, and through a second renewal", func(t *testing.T) {
		w, b := aged(t, long)
		b.send(do((*session.Session).Renew)) // never received
		for range 3 {
			w.clock.advance(time.Hour)
			wantServed(t, b, "under the old token")
			wantQuiet(t, b.visit((*session.Session).Renew)) // the second renewal: only the new token may
			wantServed(t, b, "after a second renewal")
		}
		if n := w.events.count(session.EventRenewed); n != 1 {
			t.Errorf("%d renewals", n)
		}
	})

	t.Run("whose request then writes, renews and commits under the old token keeps both tokens working", func(t *testing.T) {
		w, b := aged(t, long)
		renewed := b.copy()
		renewed.receive(b.send(do((*session.Session).Renew)))
		b.get(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			hits.Add(s, 1)
			s.Renew()
			if err := s.Commit(r.Context()); err != nil {
				t.Error(err)
			}
		})
		w.clock.advance(time.Hour)
		wantServed(t, b, "the old token")
		wantServed(t, renewed, "the new token")
		if got := read(b, hits.Key); got != 1 {
			t.Errorf("the write under the old token: %d", got)
		}
	})

	t.Run("works until the new token has come back and the grace is over; then it is a signal", func(t *testing.T) {
		w, b := aged(t, long)
		old := b.copy()
		b.visit((*session.Session).Renew)
		w.clock.advance(time.Hour)
		wantServed(t, old, "before the new token came back")
		b.get(nothing) // it comes back
		w.clock.advance(10*time.Second - time.Microsecond)
		wantServed(t, old, "within the grace")
		b.get(nothing) // a second return does not prolong it
		w.clock.advance(time.Microsecond)
		w.events.kinds()
		a := old.visit(func(s *session.Session) {
			if s.User() != "" || theme.Get(s) != "" {
				t.Error("the former token opens the session after its time")
			}
		})
		wantQuiet(t, a)
		if got := w.events.kinds(); got != "reused" {
			t.Errorf("events %q", got)
		}
		wantServed(t, b, "the new token after the reuse")
		if old.visit(func(s *session.Session) { note.Set(s, "anew") }).cookie() == nil {
			t.Error("after its time the former token is a new visitor's")
		}
	})

	t.Run("a token two renewals old is unknown, not reused", func(t *testing.T) {
		w, b := aged(t, long)
		oldest := b.copy()
		for range 2 {
			b.visit((*session.Session).Renew)
			b.get(nothing)
			w.clock.advance(2 * time.Minute)
		}
		w.events.kinds()
		if oldest.user() != "" {
			t.Error("it opens the session")
		}
		if got := w.events.kinds(); got != "rejected:unknown" {
			t.Errorf("events %q", got)
		}
	})

	t.Run("the old token signs out, and the new one is dead with it", func(t *testing.T) {
		w, b := aged(t, long)
		renewed := b.copy()
		renewed.receive(b.send(do((*session.Session).Renew)))
		b.visit((*session.Session).SignOut)
		if renewed.user() != "" || w.live() != 0 {
			t.Error("the session lives")
		}
	})
}

func TestTheNewTokenComesBackWith(t *testing.T) {
	// Each page comes with the new token. After it and the grace the old is dead.
	for name, p := range map[string]page{
		"a request that changes nothing": nothing,
		"a write":                        do(func(s *session.Session) { hits.Add(s, 1) }),
		"another renewal, which does nothing as the old token still works": do((*session.Session).Renew),
		"another renewal and a write":                                      do(func(s *session.Session) { s.Renew(); hits.Add(s, 1) }),
		"an explicit commit": func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			hits.Add(s, 1)
			if err := s.Commit(r.Context()); err != nil {
				t.Error(err)
			}
		},
		"an explicit commit of nothing": func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			if err := s.Commit(r.Context()); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, b := aged(t, session.Config{})
			old := b.copy()
			b.visit((*session.Session).Renew)
			wantQuiet(t, b.get(p))
			wantServed(t, old, "within the grace")
			w.clock.advance(10 * time.Second)
			if old.user() != "" {
				t.Error("the old token still works: the return was not noticed")
			}
			wantServed(t, b, "the new token")
			b.visit((*session.Session).Renew)
			wantServed(t, b, "after a second renewal")
			if n := w.events.count(session.EventRenewed); n != 2 {
				t.Errorf("%d renewals, want 2", n)
			}
		})
	}

	t.Run("a commit of the request that renewed is no return", func(t *testing.T) {
		w, b := aged(t, session.Config{})
		b.send(func(s *session.Session, _ http.ResponseWriter, r *http.Request) { // the answer is lost
			s.Renew()
			for range 3 {
				hits.Add(s, 1)
				if err := s.Commit(r.Context()); err != nil {
					t.Error(err)
				}
			}
			if err := s.Commit(r.Context()); err != nil {
				t.Error(err)
			}
			hits.Add(s, 1)
		})
		w.clock.advance(20 * time.Minute)
		wantServed(t, b, "the old token, its renewal unanswered")
	})

	t.Run("a request that had loaded before the renewal, and commits after it, is no return", func(t *testing.T) {
		w, b := aged(t, session.Config{})
		slow := b.hold(do(func(s *session.Session) { hits.Add(s, 1) }))
		b.send(do((*session.Session).Renew))
		wantQuiet(t, slow.finish())
		w.clock.advance(20 * time.Minute)
		wantServed(t, b, "the old token")
		if got := read(b, hits.Key); got != 1 {
			t.Errorf("the slow request's write: %d", got)
		}
	})

	t.Run("two requests do not prolong the grace", func(t *testing.T) {
		w, b := aged(t, session.Config{})
		old := b.copy()
		b.visit((*session.Session).Renew)
		slow := b.hold(do(func(s *session.Session) { hits.Add(s, 1) }))
		b.visit(func(s *session.Session) { hits.Add(s, 1) })
		w.clock.advance(8 * time.Second)
		wantQuiet(t, slow.finish())
		w.clock.advance(2 * time.Second)
		if old.user() != "" {
			t.Error("the old token still works")
		}
	})

	t.Run("a store that fails once hears of it the next time", func(t *testing.T) {
		w, b := aged(t, session.Config{})
		old := b.copy()
		b.visit((*session.Session).Renew)
		w.store.fail("Update", 1, http.ErrServerClosed)
		wantQuiet(t, b.get(nothing))
		wantQuiet(t, b.get(nothing))
		w.clock.advance(10 * time.Second)
		if old.user() != "" {
			t.Error("the old token still works")
		}
	})
}

func TestARequestBegunBeforeAPlainRenewalCommitsHoweverLate(t *testing.T) {
	w, b := aged(t, session.Config{IdleTimeout: 12 * time.Hour, TouchInterval: time.Minute})
	slow := b.hold(do(func(s *session.Session) { hits.Add(s, 1); note.Set(s, "slow") }))
	late := b.hold(do((*session.Session).Renew))
	slower := b.hold(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
		if _, err := hits.Update(r.Context(), s, func(n int64) (int64, error) { return n + 10, nil }); err != nil {
			t.Error(err)
		}
	})
	for range 3 { // the token it came with is long forgotten
		b.visit((*session.Session).Renew)
		b.get(nothing)
		w.clock.advance(time.Hour)
		b.get(nothing)
	}
	wantQuiet(t, slow.finish())
	wantQuiet(t, slower.finish())
	wantQuiet(t, late.finish()) // a token long replaced renews nothing
	wantServed(t, b, "after the late renewal")
	if read(b, hits.Key) != 11 || read(b, note) != "slow" {
		t.Errorf("hits %d, note %q", read(b, hits.Key), read(b, note))
	}
	if w.events.count(session.EventLate) != 0 {
		t.Error("a request from before a renewal counts as late")
	}
}

func TestRenewOfAnEndedSessionIsTold(t *testing.T) {
	_, b := aged(t, session.Config{})
	b.visit((*session.Session).Renew)
	slow := b.hold(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
		s.Renew() // does nothing: the token before still works
		if err := s.Commit(r.Context()); err != session.ErrEnded {
			t.Errorf("Commit returned %v", err)
		}
	})
	b.visit((*session.Session).SignOut)
	wantQuiet(t, slow.finish())
}

func TestARenewalAfterASignInOfTheSameSessionKeepsTheOldTokenDead(t *testing.T) {
	w, b := aged(t, session.Config{})
	old := b.copy()
	b.visit(func(s *session.Session) { s.SignIn("alice"); s.Renew() })
	if old.user() != "" {
		t.Error("the token from before the sign-in is alive")
	}
	b.visit((*session.Session).Renew)
	if old.user() != "" {
		t.Error("the token from before the sign-in came alive by a renewal")
	}
	w.clock.advance(time.Minute)
	w.events.kinds()
	if old.user() != "" || b.user() != "alice" {
		t.Error("a minute later")
	}
}

func TestATokenReplacedByASignInIsReusedAfterTheMinute(t *testing.T) {
	w, b := aged(t, session.Config{})
	old := b.copy()
	b.get(signIn("alice"))
	w.clock.advance(time.Minute)
	w.events.kinds()
	if old.user() != "" {
		t.Error("it is alive")
	}
	if got := w.events.kinds(); got != "reused" {
		t.Errorf("events %q", got)
	}
}
