package ops

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
	"github.com/crumb-go/crumb/store/storetest"
)

var ctx = context.Background()

func TestACountedStorePassesTheSuite(t *testing.T) {
	storetest.Run(t, func(*testing.T) session.Store {
		st := memory.New()
		return New(st).Store(st)
	})
}

func TestACountedStoreIsWhatItsStoreIs(t *testing.T) {
	st := memory.New()
	for _, c := range []struct {
		name             string
		store            session.Store
		touches, checks  bool
		lists, canSweeps bool
	}{
		{"all", st, true, true, true, true},
		{"nothing more", struct{ session.Store }{st}, false, false, false, false},
		{"a Toucher", struct {
			session.Store
			session.Toucher
		}{st, st}, true, false, false, false},
		{"a Checker that lists", struct {
			session.Store
			session.Checker
			session.Lister
		}{st, st, st}, false, true, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := New(c.store).Store(c.store)
			if _, ok := got.(session.Toucher); ok != c.touches {
				t.Errorf("a Toucher: %v", ok)
			}
			if _, ok := got.(session.Checker); ok != c.checks {
				t.Errorf("a Checker: %v", ok)
			}
			_, err := got.(session.Lister).List(ctx, session.Query{All: true, Limit: 1, Now: time.Now()})
			if errors.Is(err, errors.ErrUnsupported) == c.lists {
				t.Errorf("List returns %v", err)
			}
			rec := &session.Record{Info: session.Info{ID: "AAAAAAAAAAAAAAAA"}}
			if err := st.Create(ctx, rec); err != nil {
				t.Fatal(err)
			}
			defer st.Delete(ctx, rec.ID)
			if n, err := got.(session.Sweeper).Sweep(ctx, time.Now(), 10); err != nil || (n == 1) != c.canSweeps {
				t.Errorf("Sweep returns %d, %v", n, err)
			}
		})
	}
}

// failing is a store whose calls end with err.
type failing struct {
	session.Store
	err error
}

func (f failing) Load(context.Context, session.ID) (*session.Record, error) { return nil, f.err }

func TestCallsAreCountedByResult(t *testing.T) {
	m := New(memory.New())
	for _, r := range []struct {
		err  error
		want string
	}{
		{nil, "ok"}, {session.ErrNotFound, "not_found"}, {session.ErrExists, "exists"}, {session.ErrConflict, "conflict"},
		{session.ErrStale, "stale"}, {fmt.Errorf("sqlite: load: %w", session.ErrUnknown), "unknown"}, {errors.New("disk"), "error"},
	} {
		m.Store(failing{memory.New(), r.err}).Load(ctx, "")
		text := page(m)
		if want := `crumb_store_calls_total{method="load",result="` + r.want + `"} 1` + "\n"; !strings.Contains(text, want) {
			t.Errorf("after %v there is no %s", r.err, want)
		}
	}
	if text := page(m); !strings.Contains(text, `crumb_store_call_seconds_bucket{method="load",le="+Inf"} 7`) {
		t.Errorf("not all have their time:\n%s", text)
	}
}

