package session_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
)

func TestNewManagerRefuses(t *testing.T) {
	s := time.Second
	for _, c := range []struct {
		name string
		cfg  session.Config
		want []string // what the message holds: the field, and what would work
	}{
		{"a first visit longer than the idle time", session.Config{FirstVisit: 31 * day}, []string{"FirstVisit", "744h", "VisitorIdleTimeout", "shorter"}},
		{"an idle time longer than the lifetime", session.Config{IdleTimeout: 25 * time.Hour}, []string{"IdleTimeout", "25h", "Lifetime", "shorter"}},
		{"a lifetime shorter than the idle time", session.Config{Lifetime: 10 * time.Minute}, []string{"IdleTimeout", "Lifetime", "10m", "shorter"}},
		{"a remembered idle time longer than its lifetime", session.Config{RememberIdleTimeout: 31 * day}, []string{"RememberIdleTimeout", "RememberLifetime", "shorter"}},
		{"a visitor's idle time longer than the lifetime", session.Config{VisitorIdleTimeout: 181 * day}, []string{"VisitorIdleTimeout", "VisitorLifetime", "shorter"}},
		{"a touch interval over a quarter of the idle time", session.Config{TouchInterval: 8 * time.Minute}, []string{"TouchInterval", "8m", "quarter", "7m30s"}},
		{"a touch interval over a quarter of the first visit", session.Config{FirstVisit: 8 * s, TouchInterval: 3 * s}, []string{"TouchInterval", "quarter", "2s"}},
		{"MaxBytes below zero", session.Config{MaxBytes: -1}, []string{"MaxBytes", "-1", "16 MiB"}},
		{"MaxBytes beyond reason", session.Config{MaxBytes: 16<<20 + 1}, []string{"MaxBytes", "16 MiB"}},
		{"a prefix with a dot at the end", session.Config{KeepOnSignIn: []string{"cart", "x."}}, []string{"KeepOnSignIn", `"x."`, "cart"}},
		{"an empty prefix", session.Config{KeepOnSignIn: []string{""}}, []string{"KeepOnSignIn", `""`}},
		{"a star for a prefix", session.Config{KeepOnSignIn: []string{"*"}}, []string{"KeepOnSignIn", `"*"`}},
		{"a zero proxy", session.Config{TrustedProxies: []netip.Prefix{{}}}, []string{"TrustedProxies", "10.0.0.0/8"}},
		{"a proxy as IPv4 in IPv6", session.Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}}, []string{"TrustedProxies", "10.0.0.0/8"}},
		{"a header that is none", session.Config{AddrHeader: "X Forwarded"}, []string{"AddrHeader", `"X Forwarded"`, "X-Forwarded-For"}},
		{"the Forwarded header", session.Config{AddrHeader: "forwarded"}, []string{"AddrHeader", "X-Forwarded-For"}},
		{"a cookie name with a blank", session.Config{CookieName: "my cookie"}, []string{"CookieName", `"my cookie"`, "letters"}},
		{"a cookie name with a line break", session.Config{CookieName: "a\r\nSet-Cookie: b"}, []string{"CookieName", "letters"}},
		{"a cookie name with =", session.Config{CookieName: "a=b"}, []string{"CookieName", "letters"}},
		{"a cookie name that is too long", session.Config{CookieName: strings.Repeat("a", 129)}, []string{"CookieName", "128"}},
		{"__Host- over plain HTTP", session.Config{CookieName: "__Host-x", Insecure: true}, []string{"CookieName", "Insecure", "browsers"}},
		{"__Secure- over plain HTTP", session.Config{CookieName: "__Secure-x", Insecure: true}, []string{"CookieName", "Insecure", "browsers"}},
		{"__HOST- in capitals over plain HTTP", session.Config{CookieName: "__HOST-x", Insecure: true}, []string{"CookieName", "Insecure"}},
		{"__Host- with a domain", session.Config{CookieName: "__Host-x", CookieDomain: "example.org"}, []string{"CookieName", "CookieDomain", "__Secure-"}},
		{"__host- with a domain", session.Config{CookieName: "__host-x", CookieDomain: "example.org"}, []string{"CookieName", "CookieDomain", "__Secure-"}},
		{"__Host- with a path", session.Config{CookieName: "__Host-x", CookiePath: "/app"}, []string{"CookieName", "CookiePath", "__Secure-"}},
		{"SameSite=None over plain HTTP", session.Config{SameSite: http.SameSiteNoneMode, Insecure: true}, []string{"SameSite", "Insecure"}},
		{"a SameSite that is none", session.Config{SameSite: 9}, []string{"SameSite", "SameSiteLaxMode"}},
		{"a SameSite below zero", session.Config{SameSite: -1}, []string{"SameSite", "SameSiteLaxMode"}},
		{"a path without /", session.Config{CookiePath: "app"}, []string{"CookiePath", `"app"`, "begin with /"}},
		{"a path with ;", session.Config{CookiePath: "/; Domain=evil"}, []string{"CookiePath", ";"}},
		{"a path with a line break", session.Config{CookiePath: "/\n"}, []string{"CookiePath"}},
		{"a path that is not ASCII", session.Config{CookiePath: "/é"}, []string{"CookiePath"}},
		{"a domain with a dot in front", session.Config{CookieDomain: ".example.org"}, []string{"CookieDomain", "example.org"}},
		{"a domain with a dot at the end", session.Config{CookieDomain: "example.org."}, []string{"CookieDomain", "example.org"}},
		{"a domain with a port", session.Config{CookieDomain: "example.org:443"}, []string{"CookieDomain", "nothing else"}},
		{"a URL for a domain", session.Config{CookieDomain: "https://example.org"}, []string{"CookieDomain", "nothing else"}},
		{"a domain without a dot", session.Config{CookieDomain: "localhost"}, []string{"CookieDomain", "dot"}},
		{"an IPv4 address for a domain", session.Config{CookieDomain: "192.0.2.1"}, []string{"CookieDomain", "host name"}},
		{"an IPv6 address for a domain", session.Config{CookieDomain: "2001:db8::1"}, []string{"CookieDomain", "host name"}},
		{"a domain with ;", session.Config{CookieDomain: "example.org; Path=/x"}, []string{"CookieDomain"}},
		{"a label too long", session.Config{CookieDomain: strings.Repeat("a", 64) + ".org"}, []string{"CookieDomain"}},
		{"a domain too long", session.Config{CookieDomain: strings.Repeat("a.", 127) + "org"}, []string{"CookieDomain"}},
		{"a label with a hyphen in front", session.Config{CookieDomain: "-a.org"}, []string{"CookieDomain"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := session.NewManager(memory.New(), c.cfg)
			if err == nil || m != nil {
				t.Fatal("accepted")
			}
			for _, want := range append(c.want, "session: ") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			if strings.ContainsAny(err.Error(), "\r\n") {
				t.Errorf("%q is more than one line", err)
			}
		})
	}
	t.Run("no store", func(t *testing.T) {
		if _, err := session.NewManager(nil, session.Config{}); err == nil || !strings.Contains(err.Error(), "memory.New()") {
			t.Error(err)
		}
	})
	t.Run("every time that is unlimited, below zero or finer than a record", func(t *testing.T) {
		typ := reflect.TypeFor[session.Config]()
		times := 0
		for i := range typ.NumField() {
			f := typ.Field(i)
			if f.Type != reflect.TypeFor[time.Duration]() {
				continue
			}
			times++
			for _, d := range []time.Duration{-1, -time.Hour, 400*day + 1, 401 * day, 1<<63 - 1, -1 << 63, 1500} {
				var cfg session.Config
				reflect.ValueOf(&cfg).Elem().Field(i).SetInt(int64(d))
				_, err := session.NewManager(memory.New(), cfg)
				if err == nil {
					t.Errorf("%s: %d is accepted", f.Name, d)
				} else if !strings.Contains(err.Error(), f.Name) {
					t.Errorf("%s: %d: %q does not name the field", f.Name, d, err)
				}
			}
		}
		if times != 11 {
			t.Errorf("%d fields are times", times)
		}
	})
}

