package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/sqlite"
)

// In mixed load a minute of the clock is an hour for the sessions, so that those
// that expire do so, and are swept, while it lasts.
const clockSpeed = 60

const mixedClients = 16

var (
	mixedViews  = session.NewCounter("mixed.views")
	mixedTheme  = session.NewKey[string]("mixed.theme")
	mixedTicket = session.NewKey[string]("mixed.ticket")
)

// A sample is what the process held at one time.
type sample struct {
	Minute     float64
	Heap, RSS  int64 // bytes; Heap after a collection
	Goroutines int
	File, Log  int64 // bytes of the database and its write-ahead log
	Sessions   int   // rows that live
	Requests   int64
	P50, P99   time.Duration // since the sample before
}

// A mixing is mixed load under way: a server over loopback and its clients.
type mixing struct {
	dir     string
	store   *sqlite.Store
	manager *session.Manager
	url     string

	transport *http.Transport // of the clients

	requests, wrong, lives, revoked, swept, streams atomic.Int64

	mu    sync.Mutex // guards what follows
	took  []time.Duration
	first error // what went wrong
}

func runMixed(ctx context.Context, r *run, f *figures) (*figures, error) {
	m, stop, err := startMixing(ctx, filepath.Join(r.dir, "mixed"))
	if err != nil {
		return nil, err
	}
	samples := m.last(ctx, r)
	if err := stop(); err != nil {
		return nil, err
	}
	f.Samples = samples
	return f, m.judge(f, samples)
}

// startMixing starts the server. stop ends it.
func startMixing(ctx context.Context, dir string) (m *mixing, stop func() error, err error) {
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return nil, nil, err
	}
	m = &mixing{dir: dir, transport: &http.Transport{MaxIdleConnsPerHost: mixedClients}}
	if m.store, err = sqlite.Open(ctx, filepath.Join(dir, "crumb.db"), sqlite.Config{}); err != nil {
		return nil, nil, err
	}
	began := time.Now().Truncate(time.Microsecond)
	m.manager, err = session.NewManager(counted{m.store, &m.swept}, session.Config{
		Insecure: true, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Now:                func() time.Time { return began.Add(clockSpeed * time.Since(began)) },
		VisitorIdleTimeout: 2 * time.Hour, VisitorLifetime: 6 * time.Hour,
		RememberIdleTimeout: 2 * time.Hour, RememberLifetime: 6 * time.Hour,
		SweepInterval: 5 * time.Second,
	})
	if err != nil {
		return nil, nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	m.url = "http://" + l.Addr().String()
	server := &http.Server{Handler: m.manager.Handler(http.HandlerFunc(m.serve))}
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() { _ = m.manager.Run(ctx) })
	all.Go(func() { _ = server.Serve(l) })
	return m, func() error {
		cancel()
		err := server.Close()
		all.Wait()
		return errors.Join(err, m.store.Close())
	}, nil
}

// A counted store counts what is swept.
type counted struct {
	*sqlite.Store
	swept *atomic.Int64
}

func (c counted) Sweep(ctx context.Context, then time.Time, limit int) (int, error) {
	n, err := c.Store.Sweep(ctx, then, limit)
	c.swept.Add(int64(n))
	return n, err
}

// serve is the app.
func (m *mixing) serve(w http.ResponseWriter, r *http.Request) {
	s, ctx := session.From(r), r.Context()
	switch r.URL.Path {
	case "/view":
		mixedViews.Add(s, 1)
		if err := s.Commit(ctx); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	case "/look":
	case "/set":
		mixedTheme.Set(s, r.URL.RawQuery)
	case "/issue":
		mixedTicket.Set(s, r.URL.RawQuery)
	case "/take":
		if _, _, err := mixedTicket.Take(ctx, s); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	case "/signin":
		s.SignIn(r.URL.RawQuery)
		if len(r.URL.RawQuery)%2 == 0 {
			s.Remember()
		}
	case "/renew":
		s.Renew()
	case "/signout":
		s.SignOut()
	case "/stream":
		watch, cancel := s.Watch(ctx)
		defer cancel()
		m.streams.Add(1)
		select {
		case <-watch.Done():
		case <-time.After(time.Duration(rand.IntN(2000)) * time.Millisecond):
		}
	}
	fmt.Fprintf(w, "%d %s", mixedViews.Get(s), s.User())
}

