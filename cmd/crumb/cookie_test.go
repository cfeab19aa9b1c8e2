package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestCookieOverTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pool := certificate(t, dir)
	s := start(t, dir, crumbPath, "--tls-cert=cert.pem", "--tls-key=key.pem")
	s.client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: pool}
	first := s.get("/", "")
	mustSet(t, first, `^__Host-crumb=[A-Za-z0-9_-]{43}; Path=/; HttpOnly; Secure; SameSite=Lax; Max-Age=15552000$`)
	if got := first.Header.Get("Strict-Transport-Security"); got != "max-age=31536000" {
		t.Errorf("HSTS is %q", got)
	}
	if a := s.get("/", first.token()); a.body != views(2) || a.Header.Get("Set-Cookie") != "" {
		t.Errorf("the second visit: %v %q", a.Header, a.body)
	}
	if a := s.get("/", "", "Cookie", "crumb="+first.token()); a.body != views(1) {
		t.Errorf("the development cookie opens a session over TLS: %q", a.body)
	}
	// TLS is enough: the server may be reached under any name, and --insecure does
	// not weaken the cookie.
	if a := s.get("/", "", "Host", "shop.example"); a.StatusCode != 200 {
		t.Errorf("another host is answered %s", a.Status)
	}
	s.stop()
	s = start(t, dir, crumbPath, "--tls-cert=cert.pem", "--tls-key=key.pem", "--insecure")
	mustSet(t, s.get("/", ""), `^__Host-crumb=.*; Secure; `)
}

func TestCookieOverPlainHTTP(t *testing.T) {
	t.Parallel()
	const development = `^crumb=[A-Za-z0-9_-]{43}; Path=/; HttpOnly; SameSite=Lax; Max-Age=15552000$`
	const secure = `^__Host-crumb=[A-Za-z0-9_-]{43}; Path=/; HttpOnly; Secure; SameSite=Lax; Max-Age=15552000$`

	t.Run("this machine gets the development cookie", func(t *testing.T) {
		s := start(t, t.TempDir(), crumbPath)
		mustSet(t, s.get("/", ""), development)
		port := s.url[strings.LastIndex(s.url, ":"):]
		for _, host := range []string{"localhost", "localhost" + port, "LocalHost." + port, "app.localhost", "127.0.0.1", "127.8.9.1" + port, "[::1]" + port, "[::1]"} {
			mustSet(t, s.get("/", "", "Host", host), development)
		}
	})

	t.Run("what may have crossed a network is refused, with a hint", func(t *testing.T) {
		s := start(t, t.TempDir(), crumbPath)
		token := s.visitor()
		for _, h := range [][]string{
			{"Forwarded", "for=192.0.2.1;proto=https"},
			{"X-Forwarded-For", "192.0.2.1"}, {"X-Forwarded-Proto", "https"}, {"X-Forwarded-Host", "shop.example"},
			{"x-forwarded-anything", ""}, {"X-Real-IP", "192.0.2.1"}, {"Via", "1.1 proxy"},
			{"Host", "shop.example"}, {"Host", "shop.example:443"}, {"Host", "localhost.shop.example"}, {"Host", "192.0.2.1"},
			{"Host", "127.0.0.1.nip.example"}, {"Host", "notlocalhost"}, {"Host", "0.0.0.0"},
		} {
			for _, token := range []string{"", token} {
				mustRefuse(t, s.get("/", token, h...))
			}
		}
		// A real proxy, as its users would forget to set up.
		target, _ := url.Parse(s.url)
		proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.SetXForwarded()
		}})
		defer proxy.Close()
		resp, err := http.Get(proxy.URL)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 421 || resp.Header.Get("Set-Cookie") != "" {
			t.Errorf("through a proxy: %s, %v", resp.Status, resp.Header)
		}
		// The health of the server is no session's business.
		if a := s.get("/readyz", "", "X-Forwarded-For", "192.0.2.1"); a.StatusCode != 200 {
			t.Errorf("/readyz is %s", a.Status)
		}
		if a := s.get("/", token); a.body != views(2) {
			t.Errorf("what was refused counted: %q", a.body)
		}
	})

	t.Run("behind a known proxy the cookie is the secure one", func(t *testing.T) {
		s := start(t, t.TempDir(), crumbPath, "--trusted-proxy=127.0.0.1/32", "--public-url=https://shop.example")
		a := s.get("/", "", "Host", "shop.example", "X-Forwarded-For", "192.0.2.7", "X-Forwarded-Proto", "https")
		mustSet(t, a, secure)
		if a.Header.Get("Strict-Transport-Security") == "" {
			t.Error("no HSTS")
		}
		if list := sessions(t, s.cmd.Dir); len(list) != 1 || list[0].Addr != "192.0.2.7" {
			t.Errorf("the visitor's address: %+v", list)
		}
	})
	t.Run("a header of the request never decides", func(t *testing.T) {
		for _, flag := range []string{"--trusted-proxy=192.0.2.0/24", "--public-url=https://shop.example"} {
			s := start(t, t.TempDir(), crumbPath, flag)
			mustSet(t, s.get("/", "", "X-Forwarded-Proto", "http"), secure)
			mustSet(t, s.get("/", "", "X-Forwarded-For", "198.51.100.1"), secure)
			for _, in := range sessions(t, s.cmd.Dir) {
				if in.Addr != "127.0.0.1" {
					t.Errorf("an address was believed: %+v", in)
				}
			}
		}
	})
	t.Run("insecure allows the development cookie from everywhere", func(t *testing.T) {
		s := start(t, t.TempDir(), crumbPath, "--insecure")
		mustSet(t, s.get("/", "", "Host", "shop.example", "X-Forwarded-Proto", "https"), development)
	})
	t.Run("a public URL without TLS changes nothing", func(t *testing.T) {
		s := start(t, t.TempDir(), crumbPath, "--public-url=http://shop.localhost")
		mustRefuse(t, s.get("/", "", "Host", "shop.example"))
		mustSet(t, s.get("/", ""), development)
	})
}