func TestNewManagerAccepts(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  session.Config
		want string // the Set-Cookie line without the value
	}{
		"nothing":             {session.Config{}, "__Host-crumb=; Path=/; HttpOnly; Secure; SameSite=Lax; Max-Age=15552000"},
		"plain HTTP":          {session.Config{Insecure: true}, "crumb=; Path=/; HttpOnly; SameSite=Lax; Max-Age=15552000"},
		"a domain":            {session.Config{CookieDomain: "example.org"}, "__Secure-crumb=; Path=/; Domain=example.org; HttpOnly; Secure; SameSite=Lax; Max-Age=15552000"},
		"a path":              {session.Config{CookiePath: "/app"}, "__Secure-crumb=; Path=/app; HttpOnly; Secure; SameSite=Lax; Max-Age=15552000"},
		"a name":              {session.Config{CookieName: "sid"}, "sid=; Path=/; HttpOnly; Secure; SameSite=Lax; Max-Age=15552000"},
		"a domain, plain":     {session.Config{CookieDomain: "a.example.org", Insecure: true}, "crumb=; Path=/; Domain=a.example.org; HttpOnly; SameSite=Lax; Max-Age=15552000"},
		"strict":              {session.Config{SameSite: http.SameSiteStrictMode}, "__Host-crumb=; Path=/; HttpOnly; Secure; SameSite=Strict; Max-Age=15552000"},
		"none":                {session.Config{SameSite: http.SameSiteNoneMode}, "__Host-crumb=; Path=/; HttpOnly; Secure; SameSite=None; Max-Age=15552000"},
		"the default of Go":   {session.Config{SameSite: http.SameSiteDefaultMode}, "__Host-crumb=; Path=/; HttpOnly; Secure; SameSite=Lax; Max-Age=15552000"},
		"400 days":            {session.Config{VisitorLifetime: 400 * day, VisitorIdleTimeout: 400 * day}, "__Host-crumb=; Path=/; HttpOnly; Secure; SameSite=Lax; Max-Age=34560000"},
		"a part of a second":  {session.Config{VisitorLifetime: time.Hour + time.Millisecond, VisitorIdleTimeout: time.Hour}, "__Host-crumb=; Path=/; HttpOnly; Secure; SameSite=Lax; Max-Age=3601"},
		"a short idle time":   {session.Config{VisitorIdleTimeout: time.Minute}, "__Host-crumb=; Path=/; HttpOnly; Secure; SameSite=Lax; Max-Age=15552000"},
		"the quarter exactly": {session.Config{TouchInterval: 450 * time.Second}, "__Host-crumb=; Path=/; HttpOnly; Secure; SameSite=Lax; Max-Age=15552000"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newWorld(t, c.cfg).browser()
			lines := b.visit(func(s *session.Session) { hits.Add(s, 1) }).Header["Set-Cookie"]
			if len(lines) != 1 {
				t.Fatal(lines)
			}
			name, rest, _ := strings.Cut(lines[0], "=")
			if got := name + "=" + rest[43:]; got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
	t.Run("the cookie is cleared with the attributes it was set with", func(t *testing.T) {
		for _, cfg := range []session.Config{{}, {CookieDomain: "example.org"}, {CookiePath: "/app"}, {Insecure: true}} {
			w := newWorld(t, cfg)
			b := w.browser()
			set := b.visit(func(s *session.Session) { s.SignIn("ann") }).Header.Get("Set-Cookie")
			gone := b.visit(func(s *session.Session) { s.SignOut() }).Header.Get("Set-Cookie")
			name, rest, _ := strings.Cut(set, "=")
			if want := name + "=" + rest[43:] + "; Max-Age=0"; gone != want {
				t.Errorf("got  %s\nwant %s", gone, want)
			}
		}
	})
}

func TestOnErrorByDefault(t *testing.T) {
	t.Run("tells the visitor nothing about the inside", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		w.store.fail("Create", 1, fmt.Errorf("dial tcp 10.1.2.3:5432: password wrong"))
		a := w.browser().visit(func(s *session.Session) { hits.Add(s, 1) })
		if a.StatusCode != 503 || a.Header.Get("Retry-After") != "5" || strings.Contains(a.body, "dial") || a.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Error(a.StatusCode, a.Header, a.body)
		}
		if !strings.Contains(w.log.String(), "password wrong") {
			t.Error("the log does not say why")
		}
	})
	t.Run("one of the app's own answers instead", func(t *testing.T) {
		w := newWorld(t, session.Config{OnError: func(w http.ResponseWriter, r *http.Request, err error) {
			w.Header().Set("X-Err", err.Error())
			w.WriteHeader(418)
		}})
		w.store.fail("Create", 1, fmt.Errorf("no"))
		a := w.browser().get(func(s *session.Session, w http.ResponseWriter, _ *http.Request) {
			hits.Add(s, 1)
			fmt.Fprint(w, "page")
		})
		if a.StatusCode != 418 || a.Header.Get("X-Err") != "session: create: no" || a.body != "" {
			t.Error(a.StatusCode, a.Header, a.body)
		}
	})
}

