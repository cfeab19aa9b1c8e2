package app_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crumb-go/crumb/app"
)

// A journal collects lines from several goroutines.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *journal) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *journal) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *journal) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// A server is an app that runs.
type server struct {
	*app.App
	url   string
	log   *journal
	stop  context.CancelFunc
	ended chan error // what Run returned
}

func run(t *testing.T, args []string, modules ...*app.Module) *server {
	t.Helper()
	s := &server{log: new(journal), ended: make(chan error, 1)}
	a, err := app.New(app.Options{Args: append([]string{"--addr=127.0.0.1:0"}, args...), Logger: s.log.logger()}, modules...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s.App, s.stop = a, cancel
	go func() { s.ended <- a.Run(ctx) }()
	addr := a.Addr(t.Context())
	if addr == "" {
		t.Fatalf("did not listen: %v", <-s.ended)
	}
	s.url = "http://" + addr
	t.Cleanup(cancel)
	return s
}

func body(t *testing.T, resp *http.Response, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRun(t *testing.T) {
	t.Run("it serves the modules, says where it listens, and ends without an error or a goroutine left", func(t *testing.T) {
		before := runtime.NumGoroutine()
		var d diary
		s := run(t, []string{"--ops-addr=127.0.0.1:0"}, d.module("one"), routing("hello", nil, "GET /{$}"),
			&app.Module{Name: "metrics", Setup: func(e *app.Env) error {
				e.HandleOps("GET /metrics", say("42"))
				return nil
			}})
		ops := "http://" + s.OpsAddr(t.Context())
		for _, c := range []struct {
			url, want string
			code      int
		}{
			{s.url + "/", "hello", 200}, {s.url + "/livez", "ok\n", 200}, {s.url + "/readyz", "ok\n", 200},
			{s.url + "/metrics", "404 page not found\n", 404},
			{ops + "/metrics", "42", 200}, {ops + "/livez", "ok\n", 200}, {ops + "/readyz", "ok\n", 200}, {ops + "/", "404 page not found\n", 404},
		} {
			resp, err := http.Get(c.url)
			if got := body(t, resp, err); got != c.want || resp.StatusCode != c.code {
				t.Errorf("GET %s is %d %q", c.url, resp.StatusCode, got)
			}
		}
		if want := "crumb: listening on " + s.url; !strings.Contains(s.log.String(), want) {
			t.Errorf("%q is not in the log:\n%s", want, s.log)
		}
		s.stop()
		if err := <-s.ended; err != nil {
			t.Error(err)
		}
		if got := strings.Join(d.lines, ", "); got != "start one, stop one" {
			t.Errorf("got %s", got)
		}
		http.DefaultClient.CloseIdleConnections()
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
			if runtime.NumGoroutine() <= before {
				return
			}
			runtime.Gosched()
		}
		stacks := make([]byte, 1<<16)
		t.Errorf("goroutines are left:\n%s", stacks[:runtime.Stack(stacks, true)])
	})

	t.Run("a stop lets a request under way finish, and the modules live as long", func(t *testing.T) {
		var d diary
		entered, release := make(chan struct{}), make(chan struct{})
		s := run(t, []string{"--ops-addr=127.0.0.1:0"}, &app.Module{Name: "slow", Setup: func(e *app.Env) error {
			e.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
				close(entered)
				<-release
				d.write("answer")
				fmt.Fprint(w, "whole, ", r.Context().Err())
			})
			e.Go(func(ctx context.Context) error { <-ctx.Done(); d.write("background"); return nil })
			e.OnStop(func(context.Context) error { d.write("stop"); return nil })
			return nil
		}})
		got := make(chan string, 1)
		go func() {
			resp, err := http.Get(s.url)
			got <- body(t, resp, err)
		}()
		<-entered
		s.stop()
		for { // the listener closes a moment later
			conn, err := net.Dial("tcp", s.Addr(t.Context()))
			if err != nil {
				break
			}
			conn.Close()
		}
		resp, err := http.Get("http://" + s.OpsAddr(t.Context()) + "/readyz")
		if b := body(t, resp, err); resp.StatusCode != 503 || b != "stopping\n" {
			t.Errorf("readyz while draining is %d %q", resp.StatusCode, b)
		}
		close(release)
		if b := <-got; b != "whole, <nil>" {
			t.Errorf("the answer is %q", b)
		}
		if err := <-s.ended; err != nil {
			t.Error(err)
		}
		if got := strings.Join(d.lines, ", "); got != "answer, background, stop" {
			t.Errorf("got %s", got)
		}
	})

	t.Run("a connection that a handler took over is told to end and waited for", func(t *testing.T) {
		var d diary
		s := run(t, nil, &app.Module{Name: "socket", Setup: func(e *app.Env) error {
			e.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				io.WriteString(conn, "hello\n")
				<-r.Context().Done()
				d.write("left")
			})
			e.OnStop(func(context.Context) error { d.write("stop"); return nil })
			return nil
		}})
		conn, err := net.Dial("tcp", s.Addr(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if line, err := bufio.NewReader(conn).ReadString('\n'); line != "hello\n" {
			t.Fatalf("read %q, %v", line, err)
		}
		s.stop()
		if err := <-s.ended; err != nil {
			t.Error(err)
		}
		if got := strings.Join(d.lines, ", "); got != "left, stop" {
			t.Errorf("got %s", got)
		}
	})

	t.Run("an error of background work stops the app and is its error", func(t *testing.T) {
		for rule, c := range map[string]struct {
			work func(context.Context) error
			want string
		}{
			"an error":                  {func(context.Context) error { return errors.New("queue gone") }, "module worker: queue gone"},
			"a panic":                   {func(context.Context) error { panic("oh") }, "module worker: panic: oh"},
			"a cancellation of its own": {func(context.Context) error { return context.Canceled }, "module worker: context canceled"},
		} {
			t.Run(rule, func(t *testing.T) {
				var d diary
				one := d.module("one")
				s := run(t, nil, &app.Module{Name: "worker", Requires: []*app.Module{one}, Setup: func(e *app.Env) error {
					e.Go(c.work)
					return nil
				}})
				err := <-s.ended
				if err == nil || err.Error() != c.want {
					t.Errorf("the error is %v", err)
				}
				if code := app.Report(io.Discard, io.Discard, err); code != 1 {
					t.Errorf("exit code %d", code)
				}
				if got := strings.Join(d.lines, ", "); got != "start one, stop one" {
					t.Errorf("got %s", got)
				}
			})
		}
	})

	t.Run("background work may end early, and may return the error of its context", func(t *testing.T) {
		early := make(chan struct{})
		s := run(t, nil, &app.Module{Name: "worker", Setup: func(e *app.Env) error {
			e.Go(func(context.Context) error { close(early); return nil })
			e.Go(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
			return nil
		}})
		<-early
		s.stop()
		if err := <-s.ended; err != nil {
			t.Error(err)
		}
	})

	t.Run("an address in use is an error with a hint, and the modules are stopped", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		for _, flag := range []string{"addr", "ops-addr"} {
			var d diary
			a, err := app.New(app.Options{Args: []string{"--addr=127.0.0.1:0", "--" + flag + "=" + ln.Addr().String()}, Logger: quiet}, d.module("one"))
			if err != nil {
				t.Fatal(err)
			}
			err = a.Run(t.Context())
			var out strings.Builder
			if code := app.Report(io.Discard, &out, err); code != 1 {
				t.Errorf("exit code %d", code)
			}
			want := fmt.Sprintf("error: cannot listen on %s: another program does already\nhint: stop it, or choose another address with --%s\n", ln.Addr(), flag)
			if out.String() != want {
				t.Errorf("got\n%swant\n%s", &out, want)
			}
			if got := strings.Join(d.lines, ", "); got != "start one, stop one" {
				t.Errorf("got %s", got)
			}
			if addr := a.Addr(t.Context()); addr != "" {
				t.Errorf("Addr is %q", addr)
			}
		}
	})

	t.Run("plain HTTP for others is refused before anything opens, unless something says that it is meant", func(t *testing.T) {
		for _, c := range []struct {
			args   []string
			refuse bool
		}{
			{[]string{"--addr=:0"}, true},
			{[]string{"--addr=0.0.0.0:0"}, true},
			{[]string{"--addr=[::]:0"}, true},
			{[]string{"--addr=crumb.invalid:0"}, true},
			{[]string{"--addr=:0", "--public-url=http://example.com"}, true},
			{[]string{"--addr=:0", "--insecure"}, false},
			{[]string{"--addr=:0", "--public-url=https://example.com"}, false},
			{[]string{"--addr=:0", "--trusted-proxy=10.0.0.0/8"}, false},
			{[]string{"--addr=localhost:0"}, false},
			{[]string{"--addr=127.0.0.2:0"}, false},
			{[]string{"--addr=127.0.0.2:0", "--public-url=http://example.com", "--insecure"}, false},
			{[]string{"--addr=127.0.0.2:0", "--public-url=http://app.localhost:8080"}, false},
			{[]string{"--addr=127.0.0.2:0", "--public-url=http://[::1]"}, false},
		} {
			var d diary
			a, err := app.New(app.Options{Args: c.args, Logger: quiet}, d.module("one"))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- a.Run(ctx) }()
			listened := a.Addr(t.Context()) != ""
			cancel()
			err = <-ended
			var out strings.Builder
			code := app.Report(io.Discard, &out, err)
			if !c.refuse {
				if !listened || code != 0 {
					t.Errorf("%v: %s", c.args, &out)
				}
				continue
			}
			if listened || len(d.lines) > 0 || code != 2 {
				t.Errorf("%v: listened %t, %v, exit code %d", c.args, listened, d.lines, code)
			}
			for _, want := range []string{"flag --addr: server.addr = ", "plain HTTP", "--tls-cert and --tls-key", "--trusted-proxy CIDR and --public-url https://", "--insecure"} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("%v: %q is not in:\n%s", c.args, want, &out)
				}
			}
		}
	})

	t.Run("with a certificate it speaks TLS 1.2 and up, and HTTP/2", func(t *testing.T) {
		cert, key, pool := certificate(t)
		s := run(t, []string{"--tls-cert", cert, "--tls-key", key}, &app.Module{Name: "hello", Setup: func(e *app.Env) error {
			if !e.Server().TLS() || !e.Server().Loopback() {
				t.Errorf("the module sees %+v", e.Server())
			}
			e.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) })
			return nil
		}})
		url := "https://" + s.Addr(t.Context())
		if !strings.Contains(s.log.String(), "crumb: listening on "+url) {
			t.Errorf("the log is\n%s", s.log)
		}
		tr := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool}}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr}).Get(url)
		if got := body(t, resp, err); got != "HTTP/2.0" {
			t.Errorf("spoke %s", got)
		}
		if conn, err := tls.Dial("tcp", s.Addr(t.Context()), &tls.Config{RootCAs: pool, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}); err == nil {
			conn.Close()
			t.Error("TLS 1.1 was accepted")
		}
		tr.CloseIdleConnections()
		s.stop()
		if err := <-s.ended; err != nil {
			t.Error(err)
		}
	})

	t.Run("nor does it tell visitors to come over plain HTTP", func(t *testing.T) {
		for _, args := range [][]string{{"--addr=127.0.0.1:0"}, {"--addr=127.0.0.1:0", "--trusted-proxy=127.0.0.1/32"}} {
			a, err := app.New(app.Options{Args: append(args, "--public-url=http://localhost.example.com"), Logger: quiet})
			if err != nil {
				t.Fatal(err)
			}
			wantError(t, a.Run(t.Context()), `flag --public-url: server.public_url = "http://localhost.example.com": visitors would come over plain HTTP`)
		}
	})

	t.Run("a certificate that cannot be loaded is a wrong setting, found before anything opens", func(t *testing.T) {
		var d diary
		a, err := app.New(app.Options{Args: []string{"--tls-cert=absent.pem", "--tls-key=absent.pem"}, Logger: quiet}, d.module("one"))
		if err != nil {
			t.Fatal(err)
		}
		err = a.Run(t.Context())
		wantError(t, err, `flag --tls-cert: server.tls_cert = "absent.pem": the certificate cannot be read: no such file or directory`)
		if code := app.Report(io.Discard, io.Discard, err); code != 2 || len(d.lines) > 0 {
			t.Errorf("exit code %d, %v", code, d.lines)
		}
		a, err = app.New(app.Options{Args: []string{"--tls-cert=server_test.go", "--tls-key=absent.pem"}, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		wantError(t, a.Run(t.Context()), `flag --tls-key: server.tls_key = "absent.pem": the key cannot be read: no such file or directory`)
	})

	t.Run("a stop during the start is no error", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		a, err := app.New(app.Options{Logger: quiet}, &app.Module{Name: "one", Setup: func(e *app.Env) error {
			cancel()
			return e.Context().Err()
		}})
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Run(ctx); err != nil {
			t.Error(err)
		}
	})

	t.Run("headers have a limit of 64 KB", func(t *testing.T) {
		s := run(t, nil, routing("hello", nil, "GET /"))
		req, err := http.NewRequest("GET", s.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X", strings.Repeat("x", 80<<10))
		resp, err := http.DefaultClient.Do(req)
		body(t, resp, err)
		if resp.StatusCode != 431 {
			t.Errorf("the answer is %d", resp.StatusCode)
		}
	})
}

// certificate writes a self-signed certificate for 127.0.0.1.
func certificate(t *testing.T) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pool = x509.NewCertPool()
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(parsed)
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", keyDER), pool
}

