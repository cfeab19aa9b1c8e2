package login_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crumb-go/crumb/keyring"
	"github.com/crumb-go/crumb/login"
	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
)

const password = "crumbs in every corner"

// hashOf returns the hash of password, made once.
var hashOf = sync.OnceValue(func() string {
	hash, err := login.HashPassword(password, 15)
	if err != nil {
		panic(err)
	}
	return hash
})

// A site is an app with login, served over HTTP.
type site struct {
	t        testing.TB
	url      string
	handler  http.Handler
	accounts *login.Login
	sessions *session.Manager
	store    session.Store
	tables   *login.Tables
	clock    *clock
	log      *safeBuffer
	down     atomic.Bool // the users cannot be read
	reads    atomic.Int64
}

// A clock shows the time that a test sets.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// watchedUsers counts reads and fails when the site says so.
type watchedUsers struct {
	*login.Tables
	s *site
}

func (u watchedUsers) ByID(ctx context.Context, id string) (*login.User, error) {
	u.s.reads.Add(1)
	if u.s.down.Load() {
		return nil, fmt.Errorf("the database is on fire")
	}
	return u.Tables.ByID(ctx, id)
}

// serve starts a site. change may change its settings.
func serve(t testing.TB, change ...func(*login.Config)) *site {
	return serveOn(t, memory.New(), change...)
}

func serveOn(t testing.TB, store session.Store, change ...func(*login.Config)) *site {
	t.Helper()
	s := &site{t: t, store: store, clock: &clock{t: time.Now().UTC().Truncate(time.Microsecond)}, log: &safeBuffer{}}
	log := slog.New(slog.NewTextHandler(s.log, nil))
	keys, err := keyring.Open(filepath.Join(t.TempDir(), "keys"))
	if err != nil {
		t.Fatal(err)
	}
	if s.tables, err = login.OpenTables(context.Background(), "memory:", login.TablesConfig{Logger: log}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.tables.Close() })
	if s.sessions, err = session.NewManager(store, session.Config{Insecure: true, Now: s.clock.now, Logger: log}); err != nil {
		t.Fatal(err)
	}
	cfg := login.Config{
		Clock: s.clock.now, Insecure: true, Keys: keys, Logger: log, Sessions: s.sessions, Tables: s.tables,
		Users: watchedUsers{s.tables, s}, PublicURL: "http://site.example",
	}
	for _, f := range change {
		f(&cfg)
	}
	if s.accounts, err = login.New(cfg); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	s.accounts.Routes(mux.Handle)
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) {
		name := "nobody"
		for range 3 {
			if u := login.CurrentUser(r); u != nil {
				name = u.Name
			}
		}
		fmt.Fprintf(w, "hello %s %s", name, login.FormToken(r))
	})
	private := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "private to %s", login.CurrentUser(r).Name)
	})
	mux.Handle("/private", login.Require(private))
	mux.Handle("/fresh", login.RequireFresh(5*time.Minute, private))
	// What an app does that knows users by other means than a password.
	mux.HandleFunc("POST /vouch", func(w http.ResponseWriter, r *http.Request) {
		if err := s.accounts.SignIn(w, r, r.PostFormValue("id"), false); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
		}
	})
	s.handler = s.sessions.Handler(s.accounts.Handler(mux))
	server := httptest.NewServer(s.handler)
	server.Config.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelError)
	s.url = server.URL
	t.Cleanup(server.Close)
	return s
}

// run sends links in the background.
func (s *site) run(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	wait.Go(func() { s.accounts.Run(ctx) })
	t.Cleanup(func() { stop(); wait.Wait() })
}

// send sends a form from an address, as a browser without cookies does, past the
// network.
func (s *site) send(method, path, addr string, fields ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(form(fields...)))
	r.Header = http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Accept": {"text/html"}}
	r.RemoteAddr = addr
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w
}

func (s *site) add(name string) *login.User {
	s.t.Helper()
	return s.addHash(name, hashOf())
}

func (s *site) addHash(name, hash string) *login.User {
	s.t.Helper()
	canonical, err := login.Canonical(name)
	if err != nil {
		s.t.Fatal(err)
	}
	u, err := s.tables.Add(context.Background(), name, canonical, hash)
	if err != nil {
		s.t.Fatal(err)
	}
	return u
}

