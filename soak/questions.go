package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
	"github.com/crumb-go/crumb/track"
)

const (
	trackDays    = 30
	longestReply = 200 * time.Millisecond // to a question
)

var trackStart = time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)

// A look is a view or an event that somebody made, as small as it can be.
type look struct {
	visitor        int32
	at             int64 // microseconds after trackStart
	route, from    uint8
	bot, event     bool
	landing, leave bool // where a visit begins, and where it ends
}

// runQuestions makes views through the tracker, on SQLite and PostgreSQL, and asks
// every question about them.
func runQuestions(ctx context.Context, r *run, f *figures) (*figures, error) {
	f.Rows = nil
	dir := filepath.Join(r.dir, "questions")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "track.db")
	err := askAbout(ctx, r, f, "SQLite", "sqlite:"+path, func() int64 { return fileSize(path) })
	if err != nil {
		return f, err
	}
	server, err := startEngine(ctx, servers.Postgres, filepath.Join(dir, "postgres"))
	if err != nil {
		return f, err
	}
	return f, errors.Join(askAbout(ctx, r, f, "PostgreSQL", server.URL, nil), server.Stop())
}

func askAbout(ctx context.Context, r *run, f *figures, engine, url string, size func() int64) error {
	tables, err := track.OpenTables(ctx, url, track.TablesConfig{Create: true})
	if err != nil {
		return err
	}
	defer tables.Close()
	p := newPublic(tables)
	if err := p.visits(ctx, r.Views, r.bar); err != nil {
		return err
	}
	f.add(engine+": views and events of visitors, and how long writing them took", "%d of %d, %v", len(p.looks), len(p.ids), p.writing.Round(time.Second))
	if size != nil {
		f.add(engine+": bytes for each", "%d", size()/int64(len(p.looks)))
	}
	var slowest time.Duration
	var slow, wrong []string
	what := ""
	questions := p.questions(tables)
	for _, q := range questions {
		var took []time.Duration
		for range 3 {
			began := time.Now()
			got, err := q.ask(ctx)
			took = append(took, time.Since(began))
			if err != nil {
				return fmt.Errorf("%s: %s: %w", engine, q.what, err)
			}
			if want := q.want(); !reflect.DeepEqual(got, want) {
				wrong = append(wrong, fmt.Sprintf("%s: %.300s, want %.300s", q.what, fmt.Sprint(got), fmt.Sprint(want)))
				break
			}
		}
		d := quantile(took, 0.5)
		if d > longestReply {
			slow = append(slow, fmt.Sprintf("%s %v", q.what, d))
		}
		if d >= slowest {
			slowest, what = d, q.what
		}
	}
	f.add(engine+": questions, exact", "%d, %d", len(questions), len(questions)-len(wrong))
	f.add(engine+": the slowest answer (median of three)", "%v, %s", slowest, what)
	if len(slow)+len(wrong) > 0 {
		return fmt.Errorf("%s: %d answers are wrong and %d slow:\n%s", engine, len(wrong), len(slow), strings.Join(append(wrong, slow...), "\n"))
	}
	return nil
}

// The public are visitors of a site, whose clock is theirs.
type public struct {
	now     atomic.Int64 // microseconds after trackStart
	handler http.Handler
	tracker *track.Tracker
	writing time.Duration

	looks   []look
	ids     []session.ID
	cookies []string
	bots    []bool
	agent   []uint8
}

var (
	publicRoutes = []string{"/", "/about", "/products/{id}", "/search/{words...}", "/news", "/cart", "/help", "/terms"}
	publicPaths  = []string{"/", "/about", "/products/17", "/search/a/b", "/news", "/cart", "/help", "/terms"}
	publicFrom   = []string{"", "https://news.example", "https://search.example"}
	publicAgents = []string{
		"Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
		"Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
	}
	publicBrowsers = []string{"Firefox", "Chrome", "Other"}
	publicVisit    = session.NewCounter("soak.visit")
)

func (p *public) Now() time.Time {
	return trackStart.Add(time.Duration(p.now.Load()) * time.Microsecond)
}

