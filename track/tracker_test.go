package track_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
	"github.com/crumb-go/crumb/track"
)

// trail returns a visitor's trail, one line "GET /about 200" an entry.
func (b *browser) trail() (list []string) {
	b.s.t.Helper()
	entries, err := b.s.tables.Trail(b.s.t.Context(), b.id(), epoch.AddDate(-1, 0, 0), epoch.AddDate(1, 0, 0), 10_000)
	if err != nil {
		b.s.t.Fatal(err)
	}
	for _, e := range entries {
		if e.Event != "" {
			list = append(list, "event "+e.Event+" "+string(e.Attrs))
			continue
		}
		list = append(list, strings.TrimSpace(fmt.Sprintf("%s %s %d %s", e.Method, e.Route, e.Status, e.Values)))
	}
	return list
}

func (b *browser) visitor() track.Visitor {
	b.s.t.Helper()
	v, err := b.s.tables.Visitor(b.s.t.Context(), b.id())
	if err != nil {
		b.s.t.Fatal(err)
	}
	return v
}

func TestAVisitorsPagesAreThereInTheirOrder(t *testing.T) {
	onEachEngine(t, func(t *testing.T, tables *track.Tables) {
		s := newSite(t, tables, track.Config{Values: []string{"id", "words"}})
		b := s.visitor()
		want := []string{"GET / 200"}
		for i, path := range []string{"/about", "/products/7", "/search/a/b", "/about", "/static/x.css", "/", "/nowhere", "/products/x%2Fy", "/about"} {
			s.advance(time.Second)
			b.get(path)
			want = append(want, []string{
				"GET /about 200", "GET /products/{id} 200 id=7", "GET /search/{words...} 200 words=a/b", "GET /about 200", "GET /static/{file} 200",
				"GET / 200", "GET / 200", "GET /products/{id} 200 id=x/y", "GET /about 200",
			}[i])
		}
		s.flush()
		same(t, "the trail", b.trail(), want)
		live, err := tables.Live(t.Context(), s.Now(), 10, nil)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "who is here", live, track.Live{Visitors: 1, Present: []track.Present{{ID: b.id(), Seen: s.Now(), Page: "/about"}}})
		s.advance(track.LiveWindow + time.Second)
		if live, err = tables.Live(t.Context(), s.Now(), 10, nil); err != nil || live.Visitors != 0 || len(live.Present) != 0 {
			t.Errorf("after five minutes: %+v, %v", live, err)
		}
		v := b.visitor()
		want2 := track.Visitor{
			ID: b.id(), First: epoch, Seen: epoch.Add(9 * time.Second), Requests: 10, FirstAddr: "192.0.2.1", LastAddr: "192.0.2.1",
			Browser: "Firefox", System: "Linux", Device: "desktop", Landing: "/", Page: "/about",
		}
		same(t, "the visitor", v, want2)
	})
}

func TestWhoIsHereComesInPages(t *testing.T) {
	for name, tables := range map[string]*track.Tables{"tables": sqliteTables(t), "none": nil} {
		s := newSite(t, tables, track.Config{})
		var want []session.ID
		for i := range 25 {
			b := s.visitor()
			if i%2 == 0 {
				b.get(fmt.Sprintf("/in/user%d", i%6))
			}
			want = append([]session.ID{b.id()}, want...)
			s.advance(time.Second)
		}
		if tables != nil {
			s.flush()
		}
		var got []session.ID
		var after *track.Present
		for {
			live, err := s.tracker.Live(t.Context(), 10, after)
			if err != nil {
				t.Fatal(err)
			}
			if live.Visitors != 25 || live.Users != 3 {
				t.Errorf("%s: %d visitors and %d users are here, want 25 and 3", name, live.Visitors, live.Users)
			}
			for _, p := range live.Present {
				got = append(got, p.ID)
			}
			if len(live.Present) < 10 {
				break
			}
			after = &live.Present[9]
		}
		same(t, name, got, want)
	}
}

func TestTrackingChangesNothingAboutAnAnswer(t *testing.T) {
	s := newSite(t, sqliteTables(t), track.Config{})
	b := s.visitor()
	bare := s.manager.Handler(s.mux)
	for _, cookie := range []string{b.cookie, "", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"} {
		for _, path := range []string{"/about", "/products/1", "/healthz"} {
			with := (&browser{s: s, cookie: cookie}).get(path)
			without := (&browser{s: s, cookie: cookie}).do(bare, "GET", path)
			same(t, "headers of "+path, with.Header(), without.Header())
			same(t, "body of "+path, with.Body.String(), without.Body.String())
		}
	}
}

