package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// These tests need ways of Linux to fill a disk without filling the machine's.

// TestDiskFull lets the server write no further byte, by its limit of the size of
// files, which another process can set and lift again and any user has. SQLite
// sees EFBIG; TestTmpfsFull shows it the ENOSPC of a full file system.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), slowAppPath)
	limit := func(bytes uint64) {
		t.Helper()
		err := unix.Prlimit(s.cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: bytes, Max: unix.RLIM_INFINITY}, nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	outage(t, s, func() { limit(0) }, func() { limit(unix.RLIM_INFINITY) })
}

// TestTmpfsFull serves from a small file system of the server's own and fills it.
func TestTmpfsFull(t *testing.T) {
	t.Parallel()
	unshare := []string{"unshare", "--mount"}
	if os.Geteuid() != 0 {
		unshare = append(unshare, "--user", "--map-root-user")
	}
	dir := t.TempDir()
	mount := func(then string) *exec.Cmd {
		args := append(unshare[1:], "sh", "-c", `mount -t tmpfs -o size=1m tmpfs . && cd "$PWD" && `+then, slowAppPath)
		cmd := exec.Command(unshare[0], args...)
		cmd.Dir = dir
		return cmd
	}
	if out, err := mount("true").CombinedOutput(); err != nil {
		t.Skipf("no file system of our own here, so that only TestDiskFull shows this: %v: %s", err, out)
	}
	s := startCmd(t, dir, mount(`exec "$0" --server.addr=127.0.0.1:0`))
	inside := fmt.Sprintf("/proc/%d/cwd", s.cmd.Process.Pid)
	filler := filepath.Join(inside, "filler")
	fill := func() {
		f, err := os.Create(filler)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for b := make([]byte, 512); ; {
			if _, err := f.Write(b); err != nil {
				if !strings.Contains(err.Error(), syscall.ENOSPC.Error()) {
					t.Fatal(err)
				}
				return
			}
		}
	}
	free := func() {
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
	}
	outage(t, s, fill, free)
}

// outage shows what visitors see while nothing can be written, and after.
func outage(t *testing.T, s *server, begin, end func()) {
	t.Helper()
	token := s.get("/", "").token()
	s.get("/", token)
	signedIn := s.post("/signin?user=alice", "").token()
	s.get("/", signedIn)

	begin()
	// What fits in pages that are there already may still be written, so write on
	// until nothing is.
	views, refused := 2, answer{}
	for range 1000 {
		if refused = s.get("/", token); refused.StatusCode != 200 {
			break
		}
		views++
	}
	for _, a := range []answer{refused, s.get("/", token), s.get("/", ""), s.post("/signin?user=bob", token), s.post("/signin?user=bob", "")} {
		if a.StatusCode != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" || a.Header.Get("Set-Cookie") != "" {
			t.Errorf("without space the answer is %s, %v: %q", a.Status, a.Header, a.body)
		}
	}
	if a := s.post("/signout", signedIn); a.StatusCode != http.StatusServiceUnavailable || a.Header.Get("Set-Cookie") != "" {
		t.Errorf("a sign-out that was not written is answered %s, %v", a.Status, a.Header)
	}
	if a := s.get("/look", token); a.body != fmt.Sprintf("%d \n", views) {
		t.Errorf("%d views were answered, and without space the session holds %q", views, a.body)
	}
	if a := s.get("/look", signedIn); a.body != "1 alice\n" {
		t.Errorf("a session that could not be ended holds %q", a.body)
	}
	for _, path := range []string{"/livez", "/readyz"} {
		if a := s.get(path, ""); a.StatusCode != 200 {
			t.Errorf("%s is %s, although sessions can be read", path, a.Status)
		}
	}

	end()
	if a := s.get("/", token); a.body != fmt.Sprintf("%d\n", views+1) {
		t.Errorf("with space again, after %d views, one more is answered %s %q", views, a.Status, a.body)
	}
	if a := s.get("/", ""); a.StatusCode != 200 || a.token() == "" {
		t.Errorf("with space again a new visitor is answered %s", a.Status)
	}
	if a := s.post("/signout", signedIn); a.StatusCode != 200 {
		t.Errorf("with space again a sign-out is answered %s", a.Status)
	}
	if a := s.get("/look", signedIn); a.body != "0 \n" {
		t.Errorf("after the sign-out the token opens %q", a.body)
	}
	s.stop()
}

// TestReadOnly opens a database that its user may not write. A file that is open
// stays writable whatever its mode becomes, and no file system with such a file
// can be made read-only: it shows at the start. Root may write everything, so
// that a test of root runs the command as somebody else.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "crumb-readonly")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	command := func(ctx context.Context, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, crumbPath, args...)
		cmd.Dir, cmd.Env = dir, environ()
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		return cmd
	}
	run := func(args ...string) outcome {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := command(ctx, args...)
		var stdout, stderr strings.Builder
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
	}
	chmod := func(path string, mode os.FileMode) {
		t.Helper()
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	refuse := func(what, want string, o outcome) {
		t.Helper()
		if o.code != 1 || !regexp.MustCompile(want).MatchString(o.stderr) || strings.Contains(o.stderr, "listening") || o.stdout != "" {
			t.Errorf("%s: %+v", what, o)
		}
	}

	s := start(t, dir, crumbPath)
	token := s.visitor()
	s.stop()
	db := filepath.Join(dir, "crumb.db")
	if os.Geteuid() == 0 {
		for _, path := range []string{dir, db, filepath.Join(dir, "crumb-track.db"), filepath.Join(dir, "crumb.keys")} {
			if err := os.Chown(path, 65534, 65534); err != nil {
				t.Fatal(err)
			}
		}
	}
	const readOnly = `error: .*sqlite: open /.*/crumb.db: .*read-only.*writable.*\n`
	before, err := os.ReadFile(db)
	if err != nil {
		t.Fatal(err)
	}
	chmod(db, 0o400)
	refuse("a read-only file", readOnly, run("serve", "--addr=127.0.0.1:0"))
	refuse("a read-only file, revoke", readOnly, run("sessions", "revoke", "--all", "--yes"))
	chmod(db, 0o000)
	refuse("an unreadable file", `error: .*read-only or unreadable.* writable by this user`, run("serve", "--addr=127.0.0.1:0"))
	refuse("an unreadable file, list", `error: .*read-only or unreadable.* writable by this user`, run("sessions", "list"))
	chmod(db, 0o600)
	chmod(dir, 0o500)
	refuse("a read-only directory", readOnly, run("serve", "--addr=127.0.0.1:0"))
	refuse("a read-only directory, no file", `error: module database: .*not writable`, run("serve", "--addr=127.0.0.1:0", "--database=sqlite:new.db"))
	chmod(dir, 0o700)
	after, err := os.ReadFile(db)
	if err != nil || string(before) != string(after) {
		t.Errorf("a read-only file changed: %v", err)
	}
	s = startCmd(t, dir, command(context.Background(), "serve", "--addr=127.0.0.1:0"))
	if s.get("/", token).body != views(2) {
		t.Error("writable again, the session is gone")
	}
}
