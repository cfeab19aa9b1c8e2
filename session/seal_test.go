package session_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/crumb-go/crumb/keyring"
	"github.com/crumb-go/crumb/session"
)

const sealName = cookieName + "-v"

// A sealedWorld is a world whose pages greet visitors who come without a session.
type sealedWorld struct {
	*world
	seals  *session.Seals
	erased func(ctx context.Context, id session.ID) (bool, error)
	visits []session.Visit // in the order they came
}

func newSealedWorld(t testing.TB) *sealedWorld {
	w := &sealedWorld{world: newWorld(t, session.Config{})}
	w.erased = func(context.Context, session.ID) (bool, error) { return false, nil }
	w.seals = w.Seals(newRing(t), func(ctx context.Context, id session.ID) (bool, error) { return w.erased(ctx, id) })
	return w
}

func newRing(t testing.TB) *keyring.Ring {
	t.Helper()
	ring, err := keyring.Open(filepath.Join(t.TempDir(), "keys"))
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// greets is a page that greets and then runs p.
func (w *sealedWorld) greets(note string, p page) page {
	return func(s *session.Session, rw http.ResponseWriter, r *http.Request) {
		v, err := w.seals.Visit(r)
		if err != nil {
			rw.Header().Set("Visit-Error", err.Error())
		}
		p(s, rw, r)
		switch {
		case v == nil:
			return
		case v.First.IsZero():
			v.Seal([]byte(note))
		default:
			v.Send()
		}
		w.visits = append(w.visits, *v)
	}
}

// sealed returns a browser with a first-visit cookie.
func (w *sealedWorld) sealed() *browser {
	w.t.Helper()
	b := w.browser()
	b.get(w.greets("landed", nothing))
	if b.jar[sealName] == "" || b.token() != "" || w.live() != 0 {
		w.t.Fatalf("after the first visit: %v, %d sessions", b.jar, w.live())
	}
	w.visits = nil
	return b
}

func TestAFirstVisitIsASealAndNoRow(t *testing.T) {
	w := newSealedWorld(t)
	a := w.browser().get(w.greets(strings.Repeat("n", session.MaxNote), nothing))
	if w.store.count() != 0 {
		t.Error("the store was called", w.store.count(), "times")
	}
	list := a.Cookies()
	if len(list) != 1 {
		t.Fatal(list)
	}
	c := list[0]
	if c.Name != sealName || !c.Secure || !c.HttpOnly || c.Path != "/" || c.Domain != "" || c.SameSite != http.SameSiteLaxMode || c.MaxAge != 24*60*60 {
		t.Error(c)
	}
	if n := len(c.Name) + 1 + len(c.Value); n > 300 {
		t.Errorf("the longest is %d bytes", n)
	}
	if a.Header.Get("Cache-Control") != "no-store" || a.Header.Get("Vary") != "Cookie" {
		t.Error(a.Header)
	}
	if b, err := newRing(t).Unseal("session first visit", []byte(c.Value), nil); err == nil {
		t.Errorf("another ring opens it: %q", b)
	}
}

func TestWhoBringsASealBackHasASession(t *testing.T) {
	w := newSealedWorld(t)
	b, first := w.sealed(), w.clock.now()
	seal := b.jar[sealName]
	w.clock.advance(23 * time.Hour)
	var id session.ID
	a := b.get(w.greets("", do(func(s *session.Session) { id = s.ID(); hits.Add(s, 1) })))
	if len(w.visits) != 1 || !w.visits[0].Created || !w.visits[0].First.Equal(first) || string(w.visits[0].Note) != "landed" {
		t.Fatalf("%+v", w.visits)
	}
	if b.jar[sealName] != "" || b.token() == "" || session.ID(b.token()[:16]) != id {
		t.Error(b.jar)
	}
	if a.Header.Get("Cache-Control") != "no-store" {
		t.Error(a.Header)
	}
	in, err := w.Info(t.Context(), id)
	if err != nil || !in.Created.Equal(first) || !in.Seen.Equal(w.clock.now()) || in.Expires.Sub(w.clock.now()) != 30*day || w.live() != 1 {
		t.Error(in, err)
	}
	w.clock.advance(29 * day)
	if got := read(b, hits.Key); got != 1 {
		t.Error("a month later:", got)
	}
	if kinds := w.events.kinds(); kinds != "created" {
		t.Error(kinds)
	}
	if strings.Contains(w.log.String(), seal) || strings.Contains(w.log.String(), b.token()) {
		t.Error("the log holds a cookie")
	}
}

func TestFiftyReturnsAtOnceAreOneSession(t *testing.T) {
	w := newSealedWorld(t)
	b := w.sealed()
	var visits [50]*session.Visit
	var tokens [50]string
	together(len(visits), func(i int) {
		tab := b.copy()
		tab.get(func(s *session.Session, rw http.ResponseWriter, r *http.Request) {
			var err error
			if visits[i], err = w.seals.Visit(r); err != nil {
				t.Error(err)
				return
			}
			hits.Add(s, 1)
			visits[i].Send()
		})
		tokens[i] = tab.token()
	})
	if n := len(slices.Compact(tokens[:])); n != 1 || tokens[0] == "" || w.live() != 1 {
		t.Errorf("%d tokens %q, %d sessions", n, tokens[0], w.live())
	}
	created := 0
	for _, v := range visits {
		if v.Created {
			created++
		}
	}
	if b.jar[cookieName] = tokens[0]; created != 1 || read(b, hits.Key) != 50 || w.events.count(session.EventCreated) != 1 {
		t.Errorf("%d made it, %d hits, %d events", created, read(b, hits.Key), w.events.count(session.EventCreated))
	}
}

func TestASealThatOpensNothing(t *testing.T) {
	// spent returns a browser that has only a seal, whose session then went through f.
	spent := func(w *sealedWorld, f func(b *browser)) *browser {
		b := w.sealed()
		seal := b.jar[sealName]
		b.get(w.greets("", nothing))
		f(b)
		b.jar = map[string]string{sealName: seal}
		return b
	}
	signOut := func(b *browser) { b.visit((*session.Session).SignOut) }
	for name, c := range map[string]struct {
		browser func(w *sealedWorld) *browser
		want    string // the event
	}{
		"made up": {func(w *sealedWorld) *browser {
			b := w.browser()
			b.jar[sealName] = "nothing"
			return b
		}, "rejected:malformed"},
		"of another ring": {func(w *sealedWorld) *browser { return newSealedWorld(w.t).sealed().on(w.Manager) }, "rejected:malformed"},
		"with a line break": {func(w *sealedWorld) *browser {
			b := w.sealed()
			b.jar[sealName] = b.jar[sealName][:40] + "\n" + b.jar[sealName][40:]
			return b
		}, "rejected:malformed"},
		"too long": {func(w *sealedWorld) *browser {
			b := w.sealed()
			b.jar[sealName] = strings.Repeat(b.jar[sealName], 100)
			return b
		}, "rejected:malformed"},
		"two of them": {func(w *sealedWorld) *browser {
			b := w.sealed()
			b.jar[sealName] += "; " + sealName + "=" + w.sealed().jar[sealName]
			return b
		}, "rejected:ambiguous"},
		"a day old": {func(w *sealedWorld) *browser {
			b := w.sealed()
			w.clock.advance(24 * time.Hour)
			return b
		}, "rejected:expired"},
		"from the future": {func(w *sealedWorld) *browser {
			w.clock.advance(2 * time.Hour)
			b := w.sealed()
			w.clock.advance(-2 * time.Hour)
			return b
		}, "rejected:expired"},
		"of a session that ended": {func(w *sealedWorld) *browser {
			b := spent(w, signOut)
			w.clock.advance(2 * time.Hour)
			w.sweep()
			return b
		}, "rejected:ended"},
		"of a session that ended, just before the seal is too old": {func(w *sealedWorld) *browser {
			b := spent(w, signOut)
			w.clock.advance(24*time.Hour - time.Microsecond)
			w.sweep()
			return b
		}, "rejected:ended"},
		"of a session that was revoked": {func(w *sealedWorld) *browser {
			b := spent(w, func(*browser) {
				if _, err := w.RevokeAll(context.Background()); err != nil {
					w.t.Fatal(err)
				}
			})
			w.clock.advance(2 * time.Hour)
			w.sweep()
			return b
		}, "rejected:ended"},
		"of a session that somebody signed in to": {func(w *sealedWorld) *browser {
			b := spent(w, func(b *browser) { b.visit(func(s *session.Session) { s.SignIn("ann") }) })
			w.clock.advance(2 * time.Minute)
			return b
		}, "reused"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newSealedWorld(t)
			b := c.browser(w)
			sessions := w.live()
			w.events.kinds()
			w.visits = nil
			var id session.ID
			var user string
			b.send(w.greets("", do(func(s *session.Session) { id, user = s.ID(), s.User() })))
			if id != "" || user != "" || w.live() != sessions || len(w.visits) != 1 || !w.visits[0].First.IsZero() {
				t.Errorf("it opens %q of %q; %d sessions, %+v", id, user, w.live()-sessions, w.visits)
			}
			if kinds := w.events.kinds(); kinds != c.want {
				t.Errorf("events %q, want %q", kinds, c.want)
			}
		})
	}
	t.Run("any byte changed", func(t *testing.T) {
		w := newSealedWorld(t)
		b := w.sealed()
		seal := []byte(b.jar[sealName])
		w.events.kinds()
		for i := range seal {
			bad := bytes.Clone(seal)
			if bad[i] ^= 1; bad[i] == seal[i] {
				t.Fatal(i)
			}
			b.jar[sealName] = string(bad)
			b.send(w.greets("", do(func(s *session.Session) {
				if s.ID() != "" {
					t.Error("with byte", i, "changed it opens", s.ID())
				}
			})))
		}
		if n := w.events.count(session.EventRejected); n != len(seal) {
			t.Errorf("%d of %d were counted", n, len(seal))
		}
	})
}

