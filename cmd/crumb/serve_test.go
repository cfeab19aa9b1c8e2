package main

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func views(n int) string { return fmt.Sprintf("You've seen this page %d times\n", n) }

// TestFirstRun is what a newcomer does first: crumb serve, and no more.
func TestFirstRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, dir, crumbPath)
	first := s.get("/", "")
	if first.body != views(1) {
		t.Errorf("the first visit says %q", first.body)
	}
	if a := s.get("/", first.token()); a.body != views(2) {
		t.Errorf("the second visit says %q", a.body)
	}
	s.kill()
	s = start(t, dir, crumbPath)
	if a := s.get("/", first.token()); a.body != views(3) {
		t.Errorf("the visit after kill -9 says %q", a.body)
	}
	s.stop()
	if o := crumb(t, dir, "schema", "status"); !strings.HasPrefix(o.stdout, "sqlite:crumb.db: schema version 1,") {
		t.Errorf("the database is not crumb.db: %+v", o)
	}
}

// hammer has 200 clients share one cookie and ask 5 times each.
func hammer(t *testing.T, servers ...*server) {
	t.Helper()
	const clients, each = 200, 5
	token := servers[0].visitor()
	var wait sync.WaitGroup
	for i := range clients {
		s := servers[i%len(servers)]
		wait.Go(func() {
			for range each {
				if a := s.try("GET", "/", token); a.err != nil || a.StatusCode != 200 || a.token() != "" {
					t.Errorf("a request failed: %+v", a)
					return
				}
			}
		})
	}
	wait.Wait()
	for i, s := range servers {
		if a := s.get("/", token); a.body != views(clients*each+2+i) {
			t.Errorf("after %d requests and %d more one says %q", clients*each, 2+i, a.body)
		}
	}
}

func TestEveryViewCounts(t *testing.T) {
	hammer(t, start(t, t.TempDir(), crumbPath, "--database=memory:"))
}

func TestPage(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), crumbPath)
	token := s.visitor()

	t.Run("is text to those who do not ask for HTML", func(t *testing.T) {
		a := s.get("/", token, "Accept", "*/*")
		if a.body != views(2) || a.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("%v\n%s", a.Header, a.body)
		}
	})
	t.Run("is HTML to browsers, and loads nothing", func(t *testing.T) {
		for _, token := range []string{"", token} {
			a := s.get("/", token, "Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
			if a.Header.Get("Content-Type") != "text/html; charset=utf-8" || a.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("headers %v", a.Header)
			}
			if !regexp.MustCompile(`seen this page <strong>\d times</strong>`).MatchString(strings.ReplaceAll(a.body, "&#39;", "'")) {
				t.Errorf("no count in %s", a.body)
			}
			style := regexp.MustCompile(`(?s)<style>(.*?)</style>`).FindStringSubmatch(a.body)
			sum := sha256.Sum256([]byte(style[1]))
			want := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; img-src data:; " +
				"frame-ancestors 'none'; form-action 'self'; base-uri 'none'"
			if got := a.Header.Get("Content-Security-Policy"); got != want {
				t.Errorf("policy %q, want %q", got, want)
			}
			for _, bad := range []string{"<script", "//", "@import", "url(", "style=", "onclick", "onload"} {
				if strings.Contains(a.body, bad) {
					t.Errorf("the page holds %q", bad)
				}
			}
			if token != "" && (!strings.Contains(a.body, "<code>"+id(token)+"</code>") || strings.Contains(a.body, token)) {
				t.Error("the page shows the ID, and never the token")
			}
		}
	})
	t.Run("is for nobody's cache", func(t *testing.T) {
		for _, token := range []string{"", token} {
			a := s.get("/", token)
			vary := strings.Join(a.Header.Values("Vary"), ", ")
			if a.Header.Get("Cache-Control") != "no-store" || !strings.Contains(vary, "Cookie") || !strings.Contains(vary, "Accept") {
				t.Errorf("headers %v", a.Header)
			}
		}
	})
	t.Run("answers HEAD without a body", func(t *testing.T) {
		if a := s.try("HEAD", "/", token); a.err != nil || a.StatusCode != 200 || a.body != "" {
			t.Errorf("%+v", a)
		}
	})
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/unknown", 404}, {"GET", "/index.html", 404}, {"POST", "/", 405}, {"DELETE", "/", 405}, {"POST", "/unknown", 404},
		{"GET", "/livez", 200}, {"GET", "/readyz", 200}, {"HEAD", "/readyz", 200}, {"POST", "/livez", 405},
	} {
		t.Run(fmt.Sprintf("%s %s is %d and no session", c.method, c.path, c.want), func(t *testing.T) {
			if a := s.try(c.method, c.path, ""); a.err != nil || a.StatusCode != c.want || a.Header.Get("Set-Cookie") != "" {
				t.Errorf("%+v", a)
			}
		})
	}
}

