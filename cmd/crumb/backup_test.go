package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	zs "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// execSQL runs a script on a database file, as another program would.
func execSQL(t *testing.T, file, script string) {
	t.Helper()
	c, err := zs.OpenConn(file, zs.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for script = strings.TrimSpace(script); script != ""; { // not in one transaction
		st, rest, err := c.PrepareTransient(script)
		if err != nil {
			t.Fatal(err)
		}
		for row := true; row && err == nil; {
			row, err = st.Step()
		}
		if err := errors.Join(err, st.Finalize()); err != nil {
			t.Fatal(err)
		}
		script = strings.TrimSpace(script[len(script)-rest:])
	}
}

// selectText returns the first column of the first row.
func selectText(t *testing.T, file, query string) (text string) {
	t.Helper()
	c, err := zs.OpenConn(file, zs.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = sqlitex.ExecuteTransient(c, query, &sqlitex.ExecOptions{ResultFunc: func(st *zs.Stmt) error {
		text = st.ColumnText(0)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestBackupUnderLoad copies a database while visitors come and go, and serves
// the copy elsewhere.
func TestBackupUnderLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, dir, slowAppPath)
	visitor, alice := s.visitor(), s.post("/signin?user=alice", "").token()
	s.get("/", alice)
	bob := s.post("/signin?user=bob", "").token()
	s.post("/signout", bob)
	// Other tables of the app's own are part of the database.
	execSQL(t, filepath.Join(dir, "crumb.db"), "CREATE TABLE notes (text TEXT); INSERT INTO notes VALUES ('mine')")

	over := make(chan struct{})
	var wait sync.WaitGroup
	var answered atomic.Int64
	for range 8 {
		wait.Go(func() {
			token := ""
			for n := 0; ; n++ {
				if n%20 == 0 {
					token = "" // visitors come
				}
				a := s.try("GET", "/", token)
				if a.err != nil || a.StatusCode != 200 {
					t.Errorf("during the copy: %+v", a)
				}
				if new := a.token(); new != "" {
					token = new
				}
				answered.Add(1)
				select {
				case <-over:
					return
				default:
				}
			}
		})
	}
	for answered.Load() < 200 {
		s.get("/look", visitor)
	}
	before := answered.Load()
	copies := t.TempDir()
	// Of two copies, one with everything and one without the sessions.
	whole, without := filepath.Join(copies, "whole.db"), filepath.Join(copies, "without.db")
	if out := mustCrumb(t, dir, "backup", whole); !strings.HasPrefix(out, "Copied sqlite:crumb.db to "+whole+": ") || !strings.HasSuffix(out, ", checked.\n") {
		t.Errorf("it says %q", out)
	}
	mustCrumb(t, dir, "backup", "--without-sessions", without)
	if n := answered.Load() - before; n == 0 {
		t.Error("nobody was served during the copies")
	}
	later := s.visitor()
	close(over)
	wait.Wait()

	if names := list(t, copies); strings.Join(names, " ") != "whole.db without.db" {
		t.Errorf("there are %q", names)
	}
	for _, file := range []string{whole, without} {
		if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", file, info, err)
		}
		if got := selectText(t, file, "SELECT text FROM notes"); got != "mine" {
			t.Errorf("%s holds %q of the app's own", file, got)
		}
		if got := selectText(t, file, "PRAGMA integrity_check"); got != "ok" {
			t.Errorf("%s: %s", file, got)
		}
	}

	t.Run("the copy serves the visitors elsewhere", func(t *testing.T) {
		dir := t.TempDir()
		must(t, os.Rename(whole, filepath.Join(dir, "crumb.db")))
		s := start(t, dir, slowAppPath)
		if a := s.get("/", visitor); a.body != "2\n" || a.Header.Get("Set-Cookie") != "" {
			t.Errorf("the visitor gets %q", a.body)
		}
		if a := s.get("/look", alice); a.body != "1 alice\n" {
			t.Errorf("alice gets %q", a.body)
		}
		for _, token := range []string{bob, later} {
			if a := s.get("/look", token); a.body != "0 \n" {
				t.Errorf("a session that was not there opens %q", a.body)
			}
		}
		// What the guide says to do after a restore.
		mustCrumb(t, dir, "sessions", "revoke", "--all", "--yes")
		if a := s.get("/look", alice); a.body != "0 \n" {
			t.Errorf("alice still gets %q", a.body)
		}
	})

	t.Run("the copy without sessions serves none, and holds no trace of one", func(t *testing.T) {
		content, err := os.ReadFile(without)
		must(t, err)
		for _, token := range []string{visitor, alice} {
			raw, _ := base64.RawURLEncoding.DecodeString(token)
			sum := sha256.Sum256(raw[12:])
			for _, trace := range []string{id(token), string(sum[:]), `{"hello.views":2`, "alice"} {
				if bytes.Contains(content, []byte(trace)) {
					t.Errorf("the copy holds %q", trace)
				}
			}
		}
		dir := t.TempDir()
		must(t, os.Rename(without, filepath.Join(dir, "crumb.db")))
		if got := sessions(t, dir); len(got) != 0 {
			t.Errorf("there are %v", got)
		}
		s := start(t, dir, slowAppPath)
		for _, token := range []string{visitor, alice} {
			if a := s.get("/look", token); a.body != "0 \n" {
				t.Errorf("a session is served: %q", a.body)
			}
		}
		s.visitor()
	})
}

func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestBackup(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mustCrumb(t, dir, "schema", "apply")

	t.Run("never overwrites", func(t *testing.T) {
		for _, name := range []string{"there.db", "crumb.db", "link.db"} {
			file := filepath.Join(dir, name)
			switch name {
			case "there.db":
				must(t, os.WriteFile(file, []byte("precious"), 0o644))
			case "link.db":
				must(t, os.Symlink("nowhere", file))
			}
			before := list(t, dir)
			if o := crumb(t, dir, "backup", name); o.code != 1 || o.stderr != "error: "+name+" exists already\nhint: name another file, or remove that one\n" {
				t.Errorf("%+v", o)
			}
			if after := list(t, dir); strings.Join(after, " ") != strings.Join(before, " ") {
				t.Errorf("there were %q and are %q", before, after)
			}
		}
		if text, _ := os.ReadFile(filepath.Join(dir, "there.db")); string(text) != "precious" {
			t.Errorf("the file holds %q", text)
		}
	})

	t.Run("works with a file name of any kind, and while nobody serves", func(t *testing.T) {
		for _, name := range []string{"it's.db", "a b.db", "ü?#%.db", "-x.db"} {
			mustCrumb(t, dir, "backup", "--", name)
			if got := selectText(t, filepath.Join(dir, name), "SELECT version FROM crumb_schema"); got != "1" {
				t.Errorf("%s has version %q", name, got)
			}
		}
	})

	t.Run("is readable by its owner alone, whatever the umask", func(t *testing.T) {
		cmd := exec.Command("sh", "-c", `umask 0; exec "$0" backup masked.db`, crumbPath)
		cmd.Dir, cmd.Env = dir, environ()
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if info, err := os.Stat(filepath.Join(dir, "masked.db")); err != nil || info.Mode() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
	})

	t.Run("says what is wrong", func(t *testing.T) {
		for _, c := range []struct {
			args []string
			code int
			want string
		}{
			{nil, 2, "error: backup needs the name of one file\nhint: write crumb backup FILE\n"},
			{[]string{"a", "b"}, 2, "error: backup needs the name of one file\nhint: write crumb backup FILE\n"},
			{[]string{"nowhere/x.db"}, 1, "\nhint: create the folder first\n"},
			{[]string{"x.db", "--database=memory:"}, 1, "error: the sessions of memory: are in the process that serves them, and nowhere else\n"},
			{[]string{"x.db", "--database=sqlite:none.db"}, 1, "\nhint: crumb serve and crumb schema apply create it; name another with --database\n"},
		} {
			if o := crumb(t, dir, append([]string{"backup"}, c.args...)...); o.code != c.code || !strings.Contains(o.stderr, c.want) || o.stdout != "" {
				t.Errorf("crumb backup %q: %+v, want %q", c.args, o, c.want)
			}
		}
		if _, err := os.Lstat(filepath.Join(dir, "x.db")); err == nil {
			t.Error("there is a file all the same")
		}
	})

	t.Run("interrupted, leaves no file behind", func(t *testing.T) {
		big, to := t.TempDir(), t.TempDir()
		mustCrumb(t, big, "schema", "apply")
		execSQL(t, filepath.Join(big, "crumb.db"), `CREATE TABLE big AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 40000) SELECT i, randomblob(1000) AS b FROM n`)
		cmd := exec.Command(crumbPath, "backup", filepath.Join(to, "x.db"))
		cmd.Dir, cmd.Env = big, environ()
		out := newWatched()
		cmd.Stderr = out
		must(t, cmd.Start())
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		for len(list(t, to)) == 0 {
			select {
			case err := <-ended:
				t.Fatalf("it ended before: %v %s", err, out)
			default:
			}
		}
		cmd.Process.Signal(syscall.SIGINT)
		<-ended
		switch names := list(t, to); {
		case cmd.ProcessState.ExitCode() == 0 && strings.Join(names, " ") == "x.db":
			t.Log("the copy was whole before the signal came")
		case len(names) > 0 || out.String() != "error: interrupted; there is no copy\n":
			t.Errorf("%q are left; it says %q", names, out)
		}
	})
}

func TestSweepCommand(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mustCrumb(t, dir, "schema", "apply")
	// 1,200 that expired two hours ago, one half an hour ago, one that lives.
	execSQL(t, filepath.Join(dir, "crumb.db"), `
		CREATE TEMP TABLE ages AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 1202)
			SELECT i, CASE i WHEN 1201 THEN -1800 WHEN 1202 THEN 1800 ELSE -7200 END * 1000000 + CAST(unixepoch() AS INTEGER) * 1000000 AS expires FROM n;
		INSERT INTO crumb_sessions SELECT printf('swept-%010d', i), '', expires - 9000000000, expires - 9000000000, expires, expires / 600000000,
			9000000000, expires, NULL, 0, '', '', 0, zeroblob(32), NULL, NULL, 1, 1, '{}' FROM ages`)
	if o := crumb(t, dir, "sessions", "sweep"); o.code != 0 || o.stdout != "Removed 1200 sessions.\n" {
		t.Errorf("%+v", o)
	}
	if out := mustCrumb(t, dir, "sessions", "sweep", "--json"); out != "{\n  \"removed\": 0\n}\n" {
		t.Errorf("the second time it says %q", out)
	}
	if got := selectText(t, filepath.Join(dir, "crumb.db"), "SELECT group_concat(id) FROM (SELECT id FROM crumb_sessions ORDER BY id)"); got != "swept-0000001201,swept-0000001202" {
		t.Errorf("what is left is %s", got)
	}
	if o := crumb(t, dir, "sessions", "sweep", "--database=memory:"); o.code != 1 {
		t.Errorf("%+v", o)
	}
	if o := crumb(t, dir, "sessions", "sweep", "all"); o.code != 2 {
		t.Errorf("%+v", o)
	}
}
