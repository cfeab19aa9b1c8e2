package app

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
)

// MaxBody is how many bytes of a request's body a handler can read: 10 MB.
// Reading on is an [http.MaxBytesError]. [AnyBody] lifts it from a route.
const MaxBody = 10 << 20

// handler returns what the app serves: its own two routes and those of the
// modules, with recovery and the limit of bodies around all.
func (r *running) handler() http.Handler {
	inner := recoverer(r.app.log, r.health.before(r.mux))
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.inflight.enter()
		defer r.inflight.leave()
		inner.ServeHTTP(w, limited(w, req))
	})
}

// limited returns req with a body of at most MaxBody bytes. It wants the
// server's own ResponseWriter, which MaxBytesReader tells to close the connection.
func limited(w http.ResponseWriter, req *http.Request) *http.Request {
	if req.Body == nil || req.Body == http.NoBody {
		return req
	}
	return withBody(req, &limitedBody{http.MaxBytesReader(w, req.Body, MaxBody), req.Body})
}

type limitedBody struct {
	io.ReadCloser
	whole io.ReadCloser
}

// unlimited undoes limited.
func unlimited(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if b, ok := req.Body.(*limitedBody); ok {
			req = withBody(req, b.whole)
		}
		next.ServeHTTP(w, req)
	})
}

func withBody(req *http.Request, body io.ReadCloser) *http.Request {
	r := *req
	r.Body = body
	return &r
}

// recoverer answers a panic with 500 if nothing was written, and else cuts the
// connection, so that half an answer does not look whole.
func recoverer(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		rw := &responseWriter{ResponseWriter: w}
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler {
				panic(v)
			}
			log.Error("crumb: panic in a handler", "method", req.Method, "pattern", req.Pattern,
				"panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			switch {
			case rw.hijacked:
			case rw.written:
				panic(http.ErrAbortHandler)
			default:
				// A cookie stays: the visitor may need the one that a middleware inside
				// of this left, to go on with what is stored already.
				for name := range w.Header() {
					if name != "Set-Cookie" && name != "Cache-Control" && name != "Vary" {
						w.Header().Del(name)
					}
				}
				http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
			}
		}()
		next.ServeHTTP(rw, req)
	})
}

// A responseWriter knows whether the answer has begun.
type responseWriter struct {
	http.ResponseWriter
	written, hijacked bool
}

func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *responseWriter) WriteHeader(code int) {
	if code >= 200 || code == http.StatusSwitchingProtocols {
		w.written = true
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *responseWriter) Write(p []byte) (int, error) {
	w.written = true
	return w.ResponseWriter.Write(p)
}

func (w *responseWriter) WriteString(s string) (int, error) {
	w.written = true
	return io.WriteString(w.ResponseWriter, s)
}

// ReadFrom keeps sendfile for files.
func (w *responseWriter) ReadFrom(src io.Reader) (int64, error) {
	w.written = true
	return io.Copy(w.ResponseWriter, src)
}

func (w *responseWriter) Flush() { w.FlushError() }

func (w *responseWriter) FlushError() error {
	w.written = true
	return http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *responseWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	w.hijacked = w.hijacked || err == nil
	return conn, rw, err
}

// inflight counts the handlers at work. The server's own Shutdown does not count
// those that took over their connection, such as websockets.
type inflight struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // closed when n is 0 again; nil if nobody waits
}

func (f *inflight) enter() {
	f.mu.Lock()
	f.n++
	f.mu.Unlock()
}

func (f *inflight) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n--
	if f.n == 0 && f.idle != nil {
		close(f.idle)
		f.idle = nil
	}
}

// wait returns when no handler is at work, or the error of ctx.
func (f *inflight) wait(ctx context.Context) error {
	f.mu.Lock()
	if f.n == 0 {
		f.mu.Unlock()
		return nil
	}
	if f.idle == nil {
		f.idle = make(chan struct{})
	}
	idle := f.idle
	f.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