// live returns the sessions of a user that live.
func (s *site) live(user string) (list []session.Info) {
	s.t.Helper()
	for in, err := range s.sessions.List(context.Background(), session.Query{User: user}) {
		if err != nil {
			s.t.Fatal(err)
		}
		list = append(list, in)
	}
	return list
}

// A browser keeps cookies and follows no redirect.
type browser struct {
	*http.Client
	t    testing.TB
	base string
	// header goes with every request.
	header http.Header
}

func (s *site) open() *browser {
	jar, _ := cookiejar.New(nil)
	return &browser{t: s.t, base: s.url, header: http.Header{"Accept": {"text/html"}}, Client: &http.Client{
		Jar:           jar,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{DisableKeepAlives: true},
	}}
}

// An answer is a response whose body was read.
type answer struct {
	*http.Response
	body string
}

func (b *browser) do(method, path, body string, header ...string) answer {
	b.t.Helper()
	a, err := b.try(method, path, body, header...)
	if err != nil {
		b.t.Fatal(err)
	}
	return a
}

// try is do for other goroutines than the test's.
func (b *browser) try(method, path, body string, header ...string) (answer, error) {
	r, err := http.NewRequest(method, b.base+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	r.Header = b.header.Clone()
	if method == "POST" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		if r.Header.Set(header[i], header[i+1]); header[i] == "Host" {
			r.Host = header[i+1]
		}
	}
	resp, err := b.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp, string(text)}, err
}

func (b *browser) get(path string, header ...string) answer {
	b.t.Helper()
	return b.do("GET", path, "", header...)
}

func (b *browser) post(path string, fields ...string) answer {
	b.t.Helper()
	return b.do("POST", path, form(fields...))
}

func form(fields ...string) string {
	values := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		values.Set(fields[i], fields[i+1])
	}
	return values.Encode()
}

// signIn signs in with the password of all users here.
func (b *browser) signIn(name string) answer {
	b.t.Helper()
	a := b.post("/login", "name", name, "password", password)
	if a.StatusCode != http.StatusSeeOther {
		b.t.Fatalf("signing in as %s: %s\n%s", name, a.Status, a.body)
	}
	return a
}

// token is the session cookie that the browser holds.
func (b *browser) token() string {
	u, _ := url.Parse(b.base)
	for _, c := range b.Jar.Cookies(u) {
		if c.Name == "crumb" {
			return c.Value
		}
	}
	return ""
}

// with returns a browser that holds this session cookie and nothing else.
func (s *site) with(token string) *browser {
	b := s.open()
	u, _ := url.Parse(s.url)
	b.Jar.SetCookies(u, []*http.Cookie{{Name: "crumb", Value: token, Path: "/"}})
	return b
}

func (a answer) want(t testing.TB, status int, texts ...string) answer {
	t.Helper()
	if a.StatusCode != status {
		t.Errorf("%s %s: %s, want %d\n%s", a.Request.Method, a.Request.URL.Path, a.Status, status, a.body)
	}
	for _, text := range texts {
		if !strings.Contains(a.body, text) {
			t.Errorf("%s %s does not say %q:\n%s", a.Request.Method, a.Request.URL.Path, text, a.body)
		}
	}
	return a
}

func (a answer) wantTo(t testing.TB, location string) answer {
	t.Helper()
	if got := a.Header.Get("Location"); a.StatusCode != http.StatusSeeOther || got != location {
		t.Errorf("%s %s: %s to %q, want 303 to %q", a.Request.Method, a.Request.URL.Path, a.Status, got, location)
	}
	return a
}

