package session_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crumb-go/crumb/session"
)

// A site is a world behind a real server, with one browser.
type site struct {
	*world
	srv    *httptest.Server
	client *http.Client
}

// newSite serves what build makes of the world's Manager, and at /state what the
// session holds.
func newSite(t *testing.T, http2 bool, build func(m *session.Manager) http.Handler) *site {
	t.Helper()
	w := newWorld(t, session.Config{})
	mux := http.NewServeMux()
	mux.Handle("/", build(w.Manager))
	mux.Handle("/state", w.Handler(page(func(s *session.Session, w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "%q %d %q", theme.Get(s), hits.Get(s), s.User())
	})))
	mux.Handle("/start", w.Handler(do(func(s *session.Session) { theme.Set(s, "first") })))
	srv := httptest.NewUnstartedServer(mux)
	srv.EnableHTTP2 = http2
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	client := srv.Client()
	client.Jar, _ = cookiejar.New(nil)
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &site{w, srv, client}
}

func (st *site) request(method, path string) *http.Request {
	r, err := http.NewRequest(method, st.srv.URL+path, nil)
	if err != nil {
		st.t.Fatal(err)
	}
	return r
}

func (st *site) do(r *http.Request) *answer {
	st.t.Helper()
	res, err := st.client.Do(r)
	if err != nil {
		st.t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	return &answer{res, string(body)}
}

func (st *site) get(path string) *answer { st.t.Helper(); return st.do(st.request("GET", path)) }

// state returns what the session holds, as the next request sees it.
func (st *site) state() string { st.t.Helper(); return st.get("/state").body }

func (st *site) wantState(want string) {
	st.t.Helper()
	if got := st.state(); got != want {
		st.t.Errorf("the next request sees %s, want %s", got, want)
	}
}

func (st *site) wantLog(part string) {
	st.t.Helper()
	if !strings.Contains(st.log.String(), part) {
		st.t.Errorf("the log does not say %q:\n%s", part, st.log)
	}
}

// overBoth runs f over HTTP/1.1 and HTTP/2.
func overBoth(t *testing.T, name string, f func(t *testing.T, http2 bool)) {
	t.Run(name, func(t *testing.T) {
		t.Run("HTTP/1.1", func(t *testing.T) { t.Parallel(); f(t, false) })
		t.Run("HTTP/2", func(t *testing.T) { t.Parallel(); f(t, true) })
	})
}

// handle is a build for newSite: p behind the Manager and nothing else.
func handle(p page) func(*session.Manager) http.Handler {
	return func(m *session.Manager) http.Handler { return m.Handler(p) }
}

func wantCookie(t *testing.T, a *answer) {
	t.Helper()
	if a.cookie() == nil || a.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("want a cookie and Cache-Control: no-store, got %v", a.Header)
	}
}

func wantNoCookie(t *testing.T, a *answer) {
	t.Helper()
	if a.Header["Set-Cookie"] != nil || a.Header.Get("Cache-Control") == "no-store" {
		t.Errorf("want no cookie and no Cache-Control, got %v", a.Header)
	}
}

