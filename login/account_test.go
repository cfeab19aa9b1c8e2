package login_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/login"
	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
	"github.com/crumb-go/crumb/store/mysql"
	"github.com/crumb-go/crumb/store/postgres"
	"github.com/crumb-go/crumb/store/redis"
	"github.com/crumb-go/crumb/store/sqlite"
)

const newPassword = "another set of crumbs"

func TestAChangeOfPassword(t *testing.T) {
	s := serve(t)
	u := s.add("ann")
	here, there := s.open(), s.open()
	here.signIn("ann")
	there.signIn("ann")

	t.Run("needs the current one", func(t *testing.T) {
		here.post("/account/password", "current", "not the password", "password", newPassword).want(t, http.StatusUnprocessableEntity, "not your current password")
		s.clock.add(time.Minute)
		there.get("/private").want(t, http.StatusOK)
	})
	t.Run("keeps the rules", func(t *testing.T) {
		here.post("/account/password", "current", password, "password", "short").want(t, http.StatusUnprocessableEntity, "at least 15 characters")
		here.post("/account/password", "current", password, "password", "passwordpassword").want(t, http.StatusUnprocessableEntity)
		here.post("/account/password", "current", password, "password", strings.Repeat("x y", 50)).want(t, http.StatusUnprocessableEntity, "at most 128 characters")
	})
	t.Run("ends the other sessions and renews this one", func(t *testing.T) {
		before := here.token()
		here.post("/account/password", "current", password, "password", newPassword).wantTo(t, "/account")
		here.get("/account").want(t, http.StatusOK, "Your password is changed.")
		if strings.Contains(here.get("/account").body, "Your password is changed.") {
			t.Error("the message is shown twice")
		}
		there.get("/private").wantTo(t, "/login?next=/private")
		s.with(before).get("/private").wantTo(t, "/login?next=/private")
		if here.token() == before || len(s.live(u.ID)) != 1 {
			t.Errorf("the token is new: %t; %d sessions live", here.token() != before, len(s.live(u.ID)))
		}
		here.get("/private").want(t, http.StatusOK)
	})
	t.Run("leaves the old one worth nothing", func(t *testing.T) {
		s.open().post("/login", "name", "ann", "password", password).want(t, http.StatusUnprocessableEntity)
		s.clock.add(time.Minute)
		s.open().post("/login", "name", "ann", "password", newPassword).wantTo(t, "/")
	})
}

func TestRequestsBesideAChangeOfPasswordLeaveTheBrowserSignedIn(t *testing.T) {
	s := serve(t)
	s.add("ann")
	b := s.open()
	b.signIn("ann")
	done := make(chan struct{})
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					if _, err := b.try("GET", "/private", ""); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	old, fresh := password, newPassword
	for range 4 {
		b.post("/account/password", "current", old, "password", fresh).wantTo(t, "/account")
		old, fresh = fresh, old
	}
	close(done)
	wait.Wait()
	b.get("/private").want(t, http.StatusOK, "private to ann")
}

func TestDisablingAUserEndsAllSessions(t *testing.T) {
	s := serve(t)
	u := s.add("ann")
	const open, racing = 1000, 100
	tokens := make(chan string, open+racing)
	vouch := func() {
		w := s.send("POST", "/vouch", "192.0.2.1:1", "id", u.ID)
		if w.Code != http.StatusOK && w.Code != http.StatusForbidden {
			t.Errorf("a sign-in is answered %d %s", w.Code, w.Body)
		}
		for _, c := range w.Result().Cookies() {
			if c.Name == "crumb" && c.Value != "" {
				tokens <- c.Value
			}
		}
	}
	atOnce(open, 16, vouch)
	if n := len(s.live(u.ID)); n != open {
		t.Fatalf("%d sessions, want %d", n, open)
	}

	var wait sync.WaitGroup
	wait.Go(func() { atOnce(racing, 16, vouch) })
	for len(tokens) < open+racing/4 { // some sign-ins are through, others under way
		if t.Failed() {
			t.FailNow()
		}
	}
	if _, err := s.tables.SetDisabled(t.Context(), u.ID, true); err != nil {
		t.Fatal(err)
	}
	// The row alone ends them, at their next request.
	for range 20 {
		s.with(<-tokens).get("/private").wantTo(t, "/login?next=/private")
	}
	if _, err := s.sessions.RevokeUser(t.Context(), u.ID); err != nil {
		t.Fatal(err)
	}
	wait.Wait()
	close(tokens)
	if list := s.live(u.ID); len(list) != 0 {
		t.Errorf("%d sessions live", len(list))
	}
	n := 0
	for token := range tokens {
		if n++; n%20 == 0 {
			s.with(token).get("/private").wantTo(t, "/login?next=/private")
		}
	}
}