func TestPrivatePages(t *testing.T) {
	s := serve(t)
	s.add("ann")
	anybody := s.open()

	t.Run("browsers are sent to sign in and back", func(t *testing.T) {
		anybody.get("/private").wantTo(t, "/login?next=/private")
		anybody.get("/private?a=b&c=d").wantTo(t, "/login?next=/private%3Fa%3Db%26c%3Dd")
		anybody.get("/private", "Accept", "*/*").wantTo(t, "/login?next=/private") // curl
		anybody.get("/private", "Accept", "text/html", "Sec-Fetch-Mode", "navigate").wantTo(t, "/login?next=/private")
	})
	t.Run("a form of a page leads back to that page", func(t *testing.T) {
		a := anybody.do("POST", "/private", "x=1", "Referer", s.url+"/private?tab=2")
		a.wantTo(t, "/login?next=/private%3Ftab%3D2")
		anybody.do("POST", "/private", "x=1", "Referer", "https://evil.example/private").wantTo(t, "/login")
		anybody.do("POST", "/private", "x=1").wantTo(t, "/login")
	})
	t.Run("other clients get 401 as JSON", func(t *testing.T) {
		for _, header := range [][]string{
			{"Accept", "application/json"}, {"Accept", "application/json, text/plain, */*"}, {"Accept", ""},
			{"Accept", "*/*", "Sec-Fetch-Mode", "cors"}, {"Accept", "text/html", "Sec-Fetch-Mode", "same-origin"},
		} {
			a := anybody.get("/private", header...).want(t, http.StatusUnauthorized)
			var said struct{ Error, Login string }
			if err := json.Unmarshal([]byte(a.body), &said); err != nil || said.Error == "" || said.Login != "/login" ||
				a.Header.Get("Content-Type") != "application/json" || a.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%q: %v %q %v", header, err, a.body, a.Header)
			}
		}
		anybody.do("POST", "/private", "", "Accept", "*/*").want(t, http.StatusUnauthorized)
	})
	t.Run("are never cached, whether they are shown or not", func(t *testing.T) {
		b := s.open()
		b.signIn("ann")
		for _, a := range []answer{anybody.get("/private"), anybody.get("/private", "Accept", "application/json"), b.get("/private"), b.get("/account"), b.get("/account/sessions")} {
			if got := a.Header.Get("Cache-Control"); got != "no-store" {
				t.Errorf("%s: Cache-Control is %q", a.Request.URL.Path, got)
			}
		}
		b.get("/private").want(t, http.StatusOK, "private to ann")
	})
	t.Run("of ours show a sign-out, by POST", func(t *testing.T) {
		b := s.open()
		b.signIn("ann")
		for _, path := range []string{"/account", "/account/password", "/account/sessions", "/account/delete"} {
			b.get(path).want(t, http.StatusOK, `<form method="post" action="/logout">`)
		}
	})
	t.Run("read the users row once, and public ones that do not ask never", func(t *testing.T) {
		b := s.open()
		b.signIn("ann")
		s.reads.Store(0)
		b.get("/private")
		if n := s.reads.Load(); n != 1 {
			t.Errorf("%d reads, want 1", n)
		}
		b.get("/nowhere")
		if n := s.reads.Load(); n != 1 {
			t.Errorf("%d reads after a page that does not ask, want 1", n)
		}
	})
	t.Run("answer 503 while the users cannot be read, and the cookie stays", func(t *testing.T) {
		b := s.open()
		b.signIn("ann")
		s.down.Store(true)
		for _, a := range []answer{b.get("/private"), b.get("/private", "Accept", "application/json"), b.get("/account"), b.get("/login")} {
			if a.StatusCode != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" || a.Header.Get("Set-Cookie") != "" {
				t.Errorf("%s: %s with %v", a.Request.URL.Path, a.Status, a.Header)
			}
		}
		b.get("/").want(t, http.StatusOK, "hello nobody")
		s.down.Store(false)
		b.get("/private").want(t, http.StatusOK)
	})
}

func TestGuardsOutsideTheirHandlerSayWhatToDo(t *testing.T) {
	for name, h := range map[string]http.Handler{
		"Require":     login.Require(http.NotFoundHandler()),
		"CurrentUser": http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { login.CurrentUser(r) }),
	} {
		func() {
			defer func() {
				if v := fmt.Sprint(recover()); !strings.Contains(v, name) || !strings.Contains(v, "accounts.Handler(mux)") {
					t.Errorf("%s panics with %q", name, v)
				}
			}()
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/private", nil))
		}()
	}
}

