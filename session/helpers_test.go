package session_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
)

const cookieName = "__Host-crumb"

var (
	theme = session.NewKey[string]("test.theme")
	note  = session.NewKey[string]("test.note")
	hits  = session.NewCounter("test.hits")
)

// A clock is a Config.Now that stands still until it is moved.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// An eventLog is a Config.OnEvent that remembers.
type eventLog struct {
	mu   sync.Mutex
	list []session.Event
}

func (l *eventLog) on(_ context.Context, e session.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, e)
}

func (l *eventLog) all() []session.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]session.Event(nil), l.list...)
}

func (l *eventLog) count(kind session.EventKind) (n int) {
	for _, e := range l.all() {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

// kinds returns what happened in order, "ended:signed out created", and forgets it.
func (l *eventLog) kinds() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for _, e := range l.list {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(string(e.Kind))
		if e.Reason != "" {
			b.WriteString(":" + e.Reason)
		}
	}
	l.list = nil
	return b.String()
}

// A logBuffer is an io.Writer for slog, safe for several goroutines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// newManager fails the test if cfg is refused. A test that does not look at the
// log gets none.
func newManager(t testing.TB, st session.Store, cfg session.Config) *session.Manager {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	m, err := session.NewManager(st, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A world is a Manager with a store that can be watched, a clock and an event
// log.
type world struct {
	*session.Manager
	t      testing.TB
	store  *spyStore
	clock  *clock
	events *eventLog
	log    *logBuffer
}

// newWorld makes a world; what cfg leaves open is filled in.
func newWorld(t testing.TB, cfg session.Config) *world {
	t.Helper()
	w := &world{t: t, store: newSpyStore(), clock: newClock(), events: &eventLog{}, log: &logBuffer{}}
	if cfg.Now == nil {
		cfg.Now = w.clock.now
	}
	if cfg.OnEvent == nil {
		cfg.OnEvent = w.events.on
	}
	if cfg.Logger == nil {
		cfg.Logger = w.log.logger()
	}
	w.Manager = newManager(t, w.store, cfg)
	return w
}

// another returns a second Manager on the same store and clock, as another
// process would have it.
func (w *world) another(cfg session.Config) *session.Manager {
	w.t.Helper()
	if cfg.Now == nil {
		cfg.Now = w.clock.now
	}
	return newManager(w.t, w.store, cfg)
}

// live returns how many sessions live in the store.
func (w *world) live() int {
	w.t.Helper()
	infos, err := w.store.Store.List(context.Background(), session.Query{All: true, Limit: 1 << 20, Now: w.clock.now()})
	if err != nil {
		w.t.Fatal(err)
	}
	return len(infos)
}

// A browser keeps cookies as browsers do: a later answer replaces the cookie,
// Max-Age=0 removes it.
type browser struct {
	t   testing.TB
	m   *session.Manager
	mu  sync.Mutex
	jar map[string]string
}

func newBrowser(t testing.TB, m *session.Manager) *browser {
	return &browser{t: t, m: m, jar: map[string]string{}}
}

func (w *world) browser() *browser { return newBrowser(w.t, w.Manager) }

// on returns a browser with the same cookies at another Manager.
func (b *browser) on(m *session.Manager) *browser {
	b.mu.Lock()
	defer b.mu.Unlock()
	other := newBrowser(b.t, m)
	for k, v := range b.jar {
		other.jar[k] = v
	}
	return other
}

// copy returns a browser with the same cookies: an old tab, a thief.
func (b *browser) copy() *browser { return b.on(b.m) }

// token returns the session cookie the browser holds, or "".
func (b *browser) token() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.jar[cookieName]
}

// request returns a request with the cookies the browser holds now.
func (b *browser) request() *http.Request {
	r := httptest.NewRequest("GET", "https://example.org/", nil)
	b.mu.Lock()
	defer b.mu.Unlock()
	for k, v := range b.jar {
		r.Header.Add("Cookie", k+"="+v)
	}
	return r
}

// An answer is what a request came back with.
type answer struct {
	*http.Response
	body string
}

// cookie returns the session's Set-Cookie, or nil.
func (a *answer) cookie() *http.Cookie {
	for _, c := range a.Cookies() {
		if c.Name == cookieName {
			return c
		}
	}
	return nil
}

// A page is a handler that has its session at hand.
type page func(s *session.Session, w http.ResponseWriter, r *http.Request)

func (p page) ServeHTTP(w http.ResponseWriter, r *http.Request) { p(session.From(r), w, r) }

// nothing is a page that does nothing.
func nothing(*session.Session, http.ResponseWriter, *http.Request) {}

// do is a page that only works on its session.
func do(f func(s *session.Session)) page {
	return func(s *session.Session, _ http.ResponseWriter, _ *http.Request) { f(s) }
}

func serve(h http.Handler, r *http.Request) *answer {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	res := rec.Result()
	body, _ := io.ReadAll(res.Body)
	return &answer{res, string(body)}
}

// send makes a request to p and does not look at the answer's cookies yet.
func (b *browser) send(p page) *answer { return serve(b.m.Handler(p), b.request()) }

// receive takes the cookies of a: answers can arrive in any order, or never.
func (b *browser) receive(a *answer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range a.Cookies() {
		if c.MaxAge < 0 {
			delete(b.jar, c.Name)
			continue
		}
		b.jar[c.Name] = c.Value
	}
}

// get makes a request to p and takes its answer.
func (b *browser) get(p page) *answer {
	a := b.send(p)
	b.receive(a)
	return a
}

// visit is get for a page that only works on its session.
func (b *browser) visit(f func(s *session.Session)) *answer { return b.get(do(f)) }

// user returns who the server takes the browser for, without taking cookies.
func (b *browser) user() (user string) {
	b.send(do(func(s *session.Session) { user = s.User() }))
	return user
}

// read returns the value of key that the server has for the browser.
func read[T any](b *browser, key session.Key[T]) (v T) {
	b.send(do(func(s *session.Session) { v = key.Get(s) }))
	return v
}

// A held request has loaded its session and waits in the handler.
type held struct {
	release chan struct{}
	done    chan *answer
}

// hold begins a request to p and returns once its handler runs; p goes on at
// finish.
func (b *browser) hold(p page) *held {
	h := &held{make(chan struct{}), make(chan *answer, 1)}
	entered := make(chan struct{})
	r := b.request()
	go func() {
		h.done <- serve(b.m.Handler(page(func(s *session.Session, w http.ResponseWriter, r *http.Request) {
			close(entered)
			<-h.release
			p(s, w, r)
		})), r)
	}()
	<-entered
	return h
}

// finish lets the handler run to its end and returns the answer.
func (h *held) finish() *answer {
	close(h.release)
	return <-h.done
}

// together runs f(0) to f(n-1) at once and waits for all.
func together(n int, f func(i int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			f(i)
		})
	}
	close(start)
	wg.Wait()
}

