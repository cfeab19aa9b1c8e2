package session_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/crumb-go/crumb/session"
)

// serveHTTP runs p behind a real server and returns its URL.
func serveHTTP(t *testing.T, m *session.Manager, p page) string {
	t.Helper()
	srv := httptest.NewServer(m.Handler(p))
	t.Cleanup(srv.Close)
	return srv.URL
}

// fetch makes a real request under the token, if there is one.
func fetch(t *testing.T, url, token string) *http.Response {
	t.Helper()
	r, _ := http.NewRequest("GET", url, nil)
	if token != "" {
		r.Header.Set("Cookie", cookieName+"="+token)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Error(err)
		return &http.Response{Header: http.Header{}}
	}
	io.Copy(io.Discard, res.Body)
	res.Body.Close()
	return res
}

func TestTheFourWaysPeersFail(t *testing.T) {
	t.Run("different keys at once: ten requests that write ten keys keep all ten", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		b.visit(func(s *session.Session) { note.Set(s, "here") })
		var requests []*held
		for i := range 10 { // all ten load the same record before any of them writes
			requests = append(requests, b.hold(do(func(s *session.Session) { theme.At(fmt.Sprint(i)).Set(s, "kept") })))
		}
		for _, r := range requests {
			close(r.release)
		}
		for _, r := range requests {
			if a := <-r.done; a.StatusCode != 200 {
				t.Errorf("status %d", a.StatusCode)
			}
		}
		for i := range 10 {
			if got := read(b, theme.At(fmt.Sprint(i))); got != "kept" {
				t.Errorf("key %d is %q", i, got)
			}
		}
	})

	t.Run("a counter from 200 clients: 200 times 5 is 1000", func(t *testing.T) {
		m := newManager(t, newSpyStore().Store, session.Config{})
		url := serveHTTP(t, m, do(func(s *session.Session) { hits.Add(s, 1) }))
		b := newBrowser(t, m)
		b.visit(func(s *session.Session) { note.Set(s, "here") })
		token := b.token()
		together(200, func(int) {
			for range 5 {
				fetch(t, url, token)
			}
		})
		if got := read(b, hits.Key); got != 1000 {
			t.Errorf("the counter is %d, want 1000", got)
		}
	})

	t.Run("a slow request after a sign-out: the session stays ended", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		b.visit(func(s *session.Session) { s.SignIn("alice") })
		thief := b.copy()
		var id session.ID
		slow := b.hold(do(func(s *session.Session) {
			id = s.ID()
			note.Set(s, "back")
			hits.Add(s, 1)
		}))
		b.visit((*session.Session).SignOut)
		w.store.forget()
		a := slow.finish()
		if got := a.Header["Set-Cookie"]; got != nil {
			t.Errorf("the slow answer sets a cookie: %q", got)
		}
		if w.live() != 0 || w.store.count("Create") != 0 {
			t.Errorf("%d sessions live after %d creates", w.live(), w.store.count("Create"))
		}
		rec, err := w.store.Store.Load(context.Background(), id)
		if err != nil || !rec.Ended() || len(rec.Values) != 0 {
			t.Errorf("the record is %+v, %v", rec, err)
		}
		if got := thief.user(); got != "" {
			t.Errorf("the token still belongs to %q", got)
		}
	})

	t.Run("flush before the first write: the cookie goes out and the value is kept", func(t *testing.T) {
		m := newManager(t, newSpyStore().Store, session.Config{})
		url := serveHTTP(t, m, func(s *session.Session, w http.ResponseWriter, r *http.Request) {
			hits.Add(s, 1)
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
			io.WriteString(w, "hello")
		})
		res := fetch(t, url, "")
		b := newBrowser(t, m)
		b.receive(&answer{Response: res})
		if b.token() == "" {
			t.Fatal("no cookie")
		}
		fetch(t, url, b.token())
		if got := read(b, hits.Key); got != 2 {
			t.Errorf("the counter is %d, want 2", got)
		}
	})
}