func TestCookieGoesOutBeforeTheFirstByte(t *testing.T) {
	write := map[string]func(w http.ResponseWriter){
		"a flush before the first write":    func(w http.ResponseWriter) { w.(http.Flusher).Flush() },
		"a flush by the ResponseController": func(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() },
		"Write":                             func(w http.ResponseWriter) { w.Write([]byte("x")) },
		"an empty Write":                    func(w http.ResponseWriter) { w.Write(nil) },
		"WriteHeader":                       func(w http.ResponseWriter) { w.WriteHeader(201) },
		"io.WriteString":                    func(w http.ResponseWriter) { io.WriteString(w, "x") },
		"io.Copy":                           func(w http.ResponseWriter) { io.Copy(w, strings.NewReader("x")) },
		"ReadFrom":                          func(w http.ResponseWriter) { w.(io.ReaderFrom).ReadFrom(bytes.NewReader([]byte("x"))) },
		"fmt.Fprint":                        func(w http.ResponseWriter) { fmt.Fprint(w, "x") },
		"http.Redirect":                     func(w http.ResponseWriter) { w.Header().Set("Location", "/state"); w.WriteHeader(303) },
		"http.Error":                        func(w http.ResponseWriter) { http.Error(w, "x", 400) },
		"nothing at all":                    func(http.ResponseWriter) {},
	}
	for name, write := range write {
		overBoth(t, name, func(t *testing.T, http2 bool) {
			st := newSite(t, http2, handle(func(s *session.Session, w http.ResponseWriter, _ *http.Request) {
				hits.Add(s, 1)
				write(w)
			}))
			wantCookie(t, st.get("/"))
			st.wantState(`"" 1 ""`)
		})
	}
	overBoth(t, "the headers of a flush reach the client while the handler still runs", func(t *testing.T, http2 bool) {
		release := make(chan struct{})
		st := newSite(t, http2, handle(func(s *session.Session, w http.ResponseWriter, _ *http.Request) {
			hits.Add(s, 1)
			w.(http.Flusher).Flush()
			<-release
			fmt.Fprint(w, "later")
		}))
		res, err := st.client.Do(st.request("GET", "/"))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		wantCookie(t, &answer{Response: res})
		st.wantState(`"" 1 ""`) // stored before the first byte, so the next request may come at once
		close(release)
		if b, _ := io.ReadAll(res.Body); string(b) != "later" {
			t.Errorf("body %q", b)
		}
	})
	overBoth(t, "HEAD and 304 carry it and no body", func(t *testing.T, http2 bool) {
		st := newSite(t, http2, handle(func(s *session.Session, w http.ResponseWriter, r *http.Request) {
			hits.Add(s, 1)
			if r.URL.Path == "/304" {
				w.WriteHeader(http.StatusNotModified)
				return
			}
			fmt.Fprint(w, "body")
		}))
		a := st.do(st.request("HEAD", "/"))
		wantCookie(t, a)
		if a.body != "" || a.StatusCode != 200 {
			t.Errorf("HEAD: %d %q", a.StatusCode, a.body)
		}
		st.client.Jar, _ = cookiejar.New(nil)
		a = st.get("/304")
		wantCookie(t, a)
		if a.body != "" || a.StatusCode != 304 {
			t.Errorf("304: %d %q", a.StatusCode, a.body)
		}
	})
	overBoth(t, "103 Early Hints carries none, the final answer does", func(t *testing.T, http2 bool) {
		st := newSite(t, http2, handle(func(s *session.Session, w http.ResponseWriter, r *http.Request) {
			hits.Add(s, 1)
			if r.URL.Path == "/committed" {
				if err := s.Commit(r.Context()); err != nil {
					t.Error(err)
				}
			}
			w.Header().Set("Link", "</style.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			hits.Add(s, 1)
			w.WriteHeader(http.StatusProcessing)
			w.WriteHeader(http.StatusAccepted)
		}))
		for _, path := range []string{"/", "/committed"} {
			st.client.Jar, _ = cookiejar.New(nil)
			r := st.request("GET", path)
			var early []int
			trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				early = append(early, code)
				if h.Get("Set-Cookie") != "" || h.Get("Link") == "" || h.Get("Vary") != "" {
					t.Errorf("%d carries %v", code, h)
				}
				return nil
			}}
			a := st.do(r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
			if wantCookie(t, a); a.StatusCode != 202 || fmt.Sprint(early) != "[103 102]" {
				t.Error(a.StatusCode, early)
			}
			st.wantState(`"" 2 ""`)
		}
	})
}

func TestChangesAfterTheFirstByte(t *testing.T) {
	overBoth(t, "a value set after the first byte is there next time", func(t *testing.T, http2 bool) {
		st := newSite(t, http2, handle(func(s *session.Session, w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "x")
			w.(http.Flusher).Flush()
			theme.Set(s, "late")
			hits.Add(s, 2)
		}))
		st.get("/start")
		if a := st.get("/"); a.Header["Set-Cookie"] != nil {
			t.Error(a.Header)
		}
		st.wantState(`"late" 2 ""`)
	})
	overBoth(t, "a sign-in after the first byte is dropped whole, logged and returned by Commit", func(t *testing.T, http2 bool) {
		st := newSite(t, http2, handle(func(s *session.Session, w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "x")
			s.SignIn("ann")
			theme.Set(s, "hers")
			if r.URL.Path == "/commit" {
				if err := s.Commit(r.Context()); !errors.Is(err, session.ErrAnswered) {
					t.Error(err)
				}
				if s.User() != "" || theme.Get(s) != "first" {
					t.Errorf("the request goes on as %q with %q", s.User(), theme.Get(s))
				}
				hits.Add(s, 1) // what comes after the refusal is kept
			}
		}))
		st.get("/start")
		st.get("/")
		st.wantState(`"first" 0 ""`)
		st.wantLog(session.ErrAnswered.Error())
		st.get("/commit")
		st.wantState(`"first" 1 ""`)
		if n := st.live(); n != 1 {
			t.Error(n, "sessions")
		}
	})
	overBoth(t, "a sign-in over another user's session after the first byte leaves that session as it was", func(t *testing.T, http2 bool) {
		st := newSite(t, http2, handle(func(s *session.Session, w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/ann" {
				s.SignIn("ann")
				return
			}
			fmt.Fprint(w, "x")
			s.SignIn("bob")
			if err := s.Commit(r.Context()); !errors.Is(err, session.ErrAnswered) {
				t.Error(err)
			}
			if s.User() != "ann" {
				t.Errorf("the request goes on as %q", s.User())
			}
			hits.Add(s, 1)
		}))
		st.get("/ann")
		st.get("/")
		st.wantState(`"" 1 "ann"`)
	})
	overBoth(t, "a renewal after the first byte is dropped, the values beside it are kept", func(t *testing.T, http2 bool) {
		st := newSite(t, http2, handle(func(s *session.Session, w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "x")
			s.Renew()
			hits.Add(s, 1)
			if err := s.Commit(r.Context()); !errors.Is(err, session.ErrAnswered) {
				t.Error(err)
			}
			s.Renew() // and the automatic one
		}))
		st.get("/start")
		st.get("/")
		st.wantState(`"first" 1 ""`)
		st.wantLog(session.ErrAnswered.Error())
		if n := st.events.count(session.EventRenewed); n != 0 {
			t.Error(n, "renewals")
		}
	})
	overBoth(t, "a new session after the first byte is dropped, logged and returned by Commit and Update", func(t *testing.T, http2 bool) {
		st := newSite(t, http2, handle(func(s *session.Session, w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "x")
			hits.Add(s, 1)
			if err := s.Commit(r.Context()); !errors.Is(err, session.ErrAnswered) {
				t.Error(err)
			}
			if _, err := theme.Update(r.Context(), s, func(string) (string, error) { return "y", nil }); !errors.Is(err, session.ErrAnswered) {
				t.Error(err)
			}
			hits.Add(s, 1)
		}))
		wantNoCookie(t, st.get("/"))
		st.wantLog(session.ErrAnswered.Error())
		if n := st.store.count(); n != 0 {
			t.Error(n, "store calls")
		}
	})
	overBoth(t, "a sign-out after the first byte ends the session", func(t *testing.T, http2 bool) {
		st := newSite(t, http2, handle(func(s *session.Session, w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "x")
			s.SignOut()
		}))
		st.get("/start")
		st.get("/")
		st.wantState(`"" 0 ""`)
		if n := st.live(); n != 0 {
			t.Error(n, "sessions live")
		}
	})
}

