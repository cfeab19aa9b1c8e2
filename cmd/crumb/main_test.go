package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	zs "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/sqlite"
)

// The programs under test, built once: the command, and testdata/slowapp.
var crumbPath, slowAppPath string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "crumb")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		crumbPath, slowAppPath = filepath.Join(dir, "crumb"), filepath.Join(dir, "slowapp")
		args := []string{"build", "-o", dir}
		if raceEnabled {
			args = append(args, "-race")
		}
		build := exec.Command("go", append(args, ".", "./testdata/slowapp")...)
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "building the programs under test:", err)
			return 1
		}
		// Other users run them too, in tests that give up root.
		if err := os.Chmod(dir, 0o755); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", filepath.Dir(crumbPath)+string(os.PathListSeparator)+os.Getenv("PATH"))
			e.Setenv("TZ", "UTC")
			e.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits,
			"seed":  seed,
			"lock":  lock,
			"newer": newer,
		},
	})
}

// exits runs a program that must exit with the code given first: exits 2 crumb …
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARG…]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	err = ts.Exec(args[1], args[2:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("%s exited with %d, want %d", strings.Join(args[1:], " "), code, want)
	}
}

// seed makes a database with some sessions.
func seed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: seed FILE")
	}
	ctx := context.Background()
	st, err := sqlite.Open(ctx, ts.MkAbs(args[0]), sqlite.Config{})
	ts.Check(err)
	for _, rec := range seeds(time.Now().UTC().Truncate(time.Microsecond)) {
		ts.Check(st.Create(ctx, rec))
	}
	ts.Check(st.Close())
}

func seeds(now time.Time) []*session.Record {
	const day = 24 * time.Hour
	record := func(id session.ID, user string, age time.Duration) *session.Record {
		rec := &session.Record{Idle: 30 * day, Absolute: now.Add(180*day - age)}
		rec.ID, rec.User, rec.Created, rec.Seen = id, user, now.Add(-age), now.Add(-age/2)
		rec.Expires = rec.Seen.Add(rec.Idle)
		rec.Secret[0] = 1
		return rec
	}
	visitor := record("visitor-AAAAAAAA", "", 6*time.Hour+time.Minute)
	visitor.Agent = "Agent\x1b[31m\u202etxt\u009b2J\U000e0041 ü"
	visitor.Values = session.Values{{Key: "hello.views", JSON: []byte("3")}, {Key: "ui.theme", JSON: []byte("\"d\u202eark\"")}}
	alice := record("alice-1-AAAAAAAA", "alice", 3*day+time.Minute)
	alice.SignedIn = alice.Created
	laptop := record("alice-2-AAAAAAAA", "alice", 2*time.Hour+time.Minute)
	laptop.SignedIn, laptop.Remember = laptop.Created, true
	mallory := record("mallory-AAAAAAAA", "mal\r\nlory\x1b]0;", time.Hour+time.Minute)
	mallory.SignedIn = mallory.Created
	expired := record("expired-AAAAAAAA", "", 300*day)
	expired.Absolute, expired.Expires = expired.Seen, expired.Seen
	return []*session.Record{visitor, alice, laptop, mallory, expired}
}

// lock holds the write lock of a database until the script ends.
func lock(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: lock FILE")
	}
	c, err := zs.OpenConn(ts.MkAbs(args[0]), zs.OpenReadWrite)
	ts.Check(err)
	ts.Defer(func() { c.Close() })
	ts.Check(sqlitex.ExecuteTransient(c, "BEGIN IMMEDIATE", nil))
}

// newer makes a database one of a program to come.
func newer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: newer FILE")
	}
	c, err := zs.OpenConn(ts.MkAbs(args[0]), zs.OpenReadWrite)
	ts.Check(err)
	ts.Check(sqlitex.ExecuteTransient(c, "INSERT INTO crumb_schema VALUES (99)", nil))
	ts.Check(c.Close())
}