func TestOf50ParallelTakeExactlyOneGetsTheValue(t *testing.T) {
	for _, n := range []int{1, 2} {
		t.Run(fmt.Sprintf("with %d managers on one store", n), func(t *testing.T) {
			w := newWorld(t, session.Config{})
			b := w.browser()
			b.visit(func(s *session.Session) { note.Set(s, "once") })
			managers := []*session.Manager{w.Manager, w.another(session.Config{})}[:n]
			var won atomic.Int32
			var requests []*held
			for i := range 50 {
				requests = append(requests, b.on(managers[i%n]).hold(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
					v, ok, err := note.Take(r.Context(), s)
					switch {
					case err != nil:
						t.Error(err)
					case ok && v == "once":
						won.Add(1)
					case ok || v != "":
						t.Errorf("Take returned %q, %v", v, ok)
					}
				}))
			}
			for _, r := range requests {
				close(r.release)
			}
			for _, r := range requests {
				<-r.done
			}
			if won.Load() != 1 {
				t.Errorf("%d requests got the value", won.Load())
			}
		})
	}
}

func Test50ParallelUpdateAllCount(t *testing.T) {
	w := newWorld(t, session.Config{})
	b := w.browser()
	b.visit(func(s *session.Session) { theme.Set(s, "") })
	results := make(chan string, 50)
	var requests []*held
	for range 50 {
		requests = append(requests, b.hold(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			v, err := theme.Update(r.Context(), s, func(old string) (string, error) { return old + "x", nil })
			if err != nil {
				t.Error(err)
			}
			results <- v
		}))
	}
	for _, r := range requests {
		close(r.release)
	}
	for _, r := range requests {
		<-r.done
	}
	close(results)
	if got := read(b, theme); len(got) != 50 {
		t.Errorf("%d updates count, want 50", len(got))
	}
	var lengths []int
	for v := range results {
		lengths = append(lengths, len(v))
	}
	slices.Sort(lengths)
	for i, n := range lengths {
		if n != i+1 {
			t.Fatalf("the updates returned lengths %v: each must return what it wrote", lengths)
		}
	}
	if w.events.count(session.EventRetried) == 0 {
		t.Error("no update ran again: this test shows nothing")
	}
}

func TestUpdate(t *testing.T) {
	t.Run("sends what is pending in the same change", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		b.visit(func(s *session.Session) { theme.Set(s, "a") })
		w.store.forget()
		b.get(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			note.Set(s, "pending")
			hits.Add(s, 3)
			if _, err := theme.Update(r.Context(), s, func(string) (string, error) { return "b", nil }); err != nil {
				t.Error(err)
			}
			if n := w.store.count("Update"); n != 1 {
				t.Errorf("%d updates", n)
			}
		})
		if n := w.store.count("Update"); n != 1 {
			t.Errorf("%d updates in all", n)
		}
		if read(b, note) != "pending" || read(b, hits.Key) != 3 || read(b, theme) != "b" {
			t.Error("something is missing")
		}
	})

	t.Run("creates the session of a new visitor", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		b.get(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			if v, err := theme.Update(r.Context(), s, func(old string) (string, error) { return old + "new", nil }); err != nil || v != "new" {
				t.Errorf("Update = %q, %v", v, err)
			}
		})
		if read(b, theme) != "new" {
			t.Error("the value is missing")
		}
	})

	t.Run("whose function fails changes nothing and leaves what is pending to the commit", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		b.visit(func(s *session.Session) { theme.Set(s, "a") })
		no := errors.New("no")
		b.get(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			note.Set(s, "pending")
			if v, err := theme.Update(r.Context(), s, func(string) (string, error) { return "b", no }); err != no || v != "" {
				t.Errorf("Update = %q, %v", v, err)
			}
		})
		if read(b, theme) != "a" || read(b, note) != "pending" {
			t.Error("the failed update changed something")
		}
	})

	t.Run("of a key that the same request popped ends, though a newer message came", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		b.visit(func(s *session.Session) { note.Set(s, "old") })
		slow := b.hold(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			note.Pop(s)
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			calls := 0
			v, err := note.Update(ctx, s, func(old string) (string, error) {
				if calls++; calls > 10 {
					cancel()
				}
				return old + "+", nil
			})
			if err != nil || v != "newer+" {
				t.Errorf("after %d calls Update = %q, %v", calls, v, err)
			}
		})
		b.visit(func(s *session.Session) { note.Set(s, "newer") })
		slow.finish()
		if got := read(b, note); got != "newer+" {
			t.Errorf("the message is %q", got)
		}
	})

	t.Run("ends with its context when every try meets a conflict", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		b.visit(func(s *session.Session) { hits.Add(s, 1) })
		b.get(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			note.Set(s, "pending")
			calls := 0
			_, err := hits.Update(ctx, s, func(old int64) (int64, error) {
				if calls++; calls == 3 {
					cancel()
				}
				b.send(do(func(s *session.Session) { hits.Add(s, 1) })) // somebody is always faster
				return old + 100, nil
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Update returned %v", err)
			}
		})
		if read(b, hits.Key) != 4 || read(b, note) != "" {
			t.Errorf("hits %d, note %q; want 4 and nothing", read(b, hits.Key), read(b, note))
		}
	})
}