func TestSigningInAndOut(t *testing.T) {
	s := serve(t)
	s.add("ann")
	b := s.open()
	b.get("/private").wantTo(t, "/login?next=/private")
	b.get("/login?next=/private").want(t, http.StatusOK, `value="/private"`, `autocomplete="username"`, `autocomplete="current-password"`)
	b.post("/login", "name", "Ann", "password", password, "next", "/private").wantTo(t, "/private")
	b.get("/private").want(t, http.StatusOK, "private to ann")
	in := b.token()

	t.Run("a GET signs nobody in or out", func(t *testing.T) {
		other := s.open()
		other.get("/login?"+form("name", "ann", "password", password)).want(t, http.StatusOK)
		if other.token() != "" || len(s.live(s.userID("ann"))) != 1 {
			t.Error("a GET made a session")
		}
		b.get("/logout").want(t, http.StatusMethodNotAllowed)
		b.get("/private").want(t, http.StatusOK)
	})
	t.Run("a sign-out ends the session for good, and clears caches only", func(t *testing.T) {
		a := b.post("/logout").wantTo(t, "/")
		if got := a.Header.Get("Clear-Site-Data"); got != `"cache"` {
			t.Errorf("Clear-Site-Data is %q", got)
		}
		b.get("/private").wantTo(t, "/login?next=/private")
		s.with(in).get("/private").wantTo(t, "/login?next=/private")
		b.post("/logout").wantTo(t, "/") // once more
	})
	t.Run("the cookie from before a sign-in is anonymous after it", func(t *testing.T) {
		b := s.open()
		b.post("/login", "name", "ann", "password", password)
		before := b.token()
		b.post("/login", "name", "ann", "password", password)
		if before == b.token() {
			t.Error("the token is the same")
		}
		s.with(before).get("/private").wantTo(t, "/login?next=/private")
	})
	t.Run("a sign-in as somebody else ends the session there was", func(t *testing.T) {
		s.add("bob")
		b := s.open()
		b.signIn("ann")
		was := b.token()
		b.signIn("bob")
		b.get("/private").want(t, http.StatusOK, "private to bob")
		s.with(was).get("/private").wantTo(t, "/login?next=/private")
		if n := len(s.live(s.userID("bob"))); n != 1 {
			t.Errorf("bob has %d sessions, want 1", n)
		}
	})
	t.Run("only who asks to is remembered", func(t *testing.T) {
		for remember, want := range map[string]bool{"yes": true, "": false} {
			b := s.open()
			a := b.post("/login", "name", "ann", "password", password, "remember", remember)
			for _, c := range a.Cookies() {
				if c.Name == "crumb" && (c.MaxAge > 0) != want {
					t.Errorf("remember %q: Max-Age %d", remember, c.MaxAge)
				}
			}
		}
	})
}

func (s *site) userID(name string) string {
	s.t.Helper()
	u, err := s.tables.ByName(context.Background(), name)
	if err != nil {
		s.t.Fatal(err)
	}
	return u.ID
}

func TestNextIsAPathOfThisSite(t *testing.T) {
	s := serve(t)
	s.add("ann")
	b := s.open()
	hidden := regexp.MustCompile(`name="next" value="([^"]*)"`)
	for next, want := range map[string]string{
		"/private": "/private", "/private?a=b": "/private?a=b", "/": "/", "": "/",
		"//evil.example": "/", "https:evil.example": "/", "https://evil.example": "/", `/\evil.example`: "/", `\\evil.example`: "/",
		"javascript:alert(1)": "/", "/\t/evil.example": "/", "/\n/evil.example": "/", "evil": "/", "/%": "/", "/login": "/", "/login?next=/x": "/",
		"/" + strings.Repeat("x", 3000): "/", "/%2f/evil.example": "/%2f/evil.example",
	} {
		if got := hidden.FindStringSubmatch(b.get("/login?" + form("next", next)).body); got == nil || html.UnescapeString(got[1]) != want {
			t.Errorf("the page for next=%q leads to %q, want %q", next, got, want)
		}
	}
	for next, want := range map[string]string{
		"/private?a=b": "/private?a=b", "//evil.example": "/", "https:evil.example": "/", `/\evil.example`: "/", "javascript:alert(1)": "/",
		"/a/..//evil.example": "/evil.example",
	} {
		b.post("/login", "name", "ann", "password", password, "next", next).wantTo(t, want)
	}
}