func newPublic(tables *track.Tables) *public {
	p := &public{}
	const long = 2 * trackDays * 24 * time.Hour // no session ends
	m, err := session.NewManager(memory.New(), session.Config{Insecure: true, Now: p.Now, FirstVisit: long, VisitorIdleTimeout: long})
	if err == nil {
		p.tracker, err = track.New(track.Config{
			Tables: tables, Now: p.Now, PerSession: math.MaxInt, MaxQueue: 1 << 20, MaxQueueBytes: 1 << 30,
			Retention: track.Retention{Trail: long},
		})
	}
	if err != nil {
		panic(err) // of constants
	}
	mux := http.NewServeMux()
	for _, route := range publicRoutes {
		pattern := "GET " + route
		if route == "/" {
			pattern = "GET /{$}"
		}
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if s := session.From(r); publicVisit.Get(s) == 0 {
				publicVisit.Add(s, 1)
			}
		})
	}
	mux.HandleFunc("POST /buy", func(w http.ResponseWriter, r *http.Request) {
		if err := track.Event(r, "buy", map[string]any{"price": 12}); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	p.handler = m.Handler(p.tracker.Handler(mux))
	return p
}

// visits makes n views over thirty days, more by day than by night: most of them go
// on with a visit of the last half an hour, others are by somebody new or by
// somebody who was here before.
func (p *public) visits(ctx context.Context, n int, b *bar) error {
	random := rand.New(rand.NewPCG(1, 2))
	type visit struct {
		who  int32
		last int64
	}
	var open []visit
	const dayMicros = 24 * 3600 * 1e6
	step := float64(trackDays*dayMicros) / float64(n)
	for i := range n {
		b.at(i, n, "views")
		if ctx.Err() != nil {
			return ctx.Err()
		}
		hour := float64(i%max(1, n/trackDays)) / float64(max(1, n/trackDays))
		p.now.Add(1 + int64(2*random.Float64()*step*(1+0.8*math.Cos(2*math.Pi*hour))))
		now := p.now.Load()
		k := random.IntN(max(1, len(open)))
		who := int32(-1)
		switch d := random.IntN(10); {
		case d < 8 && len(open) > 0 && now-open[k].last < 20*60*1e6:
			who = open[k].who
		case d == 9 && len(p.ids) > 0:
			who = int32(random.IntN(len(p.ids)))
		}
		if err := p.view(who, random); err != nil {
			return err
		}
		who = p.looks[len(p.looks)-1].visitor
		if len(open) < 64 {
			open = append(open, visit{who, now})
		} else {
			open[k] = visit{who, now}
		}
		if i%5000 == 0 {
			if err := p.flush(ctx); err != nil {
				return err
			}
		}
	}
	p.mark()
	err := p.flush(ctx)
	if st := p.tracker.Stats(); st.Dropped+st.Capped+st.Failed > 0 {
		err = errors.Join(err, fmt.Errorf("not all was written: %+v", st))
	}
	return err
}

func (p *public) flush(ctx context.Context) error {
	began := time.Now()
	err := p.tracker.Flush(ctx)
	p.writing += time.Since(began)
	return err
}

// view makes a request of a visitor, a new one if who is negative.
func (p *public) view(who int32, random *rand.Rand) error {
	method, route, from := "GET", uint8(random.IntN(len(publicRoutes))), uint8(0)
	buys := who >= 0 && random.IntN(20) == 0
	isNew := who < 0
	if isNew {
		who, from = int32(len(p.ids)), uint8(random.IntN(len(publicFrom)))
		agent := uint8(random.IntN(20))
		p.agent = append(p.agent, min(agent/10, 1)+agent/19)
		p.ids, p.cookies, p.bots = append(p.ids, ""), append(p.cookies, ""), append(p.bots, agent == 19)
	}
	path := publicPaths[route]
	if buys {
		method, path = "POST", "/buy"
	}
	r := httptest.NewRequest(method, "http://site.example"+path, nil)
	r.Header.Set("User-Agent", publicAgents[p.agent[who]])
	if from > 0 {
		r.Header.Set("Referer", publicFrom[from]+"/page")
	}
	if !isNew {
		r.Header.Set("Cookie", "crumb="+p.cookies[who])
	}
	w := httptest.NewRecorder()
	p.handler.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		return fmt.Errorf("%s %s was answered %d: %s", method, path, w.Code, w.Body)
	}
	for _, c := range w.Result().Cookies() {
		p.cookies[who], p.ids[who] = c.Value, session.ID(c.Value[:16])
	}
	l := look{visitor: who, at: p.now.Load(), route: route, from: from, bot: p.bots[who]}
	if buys {
		e := l
		e.event = true
		p.looks, l.route = append(p.looks, e), uint8(len(publicRoutes)) // the view of /buy
	}
	p.looks = append(p.looks, l)
	return nil
}

// mark finds where visits begin and end.
func (p *public) mark() {
	last := map[int32]int{}
	for i := range p.looks {
		l := &p.looks[i]
		if l.event {
			continue
		}
		before, ok := last[l.visitor]
		if !ok || time.Duration(l.at-p.looks[before].at)*time.Microsecond > track.VisitGap {
			l.landing = true
		} else {
			p.looks[before].leave = false
		}
		l.leave = true
		last[l.visitor] = i
	}
}

// A question is one that the tables answer, and what a look at every view says.
type question struct {
	what string
	ask  func(ctx context.Context) (any, error)
	want func() any
}