// sweep does what Run does every few minutes.
func (w *world) sweep() {
	w.t.Helper()
	if _, err := w.store.Store.Sweep(context.Background(), w.clock.now().Add(-time.Hour), 1<<20); err != nil {
		w.t.Fatal(err)
	}
}

func TestASealOfAnErasedVisitor(t *testing.T) {
	w := newSealedWorld(t)
	var asked session.ID
	w.erased = func(_ context.Context, id session.ID) (bool, error) {
		asked = id
		return true, nil
	}
	b := w.sealed()
	b.get(w.greets("", do(func(s *session.Session) {
		if s.ID() != "" {
			t.Error(s.ID())
		}
	})))
	if _, err := w.store.Load(t.Context(), asked); !errors.Is(err, session.ErrNotFound) || b.token() != "" {
		t.Errorf("%q: %v, %v", asked, err, b.jar)
	}
	if kinds := w.events.kinds(); kinds != "rejected:erased" {
		t.Error(kinds)
	}
}

func TestASealWaitsWhileTheStoreOrTheListOfTheErasedFails(t *testing.T) {
	for name, fail := range map[string]func(w *sealedWorld) (heal func()){
		"create": func(w *sealedWorld) func() { w.store.fail("Create", 1<<20, errors.New("down")); return w.store.heal },
		"the erased": func(w *sealedWorld) func() {
			was := w.erased
			w.erased = func(context.Context, session.ID) (bool, error) { return false, errors.New("down") }
			return func() { w.erased = was }
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newSealedWorld(t)
			b := w.sealed()
			heal := fail(w)
			a := b.get(w.greets("", do(func(s *session.Session) {
				if s.ID() != "" || s.Err() != nil {
					t.Error(s.ID(), s.Err())
				}
			})))
			if a.StatusCode != 200 || len(a.Cookies()) != 0 || !strings.Contains(a.Header.Get("Visit-Error"), "down") {
				t.Error(a.StatusCode, a.Header)
			}
			heal()
			b.get(w.greets("", nothing))
			if b.token() == "" || b.jar[sealName] != "" || w.live() != 1 {
				t.Error(b.jar, w.live())
			}
		})
	}
}

