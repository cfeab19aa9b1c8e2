package track

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/crumb-go/crumb/internal/sqldb"
)

// A Span is the time a question is about, from From to before To, in whole
// quarters of an hour: From is rounded down to one and To up.
type Span struct {
	From, To time.Time
	Bots     bool // counts bots too
}

func (s Span) slots() (from, to int64) {
	return slotOf(s.From.UnixMicro()), slotOf(s.To.UnixMicro() + quarter - 1)
}

func (s Span) check() error {
	from, to := s.slots()
	if from < 0 || to <= from {
		return fmt.Errorf("the span from %s to %s is empty", s.From.Format(time.RFC3339), s.To.Format(time.RFC3339))
	}
	if to-from > int64(maxRetention/(15*time.Minute)) {
		return fmt.Errorf("the span from %s to %s is longer than 10 years", s.From.Format(time.RFC3339), s.To.Format(time.RFC3339))
	}
	return nil
}

// Before returns the span of the same length that ends where s begins. One of whole
// days of zone goes back by days, so that it begins at midnight also when the
// clocks were changed.
func (s Span) Before(zone *time.Location) Span {
	from, to := s.From.In(zone), s.To.In(zone)
	if from.Equal(midnight(from)) && to.Equal(midnight(to)) {
		n := daysBetween(from, to)
		return Span{from.AddDate(0, 0, -n), s.From, s.Bots}
	}
	return Span{s.From.Add(-s.To.Sub(s.From)), s.From, s.Bots}
}

// Day returns the span of the day of now in zone.
func Day(now time.Time, zone *time.Location) Span {
	from := midnight(now.In(zone))
	return Span{From: from, To: nextDay(from)}
}

// midnight is the begin of the day of t: where clocks skip it, the first moment
// there is.
func midnight(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, t.Location())
}

func nextDay(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day()+1, 0, 0, 0, 0, t.Location())
}

func daysBetween(from, to time.Time) int {
	utc := func(t time.Time) time.Time { return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC) }
	return int(utc(to).Sub(utc(from)) / day)
}

// Totals are the numbers of a time.
type Totals struct {
	Visitors int64 `json:"visitors"` // sessions with a view or an event, each once
	Visits   int64 `json:"visits"`   // that began then; see [VisitGap]
	Views    int64 `json:"views"`
	Events   int64 `json:"events"`
}

// Totals returns the numbers of a span.
func (t *Tables) Totals(ctx context.Context, s Span) (Totals, error) {
	var out Totals
	if err := s.check(); err != nil {
		return out, fmt.Errorf("track: totals: %w", err)
	}
	query, args := t.summed(s, "kind, sum(n)", "kind IN (1, 2, 3)", "kind")
	err := t.rows(ctx, t.db, query, args, func(scan sqldb.Scan) error {
		var kind int
		var n int64
		err := scan(&kind, &n)
		out.add(kind, n)
		return err
	})
	if err == nil {
		var n []int64
		n, err = t.visitorsIn(ctx, []Span{s})
		if err == nil {
			out.Visitors = n[0]
		}
	}
	if err != nil {
		return out, fmt.Errorf("track: totals: %w", err)
	}
	return out, nil
}

func (t *Totals) add(kind int, n int64) {
	switch kind {
	case countViews:
		t.Views += n
	case countEvents:
		t.Events += n
	case countVisits:
		t.Visits += n
	}
}

// summed is a query of the table of counts about a span: whole days of UTC from
// their rows, the rest from those of quarters.
func (t *Tables) summed(s Span, columns, where, group string) (query string, args []any) {
	from, to := s.slots()
	parts := [][3]int64{{spanQuarter, from, to}}
	if d0, d1 := (from+quartersADay-1)/quartersADay, to/quartersADay; d0 < d1 {
		parts = [][3]int64{{spanQuarter, from, d0 * quartersADay}, {spanDay, d0, d1}, {spanQuarter, d1 * quartersADay, to}}
	}
	var unions []string
	for _, p := range parts {
		if p[1] == p[2] {
			continue
		}
		unions = append(unions, "SELECT kind, name, n FROM {counts} WHERE "+where+" AND span = ? AND slot >= ? AND slot < ?"+s.bots())
		args = append(args, p[0], p[1], p[2])
	}
	return t.sql("SELECT " + columns + " FROM (" + strings.Join(unions, " UNION ALL ") + ") c GROUP BY " + group), args
}

