package track_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/track"
)

// erased fails the test if anything is known about a visitor.
func erased(t *testing.T, tables *track.Tables, id session.ID) {
	t.Helper()
	if v, err := tables.Visitor(t.Context(), id); !errors.Is(err, track.ErrNotFound) {
		t.Errorf("after the erasure the visitor is %+v, %v", v, err)
	}
	if e, err := tables.Export(t.Context(), id); !errors.Is(err, track.ErrNotFound) {
		t.Errorf("after the erasure the export is %+v, %v", e, err)
	}
	entries, err := tables.Trail(t.Context(), id, epoch.AddDate(-1, 0, 0), epoch.AddDate(1, 0, 0), 10)
	if err != nil || len(entries) > 0 {
		t.Errorf("after the erasure the trail is %v, %v", entries, err)
	}
}

func TestAnErasedVisitorStaysErased(t *testing.T) {
	onEachEngine(t, func(t *testing.T, tables *track.Tables) {
		s := newSite(t, tables, track.Config{})
		slow := newTracker(t, track.Config{Tables: tables, Now: s.Now})
		slowly := s.manager.Handler(slow.Handler(s.mux))
		b, unknown, other := s.visitor(), s.visitor(), s.visitor()
		s.advance(time.Second)
		b.get("/about")
		s.flush()
		s.advance(time.Second)
		for _, b := range []*browser{b, unknown, other} {
			b.do(slowly, "GET", "/about")
		}
		for range 2 { // twice is the same as once
			if err := tables.Erase(t.Context(), b.id(), s.Now()); err != nil {
				t.Fatal(err)
			}
		}
		if err := slow.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		erased(t, tables, b.id())
		same(t, "the trail of another visitor", other.trail(), []string{"GET / 200", "GET /about 200"})
	})
}

// TestWhatIsErasedIsNoLongerCounted compares the answers after some visitors were
// erased with those of a look at the views of the others.
func TestWhatIsErasedIsNoLongerCounted(t *testing.T) {
	onEachEngine(t, func(t *testing.T, tables *track.Tables) {
		s := newSite(t, tables, track.Config{PerSession: 1 << 20, MaxQueue: 1 << 20, MaxQueueBytes: 1 << 30})
		hits := traffic(t, s, sized(2000))
		gone := map[session.ID]bool{}
		for i, h := range hits {
			if i%40 == 0 && !gone[h.id] {
				gone[h.id] = true
				if err := tables.Erase(t.Context(), h.id, s.Now()); err != nil {
					t.Fatal(err)
				}
			}
		}
		rest := slices.DeleteFunc(hits, func(h hit) bool { return gone[h.id] })
		if len(gone) < 5 || len(rest) < 50 {
			t.Fatalf("%d visitors are erased and %d hits are left", len(gone), len(rest))
		}
		ask(t, s, rest)
	})
}

