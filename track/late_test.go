package track

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/session"
)

const someone = session.ID("visitor000000001")

// onEngines runs f with tables in SQLite and in the servers that are there.
func onEngines(t *testing.T, f func(t *testing.T, tables *Tables)) {
	urls := map[string]string{"sqlite": "sqlite:" + filepath.Join(t.TempDir(), "track.db")}
	for _, kind := range []string{servers.Postgres, servers.MySQL} {
		if url, ok := servers.URL(kind); ok {
			urls[kind] = url
		}
	}
	for kind, url := range urls {
		t.Run(kind, func(t *testing.T) { f(t, open(t, url)) })
	}
}

// of makes u the update of another visitor.
func of(id session.ID, u *update) *update {
	u.id = id
	return u
}

// seenAt is what one visitor did at a time, a second for each page.
func seenAt(at time.Time, pages ...string) *update {
	u := &update{id: someone, created: at.UnixMicro(), first: at.UnixMicro(), last: at.UnixMicro(), requests: int64(len(pages)), page: pages[len(pages)-1]}
	for i, page := range pages {
		u.entries = append(u.entries, entry{at: at.UnixMicro() + int64(i)*1e6, kind: view, name: page, method: methodOf("GET"), status: 200})
	}
	return u
}

func TestAVisitorWhoIsSweptAndComesBackIsWritten(t *testing.T) {
	tables := open(t, "memory:")
	at := time.Date(2026, 11, 22, 12, 0, 30, 0, time.UTC)
	write(t, tables, seenAt(at, "/"))
	if err := tables.Sweep(t.Context(), at.Add(30*time.Minute), Retention{Trail: 10 * time.Minute, Visitors: 10 * time.Minute}); err != nil {
		t.Fatal(err)
	}
	if _, err := tables.Visitor(t.Context(), someone); err == nil {
		t.Fatal("the visitor is there still")
	}
	write(t, tables, seenAt(at.Add(31*time.Minute), "/back"))
	if v, err := tables.Visitor(t.Context(), someone); err != nil || v.Page != "/back" {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestAVisitorOfWhomOnlyASlotIsLeftIsWritten(t *testing.T) {
	onEngines(t, func(t *testing.T, tables *Tables) {
		at := time.Date(2026, 11, 22, 12, 0, 30, 0, time.UTC)
		write(t, tables, seenAt(at, "/"))
		if _, err := tables.exec(t.Context(), tables.db, tables.sql("DELETE FROM {visitors}")); err != nil {
			t.Fatal(err)
		}
		write(t, tables, seenAt(at.Add(12*time.Minute), "/back")) // in the same quarter of an hour
		if v, err := tables.Visitor(t.Context(), someone); err != nil || v.Page != "/back" {
			t.Errorf("%+v, %v", v, err)
		}
	})
}

func TestAFirstVisitThatComesLateMovesTheFirstTimeBack(t *testing.T) {
	tables := open(t, "memory:")
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	write(t, tables, seenAt(at, "/second"))
	first := seenAt(at.Add(-5*time.Hour), "/first")
	first.created = at.UnixMicro()
	write(t, tables, first)
	v, err := tables.Visitor(t.Context(), someone)
	if err != nil || !v.First.Equal(at.Add(-5*time.Hour)) || v.Landing != "/first" || v.Page != "/second" {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestTheFirstPageStaysWhenTheTrailIsSwept(t *testing.T) {
	tables := open(t, "memory:")
	at := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	write(t, tables, seenAt(at, "/landing"))
	now := at.Add(95 * day)
	if err := tables.Sweep(t.Context(), now, Retention{}); err != nil {
		t.Fatal(err)
	}
	write(t, tables, seenAt(now.Add(time.Second), "/b"))
	write(t, tables, seenAt(now, "/late"))
	if v, err := tables.Visitor(t.Context(), someone); err != nil || v.Landing != "/landing" || !v.First.Equal(at) {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestASignInThatWasOvertakenIsNoted(t *testing.T) {
	for name, flushBetween := range map[string]bool{"in one batch": false, "in two": true} {
		tables := open(t, "memory:")
		tracker, err := New(Config{Tables: tables})
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		note := func(began time.Time, user, path string) {
			in := &session.Info{ID: someone, User: user, Created: now}
			tracker.note(in, httptest.NewRequest("GET", path, nil), began, []entry{{at: began.UnixMicro(), kind: view, name: path, method: methodOf("GET")}})
		}
		note(now.Add(100*time.Millisecond), "", "/poll")
		if flushBetween {
			if err := tracker.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		note(now, "alice", "/login")
		if err := tracker.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if ids, err := tables.OfUser(t.Context(), "alice"); err != nil || len(ids) != 1 {
			t.Errorf("%s: %v, %v", name, ids, err)
		}
	}
}

// TestVisitorsWhoAllComeLateCostAFewStatements has each visitor's second update
// belong before the first one, by some seconds for most and by hours for some.
func TestVisitorsWhoAllComeLateCostAFewStatements(t *testing.T) {
	onEngines(t, func(t *testing.T, tables *Tables) {
		const visitors = 10_000
		at := time.Date(2026, 11, 22, 12, 1, 0, 0, time.UTC)
		put := func(page string, before func(i int) time.Duration) int64 {
			var taken []*update
			for i := range visitors {
				u := of(session.ID(fmt.Sprintf("visitor%09d", i)), seenAt(at.Add(-before(i)), page))
				taken = append(taken, u)
			}
			was := tables.Statements()
			for _, b := range batchesOf(taken, at) {
				if err := tables.write(t.Context(), b); err != nil {
					t.Fatal(err)
				}
			}
			return tables.Statements() - was
		}
		put("/second", func(int) time.Duration { return 0 })
		n := put("/first", func(i int) time.Duration {
			if i%10 == 0 {
				return time.Duration(i%23+1) * time.Hour
			}
			return time.Duration(i%100+1) * time.Second
		})
		if n > 100 {
			t.Errorf("%d statements, want at most 100", n)
		}
		totals, err := tables.Totals(t.Context(), Span{From: at.Add(-24 * time.Hour), To: at.Add(time.Hour)})
		if want := (Totals{Visitors: visitors, Visits: visitors + visitors/10, Views: 2 * visitors}); err != nil || totals != want {
			t.Errorf("%+v, %v; want %+v", totals, err, want)
		}
	})
}

// What waits must not hold the lines, the headers or the records that it was cut out
// of: their bytes are counted nowhere.
func TestWhatWaitsHoldsNothingElseOfARequest(t *testing.T) {
	tables := open(t, "memory:")
	tracker, err := New(Config{Tables: tables})
	if err != nil {
		t.Fatal(err)
	}
	var whole []string
	cut := func(s string) string {
		whole = append(whole, strings.Repeat("x", 1000)+s)
		return whole[len(whole)-1][1000:]
	}
	r := &http.Request{Method: cut("POST"), Header: http.Header{"User-Agent": {cut("agent")}, "Accept-Language": {cut("de")}}}
	in := &session.Info{ID: session.ID(cut(string(someone))), User: cut("ann")}
	now := time.Now()
	tracker.note(in, r, now, []entry{{at: now.UnixMicro(), kind: view, name: "/", method: methodOf(r.Method)}})
	if st := tracker.Stats(); st.Depth != 1 { // which sorts the list
		t.Fatalf("%+v", st)
	}
	q := &tracker.queue
	held := []string{}
	for id, u := range q.visitors {
		held = append(held, string(id), string(u.id), u.user, u.agent, u.languages)
	}
	for id := range q.quotas {
		held = append(held, string(id))
	}
	for _, s := range held {
		at := uintptr(unsafe.Pointer(unsafe.StringData(s)))
		for _, w := range whole {
			if start := uintptr(unsafe.Pointer(unsafe.StringData(w))); at >= start && at < start+uintptr(len(w)) {
				t.Errorf("%q holds %d bytes", s, len(w))
			}
		}
	}
	if len(held) != 6 {
		t.Errorf("%q are held", held)
	}
}
