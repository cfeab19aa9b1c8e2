package session_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crumb-go/crumb/session"
)

// watching returns a world on the bubble's clock, a browser signed in as alice,
// and its session under watch.
func watching(t *testing.T, m func(w *world) *session.Manager) (w *world, b *browser, watched context.Context, stop context.CancelFunc) {
	t.Helper()
	w = newWorld(t, session.Config{Now: time.Now})
	b = w.browser()
	b.get(signIn("alice"))
	on := w.Manager
	if m != nil {
		on = m(w)
	}
	watched, stop = watch(b.on(on), context.Background())
	return w, b, watched, stop
}

// watch returns what Watch returns in a request of b.
func watch(b *browser, parent context.Context) (ctx context.Context, stop context.CancelFunc) {
	b.send(do(func(s *session.Session) { ctx, stop = s.Watch(parent) }))
	return ctx, stop
}

// wantEnd fails unless ctx ends with cause within d.
func wantEnd(t *testing.T, ctx context.Context, d time.Duration, cause error) {
	t.Helper()
	began := time.Now()
	select {
	case <-ctx.Done():
	case <-time.After(d + time.Millisecond): // what is due at d comes first
		t.Errorf("the context lives after %v", d)
		return
	}
	if got := context.Cause(ctx); !errors.Is(got, cause) {
		t.Errorf("after %v the cause is %v, want %v", time.Since(began), got, cause)
	}
}

// wantLive fails if ctx ends within d.
func wantLive(t *testing.T, ctx context.Context, d time.Duration) {
	t.Helper()
	select {
	case <-ctx.Done():
		t.Errorf("the context ended: %v", context.Cause(ctx))
	case <-time.After(d):
	}
}