// last keeps the load up for as long as it shall last, and samples.
func (m *mixing) last(ctx context.Context, r *run) (samples []sample) {
	ctx, cancel := context.WithTimeout(ctx, r.Mixed)
	defer cancel()
	pace := time.NewTicker(time.Second / time.Duration(r.Rate))
	defer pace.Stop()
	var all sync.WaitGroup
	for i := range mixedClients {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 7))
			for ctx.Err() == nil {
				m.life(ctx, rng, pace.C)
			}
		})
	}
	began := time.Now()
	every := time.NewTicker(max(time.Second, min(20*time.Second, r.Mixed/60)))
	defer every.Stop()
	for ctx.Err() == nil {
		select {
		case <-every.C:
			if ctx.Err() != nil {
				break
			}
			samples = append(samples, m.sample(ctx, began))
			r.bar.at(int(time.Since(began).Seconds()), int(r.Mixed.Seconds()), "s")
		case <-ctx.Done():
		}
	}
	all.Wait()
	return samples
}

// life is that of one visitor: some pages, perhaps a sign-in, and one of several
// ends. The count that each page shows is compared with the visitor's own.
func (m *mixing) life(ctx context.Context, rng *rand.Rand, pace <-chan time.Time) {
	jar, _ := cookiejar.New(nil)
	c := &http.Client{Jar: jar, Timeout: 30 * time.Second, Transport: m.transport}
	views, user := 0, ""
	visit := func(path string) bool {
		select {
		case <-pace:
		case <-ctx.Done():
			return false
		}
		return m.visit(ctx, c, path, views, user)
	}
	page := func() bool {
		switch rng.IntN(10) {
		case 0:
			return visit("/set?" + strconv.Itoa(rng.Int()))
		case 1:
			return visit("/issue?" + strconv.Itoa(rng.Int()))
		case 2:
			return visit("/take")
		case 3, 4, 5:
			return visit("/look")
		}
		views++
		return visit("/view")
	}
	m.lives.Add(1)
	for range 1 + rng.IntN(20) {
		if !page() {
			return
		}
	}
	if rng.IntN(2) == 0 { // most visitors only look
		return
	}
	name := "user" + strconv.Itoa(rng.IntN(100_000))
	views, user = 0, name
	if !visit("/signin?" + name) {
		return
	}
	for range 1 + rng.IntN(30) {
		if rng.IntN(15) == 0 && !visit("/renew") || !page() {
			return
		}
	}
	switch rng.IntN(4) {
	case 0:
		return // forgotten, until it expires
	case 1:
		n, err := m.manager.RevokeUser(ctx, name)
		m.revoked.Add(int64(n))
		if err != nil && ctx.Err() == nil {
			m.fail(err)
		}
	case 2:
		visit("/stream")
		fallthrough
	default:
		views, user = 0, ""
		visit("/signout")
	}
}

