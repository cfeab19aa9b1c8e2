package app

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	livePath  = "/livez"
	readyPath = "/readyz"

	checkInterval = time.Second     // a check runs at most so often
	checkTimeout  = 2 * time.Second // and may take so long
)

// health answers GET /livez, which touches nothing, and GET /readyz, which asks
// the modules.
type health struct {
	log    *slog.Logger
	checks []*check // complete before the first request

	mu       sync.Mutex
	draining bool
	asking   chan struct{} // closed when the round under way ends; nil if none is
	asked    time.Time
	failing  []string // modules, of the last round
}

type check struct {
	module string
	run    func(context.Context) error
	busy   atomic.Bool // an earlier run has not come back
}

func newHealth(log *slog.Logger) *health { return &health{log: log} }

func (h *health) add(module string, f func(context.Context) error) {
	h.checks = append(h.checks, &check{module: module, run: f})
}

// drain makes the app not ready for good.
func (h *health) drain() {
	h.mu.Lock()
	h.draining = true
	h.mu.Unlock()
}

// ownPath says whether the app itself serves path.
func ownPath(path string) bool { return path == livePath || path == readyPath }

// before answers the app's own paths and leaves the others to next. In the mux of
// the modules a pattern with a host would win over them.
func (h *health) before(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ownPath(r.URL.Path) {
			h.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (h *health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
		return
	}
	if r.URL.Path == readyPath {
		if problem := h.ready(r.Context()); problem != "" {
			http.Error(w, problem, http.StatusServiceUnavailable)
			return
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(w, "ok\n")
}

// ready returns why the app is not ready, or "". All who ask while a round is
// under way get its outcome.
func (h *health) ready(ctx context.Context) string {
	h.mu.Lock()
	if h.draining {
		h.mu.Unlock()
		return "stopping"
	}
	if h.asking == nil && (h.asked.IsZero() || time.Since(h.asked) >= checkInterval) {
		h.asking = make(chan struct{})
		// A round belongs to nobody: it goes on when the first who asked leaves.
		go h.ask(context.WithoutCancel(ctx), h.asking)
	}
	asking := h.asking
	h.mu.Unlock()

	if asking != nil {
		select {
		case <-asking:
		case <-ctx.Done():
			return "not ready"
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.failing) > 0 {
		return "not ready: " + strings.Join(h.failing, ", ")
	}
	return ""
}

func (h *health) ask(ctx context.Context, done chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	outcomes := make([]chan error, len(h.checks))
	for i, c := range h.checks {
		outcomes[i] = make(chan error, 1)
		go c.ask(ctx, outcomes[i])
	}
	var failing []string
	for i, c := range h.checks {
		var err error
		select {
		case err = <-outcomes[i]:
		case <-ctx.Done():
			err = errors.New("did not answer in time")
		}
		if err != nil {
			h.log.Error("crumb: not ready", "module", c.module, "err", err)
			failing = append(failing, c.module)
		}
	}

	h.mu.Lock()
	h.failing, h.asked, h.asking = failing, time.Now(), nil
	h.mu.Unlock()
	close(done)
}

// ask runs the check, unless it hangs since an earlier round: a check that never
// returns must not pile up.
func (c *check) ask(ctx context.Context, outcome chan<- error) {
	if !c.busy.CompareAndSwap(false, true) {
		outcome <- errors.New("has not answered for a while")
		return
	}
	err := protect(func() error { return c.run(ctx) })
	c.busy.Store(false)
	outcome <- err
}
