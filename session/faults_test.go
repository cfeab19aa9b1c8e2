package session_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crumb-go/crumb/session"
)

var errRefused = errors.New("connection refused")

// wantDown fails unless a is the store's 503 and says nothing about cookies.
func wantDown(t *testing.T, a *answer) {
	t.Helper()
	if a.StatusCode != 503 || a.Header.Get("Retry-After") == "" || a.Header["Set-Cookie"] != nil {
		t.Errorf("status %d, headers %v", a.StatusCode, a.Header)
	}
	if strings.Contains(a.body, "handler") {
		t.Errorf("the handler's bytes went out: %q", a.body)
	}
}

// faulty returns a world whose browser has hits 10, theme "dark", note "once".
func faulty(t *testing.T) (*world, *browser) {
	t.Helper()
	w := newWorld(t, session.Config{KeepOnSignIn: []string{"test"}})
	b := w.browser()
	b.visit(func(s *session.Session) {
		hits.Add(s, 10)
		theme.Set(s, "dark")
		note.Set(s, "once")
	})
	b.get(nothing)
	w.store.forget()
	w.events.kinds()
	return w, b
}

func TestALostAnswerNeverAppliesAChangeTwice(t *testing.T) {
	// What is not the same twice as once is sent once; the handler's page then
	// is OnError's, or the error is the handler's.
	for name, c := range map[string]struct {
		change func(s *session.Session, r *http.Request) error
		told   bool // the handler learns it, and answers 200
		before string
		after  string
	}{
		"Add": {func(s *session.Session, _ *http.Request) error { hits.Add(s, 1); return nil },
			false, "10 dark once", "11 dark once"},
		"Pop": {func(s *session.Session, _ *http.Request) error { note.Pop(s); return nil },
			false, "10 dark once", "10 dark "},
		"Add and Set": {func(s *session.Session, _ *http.Request) error { hits.Add(s, 1); theme.Set(s, "light"); return nil },
			false, "10 dark once", "11 light once"},
		"Add and Renew": {func(s *session.Session, _ *http.Request) error { hits.Add(s, 1); s.Renew(); return nil },
			false, "10 dark once", "11 dark once"},
		"Update": {func(s *session.Session, r *http.Request) error {
			_, err := hits.Update(r.Context(), s, func(n int64) (int64, error) { return n + 1, nil })
			return err
		}, true, "10 dark once", "11 dark once"},
		"Take": {func(s *session.Session, r *http.Request) error {
			v, ok, err := note.Take(r.Context(), s)
			if ok || v != "" {
				return fmt.Errorf("Take handed out %q beside %v", v, err)
			}
			return err
		}, true, "10 dark once", "10 dark "},
		"Commit of an Add": {func(s *session.Session, r *http.Request) error {
			hits.Add(s, 1)
			return s.Commit(r.Context())
		}, true, "10 dark once", "11 dark once"},
	} {
		for _, reached := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, the store reached: %v", name, reached), func(t *testing.T) {
				w, b := faulty(t)
				if reached {
					w.store.lose("Update", 1)
				} else {
					w.store.drop("Update", 1)
				}
				a := b.get(func(s *session.Session, rw http.ResponseWriter, r *http.Request) {
					err := c.change(s, r)
					if c.told != (err != nil) || c.told && !errors.Is(err, session.ErrUnknown) {
						t.Errorf("the handler got %v", err)
					}
					io.WriteString(rw, "handler")
				})
				if c.told {
					wantQuiet(t, a)
				} else {
					wantDown(t, a)
				}
				if n := w.store.count("Update"); n != 1 {
					t.Errorf("the store was asked %d times", n)
				}
				want := c.before
				if reached {
					want = c.after
				}
				if got := fmt.Sprint(read(b, hits.Key), " ", read(b, theme), " ", read(b, note)); got != want {
					t.Errorf("the session holds %q, want %q", got, want)
				}
			})
		}
	}
}