// atOnce calls f n times, so many at once.
func atOnce(n, workers int, f func()) {
	var wait sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(n))
	for range workers {
		wait.Go(func() {
			for left.Add(-1) >= 0 {
				f()
			}
		})
	}
	wait.Wait()
}

// stores are those that the tests can reach, each empty.
func stores(t *testing.T) map[string]func(t *testing.T) session.Store {
	must := func(st session.Store, err error) session.Store {
		if err != nil {
			t.Fatal(err)
		}
		if c, ok := st.(interface{ Close() error }); ok {
			t.Cleanup(func() { c.Close() })
		}
		return st
	}
	prefix := func() string { return fmt.Sprintf("login%x_", time.Now().UnixNano()) }
	all := map[string]func(t *testing.T) session.Store{
		"memory": func(*testing.T) session.Store { return memory.New() },
		"sqlite": func(t *testing.T) session.Store {
			return must(sqlite.Open(t.Context(), "sqlite:"+t.TempDir()+"/crumb.db", sqlite.Config{}))
		},
	}
	if url, ok := servers.URL(servers.Postgres); ok {
		all["postgres"] = func(t *testing.T) session.Store {
			cfg := postgres.Config{TablePrefix: prefix()}
			if err := postgres.ApplySchema(t.Context(), url, cfg); err != nil {
				t.Fatal(err)
			}
			return must(postgres.Open(t.Context(), url, cfg))
		}
	}
	if url, ok := servers.URL(servers.MySQL); ok {
		all["mysql"] = func(t *testing.T) session.Store {
			cfg := mysql.Config{TablePrefix: prefix()}
			if err := mysql.ApplySchema(t.Context(), url, cfg); err != nil {
				t.Fatal(err)
			}
			return must(mysql.Open(t.Context(), url, cfg))
		}
	}
	for _, kind := range []string{servers.Redis, servers.RedisCluster} {
		if url, ok := servers.URL(kind); ok {
			all[kind] = func(t *testing.T) session.Store {
				return must(redis.Open(t.Context(), url, redis.Config{KeyPrefix: prefix()}))
			}
		}
	}
	return all
}

func TestALimitOfThreeSessionsHoldsFor100SignInsAtOnce(t *testing.T) {
	for name, open := range stores(t) {
		t.Run(name, func(t *testing.T) {
			s := serveOn(t, open(t), func(cfg *login.Config) { cfg.MaxSessions = 3 })
			u := s.add("ann")
			first := s.open()
			first.post("/vouch", "id", u.ID).want(t, http.StatusOK)
			s.clock.add(time.Second)
			var answered atomic.Int64
			atOnce(100, 100, func() {
				b := s.open()
				if a, err := b.try("POST", "/vouch", form("id", u.ID)); err != nil || a.StatusCode != http.StatusOK {
					t.Errorf("%v %v", a.Response, err)
				}
				answered.Add(1)
			})
			if n := len(s.live(u.ID)); n < 1 || n > 3 {
				t.Errorf("after %d sign-ins %d sessions live, want 1 to 3", answered.Load(), n)
			}
			first.get("/private").wantTo(t, "/login?next=/private")
			s.clock.add(time.Second)
			last := s.open()
			last.signIn("ann")
			last.get("/private").want(t, http.StatusOK)
		})
	}
}

