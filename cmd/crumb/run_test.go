package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/sqlite"
)

// asked ends a context when the question has been asked.
type asked struct {
	strings.Builder
	cancel context.CancelFunc
}

func (w *asked) Write(p []byte) (int, error) {
	n, err := w.Builder.Write(p)
	if strings.Contains(w.String(), "[y/N]") {
		w.cancel()
	}
	return n, err
}

func TestCtrlCAtTheQuestionEndsNothing(t *testing.T) {
	url := "sqlite:" + filepath.Join(t.TempDir(), "crumb.db")
	st, err := sqlite.Open(t.Context(), url, sqlite.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	rec := seeds(time.Now().UTC().Truncate(time.Microsecond))[0]
	if err := st.Create(t.Context(), rec); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	stdin, w := io.Pipe() // somebody is there and types nothing
	defer w.Close()
	var stdout strings.Builder
	stderr := &asked{cancel: cancel}
	code := run(ctx, []string{"sessions", "revoke", "--all", "--database", url}, stdin, &stdout, stderr)
	if code != 1 || stdout.Len() > 0 || !strings.HasSuffix(stderr.String(), "\nerror: not confirmed; nothing was ended\n") {
		t.Errorf("exit %d\n%s%s", code, &stdout, stderr)
	}
	if rec, err := st.Load(t.Context(), rec.ID); err != nil || rec.Ended() {
		t.Errorf("the session: %v, %v", rec, err)
	}
}

func TestNearest(t *testing.T) {
	const day = 24 * time.Hour
	for d, want := range map[time.Duration]string{
		30*day - time.Second: "30d", 29*day + 11*time.Hour: "29d", 2*day - time.Minute: "2d", 90*time.Minute - 1: "1h", 90*time.Minute + 1: "2h",
		time.Hour - time.Second: "1h", 29*time.Minute + 59*time.Second: "30m", 59500 * time.Millisecond: "1m", 400 * time.Millisecond: "0s",
	} {
		if got := span(nearest(d)); got != want {
			t.Errorf("nearest(%v) is %s, want %s", d, got, want)
		}
	}
	if got := numbered(1, "byte") + ", " + numbered(0, "byte"); got != "1 byte, 0 bytes" {
		t.Error(got)
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Hour: "0s", 0: "0s", 59 * time.Second: "59s", time.Minute: "1m", time.Hour - 1: "59m",
		time.Hour: "1h", 48*time.Hour - 1: "47h", 48 * time.Hour: "2d", 400 * 24 * time.Hour: "400d",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %s, want %s", d, got, want)
		}
	}
}

func TestPlain(t *testing.T) {
	for s, want := range map[string]string{
		"":                     "-",
		"Mozilla/5.0 (X11; ü)": "Mozilla/5.0 (X11; ü)",
		"a\tb\nc\rd\x00\x7f":   `a\u0009b\u000ac\u000dd\u0000\u007f`,
		"\x1b[2J\u009b2J":      `\u001b[2J\u009b2J`,
		"\u202egnp.exe\u2066":  `\u202egnp.exe\u2066`,
		"\u200b\u00a0\u2028":   `\u200b\u00a0\u2028`,
		"\U000e0041":           `\udb40\udc41`,
		"bad \xff UTF-8":       "bad \ufffd UTF-8",
	} {
		if got := plain(s); got != want {
			t.Errorf("plain(%q) = %q, want %q", s, got, want)
		}
	}
}

func TestALongListIsWhole(t *testing.T) {
	t.Parallel()
	const n = pageSize + 345
	url := "sqlite:" + filepath.Join(t.TempDir(), "crumb.db")
	st, err := sqlite.Open(t.Context(), url, sqlite.Config{})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	var wait sync.WaitGroup
	for i := range n {
		wait.Go(func() { // so that they share commits
			rec := seeds(now)[0]
			rec.ID = session.ID(fmt.Sprintf("long-%011d", i))
			if err := st.Create(t.Context(), rec); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	list := func(args ...string) string {
		t.Helper()
		var stdout, stderr strings.Builder
		if code := run(t.Context(), append([]string{"sessions", "--database", url}, args...), nil, &stdout, &stderr); code != 0 {
			t.Errorf("%q exits with %d: %s", args, code, &stderr)
		}
		return stdout.String()
	}
	for limit, want := range map[string]int{"0": n, "7": 7, "1000": pageSize, "1001": pageSize + 1} {
		if got := strings.Count(list("list", "--limit", limit), "\n"); got != want+1 {
			t.Errorf("--limit %s: %d lines, want %d and the header", limit, got, want)
		}
		var sessions []sessionJSON
		if err := json.Unmarshal([]byte(list("list", "--limit", limit, "--json")), &sessions); err != nil {
			t.Fatal(err)
		}
		ids := map[session.ID]bool{}
		for _, in := range sessions {
			ids[in.ID] = true
		}
		if len(ids) != want {
			t.Errorf("--limit %s: %d sessions, want %d", limit, len(ids), want)
		}
	}
}
