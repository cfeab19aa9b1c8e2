package track

import (
	"bufio"
	"context"
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
// A request without a session that is stored is not noted. Handler changes
// nothing about the answer, and inside another Handler does nothing.
func (t *Tracker) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := r.Context().Value(requestKey{}).(*request); ok {
			next.ServeHTTP(w, r)
			return
		}
		q := &request{ResponseWriter: w, t: t, parent: r.Context(), tracked: t.mayTrack(r), began: t.cfg.Now()}
		q.r = *r.WithContext((*requestContext)(q))
		ended := false
		defer func() { q.end(ended) }()
		next.ServeHTTP(q, &q.r)
		ended = true
	})
}

func (t *Tracker) mayTrack(r *http.Request) bool {
	if !t.cfg.IgnoreGPC && r.Header.Get("Sec-Gpc") == "1" {
		return false
	}
	return t.cfg.Consent == nil || t.cfg.Consent(r)
}

// A request is one that is tracked: its ResponseWriter, its context and what is
// noted, in one allocation.
type request struct {
	http.ResponseWriter
	t       *Tracker
	parent  context.Context
	r       http.Request
	tracked bool
	began   time.Time
	status  int

	mu     sync.Mutex // guards what follows
	over   bool
	events []entry
}

type requestKey struct{}

// A requestContext is the request's context with the request in it.
type requestContext request

var _ context.Context = (*requestContext)(nil)

func (c *requestContext) Deadline() (time.Time, bool) { return c.parent.Deadline() }
func (c *requestContext) Done() <-chan struct{}       { return c.parent.Done() }
func (c *requestContext) Err() error                  { return c.parent.Err() }

func (c *requestContext) Value(key any) any {
	if key == (requestKey{}) {
		return (*request)(c)
	}
	return c.parent.Value(key)
}

// end notes the request. The session is asked only now: what is asked of it
// earlier would make the answer depend on the cookie.
func (q *request) end(completed bool) {
	q.mu.Lock()
	q.over = true
	events := q.events
	q.mu.Unlock()
	s, ok := session.FromContext(q.parent)
	if !q.tracked || !ok {
		return
	}
	rt := q.t.route(q.r.Pattern)
	if rt.ignored && len(events) == 0 {
		return
	}
	in := s.Info()
	if in.ID == "" {
		return
	}
	entries := events
	if !rt.ignored {
		entries = append(entries, q.view(rt, completed))
	}
	q.t.note(&in, &q.r, q.began, entries)
}

func (q *request) view(rt *route, completed bool) entry {
	status := q.status
	switch {
	case status == 0 && completed:
		status = http.StatusOK
	case status == 0: // it panicked
		status = http.StatusInternalServerError
	}
	return entry{
		at: q.began.UnixMicro(), kind: view, name: rt.path, method: method(q.r.Method), status: status,
		took: max(0, q.t.cfg.Now().Sub(q.began).Microseconds()), referrer: referrer(&q.r), detail: rt.detail(&q.r),
	}
}

// method returns the method, if it is one that people use: the rest is whatever a
// client writes.
func method(m string) string {
	switch m {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE":
		return m
	}
	return "OTHER"
}

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
	if q.status == 0 && (code >= 200 || code == http.StatusSwitchingProtocols) {
		q.status = code
	}
	q.ResponseWriter.WriteHeader(code)
}

// begun notes the implicit 200.
func (q *request) begun() {
	if q.status == 0 {
		q.status = http.StatusOK
	}
}

func (q *request) Write(p []byte) (int, error) {
	q.begun()
	return q.ResponseWriter.Write(p)
}

func (q *request) WriteString(s string) (int, error) {
	q.begun()
	return io.WriteString(q.ResponseWriter, s)
}

// ReadFrom keeps sendfile for files.
func (q *request) ReadFrom(src io.Reader) (int64, error) {
	q.begun()
	return io.Copy(q.ResponseWriter, src)
}

func (q *request) Flush() { _ = q.FlushError() }

func (q *request) FlushError() error {
	q.begun()
	return http.NewResponseController(q.ResponseWriter).Flush()
}

func (q *request) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(q.ResponseWriter).Hijack()
	if err == nil && q.status == 0 {
		q.status = http.StatusSwitchingProtocols
	}
	return conn, rw, err
}
