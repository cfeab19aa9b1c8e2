package track_test

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/keyring"
	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
	"github.com/crumb-go/crumb/store/redis"
	"github.com/crumb-go/crumb/store/sqlite"
	"github.com/crumb-go/crumb/track"
)

// A frontDoor is a site whose visitors come without sessions.
type frontDoor struct {
	*site
	store session.Store
	keys  *keyring.Ring
}

func newFrontDoor(t *testing.T, store session.Store, tables *track.Tables, cfg track.Config) *frontDoor {
	t.Helper()
	// Redis drops records by its own clock.
	d := &frontDoor{store: store, keys: newRing(t), site: &site{t: t, clock: &clock{now: time.Now().UTC().Truncate(time.Second)}, tables: tables, mux: http.NewServeMux()}}
	var err error
	if d.manager, err = session.NewManager(store, session.Config{Insecure: true, Now: d.Now}); err != nil {
		t.Fatal(err)
	}
	cfg.Tables, cfg.Now, cfg.Sessions, cfg.Keys = tables, d.Now, d.manager, d.keys
	d.tracker = newTracker(t, cfg)
	d.handler = d.manager.Handler(d.tracker.Handler(d.mux))
	for _, pattern := range []string{"GET /about", "POST /about", "HEAD /about", "GET /products/{id}", "GET /healthz"} {
		d.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("a page")) })
	}
	d.mux.HandleFunc("GET /empty", func(http.ResponseWriter, *http.Request) {})
	d.mux.HandleFunc("GET /write", func(w http.ResponseWriter, r *http.Request) { seen.Add(session.From(r), 1) })
	d.mux.HandleFunc("GET /in", func(w http.ResponseWriter, r *http.Request) { session.From(r).SignIn("ann") })
	d.mux.HandleFunc("GET /cached/{how}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", r.PathValue("how"))
		w.Write([]byte("a page"))
	})
	d.mux.HandleFunc("GET /status/{code}", func(w http.ResponseWriter, r *http.Request) {
		var code int
		fmt.Sscan(r.PathValue("code"), &code)
		w.WriteHeader(code)
	})
	return d
}

func newRing(t *testing.T) *keyring.Ring {
	t.Helper()
	ring, err := keyring.Open(filepath.Join(t.TempDir(), "keys"))
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// onEachStore runs a test with the sessions in memory, in SQLite, and in each Redis
// that runs.
func onEachStore(t *testing.T, cfg track.Config, test func(t *testing.T, d *frontDoor)) {
	t.Helper()
	t.Run("memory", func(t *testing.T) { test(t, newFrontDoor(t, memory.New(), sqliteTables(t), cfg)) })
	t.Run("sqlite", func(t *testing.T) {
		st, err := sqlite.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "crumb.db"), sqlite.Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		test(t, newFrontDoor(t, st, sqliteTables(t), cfg))
	})
	for _, kind := range []string{servers.Redis, servers.RedisCluster} {
		url, ok := servers.URL(kind)
		if !ok {
			t.Log(servers.LeftOut([]string{kind}))
			continue
		}
		t.Run(kind, func(t *testing.T) {
			st, err := redis.Open(t.Context(), url, redis.Config{KeyPrefix: "crumb-test-" + rand.Text() + ":"})
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			test(t, newFrontDoor(t, st, sqliteTables(t), cfg))
		})
	}
}

// A jar is a browser that keeps all cookies.
type jar map[string]string

// navigation is what a browser says about a page it opens.
var navigation = []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Accept", "text/html"}

