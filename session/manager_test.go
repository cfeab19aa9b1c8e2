package session_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crumb-go/crumb/session"
)

// run starts m.Run and returns what stops it and hands over its error.
func run(m *session.Manager) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	return func() error {
		cancel()
		return <-done
	}
}

// pass lets d go by in the bubble.
func pass(d time.Duration) { <-time.After(d) }

func TestAVisitorWhoOnlyLooksCostsNothing(t *testing.T) {
	w := newWorld(t, session.Config{})
	b := w.browser()
	for _, p := range []page{
		nothing,
		do(func(s *session.Session) {
			theme.Get(s)
			note.Pop(s)
			theme.Delete(s)
			s.Clear("test")
			s.Renew()
			s.Remember()
			s.SignOut()
			hits.Add(s, 0)
			s.Info()
		}),
		func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			if err := s.Commit(r.Context()); err != nil {
				t.Error(err)
			}
			if _, ok, err := note.Take(r.Context(), s); ok || err != nil {
				t.Error(ok, err)
			}
		},
		do(func(s *session.Session) { theme.Set(s, "x"); theme.Delete(s); hits.Add(s, 1); hits.Delete(s) }),
	} {
		wantQuiet(t, b.get(p))
	}
	if n := w.store.count(); n != 0 || w.events.kinds() != "" {
		t.Errorf("%d store calls", n)
	}
}

func TestRequestsThatChangeNothingWriteAtMostOnce(t *testing.T) {
	for _, class := range []string{"a visitor", "alice"} {
		t.Run(class, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, session.Config{Now: time.Now})
				b := w.browser()
				b.visit(func(s *session.Session) {
					if class == "alice" {
						s.SignIn(class)
					}
					theme.Set(s, "dark")
				})
				stop := run(w.Manager)
				w.store.forget()
				for range 100 {
					wantQuiet(t, b.visit(func(s *session.Session) { theme.Set(s, theme.Get(s)); hits.Add(s, 0) }))
					pass(100 * time.Millisecond)
				}
				if err := stop(); err != nil {
					t.Error(err)
				}
				if n := w.store.writes(); n > 1 {
					t.Errorf("%d writes", n)
				}
			})
		})
	}
}

func TestSeenTimes(t *testing.T) {
	t.Run("1,000 parallel requests write at most one", func(t *testing.T) {
		for _, running := range []bool{true, false} {
			for _, after := range []time.Duration{2 * time.Minute, 20 * time.Minute} {
				t.Run(fmt.Sprintf("Run: %v, %v after the last", running, after), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						w, b := aged(t, session.Config{Now: time.Now})
						pass(after)
						stop := func() error { return nil }
						if running {
							stop = run(w.Manager)
							synctest.Wait()
						}
						at := time.Now()
						var requests []*held // all have loaded before any of them is answered
						for range 1000 {
							requests = append(requests, b.hold(nothing))
						}
						together(1000, func(i int) { requests[i].finish() })
						if err := stop(); err != nil {
							t.Error(err)
						}
						if n := w.store.writes(); n != 1 {
							t.Errorf("%d writes", n)
						}
						b.send(do(func(s *session.Session) {
							if got := s.Info().Seen; !got.Equal(at.Truncate(time.Microsecond)) {
								t.Errorf("seen %v, want %v", got, at)
							}
						}))
					})
				})
			}
		}
	})

	t.Run("of many sessions are one call, and the rest goes out when Run stops", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, session.Config{Now: time.Now})
			var browsers []*browser
			for range 20 {
				b := w.browser()
				b.get(signIn("alice"))
				browsers = append(browsers, b)
			}
			pass(2 * time.Minute)
			stop := run(w.Manager)
			synctest.Wait()
			w.store.forget()
			for _, b := range browsers[:10] {
				b.send(nothing)
			}
			if n := w.store.writes(); n != 0 {
				t.Errorf("%d writes before the batch", n)
			}
			pass(time.Second)
			synctest.Wait()
			if n := w.store.count("Touch"); n != 1 {
				t.Errorf("%d calls for ten sessions", n)
			}
			for _, b := range browsers[10:] {
				b.send(nothing)
			}
			at := time.Now()
			if err := stop(); err != nil {
				t.Error(err)
			}
			if n := w.store.writes(); n != 2 {
				t.Errorf("%d calls in all", n)
			}
			for in, err := range w.List(context.Background(), session.Query{User: "alice"}) {
				if err != nil || in.Seen.Before(at.Add(-time.Second)) {
					t.Errorf("seen %v, %v", in.Seen, err)
				}
			}
		})
	})

	t.Run("that the store refuses wait for the next time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, session.Config{Now: time.Now})
			b := w.browser()
			b.get(signIn("alice"))
			pass(2 * time.Minute)
			stop := run(w.Manager)
			synctest.Wait()
			w.store.fail("Touch", 2, errRefused)
			at := time.Now()
			b.send(nothing)
			pass(5 * time.Second)
			if err := stop(); err != nil {
				t.Error(err)
			}
			b.send(do(func(s *session.Session) {
				if got := s.Info().Seen; got.Before(at.Truncate(time.Microsecond)) {
					t.Errorf("seen %v, want %v", got, at)
				}
			}))
		})
	})

	t.Run("bring no session back that ended while they waited", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, session.Config{Now: time.Now})
			b := w.browser()
			b.get(signIn("alice"))
			pass(2 * time.Minute)
			stop := run(w.Manager)
			synctest.Wait()
			b.send(nothing)
			old := b.copy()
			b.visit((*session.Session).SignOut)
			if err := stop(); err != nil {
				t.Error(err)
			}
			if old.user() != "" {
				t.Error("the session is back")
			}
		})
	})

	t.Run("keep a session alive on a store without Toucher", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		m := newManager(t, plainStore{w.store}, session.Config{Now: w.clock.now})
		b := newBrowser(t, m)
		b.get(signIn("alice"))
		for range 5 {
			w.clock.advance(20 * time.Minute)
			b.send(nothing)
		}
		if b.user() != "alice" {
			t.Error("the session expired")
		}
	})
}

