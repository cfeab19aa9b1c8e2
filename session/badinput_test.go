package session_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/crumb-go/crumb/session"
)

// rewrap returns a request like r with the given Cookie lines.
func rewrap(r *http.Request, lines ...string) *http.Request {
	r = r.Clone(r.Context())
	r.Header["Cookie"] = lines
	return r
}

func TestCookie(t *testing.T) {
	overBoth(t, "over TLS it is __Host-crumb, 43 characters, Secure, HttpOnly, SameSite=Lax, Path=/", func(t *testing.T, http2 bool) {
		st := newSite(t, http2, handle(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/visitor":
				theme.Set(s, "x")
			case "/user":
				s.SignIn("ann")
			case "/remember":
				s.SignIn("ann")
				s.Remember()
			case "/out":
				s.SignOut()
			}
		}))
		for _, step := range []struct {
			path   string
			maxAge string
		}{
			{"/visitor", "; Max-Age=15552000"}, {"/user", ""}, {"/remember", "; Max-Age=2592000"}, {"/out", "; Max-Age=0"},
		} {
			a := st.get(step.path)
			lines := a.Header["Set-Cookie"]
			if len(lines) != 1 {
				t.Fatal(step.path, lines)
			}
			value := ""
			if step.path != "/out" {
				if value = a.cookie().Value; len(value) != 43 || strings.ContainsFunc(value, func(c rune) bool {
					return !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", c)
				}) {
					t.Errorf("%s: value %q", step.path, value)
				}
			}
			if want := "__Host-crumb=" + value + "; Path=/; HttpOnly; Secure; SameSite=Lax" + step.maxAge; lines[0] != want {
				t.Errorf("%s: %s, want %s", step.path, lines[0], want)
			}
		}
	})
	t.Run("a visitor who signs in trades the lasting cookie for one that goes with the browser", func(t *testing.T) {
		b := newWorld(t, session.Config{}).browser()
		b.visit(func(s *session.Session) { theme.Set(s, "x") })
		a := b.visit(func(s *session.Session) { s.SignIn("ann") })
		if strings.Contains(a.Header.Get("Set-Cookie"), "Max-Age") || strings.Contains(a.Header.Get("Set-Cookie"), "Expires") {
			t.Error(a.Header)
		}
	})
	t.Run("no two visitors get the same token or ID", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		seen := map[string]bool{}
		for range 2000 {
			tok := w.browser().visit(func(s *session.Session) { hits.Add(s, 1) }).cookie().Value
			if seen[tok] || seen[tok[:16]] || seen[tok[16:]] {
				t.Fatal("twice: ", tok)
			}
			seen[tok], seen[tok[:16]], seen[tok[16:]] = true, true, true
		}
	})
}