// A storeCall is one call of a spyStore.
type storeCall struct {
	ctx    context.Context
	method string
	id     session.ID
	change *session.Change // of Update
}

// A hook sees a call; it makes it with do, or not.
type hook func(c storeCall, do func() error) error

// A spyStore is a memory store whose calls are counted and can be stopped, lost
// or refused. Methods are named as in session.Store.
type spyStore struct {
	Store *memory.Store
	mu    sync.Mutex // guards what follows
	calls []storeCall
	hooks map[string]hook
}

var (
	_ session.Store   = (*spyStore)(nil)
	_ session.Lister  = (*spyStore)(nil)
	_ session.Toucher = (*spyStore)(nil)
	_ session.Sweeper = (*spyStore)(nil)
	_ session.Checker = (*spyStore)(nil)
)

func newSpyStore() *spyStore { return &spyStore{Store: memory.New(), hooks: map[string]hook{}} }

// on puts h in the way of method, instead of what was there; nil clears it.
func (st *spyStore) on(method string, h hook) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.hooks[method] = h
}

// heal clears all hooks.
func (st *spyStore) heal() {
	st.mu.Lock()
	defer st.mu.Unlock()
	clear(st.hooks)
}

// count returns how often the methods were called, all of them if none is named.
func (st *spyStore) count(methods ...string) (n int) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, c := range st.calls {
		if len(methods) == 0 || strings.Contains(" "+strings.Join(methods, " ")+" ", " "+c.method+" ") {
			n++
		}
	}
	return n
}

// writes returns how often the store was asked to change something.
func (st *spyStore) writes() int { return st.count("Create", "Update", "Delete", "Touch") }