func TestALostAnswerIsAskedForAgainWhereTwiceIsOnce(t *testing.T) {
	for name, c := range map[string]struct {
		method  string
		visitor bool // comes without a session
		change  func(s *session.Session)
		want    string
		events  string
	}{
		"set and delete": {"Update", false, func(s *session.Session) { theme.Set(s, "light"); note.Delete(s) },
			" 10 light ", ""},
		"clear":    {"Update", false, func(s *session.Session) { s.Clear("test") }, " 0  ", ""},
		"renewal":  {"Update", false, (*session.Session).Renew, " 10 dark once", "renewed"},
		"sign-out": {"Update", false, (*session.Session).SignOut, " 0  ", "ended:signed out"},
		"sign-out and a flash message": {"Update", false, func(s *session.Session) { s.SignOut(); note.Set(s, "bye") },
			" 0  bye", "ended:signed out created"},
		"sign-in with additions": {"Update", false, func(s *session.Session) { hits.Add(s, 1); s.SignIn("alice"); hits.Add(s, 1); note.Pop(s) },
			"alice 12 dark ", "signedin"},
		"the first value":     {"Create", true, func(s *session.Session) { hits.Add(s, 1) }, " 1  ", "created"},
		"a visitor's sign-in": {"Create", true, func(s *session.Session) { s.SignIn("alice"); hits.Add(s, 1) }, "alice 1  ", "created signedin"},
		"load":                {"Load", false, func(s *session.Session) { hits.Add(s, 1) }, " 11 dark once", ""},
	} {
		for _, times := range []int{1, 2} {
			for _, reached := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, lost %d times, the store reached: %v", name, times, reached), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						w, b := faulty(t)
						live := w.live()
						if c.visitor {
							b = w.browser()
						}
						if reached {
							w.store.lose(c.method, times)
						} else {
							w.store.drop(c.method, times)
						}
						a := b.visit(c.change)
						if a.StatusCode != 200 {
							t.Fatalf("status %d: %s", a.StatusCode, w.log)
						}
						if got := fmt.Sprint(b.user(), " ", read(b, hits.Key), " ", read(b, theme), " ", read(b, note)); got != c.want {
							t.Errorf("the session holds %q, want %q", got, c.want)
						}
						if got := w.events.kinds(); got != c.events {
							t.Errorf("events %q, want %q", got, c.events)
						}
						if strings.Contains(c.events, "ended") {
							live--
							if a.cookie() == nil {
								t.Error("the answer of the sign-out leaves the dead cookie")
							}
						}
						if strings.Contains(c.events, "created") {
							live++
						}
						if w.live() != live {
							t.Errorf("%d sessions, want %d", w.live(), live)
						}
					})
				})
			}
		}
	}

	t.Run("a revocation counts once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, b := faulty(t)
			b.get(signIn("alice"))
			w.events.kinds()
			w.store.lose("Update", 1)
			if n, err := w.RevokeUser(context.Background(), "alice"); n != 1 || err != nil {
				t.Errorf("RevokeUser = %d, %v", n, err)
			}
			if got := w.events.kinds(); got != "ended:revoked" {
				t.Errorf("events %q", got)
			}
		})
	})

	t.Run("a sign-out under a clock that lags is known as its own too", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, b := faulty(t)
			w.clock.advance(-time.Minute)
			w.store.lose("Update", 1)
			if b.get(do((*session.Session).SignOut)).cookie() == nil || b.token() != "" {
				t.Error("the answer of the sign-out leaves the dead cookie")
			}
		})
	})

	t.Run("a sign-out that another's end overtakes between the tries clears nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, b := faulty(t)
			other := b.copy()
			w.store.on("Update", times(1, func(_ storeCall, _ func() error) error {
				w.clock.advance(time.Second)
				other.get(do((*session.Session).SignOut))
				return errLost
			}))
			wantQuiet(t, b.get(do((*session.Session).SignOut)))
		})
	})

	t.Run("three tries in all; then it is an error, and a sign-out claims nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, b := faulty(t)
			w.store.drop("Update", 3)
			wantDown(t, b.get(do((*session.Session).SignOut)))
			if n := w.store.count("Update"); n != 3 {
				t.Errorf("%d tries", n)
			}
			if read(b, theme) != "dark" {
				t.Error("the session is gone")
			}
		})
	})
}

