package track

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/internal/sqldb"
	"github.com/crumb-go/crumb/session"
)

const filled = 150

// fill writes some visitors by hand.
func fill(t *testing.T, tables *Tables, now time.Time) {
	t.Helper()
	var taken []*update
	for i := range filled {
		at := now.Add(-time.Duration(i) * 10 * time.Minute).UnixMicro()
		u := &update{id: session.ID(fmt.Sprintf("visitor%09d", i)), user: fmt.Sprintf("user%d", i), created: at, first: at, last: at, requests: 1, page: "/about"}
		for j := range 3 {
			u.entries = append(u.entries, entry{at: at + int64(j)*1000, kind: view, name: fmt.Sprintf("/page%d", i%20), method: methodOf("GET"), status: 200, extra: &extra{referrer: "https://news.example"}})
		}
		taken = append(taken, u)
	}
	for _, b := range batchesOf(taken, now) {
		for range 2 { // the second time it changes nothing
			if err := tables.write(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestABatchWrittenTwiceCountsOnce(t *testing.T) {
	urls := []string{"sqlite:" + filepath.Join(t.TempDir(), "track.db")}
	for _, kind := range []string{servers.Postgres, servers.MySQL} {
		if url, ok := servers.URL(kind); ok {
			urls = append(urls, url)
		}
	}
	for _, url := range urls {
		tables := open(t, url)
		now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
		fill(t, tables, now)
		totals, err := tables.Totals(t.Context(), Span{From: now.AddDate(0, 0, -30), To: now.Add(time.Hour)})
		if want := (Totals{Visitors: filled, Visits: filled, Views: 3 * filled}); err != nil || totals != want {
			t.Errorf("%+v, %v; want %+v", totals, err, want)
		}
		v, err := tables.Visitor(t.Context(), "visitor000000007")
		if err != nil || v.Requests != 1 {
			t.Errorf("%+v, %v", v, err)
		}
	}
}

func open(t *testing.T, url string) *Tables {
	t.Helper()
	prefix := fmt.Sprintf("t%d_", time.Now().UnixNano())
	tables, err := OpenTables(t.Context(), url, TablesConfig{Create: true, TablePrefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if tables.db.Dialect != sqldb.SQLite {
			for _, name := range []string{"schema", "visitors", "trail", "slots", "counts", "erased", "batches"} {
				if _, err := tables.db.Exec(context.Background(), "DROP TABLE "+tables.table(name)); err != nil {
					t.Error(err)
				}
			}
		}
		if err := tables.Close(); err != nil {
			t.Error(err)
		}
	})
	return tables
}

var scanOfATable = regexp.MustCompile(`SCAN t\d+_track_|Seq Scan`)

// TestNoQuestionReadsAWholeTable asks every question and then the database how it
// finds the answer.
func TestNoQuestionReadsAWholeTable(t *testing.T) {
	urls := []string{"sqlite:" + filepath.Join(t.TempDir(), "track.db")}
	if url, ok := servers.URL(servers.Postgres); ok {
		urls = append(urls, url)
	}
	for _, url := range urls {
		tables := open(t, url)
		now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
		fill(t, tables, now)
		queries := map[string][]any{}
		var mu sync.Mutex // a question may be asked in parts at once
		tables.asked = func(query string, args []any) {
			mu.Lock()
			defer mu.Unlock()
			queries[query] = args
		}
		askAll(t, tables, now)
		tables.asked = nil
		if len(queries) < 12 {
			t.Fatalf("%d queries were made", len(queries))
		}
		for query, args := range queries {
			if plan := planOf(t, tables, query, args); scanOfATable.MatchString(plan) {
				t.Errorf("%s\nreads a whole table:\n%s", query, plan)
			}
		}
	}
}

func askAll(t *testing.T, tables *Tables, now time.Time) {
	t.Helper()
	ctx := t.Context()
	for _, span := range []Span{Day(now, time.UTC), {From: now.AddDate(0, 0, -20).Add(time.Hour), To: now, Bots: true}} {
		for _, ask := range []func() error{
			func() error { _, err := tables.Totals(ctx, span); return err },
			func() error { _, err := tables.Series(ctx, span, Hours, time.UTC); return err },
			func() error { _, err := tables.Top(ctx, span, Routes, 10, 0); return err },
			func() error { _, err := tables.Top(ctx, span, Exits, 10, 10); return err },
			func() error { _, err := tables.Devices(ctx, span); return err },
			func() error { _, err := tables.Live(ctx, now, 10, nil); return err },
			func() error {
				_, err := tables.Live(ctx, now, 10, &Present{Seen: now, ID: "visitor000000001"})
				return err
			},
			func() error { _, err := tables.Export(ctx, "visitor000000001"); return err },
			func() error { _, err := tables.Trail(ctx, "visitor000000001", span.From, span.To, 10); return err },
			func() error { _, err := tables.OfUser(ctx, "user1"); return err },
			func() error { return tables.Erase(ctx, "visitor000000002", now) },
			func() error { return tables.Sweep(ctx, now, Retention{}) },
		} {
			if err := ask(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func planOf(t *testing.T, tables *Tables, query string, args []any) string {
	t.Helper()
	var plan strings.Builder
	err := tables.db.Tx(t.Context(), func(tx *sqldb.Tx) error {
		plan.Reset()
		if tables.db.Dialect == sqldb.Postgres {
			// These tables are small enough to be read whole; whether they could be
			// read otherwise is the question.
			if _, err := tx.Exec(t.Context(), "SET LOCAL enable_seqscan = off"); err != nil {
				return err
			}
			return tx.Rows(t.Context(), "EXPLAIN "+query, args, func(scan sqldb.Scan) error {
				var line string
				err := scan(&line)
				plan.WriteString(line + "\n")
				return err
			})
		}
		return tx.Rows(t.Context(), "EXPLAIN QUERY PLAN "+query, args, func(scan sqldb.Scan) error {
			var id, parent, unused int
			var line string
			err := scan(&id, &parent, &unused, &line)
			plan.WriteString(line + "\n")
			return err
		})
	})
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return plan.String()
}

func TestTruncated(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.77": "192.0.2.0/24", "2001:db8:1:2:3::4": "2001:db8:1::/48", "": "", "192.0.2.0/24": "192.0.2.0/24",
	} {
		if got := truncated(addr); got != want {
			t.Errorf("%q becomes %q, want %q", addr, got, want)
		}
	}
}

func TestRoutesAreReadFromPatterns(t *testing.T) {
	for pattern, want := range map[string]route{
		"":                                 {path: "(unmatched)"},
		"/about":                           {path: "/about"},
		"GET /a/{id}/{rest...}":            {path: "/a/{id}/{rest...}", values: []string{"id", "rest"}},
		"POST shop.example/{$}":            {path: "shop.example/{$}"},
		"GET /static/x":                    {path: "/static/x", ignored: true},
		"GET /" + strings.Repeat("é", 200): {path: "/" + strings.Repeat("é", 99)},
	} {
		got := newRoute(pattern, []string{"/static/*", "GET /b"}, []string{"id", "rest"})
		if fmt.Sprint(*got) != fmt.Sprint(want) {
			t.Errorf("%q is %v, want %v", pattern, *got, want)
		}
	}
}

func TestTheMemoryOfAgentsIsBounded(t *testing.T) {
	var a agents
	for i := range 3 * maxAgents {
		if d := a.parse(fmt.Sprintf("Googlebot/%d", i)); !d.bot {
			t.Fatalf("%+v", d)
		}
	}
	if n := len(a.now) + len(a.old); n > 2*maxAgents {
		t.Errorf("%d agents are remembered, at most %d should be", n, 2*maxAgents)
	}
}

func FuzzWhatHeadersSay(f *testing.F) {
	f.Add("Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0", "de-CH,de;q=0.9", "https://news.example/story")
	f.Add("\x1b[2J", "*", "javascript:x")
	f.Add("(", "\xff", "https://[::1]:8080/")
	f.Fuzz(func(t *testing.T, agent, languages, from string) {
		d := parseAgent(cutText(agent, maxAgent))
		if parts := strings.Split(d.label, "/"); len(parts) != 3 || len(d.label) > 64 {
			t.Errorf("agent %q: %q", agent, d.label)
		}
		if l := language(languages); len(l) > maxLanguage || strings.ContainsFunc(l, func(c rune) bool { return c != '-' && (c < '0' || c > 'z') }) {
			t.Errorf("languages %q: %q", languages, l)
		}
		r := &http.Request{Host: "here.example", Header: http.Header{"Referer": {from}}}
		origin := referrer(r)
		if origin == "" {
			return
		}
		u, err := url.Parse(origin)
		if err != nil || u.Scheme+"://"+u.Host != origin || len(origin) > maxReferrer {
			t.Errorf("referrer %q: %q, %v", from, origin, err)
		}
	})
}

func FuzzCutText(f *testing.F) {
	f.Add("héllo\x00\xff", 4)
	f.Fuzz(func(t *testing.T, s string, n int) {
		if n < 0 || n > 1000 {
			return
		}
		got := cutText(s, n)
		if len(got) > n || !utf8.ValidString(got) || strings.Contains(got, "\x00") {
			t.Errorf("cutText(%q, %d) is %q", s, n, got)
		}
		if len(s) <= n && utf8.ValidString(s) && !strings.Contains(s, "\x00") && got != s {
			t.Errorf("cutText(%q, %d) is %q", s, n, got)
		}
	})
}