func (s Span) bots() string {
	if s.Bots {
		return ""
	}
	return " AND bot = 0"
}

// visitorsIn returns how many visitors there were in each span. A visitor's first
// slot in a span is the one whose slot before lies before the span. Many spans are
// asked for in parts at once: of a month each day is read whole.
func (t *Tables) visitorsIn(ctx context.Context, spans []Span) ([]int64, error) {
	const (
		parts  = 2   // SQLite has twice as many connections, and batches need one
		atOnce = 100 // SQLite takes 500 SELECTs in one
	)
	out := make([]int64, len(spans))
	size := max(1, min(atOnce, (len(spans)+parts-1)/parts))
	errs := make([]error, (len(spans)+size-1)/size)
	var all sync.WaitGroup
	turn := make(chan struct{}, parts)
	for n := range errs {
		turn <- struct{}{}
		all.Go(func() {
			defer func() { <-turn }()
			first := n * size
			errs[n] = t.countVisitors(ctx, spans[first:min(first+size, len(spans))], out[first:])
		})
	}
	all.Wait()
	return out, errors.Join(errs...)
}

func (t *Tables) countVisitors(ctx context.Context, spans []Span, out []int64) error {
	var unions []string
	for i, s := range spans {
		from, to := s.slots()
		unions = append(unions, fmt.Sprintf("SELECT %d, count(*) FROM {slots} WHERE slot >= %d AND slot < %d AND prev < %d%s", i, from, to, from, s.bots()))
	}
	return t.rows(ctx, t.db, t.sql(strings.Join(unions, " UNION ALL ")), nil, func(scan sqldb.Scan) error {
		var i int
		var n int64
		err := scan(&i, &n)
		if err == nil {
			out[i] = n
		}
		return err
	})
}

// A Step is how long a point of a series is.
type Step int

// The steps of a series.
const (
	Quarters Step = iota // of an hour
	Hours
	Days // of the viewer's zone, 23 to 25 hours long
)

// A Point is one step of a series.
type Point struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	Totals
}

// maxPoints bounds a series.
const maxPoints = 2000

// Series returns the numbers of a span step by step, in zone. The first and the
// last step end where the span does.
func (t *Tables) Series(ctx context.Context, s Span, step Step, zone *time.Location) ([]Point, error) {
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("track: series: %w", err)
	}
	from, to := s.slots()
	points := []Point{}
	for at := slotTime(from); at.Before(slotTime(to)); {
		next := step.next(at.In(zone))
		if end := slotTime(to); next.After(end) {
			next = end
		}
		if len(points) == maxPoints {
			return nil, fmt.Errorf("track: series: more than %d points; ask for a longer step or a shorter span", maxPoints)
		}
		points = append(points, Point{From: at.In(zone), To: next.In(zone)})
		at = next
	}
	if err := t.fill(ctx, s, points); err != nil {
		return nil, fmt.Errorf("track: series: %w", err)
	}
	return points, nil
}

func slotTime(slot int64) time.Time { return timeOf(slot * quarter) }

// next returns the end of the step that at lies in. Zones differ from UTC by
// quarters of an hour, so hours begin where the clock on the wall says so.
func (s Step) next(at time.Time) time.Time {
	switch s {
	case Days:
		return nextDay(at)
	case Hours:
		_, offset := at.Zone()
		local := at.Add(time.Duration(offset) * time.Second)
		return at.Add(local.Truncate(time.Hour).Add(time.Hour).Sub(local))
	}
	return at.Add(15 * time.Minute)
}