func TestAStoreThatRefuses(t *testing.T) {
	t.Run("to load: Handler answers 503, the handler does not run, the cookie stays", func(t *testing.T) {
		w, b := faulty(t)
		w.store.down(errRefused)
		ran := false
		wantDown(t, b.visit(func(*session.Session) { ran = true }))
		if ran {
			t.Error("the handler ran")
		}
		w.store.heal()
		if read(b, theme) != "dark" {
			t.Error("the visitor lost the session")
		}
	})

	t.Run("to load: Optional goes on with an empty session that says so", func(t *testing.T) {
		w, b := faulty(t)
		w.store.down(errRefused)
		a := serve(w.Optional(page(func(s *session.Session, rw http.ResponseWriter, r *http.Request) {
			if !errors.Is(s.Err(), errRefused) || s.User() != "" || theme.Get(s) != "" || s.ID() != "" {
				t.Errorf("Err %v, %+v", s.Err(), s.Info())
			}
			if err := s.Commit(r.Context()); !errors.Is(err, errRefused) {
				t.Errorf("Commit returned %v", err)
			}
			if _, _, err := note.Take(r.Context(), s); !errors.Is(err, errRefused) {
				t.Errorf("Take returned %v", err)
			}
			if _, err := note.Update(r.Context(), s, func(string) (string, error) { return "x", nil }); !errors.Is(err, errRefused) {
				t.Errorf("Update returned %v", err)
			}
			io.WriteString(rw, "public")
		})), b.request())
		wantQuiet(t, a)
		if a.body != "public" {
			t.Errorf("body %q", a.body)
		}
	})

	for name, change := range map[string]func(s *session.Session){
		"a value":    func(s *session.Session) { theme.Set(s, "x") },
		"a number":   func(s *session.Session) { hits.Add(s, 1) },
		"a sign-in":  func(s *session.Session) { s.SignIn("alice") },
		"a renewal":  (*session.Session).Renew,
		"a sign-out": (*session.Session).SignOut,
		"a deletion": func(s *session.Session) { theme.Delete(s) },
		"a group":    func(s *session.Session) { s.Clear("test") },
	} {
		t.Run("to load: a request of Optional that changes "+name+" is OnError's", func(t *testing.T) {
			w, b := faulty(t)
			w.store.down(errRefused)
			w.store.on("Create", nil)
			w.store.on("Update", nil)
			wantDown(t, serve(w.Optional(page(func(s *session.Session, rw http.ResponseWriter, _ *http.Request) {
				change(s)
				io.WriteString(rw, "handler")
			})), b.request()))
			if n := w.store.writes(); n != 0 {
				t.Errorf("%d writes", n)
			}
			w.store.heal()
			if read(b, theme) != "dark" || w.live() != 1 {
				t.Error("the session changed")
			}
		})
	}

	t.Run("to load: Handler inside Optional refuses, inside Handler it does nothing", func(t *testing.T) {
		w, b := faulty(t)
		inner := w.Handler(do(func(s *session.Session) { hits.Add(s, 1) }))
		if a := serve(w.Handler(inner), b.request()); a.StatusCode != 200 || read(b, hits.Key) != 11 {
			t.Errorf("status %d, hits %d", a.StatusCode, read(b, hits.Key))
		}
		if a := serve(w.Optional(inner), b.request()); a.StatusCode != 200 || read(b, hits.Key) != 12 {
			t.Errorf("status %d, hits %d", a.StatusCode, read(b, hits.Key))
		}
		w.store.down(errRefused)
		wantDown(t, serve(w.Optional(inner), b.request()))
		wantDown(t, serve(w.Handler(w.Optional(inner)), b.request()))
	})

	t.Run("the commit: headers are as on entry, the handler's bytes are dropped, the old state is intact", func(t *testing.T) {
		w, b := faulty(t)
		w.store.fail("Update", 1, errRefused)
		var wrote error
		h := w.Handler(page(func(s *session.Session, rw http.ResponseWriter, _ *http.Request) {
			hits.Add(s, 1)
			theme.Set(s, "light")
			rw.Header().Set("Location", "/done")
			rw.Header().Set("X-Outer", "changed")
			rw.Header().Set("Etag", `"1"`)
			rw.WriteHeader(201)
			_, wrote = io.WriteString(rw, "handler")
			note.Set(s, "after the failure") // nothing of this request is kept
		}))
		a := serve(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("X-Outer", "outer")
			h.ServeHTTP(rw, r)
		}), b.request())
		wantDown(t, a)
		if a.Header.Get("X-Outer") != "outer" || a.Header.Get("Location") != "" || a.Header.Get("Etag") != "" {
			t.Errorf("headers %v", a.Header)
		}
		if !errors.Is(wrote, errRefused) {
			t.Errorf("Write returned %v", wrote)
		}
		if read(b, hits.Key) != 10 || read(b, theme) != "dark" || read(b, note) != "once" {
			t.Errorf("the session holds %d %q %q", read(b, hits.Key), read(b, theme), read(b, note))
		}
	})

	t.Run("to create: no cookie goes out", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		w.store.fail("Create", 1, errRefused)
		wantDown(t, w.browser().visit(func(s *session.Session) { s.SignIn("alice") }))
	})

	t.Run("the visit's time: the page goes out, and the next request tries again", func(t *testing.T) {
		w, b := faulty(t)
		w.clock.advance(2 * time.Minute)
		w.store.fail("Touch", 1, errRefused)
		wantQuiet(t, b.get(nothing))
		wantQuiet(t, b.get(nothing))
		wantQuiet(t, b.get(nothing))
		if n := w.store.count("Touch"); n != 2 {
			t.Errorf("%d touches, want the failed one and one more", n)
		}
	})

	t.Run("OnError gets the cause and answers as it likes", func(t *testing.T) {
		var got error
		w := newWorld(t, session.Config{OnError: func(rw http.ResponseWriter, _ *http.Request, err error) {
			got = err
			rw.WriteHeader(418)
		}})
		w.store.fail("Create", 1, errRefused)
		if a := w.browser().visit(func(s *session.Session) { hits.Add(s, 1) }); a.StatusCode != 418 || !errors.Is(got, errRefused) {
			t.Errorf("status %d, err %v", a.StatusCode, got)
		}
	})

	t.Run("a record of another session is an error, not a session", func(t *testing.T) {
		w, b := faulty(t)
		other := w.browser()
		other.visit(func(s *session.Session) { s.SignIn("bob") })
		var bob session.ID
		other.send(do(func(s *session.Session) { bob = s.ID() }))
		m := newManager(t, mixedUp{w.store, bob}, session.Config{Now: w.clock.now})
		wantDown(t, b.on(m).visit(func(*session.Session) { t.Error("the handler ran") }))
	})
}

