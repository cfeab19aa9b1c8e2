// Package track remembers who is here now and what each visitor did, on top of
// package session: page views, the app's own events, and when and with what a
// visitor was seen.
//
// A [Tracker] is middleware that stands inside [session.Manager.Handler]. It
// notes in memory and never waits for the database; [Tracker.Run] writes in
// batches. [Tables] holds what was written and answers questions about it.
package track

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crumb-go/crumb/session"
)

// A Config holds the settings of a [Tracker]. The zero value tracks everybody
// who has a session and did not object.
type Config struct {
	// Consent reports whether the visitor of r agreed to be tracked. It is called
	// once a request, before the handler, and should be quick. Defaults to yes.
	Consent func(r *http.Request) bool

	// Ignore lists patterns of routes of which nothing is noted, as they were
	// registered, "GET /healthz", or without the method, "/healthz". A star at the
	// end stands for anything: "/static/*". Defaults to none.
	Ignore []string

	// IgnoreGPC tracks visitors whose browser sends Sec-GPC: 1 (Global Privacy
	// Control) too. By default nothing is noted about them.
	IgnoreGPC bool

	// Interval is how often Run writes. Defaults to 1 second, so that a view can
	// be seen within 2.
	Interval time.Duration

	// Keys seal the cookies of first visits, such as a *keyring.Ring. Every process
	// of the app needs the same. Defaults to none: see Visitors.
	Keys session.Sealer

	// Logger defaults to slog.Default.
	Logger *slog.Logger

	// MaxQueue and MaxQueueBytes bound what waits to be written: views and events,
	// and about how much memory they take. What comes when the queue is full is
	// dropped and counted. They default to 32,768 and 8 MiB.
	MaxQueue, MaxQueueBytes int

	// Now is the clock. Defaults to time.Now.
	Now func() time.Time

	// PerSession is how many views and events of one session are kept in an hour,
	// by each process; that the visitor was seen is always noted. Defaults to
	// 1,000, more than people reach.
	PerSession int

	// Retention says how long what was written is kept.
	Retention Retention

	// Sample is the part of the sessions whose views and events are kept, more than
	// 0 and at most 1. A session is kept whole or not at all, by every process
	// alike. Defaults to 1, all. Answers are about the sample.
	Sample float64

	// Sessions is the manager around the tracker, which has one of them at most.
	// Defaults to none: see Visitors.
	Sessions *session.Manager

	// Tables is where Run writes. Without it the tracker knows only who is here
	// now, and only of this process: see [Tracker.Live].
	Tables *Tables

	// Values lists wildcards of patterns whose values are noted beside the
	// pattern, such as "id" of "GET /products/{id}". Defaults to none: paths may
	// hold names and secrets.
	Values []string

	// Visitors says when a visitor gets a session, to whom no page writes a value.
	// Defaults to [OnReturn] with Sessions and Keys, else to [OnWrite].
	Visitors Visitors
}

const (
	defaultInterval   = time.Second
	defaultQueue      = 32_768
	defaultQueueBytes = 8 << 20
	defaultPerSession = 1000
)