func TestTheSessionWhoseSignInIsLongestAgoEndsFirst(t *testing.T) {
	s := serve(t, func(cfg *login.Config) { cfg.MaxSessions = 2 })
	s.add("ann")
	var all [3]*browser
	for i := range all {
		all[i] = s.open()
		all[i].signIn("ann")
		s.clock.add(time.Minute)
		if i == 1 {
			all[0].signIn("ann") // again: now all[1] is the oldest
			s.clock.add(time.Minute)
		}
	}
	all[0].get("/private").want(t, http.StatusOK)
	all[1].get("/private").wantTo(t, "/login?next=/private")
	all[2].get("/private").want(t, http.StatusOK)
}

func TestYourSessions(t *testing.T) {
	s := serve(t)
	s.add("ann")
	s.add("bob")
	phone, laptop, bob := s.open(), s.open(), s.open()
	phone.header.Set("User-Agent", "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Version/18.0 Mobile/15E148 Safari/604.1")
	laptop.header.Set("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
	for b, name := range map[*browser]string{phone: "ann", laptop: "ann", bob: "bob"} {
		b.signIn(name)
	}
	id := func(b *browser) string { return b.token()[:16] }

	t.Run("are listed, this one first, and nobody else's", func(t *testing.T) {
		a := laptop.get("/account/sessions").want(t, http.StatusOK, "Firefox on Linux", "This device", "Safari on iPhone", "127.0.0.1", "just now", "/account/sessions/"+id(phone)+"/end")
		if strings.Contains(a.body, id(bob)) || strings.Index(a.body, "Firefox") > strings.Index(a.body, "Safari") {
			t.Errorf("the page:\n%s", a.body)
		}
	})
	t.Run("of another user are as unknown as one that never was", func(t *testing.T) {
		unknown := laptop.post("/account/sessions/AAAAAAAAAAAAAAAA/end").want(t, http.StatusNotFound)
		if got := laptop.post("/account/sessions/"+id(bob)+"/end").want(t, http.StatusNotFound); got.body != unknown.body {
			t.Error("the page is another")
		}
		bob.get("/private").want(t, http.StatusOK)
	})
	t.Run("end only for who gave the password of late, however busy", func(t *testing.T) {
		for range 20 {
			s.clock.add(time.Minute)
			laptop.get("/private").want(t, http.StatusOK)
		}
		for _, path := range []string{"/account/sessions/" + id(phone) + "/end", "/account/sessions/end-others"} {
			laptop.do("POST", path, "", "Referer", s.url+"/account/sessions").wantTo(t, "/login?next=/account/sessions")
			laptop.do("POST", path, "", "Accept", "application/json").want(t, http.StatusUnauthorized, "again")
		}
		phone.get("/private").want(t, http.StatusOK)
		laptop.get("/fresh").wantTo(t, "/login?next=/fresh")
		laptop.get("/login?next=/fresh").want(t, http.StatusOK, "Confirm it is you", "ann")
		laptop.post("/login", "password", "not the password", "next", "/fresh").want(t, http.StatusUnprocessableEntity, "That is not the password.")
		s.clock.add(time.Minute)
		before := laptop.token()
		laptop.post("/login", "password", password, "next", "/fresh").wantTo(t, "/fresh")
		laptop.get("/fresh").want(t, http.StatusOK)
		if laptop.token() == before || laptop.token()[:16] != before[:16] {
			t.Error("a confirmation renews the token of the same session")
		}
	})
	t.Run("end one by one", func(t *testing.T) {
		laptop.post("/account/sessions/"+id(phone)+"/end").wantTo(t, "/account/sessions")
		phone.get("/private").wantTo(t, "/login?next=/private")
		laptop.get("/account/sessions").want(t, http.StatusOK, "Signed out there.", "You are signed in nowhere else.")
	})
	t.Run("end all but this one", func(t *testing.T) {
		phone.signIn("ann")
		laptop.post("/account/sessions/end-others").wantTo(t, "/account/sessions")
		phone.get("/private").wantTo(t, "/login?next=/private")
		laptop.get("/private").want(t, http.StatusOK)
		bob.get("/private").want(t, http.StatusOK)
	})
	t.Run("end for this one, too", func(t *testing.T) {
		laptop.post("/account/sessions/"+id(laptop)+"/end").wantTo(t, "/")
		laptop.get("/private").wantTo(t, "/login?next=/private")
	})
}

// links collects what a site would mail.
func links(sent chan<- string) func(*login.Config) {
	return func(cfg *login.Config) {
		cfg.OnReset = func(_ context.Context, u login.User, link string) error {
			sent <- u.Name + " " + link
			return nil
		}
	}
}

func TestAResetLink(t *testing.T) {
	sent := make(chan string, 10)
	s := serve(t, links(sent))
	s.run(t)
	u := s.add("ann")
	off := s.add("disabled")
	if _, err := s.tables.SetDisabled(t.Context(), off.ID, true); err != nil {
		t.Fatal(err)
	}
	b := s.open()
	ask := func() (token string) {
		t.Helper()
		s.clock.add(5 * time.Minute)
		b.do("POST", "/forgot", form("name", "ann"), "Host", "evil.example", "X-Forwarded-Host", "evil.example").wantTo(t, "/forgot?sent")
		link := <-sent
		token, ok := strings.CutPrefix(link, "ann http://site.example/reset?token=")
		if !ok {
			t.Fatalf("the link is %q", link)
		}
		return token
	}
	set := func(token, password string) answer { return b.post("/reset", "token", token, "password", password) }

	t.Run("is asked for alike by whatever name, and goes to who has one", func(t *testing.T) {
		known := ask()
		var first answer
		for _, name := range []string{"ann", "nobody", "disabled", "", "a b\x00", strings.Repeat("x", 300)} {
			a := b.post("/forgot", "name", name).wantTo(t, "/forgot?sent")
			a.Header.Del("Date")
			if first.Response == nil {
				first = a
			}
			if fmt.Sprint(a.Header) != fmt.Sprint(first.Header) || a.body != first.body {
				t.Errorf("%q is answered %v %q", name, a.Header, a.body)
			}
		}
		b.get("/forgot?sent").want(t, http.StatusOK, "If there is an account of that name")
		token := ask() // after the others: their turn was before
		if token == known {
			t.Error("the link is the same")
		}
		if len(sent) > 0 {
			t.Errorf("somebody else got %q", <-sent)
		}
		set(known, newPassword).want(t, http.StatusUnprocessableEntity, "does not work") // only the newest does
	})
	t.Run("works once, ends all sessions and signs nobody in", func(t *testing.T) {
		in, other := s.open(), s.open()
		in.signIn("ann")
		other.signIn("ann")
		token := ask()
		for range 3 { // programs that check mail
			b.get("/reset?token="+token).want(t, http.StatusOK, `autocomplete="new-password"`)
		}
		if got := b.get("/reset?token=" + token).Header.Get("Referrer-Policy"); got != "strict-origin" {
			t.Errorf("Referrer-Policy is %q", got)
		}
		set(token, "short").want(t, http.StatusUnprocessableEntity, "at least 15 characters")
		in.post("/reset", "token", token, "password", newPassword).wantTo(t, "/login")
		in.get("/login").want(t, http.StatusOK, "Your new password is set.")
		for _, b := range []*browser{in, other} {
			b.get("/private").wantTo(t, "/login?next=/private")
		}
		if n := len(s.live(u.ID)); n != 0 {
			t.Errorf("%d sessions live", n)
		}
		set(token, "yet more crumbs here").want(t, http.StatusUnprocessableEntity, "does not work")
		// A stranger's guess does not keep the owner waiting, whose browser is known by now.
		b.post("/login", "name", "ann", "password", "a guess").want(t, http.StatusUnprocessableEntity)
		in.post("/login", "name", "ann", "password", newPassword).wantTo(t, "/")
	})
	t.Run("works for one of many at once", func(t *testing.T) {
		token := ask()
		var good, bad atomic.Int64
		atOnce(20, 20, func() {
			switch a, err := s.open().try("POST", "/reset", form("token", token, "password", newPassword+" again")); {
			case err != nil:
				t.Error(err)
			case a.StatusCode == http.StatusSeeOther:
				good.Add(1)
			default:
				bad.Add(1)
			}
		})
		if good.Load() != 1 {
			t.Errorf("%d of 20 were taken", good.Load())
		}
	})
	t.Run("works for an hour", func(t *testing.T) {
		token := ask()
		s.clock.add(time.Hour + time.Microsecond)
		set(token, newPassword).want(t, http.StatusUnprocessableEntity, "does not work")
	})
	t.Run("is given out by an operator where none is mailed", func(t *testing.T) {
		s.clock.add(time.Hour)
		link, err := s.accounts.NewReset(t.Context(), "Ann")
		_, token, _ := strings.Cut(link, "token=")
		if err != nil || token == "" {
			t.Fatal(link, err)
		}
		set(token, newPassword).wantTo(t, "/login")
		for _, name := range []string{"nobody", "disabled"} {
			if link, err := s.accounts.NewReset(t.Context(), name); !errors.Is(err, login.ErrNoLink) {
				t.Errorf("%s gets %q, %v", name, link, err)
			}
		}
	})
	if strings.Contains(s.log.String(), "token=") {
		t.Error("the log holds a link")
	}
}

func TestWishesForLinksAreBounded(t *testing.T) {
	t.Run("and those that find no place are dropped, logged and answered like all", func(t *testing.T) {
		s := serve(t, links(make(chan string))) // and nothing runs
		b := s.open()
		for i := range 150 {
			b.post("/forgot", "name", fmt.Sprintf("user%d", i)).wantTo(t, "/forgot?sent")
		}
		if n := strings.Count(s.log.String(), "wishes are dropped"); n != 1 {
			t.Errorf("the log tells it %d times", n)
		}
	})
	t.Run("by network, whoever is asked about", func(t *testing.T) {
		s := serve(t, links(make(chan string, 100)))
		s.add("ann")
		ask := func(addr, name string) *httptest.ResponseRecorder {
			return s.send("POST", "/forgot", addr, "name", name)
		}
		for i := range 20 {
			if w := ask("203.0.113.5:1", []string{"ann", "nobody"}[i%2]); w.Code != http.StatusSeeOther {
				t.Fatalf("wish %d is answered %d", i+1, w.Code)
			}
		}
		known, unknown := ask("203.0.113.5:2", "ann"), ask("203.0.113.5:2", "nobody")
		if known.Code != http.StatusTooManyRequests || known.Header().Get("Retry-After") == "" || unknown.Code != known.Code || unknown.Body.String() != known.Body.String() {
			t.Errorf("one more wish is answered %d and %d", known.Code, unknown.Code)
		}
		if w := ask("203.0.113.6:1", "ann"); w.Code != http.StatusSeeOther {
			t.Errorf("a wish from elsewhere is answered %d", w.Code)
		}
		if w := s.send("POST", "/login", "203.0.113.5:1", "name", "ann", "password", password); w.Code != http.StatusSeeOther {
			t.Errorf("a sign-in from there is answered %d", w.Code)
		}
		s.clock.add(time.Hour)
		if w := ask("203.0.113.5:1", "ann"); w.Code != http.StatusSeeOther {
			t.Errorf("an hour later a wish from there is answered %d", w.Code)
		}
	})
	t.Run("to three an hour for a user, of which the last works", func(t *testing.T) {
		sent := make(chan string, 10)
		s := serve(t, links(sent))
		s.run(t)
		s.add("ann")
		s.add("bob")
		b := s.open()
		ask := func(name string) (link string) {
			t.Helper()
			s.clock.add(2 * time.Minute)
			b.post("/forgot", "name", "ann")
			if name != "ann" {
				b.post("/forgot", "name", name)
			}
			if link = <-sent; !strings.HasPrefix(link, name) {
				t.Errorf("%s is sent, not one for %s", link, name)
			}
			return link
		}
		ask("ann")
		ask("ann")
		_, last, _ := strings.Cut(ask("ann"), "token=")
		ask("bob") // and ann gets none
		s.clock.add(time.Hour)
		s.clock.add(-9 * time.Minute)
		b.post("/reset", "token", last, "password", newPassword).wantTo(t, "/login")
		ask("ann") // another password, another count
	})
}

func TestASlowMailTellsNothingAndHoldsUpNoLookUp(t *testing.T) {
	begun, release, sent := make(chan time.Duration, 10), make(chan struct{}), make(chan string, 10)
	s := serve(t, func(cfg *login.Config) {
		cfg.OnReset = func(ctx context.Context, u login.User, _ string) error {
			deadline, _ := ctx.Deadline()
			begun <- time.Until(deadline)
			<-release
			sent <- u.Name
			return nil
		}
	})
	s.add("ann")
	s.add("bob")
	s.run(t)
	b := s.open()
	b.post("/forgot", "name", "ann")
	if left := <-begun; left <= 0 || left > 30*time.Second {
		t.Errorf("a mail has %v", left)
	}
	for range 130 {
		b.post("/forgot", "name", "nobody").wantTo(t, "/forgot?sent")
	}
	b.post("/forgot", "name", "bob").wantTo(t, "/forgot?sent")
	close(release)
	for _, want := range []string{"ann", "bob"} {
		if got := <-sent; got != want {
			t.Errorf("a mail went to %s, not to %s", got, want)
		}
	}
}

func TestRegistration(t *testing.T) {
	t.Run("is off by default", func(t *testing.T) {
		s := serve(t)
		s.open().get("/register").want(t, http.StatusNotFound)
		s.open().post("/register", "name", "ann", "password", password).want(t, http.StatusNotFound)
	})
	t.Run("makes an account, signs in, and tells taken names", func(t *testing.T) {
		s := serve(t, func(cfg *login.Config) { cfg.Register = true })
		b := s.open()
		b.get("/login").want(t, http.StatusOK, "/register")
		b.post("/register", "name", "ann", "password", "short").want(t, http.StatusUnprocessableEntity, "at least 15 characters")
		b.post("/register", "name", "a b", "password", password).want(t, http.StatusUnprocessableEntity, "That name cannot be used.")
		b.post("/register", "name", "Ann", "password", password, "next", "/private").wantTo(t, "/private")
		b.get("/private").want(t, http.StatusOK, "private to Ann")
		s.open().post("/register", "name", "ann", "password", password).want(t, http.StatusUnprocessableEntity, "That name is taken.")
		s.open().signIn("ANN")
	})
}

func TestDeletingAnAccount(t *testing.T) {
	s := serve(t)
	u := s.add("ann")
	b, other := s.open(), s.open()
	b.signIn("ann")
	other.signIn("ann")
	b.post("/account/delete", "current", "not the password").want(t, http.StatusUnprocessableEntity, "not your current password")
	s.clock.add(time.Minute)
	b.post("/account/delete", "current", password).want(t, http.StatusOK, "Your account is deleted")
	for _, b := range []*browser{b, other} {
		b.get("/private").wantTo(t, "/login?next=/private")
	}
	if _, err := s.tables.ByID(t.Context(), u.ID); !errors.Is(err, login.ErrNoUser) {
		t.Errorf("the users row: %v", err)
	}
	b.post("/login", "name", "ann", "password", password).want(t, http.StatusUnprocessableEntity)
}

// ownUsers are an app's own, which cannot be added or deleted here.
type ownUsers struct{ users login.Users }

func (u ownUsers) ByName(ctx context.Context, name string) (*login.User, error) {
	return u.users.ByName(ctx, name)
}
func (u ownUsers) ByID(ctx context.Context, id string) (*login.User, error) {
	return u.users.ByID(ctx, id)
}
func (u ownUsers) Rehash(ctx context.Context, id, old, new string) error {
	return u.users.Rehash(ctx, id, old, new)
}
func (u ownUsers) SetPassword(ctx context.Context, id string, generation int64, hash string) (*login.User, error) {
	return u.users.SetPassword(ctx, id, generation, hash)
}

func TestUsersThatCannotBeAddedOrDeletedHaveNoPagesForIt(t *testing.T) {
	s := serve(t, func(cfg *login.Config) { cfg.Users, cfg.Register = ownUsers{cfg.Users}, true })
	s.add("ann")
	b := s.open()
	b.get("/register").want(t, http.StatusNotFound)
	b.signIn("ann")
	b.get("/account/delete").want(t, http.StatusNotFound)
	if body := b.get("/account").body; strings.Contains(body, "/account/delete") {
		t.Error("the account page leads to the deletion")
	}
	b.post("/account/password", "current", password, "password", newPassword).wantTo(t, "/account")
}

func TestPagesAreReplacedOneByOne(t *testing.T) {
	s := serve(t, func(cfg *login.Config) {
		cfg.AppName = "Breadboard"
		cfg.Pages = fstest.MapFS{"signin.html": {Data: []byte(`{{template "top" .}}my own {{.Next}}{{template "bottom" .}}`)}}
	})
	s.open().get("/login?next=/x").want(t, http.StatusOK, "my own /x", "Breadboard")
	s.open().get("/forgot").want(t, http.StatusOK, "This site sends no mail.")
	cfg := login.Config{Keys: nil}
	if _, err := login.New(cfg); err == nil || !strings.Contains(err.Error(), "keyring.Open") {
		t.Errorf("without keys: %v", err)
	}
}

func TestTheHeadersOfOurPages(t *testing.T) {
	for insecure, hsts := range map[bool]string{true: "", false: "max-age=31536000"} {
		s := serve(t, func(cfg *login.Config) { cfg.Insecure = insecure })
		h := s.open().get("/login").Header
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin", "Cache-Control": "no-store", "Strict-Transport-Security": hsts} {
			if got := h.Get(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		for _, want := range []string{"default-src 'self'", "object-src 'none'", "frame-ancestors 'none'", "form-action 'self'", "base-uri 'none'"} {
			if !strings.Contains(h.Get("Content-Security-Policy"), want) {
				t.Errorf("the policy lacks %s: %s", want, h.Get("Content-Security-Policy"))
			}
		}
	}
}

func TestTheDeviceCookieSignsNobodyInAndIsSafe(t *testing.T) {
	s := serve(t)
	s.add("ann")
	b := s.open()
	a := b.signIn("ann")
	var device *http.Cookie
	for _, c := range a.Cookies() {
		if c.Name == "crumb-device" {
			device = c
		}
	}
	if device == nil || !device.HttpOnly || device.SameSite != http.SameSiteStrictMode || device.MaxAge != 180*24*3600 || device.Path != "/" {
		t.Fatalf("the cookie is %v", device)
	}
	s.open().do("GET", "/private", "", "Cookie", "crumb-device="+device.Value).wantTo(t, "/login?next=/private")
	b.post("/logout")
	if again := b.signIn("ann"); strings.Contains(fmt.Sprint(again.Header["Set-Cookie"]), "crumb-device") {
		t.Error("a known device is told anew")
	}
	s2 := serve(t, func(cfg *login.Config) { cfg.Insecure = false })
	s2.add("ann")
	for _, line := range s2.open().post("/login", "name", "ann", "password", password).Header["Set-Cookie"] {
		if strings.Contains(line, "-device=") && (!strings.HasPrefix(line, "__Host-crumb-device=") || !strings.Contains(line, "Secure")) {
			t.Errorf("over HTTPS it is %q", line)
		}
	}
}

func TestEventsTellSignInsAndNewDevices(t *testing.T) {
	var mu sync.Mutex
	var events []string
	s := serve(t, func(cfg *login.Config) {
		cfg.OnEvent = func(_ context.Context, e login.AuditEntry) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, e.Event+" "+e.Result+" "+e.Name)
		}
	})
	u := s.add("ann")
	b, other := s.open(), s.open()
	b.post("/login", "name", "ann", "password", "not the password")
	s.clock.add(time.Minute)
	b.signIn("ann")
	b.post("/logout")
	b.signIn("ann")
	other.post("/vouch", "id", u.ID) // by other means than a password
	other.post("/vouch", "id", u.ID)
	mu.Lock()
	defer mu.Unlock()
	got := strings.Join(events, ", ")
	want := "sign-in wrong ann, sign-in ok ann, new-device ok ann, sign-out ok ann, sign-in ok ann, sign-in ok ann, new-device ok ann, sign-in ok ann"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	log, err := s.tables.Audit(t.Context(), login.AuditQuery{UserID: u.ID})
	if err != nil || len(log) < 4 || log[0].Event != "sign-in" || !log[0].Addr.IsLoopback() || log[0].Session == "" {
		t.Errorf("the audit log: %v %v", log, err)
	}
}