// TestAnErasureBesideAWriteLeavesNothing erases visitors while the first batch
// about them is being written.
func TestAnErasureBesideAWriteLeavesNothing(t *testing.T) {
	onEachEngine(t, func(t *testing.T, tables *track.Tables) {
		s := newSite(t, tables, track.Config{})
		for range sized(30) {
			b := s.visitor()
			var wg sync.WaitGroup
			wg.Go(func() {
				if err := s.tracker.Flush(t.Context()); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() {
				if err := tables.Erase(t.Context(), b.id(), s.Now()); err != nil {
					t.Error(err)
				}
			})
			wg.Wait()
			erased(t, tables, b.id())
		}
	})
}

// TestProcessesThatMeetNewVisitorsAtOnceCountEachOnce has two write about the same
// visitors at the same time.
func TestProcessesThatMeetNewVisitorsAtOnceCountEachOnce(t *testing.T) {
	onEachEngine(t, func(t *testing.T, tables *track.Tables) {
		s := newSite(t, tables, track.Config{})
		second := newTracker(t, track.Config{Tables: tables, Now: s.Now})
		h := s.manager.Handler(second.Handler(s.mux))
		for round := range 10 {
			s.advance(time.Hour)
			var all []*browser
			for range 20 {
				b := s.visitor()
				s.advance(time.Second)
				b.do(h, "GET", "/about")
				all = append(all, b)
			}
			var wg sync.WaitGroup
			for _, tr := range []*track.Tracker{s.tracker, second} {
				wg.Go(func() {
					if err := tr.Close(t.Context()); err != nil { // as both do in a restart
						t.Error(err)
					}
				})
			}
			wg.Wait()
			for _, b := range all {
				if v := b.visitor(); v.Requests != 2 || v.Landing != "/" || v.Page != "/about" {
					t.Errorf("round %d: %+v", round, v)
				}
			}
			totals, err := tables.Totals(t.Context(), track.Span{From: s.Now().Add(-15 * time.Minute), To: s.Now().Add(time.Second)})
			if want := (track.Totals{Visitors: 20, Visits: 20, Views: 40}); err != nil || totals != want {
				t.Errorf("round %d: %+v, %v; want %+v", round, totals, err, want)
			}
		}
	})
}

func TestTheExportIsComplete(t *testing.T) {
	onEachEngine(t, func(t *testing.T, tables *track.Tables) {
		s := newSite(t, tables, track.Config{Values: []string{"id"}})
		b := s.visitor()
		s.flush()
		for _, path := range []string{"/products/7", "/in/alice", "/about"} {
			s.advance(20 * time.Minute)
			b.get(path, "Referer", "https://news.example/story", "Accept-Language", "rm-CH")
		}
		s.advance(time.Second)
		b.do(s.handler, "POST", "/event/checkout", "Accept-Language", "rm-CH")
		s.flush()
		ids, err := tables.OfUser(t.Context(), "alice")
		if err != nil || !slices.Equal(ids, []session.ID{b.id()}) {
			t.Errorf("the visitors of alice: %v, %v", ids, err)
		}
		e, err := tables.Export(t.Context(), b.id())
		if err != nil {
			t.Fatal(err)
		}
		if len(e.Trail) != 6 || len(e.Active) != 4 || !e.Active[0].From.Equal(epoch) {
			t.Errorf("%d lines of the trail, want 6; active in %v", len(e.Trail), e.Active)
		}
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			string(b.id()), `"user":"alice"`, `"first_addr":"192.0.2.1"`, `"last_addr":"192.0.2.1"`, `"browser":"Firefox"`, `"system":"Linux"`,
			`"device":"desktop"`, `"language":"rm-ch"`, `"requests":5`, `"landing":"/"`, `"page":"/event/{name}"`, `"values":"id=7"`,
			`"referrer":"https://news.example"`, `"event":"checkout"`, `"attrs":{"price":12}`, `"first":"2026-11-02T09:00:00Z"`,
		} {
			if !bytes.Contains(text, []byte(want)) {
				t.Errorf("the export has no %s:\n%s", want, text)
			}
		}
	})
}

func TestWhatIsTooOldGoes(t *testing.T) {
	onEachEngine(t, func(t *testing.T, tables *track.Tables) {
		s := newSite(t, tables, track.Config{})
		sweep := func() {
			t.Helper()
			if err := tables.Sweep(t.Context(), s.Now(), track.Retention{}); err != nil {
				t.Fatal(err)
			}
		}
		var all []*browser
		for range sized(1100) { // more than two batches of a sweep
			all = append(all, s.visitor())
		}
		some := []*browser{all[0], all[len(all)/2], all[len(all)-1]}
		b := all[0]
		s.flush()
		views := func() int64 {
			totals, err := tables.Totals(t.Context(), track.Span{From: epoch, To: epoch.Add(time.Hour)})
			if err != nil {
				t.Fatal(err)
			}
			return totals.Views
		}
		at := func(age time.Duration) { s.set(epoch.Add(age)); sweep() }
		const day = 24 * time.Hour

		at(day)
		if got := b.visitor().FirstAddr; got != "192.0.2.1" {
			t.Errorf("after a day the address is %s", got)
		}
		at(day + time.Microsecond)
		for _, b := range some {
			if v := b.visitor(); v.FirstAddr != "192.0.2.0/24" || v.LastAddr != "192.0.2.0/24" {
				t.Fatalf("after more than a day the addresses are %s and %s", v.FirstAddr, v.LastAddr)
			}
		}
		at(90 * day)
		if n := len(b.trail()); n != 1 {
			t.Errorf("after 90 days %d views are there", n)
		}
		at(90*day + 15*time.Minute)
		for _, b := range some {
			if n := len(b.trail()); n != 0 {
				t.Fatalf("after more than 90 days %d views are there", n)
			}
		}
		at(400 * day)
		b.visitor()
		if n := views(); n != int64(len(all)) {
			t.Errorf("after 400 days %d views are counted", n)
		}
		at(400*day + 15*time.Minute)
		for _, b := range some {
			erased(t, tables, b.id())
		}
		at(402 * day)
		if n := views(); n != 0 {
			t.Errorf("after more than 400 days %d views are counted", n)
		}
	})
}

