package modules

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"

	zs "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/session"
)

// serverOwns are the fields of session.Config that the table [server] sets, or
// that no file can hold.
var serverOwns = map[string]bool{
	"AddrHeader": true, "Insecure": true, "TrustedProxies": true,
	"Logger": true, "Now": true, "OnError": true, "OnEvent": true,
}

func TestTheTableSessionIsSessionConfigOneToOne(t *testing.T) {
	config, table := reflect.TypeFor[session.Config](), reflect.TypeFor[SessionConfig]()
	for _, f := range reflect.VisibleFields(config) {
		got, ok := table.FieldByName(f.Name)
		switch {
		case serverOwns[f.Name] && ok:
			t.Errorf("[session] has %s, which is not its own", f.Name)
		case serverOwns[f.Name]:
		case !ok:
			t.Errorf("[session] lacks %s", f.Name)
		case got.Type.Kind() != f.Type.Kind():
			t.Errorf("%s is a %v in [session] and a %v in Config", f.Name, got.Type, f.Type)
		}
	}
	for _, f := range reflect.VisibleFields(table) {
		if _, ok := config.FieldByName(f.Name); !ok {
			t.Errorf("[session] has %s, which Config lacks", f.Name)
		}
		if want := snake(f.Name); f.Tag.Get("toml") != want || f.Tag.Get("help") == "" {
			t.Errorf("%s has the tags `%s`, want the key %s, and a help", f.Name, f.Tag, want)
		}
	}

	// Each arrives: set one field at a time.
	for i := range table.NumField() {
		var c SessionConfig
		v := reflect.ValueOf(&c).Elem().Field(i)
		switch v.Kind() {
		case reflect.String:
			v.SetString("x")
		case reflect.Slice:
			v.Set(reflect.ValueOf([]string{"x"}))
		default:
			v.SetInt(3)
		}
		got, _ := c.For(app.ServerConfig{TLSCert: "cert.pem"})
		for j := range config.NumField() {
			name := config.Field(j).Name
			if zero := reflect.ValueOf(got).Field(j).IsZero(); zero == (name == table.Field(i).Name) {
				t.Errorf("%s is set in [session]; %s is zero in Config: %t", table.Field(i).Name, name, zero)
			}
		}
	}
}

