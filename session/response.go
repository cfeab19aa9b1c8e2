package session

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"
)

// Handler gives next a session. If the store fails, [Config.OnError] answers and
// next does not run.
//
// Put it inside panic recovery and request logging, and around the routes that
// use sessions, not around static files. Inside another Handler of the same
// Manager it does nothing; inside Optional it refuses what Optional let pass.
//
// The writer that next gets serves [http.ResponseController]. After a Hijack next
// writes the head of the response itself: a new cookie is then in w.Header(), for
// next to send along.
func (m *Manager) Handler(next http.Handler) http.Handler { return m.handler(next, false) }

// Optional is Handler for pages that can do without: if the store fails, next
// runs with an empty session whose [Session.Err] says so, the cookie stays, and
// only a request that then changes the session is answered by [Config.OnError].
// Never put it where a login is required.
func (m *Manager) Optional(next http.Handler) http.Handler { return m.handler(next, true) }

func (m *Manager) handler(next http.Handler, optional bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { m.serve(w, r, next, optional) })
}

func (m *Manager) serve(w http.ResponseWriter, r *http.Request, next http.Handler, optional bool) {
	outer, nested := FromContext(r.Context())
	if nested && outer.m == m {
		if err := outer.failed(); err != nil && !optional {
			m.cfg.OnError(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
		return
	}
	rs := new(requestState)
	rs.response.ResponseWriter = w
	s := &rs.response.s
	s.m, s.r, s.ctx = m, r, r.Context()
	if nested {
		s.rider = outer.rider
	}
	if err := s.open(); err != nil {
		level := slog.LevelError
		if left := s.ctx.Err(); left != nil && errors.Is(err, left) { // the client, and that says nothing about the store
			level = slog.LevelDebug
		}
		m.cfg.Logger.Log(s.ctx, level, "session: the store does not answer", "err", err)
		if !optional {
			m.cfg.OnError(w, r, err)
			return
		}
	}
	if h := w.Header(); len(h) > 0 {
		rs.response.entry = h.Clone()
	}
	rs.request = *r.WithContext((*sessionContext)(s)) // copied from the stack
	rs.response.serve(next, &rs.request)
}

// Attach returns r with an empty session, outside the middleware: nothing is
// loaded, no cookie is sent, and only [Session.Commit], [Key.Update] and
// [Key.Take] write. It is what package sessiontest makes requests with.
func (m *Manager) Attach(r *http.Request) *http.Request {
	s := &Session{m: m, r: r, ctx: r.Context()}
	return r.WithContext((*sessionContext)(s))
}

// A requestState is all that one request needs, in one allocation of 512 bytes.
// What it holds may be kept when the request has ended, so none is used again.
type requestState struct {
	response response
	request  http.Request
}

// A rider is what package track keeps with a request. It rides with the session,
// since a context of its own would cost a copy of the request. Both packages have
// these types, which without a name are the same, so that none imports the other
// for them: of a session's context the Value of riderKey is the place, a **rider.
type (
	rider    = struct{ Value any }
	riderKey = struct{ CrumbRider struct{} }
)

// A sessionContext is the request's context with the session in it.
type sessionContext Session

var _ context.Context = (*sessionContext)(nil)

func (c *sessionContext) Deadline() (time.Time, bool) { return c.ctx.Deadline() }
func (c *sessionContext) Done() <-chan struct{}       { return c.ctx.Done() }
func (c *sessionContext) Err() error                  { return c.ctx.Err() }

func (c *sessionContext) Value(key any) any {
	switch key {
	case contextKey{}:
		return (*Session)(c)
	case riderKey{}:
		return &c.rider
	}
	return c.ctx.Value(key)
}

// A response commits the session before the first byte leaves, whichever way it
// leaves. It always offers Flush, Hijack and ReadFrom, and answers
// [http.ErrNotSupported] where the writer below cannot.
type response struct {
	http.ResponseWriter
	s     Session
	entry http.Header // as it was when the request came; nil if empty
	vary  [1]string   // of the header, so that it costs no allocation of its own
	err   *error      // of the commit, or nil; OnError has answered and the handler's bytes are dropped
}

// serve runs next. It does not recover: a panic keeps its stack and saves nothing
// more, and http.ErrAbortHandler stays what it is.
func (w *response) serve(next http.Handler, r *http.Request) {
	ended := false
	defer func() {
		if ended {
			return
		}
		// A token that an explicit commit made is in the store already. Whoever
		// recovers answers with these headers, and so does not strand the visitor.
		if cookie := w.s.abandon(); cookie != "" {
			w.restore()
			setCookie(w.Header(), cookie)
		}
	}()
	next.ServeHTTP(w, r)
	// A handler that wrote nothing: the implicit 200, HEAD. Once a commit failed
	// nothing of the request is kept, lest one half of it be.
	if w.first() == nil {
		w.s.finish()
		ended = true
	}
}

// first commits, once, and sets the cookie.
func (w *response) first() error {
	switch {
	case w.err != nil:
		return *w.err
	case w.s.begun:
		return nil
	}
	w.s.begun = true
	out := w.s.settle()
	h := w.Header()
	if out.err != nil {
		err := out.err // a copy, lest all of out be on the heap
		w.err = &err
		w.restore()
	}
	if out.used {
		w.varyCookie(h)
	}
	if out.cookie != "" {
		setCookie(h, out.cookie)
		if seals := w.s.m.seals.Load(); seals != nil && !out.seal {
			seals.clear(h, w.s.r)
		}
	}
	m, ctx := w.s.m, w.s.ctx
	m.emit(ctx, out.events...)
	if out.err != nil {
		m.cfg.Logger.ErrorContext(ctx, "session: what a request changed was not committed", "err", out.err)
		m.cfg.OnError(w.ResponseWriter, w.s.r, out.err)
	}
	return out.err
}

// restore makes the headers what they were when the request came.
func (w *response) restore() {
	h := w.Header()
	clear(h)
	for k, v := range w.entry {
		h[k] = v
	}
}

// setCookie adds the Set-Cookie line. A shared cache must not keep it (RFC 6265,
// section 4; Flask CVE-2023-30861).
func setCookie(h http.Header, line string) {
	h["Set-Cookie"] = append(h["Set-Cookie"], line)
	h["Cache-Control"] = []string{"no-store"}
}

// varyCookie says that the response depends on the cookie.
func (w *response) varyCookie(h http.Header) {
	lines := h["Vary"]
	for _, line := range lines {
		for field := range strings.SplitSeq(line, ",") {
			if f := strings.TrimSpace(field); f == "*" || strings.EqualFold(f, "Cookie") {
				return
			}
		}
	}
	if lines == nil {
		lines = w.vary[:0]
	}
	h["Vary"] = append(lines, "Cookie")
}

// WriteHeader commits before the final status. 101 is final, other 1xx are not.
func (w *response) WriteHeader(code int) {
	if code >= 100 && code <= 199 && code != http.StatusSwitchingProtocols {
		w.ResponseWriter.WriteHeader(code)
		return
	}
	if w.first() == nil {
		w.ResponseWriter.WriteHeader(code)
	}
}

func (w *response) Write(p []byte) (int, error) {
	if err := w.first(); err != nil {
		return 0, err
	}
	return w.ResponseWriter.Write(p)
}

func (w *response) WriteString(s string) (int, error) {
	if err := w.first(); err != nil {
		return 0, err
	}
	return io.WriteString(w.ResponseWriter, s)
}

func (w *response) ReadFrom(src io.Reader) (int64, error) {
	if err := w.first(); err != nil {
		return 0, err
	}
	return io.Copy(w.ResponseWriter, src) // finds the ReadFrom below, if any
}

func (w *response) Flush() { _ = w.FlushError() }

func (w *response) FlushError() error {
	if err := w.first(); err != nil {
		return err
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if err := w.first(); err != nil {
		return nil, nil, err
	}
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

// Unwrap serves [http.ResponseController].
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }
