package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	zs "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/crumb-go/crumb/track"
)

// askJSON runs a command with --json and reads what it prints. An ID may begin with
// a hyphen, so it stands behind --.
func askJSON(t *testing.T, dir string, out any, args ...string) {
	t.Helper()
	if err := json.Unmarshal([]byte(mustCrumb(t, dir, slices.Insert(args, 1, "--json")...)), out); err != nil {
		t.Fatal(err)
	}
}

// within calls ok until it is true, for at most limit.
func within(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, limit)
		}
	}
}

func TestTenPagesAreInTheTrailAndTopShowsThePage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, dir, crumbPath)
	token := s.visitor()
	want := []string{"/{$}"}
	for i := range 9 {
		path, route := "/about", "/about"
		if i%3 == 0 {
			path, route = "/", "/{$}"
		}
		s.get(path, token, "User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0\u202e", "Referer", "https://news.example/story")
		want = append(want, route)
	}
	patience := 2 * time.Second // as promised
	if raceEnabled {
		patience = time.Minute
	}
	var live track.Live
	within(t, patience, "crumb top shows the page", func() bool {
		askJSON(t, dir, &live, "top")
		return live.Visitors == 1 && live.Present[0].Page == "/about"
	})
	var trail struct {
		Visitor track.Visitor
		Days    []track.TrailDay
	}
	askJSON(t, dir, &trail, "trail", "--", id(token))
	var got []string
	for _, day := range trail.Days {
		for _, e := range day.Entries {
			got = append(got, e.Route)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the trail is %q, want %q", got, want)
	}
	if trail.Visitor.Browser != "Firefox" || trail.Visitor.Requests != 10 {
		t.Errorf("%+v", trail.Visitor)
	}
	table := mustCrumb(t, dir, "trail", "--zone", "UTC", "--", id(token))
	for _, want := range []string{id(token), "Firefox on Linux, desktop", "GET  /about", "from https://news.example"} {
		if !strings.Contains(table, want) {
			t.Errorf("crumb trail does not show %q:\n%s", want, table)
		}
	}
	if top := mustCrumb(t, dir, "top"); !strings.Contains(top, "1 visitor here now, 0 users signed in, 0 bots") || !strings.Contains(top, "/about") || strings.Contains(top, "\x1b") {
		t.Errorf("crumb top, not on a terminal:\n%s", top)
	}
	var st stats
	askJSON(t, dir, &st, "stats", "--zone", "UTC", "--days", "2") // the test may run at midnight
	if st.Now != (track.Totals{Visitors: 1, Visits: 1, Views: 10}) || len(st.Series) != 2 || st.Routes[0].N+st.Routes[1].N != 10 {
		t.Errorf("%+v", st)
	}
	text := mustCrumb(t, dir, "stats", "--days", "2", "--zone", "UTC")
	if !regexp.MustCompile(`(?m)^ *views +10 +0 *$`).MatchString(text) || !strings.Contains(text, "https://news.example") || !strings.Contains(text, "█") {
		t.Errorf("crumb stats:\n%s", text)
	}
}

func TestTheEndOfTheServerLosesNoView(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, dir, crumbPath, "--track.interval=1h")
	token := s.visitor()
	for range 199 {
		s.get("/about", token)
	}
	s.stop()
	var st stats
	askJSON(t, dir, &st, "stats", "--zone", "UTC", "--days", "2")
	if st.Now.Views != 200 {
		t.Errorf("%d views were written, want 200", st.Now.Views)
	}
}

// left returns the files of dir that hold text.
func left(t *testing.T, dir, text string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "crumb*"))
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, []byte(text)) {
			names = append(names, filepath.Base(f))
		}
	}
	return names
}

