package track_test

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/track"
)

// A hit is a view or an event that a test made.
type hit struct {
	id              session.ID
	at              time.Time
	event           string // "" for a view
	route, referrer string
	bot             bool
	browser         string
}

// traffic makes n requests of many visitors over some days to two processes that
// write at times of their own, so that much comes late, and returns what was done.
func traffic(t *testing.T, s *site, n int) (hits []hit) {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	second := newTracker(t, track.Config{Tables: s.tables, Now: s.Now, PerSession: 1 << 20, MaxQueue: 1 << 20, MaxQueueBytes: 1 << 30})
	processes := []*track.Tracker{s.tracker, second}
	handlers := []http.Handler{s.handler, s.manager.Handler(second.Handler(s.mux))}
	agents := []struct {
		agent, browser string
		bot            bool
	}{
		{firefox, "Firefox", false},
		{"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36", "Chrome", false},
		{"Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Mobile/15E148 Safari/604.1", "Safari", false},
		{"Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "Other", true},
	}
	referrers := []string{"", "", "", "https://news.example", "https://search.example"}
	var browsers []*browser
	var agentOf []int
	for i := range n {
		s.advance(time.Duration(1+random.IntN(int(20*24*time.Hour/time.Duration(n)/(10*time.Microsecond)))) * 10 * time.Microsecond)
		k := random.IntN(n / 50 * 2)
		if random.IntN(3) > 0 && len(browsers) > 0 { // most visits go on for some pages
			k = max(0, len(browsers)-1-random.IntN(8))
		}
		path, route, method, event := "/", "/", "GET", ""
		if k >= len(browsers) {
			k = len(browsers)
			which := random.IntN(len(agents))
			browsers, agentOf = append(browsers, &browser{s: s, agent: agents[which].agent}), append(agentOf, which)
		} else {
			switch random.IntN(8) {
			case 0:
				path, route = "/about", "/about"
			case 1, 2:
				path, route = fmt.Sprintf("/products/%d", i), "/products/{id}"
			case 3:
				path, route = "/search/a/b", "/search/{words...}"
			case 4:
				method, path, route, event = "POST", "/event/checkout", "/event/{name}", "checkout"
			}
		}
		b, a := browsers[k], agents[agentOf[k]]
		ref := referrers[random.IntN(len(referrers))]
		p := random.IntN(2)
		w := b.do(handlers[p], method, path, "Referer", ref+"/a/page?with=secrets")
		if w.Code != 200 {
			t.Fatalf("%s %s was answered %d: %s", method, path, w.Code, w.Body)
		}
		h := hit{b.id(), s.Now(), "", route, ref, a.bot, a.browser}
		hits = append(hits, h)
		if event != "" {
			h.event = event
			hits = append(hits, h)
		}
		if random.IntN(n/50) == 0 {
			if err := processes[random.IntN(2)].Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, p := range processes {
		if err := p.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if st := p.Stats(); st.Dropped+st.Capped+int64(st.Depth) != 0 {
			t.Fatalf("not all was written: %+v", st)
		}
	}
	return hits
}

// The answers as one finds them by looking at each hit.

func in(h hit, s track.Span) bool {
	return !h.at.Before(s.From) && h.at.Before(s.To) && (s.Bots || !h.bot)
}

func wantTotals(hits []hit, landings map[int]bool, s track.Span) (out track.Totals) {
	visitors := map[session.ID]bool{}
	first, _ := slices.BinarySearchFunc(hits, s.From, func(h hit, at time.Time) int { return h.at.Compare(at) })
	for i := first; i < len(hits) && hits[i].at.Before(s.To); i++ {
		h := hits[i]
		if h.bot && !s.Bots {
			continue
		}
		visitors[h.id] = true
		if h.event != "" {
			out.Events++
		} else {
			out.Views++
		}
		if landings[i] {
			out.Visits++
		}
	}
	out.Visitors = int64(len(visitors))
	return out
}

// visits returns which hits begin and end visits.
func visits(hits []hit) (landings, exits map[int]bool) {
	landings, exits = map[int]bool{}, map[int]bool{}
	last := map[session.ID]int{}
	for i, h := range hits {
		if h.event != "" {
			continue
		}
		before, ok := last[h.id]
		if !ok || h.at.Sub(hits[before].at) > track.VisitGap {
			landings[i] = true
		} else {
			delete(exits, before)
		}
		exits[i] = true
		last[h.id] = i
	}
	return landings, exits
}

func wantTop(hits []hit, s track.Span, name func(i int, h hit) string) []track.Count {
	by := map[string]int64{}
	for i, h := range hits {
		if n := name(i, h); n != "" && in(h, s) {
			by[n]++
		}
	}
	list := []track.Count{}
	for name, n := range by {
		list = append(list, track.Count{Name: name, N: n})
	}
	slices.SortFunc(list, func(a, b track.Count) int { return cmp.Or(cmp.Compare(b.N, a.N), cmp.Compare(a.Name, b.Name)) })
	return list
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %v\nwant %v", what, got, want)
	}
}

// ask puts every question and compares the answers with those of a look at each
// hit.
func ask(t *testing.T, s *site, hits []hit) {
	t.Helper()
	ctx := t.Context()
	landings, exits := visits(hits)
	zurich, err := time.LoadLocation("Europe/Zurich")
	if err != nil {
		t.Fatal(err)
	}
	kathmandu, err := time.LoadLocation("Asia/Kathmandu") // 5 hours 45 minutes from UTC
	if err != nil {
		t.Fatal(err)
	}
	zones := []*time.Location{kathmandu, zurich, time.UTC}
	for _, zone := range zones[:sized(30)/10] {
		for _, span := range []track.Span{
			track.Day(epoch.AddDate(0, 0, 5), zone),
			{From: time.Date(2026, 11, 4, 0, 0, 0, 0, zone), To: time.Date(2026, 11, 18, 0, 0, 0, 0, zone)},
			{From: time.Date(2026, 11, 3, 10, 15, 0, 0, zone), To: time.Date(2026, 11, 3, 11, 0, 0, 0, zone), Bots: true},
			{From: epoch, To: s.Now().Add(15 * time.Minute).Truncate(15 * time.Minute), Bots: true},
		} {
			for _, span := range []track.Span{span, span.Before(zone)} {
				name := fmt.Sprintf("%s to %s, bots %t", span.From, span.To, span.Bots)
				totals, err := s.tables.Totals(ctx, span)
				if err != nil {
					t.Fatal(err)
				}
				same(t, "totals from "+name, totals, wantTotals(hits, landings, span))
				for _, step := range []track.Step{track.Quarters, track.Hours, track.Days} {
					if span.To.Sub(span.From) > 2*24*time.Hour && step == track.Quarters {
						continue
					}
					points, err := s.tables.Series(ctx, span, step, zone)
					if err != nil {
						t.Fatal(err)
					}
					checkSeries(t, name, points, span, step, hits, landings)
				}
				for ranking, of := range map[track.Ranking]func(i int, h hit) string{
					track.Routes: func(_ int, h hit) string { return map[bool]string{true: h.route}[h.event == ""] },
					track.Referrers: func(_ int, h hit) string {
						return map[bool]string{true: h.referrer}[h.event == ""]
					},
					track.Landings: func(i int, h hit) string { return map[bool]string{true: h.route}[landings[i]] },
					track.Exits:    func(i int, h hit) string { return map[bool]string{true: h.route}[exits[i]] },
					track.Events:   func(_ int, h hit) string { return h.event },
				} {
					want := wantTop(hits, span, of)
					got, err := s.tables.Top(ctx, span, ranking, 100, 0)
					if err != nil {
						t.Fatal(err)
					}
					same(t, fmt.Sprintf("ranking %d from %s", ranking, name), got, want)
					if len(want) > 2 {
						got, err = s.tables.Top(ctx, span, ranking, 2, 1)
						if err != nil {
							t.Fatal(err)
						}
						same(t, fmt.Sprintf("a page of ranking %d from %s", ranking, name), got, want[1:3])
					}
				}
				devices, err := s.tables.Devices(ctx, span)
				if err != nil {
					t.Fatal(err)
				}
				first := map[session.ID]bool{}
				same(t, "browsers from "+name, devices.Browsers, wantTop(hits, span, func(_ int, h hit) string {
					if !in(h, span) || first[h.id] {
						return ""
					}
					first[h.id] = true
					return h.browser
				}))
			}
		}
	}
}

func checkSeries(t *testing.T, name string, points []track.Point, span track.Span, step track.Step, hits []hit, landings map[int]bool) {
	t.Helper()
	at := span.From
	for _, p := range points {
		if !p.From.Equal(at) || !p.To.After(p.From) {
			t.Fatalf("series %d from %s: a point from %s to %s after %s", step, name, p.From, p.To, at)
		}
		want := wantTotals(hits, landings, track.Span{From: p.From, To: p.To, Bots: span.Bots})
		if p.Totals != want {
			t.Errorf("series %d from %s, %s to %s:\n got %v\nwant %v", step, name, p.From, p.To, p.Totals, want)
		}
		at = p.To
	}
	if !at.Equal(span.To) {
		t.Errorf("series %d from %s ends at %s", step, name, at)
	}
}

func TestAnswersAreThoseOfALookAtEachView(t *testing.T) {
	onEachEngine(t, func(t *testing.T, tables *track.Tables) {
		n := sized(5_000)
		if strings.HasSuffix(t.Name(), "/sqlite") && !raceEnabled {
			n = 100_000
		}
		s := newSite(t, tables, track.Config{PerSession: 1 << 20, MaxQueue: 1 << 20, MaxQueueBytes: 1 << 30})
		hits := traffic(t, s, n)
		ask(t, s, hits)
		checkTrails(t, s, hits)
	})
}

// checkTrails compares the trails of some visitors.
func checkTrails(t *testing.T, s *site, hits []hit) {
	t.Helper()
	by := map[session.ID][]hit{}
	for _, h := range hits {
		by[h.id] = append(by[h.id], h)
	}
	ids := slices.Sorted(maps.Keys(by))
	for _, id := range ids[:min(20, len(ids))] {
		var got, want []string
		from := epoch
		for {
			page, err := s.tables.Trail(t.Context(), id, from, s.Now().Add(time.Hour), 7)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range page {
				got = append(got, e.Route+e.Event)
			}
			if len(page) < 7 {
				break
			}
			from = page[6].Time.Add(time.Microsecond)
		}
		for _, h := range by[id] {
			if h.event != "" { // it stands before the view of its request: their times are the same
				want = slices.Insert(want, len(want)-1, h.event)
			} else {
				want = append(want, h.route)
			}
		}
		same(t, "the trail of "+string(id), got, want)
	}
}