func TestRun(t *testing.T) {
	t.Run("twice at once is an error, one after the other is not", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, session.Config{Now: time.Now})
			for range 2 {
				stop := run(w.Manager)
				synctest.Wait()
				if err := w.Run(context.Background()); err == nil {
					t.Error("a second Run is not refused")
				}
				if err := stop(); err != nil {
					t.Error(err)
				}
			}
		})
	})

	t.Run("sweeps in batches what expired an hour ago, and nothing else", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, session.Config{Now: time.Now, SweepInterval: 5 * time.Minute})
			for range 1200 {
				w.browser().visit(func(s *session.Session) { theme.Set(s, "first visit") }) // an hour
			}
			b := w.browser()
			b.get(signIn("alice"))
			b.visit((*session.Session).SignOut)
			stop := run(w.Manager)
			present := func() (n int) {
				infos, err := w.store.Store.List(context.Background(), session.Query{All: true, Limit: 1 << 20, Now: time.Now().Add(-3 * time.Hour)})
				if err != nil {
					t.Error(err)
				}
				return len(infos)
			}
			pass(2*time.Hour - time.Minute)
			synctest.Wait()
			if n := present(); n != 1200 {
				t.Errorf("%d records after 1:59", n)
			}
			late := w.browser()
			late.visit(func(s *session.Session) { theme.Set(s, "live") })
			w.store.forget()
			pass(6 * time.Minute)
			synctest.Wait()
			if n := present(); n != 1 {
				t.Errorf("%d records after 2:05", n)
			}
			if n := w.store.count("Sweep"); n < 3 || n > 5 {
				t.Errorf("%d batches", n)
			}
			if read(late, theme) != "live" {
				t.Error("a live session was swept")
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	})

	t.Run("goes on after a sweep that failed, and without a Sweeper", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, session.Config{Now: time.Now, SweepInterval: time.Minute})
			w.store.fail("Sweep", 2, errRefused)
			stop := run(w.Manager)
			pass(3*time.Minute + time.Second)
			if err := stop(); err != nil || w.store.count("Sweep") != 3 {
				t.Error(err, w.store.count("Sweep"))
			}
			stop = run(newManager(t, plainStore{w.store}, session.Config{SweepInterval: time.Minute}))
			pass(3 * time.Minute)
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	})

	t.Run("writes seen-times while a sweep hangs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, session.Config{Now: time.Now, SweepInterval: 2 * time.Minute})
			w.store.stall("Sweep")
			b := w.browser()
			b.get(signIn("alice"))
			stop := run(w.Manager)
			pass(2*time.Minute + time.Millisecond)
			b.send(nothing)
			pass(time.Second)
			synctest.Wait()
			if n := w.store.count("Touch"); n != 1 {
				t.Errorf("%d touches while the sweep hangs", n)
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	})
}

func TestListInfoAndRevoke(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, session.Config{})
	browsers := map[string][]*browser{}
	ids := map[string][]session.ID{}
	for _, user := range []string{"alice", "bob", "Alice", ""} {
		for range 3 {
			w.clock.advance(time.Second)
			b := w.browser()
			b.visit(func(s *session.Session) {
				theme.Set(s, "dark")
				if user != "" {
					s.SignIn(user)
				}
			})
			b.send(do(func(s *session.Session) { ids[user] = append(ids[user], s.ID()) }))
			browsers[user] = append(browsers[user], b)
		}
	}
	list := func(t *testing.T, m *session.Manager, q session.Query) (got []session.ID) {
		t.Helper()
		for in, err := range m.List(ctx, q) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, in.ID)
		}
		return got
	}

	t.Run("List gives one user's sessions, newest first, whatever the page", func(t *testing.T) {
		want := fmt.Sprint([]session.ID{ids["alice"][2], ids["alice"][1], ids["alice"][0]})
		for _, limit := range []int{0, 1, 2, 3, 100} {
			if got := fmt.Sprint(list(t, w.Manager, session.Query{User: "alice", Limit: limit})); got != want {
				t.Errorf("limit %d: %s, want %s", limit, got, want)
			}
			if got := list(t, w.Manager, session.Query{All: true, Limit: limit}); len(got) != 12 || got[11] != ids["alice"][0] {
				t.Errorf("limit %d: all are %v", limit, got)
			}
		}
		if got := list(t, w.Manager, session.Query{User: "nobody"}); len(got) != 0 {
			t.Errorf("nobody has %v", got)
		}
	})

	t.Run("List needs a user or all, and a loop may stop", func(t *testing.T) {
		for _, q := range []session.Query{{}, {User: "alice", All: true}} {
			var got error
			for _, err := range w.List(ctx, q) {
				got = err
			}
			if got == nil {
				t.Errorf("%+v is accepted", q)
			}
		}
		n := 0
		for range w.List(ctx, session.Query{All: true, Limit: 2}) {
			if n++; n == 3 {
				break
			}
		}
	})

	t.Run("Info tells of one, and ErrNotFound of none", func(t *testing.T) {
		in, err := w.Info(ctx, ids["bob"][0])
		if err != nil || in.User != "bob" || in.ID != ids["bob"][0] || in.Created.IsZero() {
			t.Errorf("%+v, %v", in, err)
		}
		for _, id := range []session.ID{"", "0123456789abcdef"} {
			if _, err := w.Info(ctx, id); !errors.Is(err, session.ErrNotFound) {
				t.Errorf("Info(%q) = %v", id, err)
			}
			if err := w.Revoke(ctx, id); err != nil {
				t.Errorf("Revoke(%q) = %v", id, err)
			}
		}
	})

	t.Run("Revoke ends one at once, twice is fine, and it is one event", func(t *testing.T) {
		w.events.kinds()
		for range 2 {
			if err := w.Revoke(ctx, ids["bob"][0]); err != nil {
				t.Error(err)
			}
		}
		if got := w.events.kinds(); got != "ended:revoked" {
			t.Errorf("events %q", got)
		}
		if browsers["bob"][0].user() != "" || browsers["bob"][1].user() != "bob" {
			t.Error("the wrong session ended")
		}
		if _, err := w.Info(ctx, ids["bob"][0]); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("Info of a revoked session: %v", err)
		}
		if got := list(t, w.Manager, session.Query{User: "bob"}); len(got) != 2 {
			t.Errorf("bob has %v", got)
		}
	})

	t.Run("RevokeUser ends a user's but the excepted, and nobody else's", func(t *testing.T) {
		n, err := w.RevokeUser(ctx, "alice", ids["alice"][1])
		if n != 2 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		if browsers["alice"][0].user() != "" || browsers["alice"][1].user() != "alice" || browsers["alice"][2].user() != "" {
			t.Error("the wrong sessions ended")
		}
		if browsers["Alice"][0].user() != "Alice" || read(browsers[""][0], theme) != "dark" {
			t.Error("another user's session ended")
		}
		if n, err := w.RevokeUser(ctx, ""); n != 0 || err == nil || read(browsers[""][0], theme) != "dark" {
			t.Errorf("RevokeUser of nobody: %d, %v", n, err)
		}
	})

	t.Run("a loop over List may revoke", func(t *testing.T) {
		n := 0
		for in, err := range w.List(ctx, session.Query{User: "Alice", Limit: 1}) {
			if err != nil {
				t.Fatal(err)
			}
			n++
			if err := w.Revoke(ctx, in.ID); err != nil {
				t.Error(err)
			}
		}
		if n != 3 || len(list(t, w.Manager, session.Query{User: "Alice"})) != 0 {
			t.Errorf("%d revoked", n)
		}
	})

	t.Run("RevokeAll ends all; stopped by the store it can be called again", func(t *testing.T) {
		live := w.live()
		var calls atomic.Int32
		w.store.on("Update", func(_ storeCall, do func() error) error {
			if calls.Add(1) > 2 {
				return errRefused
			}
			return do()
		})
		n, err := w.RevokeAll(ctx)
		if n != 2 || !errors.Is(err, errRefused) {
			t.Errorf("%d, %v", n, err)
		}
		w.store.heal()
		if n, err = w.RevokeAll(ctx); n != live-2 || err != nil || w.live() != 0 {
			t.Errorf("%d of %d, %v", n, live-2, err)
		}
	})

	t.Run("a store that cannot list says ErrUnsupported", func(t *testing.T) {
		m := newManager(t, plainStore{w.store}, session.Config{})
		var got error
		for _, err := range m.List(ctx, session.Query{All: true}) {
			got = err
		}
		_, user := m.RevokeUser(ctx, "alice")
		_, all := m.RevokeAll(ctx)
		for _, err := range []error{got, user, all} {
			if !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("the error is %v", err)
			}
		}
		b := newBrowser(t, m)
		b.get(signIn("alice"))
		b.send(do(func(s *session.Session) {
			if err := m.Revoke(ctx, s.ID()); err != nil {
				t.Error(err)
			}
		}))
		if b.user() != "" {
			t.Error("Revoke needs no list, and did nothing")
		}
	})
}