func TestPopLeavesANewerMessage(t *testing.T) {
	w := newWorld(t, session.Config{})
	b := w.browser()
	b.visit(func(s *session.Session) { note.Set(s, "first") })
	slow := b.hold(do(func(s *session.Session) {
		if v, ok := note.Pop(s); !ok || v != "first" {
			t.Errorf("Pop = %q, %v", v, ok)
		}
		if _, ok := note.Pop(s); ok {
			t.Error("a second Pop shows the message again")
		}
	}))
	b.visit(func(s *session.Session) { note.Set(s, "second") })
	wantQuiet(t, slow.finish())
	if got := read(b, note); got != "second" {
		t.Errorf("the newer message is %q", got)
	}
	b.visit(func(s *session.Session) { note.Pop(s) })
	if got := read(b, note); got != "" {
		t.Errorf("the message is shown twice: %q", got)
	}
}

func TestASessionServesSeveralGoroutines(t *testing.T) {
	w := newWorld(t, session.Config{})
	b := w.browser()
	b.get(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
		together(20, func(i int) {
			key := theme.At(fmt.Sprint(i))
			key.Set(s, "x")
			hits.Add(s, 1)
			s.Info()
			switch i % 5 {
			case 0:
				if err := s.Commit(r.Context()); err != nil {
					t.Error(err)
				}
			case 1:
				if _, err := note.Update(r.Context(), s, func(old string) (string, error) { return old + "u", nil }); err != nil {
					t.Error(err)
				}
			case 2:
				note.Get(s)
			}
			if got := key.Get(s); got != "x" {
				t.Errorf("a goroutine reads %q where it wrote x", got)
			}
		})
	})
	if n := w.store.count("Create"); n != 1 {
		t.Errorf("%d sessions for one request", n)
	}
	if got := read(b, hits.Key); got != 20 {
		t.Errorf("the counter is %d, want 20", got)
	}
	if got := read(b, note); got != "uuuu" {
		t.Errorf("the updates made %q, want uuuu", got)
	}
	for i := range 20 {
		if read(b, theme.At(fmt.Sprint(i))) != "x" {
			t.Errorf("key %d is missing", i)
		}
	}
}

func TestAfterTheRequestReadsAnswerAndChangesAreDropped(t *testing.T) {
	w := newWorld(t, session.Config{})
	b := w.browser()
	b.visit(func(s *session.Session) {
		s.SignIn("alice")
		theme.Set(s, "dark")
	})
	var kept *session.Session
	b.visit(func(s *session.Session) { kept = s })
	w.store.forget()
	theme.Set(kept, "light")
	hits.Add(kept, 1)
	note.Pop(kept)
	theme.Delete(kept)
	kept.Clear("test")
	kept.SignOut()
	kept.Renew()
	kept.SignIn("bob")
	if theme.Get(kept) != "dark" || kept.User() != "alice" || kept.ID() == "" {
		t.Error("reads do not answer")
	}
	ctx := context.Background()
	if err := kept.Commit(ctx); !errors.Is(err, session.ErrAnswered) {
		t.Errorf("Commit returned %v", err)
	}
	if _, err := theme.Update(ctx, kept, func(string) (string, error) { return "x", nil }); !errors.Is(err, session.ErrAnswered) {
		t.Errorf("Update returned %v", err)
	}
	if _, _, err := theme.Take(ctx, kept); !errors.Is(err, session.ErrAnswered) {
		t.Errorf("Take returned %v", err)
	}
	if n := w.store.count(); n != 0 {
		t.Errorf("%d store calls after the request", n)
	}
	if n := countLines(w.log.String(), "after the request has ended"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, w.log.String())
	}
	if read(b, theme) != "dark" || b.user() != "alice" {
		t.Error("a change after the request was kept")
	}
}