// WithDefaults returns cfg with every default filled in, or the error with which
// [New] would refuse it.
func (cfg Config) WithDefaults() (Config, error) {
	if cfg.Interval == 0 {
		cfg.Interval = defaultInterval
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.MaxQueue == 0 {
		cfg.MaxQueue = defaultQueue
	}
	if cfg.MaxQueueBytes == 0 {
		cfg.MaxQueueBytes = defaultQueueBytes
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.PerSession == 0 {
		cfg.PerSession = defaultPerSession
	}
	if cfg.Sample == 0 {
		cfg.Sample = 1
	}
	var err error
	if cfg.Retention, err = cfg.Retention.WithDefaults(); err != nil {
		return cfg, err
	}
	if err = cfg.checkVisitors(); err != nil {
		return cfg, err
	}
	switch {
	case cfg.Interval < time.Millisecond || cfg.Interval > time.Hour:
		err = fmt.Errorf("track: Interval is %v; it must be at least 1ms and at most 1h", cfg.Interval)
	case cfg.MaxQueue < 1 || cfg.MaxQueue > 1<<20:
		err = fmt.Errorf("track: MaxQueue is %d; it must be at least 1 and at most %d", cfg.MaxQueue, 1<<20)
	case cfg.MaxQueueBytes < 1<<10 || cfg.MaxQueueBytes > 1<<30:
		err = fmt.Errorf("track: MaxQueueBytes is %d; it must be at least 1 KiB (%d) and at most 1 GiB (%d)", cfg.MaxQueueBytes, 1<<10, 1<<30)
	case cfg.PerSession < 1:
		err = fmt.Errorf("track: PerSession is %d; it must be at least 1", cfg.PerSession)
	case !(cfg.Sample > 0 && cfg.Sample <= 1):
		err = fmt.Errorf("track: Sample is %v; it must be more than 0 and at most 1", cfg.Sample)
	}
	for _, p := range cfg.Ignore {
		if !strings.Contains(p, "/") {
			err = fmt.Errorf("track: Ignore holds %q, which is no pattern of a route; write it as registered, such as GET /healthz", p)
		}
	}
	for _, name := range cfg.Values {
		if name == "" || strings.ContainsAny(name, "{}/. ") {
			err = fmt.Errorf("track: Values holds %q, which is no name of a wildcard; write id for {id}", name)
		}
	}
	return cfg, err
}

// A Tracker notes what visitors do. It is safe for use by several goroutines.
type Tracker struct {
	cfg    Config
	routes routes
	queue  queue
	recent recent

	arrivals arrivals

	running atomic.Bool
	stats   counters

	reserve []byte // held, and never touched: see reserveBytes

	writing sync.Mutex // guards what follows; held while the tables are written
	batches []*batch   // taken from the queue and not written yet
}

// reserveBytes are as many as the queue takes by default, of addresses alone. What
// the heap holds decides how much garbage is collected at a time: beside a small
// heap a queue that fills had the collector run a fifth more often, which was more
// than half of what tracking cost. With the reserve the heap of a small server may
// grow to some 20 MiB before it is collected, rather than to 4.
const reserveBytes = defaultQueueBytes

// New checks cfg and returns an error that says what to change. It starts
// nothing.
func New(cfg Config) (*Tracker, error) {
	cfg, err := cfg.WithDefaults()
	if err != nil {
		return nil, err
	}
	t := &Tracker{cfg: cfg}
	if cfg.Tables != nil && debug.SetMemoryLimit(-1) == math.MaxInt64 { // it would count there
		t.reserve = make([]byte, reserveBytes)
	}
	t.routes.known.Store(&map[string]*route{})
	t.queue.init(cfg, &t.routes, &t.stats)
	if err := t.initArrivals(); err != nil {
		return nil, err
	}
	return t, nil
}

// Stats tells how the queue of a [Tracker] does. Numbers grow from the start of
// the process, but for Depth and Bytes.
type Stats struct {
	Depth   int   // views and events that wait
	Bytes   int   // about what they take
	Written int64 // views and events
	Dropped int64 // because the queue was full, or the tables refused them for too long
	Capped  int64 // beyond PerSession
	Batches int64
	Failed  int64 // tries to write a batch
}

type counters struct{ written, dropped, capped, batches, failed atomic.Int64 }

// Stats returns the numbers as they are now.
func (t *Tracker) Stats() Stats {
	depth, _, bytes := t.queue.size()
	return Stats{
		Depth: depth, Bytes: bytes,
		Written: t.stats.written.Load(), Dropped: t.stats.dropped.Load(), Capped: t.stats.capped.Load(),
		Batches: t.stats.batches.Load(), Failed: t.stats.failed.Load(),
	}
}

const (
	sweepInterval = 10 * time.Minute
	writeTimeout  = 10 * time.Second
	// giveUp is how long the tables may refuse a batch before it is dropped: one
	// that can never be written must not hold up all that come after it.
	giveUp = 10 * time.Minute
)

// Run writes what was noted, every Interval, and removes what is older than the
// retention says, until ctx is done. Then it returns nil; what still waits is
// for [Tracker.Close]. A second Run at once is an error.
func (t *Tracker) Run(ctx context.Context) error {
	if !t.running.CompareAndSwap(false, true) {
		return errors.New("track: Run is running already")
	}
	defer t.running.Store(false)
	var sweeping sync.WaitGroup
	defer sweeping.Wait()
	if t.cfg.Tables != nil {
		sweeping.Go(func() { t.sweep(ctx) })
	}
	tick := time.NewTicker(t.cfg.Interval)
	defer tick.Stop()
	var logged time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-t.queue.half:
		}
		if err := t.Flush(ctx); err != nil && ctx.Err() == nil && time.Since(logged) > time.Minute {
			logged = time.Now()
			t.cfg.Logger.WarnContext(ctx, "track: views wait, for the tables cannot be written", "waiting", t.Stats().Depth, "err", err)
		}
	}
}