// forget sets the counts to zero.
func (st *spyStore) forget() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.calls = nil
}

var errLost = fmt.Errorf("the connection broke: %w", session.ErrUnknown)

// lose makes the next n calls of method and loses their answers.
func (st *spyStore) lose(method string, n int) {
	st.on(method, times(n, func(_ storeCall, do func() error) error {
		_ = do()
		return errLost
	}))
}

// drop loses the next n calls of method before they reach the store.
func (st *spyStore) drop(method string, n int) { st.fail(method, n, errLost) }

// fail refuses the next n calls of method with err.
func (st *spyStore) fail(method string, n int, err error) {
	st.on(method, times(n, func(storeCall, func() error) error { return err }))
}

// down refuses all calls until heal.
func (st *spyStore) down(err error) {
	for _, method := range []string{"Create", "Load", "Update", "Delete", "List", "Touch", "Sweep", "Check"} {
		st.on(method, func(storeCall, func() error) error { return err })
	}
}

// stall lets calls of method hang until their context is done.
func (st *spyStore) stall(method string) {
	st.on(method, func(c storeCall, _ func() error) error {
		<-c.ctx.Done()
		return fmt.Errorf("%w: %w", c.ctx.Err(), session.ErrUnknown)
	})
}

// times lets h have the first n calls; the others pass.
func times(n int, h hook) hook {
	var mu sync.Mutex
	return func(c storeCall, do func() error) error {
		mu.Lock()
		n--
		mine := n >= 0
		mu.Unlock()
		if mine {
			return h(c, do)
		}
		return do()
	}
}

func (st *spyStore) call(c storeCall, do func() error) error {
	st.mu.Lock()
	st.calls = append(st.calls, c)
	h := st.hooks[c.method]
	st.mu.Unlock()
	if h != nil {
		return h(c, do)
	}
	return do()
}

func (st *spyStore) Create(ctx context.Context, rec *session.Record) error {
	return st.call(storeCall{ctx: ctx, method: "Create", id: rec.ID}, func() error { return st.Store.Create(ctx, rec) })
}

func (st *spyStore) Load(ctx context.Context, id session.ID) (rec *session.Record, err error) {
	err = st.call(storeCall{ctx: ctx, method: "Load", id: id}, func() error {
		rec, err = st.Store.Load(ctx, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	return rec, nil
}

func (st *spyStore) Update(ctx context.Context, base *session.Record, c *session.Change) (rec *session.Record, err error) {
	err = st.call(storeCall{ctx: ctx, method: "Update", id: base.ID, change: c}, func() error {
		rec, err = st.Store.Update(ctx, base, c)
		return err
	})
	if err != nil && !errors.Is(err, session.ErrConflict) && !errors.Is(err, session.ErrStale) {
		return nil, err
	}
	return rec, err
}

func (st *spyStore) Delete(ctx context.Context, id session.ID) error {
	return st.call(storeCall{ctx: ctx, method: "Delete", id: id}, func() error { return st.Store.Delete(ctx, id) })
}

func (st *spyStore) List(ctx context.Context, q session.Query) (infos []session.Info, err error) {
	err = st.call(storeCall{ctx: ctx, method: "List"}, func() error {
		infos, err = st.Store.List(ctx, q)
		return err
	})
	return infos, err
}

func (st *spyStore) Touch(ctx context.Context, touches []session.Touch) error {
	return st.call(storeCall{ctx: ctx, method: "Touch"}, func() error { return st.Store.Touch(ctx, touches) })
}

func (st *spyStore) Sweep(ctx context.Context, then time.Time, limit int) (n int, err error) {
	err = st.call(storeCall{ctx: ctx, method: "Sweep"}, func() error {
		n, err = st.Store.Sweep(ctx, then, limit)
		return err
	})
	return n, err
}

func (st *spyStore) Check(ctx context.Context, now time.Time, ids []session.ID) (live map[session.ID]int64, err error) {
	err = st.call(storeCall{ctx: ctx, method: "Check"}, func() error {
		live, err = st.Store.Check(ctx, now, ids)
		return err
	})
	return live, err
}

// plainStore hides the optional interfaces of a store.
type plainStore struct{ session.Store }

// countLines returns how many lines of text hold part.
func countLines(text, part string) (n int) {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}