func TestHandler(t *testing.T) {
	s := run(t, nil, &app.Module{Name: "bad", Setup: func(e *app.Env) error {
		e.HandleFunc("GET /before/{id}", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Set-Cookie", "a=b")
			w.Header().Set("X-Half", "done")
			panic("oh no")
		})
		e.HandleFunc("GET /after", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "half")
			w.(http.Flusher).Flush()
			panic("oh no")
		})
		e.HandleFunc("GET /abort", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
		e.HandleFunc("GET /file", func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).SetWriteDeadline(time.Time{})
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusAccepted)
			io.Copy(w, io.LimitReader(strings.NewReader("file and more"), 5))
			io.WriteString(w, "end")
		})
		return nil
	}})

	t.Run("a panic before the first byte is 500, of the headers of the handler with its cookie only, and logged with its stack and pattern", func(t *testing.T) {
		resp, err := http.Get(s.url + "/before/secret")
		b := body(t, resp, err)
		if resp.StatusCode != 500 || b != "Internal Server Error\n" || resp.Header.Get("Set-Cookie") != "a=b" || resp.Header.Get("X-Half") != "" {
			t.Errorf("got %d %q %v", resp.StatusCode, b, resp.Header)
		}
		for _, want := range []string{"oh no", "GET /before/{id}", "server_test.go"} {
			if !strings.Contains(s.log.String(), want) {
				t.Errorf("%q is not in the log", want)
			}
		}
		if strings.Contains(s.log.String(), "/before/secret") {
			t.Error("the path is in the log")
		}
	})

	t.Run("a panic after the first byte cuts the connection", func(t *testing.T) {
		resp, err := http.Get(s.url + "/after")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if b, err := io.ReadAll(resp.Body); err == nil || string(b) != "half" {
			t.Errorf("read %q, %v", b, err)
		}
	})

	t.Run("ErrAbortHandler stays what it is, and is not logged", func(t *testing.T) {
		before := strings.Count(s.log.String(), "panic in a handler")
		if resp, err := http.Get(s.url + "/abort"); err == nil {
			resp.Body.Close()
			t.Error("there was an answer")
		}
		if after := strings.Count(s.log.String(), "panic in a handler"); after != before {
			t.Error("it was logged")
		}
	})

	t.Run("early hints, copies and response controllers pass through", func(t *testing.T) {
		resp, err := http.Get(s.url + "/file")
		if b := body(t, resp, err); resp.StatusCode != 202 || b != "file end" {
			t.Errorf("got %d %q", resp.StatusCode, b)
		}
	})

	t.Run("a body is cut at 10 MB, unless the route is marked", func(t *testing.T) {
		for path, want := range map[string]string{
			"/small": fmt.Sprint(app.MaxBody, " ", true), "/large": fmt.Sprint(app.MaxBody+1, " ", false),
		} {
			w := httptest.NewRecorder()
			h := handler(t, uploads)
			h.ServeHTTP(w, httptest.NewRequest("POST", path, bytes.NewReader(make([]byte, app.MaxBody+1))))
			if got := w.Body.String(); got != want {
				t.Errorf("%s read %s, want %s", path, got, want)
			}
		}
	})
}

var uploads = &app.Module{Name: "uploads", Setup: func(e *app.Env) error {
	upload := func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		_, tooLong := errors.AsType[*http.MaxBytesError](err)
		fmt.Fprint(w, n, " ", tooLong)
	}
	e.HandleFunc("POST /small", upload)
	e.HandleFunc("POST /large", upload, app.AnyBody)
	return nil
}}