// fill adds the numbers to points, which follow each other.
func (t *Tables) fill(ctx context.Context, s Span, points []Point) error {
	spans := make([]Span, len(points))
	for i, p := range points {
		spans[i] = Span{p.From, p.To, s.Bots}
	}
	visitors, err := t.visitorsIn(ctx, spans)
	if err != nil {
		return err
	}
	for i, n := range visitors {
		points[i].Visitors = n
	}
	from, to := s.slots()
	query := t.sql("SELECT kind, slot, n FROM {counts} WHERE kind IN (1, 2, 3) AND span = 0 AND slot >= ? AND slot < ?" + s.bots())
	return t.rows(ctx, t.db, query, []any{from, to}, func(scan sqldb.Scan) error {
		var kind int
		var slot, n int64
		err := scan(&kind, &slot, &n)
		at := slotTime(slot)
		i, found := slices.BinarySearchFunc(points, at, func(p Point, at time.Time) int { return p.From.Compare(at) })
		if !found {
			i--
		}
		if err == nil && i >= 0 {
			points[i].add(kind, n)
		}
		return err
	})
}

// A Ranking says what [Tables.Top] counts.
type Ranking int

// The rankings.
const (
	Routes    Ranking = countRoute    // views of a route
	Referrers Ranking = countReferrer // views that somebody came to from an origin elsewhere
	Landings  Ranking = countLanding  // visits that began on a route
	Exits     Ranking = countExit     // visits that ended on a route, or are there now
	Events    Ranking = countEvent    // events of a name
)

// A Count is one line of a ranking.
type Count struct {
	Name string `json:"name"`
	N    int64  `json:"n"`
}

// Top returns a page of a ranking: limit lines after the first skip, the highest
// first, and among equals by name.
func (t *Tables) Top(ctx context.Context, s Span, r Ranking, limit, skip int) ([]Count, error) {
	err := s.check()
	if r < Routes || r > Events {
		err = errors.New("there is no ranking " + strconv.Itoa(int(r)))
	}
	if err != nil {
		return nil, fmt.Errorf("track: top: %w", err)
	}
	query, args := t.summed(s, "name, sum(n)", "kind = "+strconv.Itoa(int(r)), "name")
	query += " HAVING sum(n) > 0 ORDER BY sum(n) DESC, name LIMIT ? OFFSET ?"
	out := []Count{}
	err = t.rows(ctx, t.db, query, append(args, limit, skip), func(scan sqldb.Scan) error {
		var c Count
		err := scan(&c.Name, &c.N)
		out = append(out, c)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("track: top: %w", err)
	}
	return out, nil
}

// Devices are the visitors of a span by what they came with first in it.
type Devices struct {
	Browsers []Count `json:"browsers"`
	Systems  []Count `json:"systems"`
	Kinds    []Count `json:"kinds"` // desktop, phone, tablet, bot, other
}

// Devices returns with what the visitors of a span came.
func (t *Tables) Devices(ctx context.Context, s Span) (Devices, error) {
	if err := s.check(); err != nil {
		return Devices{}, fmt.Errorf("track: devices: %w", err)
	}
	from, to := s.slots()
	var by [3]map[string]int64
	for i := range by {
		by[i] = map[string]int64{}
	}
	query := t.sql("SELECT device, count(*) FROM {slots} WHERE slot >= ? AND slot < ? AND prev < ?" + s.bots() + " GROUP BY device")
	err := t.rows(ctx, t.db, query, []any{from, to, from}, func(scan sqldb.Scan) error {
		var label string
		var n int64
		err := scan(&label, &n)
		for i, name := range strings.SplitN(label, "/", 3) {
			by[i][name] += n
		}
		return err
	})
	if err != nil {
		return Devices{}, fmt.Errorf("track: devices: %w", err)
	}
	return Devices{ranked(by[0]), ranked(by[1]), ranked(by[2])}, nil
}

func ranked(by map[string]int64) []Count {
	list := []Count{}
	for name, n := range by {
		list = append(list, Count{name, n})
	}
	slices.SortFunc(list, func(a, b Count) int { return cmp.Or(cmp.Compare(b.N, a.N), cmp.Compare(a.Name, b.Name)) })
	return list
}
