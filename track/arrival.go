package track

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/crumb-go/crumb/internal/sqldb"
	"github.com/crumb-go/crumb/session"
)

// Visitors says when a visitor who does not sign in and to whom no page writes a
// value gets a session, and so is noted.
type Visitors string

const (
	// OnReturn gives one to those who come back. The first page brings a sealed
	// cookie that holds all about that visit, so that programs that keep no cookies
	// cost nothing. See [session.Seals].
	OnReturn Visitors = "return"

	// OnArrival gives one to all, with their first page. If the store fails that
	// page fails.
	OnArrival Visitors = "arrival"

	// OnWrite leaves it to the pages.
	OnWrite Visitors = "write"
)

func (cfg *Config) checkVisitors() error {
	switch cfg.Visitors {
	case "":
		cfg.Visitors = OnWrite
		if cfg.Sessions != nil && cfg.Keys != nil {
			cfg.Visitors = OnReturn
		}
	case OnReturn, OnArrival, OnWrite:
	default:
		return fmt.Errorf("track: Visitors is %q; it must be %s, %s or %s", cfg.Visitors, OnReturn, OnArrival, OnWrite)
	}
	return nil
}

// arrivals look at those who come without a session.
type arrivals struct {
	seals  *session.Seals
	paused atomic.Int64 // until when seals wait, in microseconds since 1970
}

func (t *Tracker) initArrivals() error {
	cfg := &t.cfg
	switch {
	case cfg.Visitors == OnWrite:
		return nil
	case cfg.Sessions == nil:
		return fmt.Errorf("track: Visitors is %q, which needs Sessions", cfg.Visitors)
	case cfg.Visitors == OnReturn && cfg.Keys == nil:
		return fmt.Errorf("track: Visitors is %q, which needs Keys", cfg.Visitors)
	case cfg.Visitors == OnArrival:
		t.arrivals.seals = cfg.Sessions.Seals(nil, nil)
		return nil
	}
	var erased func(context.Context, session.ID) (bool, error)
	if cfg.Tables != nil {
		erased = cfg.Tables.wasErased
	}
	t.arrivals.seals = cfg.Sessions.Seals(cfg.Keys, erased)
	return nil
}

// wasErased reports whether somebody erased the visitor of late. A request waits for
// it, so it gives up sooner than a batch.
func (t *Tables) wasErased(ctx context.Context, id session.ID) (erased bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	err = t.rows(ctx, t.db, t.sql("SELECT 1 FROM {erased} WHERE hash = ?"), []any{erasedHash(id)}, func(scan sqldb.Scan) error {
		var one int
		erased = true
		return scan(&one)
	})
	return erased, err
}

// sealPause is how long seals wait after the store, or the tables, failed: those who
// come back meanwhile are not to wait for them too.
const sealPause = 30 * time.Second

// arrive looks at who comes, before the handler runs.
func (q *request) arrive() {
	a := &q.t.arrivals
	if a.seals == nil || !q.tracked || q.began.UnixMicro() < a.paused.Load() {
		return
	}
	visit, err := a.seals.Visit(q.r)
	switch {
	case err != nil && q.r.Context().Err() != nil: // the client left, or had too little time
		return
	case err != nil:
		a.paused.Store(q.began.Add(sealPause).UnixMicro())
		q.t.cfg.Logger.WarnContext(q.r.Context(), "track: a visitor who came back was not recognised; the next request tries again", "err", err)
		return
	}
	q.visit = visit
}

// greet is called right before the first byte of the answer to somebody who came
// without a session.
func (q *request) greet(status int) {
	v := q.visit
	switch rt := q.t.route(q.r.Pattern); {
	case cacheable(q.Header(), q.t.cfg.Now()): // a cookie would keep it out of caches, or be in them
	case !v.First.IsZero():
		v.Send()
	case status/100 != 2 || rt.ignored || !isNavigation(q.r):
	case q.t.cfg.Visitors == OnArrival:
		v.Keep()
	default:
		e := q.view(rt, q.t.cfg.Now())
		v.Seal(e.note())
	}
}

// firstVisit returns the view of the page on which a visitor was first who has come
// back with this request.
func (q *request) firstVisit() (e entry, ok bool) {
	if q.visit == nil || !q.visit.Created {
		return e, false
	}
	if e, ok = parseNote(q.visit.Note); !ok {
		return e, false
	}
	e.at = q.visit.First.UnixMicro()
	return e, true
}

// isNavigation reports whether r asks for a page that a visitor looks at, not for a
// part of one. Browsers say so (Fetch Metadata); of others the kind of answer they
// want tells.
func isNavigation(r *http.Request) bool {
	if r.Method != http.MethodGet {
		return false
	}
	mode, dest := r.Header.Get("Sec-Fetch-Mode"), r.Header.Get("Sec-Fetch-Dest")
	if mode != "" || dest != "" {
		return mode == "navigate" && dest == "document"
	}
	return strings.Contains(r.Header.Get("Accept"), "text/html")
}

// cacheable reports whether h asks a cache to keep the answer: RFC 9111, section
// 5.2.2, and the headers that caches in front of servers have for themselves. An
// answer that says nothing is not meant.
func cacheable(h http.Header, now time.Time) bool {
	if h.Get("Cdn-Cache-Control") != "" || h.Get("Surrogate-Control") != "" {
		return true
	}
	lines, keep := h["Cache-Control"], false
	for _, line := range lines {
		for directive := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(directive)), "=")
			switch name {
			case "no-store":
				return false
			case "public", "immutable":
				keep = true
			case "max-age", "s-maxage":
				seconds, err := strconv.Atoi(strings.Trim(value, `"`))
				keep = keep || err != nil || seconds > 0
			}
		}
	}
	if lines == nil {
		at, err := http.ParseTime(h.Get("Expires"))
		return err == nil && at.After(now)
	}
	return keep
}