func TestStreams(t *testing.T) {
	overBoth(t, "server-sent events arrive one by one and what they count is kept", func(t *testing.T, http2 bool) {
		next := make(chan struct{})
		st := newSite(t, http2, handle(func(s *session.Session, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			rc := http.NewResponseController(w)
			for range 3 {
				<-next
				fmt.Fprintf(w, "data: %d\n\n", hits.Add(s, 1))
				if err := rc.Flush(); err != nil {
					t.Error(err)
				}
				if err := s.Commit(r.Context()); err != nil {
					t.Error(err)
				}
			}
		}))
		go func() { next <- struct{}{} }()
		res, err := st.client.Do(st.request("GET", "/"))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		wantCookie(t, &answer{Response: res})
		lines := bufio.NewScanner(res.Body)
		for i := 1; i <= 3; i++ {
			if !lines.Scan() || lines.Text() != fmt.Sprintf("data: %d", i) {
				t.Fatalf("event %d is %q", i, lines.Text())
			}
			lines.Scan()
			if i < 3 {
				next <- struct{}{}
			}
		}
		if lines.Scan() {
			t.Errorf("after the last: %q", lines.Text())
		}
		st.wantState(`"" 3 ""`)
	})

	echo := func(t *testing.T, st *site, path string) *http.Response {
		r := st.request("GET", path)
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", "echo")
		res, err := st.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { res.Body.Close() })
		if res.StatusCode != http.StatusSwitchingProtocols {
			t.Fatal(res.Status)
		}
		conn := res.Body.(io.ReadWriter)
		fmt.Fprint(conn, "ping\n")
		if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "ping\n" {
			t.Fatal(line, err)
		}
		return res
	}
	upgrade := func(t *testing.T) *site {
		return newSite(t, false, handle(func(s *session.Session, w http.ResponseWriter, r *http.Request) {
			hits.Add(s, 1)
			if r.URL.Path == "/101" { // as coder/websocket does
				w.Header().Set("Connection", "Upgrade")
				w.Header().Set("Upgrade", "echo")
				w.WriteHeader(http.StatusSwitchingProtocols)
			}
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			if r.URL.Path == "/hijack" { // as gorilla/websocket does
				fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			}
			theme.Set(s, "open")
			if err := s.Commit(r.Context()); err != nil {
				t.Error(err)
			}
			rw.Flush()
			line, _ := rw.ReadString('\n')
			fmt.Fprint(rw, line)
			rw.Flush()
		}))
	}
	t.Run("an upgrade by WriteHeader(101) carries the cookie, and the session works on", func(t *testing.T) {
		st := upgrade(t)
		wantCookie(t, &answer{Response: echo(t, st, "/101")})
		st.wantState(`"open" 1 ""`)
	})
	t.Run("an upgrade by Hijack commits first, and the session works on", func(t *testing.T) {
		st := upgrade(t)
		st.get("/start")
		echo(t, st, "/hijack")
		st.wantState(`"open" 1 ""`)
	})
	t.Run("HTTP/2 cannot hijack, says so, and the page still answers", func(t *testing.T) {
		st := newSite(t, true, handle(func(s *session.Session, w http.ResponseWriter, _ *http.Request) {
			hits.Add(s, 1)
			if _, _, err := http.NewResponseController(w).Hijack(); !errors.Is(err, http.ErrNotSupported) {
				t.Error(err)
			}
			fmt.Fprint(w, "plain")
		}))
		a := st.get("/")
		if wantCookie(t, a); a.body != "plain" {
			t.Error(a.body)
		}
	})
	overBoth(t, "the ResponseController reaches the server through Unwrap", func(t *testing.T, http2 bool) {
		st := newSite(t, http2, handle(func(s *session.Session, w http.ResponseWriter, r *http.Request) {
			hits.Add(s, 1)
			rc := http.NewResponseController(w)
			if err := errors.Join(rc.SetWriteDeadline(time.Now().Add(time.Minute)), rc.SetReadDeadline(time.Now().Add(time.Minute)), rc.EnableFullDuplex()); err != nil {
				t.Error(err)
			}
			in := bufio.NewReader(r.Body)
			for range 3 { // an answer before the next part of the question
				line, err := in.ReadString('\n')
				if err != nil {
					t.Error(err)
				}
				io.WriteString(w, line)
				if err := rc.Flush(); err != nil {
					t.Error(err)
				}
			}
		}))
		read, write := io.Pipe()
		r := st.request("POST", "/")
		r.Body = read
		go io.WriteString(write, "0\n")
		res, err := st.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		wantCookie(t, &answer{Response: res})
		lines := bufio.NewScanner(res.Body)
		for i := range 3 {
			if !lines.Scan() || lines.Text() != fmt.Sprint(i) {
				t.Fatalf("%d: %q", i, lines.Text())
			}
			if i < 2 {
				fmt.Fprintln(write, i+1)
			}
		}
		write.Close()
	})
	t.Run("a write deadline in the past breaks the answer off, as without the middleware", func(t *testing.T) {
		st := newSite(t, false, handle(func(_ *session.Session, w http.ResponseWriter, _ *http.Request) {
			if err := http.NewResponseController(w).SetWriteDeadline(time.Unix(1, 0)); err != nil {
				t.Error(err)
			}
			fmt.Fprint(w, "never")
		}))
		if res, err := st.client.Do(st.request("GET", "/")); err == nil {
			res.Body.Close()
			t.Error("an answer came")
		}
	})
}

