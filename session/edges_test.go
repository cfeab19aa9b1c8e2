package session_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crumb-go/crumb/session"
)

func TestAStoreThatPanicsPassesItsPanicOn(t *testing.T) {
	for name, p := range map[string]page{
		"in the commit at the end":            func(*session.Session, http.ResponseWriter, *http.Request) {},
		"in the commit before the first byte": func(_ *session.Session, w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "x") },
		"in Commit":                           func(s *session.Session, _ http.ResponseWriter, r *http.Request) { _ = s.Commit(r.Context()) },
		"in Update": func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			_, _ = hits.Update(r.Context(), s, func(n int64) (int64, error) { return n + 1, nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, session.Config{})
			w.store.on("Create", func(storeCall, func() error) error { panic("driver") })
			var inside *session.Session
			func() {
				defer func() {
					if v := recover(); v != "driver" {
						t.Errorf("recovered %v", v)
					}
				}()
				w.browser().get(func(s *session.Session, rw http.ResponseWriter, r *http.Request) {
					inside = s
					theme.Set(s, "dark")
					p(s, rw, r)
				})
			}()
			if theme.Get(inside) != "" { // and nothing holds the lock
				t.Error("a value of the request that panicked is kept")
			}
		})
	}
}

func TestAnEventHandlerThatPanicsStrandsNobody(t *testing.T) {
	w := newWorld(t, session.Config{OnEvent: func(context.Context, session.Event) { panic("event") }})
	rec := httptest.NewRecorder()
	func() {
		defer func() { _ = recover() }()
		w.Handler(do(func(s *session.Session) { s.SignIn("ann") })).ServeHTTP(rec, w.browser().request())
	}()
	if !strings.HasPrefix(rec.Header().Get("Set-Cookie"), cookieName+"=") {
		t.Errorf("the session is stored and its cookie is %q", rec.Header().Get("Set-Cookie"))
	}
}

func TestWhatIsSetAsItWasCountsWhenItIsCommitted(t *testing.T) {
	for name, c := range map[string]struct {
		before, other, f func(s *session.Session)
		want             string
	}{
		"Set": {
			func(s *session.Session) { theme.Set(s, "dark") },
			func(s *session.Session) { theme.Set(s, "light") },
			func(s *session.Session) { theme.Set(s, "dark") }, "dark",
		},
		"Delete": {
			func(s *session.Session) { hits.Add(s, 1) },
			func(s *session.Session) { theme.Set(s, "light") },
			func(s *session.Session) { theme.Delete(s) }, "",
		},
		"Clear": {
			func(s *session.Session) { hits.Add(s, 1) },
			func(s *session.Session) { theme.Set(s, "light") },
			func(s *session.Session) { s.Clear("test") }, "",
		},
	} {
		begin := func(t *testing.T) (*world, *browser) {
			w := newWorld(t, session.Config{})
			b := w.browser()
			b.visit(c.before)
			b.visit(c.before)
			w.store.forget()
			return w, b
		}
		t.Run(name+" wins over an earlier commit of another request", func(t *testing.T) {
			_, b := begin(t)
			b.get(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
				b.visit(c.other)
				c.f(s)
				if err := s.Commit(r.Context()); err != nil || theme.Get(s) != c.want {
					t.Errorf("%q, %v; want %q", theme.Get(s), err, c.want)
				}
			})
		})
		t.Run(name+" wins beside another change", func(t *testing.T) {
			_, b := begin(t)
			b.visit(func(s *session.Session) {
				b.visit(c.other)
				c.f(s)
				note.Set(s, "x")
			})
			if got := read(b, theme); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
		if name != "Clear" {
			t.Run(name+" alone writes nothing", func(t *testing.T) {
				w, b := begin(t)
				if b.visit(c.f); w.store.writes() != 0 {
					t.Errorf("%d writes", w.store.writes())
				}
			})
		}
	}
}

func TestTheSizeIsThatOfTheOutcome(t *testing.T) {
	big := strings.Repeat("x", 40<<10)
	for name, f := range map[string]func(s *session.Session){
		"delete, then set": func(s *session.Session) { theme.Delete(s); note.Set(s, big) },
		"set, then delete": func(s *session.Session) { note.Set(s, big); theme.Delete(s) },
		"set, then sign in": func(s *session.Session) {
			note.Set(s, big)
			s.SignIn("ann")
			note.Set(s, big)
		},
	} {
		w := newWorld(t, session.Config{})
		b := w.browser()
		b.visit(func(s *session.Session) { theme.Set(s, big) })
		if a := b.visit(f); a.StatusCode != 200 || read(b, note) != big {
			t.Error(name, a.StatusCode)
		}
	}
}

func TestATimeOutEndsAStoreThatOnlyAsksForErr(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.Config{StoreTimeout: time.Second})
		for _, method := range []string{"Load", "Update"} {
			b := w.browser()
			b.visit(func(s *session.Session) { hits.Add(s, 1) })
			w.store.on(method, func(c storeCall, _ func() error) error {
				for began := time.Now(); c.ctx.Err() == nil; {
					if time.Since(began) > time.Minute {
						return errors.New("the context never ended")
					}
					<-time.After(10 * time.Millisecond)
				}
				return c.ctx.Err()
			})
			began := time.Now()
			if a := b.visit(func(s *session.Session) { hits.Add(s, 1) }); a.StatusCode != 503 || time.Since(began) > 2*time.Second {
				t.Error(method, a.StatusCode, time.Since(began))
			}
			w.store.heal()
		}
	})
}