func TestAWriterInsideServesAllThatTheOneOutsideDoes(t *testing.T) {
	s := newSite(t, sqliteTables(t), track.Config{})
	s.mux.HandleFunc("GET /flushed", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "one ")
		w.(http.Flusher).Flush()
		if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Error(err)
		}
		io.Copy(w, strings.NewReader("two"))
	})
	s.mux.HandleFunc("GET /taken", func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
	})
	s.mux.HandleFunc("GET /early", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusTeapot)
	})
	s.mux.HandleFunc("GET /panic", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
	srv := httptest.NewServer(s.handler)
	defer srv.Close()
	b := s.visitor()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // on a new connection nothing is sent twice
	ask := func(path string) (*http.Response, error) {
		s.advance(time.Second)
		r, err := http.NewRequest("GET", srv.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Cookie", "crumb="+b.cookie)
		return client.Do(r)
	}
	resp, err := ask("/flushed")
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "one two" {
		t.Errorf("%q, %v", body, err)
	}
	resp.Body.Close()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s.advance(time.Second)
	fmt.Fprintf(conn, "GET /taken HTTP/1.1\r\nHost: x\r\nCookie: crumb=%s\r\n\r\n", b.cookie)
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, "101") {
		t.Errorf("%q, %v", line, err)
	}
	if resp, err = ask("/early"); err != nil || resp.StatusCode != http.StatusTeapot {
		t.Errorf("%v, %v", resp, err)
	}
	resp.Body.Close()
	if resp, err = ask("/panic"); err == nil {
		t.Errorf("a handler that panicked was answered %s", resp.Status)
	}
	srv.Close() // waits for the handlers, but for the one that took its connection
	want := []string{"GET / 200", "GET /flushed 200", "GET /taken 101", "GET /early 418", "GET /panic 500"}
	for deadline := time.Now().Add(10 * time.Second); len(b.trail()) < len(want) && time.Now().Before(deadline); {
		s.flush()
	}
	same(t, "the trail", b.trail(), want)
}

func TestNobodyWithoutASessionIsNoted(t *testing.T) {
	s := newSite(t, sqliteTables(t), track.Config{})
	for range 1000 {
		(&browser{s: s}).get("/about")
	}
	s.flush()
	if st := s.tracker.Stats(); st != (track.Stats{}) {
		t.Errorf("after 1,000 requests without cookies: %+v", st)
	}
}

func TestGPCAndConsentAreHonoured(t *testing.T) {
	gpc := []string{"Sec-GPC", "1"}
	agrees := func(r *http.Request) bool { return r.Header.Get("X-Consent") == "yes" }
	for _, c := range []struct {
		name    string
		cfg     track.Config
		header  []string
		tracked bool
	}{
		{"nobody objected", track.Config{}, nil, true},
		{"GPC", track.Config{}, gpc, false},
		{"GPC is off", track.Config{}, []string{"Sec-GPC", "0"}, true},
		{"GPC is ignored", track.Config{IgnoreGPC: true}, gpc, true},
		{"no consent", track.Config{Consent: agrees}, nil, false},
		{"consent", track.Config{Consent: agrees}, []string{"X-Consent", "yes"}, true},
		{"consent and GPC", track.Config{Consent: agrees}, append([]string{"X-Consent", "yes"}, gpc...), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t, sqliteTables(t), c.cfg)
			b := &browser{s: s, agent: firefox}
			b.get("/", c.header...)
			b.get("/about", c.header...)
			if w := b.do(s.handler, "POST", "/event/checkout", c.header...); w.Code != 200 {
				t.Errorf("an event of somebody not tracked was answered %d", w.Code)
			}
			s.flush()
			_, err := s.tables.Visitor(t.Context(), b.id())
			if c.tracked != (err == nil) || err != nil && !errors.Is(err, track.ErrNotFound) {
				t.Errorf("the visitor: %v", err)
			}
			if st := s.tracker.Stats(); c.tracked != (st.Written == 4) || !c.tracked && st != (track.Stats{}) {
				t.Errorf("%+v", st)
			}
		})
	}
}

func TestIgnoredRoutesAreNotNoted(t *testing.T) {
	s := newSite(t, sqliteTables(t), track.Config{Ignore: []string{"GET /healthz", "/static/*"}})
	b := s.visitor()
	for _, path := range []string{"/healthz", "/static/site.css", "/about"} {
		b.get(path)
	}
	s.flush()
	same(t, "the trail", b.trail(), []string{"GET / 200", "GET /about 200"})
	if n := b.visitor().Requests; n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
}