// A lowWriter sees what reaches the writer below the middleware.
type lowWriter struct {
	http.ResponseWriter
	readFrom, writeString atomic.Int32
}

func (w *lowWriter) ReadFrom(src io.Reader) (int64, error) {
	w.readFrom.Add(1)
	return w.ResponseWriter.(io.ReaderFrom).ReadFrom(src)
}

func (w *lowWriter) WriteString(s string) (int, error) {
	w.writeString.Add(1)
	return io.WriteString(w.ResponseWriter, s)
}

func TestFastPathsOfTheServerAreKept(t *testing.T) {
	content := strings.Repeat("0123456789", 10_000)
	var low *lowWriter
	build := func(p page) func(*session.Manager) http.Handler {
		return func(m *session.Manager) http.Handler {
			h := m.Handler(p)
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				low = &lowWriter{ResponseWriter: w}
				h.ServeHTTP(low, r)
			})
		}
	}
	t.Run("http.ServeContent finds the ReadFrom of the server, so sendfile works", func(t *testing.T) {
		st := newSite(t, false, build(func(s *session.Session, w http.ResponseWriter, r *http.Request) {
			hits.Add(s, 1)
			http.ServeContent(w, r, "x.txt", time.Unix(1e9, 0), strings.NewReader(content))
		}))
		a := st.get("/")
		if wantCookie(t, a); a.body != content || low.readFrom.Load() != 1 {
			t.Errorf("%d bytes, %d ReadFrom", len(a.body), low.readFrom.Load())
		}
		r := st.request("GET", "/")
		r.Header.Set("Range", "bytes=5-14")
		if a := st.do(r); a.StatusCode != 206 || a.body != "5678901234" {
			t.Error(a.StatusCode, a.body)
		}
		r = st.request("GET", "/")
		r.Header.Set("If-Modified-Since", time.Unix(1e9, 0).UTC().Format(http.TimeFormat))
		if a := st.do(r); a.StatusCode != 304 || a.body != "" {
			t.Error(a.StatusCode, a.body)
		}
		r = st.request("GET", "/")
		r.Header.Set("Range", "bytes=999999999-")
		if a := st.do(r); a.StatusCode != 416 {
			t.Error(a.StatusCode)
		}
		st.wantState(`"" 4 ""`)
	})
	t.Run("io.WriteString makes no copy", func(t *testing.T) {
		st := newSite(t, false, build(func(_ *session.Session, w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "x")
		}))
		if a := st.get("/"); a.body != "x" || low.writeString.Load() != 1 {
			t.Error(a.body, low.writeString.Load())
		}
	})
}

