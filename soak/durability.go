package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/sqlite"
)

// Ordinary counts of the durability part.
const (
	countClients = 32
	countTimes   = 1000
)

var counted32 = session.NewCounter("soak.counted")

// childServe is a server on a SQLite file at path: the process that is traced. It
// prints its address, and ends when its standard input does.
func childServe(path string) error {
	st, err := sqlite.Open(context.Background(), path, sqlite.Config{})
	if err != nil {
		return err
	}
	m, err := session.NewManager(st, session.Config{Insecure: true, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		return err
	}
	err = serveParent(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := session.From(r)
		switch r.URL.Path {
		case "/count":
			counted32.Add(s, 1)
		case "/signin":
			s.SignIn(r.URL.RawQuery)
		case "/renew":
			s.Renew()
		case "/signout":
			s.SignOut()
		case "/revoke":
			n, err := m.RevokeUser(r.Context(), r.URL.RawQuery)
			if err != nil || n == 0 {
				http.Error(w, fmt.Sprint(n, err), http.StatusInternalServerError)
				return
			}
		}
		// The first header of an answer, for the trace.
		w.Header().Set("A", "answer to "+strings.TrimPrefix(r.URL.Path, "/"))
		w.WriteHeader(http.StatusNoContent)
	})))
	return errors.Join(err, st.Close())
}

// A tracedServer is childServe under strace.
type tracedServer struct {
	url  string
	stop func() error
}

var errNoStrace = errors.New("strace is not there; install it (apt-get install strace) to see the system calls of a server")

// straceArgs has strace follow all threads and print of each call the file behind
// its descriptor and the first bytes.
var straceArgs = []string{"-f", "-y", "-s", "64", "-e", "trace=fdatasync,fsync,pwrite64,write", "-e", "signal=none"}

func startTraced(ctx context.Context, path, trace string) (*tracedServer, error) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		return nil, errNoStrace
	}
	child, err := newChild(ctx, "serve", path)
	if err != nil {
		return nil, err
	}
	child.Args = append(append([]string{"strace", "-o", trace}, straceArgs...), child.Args...)
	child.Path = strace
	in, url, err := startServing(child)
	if err != nil {
		return nil, fmt.Errorf("may this user trace?: %w", err)
	}
	return &tracedServer{url, func() error { return errors.Join(in.Close(), child.Wait()) }}, nil
}

func newVisitor() *http.Client {
	jar, _ := cookiejar.New(nil)
	return &http.Client{Jar: jar, Timeout: time.Minute, Transport: &http.Transport{}}
}

func (t *tracedServer) visit(c *http.Client, path string) error {
	resp, err := c.Get(t.url + path)
	if err != nil {
		return err
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("%s answered %d %s", path, resp.StatusCode, bytes.TrimSpace(body))
	}
	return nil
}

// drive makes the requests whose system calls are looked at.
func (t *tracedServer) drive() error {
	ann, bob, carl := newVisitor(), newVisitor(), newVisitor()
	for _, step := range []struct {
		who  *http.Client
		path string
	}{
		{ann, "/count"}, {ann, "/look"}, {ann, "/count"}, {ann, "/signin?ann"}, {ann, "/renew"}, {ann, "/signout"},
		{bob, "/signin?bob"}, {carl, "/revoke?bob"},
	} {
		if err := t.visit(step.who, step.path); err != nil {
			return err
		}
	}
	var all sync.WaitGroup
	visitors, errs := make([]*http.Client, countClients), make([]error, countClients)
	for i := range visitors {
		visitors[i] = newVisitor()
		if err := errors.Join(t.visit(visitors[i], "/count"), t.visit(visitors[i], "/look")); err != nil {
			return err
		}
	}
	if err := t.visit(carl, "/begin"); err != nil {
		return err
	}
	for i, c := range visitors {
		all.Go(func() {
			for n := i; n < countTimes; n += countClients {
				errs[i] = errors.Join(errs[i], t.visit(c, "/count"))
			}
		})
	}
	all.Wait()
	return errors.Join(append(errs, t.visit(carl, "/end"))...)
}

// A traceCall is one system call of a trace, as it began and ended.
type traceCall struct {
	name, file, text string
	began, ended     int // line
	commit           bool
}

var (
	traceLine    = regexp.MustCompile(`^(\d+)\s+(\w+)\((\d+)<([^>]*)>,? ?(.*)$`)
	traceResumed = regexp.MustCompile(`^(\d+)\s+<\.\.\. (\w+) resumed>`)
)

// parseTrace reads what strace wrote. A call that another thread interrupts is on
// two lines; it has ended with the second.
func parseTrace(text string) (calls []*traceCall) {
	open := map[string]*traceCall{}
	for i, line := range strings.Split(text, "\n") {
		if m := traceResumed.FindStringSubmatch(line); m != nil {
			if c := open[m[1]]; c != nil {
				c.ended = i
			}
			continue
		}
		m := traceLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		c := &traceCall{name: m[2], file: filepath.Base(m[4]), text: m[5], began: i, ended: i}
		open[m[1]] = c
		c.commit = c.name == "pwrite64" && strings.HasSuffix(c.file, "-wal") && isCommitFrame(c.text)
		calls = append(calls, c)
	}
	return calls
}

// isCommitFrame reports whether what is written is the header of a frame of the
// write-ahead log that ends a transaction: it holds the size of the database in
// its bytes 4 to 7, zero in all other frames.
func isCommitFrame(args string) bool {
	b := unescape(args)
	return strings.Contains(args, `, 24, `) && len(b) == 24 && !bytes.Equal(b[4:8], []byte{0, 0, 0, 0})
}