func TestBadCookies(t *testing.T) {
	w := newWorld(t, session.Config{})
	b := w.browser()
	b.visit(func(s *session.Session) { s.SignIn("ann"); theme.Set(s, "hers") })
	other := w.browser()
	other.visit(func(s *session.Session) { s.SignIn("bob") })
	tok, tok2 := b.token(), other.token()

	// who asks with these Cookie lines, and what it costs.
	ask := func(lines ...string) (user string) {
		t.Helper()
		w.store.forget()
		_ = w.events.kinds()
		a := serve(w.Handler(do(func(s *session.Session) {
			user = s.User()
			if s.User() == "" && (theme.Get(s) != "" || s.ID() != "" || s.Err() != nil) {
				t.Errorf("%.80q: not empty", lines)
			}
		})), rewrap(b.request(), lines...))
		if a.StatusCode != 200 || a.Header["Set-Cookie"] != nil {
			t.Errorf("%.80q: %d %v", lines, a.StatusCode, a.Header)
		}
		return user
	}
	t.Run("malformed cookies are anonymous and read nothing from the store", func(t *testing.T) {
		last := map[byte]string{}
		const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
		for i := range len(alphabet) { // the last character has two bits to spare
			if i%4 != 0 {
				last[alphabet[i]] = tok[:42] + alphabet[i:i+1]
			}
		}
		values := map[string]string{
			"empty": "", "a blank": " ", "one character": "A", "a character too few": tok[:42], "a character too many": tok + "A",
			"padded": tok + "=", "quoted": `"` + tok + `"`, "with a blank in front": " " + tok, "with a tab": "\t" + tok,
			"twice in one": tok + tok, "ID alone": tok[:16], "with a line break inside": tok[:20] + "\n" + tok[21:], "and one more": tok[:20] + "\r\n" + tok[20:],
			"standard base64": tok[:41] + "+/", "SQL": "' OR 1=1; DROP TABLE crumb_session;--"[:36] + "AAAAAAA",
			"Redis": "*1\r\n$8\r\nFLUSHALL\r\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"[:43], "path": "../../../../../../../../etc/passwd/AAAAAAAAA"[:43],
			"NUL": tok[:42] + "\x00", "bad UTF-8": tok[:42] + "\xff", "percent-encoded": "%41" + tok[1:41], "5 KB": strings.Repeat("A", 5<<10), "100 KB": strings.Repeat("A", 100<<10),
			"a token and 100 KB": tok + strings.Repeat("A", 100<<10), "comma": tok + "," + tok2,
		}
		for c, v := range last {
			values["a last character with spare bits, "+string(c)] = v
		}
		for name, v := range values {
			if user := ask(cookieName + "=" + v); user != "" || w.store.count() != 0 {
				t.Errorf("%s: user %q, %d store calls", name, user, w.store.count())
			}
			if name == "a blank" || name == "empty" {
				continue // nothing worth an event, or malformed: either is right
			}
			if got := w.events.kinds(); got != "rejected:malformed" && got != "rejected:ambiguous" {
				t.Errorf("%s: events %q", name, got)
			}
		}
	})
	t.Run("the right cookie works among others, however they are laid out", func(t *testing.T) {
		for _, lines := range [][]string{
			{cookieName + "=" + tok}, {"a=b; " + cookieName + "=" + tok + "; c=d"}, {"a=b", cookieName + "=" + tok}, {"a=b;" + cookieName + "=" + tok + ";c=d"},
			{"  " + cookieName + "=" + tok + "  "}, {";;; " + cookieName + "=" + tok + ";"}, {"novalue; " + cookieName + "=" + tok}, {cookieName + "2=x; x" + cookieName + "=y; " + cookieName + "=" + tok},
			{cookieName + "; " + cookieName + "=" + tok}, {strings.Repeat("x=y; ", 20_000) + cookieName + "=" + tok},
		} {
			if user := ask(lines...); user != "ann" {
				t.Errorf("%.80q: %q", lines, user)
			}
		}
	})
	t.Run("two different values are anonymous and logged, whichever comes first, on one line or two", func(t *testing.T) {
		for _, lines := range [][]string{
			{cookieName + "=" + tok + "; " + cookieName + "=" + tok2}, {cookieName + "=" + tok2 + "; " + cookieName + "=" + tok},
			{cookieName + "=" + tok, cookieName + "=" + tok2}, {cookieName + "=" + tok + "; " + cookieName + "="}, {cookieName + "=; " + cookieName + "=" + tok},
			{cookieName + "=" + tok + "; " + cookieName + "=rubbish"}, {cookieName + "=" + tok + "; " + cookieName + "=\"" + tok + "\""},
			{cookieName + "=" + tok + "; " + cookieName + "=" + tok + "; " + cookieName + "=" + tok2},
		} {
			if user := ask(lines...); user != "" || w.store.count() != 0 {
				t.Errorf("%q: %q, %d store calls", lines, user, w.store.count())
			}
			if got := w.events.kinds(); got != "rejected:ambiguous" {
				t.Errorf("%q: %q", lines, got)
			}
		}
		if !strings.Contains(w.log.String(), "different values") {
			t.Error("not logged")
		}
	})
	t.Run("the same value twice is one cookie", func(t *testing.T) {
		if user := ask(cookieName+"="+tok+"; "+cookieName+"="+tok, cookieName+"="+tok); user != "ann" {
			t.Error(user)
		}
	})
	t.Run("a name in another case, or another name, is another cookie", func(t *testing.T) {
		for _, name := range []string{"__host-crumb", "__HOST-CRUMB", "crumb", "__Secure-crumb", "__Host-crumb-v", "_Host-crumb", "__Host-crum"} {
			if user := ask(name + "=" + tok); user != "" || w.store.count() != 0 {
				t.Errorf("%s: %q", name, user)
			}
		}
	})
	t.Run("any byte of the cookie changed is anonymous", func(t *testing.T) {
		for i := range len(tok) {
			for _, c := range []byte{'A', 'B', 'x', '0', '-', '_', tok[i] ^ 1, tok[i] ^ 0x20, ' ', 0, 0xff, ';', '=', '"'} {
				if c == tok[i] {
					continue
				}
				changed := tok[:i] + string([]byte{c}) + tok[i+1:]
				if user := ask(cookieName + "=" + changed); user != "" {
					t.Fatalf("byte %d of %s as %q: %q", i, tok, c, user)
				}
			}
		}
	})
	t.Run("one's ID with another's secret is anonymous", func(t *testing.T) {
		if user := ask(cookieName + "=" + tok[:16] + tok2[16:]); user != "" {
			t.Error(user)
		}
	})
	t.Run("a token in URL, form, body or another header is ignored", func(t *testing.T) {
		var user string
		h := w.Handler(page(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			_ = r.ParseForm()
			user += s.User()
		}))
		w.store.forget()
		form := "token=" + tok + "&" + cookieName + "=" + tok + "&session=" + tok
		r := httptest.NewRequest("POST", "/"+tok+"?"+form+"#"+tok, strings.NewReader(form))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		for _, name := range []string{"Authorization", "X-Session", "X-Session-Token", "X-Auth-Token", "Cookie2", "Set-Cookie", "X-Cookie", cookieName, "Referer"} {
			r.Header.Set(name, cookieName+"="+tok)
		}
		r.Header.Set("Authorization", "Bearer "+tok)
		r.Header["cookie"] = []string{cookieName + "=" + tok} // no server makes such a key
		if serve(h, r); user != "" || w.store.count() != 0 {
			t.Error(user, w.store.count())
		}
	})
	t.Run("an unknown well-formed token is counted and never adopted", func(t *testing.T) {
		planted := strings.Repeat("A", 43)
		w.store.forget()
		_ = w.events.kinds()
		a := serve(w.Handler(do(func(s *session.Session) { theme.Set(s, "x") })), rewrap(b.request(), cookieName+"="+planted))
		if c := a.cookie(); c == nil || c.Value == planted || c.Value[:16] == planted[:16] || c.Value[16:] == planted[16:] {
			t.Error(a.Header)
		}
		if got := w.events.kinds(); got != "rejected:unknown created" {
			t.Error(got)
		}
		if ask(cookieName+"="+planted) != "" {
			t.Error("adopted")
		}
		if n := w.store.writes(); n != 0 {
			t.Error(n, "writes by a request that only asks")
		}
	})
}