func TestTimeoutHandler(t *testing.T) {
	p := page(func(s *session.Session, w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "%d", hits.Add(s, 1))
	})
	overBoth(t, "inside and outside, in time, the cookie and the value are kept", func(t *testing.T, http2 bool) {
		for name, build := range map[string]func(m *session.Manager) http.Handler{
			"inside":  func(m *session.Manager) http.Handler { return m.Handler(http.TimeoutHandler(p, time.Minute, "slow")) },
			"outside": func(m *session.Manager) http.Handler { return http.TimeoutHandler(m.Handler(p), time.Minute, "slow") },
		} {
			st := newSite(t, http2, build)
			a := st.get("/")
			if wantCookie(t, a); a.body != "1" {
				t.Error(name, a.body)
			}
			if a := st.get("/"); a.body != "2" {
				t.Error(name, a.body)
			}
		}
	})
	overBoth(t, "inside, a handler that goes on after the time-out changes nothing", func(t *testing.T, http2 bool) {
		answered, done := make(chan struct{}), make(chan struct{})
		st := newSite(t, http2, func(m *session.Manager) http.Handler {
			return m.Handler(http.TimeoutHandler(page(func(s *session.Session, w http.ResponseWriter, r *http.Request) {
				defer close(done)
				<-r.Context().Done()
				<-answered
				s.SignIn("ann")
				hits.Add(s, 1)
				if err := s.Commit(context.Background()); err == nil {
					t.Error("Commit claims success")
				}
				if theme.Get(s) != "first" {
					t.Error("reads do not answer any more")
				}
				fmt.Fprint(w, "never")
			}), time.Millisecond, "slow"))
		})
		st.get("/start")
		a := st.get("/")
		if a.StatusCode != 503 || a.body != "slow" || a.Header["Set-Cookie"] != nil {
			t.Error(a.StatusCode, a.body, a.Header)
		}
		// The answer arrives when ServeHTTP has returned: the request is over.
		st.wantState(`"first" 0 ""`)
		close(answered)
		<-done
		st.wantState(`"first" 0 ""`)
	})
	overBoth(t, "outside, values set after the time-out are committed and no cookie goes out", func(t *testing.T, http2 bool) {
		done := make(chan struct{}, 1)
		st := newSite(t, http2, func(m *session.Manager) http.Handler {
			h := m.Handler(page(func(s *session.Session, w http.ResponseWriter, r *http.Request) {
				<-r.Context().Done()
				hits.Add(s, 1)
				fmt.Fprint(w, "never")
			}))
			return http.TimeoutHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				h.ServeHTTP(w, r)
				done <- struct{}{}
			}), 100*time.Millisecond, "slow")
		})
		st.get("/start")
		if a := st.get("/"); a.StatusCode != 503 || a.Header["Set-Cookie"] != nil {
			t.Error(a.StatusCode, a.Header)
		}
		<-done
		st.wantState(`"first" 1 ""`)
	})
}

// gzipped is a compressing middleware as most are.
func gzipped(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Add("Vary", "Accept-Encoding")
		z := gzip.NewWriter(w)
		defer z.Close()
		next.ServeHTTP(&gzipWriter{w, z}, r)
	})
}

type gzipWriter struct {
	http.ResponseWriter
	z *gzip.Writer
}

func (w *gzipWriter) Write(p []byte) (int, error) { return w.z.Write(p) }

func (w *gzipWriter) FlushError() error {
	return errors.Join(w.z.Flush(), http.NewResponseController(w.ResponseWriter).Flush())
}