func snake(name string) string {
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

func TestTheDefaultsOfTheTableAreThoseOfTheLibrary(t *testing.T) {
	want, err := session.Config{}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	got, err := defaultSessionConfig().config().WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range reflect.VisibleFields(reflect.TypeFor[session.Config]()) {
		if f.Type.Kind() == reflect.Func || f.Name == "Logger" {
			continue
		}
		if g, w := reflect.ValueOf(got).Field(i).Interface(), reflect.ValueOf(want).Field(i).Interface(); !reflect.DeepEqual(g, w) {
			t.Errorf("%s is %v by default, in the library %v", f.Name, g, w)
		}
	}
	// What is derived from other settings follows them.
	c := defaultSessionConfig()
	c.IdleTimeout, c.CookieDomain = time.Minute, "example.org"
	if got, err = c.config().WithDefaults(); err != nil || got.TouchInterval != 15*time.Second || got.CookieName != "__Secure-crumb" {
		t.Errorf("derived: %v, %q, %v", got.TouchInterval, got.CookieName, err)
	}
}

func TestAWrongSettingIsSaidByItsKey(t *testing.T) {
	for key, change := range map[string]func(*SessionConfig){
		"lifetime":             func(c *SessionConfig) { c.Lifetime = 0 },
		"idle_timeout":         func(c *SessionConfig) { c.IdleTimeout = c.Lifetime + 1 },
		"touch_interval":       func(c *SessionConfig) { c.TouchInterval = time.Hour },
		"keep_on_sign_in":      func(c *SessionConfig) { c.KeepOnSignIn = []string{"Cart"} },
		"max_bytes":            func(c *SessionConfig) { c.MaxBytes = -1 },
		"cookie_name":          func(c *SessionConfig) { c.CookieName = "a b" },
		"cookie_domain":        func(c *SessionConfig) { c.CookieDomain = "localhost" },
		"cookie_path":          func(c *SessionConfig) { c.CookiePath = "x" },
		"visitor_lifetime":     func(c *SessionConfig) { c.VisitorLifetime = 401 * 24 * time.Hour },
		"store_timeout":        func(c *SessionConfig) { c.StoreTimeout = -1 },
		"renew_grace":          func(c *SessionConfig) { c.RenewGrace = -1 },
		"remember_lifetime":    func(c *SessionConfig) { c.RememberLifetime = -1 },
		"visitor_idle_timeout": func(c *SessionConfig) { c.VisitorIdleTimeout = c.VisitorLifetime + 1 },
	} {
		c := defaultSessionConfig()
		change(&c)
		bad, ok := c.Check().(*app.SettingError)
		if !ok || bad.Key != key {
			t.Errorf("%s: %+v", key, bad)
		}
	}
}

func TestAWrongSettingIsSaidInItsOwnWords(t *testing.T) {
	const day = 24 * time.Hour
	for want, change := range map[string]func(*session.Config){
		"idle_timeout | longer than lifetime, 24h | make it shorter":                                                                                   func(c *session.Config) { c.IdleTimeout = 2 * day },
		"visitor_idle_timeout | longer than visitor_lifetime, 180d | make it shorter":                                                                  func(c *session.Config) { c.VisitorIdleTimeout = 200 * day },
		"remember_lifetime | it must be whole microseconds, more than 0 and at most 400 days | ":                                                       func(c *session.Config) { c.RememberLifetime = 401 * day },
		"touch_interval | it must be at most a quarter of the shortest idle time, 7m30s | ":                                                            func(c *session.Config) { c.TouchInterval = time.Hour },
		"max_bytes | it must be at most 16 MiB (16777216) | ":                                                                                          func(c *session.Config) { c.MaxBytes = -1 },
		"cookie_name | it must be at most 128 letters, digits and -_ | ":                                                                               func(c *session.Config) { c.CookieName = "a; b, \"c" },
		"keep_on_sign_in | a prefix is parts of a-z, 0-9 and _ with dots between, such as \"cart\" | ":                                                 func(c *session.Config) { c.KeepOnSignIn = []string{"Cart"} },
		"cookie_name | does not go with cookie_domain \"example.org\" | browsers refuse __Host- with a domain, use __Secure-":                          func(c *session.Config) { c.CookieName, c.CookieDomain = "__Host-x", "example.org" },
		"same_site | browsers refuse it over plain HTTP | set tls_cert and tls_key, or public_url if a proxy speaks TLS; or remove it for development": func(c *session.Config) { c.SameSite, c.Insecure = http.SameSiteNoneMode, true },
		" | [server] client_ip_header is Forwarded (RFC 7239), which is not a plain list | have the proxy set X-Forwarded-For":                         func(c *session.Config) { c.AddrHeader = "forwarded" },
	} {
		var cfg session.Config
		change(&cfg)
		_, err := cfg.WithDefaults()
		bad, ok := badConfig(err).(*app.SettingError)
		if !ok || bad.Key+" | "+bad.Problem+" | "+bad.Hint != want {
			t.Errorf("%v:\ngot  %+v\nwant %s", err, bad, want)
		}
	}
}

func TestLoopbackHost(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "LOCALHOST:80": true, "localhost.": true, "a.localhost:1": true,
		"127.0.0.1": true, "127.255.0.1:8080": true, "[::1]": true, "[::1]:80": true, "::1": true, "[::ffff:127.0.0.1]:1": true,
		"": false, ":80": false, "0.0.0.0": false, "[::]": false, "10.0.0.1": false, "localhost.example": false, "xlocalhost": false,
		"127.0.0.1.example": false, "127.1": false, "2130706433": false, "127.0.0.1@evil.example": false, "localhost#.evil.example": false,
	} {
		if got := loopbackHost(host); got != want {
			t.Errorf("loopbackHost(%q) = %t", host, got)
		}
	}
}

