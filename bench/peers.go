package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/alexedwards/scs/sqlite3store"
	"github.com/alexedwards/scs/v2"
	"github.com/alexedwards/scs/v2/memstore"
	"github.com/gorilla/sessions"
	_ "modernc.org/sqlite" // a driver without cgo, on the engine that Crumb uses too

	"github.com/crumb-go/crumb/keyring"
	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
	"github.com/crumb-go/crumb/store/sqlite"
	"github.com/crumb-go/crumb/track"
)

// A peer is one way to keep sessions, as its documentation shows it.
type peer struct {
	short string // in -only
	name  string // in tables
	open  func(dir string) (*app, error)
	kind  string // of the database server that it needs, "" if none
}

// An app is a peer at work: one handler for each thing that is measured, all of
// which answer with the same text. The routes of all apps are:
//
//	/fill     sets the values of a session and its counter to 1
//	/counter  adds 1 to the counter
//	/read     reads one value
//	/idle     leaves the session alone
//	/count    shows the counter
type app struct {
	handlers map[string]http.Handler
	close    func() error
}

const (
	valueText = "some value here"
	counter   = "bench.views"
)

// valueKeys are, with the counter, the 8 values of a session.
var valueKeys = []string{"bench.k0", "bench.k1", "bench.k2", "bench.k3", "bench.k4", "bench.k5", "bench.k6"}

const readKey = 3

var hello = []byte("You've seen this page many times\n")

// wrap has the middleware around each handler, not around the router.
func wrap(middleware func(http.Handler) http.Handler, handlers map[string]http.HandlerFunc) map[string]http.Handler {
	wrapped := map[string]http.Handler{}
	for name, h := range handlers {
		wrapped[name] = middleware(h)
	}
	return wrapped
}

func sayHello(w http.ResponseWriter, _ *http.Request) { w.Write(hello) }

// answer says hello if the session held what it should.
func answer(w http.ResponseWriter, ok bool) {
	if !ok {
		http.Error(w, "the session does not hold what it should", http.StatusInternalServerError)
		return
	}
	w.Write(hello)
}

func showCount(w http.ResponseWriter, n int) { io.WriteString(w, strconv.Itoa(n)) }

var peers = slices.Concat([]peer{
	{"none", "no sessions", openNone, ""},
	{"crumb-memory", "Crumb, memory", func(string) (*app, error) {
		return openCrumb(memory.New(), nil)
	}, ""},
	{"crumb-sqlite", "Crumb, SQLite", func(dir string) (*app, error) {
		store, err := openSQLite(dir)
		if err != nil {
			return nil, err
		}
		return openCrumb(store, store.Close)
	}, ""},
	{"crumb-sqlite-tracked", "Crumb, SQLite, tracking on", openTracked, ""},
	{"scs-memory", "scs, memstore", func(string) (*app, error) {
		return openSCS(memstore.New(), nil), nil
	}, ""},
	{"scs-sqlite", "scs, sqlite3store", openSCSOnSQLite, ""},
	{"gorilla-cookie", "gorilla, cookie", openGorilla, ""},
}, databasePeers)

func peerByName(short string) *peer {
	for i := range peers {
		if peers[i].short == short {
			return &peers[i]
		}
	}
	return nil
}

func openNone(string) (*app, error) {
	same := func(h http.Handler) http.Handler { return h }
	return &app{
		handlers: wrap(same, map[string]http.HandlerFunc{"idle": sayHello, "fill": sayHello}),
		close:    func() error { return nil },
	}, nil
}

var (
	crumbViews  = session.NewCounter(counter)
	crumbValues = func() (keys []session.Key[string]) {
		for _, name := range valueKeys {
			keys = append(keys, session.NewKey[string](name))
		}
		return keys
	}()
)

func openSQLite(dir string) (*sqlite.Store, error) {
	return sqlite.Open(context.Background(), "sqlite:"+filepath.Join(dir, "crumb.db"), sqlite.Config{})
}

// openCrumb has Run at work too: it writes seen-times and sweeps.
func openCrumb(store session.Store, closeStore func() error) (*app, error) {
	m, err := session.NewManager(store, session.Config{Insecure: true})
	if err != nil {
		return nil, err
	}
	return crumbApp(m, m.Handler, closeStore), nil
}

// openTracked is crumb-sqlite with tracking as crumb serve has it, but for the cap
// of a session's views: few sessions stand here for many.
func openTracked(dir string) (*app, error) {
	ctx := context.Background()
	store, err := openSQLite(dir)
	if err != nil {
		return nil, err
	}
	m, err := session.NewManager(store, session.Config{Insecure: true})
	if err != nil {
		return nil, err
	}
	keys, err := keyring.Open(filepath.Join(dir, "keys"))
	if err != nil {
		return nil, err
	}
	tables, err := track.OpenTables(ctx, "sqlite:"+filepath.Join(dir, "track.db"), track.TablesConfig{})
	if err != nil {
		return nil, err
	}
	tracker, err := track.New(track.Config{Sessions: m, Keys: keys, Tables: tables, PerSession: math.MaxInt})
	if err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(ctx)
	done := make(chan error)
	go func() { done <- tracker.Run(running) }()
	return crumbApp(m, func(h http.Handler) http.Handler { return m.Handler(tracker.Handler(h)) }, func() error {
		stop()
		err := errors.Join(<-done, tracker.Close(ctx), tables.Close(), store.Close())
		if st := tracker.Stats(); st.Dropped > 0 || st.Failed > 0 {
			err = errors.Join(err, fmt.Errorf("tracking dropped views: %+v", st))
		}
		return err
	}), nil
}

