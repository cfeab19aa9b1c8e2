// Package ops is what the operators of an app see of its sessions while it runs:
// metrics in the Prometheus text format, and events as they happen.
package ops

import (
	"context"
	"io"
	"net/http"
	"runtime"
	"runtime/debug"
	rtm "runtime/metrics"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/sqlite"
)

// The reasons that a label may name; another is "other".
var (
	endReasons    = [...]string{"signed out", "revoked", "replaced", "other"}
	rejectReasons = [...]string{"malformed", "ambiguous", "unknown", "expired", "ended", "erased", "other"}
)

// Metrics count what a manager and its store do. Counting is a few atomic
// additions; all else is done for those who ask.
type Metrics struct {
	calls    [callCount]calls
	created  atomic.Int64
	signedIn atomic.Int64
	renewed  atomic.Int64
	reused   atomic.Int64
	late     atomic.Int64
	retried  atomic.Int64
	ended    [len(endReasons)]atomic.Int64
	rejected [len(rejectReasons)]atomic.Int64

	feed   feed
	census census
	stats  interface{ Stats() sqlite.Stats } // nil if the store has none
	added  []Metric
}

// A counter is a store that can count the sessions that live. Without it the
// metric of sessions is left out.
type counter interface {
	Count(ctx context.Context, now time.Time) (visitors, signedIn, remembered int64, err error)
}

// New returns metrics about store, whose calls [Metrics.Store] counts.
func New(store session.Store) *Metrics {
	m := &Metrics{}
	m.census.store, _ = store.(counter)
	m.stats, _ = store.(interface{ Stats() sqlite.Stats })
	return m
}

// Event counts e and hands it to those who read events. It is for
// [session.Config.OnEvent].
func (m *Metrics) Event(_ context.Context, e session.Event) {
	switch e.Kind {
	case session.EventCreated:
		m.created.Add(1)
	case session.EventSignedIn:
		m.signedIn.Add(1)
	case session.EventRenewed:
		m.renewed.Add(1)
	case session.EventReused:
		m.reused.Add(1)
	case session.EventLate:
		m.late.Add(1)
	case session.EventRetried:
		m.retried.Add(1)
	case session.EventEnded:
		m.ended[indexOf(endReasons[:], e.Reason)].Add(1)
	case session.EventRejected:
		m.rejected[indexOf(rejectReasons[:], e.Reason)].Add(1)
	}
	m.feed.publish(e)
}

// indexOf returns where s is in list, whose last stands for all others.
func indexOf(list []string, s string) int {
	if i := slices.Index(list, s); i >= 0 {
		return i
	}
	return len(list) - 1
}

// Events streams the events as they happen, one JSON object a line.
func (m *Metrics) Events() http.Handler { return &m.feed }

// ServeHTTP writes the metrics.
func (m *Metrics) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t := new(text)
	m.writeSessions(r.Context(), t)
	m.writeStore(t)
	m.writeAdded(t)
	m.writeProcess(t)
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	io.WriteString(w, t.String())
}

func (m *Metrics) writeSessions(ctx context.Context, t *text) {
	t.metric("crumb_sessions", "gauge", "Sessions that live, by class, counted every 10 seconds at most.")
	if n, ok := m.census.get(ctx); ok {
		t.sample("crumb_sessions", float64(n[0]), "class", "visitor")
		t.sample("crumb_sessions", float64(n[1]), "class", "signed_in")
		t.sample("crumb_sessions", float64(n[2]), "class", "remember")
	}
	for _, c := range []struct {
		name, help string
		n          *atomic.Int64
	}{
		{"crumb_sessions_created_total", "Sessions created.", &m.created},
		{"crumb_sign_ins_total", "Times a user proved who they are.", &m.signedIn},
		{"crumb_renewals_total", "New tokens, those of sign-ins left out.", &m.renewed},
		{"crumb_tokens_reused_total", "Old tokens that came back and may have been stolen.", &m.reused},
		{"crumb_changes_late_total", "Changes refused because the session had ended or somebody had signed in.", &m.late},
		{"crumb_changes_retried_total", "Updates that ran again because another request was first.", &m.retried},
		{"crumb_events_lost_total", "Events that readers of /events were too slow for.", &m.feed.lost},
	} {
		t.metric(c.name, "counter", c.help)
		t.sample(c.name, float64(c.n.Load()))
	}
	t.metric("crumb_sessions_ended_total", "counter", "Sessions that somebody ended, by reason. Those that expire are not among them.")
	for i, reason := range endReasons {
		t.sample("crumb_sessions_ended_total", float64(m.ended[i].Load()), "reason", reason)
	}
	t.metric("crumb_cookies_rejected_total", "counter", "Cookies that opened nothing, by cause.")
	for i, cause := range rejectReasons {
		t.sample("crumb_cookies_rejected_total", float64(m.rejected[i].Load()), "cause", cause)
	}
}

