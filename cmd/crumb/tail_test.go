package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A follower is a crumb sessions tail.
type follower struct {
	cmd      *exec.Cmd
	out, err *watched
	ended    chan struct{}
}

func follow(t *testing.T, s *server, ops string, args ...string) *follower {
	t.Helper()
	f := &follower{cmd: exec.Command(crumbPath, append([]string{"sessions", "tail", "--ops-addr", strings.TrimPrefix(ops, "http://")}, args...)...),
		out: newWatched(), err: newWatched(), ended: make(chan struct{})}
	f.cmd.Dir, f.cmd.Env, f.cmd.Stdout, f.cmd.Stderr = t.TempDir(), environ(), f.out, f.err
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		f.cmd.Wait()
		f.out.end()
		f.err.end()
		close(f.ended)
	}()
	t.Cleanup(func() { f.cmd.Process.Kill(); <-f.ended })
	// It has joined once it shows something.
	for deadline := time.Now().Add(patience); f.out.lines() == 0; {
		s.get("/", "")
		if time.Now().After(deadline) {
			t.Fatalf("nothing is shown: %s", f.err)
		}
	}
	return f
}

// end waits for the process and returns what it exited with.
func (f *follower) end(t *testing.T) int {
	t.Helper()
	select {
	case <-f.ended:
	case <-time.After(patience):
		t.Fatal("crumb sessions tail did not end")
	}
	return f.cmd.ProcessState.ExitCode()
}

func TestTail(t *testing.T) {
	t.Parallel()

	t.Run("shows what happens, a line each, until Ctrl-C", func(t *testing.T) {
		s, ops := startOps(t, t.TempDir(), slowAppPath)
		f := follow(t, s, ops)
		token := s.post("/signin?user=alice", "").token()
		f.out.wait(t, `(?m)^\d\d:\d\d:\d\d\.\d{3}  signedin  `+id(token)+`  user=alice  address=127\.0\.0\.1  agent=Go-http-client/1\.1$`)
		s.post("/signout", token)
		f.out.wait(t, `(?m)^\S+  ended     `+id(token)+`  user=alice  reason=signed out  address=127\.0\.0\.1  agent=\S+$`)
		f.cmd.Process.Signal(os.Interrupt)
		if code := f.end(t); code != 0 || f.err.String() != "" {
			t.Errorf("it exited with %d: %s", code, f.err)
		}
	})

	t.Run("as JSON, with nothing that a terminal acts upon, and no token", func(t *testing.T) {
		s, ops := startOps(t, t.TempDir(), slowAppPath)
		f := follow(t, s, ops, "--json")
		g := follow(t, s, ops)
		const agent = "Agent\u202etxt \u009b2J\U000e0041 ü"
		r := s.get("/", "", "User-Agent", agent)
		token := s.post("/signin?user=mal%E2%80%AElory%22", r.token()).token()
		s.get("/", "", "Cookie", "crumb="+token+"; crumb="+r.token())
		f.out.wait(t, `ambiguous`)
		g.out.wait(t, `ambiguous`)
		users, agents := 0, 0
		for line := range strings.Lines(f.out.String()) {
			var e struct {
				Time  time.Time
				Kind  string
				User  string
				Agent string
			}
			if err := json.Unmarshal([]byte(line), &e); err != nil || e.Time.IsZero() || e.Kind == "" {
				t.Errorf("%v: %s", err, line)
			}
			if e.User == "mal\u202elory\"" {
				users++
			}
			if e.Agent == agent {
				agents++
			}
		}
		if users == 0 || agents == 0 {
			t.Errorf("%d events bear the user, %d the agent:\n%s", users, agents, f.out)
		}
		for _, out := range []string{f.out.String(), g.out.String()} {
			if strings.ContainsFunc(strings.ReplaceAll(out, "\n", ""), func(c rune) bool { return !shown(c) }) {
				t.Errorf("what is shown is not plain: %q", out)
			}
			for _, token := range []string{token, r.token()} {
				for form, text := range formsOf(t, token) {
					if bytes.Contains([]byte(out), text) {
						t.Errorf("a secret is shown: %s", form)
					}
				}
			}
		}
	})

	t.Run("ends with the server, and says so", func(t *testing.T) {
		s, ops := startOps(t, t.TempDir(), crumbPath)
		f := follow(t, s, ops)
		s.stop()
		if code := f.end(t); code != 1 || f.err.String() != "error: the server ended the stream\nhint: it stopped, or the connection broke\n" {
			t.Errorf("it exited with %d: %s", code, f.err)
		}
	})

	t.Run("takes the address from the settings", func(t *testing.T) {
		dir := t.TempDir()
		s, ops := startOps(t, dir, crumbPath)
		if err := os.WriteFile(filepath.Join(dir, "crumb.toml"), []byte("[server]\nops_addr = \""+strings.TrimPrefix(ops, "http://")+"\"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(crumbPath, "sessions", "tail")
		cmd.Dir, cmd.Env = dir, environ()
		out, err := cmd.StdoutPipe()
		if err != nil || cmd.Start() != nil {
			t.Fatal(err)
		}
		got := make(chan string, 1)
		go func() {
			var b [7]byte
			io.ReadFull(out, b[:])
			got <- string(b[:])
		}()
		for deadline := time.After(patience); ; {
			s.get("/", "")
			select {
			case text := <-got:
				if text[2] != ':' {
					t.Errorf("it shows %q", text)
				}
				cmd.Process.Kill()
				cmd.Wait()
				return
			case <-deadline:
				t.Fatal("nothing is shown")
			default:
			}
		}
	})

	t.Run("says what to do if nobody can tell", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		free := ln.Addr().String()
		ln.Close()
		s := start(t, t.TempDir(), crumbPath)
		visitors := strings.TrimPrefix(s.url, "http://")
		const hint = "\nhint: start the server with --ops-addr 127.0.0.1:9090, or [server] ops_addr in the settings file\n"
		for _, c := range []struct {
			addr, want string
		}{
			{"", "error: there is no address for operators to ask" + hint},
			{free, "error: no server answers operators at " + free + ": dial tcp " + free + ": connect: connection refused" + hint},
			{visitors, "error: " + visitors + " does not tell events: it answers /events with 404 Not Found\nhint: ask the address that the server calls the one for operators\n"},
			{"127.0.0.1:0", "error: ops_addr is 127.0.0.1:0, so the server chose a port by itself\nhint: name it with --ops-addr; the server logs which one it is\n"},
			{"nonsense", "error: \"nonsense\" is no address\nhint: write host and port, like 127.0.0.1:9090\n"},
		} {
			if o := crumb(t, t.TempDir(), "sessions", "tail", "--ops-addr="+c.addr); o.code != 1 || o.stderr != c.want || o.stdout != "" {
				t.Errorf("at %q: %+v, want %q", c.addr, o, c.want)
			}
		}
	})
}