// A tracker inside a tracker does nothing, also with the sessions of another manager
// in between; one after another notes both.
func TestARequestIsNotedOnceHoweverHandlersAreNested(t *testing.T) {
	s := newSite(t, sqliteTables(t), track.Config{})
	b := s.visitor()
	second, err := session.NewManager(memory.New(), session.Config{Insecure: true, CookieName: "second", Now: s.Now})
	if err != nil {
		t.Fatal(err)
	}
	cookie := b.cookie
	ask := func(h http.Handler) {
		b.cookie = cookie // not that of the second
		b.do(s.manager.Handler(h), "GET", "/nested")
		s.advance(time.Second)
	}
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Set(session.From(r), 1) // which makes a session of the second
		if err := track.Event(r, "bought", nil); err != nil {
			t.Error(err)
		}
	})
	for _, inside := range []http.Handler{s.tracker.Handler(page), second.Handler(page), second.Handler(s.tracker.Handler(page))} {
		ask(s.tracker.Handler(inside))
	}
	ask(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.tracker.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { s.advance(time.Second) })).ServeHTTP(w, r)
		s.tracker.Handler(page).ServeHTTP(w, r)
	}))
	b.cookie = cookie
	s.flush()
	once := []string{"event bought ", "GET (unmatched) 200"}
	same(t, "the trail", b.trail(), slices.Concat([]string{"GET / 200"}, once, once, once, []string{"GET (unmatched) 200"}, once))
}

func TestOnlyTheFirstOfASessionInAnHourAreKept(t *testing.T) {
	s := newSite(t, sqliteTables(t), track.Config{PerSession: 5})
	b, other := s.visitor(), s.visitor()
	for range 20 {
		b.get("/about")
	}
	other.get("/about")
	s.flush()
	if n := len(b.trail()); n != 5 {
		t.Errorf("%d views are kept, want 5", n)
	}
	if n := b.visitor().Requests; n != 21 {
		t.Errorf("%d requests were seen, want all 21", n)
	}
	if n := len(other.trail()); n != 2 {
		t.Errorf("of another visitor %d views are kept, want 2", n)
	}
	if st := s.tracker.Stats(); st.Capped != 16 || st.Dropped != 0 {
		t.Errorf("%+v", st)
	}
	s.advance(time.Hour)
	b.get("/about")
	s.flush()
	if n := len(b.trail()); n != 6 {
		t.Errorf("an hour later %d views are kept, want 6", n)
	}
	// A clock that went ahead for a while.
	s.advance(48 * time.Hour)
	b.get("/about")
	s.tracker.Stats() // which sorts what waits
	s.advance(-47 * time.Hour)
	for range 4 {
		b.get("/about")
	}
	s.tracker.Stats()
	s.advance(time.Hour)
	b.get("/about")
	s.flush()
	if n := len(b.trail()); n != 12 {
		t.Errorf("after the clock was set back %d views are kept, want 12", n)
	}
}

func TestASampledSessionIsThereWholeOrNotAtAll(t *testing.T) {
	s := newSite(t, sqliteTables(t), track.Config{Sample: 0.25})
	second := newTracker(t, track.Config{Sample: 0.25, Tables: s.tables, Now: s.Now})
	h := s.manager.Handler(second.Handler(s.mux))
	n := 1000
	kept := 0
	var all []*browser
	for range n {
		b := s.visitor()
		s.advance(time.Millisecond)
		b.get("/about")
		s.advance(time.Millisecond)
		b.do(h, "GET", "/about")
		all = append(all, b)
	}
	s.flush()
	if err := second.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, b := range all {
		switch got := len(b.trail()); got {
		case 3:
			kept++
		case 0:
		default:
			t.Fatalf("of a session %d views of 3 are kept", got)
		}
		if got := b.visitor().Requests; got != 3 {
			t.Fatalf("a visitor out of the sample was seen %d times, want 3", got)
		}
	}
	if kept < 180 || kept > 320 { // five standard deviations
		t.Errorf("%d of %d sessions are kept, want about a quarter", kept, n)
	}
}

