package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// crumb is the command under test, built once.
var crumb string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "crumb-e2e")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		crumb = filepath.Join(dir, "crumb")
		build := exec.Command("go", "build", "-o", crumb, "./cmd/crumb")
		build.Dir, build.Stdout, build.Stderr = "..", os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "building the command:", err)
			return 1
		}
		return m.Run()
	}())
}

const password = "crumbs in every corner"

// serve starts crumb serve with login in a folder of its own, with the users ann
// and bob, and returns its URL and the folder.
func serve(t *testing.T, args ...string) (url, dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range []string{"ann", "bob"} {
		run(t, dir, password+"\n", "users", "add", name)
	}
	cmd := exec.Command(crumb, append([]string{"serve", "--login", "--addr=127.0.0.1:0", "--login.app_name=Breadboard"}, args...)...)
	cmd.Dir = dir
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	found := make(chan string, 1)
	go func() {
		listening := regexp.MustCompile(`listening on (http://\S+)`)
		for lines := bufio.NewScanner(log); lines.Scan(); {
			if m := listening.FindStringSubmatch(lines.Text()); m != nil {
				found <- m[1]
			}
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	select {
	case url = <-found:
	case <-time.After(time.Minute):
		t.Fatal("the server does not listen")
	}
	return url, dir
}

// run runs the command in dir and returns what it printed.
func run(t *testing.T, dir, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.Command(crumb, args...)
	var stderr bytes.Buffer
	cmd.Dir, cmd.Stdin, cmd.Stderr = dir, strings.NewReader(stdin), &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("crumb %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

// post sends a form as a program does.
func post(t *testing.T, url, form string) {
	t.Helper()
	resp, err := http.Post(url, "application/x-www-form-urlencoded", strings.NewReader(form))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}