// sweep runs [Tables.Sweep] now and then.
func (t *Tracker) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		if err := t.cfg.Tables.Sweep(ctx, t.cfg.Now(), t.cfg.Retention); err != nil && ctx.Err() == nil {
			t.cfg.Logger.WarnContext(ctx, "track: removing what is too old stopped; it goes on later", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Close writes what waits. Call it when no request is under way any more. If ctx
// ends first, or the tables refuse, the error says how much was lost.
func (t *Tracker) Close(ctx context.Context) error {
	err := t.Flush(ctx)
	if err == nil {
		return nil
	}
	depth, visitors, _ := t.queue.size()
	t.writing.Lock()
	defer t.writing.Unlock()
	for _, b := range t.batches {
		visitors += len(b.updates)
	}
	return fmt.Errorf("track: %d views and events of %d visitors were not written, nor when these were seen: %w", depth, visitors, err)
}

// Flush writes what waits now, rather than at the next Interval. What the tables
// refuse waits on.
func (t *Tracker) Flush(ctx context.Context) error {
	t.writing.Lock()
	defer t.writing.Unlock()
	if t.cfg.Tables == nil {
		t.queue.take()
		return nil
	}
	// First what an earlier flush left, then what has come since.
	if err := t.writeAll(ctx); err != nil {
		return err
	}
	t.batches = batchesOf(t.queue.take(), t.cfg.Now())
	return t.writeAll(ctx)
}

func (t *Tracker) writeAll(ctx context.Context) error {
	for len(t.batches) > 0 {
		if err := t.writeFirst(ctx); err != nil {
			return err
		}
	}
	return nil
}

// writeFirst writes the oldest batch.
func (t *Tracker) writeFirst(ctx context.Context) error {
	b := t.batches[0]
	call, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	err := t.cfg.Tables.write(call, b)
	now := t.cfg.Now()
	switch {
	case err == nil:
		t.stats.written.Add(int64(b.entries))
		t.stats.batches.Add(1)
	case ctx.Err() == nil && now.Sub(b.made) > giveUp:
		t.stats.failed.Add(1)
		t.stats.dropped.Add(int64(b.entries))
		t.cfg.Logger.ErrorContext(ctx, "track: a batch was dropped, for the tables refused it too long", "entries", b.entries, "err", err)
	default:
		t.stats.failed.Add(1)
		return err
	}
	t.batches[0] = nil // lest it stay in memory
	t.batches = t.batches[1:]
	t.queue.done(b.entries, b.bytes)
	return nil
}

// A route is what is noted of a pattern of [http.ServeMux].
type route struct {
	number  uint32   // from 1
	path    string   // without the method
	values  []string // names of the wildcards to note
	ignored bool
}

const unmatched = "(unmatched)"

// routes are all routes that were seen, by their patterns. An app has a bounded
// number of them, and the map is made anew for each.
type routes struct {
	known atomic.Pointer[map[string]*route]
}

func (rs *routes) of(pattern string, cfg *Config) *route {
	for {
		known := rs.known.Load()
		if rt := (*known)[pattern]; rt != nil {
			return rt
		}
		more := maps.Clone(*known)
		rt := newRoute(pattern, cfg.Ignore, cfg.Values)
		more[pattern] = rt
		rt.number = uint32(len(more))
		rs.known.CompareAndSwap(known, &more)
	}
}

// paths returns the paths of the routes by their numbers.
func (rs *routes) paths() []string {
	known := *rs.known.Load()
	list := make([]string, len(known))
	for _, rt := range known {
		list[rt.number-1] = rt.path
	}
	return list
}

func (t *Tracker) route(pattern string) *route { return t.routes.of(pattern, &t.cfg) }

func newRoute(pattern string, ignore, values []string) *route {
	path := pattern
	if i := strings.IndexAny(pattern, " \t"); i >= 0 {
		path = strings.TrimLeft(pattern[i:], " \t")
	}
	rt := &route{path: cutText(path, maxName)}
	if path == "" {
		rt.path = unmatched
	}
	rt.ignored = slices.ContainsFunc(ignore, func(p string) bool {
		if begin, ok := strings.CutSuffix(p, "*"); ok {
			return strings.HasPrefix(pattern, begin) || strings.HasPrefix(path, begin)
		}
		return p == pattern || p == path
	})
	for rest := path; ; {
		_, after, ok := strings.Cut(rest, "{")
		if !ok {
			return rt
		}
		name, after, ok := strings.Cut(after, "}")
		if !ok {
			return rt
		}
		if name = strings.TrimSuffix(name, "..."); slices.Contains(values, name) {
			rt.values = append(rt.values, name)
		}
		rest = after
	}
}

// sampled reports whether the views of a session are kept. Its ID comes from
// crypto/rand, so nobody chooses to be in the sample or not.
func sampled(id session.ID, sample float64) bool {
	if sample >= 1 {
		return true
	}
	h := hashID(id)
	n := uint64(h[0])<<24 | uint64(h[1])<<16 | uint64(h[2])<<8 | uint64(h[3])
	return float64(n) < sample*(1<<32)
}