// asks sends a request with the cookies of j, and takes those of the answer; header
// is pairs.
func (d *frontDoor) asks(j jar, method, path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://site.example"+path, nil)
	r.Header.Set("User-Agent", firefox)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	for name, value := range j {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	w := httptest.NewRecorder()
	d.handler.ServeHTTP(w, r)
	for _, c := range w.Result().Cookies() {
		if j[c.Name] = c.Value; c.MaxAge < 0 {
			delete(j, c.Name)
		}
	}
	return w
}

// opens is asks for a page, as a browser does.
func (d *frontDoor) opens(j jar, path string) *httptest.ResponseRecorder {
	return d.asks(j, "GET", path, navigation...)
}

func (j jar) id() session.ID {
	if len(j["crumb"]) < 16 {
		return ""
	}
	return session.ID(j["crumb"][:16])
}

// sessions returns how many there are.
func (d *frontDoor) sessions() (n int) {
	d.t.Helper()
	for _, err := range d.manager.List(d.t.Context(), session.Query{All: true}) {
		if err != nil {
			d.t.Fatal(err)
		}
		n++
	}
	return n
}

func TestThoseWhoKeepNoCookiesCostNoRow(t *testing.T) {
	onEachStore(t, track.Config{}, func(t *testing.T, d *frontDoor) {
		n := sized(50_000)
		if t.Name() != "TestThoseWhoKeepNoCookiesCostNoRow/memory" {
			n /= 10 // no store is asked
		}
		heap := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		var before uint64
		for i := range n {
			if i == n/10 {
				before = heap()
			}
			if w := d.opens(jar{}, "/about"); w.Code != 200 || len(w.Result().Cookies()) != 1 {
				t.Fatal(w.Code, w.Result().Cookies())
			}
		}
		if after := heap(); after > before+(1<<20) {
			t.Errorf("the heap grew from %d to %d bytes", before, after)
		}
		d.flush()
		if n, st := d.sessions(), d.tracker.Stats(); n != 0 || st != (track.Stats{}) {
			t.Errorf("%d sessions, %+v", n, st)
		}
	})
}

func TestWhoeverReturnsIsAVisitorSinceTheirFirstPage(t *testing.T) {
	onEachStore(t, track.Config{Values: []string{"id"}, MaxQueue: 1 << 16}, func(t *testing.T, d *frontDoor) {
		start := d.Now()
		jars := make([]jar, sized(1000))
		for i := range jars {
			jars[i] = jar{}
			d.advance(time.Second)
			d.asks(jars[i], "GET", []string{"/about", "/products/7", "/empty"}[i%3], append(navigation, "Referer", "https://search.example/?q=secret")...)
			if len(jars[i]) != 1 || len(jars[i]["crumb-v"]) == 0 || len("crumb-v=")+len(jars[i]["crumb-v"]) > 300 {
				t.Fatal(jars[i])
			}
		}
		d.set(start.Add(2 * time.Hour))
		for _, j := range jars {
			d.opens(j, "/about")
		}
		d.flush()
		if n := d.sessions(); n != len(jars) {
			t.Errorf("%d sessions, want %d", n, len(jars))
		}
		for i, j := range jars {
			if len(j) != 1 || j.id() == "" {
				t.Fatal("after the return:", j)
			}
			first, landing := start.Add(time.Duration(i+1)*time.Second), []string{"/about", "/products/{id}", "/empty"}[i%3]
			v, err := d.tables.Visitor(t.Context(), j.id())
			if err != nil || !v.First.Equal(first) || v.Landing != landing || v.Referrer != "https://search.example" || v.Requests != 2 || v.Page != "/about" || !v.Seen.Equal(d.Now()) {
				t.Fatalf("visitor %d, %v: %+v", i, err, v)
			}
			trail, err := d.tables.Trail(t.Context(), j.id(), start, d.Now().Add(time.Hour), 10)
			if err != nil || len(trail) != 2 || !trail[0].Time.Equal(first) || trail[0].Status != 200 || trail[0].Method != "GET" || i%3 == 1 && trail[0].Values != "id=7" {
				t.Fatalf("visitor %d, %v: %+v", i, err, trail)
			}
		}
	})
}

func TestFiftyReturnsAtOnceAreOneVisitor(t *testing.T) {
	onEachStore(t, track.Config{}, func(t *testing.T, d *frontDoor) {
		j := jar{}
		d.opens(j, "/about")
		first := d.Now()
		d.advance(time.Minute)
		var jars [50]jar
		var wg sync.WaitGroup
		for i := range jars {
			jars[i] = jar{"crumb-v": j["crumb-v"]}
			wg.Go(func() { d.opens(jars[i], "/about") })
		}
		wg.Wait()
		d.flush()
		for _, other := range jars {
			if other["crumb"] == "" || other["crumb"] != jars[0]["crumb"] || other["crumb-v"] != "" {
				t.Fatal(other, jars[0])
			}
		}
		v, err := d.tables.Visitor(t.Context(), jars[0].id())
		if err != nil || v.Requests != 51 || !v.First.Equal(first) || d.sessions() != 1 {
			t.Errorf("%+v, %v; %d sessions", v, err, d.sessions())
		}
		if st := d.tracker.Stats(); st.Written != 51 {
			t.Errorf("%+v", st)
		}
	})
}

func TestASealThatIsNoneIsNeverAdopted(t *testing.T) {
	onEachStore(t, track.Config{}, func(t *testing.T, d *frontDoor) {
		sealed := func() jar {
			j := jar{}
			d.opens(j, "/about")
			return j
		}
		returned := func() (copy, j jar) {
			j = sealed()
			copy = jar{"crumb-v": j["crumb-v"]}
			d.opens(j, "/about")
			return copy, j
		}
		for _, c := range []struct {
			name string
			seal func(t *testing.T) jar
		}{
			{"of other keys", func(t *testing.T) jar {
				j := jar{}
				newFrontDoor(t, memory.New(), d.tables, track.Config{}).opens(j, "/about")
				return j
			}},
			{"a token of a session", func(*testing.T) jar { return jar{"crumb-v": strings.Repeat("A", 43)} }},
			{"too old", func(*testing.T) jar {
				j := sealed()
				d.advance(24 * time.Hour)
				return j
			}},
			{"of a visitor whose session was ended", func(t *testing.T) jar {
				copy, j := returned()
				if err := d.manager.Revoke(t.Context(), j.id()); err != nil {
					t.Error(err)
				}
				d.advance(5 * time.Hour)
				if sw, ok := d.store.(session.Sweeper); ok {
					if _, err := sw.Sweep(t.Context(), d.Now().Add(-time.Hour), 1000); err != nil {
						t.Error(err)
					}
				}
				return copy
			}},
			{"of a visitor who was erased", func(t *testing.T) jar {
				copy, j := returned()
				if err := d.tables.Erase(t.Context(), j.id(), d.Now()); err != nil {
					t.Error(err)
				}
				if err := d.store.Delete(t.Context(), j.id()); err != nil {
					t.Error(err)
				}
				return copy
			}},
		} {
			t.Run(c.name, func(t *testing.T) {
				j := c.seal(t)
				d.flush()
				sessions, was := d.sessions(), j["crumb-v"]
				w := d.opens(j, "/about")
				d.flush()
				if w.Code != 200 || d.sessions() != sessions || j.id() != "" || j["crumb-v"] == was || j["crumb-v"] == "" {
					t.Errorf("%d; %d sessions more; %v", w.Code, d.sessions()-sessions, j)
				}
				if d.opens(j, "/about"); j.id() == "" || d.sessions() != sessions+1 {
					t.Error("the new seal opens nothing:", j)
				}
			})
		}
	})
}

func TestWhichAnswersBringASeal(t *testing.T) {
	d := newFrontDoor(t, memory.New(), sqliteTables(t), track.Config{Ignore: []string{"/healthz"}})
	d.mux.Handle("/files/", http.StripPrefix("/files/", http.FileServer(http.Dir(t.TempDir()))))
	d.mux.HandleFunc("GET /expires/{when}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Expires", map[string]string{"past": "0", "future": time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)}[r.PathValue("when")])
	})
	for _, c := range []struct {
		method, path string
		header       []string
		want         bool
	}{
		{"GET", "/about", navigation, true},
		{"GET", "/empty", navigation, true},
		{"GET", "/about", []string{"Accept", "text/html,*/*"}, true},
		{"GET", "/about", nil, false},
		{"GET", "/about", []string{"Accept", "application/json"}, false},
		{"GET", "/about", []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe", "Accept", "text/html"}, false},
		{"GET", "/about", []string{"Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty", "Accept", "text/html"}, false},
		{"GET", "/about", []string{"Sec-Fetch-Dest", "image"}, false},
		{"POST", "/about", navigation, false},
		{"HEAD", "/about", navigation, false},
		{"GET", "/healthz", navigation, false},
		{"GET", "/about", append([]string{"Sec-GPC", "1"}, navigation...), false},
		{"GET", "/status/204", navigation, true},
		{"GET", "/status/303", navigation, false},
		{"GET", "/status/404", navigation, false},
		{"GET", "/status/500", navigation, false},
		{"GET", "/nowhere", navigation, false},
		{"GET", "/cached/public", navigation, false},
		{"GET", "/cached/max-age=60", navigation, false},
		{"GET", "/cached/private,%20max-age=60", navigation, false},
		{"GET", "/cached/S-MaxAge=1", navigation, false},
		{"GET", "/cached/immutable", navigation, false},
		{"GET", "/cached/max-age=x", navigation, false},
		{"GET", "/cached/max-age=0,%20must-revalidate", navigation, true},
		{"GET", "/cached/no-cache", navigation, true},
		{"GET", "/cached/no-store,%20max-age=60", navigation, true},
		{"GET", "/expires/past", navigation, true},
		{"GET", "/expires/future", navigation, false},
	} {
		j := jar{}
		before := d.asks(jar{"crumb-v": "x"}, c.method, c.path, "Sec-GPC", "1").Header()
		w := d.asks(j, c.method, c.path, c.header...)
		if got := j["crumb-v"] != ""; got != c.want || len(j) > 1 {
			t.Errorf("%s %s %q: %v", c.method, c.path, c.header, j)
		}
		if c.want && (w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("Vary") != "Cookie") {
			t.Errorf("%s: %v", c.path, w.Header())
		}
		if !c.want {
			same(t, "headers of "+c.path, w.Header(), before)
		}
	}
	if d.sessions() != 0 {
		t.Error(d.sessions(), "sessions")
	}
}