// visit makes a request and reports whether the life goes on.
func (m *mixing) visit(ctx context.Context, c *http.Client, path string, views int, user string) bool {
	req, err := http.NewRequestWithContext(ctx, "GET", m.url+path, nil)
	if err != nil {
		m.fail(err)
		return false
	}
	began := time.Now()
	resp, err := c.Do(req)
	if err != nil {
		if ctx.Err() == nil {
			m.fail(err)
		}
		return false
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if path != "/stream" {
		m.mu.Lock()
		m.took = append(m.took, time.Since(began))
		m.mu.Unlock()
	}
	m.requests.Add(1)
	want := fmt.Sprintf("%d %s", views, user)
	if err == nil && (resp.StatusCode != 200 || string(body) != want) {
		if user != "" && (strings.HasSuffix(string(body), " ") || strings.Contains(string(body), session.ErrEnded.Error())) {
			return false // another client revoked this user
		}
		err = fmt.Errorf("%s answered %d %q, want %q", path, resp.StatusCode, body, want)
	}
	if err != nil && ctx.Err() == nil {
		m.fail(err)
		return false
	}
	return err == nil
}

func (m *mixing) fail(err error) {
	m.wrong.Add(1)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.first == nil {
		m.first = err
	}
}

func (m *mixing) sample(ctx context.Context, began time.Time) sample {
	m.mu.Lock()
	p50, p99 := quantile(m.took, 0.5), quantile(m.took, 0.99)
	m.took = nil
	m.mu.Unlock()
	runtime.GC()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	live := 0
	for range m.manager.List(ctx, session.Query{All: true, Limit: 1000}) {
		live++
	}
	return sample{
		Minute: time.Since(began).Minutes(), Heap: int64(mem.HeapAlloc), RSS: residentBytes(), Goroutines: runtime.NumGoroutine(),
		File: fileSize(filepath.Join(m.dir, "crumb.db")), Log: fileSize(filepath.Join(m.dir, "crumb.db-wal")), Sessions: live,
		Requests: m.requests.Load(), P50: p50, P99: p99,
	}
}

func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// residentBytes returns the memory of this process, or 0 where it cannot be told.
func residentBytes() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// judge fills in f and returns an error if something grows. The first third of
// the time is left out: until then sessions only come.
func (m *mixing) judge(f *figures, samples []sample) error {
	if len(samples) < 9 {
		return errors.New("too short to tell; give it a minute at least")
	}
	late := samples[len(samples)/3:]
	var p50, p99 []float64
	for _, s := range late {
		p50, p99 = append(p50, float64(s.P50)), append(p99, float64(s.P99))
	}
	end := late[len(late)-1]
	f.Rows = nil
	f.add("lasted; requests over loopback, visitors", "%.0f min; %d, %d", end.Minute, m.requests.Load(), m.lives.Load())
	f.add("sessions revoked, streams watched, records swept", "%d, %d, %d", m.revoked.Load(), m.streams.Load(), m.swept.Load())
	f.add("wrong or failed answers", "%d", m.wrong.Load())
	f.add("a request, p50 and p99 (medians of the samples)", "%v, %v", time.Duration(median(p50)).Round(10*time.Microsecond), time.Duration(median(p99)).Round(10*time.Microsecond))
	errs := []error{m.first}
	for _, g := range []struct {
		name string
		unit float64
		of   func(s sample) float64
		may  float64 // how much it may move along the line
	}{
		{"heap, MB", 1 << 20, func(s sample) float64 { return float64(s.Heap) }, 2 << 20},
		{"memory of the process, MB", 1 << 20, func(s sample) float64 { return float64(s.RSS) }, 12 << 20},
		{"goroutines", 1, func(s sample) float64 { return float64(s.Goroutines) }, 6},
		{"sessions alive", 1, func(s sample) float64 { return float64(s.Sessions) }, 0},
		{"database, MB", 1 << 20, func(s sample) float64 { return float64(s.File) }, 0},
		{"write-ahead log, MB", 1 << 20, func(s sample) float64 { return float64(s.Log) }, 70 << 20},
	} {
		var xs, ys []float64
		for _, s := range late {
			xs, ys = append(xs, s.Minute), append(ys, g.of(s))
		}
		moved := slope(xs, ys)
		f.add(g.name+": a third in, at the end, slope over that time", "%.1f, %.1f, %+.2f", ys[0]/g.unit, ys[len(ys)-1]/g.unit, moved/g.unit)
		if g.may > 0 && moved > g.may {
			errs = append(errs, fmt.Errorf("%s grew by %.1f", g.name, moved/g.unit))
		}
	}
	return errors.Join(errs...)
}