// run starts an app of mods for requests by hand.
func run(t *testing.T, mod *app.Module, args ...string) http.Handler {
	t.Helper()
	a, err := app.New(app.Options{Args: args}, mod)
	if err != nil {
		t.Fatal(err)
	}
	h, err := a.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return h
}

var looks = session.NewCounter("test.looks")

var counting = &app.Module{
	Name: "counting", Requires: []*app.Module{Session},
	Setup: func(e *app.Env) error {
		count := func(w http.ResponseWriter, r *http.Request) { looks.Add(session.From(r), 1) }
		e.HandleFunc("GET /{$}", count)
		e.HandleFunc("GET /optional", func(w http.ResponseWriter, r *http.Request) {}, Optional)
		e.HandleFunc("GET /optional/write", count, Optional)
		return nil
	},
}

func TestTheDevelopmentCookieNeedsALoopbackListener(t *testing.T) {
	for addr, want := range map[string]string{"127.0.0.1:0": "crumb=", "localhost:0": "crumb=", ":0": "__Host-crumb=", "192.0.2.1:0": "__Host-crumb="} {
		r := httptest.NewRequest("GET", "http://localhost/", nil)
		w := httptest.NewRecorder()
		run(t, counting, "--database=memory:", "--addr="+addr).ServeHTTP(w, r) // on a listener of its own
		if got := w.Header().Get("Set-Cookie"); w.Code != 200 || !strings.HasPrefix(got, want) {
			t.Errorf("behind %s: %d, cookie %q", addr, w.Code, got)
		}
	}
}

func TestARouteMarkedOptionalGoesOnWithoutTheStore(t *testing.T) {
	file := filepath.Join(t.TempDir(), "crumb.db")
	h := run(t, counting, "--database=sqlite:"+file)
	ask := func(path, cookie string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "http://localhost"+path, nil)
		if cookie != "" {
			r.Header.Set("Cookie", cookie)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	cookie, _, _ := strings.Cut(ask("/", "").Header().Get("Set-Cookie"), ";")

	c, err := zs.OpenConn(file, zs.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := sqlitex.ExecuteTransient(c, "ALTER TABLE crumb_sessions RENAME TO gone", nil); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"/": 503, "/optional": 200, "/optional/write": 503, "/livez": 200, "/readyz": 503} {
		if w := ask(path, cookie); w.Code != want || w.Header().Get("Set-Cookie") != "" {
			t.Errorf("%s is %d with cookie %q, want %d", path, w.Code, w.Header().Get("Set-Cookie"), want)
		}
	}
}

func TestAHandlerThatPanicsAfterACommitStrandsNobody(t *testing.T) {
	a, err := app.New(app.Options{Args: []string{"--database", "memory:"}}, &app.Module{
		Name: "page", Requires: []*app.Module{Session},
		Setup: func(e *app.Env) error {
			e.HandleFunc("GET /in", func(w http.ResponseWriter, r *http.Request) {
				s := session.From(r)
				s.SignIn("ann")
				if err := s.Commit(r.Context()); err != nil {
					t.Error(err)
				}
				w.Header().Set("X-Half", "done")
				http.SetCookie(w, &http.Cookie{Name: "half", Value: "done"})
				panic("oh no")
			})
			e.HandleFunc("GET /who", func(w http.ResponseWriter, r *http.Request) {
				_, _ = w.Write([]byte(session.From(r).User()))
			})
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	h, err := a.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Stop(context.Background()) })
	get := func(path string, cookies []*http.Cookie) *http.Response {
		r := httptest.NewRequest("GET", "http://localhost"+path, nil)
		for _, c := range cookies {
			r.AddCookie(c)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Result()
	}
	res := get("/in", nil)
	if cookies := res.Cookies(); res.StatusCode != 500 || len(cookies) != 1 || cookies[0].Name != "crumb" || res.Header.Get("X-Half") != "" {
		t.Fatalf("%d with %v", res.StatusCode, res.Header)
	}
	if got, _ := io.ReadAll(get("/who", res.Cookies()).Body); string(got) != "ann" {
		t.Errorf("the visitor is signed in as %q", got)
	}
}