// lock holds the write lock of a SQLite file until the function is called.
func lock(t *testing.T, path string) (release func()) {
	t.Helper()
	db, err := sql.Open("sqlite", "file://"+path)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	if _, err := db.Exec("BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	return sync.OnceFunc(func() {
		if _, err := db.Exec("ROLLBACK"); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestAStalledDatabaseHoldsUpNoRequestAndLosesOnlyWhatDoesNotFit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "track.db")
	s := newSite(t, openTables(t, "sqlite:"+path), track.Config{MaxQueue: 100})
	b := s.visitor()
	release := lock(t, path)
	defer release()
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error)
	go func() { ran <- s.tracker.Run(ctx) }()

	const n = 500
	began := time.Now()
	for range n {
		s.advance(time.Microsecond)
		if w := b.get("/about"); w.Code != 200 {
			t.Fatalf("answered %d", w.Code)
		}
	}
	// One write alone waits 5 seconds for the lock.
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("%d requests took %v", n, took)
	}
	st := s.tracker.Stats()
	if st.Depth != 100 || st.Written != 0 || st.Dropped+st.Capped != n+1-100 {
		t.Errorf("while the database stalls: %+v", st)
	}
	stop()
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.tracker.Close(gone); err == nil || !strings.Contains(err.Error(), "100 views") {
		t.Errorf("a close that could write nothing says %v", err)
	}
	release()
	if err := s.tracker.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := len(b.trail()); got != 100 {
		t.Errorf("%d views are there, want the first 100", got)
	}
	if got := b.visitor(); got.Requests != n+1 || !got.Seen.Equal(s.Now()) {
		t.Errorf("seen %d times, last %v; want %d, %v", got.Requests, got.Seen, n+1, s.Now())
	}
	if st := s.tracker.Stats(); st.Depth != 0 || st.Bytes != 0 || st.Written != 100 {
		t.Errorf("in the end: %+v", st)
	}
}

func TestTenThousandVisitorsSeenCostAHundredStatements(t *testing.T) {
	s := newSite(t, sqliteTables(t), track.Config{MaxQueueBytes: 1 << 30, Sample: 1e-9}) // seen-times alone
	visitors := sized(10_000)
	var all []*browser
	for range visitors {
		all = append(all, s.visitor())
	}
	for _, round := range []string{"first", "second"} {
		s.advance(time.Minute)
		for _, b := range all {
			b.get("/about")
		}
		before := s.tables.Statements()
		s.flush()
		if n := s.tables.Statements() - before; n > int64(visitors/100) {
			t.Errorf("the %s time: %d statements", round, n)
		}
	}
	live, err := s.tables.Live(t.Context(), s.Now(), 1, nil)
	if err != nil || live.Visitors != len(all) {
		t.Errorf("%d visitors are here, %v; want %d", live.Visitors, err, len(all))
	}
}

func TestALateFlushMovesNothingBack(t *testing.T) {
	onEachEngine(t, func(t *testing.T, tables *track.Tables) {
		s := newSite(t, tables, track.Config{})
		slow := newTracker(t, track.Config{Tables: tables, Now: s.Now})
		slowly := s.manager.Handler(slow.Handler(s.mux))
		b := s.visitor()
		s.flush()
		s.advance(time.Minute)
		b.do(slowly, "GET", "/products/1", "Accept-Language", "fr")
		s.advance(time.Minute)
		b.get("/about", "Accept-Language", "de-CH,de;q=0.9")
		s.flush()
		want := b.visitor()
		if err := slow.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		want.Requests++
		same(t, "the visitor", b.visitor(), want)
		if want.Language != "de-ch" || want.Page != "/about" {
			t.Errorf("%+v", want)
		}
		same(t, "the trail", b.trail(), []string{"GET / 200", "GET /products/{id} 200", "GET /about 200"})
	})
}

func TestEventsOfTheAppAreKept(t *testing.T) {
	s := newSite(t, sqliteTables(t), track.Config{})
	b := s.visitor()
	s.advance(time.Second)
	if w := b.do(s.handler, "POST", "/event/checkout"); w.Code != 200 {
		t.Fatal(w.Body)
	}
	s.flush()
	same(t, "the trail", b.trail(), []string{"GET / 200", `event checkout {"price":12}`, "POST /event/{name} 200"})
}

func TestAnEventThatDoesNotFitIsAnError(t *testing.T) {
	s := newSite(t, sqliteTables(t), track.Config{})
	var request *http.Request
	problems := map[string]error{}
	s.mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
		request = r
		problems["a name is 1 to 64"] = track.Event(r, "Bad name", nil)
		problems["1024 are kept"] = track.Event(r, "big", map[string]any{"x": strings.Repeat("x", 1024)})
		problems["unsupported type"] = track.Event(r, "func", map[string]any{"x": func() {}})
		for range track.MaxEvents {
			if err := track.Event(r, "fine", nil); err != nil {
				t.Error(err)
			}
		}
		problems["at most 32"] = track.Event(r, "fine", nil)
	})
	b := s.visitor()
	b.get("/events")
	problems["the request has ended"] = track.Event(request, "late", nil)
	problems["is not tracked"] = track.Event(httptest.NewRequest("GET", "/", nil), "nowhere", nil)
	for want, err := range problems {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	s.flush()
	if n := len(b.trail()); n != 2+track.MaxEvents {
		t.Errorf("%d lines, want %d", n, 2+track.MaxEvents)
	}
}