func (w *gzipWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func TestCompression(t *testing.T) {
	p := page(func(s *session.Session, w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "%d ", hits.Add(s, 1))
		_ = http.NewResponseController(w).Flush()
		io.Copy(w, strings.NewReader("rest"))
	})
	sides := map[string]func(m *session.Manager) http.Handler{
		"inside":  func(m *session.Manager) http.Handler { return m.Handler(gzipped(p)) },
		"outside": func(m *session.Manager) http.Handler { return gzipped(m.Handler(p)) },
	}
	unzip := func(t *testing.T, a *answer) string {
		t.Helper()
		z, err := gzip.NewReader(strings.NewReader(a.body))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(z)
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
	for side, build := range sides {
		overBoth(t, side+", the answer is compressed and carries the cookie", func(t *testing.T, http2 bool) {
			st := newSite(t, http2, build)
			for i := range 2 {
				r := st.request("GET", "/")
				r.Header.Set("Accept-Encoding", "gzip")
				a := st.do(r)
				if got := unzip(t, a); got != fmt.Sprintf("%d rest", i+1) || (a.cookie() != nil) != (i == 0) {
					t.Error(got, a.Header)
				}
				if vary := strings.Join(a.Header["Vary"], ","); vary != "Accept-Encoding,Cookie" {
					t.Error(vary)
				}
			}
		})
	}
	t.Run("inside, the answer to a failed commit is plain and whole", func(t *testing.T) {
		st := newSite(t, false, sides["inside"])
		st.store.fail("Create", 1, errors.New("disk full"))
		r := st.request("GET", "/")
		r.Header.Set("Accept-Encoding", "gzip")
		a := st.do(r)
		if a.StatusCode != 503 || a.Header.Get("Content-Encoding") != "" || !strings.HasPrefix(a.body, "We cannot reach") || strings.Contains(a.body, "\x1f\x8b") {
			t.Errorf("%d %v %q", a.StatusCode, a.Header, a.body)
		}
	})
	t.Run("outside, the answer to a failed commit is compressed like any other", func(t *testing.T) {
		st := newSite(t, false, func(m *session.Manager) http.Handler {
			return gzipped(m.Handler(do(func(s *session.Session) { hits.Add(s, 1) })))
		})
		st.store.fail("Create", 1, errors.New("disk full"))
		r := st.request("GET", "/")
		r.Header.Set("Accept-Encoding", "gzip")
		a := st.do(r)
		if got := unzip(t, a); a.StatusCode != 503 || !strings.HasPrefix(got, "We cannot reach") {
			t.Errorf("%d %v %q", a.StatusCode, a.Header, got)
		}
	})
}

// recoverer answers 500 to a panic and remembers it.
func recoverer(next http.Handler, got *atomic.Value) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil {
				got.Store(v)
				if v == http.ErrAbortHandler {
					panic(v)
				}
				http.Error(w, "sorry", 500)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

func TestPanics(t *testing.T) {
	boom := errors.New("boom")
	p := page(func(s *session.Session, w http.ResponseWriter, r *http.Request) {
		hits.Add(s, 1)
		switch r.URL.Path {
		case "/commit":
			if err := s.Commit(r.Context()); err != nil {
				t.Error(err)
			}
			hits.Add(s, 1)
		case "/after":
			fmt.Fprint(w, strings.Repeat("x", 10_000))
			hits.Add(s, 1)
		case "/abort":
			panic(http.ErrAbortHandler)
		}
		panic(boom)
	})
	outside := func(got *atomic.Value) func(*session.Manager) http.Handler {
		return func(m *session.Manager) http.Handler { return recoverer(m.Handler(p), got) }
	}
	overBoth(t, "a panic before the first byte saves nothing and passes untouched", func(t *testing.T, http2 bool) {
		var got atomic.Value
		st := newSite(t, http2, outside(&got))
		a := st.get("/")
		if wantNoCookie(t, a); a.StatusCode != 500 || a.body != "sorry\n" || got.Load() != boom {
			t.Error(a.StatusCode, a.body, got.Load())
		}
		if n := st.store.count(); n != 0 {
			t.Error(n, "store calls")
		}
		st.get("/start")
		st.get("/")
		st.wantState(`"first" 0 ""`)
	})
	overBoth(t, "a panic after an explicit commit keeps what was committed, with its cookie", func(t *testing.T, http2 bool) {
		var got atomic.Value
		st := newSite(t, http2, outside(&got))
		a := st.get("/commit")
		if wantCookie(t, a); a.StatusCode != 500 {
			t.Error(a.StatusCode)
		}
		st.wantState(`"" 1 ""`)
	})
	overBoth(t, "a panic after the first byte keeps what came before it and drops the rest", func(t *testing.T, http2 bool) {
		var got atomic.Value
		st := newSite(t, http2, outside(&got))
		st.get("/start")
		st.get("/after")
		st.wantState(`"first" 1 ""`)
	})
	overBoth(t, "with a recoverer inside the request is one that answered", func(t *testing.T, http2 bool) {
		var got atomic.Value
		st := newSite(t, http2, func(m *session.Manager) http.Handler { return m.Handler(recoverer(p, &got)) })
		a := st.get("/")
		if wantCookie(t, a); a.StatusCode != 500 || got.Load() != boom {
			t.Error(a.StatusCode, got.Load())
		}
		st.wantState(`"" 1 ""`)
		st.get("/after")
		st.wantState(`"" 3 ""`)
	})
	overBoth(t, "http.ErrAbortHandler breaks the connection off and saves nothing", func(t *testing.T, http2 bool) {
		var got atomic.Value
		st := newSite(t, http2, outside(&got))
		st.get("/start")
		if res, err := st.client.Do(st.request("GET", "/abort")); err == nil {
			res.Body.Close()
			t.Error("an answer came:", res.Status)
		}
		if got.Load() != http.ErrAbortHandler {
			t.Error(got.Load())
		}
		st.wantState(`"first" 0 ""`)
	})
	overBoth(t, "runtime.Goexit saves nothing", func(t *testing.T, http2 bool) {
		st := newSite(t, http2, func(m *session.Manager) http.Handler {
			h := m.Handler(do(func(s *session.Session) { hits.Add(s, 1); exitGoroutine() }))
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				done := make(chan struct{})
				go func() { defer close(done); h.ServeHTTP(w, r) }()
				<-done
			})
		})
		wantNoCookie(t, st.get("/"))
		if n := st.store.count(); n != 0 {
			t.Error(n, "store calls")
		}
	})
}