func TestCommitsThatBeginAtAboutTheSameTimeEachHaveTheTimeOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		w := newWorld(t, session.Config{StoreTimeout: 3200 * time.Millisecond})
		w.store.on("Update", func(c storeCall, _ func() error) error {
			if c.ctx.Value(key{}) != "kept" {
				t.Error("the store does not see the values of the request's context")
			}
			derived, cancel := context.WithCancel(c.ctx)
			defer cancel()
			<-derived.Done()
			return fmt.Errorf("%w: %w", session.ErrUnknown, derived.Err())
		})
		var visits sync.WaitGroup
		for i := range 40 {
			b := w.browser()
			b.visit(func(s *session.Session) { hits.Add(s, 1) })
			r := b.request()
			r = r.WithContext(context.WithValue(r.Context(), key{}, "kept"))
			visits.Go(func() {
				time.Sleep(time.Duration(i) * 30 * time.Millisecond)
				began := time.Now()
				a := serve(w.Handler(do(func(s *session.Session) { hits.Add(s, 1) })), r)
				if took := time.Since(began); a.StatusCode != 503 || took > 3200*time.Millisecond || took < 3100*time.Millisecond {
					t.Errorf("visit %d: status %d after %v", i, a.StatusCode, took)
				}
			})
		}
		visits.Wait()
	})
}

func TestARevocationReachesWhatExpiredByOneClockOnly(t *testing.T) {
	for name, revoke := range map[string]func(m *session.Manager, id session.ID) error{
		"Revoke": func(m *session.Manager, id session.ID) error { return m.Revoke(context.Background(), id) },
		"RevokeUser": func(m *session.Manager, _ session.ID) error {
			_, err := m.RevokeUser(context.Background(), "ann")
			return err
		},
		"RevokeAll": func(m *session.Manager, _ session.ID) error { _, err := m.RevokeAll(context.Background()); return err },
	} {
		w, ahead := newWorld(t, session.Config{}), newClock()
		b := w.browser()
		b.visit(func(s *session.Session) { s.SignIn("ann") })
		var id session.ID
		b.visit(func(s *session.Session) { id = s.ID() })
		w.clock.advance(29 * time.Minute)
		ahead.advance(31 * time.Minute)
		if err := revoke(w.another(session.Config{Now: ahead.now}), id); err != nil {
			t.Error(name, err)
		}
		if user := b.user(); user != "" {
			t.Errorf("after %s another process serves %q", name, user)
		}
	}
}

func TestATakeBesideALateRenewalIsNotReportedAsLost(t *testing.T) {
	w := newWorld(t, session.Config{})
	b := w.browser()
	b.visit(func(s *session.Session) { note.Set(s, "once") })
	b.get(func(s *session.Session, rw http.ResponseWriter, r *http.Request) {
		fmt.Fprint(rw, "x")
		s.Renew()
		if v, ok, err := note.Take(r.Context(), s); v != "once" || !ok || err != nil {
			t.Errorf("%q, %v, %v: the value is gone from the store", v, ok, err)
		}
	})
	if got := read(b, note); got != "" {
		t.Errorf("it is still there: %q", got)
	}
}

func TestRememberIsTheUsersWhoAsked(t *testing.T) {
	w := newWorld(t, session.Config{})
	a := w.browser().visit(func(s *session.Session) {
		s.SignIn("ann")
		s.Remember()
		s.SignIn("bob")
	})
	if c := a.cookie(); c == nil || c.MaxAge != 0 {
		t.Errorf("bob's cookie is %v", c)
	}
}

func TestAClientThatLeftSaysNothingAboutTheStore(t *testing.T) {
	w := newWorld(t, session.Config{})
	b := w.browser()
	b.visit(func(s *session.Session) { hits.Add(s, 1) })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	serve(w.Handler(do(func(*session.Session) {})), b.request().WithContext(ctx))
	if strings.Contains(w.log.String(), "level=ERROR") {
		t.Error(w.log.String())
	}
}

// Some middleware shows the one around it what the handler's request became.
func TestARequestThatIsCopiedOverTheOneItCameFromStillHasItsContext(t *testing.T) {
	type key struct{}
	w := newWorld(t, session.Config{})
	outer := w.browser().request()
	outer = outer.WithContext(context.WithValue(outer.Context(), key{}, "kept"))
	serve(w.Handler(page(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
		*outer = *r
		hits.Add(s, 1)
	})), outer)
	if got := outer.Context().Value(key{}); got != "kept" || outer.Context().Err() != nil {
		t.Errorf("%v, %v", got, outer.Context().Err())
	}
	if got := hits.Get(session.From(outer)); got != 1 {
		t.Errorf("the counter is %d", got)
	}
}

func TestATouchIsDueByTheTimeTheRequestCame(t *testing.T) {
	w := newWorld(t, session.Config{})
	b := w.browser()
	b.visit(func(s *session.Session) { s.SignIn("ann") })
	b.visit(func(*session.Session) {})
	w.store.forget()
	b.visit(func(*session.Session) { w.clock.advance(2 * time.Minute) })
	if n := w.store.writes(); n != 0 {
		t.Errorf("a request that began within the interval made %d writes", n)
	}
	b.visit(func(*session.Session) {})
	if n := w.store.writes(); n != 1 {
		t.Errorf("the next one made %d writes, want 1", n)
	}
}