func TestWatch(t *testing.T) {
	plain := func(w *world) *session.Manager {
		return newManager(t, plainStore{w.store}, session.Config{})
	}
	another := func(w *world) *session.Manager { return w.another(session.Config{Now: time.Now}) }

	ends := map[string]func(t *testing.T, w *world, b *browser){
		"a sign-out": func(_ *testing.T, _ *world, b *browser) { b.copy().visit((*session.Session).SignOut) },
		"a revocation": func(t *testing.T, w *world, _ *browser) {
			if n, err := w.RevokeUser(context.Background(), "alice"); n != 1 || err != nil {
				t.Error(n, err)
			}
		},
		"a step-up":                  func(_ *testing.T, _ *world, b *browser) { b.copy().get(signIn("alice")) },
		"a sign-in as somebody else": func(_ *testing.T, _ *world, b *browser) { b.copy().get(signIn("bob")) },
		"erasing": func(t *testing.T, w *world, b *browser) {
			var id session.ID
			b.send(do(func(s *session.Session) { id = s.ID() }))
			if err := w.store.Delete(context.Background(), id); err != nil {
				t.Error(err)
			}
		},
	}
	for name, end := range ends {
		for where, m := range map[string]func(w *world) *session.Manager{"this manager": nil, "another manager": another, "a store that is no Checker": plain} {
			t.Run("ends within a second of "+name+", watched by "+where, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w, b, ctx, stop := watching(t, m)
					defer stop()
					wantLive(t, ctx, 3500*time.Millisecond)
					end(t, w, b)
					wantEnd(t, ctx, time.Second, session.ErrEnded)
				})
			})
		}
	}

	t.Run("ends at once where this manager ended the session", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, b, ctx, stop := watching(t, nil)
			defer stop()
			b.visit((*session.Session).SignOut)
			select {
			case <-ctx.Done():
			default:
				t.Error("the context lives")
			}
		})
	})

	t.Run("ends when the session expires", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, _, ctx, stop := watching(t, nil)
			defer stop()
			wantLive(t, ctx, 29*time.Minute)
			wantEnd(t, ctx, time.Minute+time.Second, session.ErrEnded)
		})
	})

	t.Run("goes on through a renewal, a write and another user's end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, b, ctx, stop := watching(t, nil)
			defer stop()
			b.visit(func(s *session.Session) { s.Renew(); hits.Add(s, 1) })
			c := w.browser()
			c.get(signIn("bob"))
			c.visit((*session.Session).SignOut)
			wantLive(t, ctx, 5*time.Second)
		})
	})

	t.Run("goes on when the request that watches has signed in itself and committed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, session.Config{Now: time.Now})
			var ctx context.Context
			var stop context.CancelFunc
			w.browser().get(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
				s.SignIn("alice")
				if err := s.Commit(r.Context()); err != nil {
					t.Error(err)
				}
				ctx, stop = s.Watch(context.Background())
			})
			defer stop()
			wantLive(t, ctx, 5*time.Second)
		})
	})

	t.Run("asks once a second for all streams, and nothing once the last has ended", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, b, ctx, stop := watching(t, nil)
			parent, leave := context.WithCancel(context.Background())
			other, _ := watch(b, parent)
			third, stopThird := watch(b, context.Background())
			w.store.forget()
			wantLive(t, ctx, 10*time.Second+time.Millisecond)
			if n := w.store.count(); n != 10 || w.store.count("Check") != 10 {
				t.Errorf("%d calls in ten seconds", n)
			}
			leave()
			stop()
			wantLive(t, third, 2*time.Second)
			if context.Cause(other) != context.Canceled || context.Cause(ctx) != context.Canceled {
				t.Errorf("causes %v, %v", context.Cause(other), context.Cause(ctx))
			}
			stopThird()
			synctest.Wait()
			w.store.forget()
			wantLive(t, context.Background(), 10*time.Second)
			if n := w.store.count(); n != 0 {
				t.Errorf("%d calls after the last stream", n)
			}
			again, stopAgain := watch(b, context.Background())
			wantLive(t, again, 2*time.Second)
			stopAgain()
		})
	})

	t.Run("lives through a store that is down for less than a minute, and ends with its error after", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, _, ctx, stop := watching(t, nil)
			defer stop()
			wantLive(t, ctx, 2500*time.Millisecond)
			w.store.down(errRefused)
			wantLive(t, ctx, 58*time.Second)
			w.store.heal()
			wantLive(t, ctx, 2*time.Second)
			w.store.down(errRefused)
			wantLive(t, ctx, 58*time.Second)
			wantEnd(t, ctx, 4*time.Second, errRefused)
		})
	})

	t.Run("of a store that is down notices an end once it is back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, b, ctx, stop := watching(t, another)
			defer stop()
			w.store.on("Check", func(storeCall, func() error) error { return errRefused })
			b.visit((*session.Session).SignOut)
			wantLive(t, ctx, 10*time.Second)
			w.store.heal()
			wantEnd(t, ctx, time.Second, session.ErrEnded)
		})
	})

	t.Run("of a late request has ended; of a visitor without a session it only follows its parent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, b, ctx, stop := watching(t, nil)
			defer stop()
			old := b.copy()
			b.visit((*session.Session).SignOut)
			wantEnd(t, ctx, 0, session.ErrEnded)
			late, stopLate := watch(old, context.Background())
			defer stopLate()
			wantEnd(t, late, 0, session.ErrEnded)
			w.store.forget()
			parent, leave := context.WithCancel(context.Background())
			anonymous, stopAnonymous := watch(w.browser(), parent)
			defer stopAnonymous()
			wantLive(t, anonymous, 10*time.Second)
			leave()
			wantEnd(t, anonymous, time.Second, context.Canceled)
			if n := w.store.count(); n != 0 {
				t.Errorf("%d store calls for nobody", n)
			}
		})
	})

	t.Run("inside Optional with the store down ends with its error", func(t *testing.T) {
		w, b := faulty(t)
		w.store.down(errRefused)
		serve(w.Optional(do(func(s *session.Session) {
			ctx, stop := s.Watch(context.Background())
			defer stop()
			if got := context.Cause(ctx); !errors.Is(got, errRefused) {
				t.Errorf("cause %v", got)
			}
		})), b.request())
	})
}