func TestAnErasedVisitorIsInNoFileThoughAServerHasItsQueueFullOfThem(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, dir, crumbPath)
	slow := start(t, dir, crumbPath, "--track.interval=1h", "--track.max_queue=50", "--ops-addr=127.0.0.1:0")
	ops := slow.log.wait(t, `operators on (http://\S+)`)[1]
	token, other := s.visitor(), s.visitor()
	s.get("/about", token)
	var export []exportJSON
	within(t, patience, "two views are written", func() bool {
		if err := json.Unmarshal([]byte(mustCrumb(t, dir, "track", "export", "--", id(token))), &export); err != nil {
			t.Fatal(err)
		}
		return len(export) == 1 && export[0].Visitor != nil && len(export[0].Visitor.Trail) == 2
	})
	if export[0].Session == nil || fmt.Sprint(export[0].Session.Values["hello.views"]) != "1" {
		t.Errorf("the export: %+v", export)
	}
	c, err := zs.OpenConn(filepath.Join(dir, "crumb-track.db"), zs.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := sqlitex.ExecuteTransient(c, "BEGIN IMMEDIATE", nil); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		slow.get("/about", token)
	}
	if resp, err := slow.client.Get(ops + "/metrics"); err != nil {
		t.Fatal(err)
	} else if page, err := io.ReadAll(resp.Body); err != nil || !bytes.Contains(page, []byte("\ncrumb_track_queue_entries 50\n")) || !bytes.Contains(page, []byte("\ncrumb_track_dropped_total 50\n")) {
		t.Errorf("the queue of 50 is not full: %v\n%s", err, page)
	}
	if err := sqlitex.ExecuteTransient(c, "ROLLBACK", nil); err != nil {
		t.Fatal(err)
	}
	if len(left(t, dir, id(token))) == 0 {
		t.Fatal("the ID is in no file before the erasure")
	}
	if out := mustCrumb(t, dir, "track", "erase", "--yes", "--", id(token)); out != "Erased 1 visitor.\n" {
		t.Errorf("%q", out)
	}
	if names := left(t, dir, id(token)); len(names) > 0 {
		t.Errorf("after the erasure the ID is in %v", names)
	}
	if a := s.get("/about", token); a.StatusCode != 200 || a.token() != "" {
		t.Errorf("the erased cookie was answered %s, %q", a.Status, a.token())
	}
	slow.stop()
	s.stop()
	if names := left(t, dir, id(token)); len(names) > 0 {
		t.Errorf("after the end of the servers the ID is in %v", names)
	}
	if o := crumb(t, dir, "trail", "--", id(token)); o.code != 1 || !strings.Contains(o.stderr, "nothing is known") {
		t.Errorf("exit %d: %s", o.code, o.stderr)
	}
	if o := crumb(t, dir, "track", "export", "--", id(token)); o.code != 1 || !strings.Contains(o.stderr, "nothing is stored") {
		t.Errorf("exit %d: %s", o.code, o.stderr)
	}
	if o := crumb(t, dir, "trail", "--", id(other)); o.code != 0 {
		t.Errorf("another visitor is gone too: %s", o.stderr)
	}
}

func TestCommandsAboutVisitorsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mustCrumb(t, dir, "schema", "apply")
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{1, "nothing was tracked yet: there is no file crumb-track.db", []string{"top"}},
		{1, "nothing was tracked yet", []string{"stats"}},
		{2, "trail needs one ID", []string{"trail"}},
		{2, "no ID of a session", []string{"trail", "x"}},
		{2, `there is no time zone "Mars"`, []string{"stats", "--zone", "Mars"}},
		{2, `"yesterday" is no day`, []string{"stats", "--day", "yesterday"}},
		{2, "--days is 1 to 366", []string{"stats", "--days", "0"}},
		{2, "--limit is less than 1", []string{"top", "--limit", "0"}},
		{2, "needs either IDs or --user USER", []string{"track", "erase"}},
		{2, "needs either IDs or --user USER", []string{"track", "export", "--user", ""}},
		{2, `there is no command "crumb track forget"`, []string{"track", "forget"}},
		{1, "the sessions of memory:", []string{"top", "--database", "memory:"}},
		{2, "track.sample", []string{"serve", "--track.sample=7"}},
		{2, "track.url", []string{"serve", "--track.url=redis://localhost"}},
		{2, "track.keep_trail", []string{"serve", "--track.keep_trail=1s"}},
		{2, "it must be at most keep_visitors (720h0m0s)", []string{"serve", "--track.keep_visitors=30d"}},
		{2, "it must be at most keep_counts (720h0m0s)", []string{"serve", "--track.keep_counts=30d"}},
	} {
		if o := crumb(t, dir, c.args...); o.code != c.code || !strings.Contains(o.stderr, c.want) || o.stdout != "" {
			t.Errorf("crumb %s: exit %d, %s%s", strings.Join(c.args, " "), o.code, o.stdout, o.stderr)
		}
	}
}

func TestTheQueueIsAmongTheMetrics(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), crumbPath, "--ops-addr=127.0.0.1:0", "--track.interval=5ms")
	ops := s.log.wait(t, `operators on (http://\S+)`)[1]
	token := s.visitor()
	s.get("/about", token)
	s.url = ops
	var page string
	within(t, patience, "two views are written", func() bool {
		page = s.get("/metrics", "").body
		return strings.Contains(page, "\ncrumb_track_written_total 2\n")
	})
	for _, want := range []string{"crumb_track_queue_entries 0", "crumb_track_queue_bytes 0", "crumb_track_dropped_total 0", "# TYPE crumb_track_batches_total counter"} {
		if !strings.Contains(page, want) {
			t.Errorf("the metrics have no %q", want)
		}
	}
}

func TestTrackingCanBeOff(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, dir, crumbPath, "--track.enabled=false")
	s.get("/about", s.visitor())
	s.stop()
	if _, err := os.Stat(filepath.Join(dir, "crumb-track.db")); !os.IsNotExist(err) {
		t.Errorf("there is a file of tracking: %v", err)
	}
}

func TestSparkline(t *testing.T) {
	points := func(views ...int64) (list []track.Point) {
		for _, n := range views {
			list = append(list, track.Point{Totals: track.Totals{Views: n}})
		}
		return list
	}
	for want, lists := range map[string][2][]track.Point{
		"·▁▄█": {points(0, 1, 50, 100), points()},
		"··":   {points(0, 0), points(0, 0)},
		"▁▁█":  {points(1, 2, 800), points(100)},
		"▁":    {points(1), points(1000)},
	} {
		if got := sparkline(lists[0], lists[1]); got != want {
			t.Errorf("%v is drawn %s, want %s", lists[0], got, want)
		}
	}
}