func TestBadCookiesOverTheWire(t *testing.T) {
	overBoth(t, "5 KB and 100 KB cookies are served as anonymous", func(t *testing.T, http2 bool) {
		st := newSite(t, http2, handle(func(s *session.Session, w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "%q", s.User()) }))
		for _, n := range []int{5 << 10, 100 << 10} {
			r := st.request("GET", "/")
			r.Header.Set("Cookie", cookieName+"="+strings.Repeat("A", n))
			if a := st.do(r); a.StatusCode != 200 || a.body != `""` {
				t.Error(n, a.StatusCode, a.body)
			}
		}
		if n := st.store.count(); n != 0 {
			t.Error(n, "store calls")
		}
	})
	overBoth(t, "cookies in several header lines are all seen", func(t *testing.T, http2 bool) {
		st := newSite(t, http2, handle(func(s *session.Session, w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%q", theme.Get(s))
		}))
		tok := st.get("/start").cookie().Value
		st.client.Jar = nil
		r := st.request("GET", "/")
		r.Header["Cookie"] = []string{"a=b", cookieName + "=" + tok, "c=d"}
		if a := st.do(r); a.body != `"first"` {
			t.Error(a.body)
		}
		r.Header["Cookie"] = []string{cookieName + "=" + tok, cookieName + "=" + tok[:42] + "A", "c=d"}
		if a := st.do(r); tok[42] != 'A' && a.body != `""` {
			t.Error(a.body)
		}
	})
}

func TestUserAgent(t *testing.T) {
	w := newWorld(t, session.Config{})
	for name, c := range map[string]struct{ agent, want string }{
		"none":                           {"", ""},
		"an ordinary one":                {"Mozilla/5.0", "Mozilla/5.0"},
		"256 bytes stay whole":           {strings.Repeat("a", 256), strings.Repeat("a", 256)},
		"257 bytes are cut":              {strings.Repeat("a", 257), strings.Repeat("a", 256)},
		"1 MB is cut":                    {strings.Repeat("a", 1<<20), strings.Repeat("a", 256)},
		"a cut never splits a character": {strings.Repeat("a", 255) + "é", strings.Repeat("a", 255)},
		"four-byte characters neither":   {strings.Repeat("😀", 1000), strings.Repeat("😀", 64)},
		"bad UTF-8 is mended":            {"a\xffb", "a\uFFFDb"},
		"1 MB of bad UTF-8":              {strings.Repeat("\xff", 1<<20), "\uFFFD"},
		"NUL is mended":                  {"a\x00b", "a\uFFFDb"},
		"256 NUL":                        {strings.Repeat("\x00", 256), strings.Repeat("\uFFFD", 85)},
	} {
		t.Run(name, func(t *testing.T) {
			r := w.browser().request()
			r.Header.Set("User-Agent", c.agent)
			if c.agent == "" {
				r.Header.Del("User-Agent")
			}
			var got string
			a := serve(w.Handler(page(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
				hits.Add(s, 1)
				if err := s.Commit(r.Context()); err != nil {
					t.Error(err)
				}
				got = s.Info().Agent
			})), r)
			if a.StatusCode != 200 || got != c.want || !utf8.ValidString(got) || len(got) > 256 {
				t.Errorf("%d %q", a.StatusCode, got)
			}
		})
	}
	overBoth(t, "a long one is served over the wire", func(t *testing.T, http2 bool) {
		st := newSite(t, http2, handle(func(s *session.Session, w http.ResponseWriter, r *http.Request) {
			hits.Add(s, 1)
			_ = s.Commit(r.Context())
			fmt.Fprint(w, len(s.Info().Agent))
		}))
		r := st.request("GET", "/")
		r.Header.Set("User-Agent", strings.Repeat("é", 200<<10))
		if a := st.do(r); a.body != "256" {
			t.Error(a.StatusCode, a.body)
		}
	})
}