// defaults is the table that the docs show.
const defaults = `
AddrHeader           X-Forwarded-For
CookieDomain         
CookieName           __Host-crumb
CookiePath           /
FirstVisit           1h0m0s
IdleTimeout          30m0s
Insecure             false
KeepOnSignIn         []
Lifetime             24h0m0s
MaxBytes             65536
RememberIdleTimeout  336h0m0s
RememberLifetime     720h0m0s
RenewGrace           10s
SameSite             2
StoreTimeout         5s
SweepInterval        5m0s
TouchInterval        1m0s
TrustedProxies       []
VisitorIdleTimeout   720h0m0s
VisitorLifetime      4320h0m0s
`

func TestDefaults(t *testing.T) {
	cfg, err := session.Config{}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	v := reflect.ValueOf(cfg)
	for i := range v.NumField() {
		switch f := v.Type().Field(i); f.Name {
		case "Logger", "Now", "OnError", "OnEvent":
			if v.Field(i).IsNil() {
				t.Errorf("%s has no default", f.Name)
			}
		default:
			fmt.Fprintf(&b, "%-20s %v\n", f.Name, v.Field(i))
		}
	}
	if got := "\n" + b.String(); got != defaults {
		t.Errorf("the defaults are%s", got)
	}
	again, err := cfg.WithDefaults()
	if err != nil || again.TouchInterval != cfg.TouchInterval || again.CookieName != cfg.CookieName {
		t.Error("a Config that is complete is refused or changed:", err)
	}
}

func TestDefaultsThatFollowOthers(t *testing.T) {
	for _, c := range []struct {
		cfg  session.Config
		want string
	}{
		{session.Config{VisitorIdleTimeout: 1e9}, "FirstVisit 1s, TouchInterval 250ms"},
		{session.Config{IdleTimeout: 60e9}, "FirstVisit 1h0m0s, TouchInterval 15s"},
		{session.Config{IdleTimeout: 10e3}, "FirstVisit 1h0m0s, TouchInterval 2µs"},
		{session.Config{FirstVisit: 100e9}, "FirstVisit 1m40s, TouchInterval 25s"},
	} {
		cfg, err := c.cfg.WithDefaults()
		if got := fmt.Sprintf("FirstVisit %v, TouchInterval %v", cfg.FirstVisit, cfg.TouchInterval); err != nil || got != c.want {
			t.Errorf("%s, want %s (%v)", got, c.want, err)
		}
	}
}