func crumbApp(m *session.Manager, middleware func(http.Handler) http.Handler, closeStore func() error) *app {
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { m.Run(ctx) })
	return &app{
		handlers: wrap(middleware, map[string]http.HandlerFunc{
			"fill": func(w http.ResponseWriter, r *http.Request) {
				s := session.From(r)
				for _, key := range crumbValues {
					key.Set(s, valueText)
				}
				crumbViews.Set(s, 1)
				w.Write(hello)
			},
			"counter": func(w http.ResponseWriter, r *http.Request) {
				answer(w, crumbViews.Add(session.From(r), 1) > 0)
			},
			"read": func(w http.ResponseWriter, r *http.Request) {
				answer(w, crumbValues[readKey].Get(session.From(r)) == valueText)
			},
			"idle": sayHello,
			"count": func(w http.ResponseWriter, r *http.Request) {
				showCount(w, int(crumbViews.Get(session.From(r))))
			},
		}),
		close: func() error {
			stop()
			running.Wait()
			if closeStore == nil {
				return nil
			}
			return closeStore()
		},
	}
}

func openSCS(store scs.Store, closeStore func() error) *app {
	m := scs.New()
	m.Store = store
	if closeStore == nil {
		closeStore = func() error { return nil }
	}
	return &app{
		handlers: wrap(m.LoadAndSave, map[string]http.HandlerFunc{
			"fill": func(w http.ResponseWriter, r *http.Request) {
				for _, key := range valueKeys {
					m.Put(r.Context(), key, valueText)
				}
				m.Put(r.Context(), counter, 1)
				w.Write(hello)
			},
			"counter": func(w http.ResponseWriter, r *http.Request) {
				n := m.GetInt(r.Context(), counter) + 1
				m.Put(r.Context(), counter, n)
				answer(w, n > 0)
			},
			"read": func(w http.ResponseWriter, r *http.Request) {
				answer(w, m.GetString(r.Context(), valueKeys[readKey]) == valueText)
			},
			"idle": sayHello,
			"count": func(w http.ResponseWriter, r *http.Request) {
				showCount(w, m.GetInt(r.Context(), counter))
			},
		}),
		close: closeStore,
	}
}

// scsConns is how many connections scs gets. Its writers wait for each other in
// SQLite: 1, 2, 4 and 8 did alike, no limit a third of that.
const scsConns = 2

// openSCSOnSQLite has the table that the documentation of sqlite3store asks for,
// and the write-ahead log that it does not mention but which is far faster.
func openSCSOnSQLite(dir string) (*app, error) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "scs.db")+
		"?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(scsConns)
	db.SetMaxIdleConns(scsConns)
	for _, statement := range []string{
		"CREATE TABLE sessions (token TEXT PRIMARY KEY, data BLOB NOT NULL, expiry REAL NOT NULL)",
		"CREATE INDEX sessions_expiry_idx ON sessions(expiry)",
	} {
		if _, err := db.Exec(statement); err != nil {
			db.Close()
			return nil, fmt.Errorf("scs: %w", err)
		}
	}
	store := sqlite3store.NewWithCleanupInterval(db, 5*time.Minute)
	return openSCS(store, sync.OnceValue(func() error { // StopCleanup never returns a second time
		store.StopCleanup()
		return db.Close()
	})), nil
}

// openGorilla signs its cookies and does not encrypt them, which is the faster
// of its two ways.
func openGorilla(string) (*app, error) {
	store := sessions.NewCookieStore([]byte("a key of 32 bytes for the tests!"))
	get := func(r *http.Request) *sessions.Session {
		s, _ := store.Get(r, "bench") // an error comes with a new session
		return s
	}
	save := func(w http.ResponseWriter, r *http.Request, s *sessions.Session) bool {
		if err := s.Save(r, w); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return false
		}
		return true
	}
	same := func(h http.Handler) http.Handler { return h }
	return &app{
		handlers: wrap(same, map[string]http.HandlerFunc{
			"fill": func(w http.ResponseWriter, r *http.Request) {
				s := get(r)
				for _, key := range valueKeys {
					s.Values[key] = valueText
				}
				s.Values[counter] = 1
				if save(w, r, s) {
					w.Write(hello)
				}
			},
			"counter": func(w http.ResponseWriter, r *http.Request) {
				s := get(r)
				n, _ := s.Values[counter].(int)
				s.Values[counter] = n + 1
				if save(w, r, s) {
					answer(w, n >= 0)
				}
			},
			"read": func(w http.ResponseWriter, r *http.Request) {
				v, _ := get(r).Values[valueKeys[readKey]].(string)
				answer(w, v == valueText)
			},
			"idle": sayHello,
			"count": func(w http.ResponseWriter, r *http.Request) {
				n, _ := get(r).Values[counter].(int)
				showCount(w, n)
			},
		}),
		close: func() error { return nil },
	}, nil
}