func TestClientAddress(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, c := range []struct {
		name    string
		remote  string
		header  string
		lines   []string
		trusted []netip.Prefix
		want    string
	}{
		{"no header", "192.0.2.1:1234", "", nil, trusted, "192.0.2.1"},
		{"from nobody it is ignored", "192.0.2.1:1234", "", []string{"198.51.100.7"}, nil, "192.0.2.1"},
		{"from a stranger it is ignored", "192.0.2.1:1234", "", []string{"198.51.100.7"}, trusted, "192.0.2.1"},
		{"from loopback it is ignored unless trusted", "127.0.0.1:1234", "", []string{"198.51.100.7"}, nil, "127.0.0.1"},
		{"from a trusted proxy it counts", "10.0.0.1:1234", "", []string{"198.51.100.7"}, trusted, "198.51.100.7"},
		{"of a chain the rightmost stranger counts", "10.0.0.1:1234", "", []string{"1.1.1.1, 198.51.100.7, 10.9.9.9"}, trusted, "198.51.100.7"},
		{"several lines are one list", "10.0.0.1:1234", "", []string{"1.1.1.1", "198.51.100.7", "10.9.9.9"}, trusted, "198.51.100.7"},
		{"several lines and lists", "10.0.0.1:1234", "", []string{"1.1.1.1, 198.51.100.7", "10.8.8.8, 10.9.9.9"}, trusted, "198.51.100.7"},
		{"all trusted is the leftmost", "10.0.0.1:1234", "", []string{"10.1.1.1, 10.2.2.2"}, trusted, "10.1.1.1"},
		{"garbage ends the search at the last that was sure", "10.0.0.1:1234", "", []string{"198.51.100.7, rubbish, 10.9.9.9"}, trusted, "10.9.9.9"},
		{"garbage at once leaves the proxy", "10.0.0.1:1234", "", []string{"198.51.100.7, unknown"}, trusted, "10.0.0.1"},
		{"an empty header leaves the proxy", "10.0.0.1:1234", "", []string{""}, trusted, "10.0.0.1"},
		{"an empty entry leaves the proxy", "10.0.0.1:1234", "", []string{"198.51.100.7,"}, trusted, "10.0.0.1"},
		{"no blanks", "10.0.0.1:1234", "", []string{"1.1.1.1,198.51.100.7"}, trusted, "198.51.100.7"},
		{"IPv6", "[fd00::1]:1234", "", []string{"2001:db8::7"}, trusted, "2001:db8::7"},
		{"IPv6 with brackets and port", "[fd00::1]:1234", "", []string{"[2001:db8::7]:99"}, trusted, "2001:db8::7"},
		{"IPv6 with brackets", "[fd00::1]:1234", "", []string{"[2001:db8::7]"}, trusted, "2001:db8::7"},
		{"IPv4 with a port", "10.0.0.1:1234", "", []string{"198.51.100.7:99"}, trusted, "198.51.100.7"},
		{"IPv4 written as IPv6 is IPv4", "[::ffff:10.0.0.1]:1234", "", []string{"::ffff:198.51.100.7"}, trusted, "198.51.100.7"},
		{"a zone is left out", "[fe80::1%eth0]:1234", "", nil, nil, "fe80::1"},
		{"a header of one's own", "10.0.0.1:1234", "cf-connecting-ip", []string{"198.51.100.7"}, trusted, "198.51.100.7"},
		{"no RemoteAddr", "", "", []string{"198.51.100.7"}, trusted, "invalid IP"},
		{"a unix socket", "@", "", []string{"198.51.100.7"}, trusted, "invalid IP"},
		{"a very long list", "10.0.0.1:1234", "", []string{strings.Repeat("10.1.1.1,", 100_000) + "10.2.2.2"}, trusted, "10.1.1.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, session.Config{TrustedProxies: c.trusted, AddrHeader: c.header})
			r := w.browser().request()
			r.RemoteAddr = c.remote
			name := "X-Forwarded-For"
			if c.header != "" {
				name = http.CanonicalHeaderKey(c.header)
				r.Header.Set("X-Forwarded-For", "203.0.113.1")
			}
			r.Header[name] = c.lines
			r.Header.Set("X-Real-Ip", "203.0.113.2")
			r.Header.Set("Forwarded", "for=203.0.113.3")
			var got netip.Addr
			serve(w.Handler(page(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
				hits.Add(s, 1)
				_ = s.Commit(r.Context())
				got = s.Info().Addr
			})), r)
			if got.String() != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
	t.Run("Secure is never decided by a header", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		r := httptest.NewRequest("GET", "http://example.org/", nil)
		r.Header.Set("X-Forwarded-Proto", "http")
		a := serve(w.Handler(do(func(s *session.Session) { hits.Add(s, 1) })), r)
		if c := a.cookie(); c == nil || !c.Secure {
			t.Error(a.Header)
		}
	})
	t.Run("a move is noted, one within an IPv6 /64 is not", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		at := func(remote string) string {
			r := b.request()
			r.RemoteAddr = remote
			var got netip.Addr
			b.receive(serve(w.Handler(page(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
				hits.Add(s, 1)
				_ = s.Commit(r.Context())
				got = s.Info().Addr
			})), r))
			return got.String()
		}
		for _, step := range [][2]string{
			{"[2001:db8::1]:1", "2001:db8::1"}, {"[2001:db8::ffff:1]:1", "2001:db8::1"}, {"[2001:db8:0:1::1]:1", "2001:db8:0:1::1"}, {"192.0.2.1:1", "192.0.2.1"}, {"192.0.2.2:1", "192.0.2.2"},
		} {
			if got := at(step[0]); got != step[1] {
				t.Errorf("%s is noted as %s, want %s", step[0], got, step[1])
			}
		}
	})
}

type stubborn struct{ panics bool }

var errStubborn = errors.New("it will not be written")

func (s stubborn) MarshalJSON() ([]byte, error) {
	if s.panics {
		panic(errStubborn)
	}
	return nil, errStubborn
}

type loop struct{ Next *loop }

// valueError sends p with the browser's cookie and fails the test unless it was
// refused before any I/O, with 500 and nothing kept.
func wantRefused(t *testing.T, w *world, b *browser, key string, p page) {
	t.Helper()
	w.store.forget()
	a := b.get(func(s *session.Session, w http.ResponseWriter, r *http.Request) {
		hits.Add(s, 1)
		note.Set(s, "beside it")
		p(s, w, r)
		fmt.Fprint(w, "the page")
	})
	if a.StatusCode != 500 || strings.Contains(a.body, "the page") || a.Header["Set-Cookie"] != nil || a.Header.Get("Retry-After") != "" {
		t.Errorf("%d %q %v", a.StatusCode, a.body, a.Header)
	}
	if strings.Contains(a.body, key) {
		t.Errorf("the visitor is told %q", a.body)
	}
	if n := w.store.writes(); n != 0 {
		t.Error(n, "writes")
	}
	if !strings.Contains(w.log.String(), key) {
		t.Errorf("the log does not name %s", key)
	}
	if read(b, hits.Key) != 0 || read(b, note) != "" {
		t.Error("part of the request was kept")
	}
}