func (m *Metrics) writeStore(t *text) {
	t.metric("crumb_store_calls_total", "counter", "Calls of the store, by method and result.")
	for i := range m.calls {
		for j := range results {
			t.sample("crumb_store_calls_total", float64(m.calls[i].results[j].Load()), "method", callNames[i], "result", results[j].name)
		}
	}
	t.metric("crumb_store_call_seconds", "histogram", "How long calls of the store took, by method.")
	bounds := make([]float64, len(latencyBounds))
	for i, d := range latencyBounds {
		bounds[i] = d.Seconds()
	}
	for i := range m.calls {
		c := &m.calls[i]
		counts := make([]int64, len(c.buckets))
		for j := range counts {
			counts[j] = c.buckets[j].Load()
		}
		t.histogram("crumb_store_call_seconds", bounds, counts, time.Duration(c.nanos.Load()).Seconds(), "method", callNames[i])
	}
	if m.stats == nil {
		return
	}
	st := m.stats.Stats()
	t.metric("crumb_sqlite_batch_calls", "histogram", "Calls that one commit of SQLite carried.")
	bounds = bounds[:0]
	for i := range st.Batches {
		bounds = append(bounds, float64(int(1)<<i))
	}
	t.histogram("crumb_sqlite_batch_calls", bounds, append(st.Batches[:], 0), float64(st.Calls))
	t.metric("crumb_sqlite_log_bytes", "gauge", "Size of the write-ahead log of SQLite.")
	t.sample("crumb_sqlite_log_bytes", float64(st.LogBytes))
}

func (m *Metrics) writeProcess(t *text) {
	version, revision := "(devel)", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	t.metric("crumb_build_info", "gauge", "The program that runs; always 1.")
	t.sample("crumb_build_info", 1, "version", version, "revision", revision, "go", runtime.Version())
	t.metric("process_start_time_seconds", "gauge", "When the process started, in seconds since 1970.")
	t.sample("process_start_time_seconds", float64(began.UnixMilli())/1000)
	samples := []rtm.Sample{
		{Name: "/sched/goroutines:goroutines"}, {Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/total:bytes"}, {Name: "/gc/cycles/total:gc-cycles"},
	}
	rtm.Read(samples)
	for i, g := range []struct{ name, kind, help string }{
		{"go_goroutines", "gauge", "Goroutines that exist."},
		{"go_memstats_heap_alloc_bytes", "gauge", "Bytes of the heap in use or not yet collected."},
		{"go_memstats_sys_bytes", "gauge", "Bytes of memory the process has from the system."},
		{"go_gc_cycles_total", "counter", "Runs of the garbage collector."},
	} {
		t.metric(g.name, g.kind, g.help)
		t.sample(g.name, float64(samples[i].Value.Uint64()))
	}
}

// A census is the number of sessions by class, counted seldom: a store may have
// to read them all.
type census struct {
	store counter

	mu    sync.Mutex // guards what follows; held while the store counts
	next  time.Time  // when to count again
	last  [3]int64
	known bool
}

const (
	countInterval = 10 * time.Second
	countTimeout  = 5 * time.Second
)

// get returns the numbers, or false if they could not be counted. Of the time that
// goes by counting takes a hundredth at most.
func (c *census) get(ctx context.Context) ([3]int64, bool) {
	if c.store == nil {
		return c.last, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	start := time.Now()
	if start.Before(c.next) {
		return c.last, c.known
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), countTimeout)
	defer cancel()
	var n [3]int64
	var err error
	n[0], n[1], n[2], err = c.store.Count(ctx, start)
	c.last, c.known = n, err == nil
	c.next = time.Now().Add(max(countInterval, 100*time.Since(start)))
	return c.last, c.known
}
