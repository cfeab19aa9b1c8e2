package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// What the middleware is measured at.
const (
	opCounter = "counter"
	opRead    = "read"
	opIdle    = "idle" // with a cookie, the session not touched
	opBare    = "bare" // without a cookie, the session not touched
	opNew     = "new"  // without a cookie, one value set
)

// opNew comes last, since it fills the store.
var middlewareOps = []string{opCounter, opRead, opIdle, opBare, opNew}

// A cost is what one request costs in one round.
type cost struct {
	NS     float64 `json:"ns"`
	CPU    float64 `json:"cpu_ns"` // of all threads, which other work on the machine stretches less
	Bytes  float64 `json:"bytes"`
	Allocs float64 `json:"allocs"`
}

// measureMiddleware makes one round: each peer, each op, in this process, without
// a network.
func measureMiddleware(b *bench, round int) error {
	for i := range peers {
		p := &peers[(i+round)%len(peers)]
		if p.kind != "" || !b.wantsAny("middleware", p.short, middlewareOps) {
			continue
		}
		if err := measurePeer(b, p); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

func measurePeer(b *bench, p *peer) error {
	dir, err := os.MkdirTemp(b.dir, p.short)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	a, err := p.open(dir)
	if err != nil {
		return err
	}
	defer a.close()
	cookie, err := visit(a)
	if err != nil {
		return err
	}
	for _, op := range middlewareOps {
		handler, cookie := a.handlers[op], cookie
		switch op {
		case opBare:
			handler, cookie = a.handlers["idle"], ""
		case opNew:
			handler, cookie = a.handlers["counter"], ""
		}
		if handler == nil || !b.wants("middleware", p.short, op) {
			continue
		}
		var cpu time.Duration
		r := testing.Benchmark(func(tb *testing.B) { cpu = serveMany(tb, handler, cookie) })
		n := float64(r.N)
		c := cost{float64(r.T.Nanoseconds()) / n, float64(cpu.Nanoseconds()) / n, float64(r.MemBytes) / n, float64(r.MemAllocs) / n}
		b.res.addCost(p.short, op, c)
		b.progress("middleware %-15s %-8s %9.0f ns %7.0f B %5.0f allocs", p.short, op, c.NS, c.Bytes, c.Allocs)
	}
	return a.close()
}

// visit makes a session of 8 values, checks that it counts, and returns its
// cookie, or "" from an app without sessions.
func visit(a *app) (cookie string, err error) {
	count := ""
	for _, path := range []string{"fill", "counter", "counter", "read", "count"} {
		handler := a.handlers[path]
		if handler == nil {
			continue
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, request(cookie))
		if w.Code != http.StatusOK {
			return "", fmt.Errorf("%s: status %d: %s", path, w.Code, w.Body)
		}
		if c := w.Result().Cookies(); len(c) > 0 {
			cookie = c[0].Name + "=" + c[0].Value
		}
		count = w.Body.String()
	}
	if a.handlers["count"] == nil {
		return "", nil
	}
	if n, err := strconv.Atoi(count); err != nil || n != 3 {
		return "", fmt.Errorf("the counter is %q after 1 and two additions", count)
	}
	return cookie, nil
}

const userAgent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"

func request(cookie string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("User-Agent", userAgent)
	if cookie != "" {
		r.Header.Set("Cookie", cookie)
	}
	return r
}

// serveMany serves the same request over and over. Some middleware changes the
// request itself, so each time it is as it was. It returns the CPU time of all.
func serveMany(tb *testing.B, h http.Handler, cookie string) time.Duration {
	proto := request(cookie)
	r := new(http.Request)
	w := &nullWriter{header: http.Header{}}
	tb.ReportAllocs()
	before := cpuTime()
	for tb.Loop() {
		*r = *proto
		clear(w.header)
		h.ServeHTTP(w, r)
	}
	cpu := cpuTime() - before
	if w.code != 0 && w.code != http.StatusOK {
		tb.Fatalf("status %d", w.code)
	}
	return cpu
}

// A nullWriter costs nothing.
type nullWriter struct {
	header http.Header
	code   int
}

func (w *nullWriter) Header() http.Header         { return w.header }
func (w *nullWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *nullWriter) WriteHeader(code int)        { w.code = code }

// median returns the middle of the values, 0 of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	mid := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[mid]
	}
	return (sorted[mid-1] + sorted[mid]) / 2
}