func TestAVisitorWhoComesBackHasTheNewAddressWholeForADay(t *testing.T) {
	s := newSite(t, sqliteTables(t), track.Config{})
	sweep := func() {
		t.Helper()
		if err := s.tables.Sweep(t.Context(), s.Now(), track.Retention{}); err != nil {
			t.Fatal(err)
		}
	}
	b := s.visitor()
	s.flush()
	s.advance(25 * time.Hour)
	b.get("/about")
	s.flush()
	sweep()
	if v := b.visitor(); v.FirstAddr != "192.0.2.0/24" || v.LastAddr != "192.0.2.1" {
		t.Errorf("the addresses are %s and %s", v.FirstAddr, v.LastAddr)
	}
	s.advance(25 * time.Hour)
	sweep()
	if v := b.visitor(); v.FirstAddr != "192.0.2.0/24" || v.LastAddr != "192.0.2.0/24" {
		t.Errorf("a day later they are %s and %s", v.FirstAddr, v.LastAddr)
	}
}

// bytesIn returns the files of a folder that hold text.
func bytesIn(t *testing.T, dir, text string) (names []string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, []byte(text)) {
			names = append(names, f.Name())
		}
	}
	return names
}

func TestNoByteOfAnErasedVisitorIsLeftInTheFilesOfSQLite(t *testing.T) {
	dir := t.TempDir()
	url := "sqlite:" + filepath.Join(dir, "track.db")
	s := newSite(t, openTables(t, url), track.Config{Values: []string{"id"}})
	b := s.visitor()
	for i := range 500 {
		s.advance(time.Second)
		b.get(fmt.Sprintf("/products/unmistakable%d", i), "Referer", "https://only-here.example")
	}
	for range 50 {
		s.visitor()
	}
	s.flush()
	traces := []string{string(b.id()), "unmistakable", "only-here.example"}
	for _, text := range traces {
		if len(bytesIn(t, dir, text)) == 0 {
			t.Fatalf("%s is in no file before the erasure", text)
		}
	}
	if err := s.tables.Erase(t.Context(), b.id(), s.Now()); err != nil {
		t.Fatal(err)
	}
	if err := track.Scrub(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	for _, text := range traces {
		if names := bytesIn(t, dir, text); len(names) > 0 {
			t.Errorf("%s is left in %v", text, names)
		}
	}
	if live, err := s.tables.Live(t.Context(), s.Now(), 100, nil); err != nil || live.Visitors != 50 {
		t.Errorf("%d visitors are left, %v; want 50", live.Visitors, err)
	}
}

func TestAScrubThatIsBlockedSaysSo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "track.db")
	url := "sqlite:" + path
	openTables(t, url)
	release := lock(t, path)
	defer release()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := track.Scrub(ctx, url); !errors.Is(err, track.ErrBlocked) || !strings.Contains(err.Error(), path) {
		t.Errorf("%v, want ErrBlocked and the file", err)
	}
	release()
	if err := track.Scrub(t.Context(), url); err != nil {
		t.Error(err)
	}
}