func (p *public) questions(t *track.Tables) (list []question) {
	add := func(what string, ask func(ctx context.Context) (any, error), want func() any) {
		list = append(list, question{what, ask, sync.OnceValue(want)})
	}
	day := trackStart.AddDate(0, 0, 17)
	for _, s := range []struct {
		name string
		span track.Span
		step track.Step
	}{
		{"a day", track.Span{From: day, To: day.AddDate(0, 0, 1)}, track.Quarters},
		{"a day by the hour", track.Span{From: day, To: day.AddDate(0, 0, 1)}, track.Hours},
		{"a week", track.Span{From: day, To: day.AddDate(0, 0, 7)}, track.Days},
		{"a month", track.Span{From: trackStart, To: trackStart.AddDate(0, 0, trackDays)}, track.Days},
		{"a month, with bots", track.Span{From: trackStart, To: trackStart.AddDate(0, 0, trackDays), Bots: true}, track.Days},
	} {
		span := s.span
		add("totals of "+s.name, func(ctx context.Context) (any, error) { return t.Totals(ctx, span) }, func() any { return p.totals(span) })
		add("the series of "+s.name, func(ctx context.Context) (any, error) { return t.Series(ctx, span, s.step, time.UTC) }, func() any {
			step := map[track.Step]time.Duration{track.Quarters: 15 * time.Minute, track.Hours: time.Hour, track.Days: 24 * time.Hour}[s.step]
			var points []track.Point
			for at := span.From; at.Before(span.To); at = at.Add(step) {
				points = append(points, track.Point{From: at, To: at.Add(step), Totals: p.totals(track.Span{From: at, To: at.Add(step), Bots: span.Bots})})
			}
			return points
		})
		for of, name := range map[track.Ranking]func(l *look) string{
			track.Routes:    func(l *look) string { return l.name() },
			track.Referrers: func(l *look) string { return publicFrom[l.from] },
			track.Landings:  func(l *look) string { return map[bool]string{true: l.name()}[l.landing] },
			track.Exits:     func(l *look) string { return map[bool]string{true: l.name()}[l.leave] },
			track.Events:    func(l *look) string { return map[bool]string{true: "buy"}[l.event] },
		} {
			add(fmt.Sprintf("ranking %d of %s", of, s.name), func(ctx context.Context) (any, error) { return t.Top(ctx, span, of, 100, 0) }, func() any {
				return p.top(span, func(l *look) string {
					if l.event != (of == track.Events) {
						return ""
					}
					return name(l)
				})
			})
		}
		add("devices of "+s.name, func(ctx context.Context) (any, error) {
			d, err := t.Devices(ctx, span)
			return d.Browsers, err
		}, func() any {
			seen := map[int32]bool{}
			return p.top(span, func(l *look) string {
				if seen[l.visitor] {
					return ""
				}
				seen[l.visitor] = true
				return publicBrowsers[p.agent[l.visitor]]
			})
		})
	}
	add("who is here now", func(ctx context.Context) (any, error) {
		live, err := t.Live(ctx, p.Now(), 10, nil)
		return live.Visitors + live.Bots, err
	}, func() any {
		here := map[int32]bool{}
		for i := len(p.looks) - 1; i >= 0 && p.now.Load()-p.looks[i].at <= track.LiveWindow.Microseconds(); i-- {
			here[p.looks[i].visitor] = true
		}
		return len(here)
	})
	busiest := p.busiest()
	add("the trail of the busiest visitor", func(ctx context.Context) (any, error) {
		entries, err := t.Trail(ctx, p.ids[busiest], trackStart, p.Now().Add(time.Hour), math.MaxInt32)
		names := []string{}
		for _, e := range entries {
			names = append(names, e.Route+e.Event)
		}
		return names, err
	}, func() any {
		names := []string{}
		for i := range p.looks {
			switch l := &p.looks[i]; {
			case l.visitor != busiest:
			case l.event:
				names = append(names, "buy")
			default:
				names = append(names, l.name())
			}
		}
		return names
	})
	return list
}

func (l *look) name() string {
	if int(l.route) == len(publicRoutes) {
		return "/buy"
	}
	if l.route == 0 {
		return "/{$}"
	}
	return publicRoutes[l.route]
}

// in calls f for all in a span.
func (p *public) in(s track.Span, f func(l *look)) {
	from, to := s.From.Sub(trackStart).Microseconds(), s.To.Sub(trackStart).Microseconds()
	first, _ := slices.BinarySearchFunc(p.looks, from, func(l look, at int64) int { return cmp.Compare(l.at, at) })
	for i := first; i < len(p.looks) && p.looks[i].at < to; i++ {
		if l := &p.looks[i]; s.Bots || !l.bot {
			f(l)
		}
	}
}

func (p *public) totals(s track.Span) (out track.Totals) {
	visitors := map[int32]bool{}
	p.in(s, func(l *look) {
		visitors[l.visitor] = true
		switch {
		case l.event:
			out.Events++
		default:
			out.Views++
		}
		if l.landing {
			out.Visits++
		}
	})
	out.Visitors = int64(len(visitors))
	return out
}

func (p *public) top(s track.Span, name func(l *look) string) []track.Count {
	by := map[string]int64{}
	p.in(s, func(l *look) {
		if n := name(l); n != "" {
			by[n]++
		}
	})
	list := []track.Count{}
	for name, n := range by {
		list = append(list, track.Count{Name: name, N: n})
	}
	slices.SortFunc(list, func(a, b track.Count) int { return cmp.Or(cmp.Compare(b.N, a.N), cmp.Compare(a.Name, b.Name)) })
	return list
}

func (p *public) busiest() (who int32) {
	by := make([]int, len(p.ids))
	for i := range p.looks {
		l := &p.looks[i]
		if by[l.visitor]++; by[l.visitor] > by[who] {
			who = l.visitor
		}
	}
	return who
}