func TestNoSealBesideTheCookieOfASession(t *testing.T) {
	w := newSealedWorld(t)
	for name, c := range map[string]struct {
		page page
		want int // cookies
	}{
		"a value is written": {do(func(s *session.Session) { hits.Add(s, 1) }), 1},
		"a value is written by Commit": {func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			hits.Add(s, 1)
			_ = s.Commit(r.Context())
		}, 1},
		"somebody signs in":       {do(func(s *session.Session) { s.SignIn("ann") }), 1},
		"the first byte has left": {func(_ *session.Session, rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(body) }, 0},
		"the commit fails":        {do(func(s *session.Session) { session.NewKey[func()]("bad.f").Set(s, func() {}) }), 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := w.browser()
			a := b.get(w.greets("", c.page))
			if b.jar[sealName] != "" || len(a.Cookies()) != c.want {
				t.Error(a.Cookies())
			}
		})
	}
	t.Run("the visitor has a session", func(t *testing.T) {
		b := w.browser()
		b.visit(func(s *session.Session) { hits.Add(s, 1) })
		if a := b.get(w.greets("", nothing)); len(a.Cookies()) != 0 {
			t.Error(a.Cookies())
		}
	})
	t.Run("the session ended a moment ago", func(t *testing.T) {
		b := w.browser()
		b.visit(func(s *session.Session) { hits.Add(s, 1) })
		tab := b.copy()
		b.visit((*session.Session).SignOut)
		if a := tab.get(w.greets("", nothing)); len(a.Cookies()) != 0 {
			t.Error(a.Cookies())
		}
	})
	t.Run("the cookie of a session that expired is one of a stranger", func(t *testing.T) {
		b := w.browser()
		b.visit(func(s *session.Session) { hits.Add(s, 1) })
		w.clock.advance(200 * day)
		b.get(w.greets("", nothing))
		if b.jar[sealName] == "" {
			t.Error(b.jar)
		}
		b.get(w.greets("", nothing))
		if b.jar[sealName] != "" || b.user() != "" || w.live() != 1 {
			t.Error(b.jar)
		}
	})
}