func TestValuesThatCannotBeKept(t *testing.T) {
	w := newWorld(t, session.Config{})
	known := w.browser()
	known.visit(func(s *session.Session) { theme.Set(s, "first") })
	any1 := session.NewKey[any]("bad.value")
	bad := map[string]func(s *session.Session){
		"NaN":               func(s *session.Session) { session.NewKey[float64]("bad.value").Set(s, math.NaN()) },
		"infinity":          func(s *session.Session) { any1.Set(s, math.Inf(-1)) },
		"a func":            func(s *session.Session) { session.NewKey[func()]("bad.value").Set(s, func() {}) },
		"a channel":         func(s *session.Session) { any1.Set(s, make(chan int)) },
		"a complex number":  func(s *session.Session) { any1.Set(s, 1i) },
		"a map with a func": func(s *session.Session) { any1.Set(s, map[string]any{"x": func() {}}) },
		"a circle": func(s *session.Session) {
			l := &loop{}
			l.Next = l
			session.NewKey[*loop]("bad.value").Set(s, l)
		},
		"a MarshalJSON that fails": func(s *session.Session) { session.NewKey[stubborn]("bad.value").Set(s, stubborn{}) },
		"JSON that is none": func(s *session.Session) {
			session.NewKey[json.RawMessage]("bad.value").Set(s, json.RawMessage(`{"a":`))
		},
		"10 MB":                    func(s *session.Session) { any1.Set(s, strings.Repeat("x", 10<<20)) },
		"10 MB in bytes":           func(s *session.Session) { session.NewKey[[]byte]("bad.value").Set(s, make([]byte, 10<<20)) },
		"a sum too big":            func(s *session.Session) { c := session.NewCounter("bad.value"); c.Add(s, math.MaxInt64); c.Add(s, 1) },
		"a sum too small":          func(s *session.Session) { c := session.NewCounter("bad.value"); c.Add(s, math.MinInt64); c.Add(s, -1) },
		"an overflow over a set":   func(s *session.Session) { c := session.NewCounter("bad.value"); c.Set(s, math.MaxInt64); c.Add(s, 1) },
		"a bad value, then a good": func(s *session.Session) { any1.Set(s, math.NaN()); any1.Set(s, 1) },
	}
	for name, set := range bad {
		t.Run(name+" fails the commit before any I/O", func(t *testing.T) {
			wantRefused(t, w, known, "bad.value", do(set))
			wantRefused(t, w, w.browser(), "bad.value", do(set))
			if w.store.count("Load") > 20 {
				t.Error("too many loads")
			}
			if got := read(known, theme); got != "first" {
				t.Error("the session was harmed:", got)
			}
		})
		t.Run(name+" is returned by Commit, and what comes after it is kept", func(t *testing.T) {
			b := w.browser()
			a := b.get(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
				hits.Add(s, 1)
				set(s)
				var ve *session.ValueError
				if err := s.Commit(r.Context()); !errors.As(err, &ve) || ve.Key != "bad.value" || ve.Error() == "" {
					t.Error(err)
				}
				note.Set(s, "after")
			})
			if a.StatusCode != 200 || read(b, hits.Key) != 0 || read(b, note) != "after" {
				t.Error(a.StatusCode, read(b, hits.Key), read(b, note))
			}
		})
	}
	t.Run("Update returns what its function made wrong, and writes nothing", func(t *testing.T) {
		b := w.browser()
		b.get(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			var ve *session.ValueError
			if _, err := any1.Update(r.Context(), s, func(any) (any, error) { return math.NaN(), nil }); !errors.As(err, &ve) || ve.Key != "bad.value" {
				t.Error(err)
			}
			if _, err := any1.Update(r.Context(), s, func(any) (any, error) { return strings.Repeat("x", 1<<20), nil }); !errors.As(err, &ve) || ve.Key != "bad.value" {
				t.Error(err)
			}
			if _, err := any1.Update(r.Context(), s, func(any) (any, error) { return 1, io.EOF }); err != io.EOF {
				t.Error(err)
			}
		})
		if b.token() != "" {
			t.Error("a session was made")
		}
	})
	t.Run("a panic in MarshalJSON passes through and leaves the session usable", func(t *testing.T) {
		b := w.browser()
		b.get(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			func() {
				defer func() {
					if v := recover(); v != errStubborn {
						t.Error(v)
					}
				}()
				session.NewKey[stubborn]("bad.value").Set(s, stubborn{panics: true})
			}()
			hits.Add(s, 1)
		})
		if got := read(b, hits.Key); got != 1 {
			t.Error(got)
		}
	})
	t.Run("a panic in the function of Update passes through and leaves the session usable", func(t *testing.T) {
		b := w.browser()
		b.get(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			func() {
				defer func() {
					if v := recover(); v != errStubborn {
						t.Error(v)
					}
				}()
				_, _ = note.Update(r.Context(), s, func(string) (string, error) { panic(errStubborn) })
			}()
			hits.Add(s, 1)
		})
		if got := read(b, hits.Key); got != 1 {
			t.Error(got)
		}
	})
	// What a key costs is counted in bytes allocated, which a busy machine does not
	// change: were each to look at all before it, they would be thousands.
	const keyCount = 50_000
	for name, f := range map[string]func(s *session.Session, i int){
		"Set":    func(s *session.Session, i int) { theme.At(fmt.Sprint(i)).Set(s, "x") },
		"Add":    func(s *session.Session, i int) { hits.At(fmt.Sprint(i)).Add(s, 1) },
		"Delete": func(s *session.Session, i int) { theme.At(fmt.Sprint(i)).Delete(s) },
		"Get":    func(s *session.Session, i int) { theme.At(fmt.Sprint(i)).Get(s) },
		"one":    func(s *session.Session, i int) { hits.Add(s, 1) },
	} {
		t.Run("keys without end: "+name+" allocates the same each", func(t *testing.T) {
			b := w.browser()
			b.visit(func(s *session.Session) { theme.Set(s, "first") })
			w.store.forget()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			a := b.visit(func(s *session.Session) {
				for i := range keyCount {
					f(s, i)
				}
			})
			runtime.ReadMemStats(&after)
			if each := (after.TotalAlloc - before.TotalAlloc) / keyCount; each > 1000 {
				t.Errorf("%d bytes each", each)
			}
			if refused := name != "Get" && name != "one"; (a.StatusCode == 500) != refused || refused && w.store.writes() != 0 {
				t.Error(a.StatusCode, w.store.writes())
			}
		})
	}
	t.Run("a million elements in one value", func(t *testing.T) {
		wantRefused(t, w, known, "bad.list", do(func(s *session.Session) { session.NewKey[[]int]("bad.list").Set(s, make([]int, 1_000_000)) }))
	})
}