func TestWrongUnknownDisabledAndWithoutPasswordAreAnsweredAlike(t *testing.T) {
	s := serve(t)
	s.add("ann")
	s.addHash("no-password-yet", "")
	off := s.add("disabled")
	if _, err := s.tables.SetDisabled(t.Context(), off.ID, true); err != nil {
		t.Fatal(err)
	}
	var first answer
	var firstName string
	volatile := regexp.MustCompile(`value="[^"]*" autocomplete="username"`)
	for _, c := range [][2]string{{"ann", "not the password"}, {"nobody at all", password}, {"nobody", password}, {"disabled", password}, {"no-password-yet", password}, {"no-password-yet", ""}, {`"<&>'`, password}} {
		s.clock.add(time.Hour)
		a := s.open().post("/login", "name", c[0], "password", c[1])
		a.want(t, http.StatusUnprocessableEntity, "Name and password do not match.")
		a.Header.Del("Date")
		if first.Response == nil {
			first, firstName = a, c[0]
			continue
		}
		if fmt.Sprint(a.Header) != fmt.Sprint(first.Header) || a.ContentLength != first.ContentLength || len(a.body) != len(first.body) {
			t.Errorf("%s: %v, %d bytes\n%s: %v, %d bytes", firstName, first.Header, len(first.body), c[0], a.Header, len(a.body))
		}
		if got, want := strings.TrimSpace(volatile.ReplaceAllString(a.body, "")), strings.TrimSpace(volatile.ReplaceAllString(first.body, "")); got != want {
			t.Errorf("the page for %s is another", c[0])
		}
	}
}

func TestRequestsOfOtherSites(t *testing.T) {
	s := serve(t, func(cfg *login.Config) { cfg.TrustedOrigins = []string{"https://admin.example"} })
	u := s.add("ann")
	b := s.open()
	body := form("name", "ann", "password", password)

	t.Run("sign nobody in", func(t *testing.T) {
		for _, header := range [][]string{
			{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}, {"Origin", "null"},
		} {
			a := b.do("POST", "/login", body, header...).want(t, http.StatusForbidden)
			if a.Header.Get("Set-Cookie") != "" || len(s.live(u.ID)) != 0 {
				t.Errorf("%v: signed in", header)
			}
		}
	})
	t.Run("of trusted origins do, and so do those of the public URL whatever the Host", func(t *testing.T) {
		b.do("POST", "/login", body, "Origin", "https://admin.example").wantTo(t, "/")
		b.do("POST", "/login", body, "Origin", "http://site.example", "Sec-Fetch-Site", "cross-site").wantTo(t, "/")
	})
	t.Run("change nothing on routes of the app", func(t *testing.T) {
		b.do("POST", "/private", "", "Sec-Fetch-Site", "cross-site").want(t, http.StatusForbidden)
		b.do("POST", "/", "", "Sec-Fetch-Site", "cross-site").want(t, http.StatusForbidden)
		b.do("POST", "/", "", "Sec-Fetch-Site", "same-origin").want(t, http.StatusOK)
		b.do("DELETE", "/", "", "Sec-Fetch-Site", "cross-site", "Accept", "application/json").want(t, http.StatusForbidden, `"error"`)
	})
	t.Run("open no channel", func(t *testing.T) {
		upgrade := []string{"Connection", "Upgrade", "Upgrade", "websocket"}
		b.get("/private", append(upgrade, "Origin", "https://evil.example")...).want(t, http.StatusForbidden)
		b.get("/private", append(upgrade, "Origin", s.url)...).want(t, http.StatusOK)
	})
	t.Run("may read what everybody may", func(t *testing.T) {
		b.get("/", "Sec-Fetch-Site", "cross-site").want(t, http.StatusOK)
	})
}

func TestFormTokens(t *testing.T) {
	s := serve(t, func(cfg *login.Config) { cfg.FormTokens = true })
	s.add("ann")
	b := s.open()
	page := b.get("/login").want(t, http.StatusOK)
	found := regexp.MustCompile(`name="form_token" value="(\w+)"`).FindStringSubmatch(page.body)
	if found == nil {
		t.Fatalf("the form has no token:\n%s", page.body)
	}
	b.post("/login", "name", "ann", "password", password).want(t, http.StatusForbidden)
	b.post("/login", "name", "ann", "password", password, "form_token", found[1]+"x").want(t, http.StatusForbidden)
	s.open().post("/login", "name", "ann", "password", password, "form_token", found[1]).want(t, http.StatusForbidden) // another visitor's
	b.post("/login", "name", "ann", "password", password, "form_token", found[1]).wantTo(t, "/")
	b.post("/logout", "form_token", found[1]).want(t, http.StatusForbidden) // from before the sign-in
	_, token, _ := strings.Cut(b.get("/").body, "ann ")
	b.do("POST", "/", "{}", "X-Form-Token", token).want(t, http.StatusOK)
	b.post("/logout", "form_token", token).wantTo(t, "/")
}

