package track_test

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/internal/sqldb"
	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
	"github.com/crumb-go/crumb/track"
)

// epoch is when the clocks of the tests begin.
var epoch = time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)

// A clock goes only when a test says so.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = t
}

func (c *clock) advance(d time.Duration) { c.set(c.Now().Add(d)) }

// A site is an app under test: sessions in memory, and one tracker.
type site struct {
	*clock
	t       *testing.T
	manager *session.Manager
	tracker *track.Tracker
	tables  *track.Tables
	mux     *http.ServeMux
	handler http.Handler
}

var seen = session.NewCounter("site.seen")

func newSite(t *testing.T, tables *track.Tables, cfg track.Config) *site {
	t.Helper()
	s := &site{t: t, clock: &clock{now: epoch}, tables: tables, mux: http.NewServeMux()}
	var err error
	s.manager, err = session.NewManager(memory.New(), session.Config{Insecure: true, Now: s.Now, FirstVisit: 30 * 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Tables, cfg.Now = tables, s.Now
	s.tracker = newTracker(t, cfg)
	s.handler = s.manager.Handler(s.tracker.Handler(s.mux))
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { // the page that gives a session
		if sess := session.From(r); seen.Get(sess) == 0 {
			seen.Add(sess, 1)
		}
		w.Write([]byte("hello"))
	})
	page := func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("a page")) }
	for _, pattern := range []string{"GET /about", "GET /products/{id}", "GET /search/{words...}", "GET /static/{file}", "GET /healthz"} {
		s.mux.HandleFunc(pattern, page)
	}
	s.mux.HandleFunc("GET /in/{user}", func(w http.ResponseWriter, r *http.Request) {
		session.From(r).SignIn(r.PathValue("user"))
		w.WriteHeader(http.StatusNoContent)
	})
	s.mux.HandleFunc("POST /event/{name}", func(w http.ResponseWriter, r *http.Request) {
		if err := track.Event(r, r.PathValue("name"), map[string]any{"price": 12}); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	return s
}

func newTracker(t *testing.T, cfg track.Config) *track.Tracker {
	t.Helper()
	tr, err := track.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// A browser keeps the cookie of a site.
type browser struct {
	s      *site
	cookie string
	agent  string
}

const firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"

// visitor returns a browser that has a session.
func (s *site) visitor() *browser {
	s.t.Helper()
	b := &browser{s: s, agent: firefox}
	b.get("/")
	if b.cookie == "" {
		s.t.Fatal("the first page set no cookie")
	}
	return b
}

func (b *browser) id() session.ID { return session.ID(b.cookie[:16]) }

func (b *browser) get(path string, header ...string) *httptest.ResponseRecorder {
	b.s.t.Helper()
	return b.do(b.s.handler, "GET", path, header...)
}

// do asks h; header is pairs.
func (b *browser) do(h http.Handler, method, path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://site.example"+path, nil)
	r.Header.Set("User-Agent", b.agent)
	if b.cookie != "" {
		r.Header.Set("Cookie", "crumb="+b.cookie)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	for _, c := range w.Result().Cookies() {
		b.cookie = c.Value
	}
	return w
}

// sized is n, or less under the race detector, in which SQLite takes some twenty
// times as long.
func sized(n int) int {
	if raceEnabled {
		return n / 10
	}
	return n
}

func (s *site) flush() {
	s.t.Helper()
	if err := s.tracker.Flush(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// openTables opens new tables of an engine, gone when the test ends.
func openTables(t *testing.T, url string) *track.Tables {
	t.Helper()
	cfg := track.TablesConfig{Create: true, TablePrefix: "t" + strings.ToLower(rand.Text()[:8]) + "_"}
	tables, err := track.OpenTables(t.Context(), url, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tables.Close(); err != nil {
			t.Error(err)
		}
		if strings.HasPrefix(url, "sqlite:") || url == "memory:" {
			return
		}
		db, err := sqldb.Open(context.Background(), url)
		if err != nil {
			t.Error(err)
			return
		}
		defer db.Close()
		for _, name := range []string{"schema", "visitors", "trail", "slots", "counts", "erased", "batches"} {
			if _, err := db.Exec(context.Background(), "DROP TABLE "+cfg.TablePrefix+"track_"+name); err != nil {
				t.Error(err)
			}
		}
	})
	return tables
}

func sqliteTables(t *testing.T) *track.Tables {
	t.Helper()
	return openTables(t, "sqlite:"+filepath.Join(t.TempDir(), "track.db"))
}

// onEachEngine runs a test on SQLite and on those servers that run; "make servers"
// starts them.
func onEachEngine(t *testing.T, test func(t *testing.T, tables *track.Tables)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { test(t, sqliteTables(t)) })
	t.Run("memory", func(t *testing.T) { test(t, openTables(t, "memory:")) })
	for _, kind := range []string{servers.Postgres, servers.MySQL} {
		url, ok := servers.URL(kind)
		if !ok {
			t.Log(servers.LeftOut([]string{kind}))
			continue
		}
		t.Run(kind, func(t *testing.T) { test(t, openTables(t, url)) })
	}
}