func TestValuesThatAreKept(t *testing.T) {
	w := newWorld(t, session.Config{})
	raw := session.NewKey[json.RawMessage]("odd.raw")
	for _, text := range []string{
		`"a\u0000b"`, `9223372036854775807`, `-9223372036854775808`, `9007199254740993`, `123456789012345678901234567890`, `1e400`, `0.1`, `-0`, `[]`, `{}`, `null`, `""`,
		`[[],{},null]`, `"\ud800"`, `{"b":1,"a":2,"a":3}`, `"é😀"`, `"\u003cscript\u003e"`, `true`,
	} {
		b := w.browser()
		b.visit(func(s *session.Session) { raw.Set(s, json.RawMessage(text)) })
		b.send(do(func(s *session.Session) {
			if got, ok := raw.Lookup(s); !ok && text != "null" || string(got) != text {
				t.Errorf("%s came back as %s, %v", text, got, ok)
			}
		}))
	}
	t.Run("strings with NUL, the largest numbers, empty and nil lists and maps come back as they were", func(t *testing.T) {
		text, num := session.NewKey[string]("odd.text"), session.NewKey[int64]("odd.num")
		list, dict, ptr := session.NewKey[[]string]("odd.list"), session.NewKey[map[string]int]("odd.dict"), session.NewKey[*int]("odd.ptr")
		nilList, nilDict, when := list.At("nil"), dict.At("nil"), session.NewKey[time.Time]("odd.when")
		at := time.Date(2026, 2, 28, 23, 59, 59, 123456789, time.UTC)
		b := w.browser()
		b.visit(func(s *session.Session) {
			text.Set(s, "a\x00b\u2028<>&\x7f\t\"\\é😀")
			num.Set(s, math.MinInt64)
			list.Set(s, []string{})
			dict.Set(s, map[string]int{})
			nilList.Set(s, nil)
			nilDict.Set(s, nil)
			ptr.Set(s, nil)
			when.Set(s, at)
		})
		b.send(do(func(s *session.Session) {
			if got := text.Get(s); got != "a\x00b\u2028<>&\x7f\t\"\\é😀" {
				t.Errorf("%q", got)
			}
			if num.Get(s) != math.MinInt64 || !when.Get(s).Equal(at) {
				t.Error(num.Get(s), when.Get(s))
			}
			if l, ok := list.Lookup(s); !ok || l == nil || len(l) != 0 {
				t.Error(l, ok)
			}
			if d, ok := dict.Lookup(s); !ok || d == nil {
				t.Error(d, ok)
			}
			if l, ok := nilList.Lookup(s); !ok || l != nil {
				t.Error(l, ok)
			}
			if d, ok := nilDict.Lookup(s); !ok || d != nil {
				t.Error(d, ok)
			}
			if p, ok := ptr.Lookup(s); !ok || p != nil {
				t.Error(p, ok)
			}
		}))
	})
	t.Run("a string that is no UTF-8 is kept as JSON keeps it", func(t *testing.T) {
		b := w.browser()
		b.visit(func(s *session.Session) { theme.Set(s, "a\xffb") })
		if got := read(b, theme); got != "a\uFFFDb" {
			t.Errorf("%q", got)
		}
	})
	t.Run("Get returns a copy of its own, and Set keeps one", func(t *testing.T) {
		dict, list := session.NewKey[map[string][]int]("odd.dict"), session.NewKey[[]byte]("odd.bytes")
		b := w.browser()
		b.visit(func(s *session.Session) {
			m, l, j := map[string][]int{"a": {1}}, []byte("abc"), json.RawMessage(`[1]`)
			dict.Set(s, m)
			list.Set(s, l)
			raw.Set(s, j)
			m["a"][0], l[0], j[1] = 9, 'X', '9'
		})
		for range 2 {
			b.visit(func(s *session.Session) {
				for range 2 {
					m, l, j := dict.Get(s), list.Get(s), raw.Get(s)
					if m["a"][0] != 1 || string(l) != "abc" || string(j) != "[1]" {
						t.Error(m, string(l), string(j))
					}
					m["a"][0], m["b"], l[0], j[1] = 2, nil, 'X', '2'
				}
			})
		}
	})
	t.Run("Set of an unchanged value writes nothing", func(t *testing.T) {
		dict := session.NewKey[map[string]int]("odd.dict")
		b := w.browser()
		set := func(s *session.Session) {
			theme.Set(s, "<x>")
			hits.Set(s, 5)
			dict.Set(s, map[string]int{"a": 1, "b": 2, "c": 3})
		}
		b.visit(set)
		b.visit(func(*session.Session) {}) // the cookie has come back: one Update
		w.store.forget()
		b.visit(set)
		b.visit(func(s *session.Session) {
			note.Delete(s)
			s.Clear("nothing")
			hits.Add(s, 0)
			hits.Add(s, 1)
			hits.Set(s, 5)
		})
		if n := w.store.writes(); n > 1 {
			t.Error(n, "writes")
		}
		w.store.forget()
		b.visit(func(s *session.Session) { theme.Set(s, "<y>") })
		if n := w.store.writes(); n != 1 {
			t.Error(n, "writes of a changed value")
		}
	})
	t.Run("a value that cannot be decoded counts as absent, is logged once and harms nothing else", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		type old struct{ A int }
		before, after := session.NewKey[old]("odd.type"), session.NewKey[int]("odd.type")
		b := w.browser()
		b.visit(func(s *session.Session) { before.Set(s, old{1}); theme.Set(s, "kept") })
		for range 3 {
			a := b.get(func(s *session.Session, w http.ResponseWriter, _ *http.Request) {
				if v, ok := after.Lookup(s); ok || v != 0 || after.Get(s) != 0 {
					t.Error(v, ok)
				}
				fmt.Fprint(w, theme.Get(s))
			})
			if a.StatusCode != 200 || a.body != "kept" {
				t.Error(a.StatusCode, a.body)
			}
		}
		if n := strings.Count(w.log.String(), "odd.type"); n != 1 {
			t.Errorf("logged %d times:\n%s", n, w.log)
		}
		b.visit(func(s *session.Session) {
			if _, ok := after.Pop(s); ok {
				t.Error("popped")
			}
			after.Set(s, 7)
		})
		if read(b, after) != 7 {
			t.Error("a new value does not replace it")
		}
		b.visit(func(s *session.Session) { before.Set(s, old{2}) })
		b.get(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			if v, err := after.Update(r.Context(), s, func(n int) (int, error) { return n + 1, nil }); v != 1 || err != nil {
				t.Error(v, err)
			}
			before.Set(s, old{3})
			if v, ok, err := after.Take(r.Context(), s); v != 0 || ok || err != nil {
				t.Error(v, ok, err)
			}
		})
	})
	t.Run("keys without end that cannot be decoded do not fill the log", func(t *testing.T) {
		w := newWorld(t, session.Config{MaxBytes: 1 << 20})
		text, num := session.NewKey[string]("odd.many"), session.NewKey[int]("odd.many")
		b := w.browser()
		b.visit(func(s *session.Session) {
			for i := range 1200 {
				text.At(fmt.Sprint(i)).Set(s, "x")
			}
		})
		b.visit(func(s *session.Session) {
			for i := range 1200 {
				num.At(fmt.Sprint(i)).Get(s)
			}
		})
		if n := strings.Count(w.log.String(), "odd.many"); n > 1000 {
			t.Error("logged", n, "times")
		}
	})
}