func TestClientThatLeft(t *testing.T) {
	overBoth(t, "what the request changed is still committed", func(t *testing.T, http2 bool) {
		entered, done := make(chan struct{}), make(chan struct{})
		st := newSite(t, http2, func(m *session.Manager) http.Handler {
			h := m.Handler(page(func(s *session.Session, w http.ResponseWriter, r *http.Request) {
				close(entered)
				<-r.Context().Done()
				hits.Add(s, 1)
				if err := s.Commit(r.Context()); !errors.Is(err, context.Canceled) {
					t.Error("Commit with a context that is done:", err)
				}
				hits.Add(s, 5)
				fmt.Fprint(w, "nobody reads this")
			}))
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { defer close(done); h.ServeHTTP(w, r) })
		})
		st.get("/start")
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-entered; cancel() }()
		if res, err := st.client.Do(st.request("GET", "/").WithContext(ctx)); err == nil {
			res.Body.Close()
			t.Error("an answer came")
		}
		<-done
		st.wantState(`"first" 5 ""`)
	})
	t.Run("a load whose client left answers nobody and takes the cookie from nobody", func(t *testing.T) {
		w := newWorld(t, session.Config{})
		b := w.browser()
		b.visit(func(s *session.Session) { hits.Add(s, 1) })
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		a := serve(w.Handler(page(nothing)), b.request().WithContext(ctx))
		if a.StatusCode != 503 || a.Header["Set-Cookie"] != nil {
			t.Error(a.StatusCode, a.Header)
		}
	})
}