func mustSet(t *testing.T, a answer, pattern string) {
	t.Helper()
	lines := a.Header.Values("Set-Cookie")
	if a.StatusCode != 200 || len(lines) != 1 || !regexp.MustCompile(pattern).MatchString(lines[0]) {
		t.Errorf("answered %s with cookies %q, want one like %s", a.Status, lines, pattern)
	}
}

func mustRefuse(t *testing.T, a answer) {
	t.Helper()
	if a.StatusCode != 421 || a.Header.Get("Set-Cookie") != "" || !strings.Contains(a.body, "\nhint: ") || !strings.Contains(a.body, "--trusted-proxy") {
		t.Errorf("answered %s, %v\n%s", a.Status, a.Header, a.body)
	}
}

// certificate writes cert.pem and key.pem for 127.0.0.1 and returns who trusts them.
func certificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err = x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return pool
}

// TestNoSecretIsKept looks for every token that was handed out, in whatever form,
// in the database, its log and shared memory, and in what the server wrote.
func TestNoSecretIsKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.Command("sh", "-c", `umask 0; exec "$0" --server.addr=127.0.0.1:0 --session.renew_grace=1ms`, slowAppPath)
	s := startCmd(t, dir, cmd)
	var tokens []string
	hand := func(a answer) string {
		t.Helper()
		token := a.token()
		if len(token) != 43 {
			t.Fatalf("no token: %s %v", a.Status, a.Header)
		}
		tokens = append(tokens, token)
		return token
	}
	for range 20 {
		token := hand(s.get("/", ""))
		s.get("/", token)
		signedIn := hand(s.post("/signin?user=alice", token))
		s.get("/", signedIn)
		s.get("/look", token) // replaced by the sign-in
		s.post("/signout", signedIn)
		s.get("/", signedIn)
	}
	token := hand(s.get("/", ""))
	// Bad input, which somebody may log.
	s.get("/?token="+token, token)
	s.get("/"+token, token)
	s.get("/", "", "Cookie", "crumb="+token+"; crumb="+tokens[0])
	s.get("/", token+"A")
	s.get("/", strings.Repeat(token, 200))
	s.get("/", token[:42]+"!")
	s.get("/", "", "Cookie", "__Host-crumb="+token)
	s.try("PUT", "/", token)

	search := func() {
		t.Helper()
		files := map[string][]byte{"the log": []byte(s.log.String()), "the output": []byte(s.out.String())}
		names, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil || len(names) != 3 {
			t.Fatalf("files %q, %v; want the database, -wal and -shm", names, err)
		}
		hashed := 0
		for _, name := range names {
			info, err := os.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode() != 0o600 {
				t.Errorf("%s has mode %v", name, info.Mode())
			}
			if files[name], err = os.ReadFile(name); err != nil {
				t.Fatal(err)
			}
			// Were nothing found because nothing is there, the hash would be missing too.
			raw, _ := base64.RawURLEncoding.DecodeString(token)
			sum := sha256.Sum256(raw[12:])
			hashed += bytes.Count(files[name], sum[:])
		}
		if hashed == 0 {
			t.Error("the hash of a secret is in none of the files")
		}
		for _, token := range tokens {
			for form, text := range formsOf(t, token) {
				for name, content := range files {
					if bytes.Contains(content, text) {
						t.Errorf("%s holds a secret: %s", name, form)
					}
				}
			}
		}
	}
	search()
	s.kill() // leaves the log behind
	search()
	for _, out := range []string{
		mustCrumb(t, dir, "sessions", "list", "--json"),
		mustCrumb(t, dir, "sessions", "show", "--values", "--json", id(token)),
	} {
		for _, token := range tokens {
			for form, text := range formsOf(t, token) {
				if strings.Contains(out, string(text)) {
					t.Errorf("the command shows a secret: %s", form)
				}
			}
		}
	}
}

// formsOf returns what of a token must never be kept, as it may be written.
func formsOf(t *testing.T, token string) map[string][]byte {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	forms := map[string][]byte{}
	for what, b := range map[string][]byte{"token": raw, "secret": raw[12:]} {
		forms[what+", raw"] = b
		forms[what+", hex"] = []byte(hex.EncodeToString(b))
		forms[what+", HEX"] = []byte(strings.ToUpper(hex.EncodeToString(b)))
		forms[what+", base64url"] = []byte(base64.RawURLEncoding.EncodeToString(b))
		forms[what+", base64"] = []byte(base64.RawStdEncoding.EncodeToString(b))
		forms[what+", base32"] = []byte(strings.TrimRight(base32.StdEncoding.EncodeToString(b), "="))
	}
	forms["secret, as in the token"] = []byte(token[16:])
	return forms
}