func TestMaxBytes(t *testing.T) {
	const limit = 1000
	part := session.NewKey[string]("max.part") // 8 bytes
	fill := func(n int) string { return strings.Repeat("x", n-len("max.part")-2) }
	t.Run("the last byte fits, one more does not", func(t *testing.T) {
		w := newWorld(t, session.Config{MaxBytes: limit})
		b := w.browser()
		wantRefused(t, w, b, "max.part", do(func(s *session.Session) { part.Set(s, fill(limit+1)) }))
		if a := b.visit(func(s *session.Session) { part.Set(s, fill(limit)) }); a.StatusCode != 200 {
			t.Fatal(a.StatusCode)
		}
		if got := read(b, part); got != fill(limit) {
			t.Error(len(got))
		}
		w.store.forget()
		for name, f := range map[string]func(s *session.Session){
			"a longer value": func(s *session.Session) { part.Set(s, fill(limit+1)) },
			"another key":    func(s *session.Session) { theme.Set(s, "") },
			"a counter":      func(s *session.Session) { hits.Add(s, 1) },
		} {
			if a := b.visit(f); a.StatusCode != 500 || w.store.writes() != 0 {
				t.Errorf("%s: %d, %d writes", name, a.StatusCode, w.store.writes())
			}
		}
		for name, f := range map[string]func(s *session.Session){
			"as long":                   func(s *session.Session) { part.Set(s, strings.Repeat("y", limit-10)) },
			"one grows as another goes": func(s *session.Session) { part.Delete(s); theme.Set(s, strings.Repeat("x", limit-12)) },
			"cleared, then as long":     func(s *session.Session) { s.Clear("test"); part.Set(s, fill(limit)) },
			"many changes, the last fit": func(s *session.Session) {
				part.Set(s, "")
				theme.Set(s, "x")
				theme.Delete(s)
				part.Set(s, fill(limit))
			},
		} {
			if a := b.visit(f); a.StatusCode != 200 {
				t.Errorf("%s: %d", name, a.StatusCode)
			}
			b.visit(func(s *session.Session) { s.Clear("test"); part.Set(s, fill(limit)) })
		}
	})
	t.Run("a counter counts with the digits it has", func(t *testing.T) {
		w := newWorld(t, session.Config{MaxBytes: len("test.hits") + 2})
		b := w.browser()
		for i := range 99 {
			if a := b.visit(func(s *session.Session) { hits.Add(s, 1) }); a.StatusCode != 200 {
				t.Fatal(i, a.StatusCode)
			}
		}
		if a := b.visit(func(s *session.Session) { hits.Add(s, 1) }); a.StatusCode != 500 {
			t.Error(a.StatusCode)
		}
		if got := read(b, hits.Key); got != 99 {
			t.Error(got)
		}
	})
	t.Run("requests at once do not grow past it together", func(t *testing.T) {
		w := newWorld(t, session.Config{MaxBytes: limit})
		b := w.browser()
		b.visit(func(s *session.Session) { theme.Set(s, "x") })
		var kept, refused atomic.Int32
		together(20, func(i int) {
			switch a := b.send(do(func(s *session.Session) { note.At(fmt.Sprintf("k%02d", i)).Set(s, strings.Repeat("x", 85)) })); a.StatusCode { // 100 bytes each
			case 200:
				kept.Add(1)
			case 500:
				refused.Add(1)
			}
		})
		if kept.Load() != 9 || refused.Load() != 11 {
			t.Error(kept.Load(), "kept,", refused.Load(), "refused")
		}
	})
	t.Run("a session over a limit that was lowered can be read and shrunk, not grown", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		b.visit(func(s *session.Session) { part.Set(s, fill(5000)); theme.Set(s, "x") })
		b = b.on(w.another(session.Config{MaxBytes: limit}))
		if got := read(b, part); len(got) != len(fill(5000)) {
			t.Error(len(got))
		}
		if a := b.visit(func(s *session.Session) { hits.Add(s, 1) }); a.StatusCode != 500 {
			t.Error(a.StatusCode)
		}
		if a := b.visit(func(s *session.Session) { part.Set(s, fill(4000)) }); a.StatusCode != 200 {
			t.Error(a.StatusCode)
		}
		if a := b.visit(func(s *session.Session) { part.Delete(s); hits.Add(s, 1) }); a.StatusCode != 200 {
			t.Error(a.StatusCode)
		}
	})
	t.Run("a sign-in that drops the values makes room", func(t *testing.T) {
		w := newWorld(t, session.Config{MaxBytes: limit})
		b := w.browser()
		b.visit(func(s *session.Session) { part.Set(s, fill(limit)) })
		if a := b.visit(func(s *session.Session) { s.SignIn("ann"); theme.Set(s, strings.Repeat("x", 900)) }); a.StatusCode != 200 {
			t.Error(a.StatusCode)
		}
		if a := b.visit(func(s *session.Session) { s.SignOut(); theme.Set(s, strings.Repeat("y", 900)) }); a.StatusCode != 200 {
			t.Error(a.StatusCode)
		}
		if got := read(b, theme); len(got) != 900 || got[0] != 'y' {
			t.Error(len(got))
		}
	})
}