// unescape reads the first string of args, as strace prints it.
func unescape(args string) (b []byte) {
	text, ok := strings.CutPrefix(args, `"`)
	if !ok {
		return nil
	}
	for i := 0; i < len(text) && text[i] != '"'; i++ {
		if text[i] != '\\' {
			b = append(b, text[i])
			continue
		}
		i++
		if c := text[i]; c < '0' || c > '7' {
			plain := map[byte]byte{'n': '\n', 't': '\t', 'r': '\r', 'v': '\v', 'f': '\f'}
			if p, ok := plain[c]; ok {
				c = p
			}
			b = append(b, c)
			continue
		}
		j := i
		for j < len(text) && j < i+3 && text[j] >= '0' && text[j] <= '7' {
			j++
		}
		n, _ := strconv.ParseUint(text[i:j], 8, 16)
		b = append(b, byte(n))
		i = j - 1
	}
	return b
}

var answerTo = regexp.MustCompile(`A: answer to (\w+)`)

// An evidence is what a trace shows.
type evidence struct {
	excerpt        string
	commits, syncs int // of the counts
	frames         int
}

// judgeTrace looks at what came before each answer since the one before.
func judgeTrace(calls []*traceCall) (*evidence, error) {
	ev := &evidence{}
	var errs []error
	var since []*traceCall
	seen, counts := map[string]bool{}, 0
	for _, c := range calls {
		m := answerTo.FindStringSubmatch(c.text)
		if c.name != "write" || m == nil {
			since = append(since, c)
			continue
		}
		switch what := m[1]; what {
		case "signin", "renew", "signout", "revoke":
			if err := syncedBefore(since, c); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", what, err))
			}
			if !seen[what] {
				ev.excerpt += excerpt(since, what)
			}
			seen[what] = true
		case "begin":
			ev.commits, ev.syncs, ev.frames = 0, 0, 0
		case "count":
			if counts++; counts == 2 { // the first had the tables to create
				ev.excerpt += excerpt(since, what)
			}
			seen[what] = true
			ev.tally(since)
		case "end":
			ev.tally(since)
		}
		since = nil
	}
	for _, what := range []string{"signin", "renew", "signout", "revoke", "count"} {
		if !seen[what] {
			errs = append(errs, fmt.Errorf("the trace has no answer to %s", what))
		}
	}
	return ev, errors.Join(errs...)
}

func (ev *evidence) tally(calls []*traceCall) {
	for _, c := range calls {
		switch wal := strings.HasSuffix(c.file, "-wal"); {
		case c.name == "fdatasync" || c.name == "fsync":
			ev.syncs++
		case wal && c.commit:
			ev.commits++
			ev.frames++
		case wal && strings.Contains(c.text, ", 24, "):
			ev.frames++
		}
	}
}

// syncedBefore returns an error unless the log was written with a commit, then
// synced, and then answer was written.
func syncedBefore(calls []*traceCall, answer *traceCall) error {
	commit, synced := -1, -1
	for _, c := range calls {
		switch {
		case c.commit:
			commit = c.ended
		case (c.name == "fdatasync" || c.name == "fsync") && strings.HasSuffix(c.file, "-wal") && commit >= 0 && c.began >= commit:
			synced = c.ended
		}
	}
	switch {
	case commit < 0:
		return errors.New("no commit was written before the answer")
	case synced < commit:
		return errors.New("the commit was not synced before the answer")
	case answer.began < synced:
		return errors.New("the answer began before the sync had ended")
	}
	return nil
}

// excerpt prints calls for a document.
func excerpt(calls []*traceCall, answer string) string {
	var b strings.Builder
	for _, c := range calls {
		switch {
		case strings.HasSuffix(c.file, "-wal") && c.name == "pwrite64" && strings.Contains(c.text, ", 24, "):
			note := ""
			if c.commit {
				note = ", the commit"
			}
			fmt.Fprintf(&b, "pwrite64(%s)      a frame%s\n", c.file, note)
		case c.name == "fdatasync" || c.name == "fsync":
			fmt.Fprintf(&b, "%s(%s)\n", c.name, c.file)
		}
	}
	fmt.Fprintf(&b, "write(TCP)                 \"HTTP/1.1 204 No Content\\r\\nA: answer to %s\"\n\n", answer)
	return b.String()
}

// trace runs the server under strace in dir and returns what the trace shows.
func trace(ctx context.Context, dir string) (*evidence, error) {
	path := filepath.Join(dir, "trace.txt")
	t, err := startTraced(ctx, filepath.Join(dir, "crumb.db"), path)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(t.drive(), t.stop()); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return judgeTrace(parseTrace(string(text)))
}

func runDurability(ctx context.Context, r *run, f *figures) (*figures, error) {
	dir := filepath.Join(r.dir, "durability")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return nil, err
	}
	ev, err := trace(ctx, dir)
	if ev == nil {
		return nil, err
	}
	f.Rows, f.Log = nil, ev.excerpt
	f.add("answers to sign-in, renewal, sign-out, revocation", "each after the sync that follows its commit")
	f.add(fmt.Sprintf("%d counts of %d clients at once: commits, frames of the log, syncs", countTimes, countClients), "%d, %d, %d", ev.commits, ev.frames, ev.syncs)
	return f, err
}
