package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestBenchLoad(t *testing.T) {
	t.Parallel()
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprintf("loses nothing of crumb serve, shared=%v", shared), func(t *testing.T) {
			dir := t.TempDir()
			s := start(t, dir, crumbPath)
			var out loadResult
			args := []string{"bench", "load", s.url + "/", "--clients=8", "--time=500ms", "--json"}
			if shared {
				args = append(args, "--shared-cookie")
			}
			if err := json.Unmarshal([]byte(mustCrumb(t, dir, args...)), &out); err != nil {
				t.Fatal(err)
			}
			visitors := map[bool]int{true: 1, false: 8}[shared]
			if n := len(sessions(t, dir)); n != visitors {
				t.Errorf("there are %d sessions", n)
			}
			// The first and last request of a visitor are not part of the measurement.
			if out.Requests == 0 || out.Kept != out.Sent || out.Sent != out.Requests+int64(2*visitors) || out.Statuses["200"] != out.Requests ||
				out.Seconds < 0.5 || out.Latency["p50"] <= 0 || out.Latency["p50"] > out.Latency["p99"] || out.Latency["p99"] > out.Latency["p100"] {
				t.Errorf("%+v", out)
			}
		})
	}

	t.Run("tells what is lost, and exits with 1", func(t *testing.T) {
		var n atomic.Int64
		forgetful := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := r.Cookie("id"); err != nil {
				http.SetCookie(w, &http.Cookie{Name: "id", Value: "1"})
			}
			fmt.Fprintf(w, "You've seen this page %d times", n.Add(1)/2+1)
		}))
		defer forgetful.Close()
		o := crumb(t, t.TempDir(), "bench", "load", forgetful.URL, "--clients=2", "--time=100ms", "--shared-cookie")
		if o.code != 1 || !regexp.MustCompile(`(?m)^requests  \d+ in 0\.\d s, \d+ a second\nlatency   half within \S+, .*\nanswers   200: \d+\ncounter   kept \d+ of \d+, lost [1-9]\d*$`).MatchString(o.stdout) {
			t.Errorf("%+v", o)
		}
	})

	t.Run("counts answers by status, and takes a page without a counter", func(t *testing.T) {
		var n atomic.Int64
		flaky := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1)%2 == 0 {
				http.Error(w, "no", http.StatusServiceUnavailable)
			}
		}))
		defer flaky.Close()
		o := crumb(t, t.TempDir(), "bench", "load", flaky.URL, "--clients=2", "--time=100ms")
		if o.code != 0 || !regexp.MustCompile(`(?m)^answers   200: \d+, 503: \d+\ncounter   the page has none`).MatchString(o.stdout) {
			t.Errorf("%+v", o)
		}
	})

	t.Run("Ctrl-C ends it early, with what there is", func(t *testing.T) {
		dir := t.TempDir()
		s := start(t, dir, crumbPath)
		cmd := exec.Command(crumbPath, "bench", "load", s.url, "--time=10m", "--clients=2")
		out := newWatched()
		cmd.Env, cmd.Stdout = environ(), out
		must(t, cmd.Start())
		for deadline := time.Now().Add(patience); len(sessions(t, dir)) < 2; {
			if time.Now().After(deadline) {
				t.Fatal("it does not begin")
			}
		}
		cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil && !strings.Contains(out.String(), "requests") {
			t.Logf("interrupted before it measured: %v", err)
		} else if !strings.Contains(out.String(), "lost 0\n") {
			t.Errorf("%v: %s", err, out)
		}
	})

	t.Run("says what is wrong", func(t *testing.T) {
		for _, c := range []struct {
			args []string
			code int
			want string
		}{
			{nil, 2, "error: bench load needs one URL\nhint: write crumb bench load http://127.0.0.1:8080/\n"},
			{[]string{"shop"}, 2, "error: that is no URL of a page\n"},
			{[]string{"ftp://127.0.0.1/"}, 2, "error: that is no URL of a page\n"},
			{[]string{"http://192.0.2.1/"}, 2, "error: 192.0.2.1 is another machine\nhint: loading a server that is not yours is an attack; if this one is, add --allow-remote\n"},
			{[]string{"http://127.0.0.1.example/"}, 2, "error: 127.0.0.1.example is another machine\n"},
			{[]string{"http://127.0.0.1/", "--clients=0"}, 2, "error: --clients must be from 1 to 10000\n"},
			{[]string{"http://127.0.0.1/", "--time=0s"}, 2, "error: --time must be more than nothing\n"},
			{[]string{"http://127.0.0.1:1/"}, 1, "\nhint: is the server running? crumb serve starts one\n"},
		} {
			if o := crumb(t, t.TempDir(), append([]string{"bench", "load"}, c.args...)...); o.code != c.code || !strings.Contains(o.stderr, c.want) {
				t.Errorf("%q: %+v", c.args, o)
			}
		}
	})
}

func TestPercentilesAreExactToASixteenth(t *testing.T) {
	t.Parallel()
	for n := uint64(0); n < 1<<40; n = n*9/8 + 1 {
		if limit := uint64(bucketMax(bucketOf(n))); limit < n || limit > n+n/16 {
			t.Errorf("%d falls into a bucket up to %d", n, limit)
		}
	}
	var l tally
	for i := range 1000 {
		l.answered(200, time.Duration(i)*time.Microsecond)
	}
	for p, want := range map[float64]int64{50: 499, 90: 899, 99: 989, 100: 999} {
		if got := l.percentile(p); got < want || got > want+want/16 {
			t.Errorf("%v%% is %d, want %d", p, got, want)
		}
	}
}

// TestShellCompletion sources what the command prints for bash and asks it.
func TestShellCompletion(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out := mustCrumb(t, t.TempDir(), "completion", shell); !strings.Contains(out, "crumb") {
			t.Errorf("for %s: %s", shell, out)
		}
	}
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash here")
	}
	script := `source <("$0" completion bash)
_get_comp_words_by_ref() { :; }
cur=s prev=sessions words=("$0" sessions s) cword=2
__crumb_get_completion_results && printf '%s\n' "$out"`
	got, err := exec.Command(bash, "-c", script, crumbPath).CombinedOutput()
	if err != nil || !regexp.MustCompile(`(?m)^show\b`).Match(got) || !regexp.MustCompile(`(?m)^sweep\b`).Match(got) {
		t.Errorf("%v: %s", err, got)
	}
}