// mixedUp answers every load with the record of one session, as a driver does
// that hands one caller another's answer.
type mixedUp struct {
	session.Store
	id session.ID
}

func (st mixedUp) Load(ctx context.Context, _ session.ID) (*session.Record, error) {
	return st.Store.Load(ctx, st.id)
}

func TestAStalledStoreIsAnsweredWithinTheTimeout(t *testing.T) {
	for name, c := range map[string]struct {
		method string
		change func(s *session.Session)
	}{
		"load":   {"Load", func(*session.Session) {}},
		"update": {"Update", func(s *session.Session) { hits.Add(s, 1) }},
		"set":    {"Update", func(s *session.Session) { theme.Set(s, "x") }},
		"end":    {"Update", (*session.Session).SignOut},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, b := faulty(t)
				w.store.stall(c.method)
				began := time.Now()
				wantDown(t, b.visit(c.change))
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("it took %v", took)
				}
				if n := w.store.count(c.method); n != 1 {
					t.Errorf("%d tries", n)
				}
				w.store.heal()
				if read(b, theme) != "dark" {
					t.Error("the session is gone")
				}
			})
		})
	}

	t.Run("a deadline of the request ends a load sooner", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, b := faulty(t)
			w.store.stall("Load")
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			began := time.Now()
			wantDown(t, serve(w.Handler(page(nothing)), b.request().WithContext(ctx)))
			if took := time.Since(began); took != time.Second {
				t.Errorf("it took %v", took)
			}
		})
	})

	t.Run("that nobody waited for it hides no store that is down from the log", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var log logBuffer
			w := newWorld(t, session.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			b := w.browser()
			b.visit(func(s *session.Session) { hits.Add(s, 1) })
			w.store.stall("Load")
			ctx, leave := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, leave)
			wantDown(t, serve(w.Handler(page(nothing)), b.request().WithContext(ctx)))
			if !strings.Contains(log.String(), "the store does not answer") {
				t.Errorf("the log holds %q", log.String())
			}
		})
	})

	t.Run("Optional goes on", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, b := faulty(t)
			w.store.stall("Load")
			began := time.Now()
			wantQuiet(t, serve(w.Optional(do(func(s *session.Session) {
				if !errors.Is(s.Err(), context.DeadlineExceeded) {
					t.Errorf("Err is %v", s.Err())
				}
			})), b.request()))
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	})

	t.Run("a client that leaves stops neither its load nor its commit, but what it asked before has none", func(t *testing.T) {
		w, b := faulty(t)
		ctx, leave := context.WithCancel(context.Background())
		w.store.on("Load", func(c storeCall, load func() error) error {
			leave()
			if err := c.ctx.Err(); err != nil {
				t.Error("the store is told to stop a load:", err)
			}
			return load()
		})
		serve(w.Handler(do(func(s *session.Session) { hits.Add(s, 1) })), b.request().WithContext(ctx))
		w.store.heal()
		if got := read(b, hits.Key); got != 11 {
			t.Errorf("hits %d", got)
		}
		ctx, leave = context.WithCancel(context.Background())
		serve(w.Handler(do(func(s *session.Session) {
			hits.Add(s, 1)
			leave()
		})), b.request().WithContext(ctx))
		if got := read(b, hits.Key); got != 12 {
			t.Errorf("hits %d", got)
		}
		wantDown(t, serve(w.Handler(page(nothing)), b.request().WithContext(ctx)))
	})
}

