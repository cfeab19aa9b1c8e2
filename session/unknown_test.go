package session_test

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/crumb-go/crumb/session"
)

// The answer to a call is lost, it is sent again and finds that it may have been
// the first itself, and the load that would tell fails too.
func TestAnOutcomeThatCannotBeLearntStaysUnknown(t *testing.T) {
	for name, c := range map[string]struct {
		method  string
		visitor bool // comes without a session
		change  func(s *session.Session)
	}{
		"the first value":     {"Create", true, func(s *session.Session) { hits.Add(s, 1) }},
		"a visitor's sign-in": {"Create", true, func(s *session.Session) { s.SignIn("alice") }},
		"sign-in":             {"Update", false, func(s *session.Session) { s.SignIn("alice") }},
		"sign-out":            {"Update", false, (*session.Session).SignOut},
	} {
		for kind, failure := range map[string]error{"is lost": errLost, "is refused": errors.New("no space left")} {
			t.Run(name+", the load "+kind, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w, b := faulty(t)
					if c.visitor {
						b = w.browser()
					}
					var err error
					a := b.get(do(func(s *session.Session) {
						w.store.lose(c.method, 1)
						w.store.fail("Load", 3, failure)
						c.change(s)
						err = s.Commit(t.Context())
						w.store.heal()
					}))
					if !errors.Is(err, session.ErrUnknown) || errors.Is(err, session.ErrExists) {
						t.Errorf("Commit returned %v, want an unknown outcome", err)
					}
					if a.Header["Set-Cookie"] != nil {
						t.Errorf("the answer sets a cookie: %q", a.Header["Set-Cookie"])
					}
					if got := w.events.kinds(); got != "" {
						t.Errorf("events %q", got)
					}
				})
			})
		}
	}

	t.Run("an end that is refused when it is sent again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, b := faulty(t)
			w.store.on("Update", func(_ storeCall, end func() error) error {
				w.store.fail("Update", 1, errors.New("not enough replicas"))
				_ = end()
				return errLost
			})
			if err := w.Revoke(t.Context(), session.ID(b.token()[:16])); !errors.Is(err, session.ErrUnknown) {
				t.Errorf("Revoke returned %v, want an unknown outcome", err)
			}
		})
	})

	t.Run("a revocation does not claim that the session had ended before", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, b := faulty(t)
			id := session.ID(b.token()[:16])
			w.store.lose("Update", 1)
			w.store.on("Load", func(_ storeCall, load func() error) error {
				w.store.fail("Load", 3, errLost) // all but the first
				return load()
			})
			if err := w.Revoke(t.Context(), id); !errors.Is(err, session.ErrUnknown) {
				t.Errorf("Revoke returned %v, want an unknown outcome", err)
			}
		})
	})
}