func TestAnAnswerThatIsCachedCarriesNoCookieToWhoReturnsEither(t *testing.T) {
	d := newFrontDoor(t, memory.New(), sqliteTables(t), track.Config{})
	j := jar{}
	d.opens(j, "/about")
	w := d.opens(j, "/cached/public")
	if w.Header().Get("Set-Cookie") != "" || w.Header().Get("Cache-Control") != "public" || d.sessions() != 1 {
		t.Error(w.Header(), d.sessions())
	}
	// The first-visit cookie goes on opening the same session.
	if d.asks(j, "GET", "/status/404"); j.id() == "" || len(j) != 1 || d.sessions() != 1 {
		t.Error(j, d.sessions())
	}
	d.flush()
	if got := (&browser{s: d.site, cookie: j["crumb"]}).visitor(); got.Requests != 3 || got.Landing != "/about" {
		t.Errorf("%+v", got)
	}
}

func TestAFirstPageThatWritesHasASessionAtOnce(t *testing.T) {
	for _, path := range []string{"/write", "/in"} {
		d := newFrontDoor(t, memory.New(), sqliteTables(t), track.Config{})
		j := jar{}
		if d.opens(j, path); j.id() == "" || len(j) != 1 {
			t.Error(path, j)
		}
		d.flush()
		if got := (&browser{s: d.site, cookie: j["crumb"]}).visitor(); got.Landing != path || got.Requests != 1 {
			t.Errorf("%+v", got)
		}
	}
}