func TestHeaders(t *testing.T) {
	w := newWorld(t, session.Config{})
	known := w.browser()
	known.visit(func(s *session.Session) { theme.Set(s, "x") })
	t.Run("Vary: Cookie exactly when the session was used, and not doubled", func(t *testing.T) {
		for _, c := range []struct {
			name string
			p    page
			want []string
		}{
			{"a page that does not look", nothing, nil},
			{"From alone", func(*session.Session, http.ResponseWriter, *http.Request) {}, nil},
			{"a read", do(func(s *session.Session) { theme.Get(s) }), []string{"Cookie"}},
			{"User", do(func(s *session.Session) { s.User() }), []string{"Cookie"}},
			{"ID", do(func(s *session.Session) { s.ID() }), []string{"Cookie"}},
			{"Err", do(func(s *session.Session) { _ = s.Err() }), []string{"Cookie"}},
			{"a write", do(func(s *session.Session) { hits.Add(s, 1) }), []string{"Cookie"}},
			{"a page that says it itself", func(s *session.Session, w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Vary", "Accept-Encoding, cookie")
				theme.Get(s)
			}, []string{"Accept-Encoding, cookie"}},
			{"a page that says it on a second line", func(s *session.Session, w http.ResponseWriter, _ *http.Request) {
				w.Header()["Vary"] = []string{"Accept", "Accept-Encoding,COOKIE"}
				theme.Get(s)
			}, []string{"Accept", "Accept-Encoding,COOKIE"}},
			{"a page that varies on everything", func(s *session.Session, w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Vary", "*")
				theme.Get(s)
			}, []string{"*"}},
			{"a name that only begins so", func(s *session.Session, w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Vary", "Cookie2")
				theme.Get(s)
			}, []string{"Cookie2", "Cookie"}},
		} {
			for who, b := range map[string]*browser{"known": known, "new": w.browser()} {
				if got := b.get(c.p).Header["Vary"]; fmt.Sprint(got) != fmt.Sprint(c.want) {
					t.Errorf("%s, %s: Vary is %q, want %q", c.name, who, got, c.want)
				}
			}
		}
		a := serve(w.Handler(w.Handler(page(nothing))), known.request())
		if a.Header["Vary"] != nil {
			t.Error("a page that does not look, wrapped twice:", a.Header["Vary"])
		}
	})
	t.Run("Cache-Control: no-store exactly when a Set-Cookie goes out, whatever the page says", func(t *testing.T) {
		public := func(f func(s *session.Session)) page {
			return func(s *session.Session, w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Cache-Control", "public, max-age=600")
				f(s)
			}
		}
		b := w.browser()
		for _, step := range []struct {
			name string
			f    func(s *session.Session)
			set  bool
		}{
			{"anonymous", func(s *session.Session) { theme.Get(s) }, false},
			{"new session", func(s *session.Session) { theme.Set(s, "y") }, true},
			{"changed value", func(s *session.Session) { theme.Set(s, "z") }, false},
			{"renewal", func(s *session.Session) { s.Renew() }, true},
			{"sign-in", func(s *session.Session) { s.SignIn("ann") }, true},
			{"step-up", func(s *session.Session) { s.SignIn("ann") }, true},
			{"sign-out", func(s *session.Session) { s.SignOut() }, true},
			{"second sign-out", func(s *session.Session) { s.SignOut() }, false},
		} {
			a := b.get(public(step.f))
			want := "public, max-age=600"
			if step.set {
				want = "no-store"
			}
			if cc := a.Header["Cache-Control"]; len(cc) != 1 || cc[0] != want || (a.cookie() != nil) != step.set {
				t.Errorf("%s: %v", step.name, a.Header)
			}
		}
	})
	t.Run("one Set-Cookie of ours however much the request did, and those of the page stay", func(t *testing.T) {
		a := w.browser().get(func(s *session.Session, w http.ResponseWriter, r *http.Request) {
			http.SetCookie(w, &http.Cookie{Name: "lang", Value: "de"})
			theme.Set(s, "1")
			if err := s.Commit(r.Context()); err != nil {
				t.Error(err)
			}
			s.SignIn("ann")
			if err := s.Commit(r.Context()); err != nil {
				t.Error(err)
			}
			s.SignOut()
			hits.Add(s, 1)
		})
		if lines := a.Header["Set-Cookie"]; len(lines) != 2 || lines[0] != "lang=de" || a.cookie() == nil || a.cookie().MaxAge < 0 {
			t.Error(lines)
		}
	})
	t.Run("after a failed commit the headers are those of the outer middleware", func(t *testing.T) {
		outer := func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Strict-Transport-Security", "max-age=1")
				w.Header()["X-Two"] = []string{"a", "b"}
				w.Header().Set("X-Outer", "outer")
				next.ServeHTTP(w, r)
			})
		}
		w.store.fail("Create", 1, errors.New("disk full"))
		defer w.store.heal()
		a := serve(outer(w.Handler(page(func(s *session.Session, w http.ResponseWriter, _ *http.Request) {
			hits.Add(s, 1)
			w.Header().Set("X-Outer", "changed")
			w.Header().Add("X-Two", "c")
			w.Header().Del("Strict-Transport-Security")
			w.Header().Set("Location", "/secret")
			w.Header().Set("Content-Type", "application/pdf")
			w.Header().Set("ETag", `"1"`)
			http.SetCookie(w, &http.Cookie{Name: "page", Value: "1"})
			w.WriteHeader(302)
			if n, err := fmt.Fprint(w, "the page"); n != 0 || err == nil {
				t.Error("a write after a failed commit:", n, err)
			}
			if n, err := io.WriteString(w, "the page"); n != 0 || err == nil {
				t.Error("a write after a failed commit:", n, err)
			}
			if n, err := io.Copy(w, strings.NewReader("the page")); n != 0 || err == nil {
				t.Error("a copy after a failed commit:", n, err)
			}
			if err := http.NewResponseController(w).Flush(); err == nil {
				t.Error("a flush after a failed commit succeeds")
			}
			if _, _, err := http.NewResponseController(w).Hijack(); err == nil {
				t.Error("a hijack after a failed commit succeeds")
			}
		}))), w.browser().request())
		h := a.Header
		if a.StatusCode != 503 || strings.Contains(a.body, "the page") || h.Get("Retry-After") == "" {
			t.Error(a.StatusCode, a.body, h)
		}
		if h.Get("X-Outer") != "outer" || fmt.Sprint(h["X-Two"]) != "[a b]" || h.Get("Strict-Transport-Security") != "max-age=1" {
			t.Error("changed:", h)
		}
		if h.Get("Location") != "" || h.Get("ETag") != "" || h["Set-Cookie"] != nil || !strings.HasPrefix(h.Get("Content-Type"), "text/plain") {
			t.Error("left behind:", h)
		}
	})
	t.Run("after a failed commit the token of an earlier one still goes out", func(t *testing.T) {
		b := w.browser()
		defer w.store.heal()
		a := b.get(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			theme.Set(s, "kept")
			if err := s.Commit(r.Context()); err != nil {
				t.Error(err)
			}
			w.store.fail("Update", 1, errors.New("disk full"))
			hits.Add(s, 1)
		})
		if wantCookie(t, a); a.StatusCode != 503 {
			t.Error(a.StatusCode)
		}
		if got := read(b, theme); got != "kept" {
			t.Errorf("%q", got)
		}
	})
	t.Run("100 requests that change nothing write once at most and set no cookie", func(t *testing.T) {
		b := w.browser()
		b.visit(func(s *session.Session) { theme.Set(s, "x") })
		w.store.forget()
		for range 100 {
			a := b.visit(func(s *session.Session) { theme.Get(s); theme.Set(s, "x") })
			wantNoCookie(t, a)
		}
		if n := w.store.writes(); n > 1 {
			t.Error(n, "writes")
		}
	})
	t.Run("no cookie and nothing written is no store call", func(t *testing.T) {
		w.store.forget()
		wantNoCookie(t, w.browser().visit(func(s *session.Session) {
			theme.Get(s)
			theme.Delete(s)
			note.Pop(s)
			hits.Add(s, 0)
			s.Clear("test")
			s.Remember()
			s.SignOut()
		}))
		if n := w.store.count(); n != 0 {
			t.Error(n, "calls")
		}
	})
}

// exitGoroutine ends the goroutine as t.FailNow does.
func exitGoroutine() { runtime.Goexit() }