func TestASlowReturnNeverReplacesTheCookieOfASignIn(t *testing.T) {
	w := newSealedWorld(t)
	b := w.sealed()
	tab := b.copy()
	opened, signedIn, done := make(chan struct{}), make(chan struct{}), make(chan *answer)
	go func() {
		done <- tab.send(w.greets("", func(*session.Session, http.ResponseWriter, *http.Request) {
			close(opened)
			<-signedIn
		}))
	}()
	<-opened
	b.get(w.greets("", do(func(s *session.Session) { s.SignIn("ann") })))
	close(signedIn)
	a := <-done
	if len(a.Cookies()) != 0 {
		t.Error(a.Cookies())
	}
	b.receive(a)
	if b.user() != "ann" {
		t.Error("signed out by a slow return")
	}
	a = tab.get(w.greets("", do(func(s *session.Session) { hits.Add(s, 1) })))
	if len(a.Cookies()) != 0 || tab.user() != "" {
		t.Error("late:", a.Cookies())
	}
}

func TestKeepStoresASessionWithoutValues(t *testing.T) {
	w := newSealedWorld(t)
	keep := func(w *sealedWorld, p page) page {
		return func(s *session.Session, rw http.ResponseWriter, r *http.Request) {
			v, err := w.seals.Visit(r)
			if err != nil {
				t.Error(err)
			}
			p(s, rw, r)
			if v != nil {
				v.Keep()
			}
		}
	}
	b := w.browser()
	a := b.get(keep(w, nothing))
	if len(a.Cookies()) != 1 || b.token() == "" || w.live() != 1 || a.Header.Get("Cache-Control") != "no-store" {
		t.Error(a.Cookies(), w.live())
	}
	if a = b.get(keep(w, nothing)); len(a.Cookies()) != 0 || w.live() != 1 {
		t.Error(a.Cookies(), w.live())
	}
	a = w.browser().get(keep(w, func(_ *session.Session, rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(body) }))
	if len(a.Cookies()) != 0 || w.live() != 1 {
		t.Error("after the first byte:", a.Cookies(), w.live())
	}
}

func FuzzSeal(f *testing.F) {
	w := newSealedWorld(f)
	good := w.sealed().jar[sealName]
	for _, seed := range []string{good, good[:len(good)-1], good + "A", "", "=", strings.Repeat("A", 267), strings.Repeat("A", 56)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		r := w.browser().request()
		r.Header["Cookie"] = []string{sealName + "=" + value}
		read := strings.TrimSpace(strings.SplitN(value, ";", 2)[0]) == good
		serve(w.Handler(page(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			if _, err := w.seals.Visit(r); err != nil {
				t.Error(err)
			}
			if opened := s.ID() != ""; opened != read && !strings.Contains(value, sealName) {
				t.Errorf("%q opens %t, want %t", value, opened, read)
			}
		})), r)
	})
}