func TestAfterACommitThatFailedNothingIsPending(t *testing.T) {
	for name, fail := range map[string]error{"refused": errRefused, "lost": errLost} {
		t.Run(name, func(t *testing.T) {
			w, b := faulty(t)
			w.store.fail("Update", 1, fail)
			wantQuiet(t, b.get(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
				hits.Add(s, 5)
				theme.Set(s, "light")
				if err := s.Commit(r.Context()); !errors.Is(err, fail) {
					t.Errorf("Commit returned %v", err)
				}
				if hits.Get(s) != 10 || theme.Get(s) != "dark" {
					t.Errorf("the request reads %d %q", hits.Get(s), theme.Get(s))
				}
				note.Set(s, "new")
			}))
			if read(b, hits.Key) != 10 || read(b, theme) != "dark" || read(b, note) != "new" {
				t.Errorf("the session holds %d %q %q", read(b, hits.Key), read(b, theme), read(b, note))
			}
		})
	}
}

func TestATokenOfAnExplicitCommitGoesOut(t *testing.T) {
	commits := func(change func(s *session.Session), then func(s *session.Session)) page {
		return func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			change(s)
			if err := s.Commit(r.Context()); err != nil {
				panic(err)
			}
			then(s)
		}
	}
	for name, change := range map[string]func(s *session.Session){
		"a sign-in":       func(s *session.Session) { s.SignIn("alice") },
		"a renewal":       (*session.Session).Renew,
		"a first session": func(s *session.Session) { s.SignOut(); theme.Set(s, "dark") },
	} {
		t.Run(name+", though a later commit fails", func(t *testing.T) {
			w, b := faulty(t)
			a := b.get(commits(change, func(s *session.Session) {
				w.store.fail("Update", 1, errRefused)
				hits.Add(s, 1)
			}))
			if a.StatusCode != 503 || a.cookie() == nil || a.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("status %d, headers %v", a.StatusCode, a.Header)
			}
			if read(b, theme) != "dark" {
				t.Error("the visitor is stranded")
			}
		})

		t.Run(name+", though the handler panics and a recoverer outside answers", func(t *testing.T) {
			w, b := faulty(t)
			h := w.Handler(commits(change, func(s *session.Session) {
				hits.Add(s, 100)
				panic("oops")
			}))
			a := serve(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				defer func() {
					if p := recover(); p != "oops" {
						t.Errorf("the panic is %v", p)
					}
					rw.WriteHeader(500)
				}()
				h.ServeHTTP(rw, r)
			}), b.request())
			b.receive(a)
			if a.StatusCode != 500 || a.cookie() == nil || a.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("status %d, headers %v", a.StatusCode, a.Header)
			}
			if read(b, theme) != "dark" || read(b, hits.Key) >= 100 {
				t.Errorf("theme %q, hits %d", read(b, theme), read(b, hits.Key))
			}
		})
	}

	t.Run("once, the last one, if the request made several", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		a := b.get(commits(func(s *session.Session) { theme.Set(s, "dark") }, func(s *session.Session) {
			if err := s.Commit(context.Background()); err != nil {
				t.Error(err)
			}
			s.Renew()
			if err := s.Commit(context.Background()); err != nil {
				t.Error(err)
			}
			s.SignIn("alice")
		}))
		if n := len(a.Header["Set-Cookie"]); n != 1 || b.user() != "alice" {
			t.Errorf("%d Set-Cookie lines; %q is signed in", n, b.user())
		}
	})
}

func TestAPanicSavesNothing(t *testing.T) {
	w, b := faulty(t)
	for _, p := range []any{"oops", http.ErrAbortHandler} {
		func() {
			defer func() {
				if got := recover(); got != p {
					t.Errorf("recovered %v", got)
				}
			}()
			w.Handler(do(func(s *session.Session) {
				hits.Add(s, 1)
				panic(p)
			})).ServeHTTP(httptest.NewRecorder(), b.request())
		}()
	}
	if n := w.store.writes(); n != 0 || read(b, hits.Key) != 10 {
		t.Errorf("%d writes, hits %d", n, read(b, hits.Key))
	}
}