func TestStop(t *testing.T) {
	t.Parallel()

	t.Run("SIGTERM drains what is under way and exits with 0", func(t *testing.T) {
		dir := t.TempDir()
		s := start(t, dir, slowAppPath)
		token := s.get("/", "").token()
		slow := s.begin(token)
		s.cmd.Process.Signal(syscall.SIGTERM)
		s.log.wait(t, "stopping, waiting for requests")
		if a := s.try("GET", "/", token); a.err == nil {
			t.Errorf("a new request was answered while it stops: %+v", a)
		}
		s.release()
		if a := <-slow; a.err != nil || a.body != "3\n" {
			t.Errorf("the request under way got %+v", a)
		}
		s.wait()
		if code := s.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("it exited with %d", code)
		}
		s = start(t, dir, slowAppPath)
		if a := s.get("/look", token); a.body != "3 \n" {
			t.Errorf("after the stop the session holds %q", a.body)
		}
	})
	t.Run("SIGTERM writes the seen-times that wait", func(t *testing.T) {
		dir := t.TempDir()
		s := start(t, dir, slowAppPath, "--session.touch_interval=1ms")
		token := s.get("/", "").token()
		s.get("/", token)
		counted := time.Now()
		for time.Since(counted) < 5*time.Millisecond { // some of these are due
			s.get("/look", token)
		}
		s.stop()
		if list := sessions(t, dir); len(list) != 1 || list[0].Seen.Before(counted) {
			t.Errorf("last seen after %v, stored is %+v", counted, list)
		}
	})
	t.Run("a second signal does not wait", func(t *testing.T) {
		s := start(t, t.TempDir(), slowAppPath)
		slow := s.begin("")
		s.cmd.Process.Signal(syscall.SIGINT)
		s.log.wait(t, "stopping, waiting for requests")
		s.cmd.Process.Signal(syscall.SIGTERM)
		s.wait()
		if code := s.cmd.ProcessState.ExitCode(); code != 1 {
			t.Errorf("it exited with %d", code)
		}
		<-slow
	})
	t.Run("of crumb serve", func(t *testing.T) {
		s := start(t, t.TempDir(), crumbPath)
		s.visitor()
		s.stop()
	})
	t.Run("a port that is taken is one line", func(t *testing.T) {
		dir := t.TempDir()
		s := start(t, dir, crumbPath)
		o := crumb(t, dir, "serve", "--addr", strings.TrimPrefix(s.url, "http://"))
		if o.code != 1 || !regexp.MustCompile(`error: cannot listen on 127.0.0.1:\d+: another program does already\nhint: `).MatchString(o.stderr) {
			t.Errorf("%+v", o)
		}
	})
}

func TestRevokedWhileARequestIsUnderWay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, user string
		args       func(token string) []string
	}{
		{"by ID", "", func(token string) []string { return []string{id(token)} }},
		{"by user", "alice", func(string) []string { return []string{"--user", "alice"} }},
		{"with all", "bob", func(string) []string { return []string{"--all"} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			s := start(t, dir, slowAppPath)
			token := s.get("/", "").token()
			if c.user != "" {
				if token = s.post("/signin?user="+c.user, token).token(); token == "" {
					t.Fatal("the sign-in made no new token")
				}
			}
			slow := s.begin(token)
			if out := mustCrumb(t, dir, append([]string{"sessions", "revoke", "--yes"}, c.args(token)...)...); out != "Ended 1 session.\n" {
				t.Errorf("revoke says %q", out)
			}
			s.release()
			if a := <-slow; a.err != nil || a.StatusCode != 200 || a.Header.Get("Set-Cookie") != "" {
				t.Errorf("the slow answer is %+v", a)
			}
			// The same process, which had the session in hand, and another one.
			for _, s := range []*server{s, start(t, dir, slowAppPath)} {
				if a := s.get("/look", token); a.body != "0 \n" || a.Header.Get("Set-Cookie") != "" {
					t.Errorf("the token still opens %q, cookie %q", a.body, a.Header.Get("Set-Cookie"))
				}
				if a := s.get("/", token); a.body != "1\n" || a.Header.Get("Set-Cookie") != "" {
					t.Errorf("a write with the late token: %q, cookie %q", a.body, a.Header.Get("Set-Cookie"))
				}
			}
			if list := sessions(t, dir); len(list) != 0 {
				t.Errorf("sessions live: %+v", list)
			}
		})
	}
}

// TestRevokeDuringTraffic ends sessions while their visitors go on asking: what
// was ended when the command returned is ended for every request after.
func TestRevokeDuringTraffic(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"--user=alice", "--all"} {
		t.Run(how, func(t *testing.T) {
			dir := t.TempDir()
			servers := []*server{start(t, dir, slowAppPath), start(t, dir, slowAppPath)}
			var tokens []string
			for i := range 20 {
				token := servers[i%2].post("/signin?user=alice", "").token()
				tokens = append(tokens, token)
			}
			over := make(chan struct{})
			var wait sync.WaitGroup
			asked := make(chan struct{}, len(tokens))
			for i, token := range tokens {
				wait.Go(func() {
					for n := 0; ; n++ {
						if a := servers[(i+n)%2].try("GET", "/", token); a.err != nil || a.StatusCode != 200 || a.token() != "" {
							t.Errorf("a request during the revocation got %+v", a)
						}
						if n == 2 {
							asked <- struct{}{}
						}
						select {
						case <-over:
							return
						default:
						}
					}
				})
			}
			for range tokens {
				<-asked
			}
			if out := mustCrumb(t, dir, "sessions", "revoke", "--yes", how); out != "Ended 20 sessions.\n" {
				t.Errorf("revoke says %q", out)
			}
			for i, token := range tokens {
				if a := servers[i%2].get("/look", token); a.body != "0 \n" {
					t.Errorf("after the command returned a token opens %q", a.body)
				}
			}
			close(over)
			wait.Wait()
			if list := sessions(t, dir); len(list) != 0 {
				t.Errorf("%d sessions live", len(list))
			}
		})
	}
}