func TestRevocationsDuringTraffic(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, session.Config{})
	var browsers []*browser
	for range 20 {
		b := w.browser()
		b.get(signIn("alice"))
		browsers = append(browsers, b)
	}
	bob := w.browser()
	bob.get(signIn("bob"))
	stop := make(chan struct{})
	var traffic sync.WaitGroup
	for _, b := range browsers {
		traffic.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					b.visit(func(s *session.Session) { hits.Add(s, 1); s.Renew() })
				}
			}
		})
	}
	n, err := w.RevokeUser(ctx, "alice")
	// From here no request that begins is served as alice.
	for _, b := range browsers {
		if got := b.user(); got != "" {
			t.Errorf("after RevokeUser a token opens %q", got)
		}
	}
	close(stop)
	traffic.Wait()
	if n != 20 || err != nil {
		t.Errorf("RevokeUser = %d, %v", n, err)
	}
	for _, b := range browsers {
		if got := b.user(); got != "" {
			t.Errorf("the traffic brought %q back", got)
		}
	}
	if bob.user() != "bob" || w.live() != 1 {
		t.Errorf("%d sessions live; bob is %q", w.live(), bob.user())
	}
}

func TestRevokeUserGoesRoundUntilNoSignInSlippedIn(t *testing.T) {
	w := newWorld(t, session.Config{})
	for range 3 {
		w.browser().get(signIn("alice"))
	}
	slipped := 0
	w.store.on("List", func(_ storeCall, do func() error) error {
		err := do()
		if slipped < 2 { // behind the page that was just read
			slipped++
			w.browser().get(signIn("alice"))
		}
		return err
	})
	if n, err := w.RevokeUser(context.Background(), "alice"); n != 5 || err != nil || w.live() != 0 {
		t.Errorf("%d, %v; %d live", n, err, w.live())
	}
}

func TestRevokeAllEndsWhatExistedWhenItWasCalled(t *testing.T) {
	w := newWorld(t, session.Config{})
	for range 5 {
		w.browser().get(signIn("alice"))
	}
	w.clock.advance(time.Second)
	w.store.on("Update", func(_ storeCall, do func() error) error {
		w.browser().get(signIn("bob")) // somebody always comes
		return do()
	})
	n, err := w.RevokeAll(context.Background())
	w.store.heal()
	if n != 5 || err != nil || w.live() != 5 {
		t.Errorf("%d, %v; %d live", n, err, w.live())
	}
}