// A longForm is a body that goes on and on, and knows how much of it was read.
type longForm struct{ left, read int }

func (f *longForm) Read(p []byte) (int, error) {
	n := min(len(p), f.left)
	if n == 0 {
		return 0, io.EOF
	}
	for i := range p[:n] {
		p[i] = 'x'
	}
	f.left, f.read = f.left-n, f.read+n
	return n, nil
}

func TestFormsThatAreTooLongAreNotRead(t *testing.T) {
	s := serve(t)
	s.add("ann")
	b := s.open()
	b.signIn("ann")
	for _, path := range []string{"/login", "/account/password", "/account/delete", "/forgot", "/reset"} {
		for _, size := range []int{1 << 20, 10 << 20} {
			body := &longForm{left: size}
			r := httptest.NewRequest("POST", path, io.MultiReader(strings.NewReader("name=ann&password="), body))
			r.Header = http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Cookie": {"crumb=" + b.token()}, "Accept": {"text/html"}}
			w := httptest.NewRecorder()
			s.handler.ServeHTTP(w, r)
			if w.Code != http.StatusRequestEntityTooLarge || body.read > 128<<10 {
				t.Errorf("%s with %d bytes: %d, %d of them read", path, size, w.Code, body.read)
			}
		}
	}
	entries := func() int {
		t.Helper()
		list, err := s.tables.Audit(t.Context(), login.AuditQuery{})
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	before, reads := entries(), s.reads.Load()
	for path, field := range map[string]string{"/login": "password", "/account/password": "current", "/account/delete": "current", "/reset": "password"} {
		b.post(path, "name", "ann", "token", "x", field, strings.Repeat("x", 4097)).want(t, http.StatusRequestEntityTooLarge)
	}
	if after := entries(); after != before || s.reads.Load() != reads {
		t.Errorf("%d entries in the audit log were %d, and the users row was read %d times", after, before, s.reads.Load()-reads)
	}
	b.do("POST", "/login", `{"name":"ann"}`, "Content-Type", "application/json").want(t, http.StatusBadRequest)
	b.do("POST", "/login", "name=%zz").want(t, http.StatusBadRequest)
	// Nothing was counted: the next try need not wait.
	s.open().signIn("ann")
}

func TestTheBodyOfAGETIsNotRead(t *testing.T) {
	s := serve(t, func(cfg *login.Config) { cfg.Register = true })
	for _, path := range []string{"/login", "/register", "/forgot", "/reset"} {
		for _, kind := range []string{"multipart/form-data; boundary=x", "application/x-www-form-urlencoded"} {
			body := &longForm{left: 1 << 20}
			r := httptest.NewRequest("GET", path, io.MultiReader(strings.NewReader("--x\r\nContent-Disposition: form-data; name=f; filename=f\r\n\r\n"), body))
			r.Header = http.Header{"Content-Type": {kind}, "Accept": {"text/html"}}
			w := httptest.NewRecorder()
			s.handler.ServeHTTP(w, r)
			if w.Code != http.StatusOK || body.read > 0 {
				t.Errorf("%s as %s: %d, and %d bytes read", path, kind, w.Code, body.read)
			}
		}
	}
}

func TestWhoLeavesLeavesNothingInTheAuditLog(t *testing.T) {
	s := serve(t)
	s.add("ann")
	gone, leave := context.WithCancel(t.Context())
	leave()
	r := httptest.NewRequest("POST", "/login", strings.NewReader(form("name", "ann", "password", password)))
	r.Header = http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	s.handler.ServeHTTP(httptest.NewRecorder(), r.WithContext(gone))
	if list, err := s.tables.Audit(t.Context(), login.AuditQuery{}); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestANameWithLineEndsIsOneLineOfTheLogAndNotShownThere(t *testing.T) {
	s := serve(t)
	s.open().post("/login", "name", "nobody", "password", password) // and what is logged once
	before := strings.Count(s.log.String(), "\n")
	s.open().post("/login", "name", "ann\r\ntime=now level=INFO msg=forged secret", "password", "not the password").want(t, http.StatusUnprocessableEntity)
	lines := strings.Split(strings.TrimSpace(s.log.String()), "\n")[before:]
	if len(lines) != 1 || strings.Contains(lines[0], "forged") {
		t.Errorf("the log has %d new lines: %q", len(lines), lines)
	}
}
