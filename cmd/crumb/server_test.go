package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait for an event. It passes only if something is broken.
const patience = time.Minute

// A server is one of the programs under test, serving.
type server struct {
	t      *testing.T
	cmd    *exec.Cmd
	url    string
	log    *watched // what it wrote on stderr
	out    *watched // and on stdout
	stdin  io.Writer
	client *http.Client
	ended  chan struct{} // closed when the process is gone
}

// start runs a program in dir until it listens. args follow "serve" for crumb.
func start(t *testing.T, dir, program string, args ...string) *server {
	t.Helper()
	if program == crumbPath {
		args = append([]string{"serve"}, args...)
	}
	return startCmd(t, dir, exec.Command(program, append(args, "--server.addr=127.0.0.1:0")...))
}

func startCmd(t *testing.T, dir string, cmd *exec.Cmd) *server {
	t.Helper()
	s := &server{t: t, cmd: cmd, log: newWatched(), out: newWatched(), ended: make(chan struct{}),
		client: &http.Client{
			Timeout: patience,
			Transport: &http.Transport{
				MaxIdleConnsPerHost: 1000,
				TLSClientConfig:     &tls.Config{InsecureSkipVerify: true},
			},
		}}
	cmd.Dir, cmd.Stderr, cmd.Stdout = dir, s.log, s.out
	cmd.Env = environ()
	cmd.WaitDelay = patience // for output that a process left behind could hold open
	s.stdin, _ = cmd.StdinPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		cmd.Wait()
		s.log.end()
		s.out.end()
		close(s.ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-s.ended
		s.client.CloseIdleConnections()
		if strings.Contains(s.log.String(), "DATA RACE") || t.Failed() {
			t.Errorf("the log of %s:\n%s", filepath.Base(cmd.Path), s.log)
		}
	})
	s.url = s.log.wait(t, `listening on (https?://\S+)`)[1]
	return s
}

// environ is that of the test without settings.
func environ() []string {
	env := []string{"GORACE=atexit_sleep_ms=0"}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "CRUMB_") {
			env = append(env, e)
		}
	}
	return env
}

// kill ends the process as kill -9 does.
func (s *server) kill() {
	s.t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		s.t.Fatal(err)
	}
	s.wait()
}

// stop sends SIGTERM; the process must exit with 0.
func (s *server) stop() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	s.wait()
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		s.t.Errorf("after SIGTERM it exited with %d", code)
	}
}

func (s *server) wait() {
	s.t.Helper()
	select {
	case <-s.ended:
	case <-time.After(patience):
		s.t.Fatal("the process did not end")
	}
}

// An answer is a response whose body was read.
type answer struct {
	*http.Response
	body string
	err  error
}

// token returns that of the session cookie the answer sets, or "".
func (a answer) token() string {
	for _, c := range a.Cookies() {
		if strings.HasSuffix(c.Name, "crumb") {
			return c.Value
		}
	}
	return ""
}

// get asks with a session cookie, if token is not empty. header is pairs.
func (s *server) get(path, token string, header ...string) answer {
	s.t.Helper()
	a := s.try("GET", path, token, header...)
	if a.err != nil {
		s.t.Fatal(a.err)
	}
	return a
}

func (s *server) post(path, token string) answer {
	s.t.Helper()
	a := s.try("POST", path, token)
	if a.err != nil {
		s.t.Fatal(a.err)
	}
	return a
}

// try is for requests that may fail, and for other goroutines than the test's.
func (s *server) try(method, path, token string, header ...string) answer {
	r, err := http.NewRequest(method, s.url+path, nil)
	if err != nil {
		return answer{err: err}
	}
	if token != "" {
		name := "crumb"
		if r.URL.Scheme == "https" {
			name = "__Host-crumb"
		}
		r.Header.Set("Cookie", name+"="+token)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
			continue
		}
		r.Header.Add(header[i], header[i+1])
	}
	resp, err := s.client.Do(r)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp, string(body), err}
}

// visitor gets a session and returns its token.
func (s *server) visitor() string {
	s.t.Helper()
	a := s.get("/", "")
	if a.StatusCode != 200 || len(a.token()) != 43 {
		s.t.Fatalf("a first visit was answered %s, token of %d characters: %q", a.Status, len(a.token()), a.body)
	}
	return a.token()
}

// begin starts a slow request and returns once its handler is at work.
func (s *server) begin(token string) <-chan answer {
	s.t.Helper()
	n := s.out.lines()
	end := make(chan answer, 1)
	go func() { end <- s.try("GET", "/slow", token) }()
	s.out.wait(s.t, fmt.Sprintf(`(?s)^(begun\n){%d}`, n+1))
	return end
}

// release lets one slow request end.
func (s *server) release() { io.WriteString(s.stdin, "\n") }

// An outcome is what a run of the command left.
type outcome struct {
	code           int
	stdout, stderr string
}

// crumb runs the command in dir.
func crumb(t *testing.T, dir string, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, crumbPath, args...)
	cmd.Dir, cmd.Env = dir, environ()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Run()
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// mustCrumb is crumb for what must succeed; it returns the output.
func mustCrumb(t *testing.T, dir string, args ...string) string {
	t.Helper()
	o := crumb(t, dir, args...)
	if o.code != 0 {
		t.Fatalf("crumb %s exited with %d: %s", strings.Join(args, " "), o.code, o.stderr)
	}
	return o.stdout
}

// sessions returns what crumb sessions list shows.
func sessions(t *testing.T, dir string) (list []sessionJSON) {
	t.Helper()
	if err := json.Unmarshal([]byte(mustCrumb(t, dir, "sessions", "list", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	return list
}

// id is that of the session a token opens.
func id(token string) string { return token[:16] }

// A watched is the output of a process. It can be waited on.
type watched struct {
	mu    sync.Mutex
	text  bytes.Buffer
	more  chan struct{} // closed when text grew; then replaced
	ended bool
}

func newWatched() *watched { return &watched{more: make(chan struct{})} }

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text.Write(p)
	close(w.more)
	w.more = make(chan struct{})
	return len(p), nil
}

func (w *watched) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	close(w.more)
	w.more = make(chan struct{})
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// wait returns the first match of pattern, once there is one.
func (w *watched) wait(t *testing.T, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	deadline := time.After(patience)
	for {
		w.mu.Lock()
		text, more, ended := w.text.String(), w.more, w.ended
		w.mu.Unlock()
		if m := re.FindStringSubmatch(text); m != nil {
			return m
		}
		if ended {
			t.Fatalf("the process ended without %q:\n%s", pattern, text)
		}
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("no %q in the output:\n%s", pattern, text)
		}
	}
}

// lines returns how many lines it holds.
func (w *watched) lines() (n int) {
	for in := bufio.NewScanner(strings.NewReader(w.String())); in.Scan(); {
		n++
	}
	return n
}