func page(m *Metrics) string {
	w := httptest.NewRecorder()
	m.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

func TestEventsAreCountedByKind(t *testing.T) {
	m := New(memory.New())
	for _, c := range []struct {
		event session.Event
		want  string
	}{
		{session.Event{Kind: session.EventCreated}, "crumb_sessions_created_total"},
		{session.Event{Kind: session.EventSignedIn}, "crumb_sign_ins_total"},
		{session.Event{Kind: session.EventRenewed}, "crumb_renewals_total"},
		{session.Event{Kind: session.EventReused}, "crumb_tokens_reused_total"},
		{session.Event{Kind: session.EventLate, Err: session.ErrStale}, "crumb_changes_late_total"},
		{session.Event{Kind: session.EventRetried}, "crumb_changes_retried_total"},
		{session.Event{Kind: session.EventEnded, Reason: "signed out"}, `crumb_sessions_ended_total{reason="signed out"}`},
		{session.Event{Kind: session.EventEnded, Reason: "revoked"}, `crumb_sessions_ended_total{reason="revoked"}`},
		{session.Event{Kind: session.EventEnded, Reason: "replaced"}, `crumb_sessions_ended_total{reason="replaced"}`},
		{session.Event{Kind: session.EventEnded, Reason: "\"new\"\n"}, `crumb_sessions_ended_total{reason="other"}`},
		{session.Event{Kind: session.EventRejected, Reason: "malformed"}, `crumb_cookies_rejected_total{cause="malformed"}`},
		{session.Event{Kind: session.EventRejected, Reason: "ambiguous"}, `crumb_cookies_rejected_total{cause="ambiguous"}`},
		{session.Event{Kind: session.EventRejected, Reason: "unknown"}, `crumb_cookies_rejected_total{cause="unknown"}`},
		{session.Event{Kind: session.EventRejected, Reason: "expired"}, `crumb_cookies_rejected_total{cause="expired"}`},
		{session.Event{Kind: session.EventRejected, Reason: "ended"}, `crumb_cookies_rejected_total{cause="ended"}`},
	} {
		m.Event(ctx, c.event)
		if !strings.Contains(page(m), "\n"+c.want+" 1\n") {
			t.Errorf("%v did not make %s 1", c.event, c.want)
		}
	}
}

// census counts how often it is asked.
type countingStore struct {
	session.Store
	asked int
	err   error
}

func (c *countingStore) Count(context.Context, time.Time) (a, b, d int64, err error) {
	c.asked++
	return 1, 2, int64(c.asked), c.err
}

func TestSessionsAreCountedEveryTenSeconds(t *testing.T) {
	st := &countingStore{Store: memory.New()}
	m := New(st)
	for range 5 {
		if !strings.Contains(page(m), `crumb_sessions{class="remember"} 1`) {
			t.Error("it is not the first count")
		}
	}
	m.census.next = time.Now().Add(-time.Millisecond) // as after ten seconds
	if !strings.Contains(page(m), `crumb_sessions{class="remember"} 2`) || st.asked != 2 {
		t.Errorf("asked %d times", st.asked)
	}
	st.err = errors.New("disk")
	m.census.next = time.Time{}
	if strings.Contains(page(m), `crumb_sessions{`) {
		t.Error("a number is shown that could not be counted")
	}
}

func TestAReaderThatIsTooSlowLosesEventsAndIsTold(t *testing.T) {
	m := New(memory.New())
	server := httptest.NewServer(m.Events())
	defer server.Close()
	resp, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	// It reads nothing until the buffers of the connection and its own are full.
	e := session.Event{Kind: session.EventCreated, Info: session.Info{Agent: strings.Repeat("a", 256)}}
	sent := 0
	for ; m.feed.lost.Load() < 100; sent++ {
		m.Event(ctx, e)
	}
	seen, lost := 0, 0
	for lines := bufio.NewScanner(resp.Body); seen+lost < sent && lines.Scan(); {
		var e Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		if e.Kind == "lost" {
			lost += int(e.Lost)
		} else {
			seen++
		}
	}
	if seen+lost != sent || lost != 100 {
		t.Errorf("of %d events %d were seen and %d told as lost", sent, seen, lost)
	}
	if !strings.Contains(page(m), "crumb_events_lost_total 100\n") {
		t.Error("the metrics do not tell")
	}
}

func TestReadersAreFew(t *testing.T) {
	f := new(feed)
	var readers []*eventReader
	for range maxReaders {
		r, ok := f.join()
		if !ok {
			t.Fatal("refused too early")
		}
		readers = append(readers, r)
	}
	w := httptest.NewRecorder()
	f.ServeHTTP(w, httptest.NewRequest("GET", "/events", nil))
	if w.Code != 503 {
		t.Errorf("one more is answered %d", w.Code)
	}
	f.leave(readers[3])
	if _, ok := f.join(); !ok {
		t.Error("a place that was left is not given")
	}
}

func TestEventsReachAllReadersAtOnce(t *testing.T) {
	m := New(memory.New())
	var readers []*eventReader
	for range 3 {
		r, _ := m.feed.join()
		readers = append(readers, r)
	}
	var wait sync.WaitGroup
	for range 10 {
		wait.Go(func() {
			for range 50 {
				m.Event(ctx, session.Event{Kind: session.EventCreated})
			}
		})
	}
	wait.Wait()
	for _, r := range readers {
		for range 500 {
			if e, ok := r.next(ctx); !ok || e.Kind != "created" {
				t.Fatalf("%v, %v", e, ok)
			}
		}
	}
}

func TestALineHoldsNothingThatATerminalActsUpon(t *testing.T) {
	e := Event{Kind: "created", User: "a\r\n\x1b[31m\x00\x7f", Agent: "\u009b2J\u202e\u2028\U000e0041ü\xff"}
	text := line(e)
	for _, c := range text[:len(text)-1] {
		if c < ' ' || c >= 0x7f {
			t.Errorf("%q", text)
			break
		}
	}
	var got Event
	if err := json.Unmarshal(text, &got); err != nil || got.User != e.User || got.Agent != "\u009b2J\u202e\u2028\U000e0041ü\ufffd" {
		t.Errorf("%v, %+v", err, got)
	}
}

// BenchmarkCount says what counting adds to one call of a store that takes none.
func BenchmarkCount(b *testing.B) {
	m := New(memory.New())
	st := m.Store(failing{memory.New(), nil})
	b.ReportAllocs()
	for b.Loop() {
		st.Load(ctx, "")
	}
}

// BenchmarkRequest is one request that adds to a counter, with and without.
func BenchmarkRequest(b *testing.B) {
	views := session.NewCounter("bench.views")
	for _, counted := range []bool{false, true} {
		b.Run(fmt.Sprintf("counted=%v", counted), func(b *testing.B) {
			var st session.Store = memory.New()
			var cfg session.Config
			if counted {
				m := New(st)
				st, cfg.OnEvent = m.Store(st), m.Event
			}
			m, err := session.NewManager(st, cfg)
			if err != nil {
				b.Fatal(err)
			}
			h := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { views.Add(session.From(r), 1) }))
			rec := httptest.NewRecorder()
			req := httptest.NewRequest("GET", "/", nil)
			h.ServeHTTP(rec, req)
			c := rec.Result().Cookies()[0]
			req.Header.Set("Cookie", c.Name+"="+c.Value)
			w := httptest.NewRecorder()
			b.ReportAllocs()
			for b.Loop() {
				clear(w.Header())
				h.ServeHTTP(w, req)
			}
		})
	}
}