func TestWhatStrangersWriteIsCut(t *testing.T) {
	onEachEngine(t, func(t *testing.T, tables *track.Tables) {
		s := newSite(t, tables, track.Config{Values: []string{"id"}})
		b := s.visitor()
		const evil = "\x1b[2J\u202e\x00\xff"
		for _, header := range [][]string{
			{"User-Agent", strings.Repeat("Bot/1 "+evil, 200_000)},
			{"User-Agent", evil, "Accept-Language", evil},
			{"User-Agent", "", "Accept-Language", strings.Repeat("de,", 100_000)},
			{"Referer", "https://" + strings.Repeat("x", 100_000) + ".example/"},
			{"Referer", "https://evil" + evil + ".example/"},
			{"Referer", "javascript:alert(1)"},
			{"Referer", "https://user:secret@news.example/secret?token=1"},
		} {
			s.advance(time.Second)
			b.get("/products/"+strings.Repeat("%1b%00%ff", 1000), header...)
		}
		s.advance(time.Second)
		b.do(s.handler, "BREW", "/about")
		s.flush()
		entries, err := tables.Trail(t.Context(), b.id(), epoch, s.Now().Add(time.Hour), 100)
		if err != nil || len(entries) != 9 {
			t.Fatalf("%d entries, %v", len(entries), err)
		}
		for i, e := range entries {
			if len(e.Values) > 128 || strings.ContainsAny(e.Values, "\x00") || len(e.Route) > 200 {
				t.Errorf("kept of request %d: %+v", i, e)
			}
			if want := map[bool]string{true: "https://news.example"}[i == 7]; e.Referrer != want {
				t.Errorf("the referrer of request %d is %q, want %q", i, e.Referrer, want)
			}
		}
		if last := entries[8]; last.Method != "OTHER" || last.Route != "/" {
			t.Errorf("%+v", last)
		}
		v := b.visitor()
		for _, text := range []string{v.Browser, v.System, v.Device, v.Language} {
			if strings.ContainsAny(text, "\x1b\u202e\x00") || !utf8.ValidString(text) || len(text) > 35 {
				t.Errorf("kept: %q", text)
			}
		}
	})
}

func TestAWrongConfigSaysWhatToDo(t *testing.T) {
	for want, cfg := range map[string]track.Config{
		"Interval is -1s":                       {Interval: -time.Second},
		"Sample is 1.5":                         {Sample: 1.5},
		"PerSession is -1":                      {PerSession: -1},
		"MaxQueue is -1":                        {MaxQueue: -1},
		"MaxQueueBytes is 5":                    {MaxQueueBytes: 5},
		`Ignore holds "healthz"`:                {Ignore: []string{"healthz"}},
		`Values holds "{id}"`:                   {Values: []string{"{id}"}},
		"Retention.Trail is 1ns; it must be at": {Retention: track.Retention{Trail: 1}},
		"at most Retention.Visitors (720h0m0s)": {Retention: track.Retention{Visitors: 720 * time.Hour}},
		"at most Retention.Counts (720h0m0s)":   {Retention: track.Retention{Counts: 720 * time.Hour}},
	} {
		if _, err := track.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := track.OpenTables(t.Context(), "memory:", track.TablesConfig{TablePrefix: "a;b"}); err == nil || !strings.Contains(err.Error(), "table prefix") {
		t.Error(err)
	}
}

func TestRunWritesByItselfAndOnlyOnce(t *testing.T) {
	s := newSite(t, sqliteTables(t), track.Config{Interval: 5 * time.Millisecond})
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error)
	go func() { ran <- s.tracker.Run(ctx) }()
	b := s.visitor()
	for deadline := time.Now().Add(time.Minute); s.tracker.Stats().Written == 0; {
		if time.Now().After(deadline) {
			t.Fatal("nothing was written")
		}
	}
	if err := s.tracker.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "running already") {
		t.Error(err)
	}
	stop()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if got := b.trail(); !reflect.DeepEqual(got, []string{"GET / 200"}) {
		t.Errorf("the trail: %q", got)
	}
}