func TestWhoObjectsMeanwhileIsNotRecognised(t *testing.T) {
	agreed := true
	d := newFrontDoor(t, memory.New(), sqliteTables(t), track.Config{Consent: func(*http.Request) bool { return agreed }})
	j := jar{}
	d.opens(j, "/about")
	agreed = false
	if d.opens(j, "/about"); j.id() != "" || d.sessions() != 0 {
		t.Error(j, d.sessions())
	}
	if d.opens(jar{}, "/about").Header().Get("Set-Cookie") != "" {
		t.Error("a cookie without consent")
	}
	agreed = true
	if d.opens(j, "/about"); j.id() == "" || d.sessions() != 1 {
		t.Error(j, d.sessions())
	}
}

func TestWhenVisitorsGetASession(t *testing.T) {
	for visitors, want := range map[track.Visitors][]string{
		track.OnReturn: {"crumb-v", "crumb"}, track.OnArrival: {"crumb", "crumb"}, track.OnWrite: {"", ""},
	} {
		d := newFrontDoor(t, memory.New(), sqliteTables(t), track.Config{Visitors: visitors})
		j := jar{}
		for i, name := range want {
			d.opens(j, "/about")
			if _, ok := j[name]; ok != (name != "") || len(j) > 1 {
				t.Errorf("%s, page %d: %v", visitors, i, j)
			}
		}
		if w := d.asks(jar{}, "GET", "/about"); w.Header().Get("Set-Cookie") != "" {
			t.Errorf("%s: a cookie to a program", visitors)
		}
	}
	m, err := session.NewManager(memory.New(), session.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []track.Config{{Visitors: "soon"}, {Visitors: track.OnReturn}, {Visitors: track.OnArrival}, {Visitors: track.OnReturn, Sessions: m}} {
		if _, err := track.New(cfg); err == nil || !strings.Contains(err.Error(), "Visitors is") {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

func TestWhileTheTablesFailPagesGoOnAndTheSealWaits(t *testing.T) {
	d := newFrontDoor(t, memory.New(), openTables(t, "memory:"), track.Config{})
	j := jar{}
	d.opens(j, "/about")
	seal := j["crumb-v"]
	broken, err := track.OpenTables(t.Context(), "memory:", track.TablesConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := broken.Close(); err != nil {
		t.Fatal(err)
	}
	h := d.manager.Handler(newTracker(t, track.Config{Tables: broken, Now: d.Now, Sessions: d.manager, Keys: d.keys}).Handler(d.mux))
	whole := d.handler
	d.handler = h
	for range 3 {
		d.advance(time.Minute)
		if w := d.asks(j, "GET", "/about"); w.Code != 200 || w.Body.String() != "a page" || j["crumb-v"] != seal || len(j) != 1 {
			t.Error(w.Code, j)
		}
	}
	d.handler = whole
	if d.opens(j, "/about"); j.id() == "" || d.sessions() != 1 {
		t.Error(j, d.sessions())
	}
}
