package track

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/crumb-go/crumb/session"
)

// Handler notes the requests to next. Put it inside [session.Manager.Handler],
// and around an [http.ServeMux] or inside one: the route is what the request has
// as its Pattern in the end, "(unmatched)" if nothing. A middleware between
// Handler and the mux that copies the request hides the pattern.
//
// A request without a session that is stored is not noted, but a visitor's first
// page once they come back: see [Visitors]. Handler changes nothing about an answer
// but for the cookies of those. Inside another Handler, and outside a session's, it
// does nothing.
func (t *Tracker) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { t.serve(w, r, next) })
}

func (t *Tracker) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	place := riderPlace(r)
	if outer := requestOf(r); place == nil || outer != nil && !outer.hasEnded() {
		next.ServeHTTP(w, r)
		return
	}
	q := &request{ResponseWriter: w, t: t, r: r, tracked: t.mayTrack(r), began: t.cfg.Now()}
	q.rider.Value, *place = q, &q.rider
	defer q.end()
	q.arrive()
	next.ServeHTTP(q, r)
	if q.status == 0 { // the session is to be committed before end asks about it
		q.WriteHeader(http.StatusOK)
	}
}

func (t *Tracker) mayTrack(r *http.Request) bool {
	if !t.cfg.IgnoreGPC && header(r, "Sec-Gpc") == "1" {
		return false
	}
	return t.cfg.Consent == nil || t.cfg.Consent(r)
}

// header returns the first value of a header, whose name is written as Go does:
// requests are read so, and to make sure of it each time takes longer than to look.
func header(r *http.Request, name string) string {
	if values := r.Header[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// A request is one that is tracked: its ResponseWriter and what is noted, in one
// allocation. It rides with the session.
type request struct {
	http.ResponseWriter
	rider   rider
	t       *Tracker
	r       *http.Request  // the route is in it in the end
	visit   *session.Visit // nil if the visitor has a session
	tracked bool
	began   time.Time
	status  int

	mu     sync.Mutex // guards what follows
	over   bool
	events []entry
}

// Package session says what a rider is.
type (
	rider    = struct{ Value any }
	riderKey = struct{ CrumbRider struct{} }
)

// riderPlace returns the place of the rider of r, nil outside of a session's
// middleware. It is taken before other goroutines have the request, so nothing
// guards it.
func riderPlace(r *http.Request) **rider {
	place, _ := r.Context().Value(riderKey{}).(**rider)
	return place
}

// requestOf returns what rides with r, or nil.
func requestOf(r *http.Request) *request {
	place := riderPlace(r)
	if place == nil || *place == nil {
		return nil
	}
	q, _ := (*place).Value.(*request)
	return q
}

func (q *request) hasEnded() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.over
}

// end notes the request. The session is asked only now: what is asked of it
// earlier would make the answer depend on the cookie.
func (q *request) end() {
	q.mu.Lock()
	q.over = true
	events := q.events
	q.mu.Unlock()
	if !q.tracked {
		return
	}
	rt := q.t.route(q.r.Pattern)
	first, returned := q.firstVisit()
	if rt.ignored && len(events) == 0 && !returned {
		return
	}
	in := session.From(q.r).Info()
	if in.ID == "" {
		return
	}
	now := q.t.cfg.Now()
	if returned {
		q.t.note(&in, q.r, q.visit.First, []entry{first})
	}
	var room [4]entry
	entries := append(room[:0], events...)
	if !rt.ignored {
		entries = append(entries, q.view(rt, now))
	}
	if len(entries) > 0 {
		q.t.note(&in, q.r, q.began, entries)
	}
}

func (q *request) view(rt *route, now time.Time) entry {
	status := q.status
	if status == 0 { // it panicked
		status = http.StatusInternalServerError
	}
	return entry{
		at: q.began.UnixMicro(), kind: view, name: rt.path, route: rt.number, method: methodOf(q.r.Method), status: int16(status),
		took: max(0, now.Sub(q.began).Microseconds()), extra: extraOf(referrer(q.r), rt.detail(q.r)),
	}
}

// A method is that of a view, one that people use: the rest is whatever a client
// writes. That of an event is 0.
type method uint8

var methods = [...]string{"", "OTHER", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"}

func methodOf(name string) method {
	for i, m := range methods[1:] {
		if m == name {
			return method(i + 1)
		}
	}
	return 1
}

func (m method) String() string { return methods[m] }

// detail returns the values of the wildcards to note, "id=42&size=xl".
func (rt *route) detail(r *http.Request) string {
	if len(rt.values) == 0 {
		return ""
	}
	var b strings.Builder
	for i, name := range rt.values {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(name + "=" + r.PathValue(name))
	}
	return cutText(b.String(), maxDetail)
}

func (q *request) Unwrap() http.ResponseWriter { return q.ResponseWriter }

func (q *request) WriteHeader(code int) {
	if code >= 200 || code == http.StatusSwitchingProtocols {
		q.begin(code)
	}
	q.ResponseWriter.WriteHeader(code)
}

// begin is called before the first byte of the answer leaves.
func (q *request) begin(status int) {
	if q.status != 0 {
		return
	}
	q.status = status
	if q.visit != nil {
		q.greet(status)
	}
}

func (q *request) Write(p []byte) (int, error) {
	q.begin(http.StatusOK)
	return q.ResponseWriter.Write(p)
}

func (q *request) WriteString(s string) (int, error) {
	q.begin(http.StatusOK)
	return io.WriteString(q.ResponseWriter, s)
}

// ReadFrom keeps sendfile for files.
func (q *request) ReadFrom(src io.Reader) (int64, error) {
	q.begin(http.StatusOK)
	return io.Copy(q.ResponseWriter, src)
}

func (q *request) Flush() { _ = q.FlushError() }

func (q *request) FlushError() error {
	q.begin(http.StatusOK)
	return http.NewResponseController(q.ResponseWriter).Flush()
}

func (q *request) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	before := q.status
	q.begin(http.StatusSwitchingProtocols)
	conn, rw, err := http.NewResponseController(q.ResponseWriter).Hijack()
	if err != nil {
		q.status = before
	}
	return conn, rw, err
}