func TestSumsThatOverflowInTheStore(t *testing.T) {
	w := newWorld(t, session.Config{})
	b := w.browser()
	b.visit(func(s *session.Session) { hits.Add(s, math.MaxInt64-10) })
	var refused atomic.Int32
	together(20, func(int) {
		if a := b.send(do(func(s *session.Session) { hits.Add(s, 1) })); a.StatusCode == 500 {
			refused.Add(1)
		}
	})
	if got := read(b, hits.Key); got != math.MaxInt64 || refused.Load() != 10 {
		t.Error(got, refused.Load())
	}
}

func TestUpdateAfterAPopWhoseValueGotASuccessorEnds(t *testing.T) {
	w := newWorld(t, session.Config{})
	b := w.browser()
	b.visit(func(s *session.Session) { note.Set(s, "old") })
	b.get(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
		if v, ok := note.Pop(s); v != "old" || !ok {
			t.Error(v, ok)
		}
		b.visit(func(s *session.Session) { note.Set(s, "new") })
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		defer cancel()
		v, err := note.Update(ctx, s, func(v string) (string, error) { return v + "er", nil })
		if v != "newer" || err != nil {
			t.Error(v, err)
		}
	})
	if got := read(b, note); got != "newer" {
		t.Error(got)
	}
}

func TestASecondUserInOneRequestEndsTheSessionOfTheFirst(t *testing.T) {
	w := newWorld(t, session.Config{})
	b := w.browser()
	b.visit(func(s *session.Session) { s.SignIn("ann"); theme.Set(s, "hers") })
	thief := b.copy()
	b.visit(func(s *session.Session) { s.SignIn("ann"); note.Set(s, "hers too"); s.SignIn("bob") })
	if u := b.user(); u != "bob" {
		t.Error(u)
	}
	if read(b, theme) != "" || read(b, note) != "" {
		t.Error("values of ann in the session of bob")
	}
	w.clock.advance(2 * time.Minute)
	if u := thief.user(); u != "" || w.live() != 1 {
		t.Error(u, w.live())
	}
}

func TestSignInPanicsOnUsersNoStoreCouldKeep(t *testing.T) {
	w := newWorld(t, session.Config{})
	for name, user := range map[string]string{
		"nobody": "", "256 bytes": strings.Repeat("a", 256), "bad UTF-8": "ann\xff", "NUL": "an\x00n", "a line break": "ann\nbob", "CR": "ann\r", "a C1 control": "ann\u0085", "escape": "\x1b[31mann", "DEL": "ann\x7f",
	} {
		b := w.browser()
		b.visit(func(s *session.Session) {
			defer func() {
				if v := recover(); v == nil || !strings.Contains(fmt.Sprint(v), "1 to 255 bytes of UTF-8") || !strings.HasPrefix(fmt.Sprint(v), "session: SignIn(") {
					t.Errorf("%s: %v", name, v)
				}
			}()
			s.SignIn(user)
		})
		if b.token() != "" {
			t.Error(name, "signed in")
		}
	}
	for name, user := range map[string]string{"255 bytes": strings.Repeat("a", 255), "blanks": " ann ", "emoji": "😀", "a number": "42", "quotes": `'"\`} {
		b := w.browser()
		b.visit(func(s *session.Session) { s.SignIn(user) })
		if b.user() != user {
			t.Error(name)
		}
	}
}

func TestOutsideTheMiddleware(t *testing.T) {
	t.Run("From panics and says what to do", func(t *testing.T) {
		defer func() {
			v := fmt.Sprint(recover())
			if !strings.Contains(v, "Manager.Handler") || !strings.Contains(v, "/account") || strings.Contains(v, "secret") {
				t.Error(v)
			}
		}()
		session.From(httptest.NewRequest("GET", "/account?token=secret", nil))
	})
	t.Run("FromContext does not panic", func(t *testing.T) {
		if s, ok := session.FromContext(context.Background()); ok || s != nil {
			t.Error(s, ok)
		}
	})
	t.Run("FromContext finds the session of a derived context", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		w.browser().get(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			type key struct{}
			ctx, cancel := context.WithTimeout(context.WithValue(r.Context(), key{}, "v"), time.Minute)
			defer cancel()
			if got, ok := session.FromContext(ctx); !ok || got != s {
				t.Error(got, ok)
			}
			if got := session.From(r.WithContext(ctx)); got != s {
				t.Error(got)
			}
		})
	})
}