func TestOnEventMayUseSessionAndManager(t *testing.T) {
	var m *session.Manager
	var current *session.Session
	var seen []session.EventKind
	st := newSpyStore()
	clock := newClock()
	m = newManager(t, st, session.Config{Now: clock.now, OnEvent: func(ctx context.Context, e session.Event) {
		seen = append(seen, e.Kind)
		if current != nil {
			current.User()
			current.Info()
			hits.Get(current)
			note.Set(current, "from the event")
		}
		if _, err := m.Info(ctx, e.Info.ID); err != nil && !errors.Is(err, session.ErrNotFound) {
			t.Error(err)
		}
		for range m.List(ctx, session.Query{All: true}) {
		}
	}})
	b := newBrowser(t, m)
	get := func(f func(s *session.Session, r *http.Request)) {
		b.get(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			current = s
			f(s, r)
		})
	}
	get(func(s *session.Session, _ *http.Request) { hits.Add(s, 1) })
	get(func(s *session.Session, r *http.Request) {
		s.SignIn("alice")
		if err := s.Commit(r.Context()); err != nil {
			t.Error(err)
		}
	})
	get(func(s *session.Session, _ *http.Request) { s.Renew() })
	get(func(s *session.Session, r *http.Request) {
		if _, err := hits.Update(r.Context(), s, func(n int64) (int64, error) {
			if n == 0 {
				other := b.copy()
				defer func(s *session.Session) { current = s }(current)
				current = nil
				other.get(do(func(s *session.Session) { hits.Add(s, 1) }))
			}
			return n + 1, nil
		}); err != nil {
			t.Error(err)
		}
	})
	old := b.copy()
	get(func(s *session.Session, _ *http.Request) { s.SignOut() })
	clock.advance(time.Minute)
	current = nil
	old.get(nothing)
	if got := fmt.Sprint(seen); got != "[created signedin renewed retried ended rejected]" {
		t.Errorf("events %s", got)
	}
}

func TestNoLogHoldsATokenOrItsSecret(t *testing.T) {
	var text, jsonLog logBuffer
	w := newWorld(t, session.Config{Logger: slog.New(slog.NewMultiHandler(
		slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug}),
		slog.NewJSONHandler(&jsonLog, &slog.HandlerOptions{Level: slog.LevelDebug})))})
	b := w.browser()
	var tokens []string
	keep := func() {
		if token := b.token(); token != "" {
			tokens = append(tokens, token)
		}
	}
	b.visit(func(s *session.Session) { theme.Set(s, "dark") })
	keep()
	b.get(signIn("alice"))
	keep()
	former := b.copy()
	b.visit((*session.Session).Renew)
	keep()
	b.get(nothing)
	w.clock.advance(2 * time.Minute)
	former.get(nothing) // reused
	r := b.request()
	r.Header.Add("Cookie", cookieName+"="+former.token()) // ambiguous
	serve(w.Handler(page(nothing)), r)
	r = b.request()
	r.Header.Set("Cookie", cookieName+"="+b.token()+"x") // malformed
	serve(w.Handler(page(nothing)), r)
	for _, method := range []string{"Load", "Update", "Create", "Touch"} { // faults
		w.store.fail(method, 1, errRefused)
		b.visit(func(s *session.Session) { hits.Add(s, 1) })
		w.store.heal()
	}
	slow := b.hold(do(func(s *session.Session) { hits.Add(s, 1) })) // late
	var kept *session.Session
	b.visit(func(s *session.Session) { kept = s; s.SignOut() })
	slow.finish()
	theme.Set(kept, "late")
	session.NewKey[int]("test.theme").Get(kept)
	out := text.String() + jsonLog.String()
	for _, want := range []string{"may have been stolen", "different values", "too late", "does not answer", "not committed", "request has ended"} {
		if !strings.Contains(out, want) {
			t.Errorf("the log does not hold %q: this test shows too little", want)
		}
	}
	var events bytes.Buffer
	for _, e := range w.events.all() {
		fmt.Fprintf(&events, "%+v\n%#v\n", e, e)
	}
	for _, token := range tokens {
		raw, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil || len(raw) != 32 {
			t.Fatal(err)
		}
		secret := raw[12:]
		sum := sha256.Sum256(secret)
		for _, form := range []string{token, token[16:], token[20:40], string(secret), hex.EncodeToString(secret), strings.ToUpper(hex.EncodeToString(secret)),
			base64.StdEncoding.EncodeToString(secret), base64.URLEncoding.EncodeToString(raw), fmt.Sprint(secret), fmt.Sprintf("%q", secret),
			hex.EncodeToString(sum[:]), base64.RawURLEncoding.EncodeToString(sum[:]), fmt.Sprint(sum)} {
			if strings.Contains(out, form) || strings.Contains(events.String(), form) {
				t.Errorf("a log or event holds a secret as %q", form)
			}
		}
	}
}
