// Package sqltest holds what the tests of the stores on SQL servers share: what
// they promise beyond package storetest when the server, the network or another
// program does not do as it should.
package sqltest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/internal/sqlstore"
	"github.com/crumb-go/crumb/session"
)

// A Store is what both stores are.
type Store interface {
	session.Store
	session.Lister
	session.Toucher
	session.Sweeper
	session.Checker
	Close() error
}

// An Engine is one of the two, and a server of it.
type Engine struct {
	URL string // of the server that tests share

	Open  func(ctx context.Context, url, prefix string, logger *slog.Logger) (Store, error)
	Apply func(ctx context.Context, url, prefix string) error

	// Connect returns a connection of its own, on which statements run one by one,
	// and what closes it. Query of it returns the first column of the rows, as text.
	Connect func(ctx context.Context, url string) (query func(sql string) ([]string, error), close func(), err error)

	// LockedRequests is how many requests a transaction of Update sends, the last of
	// which commits.
	LockedRequests int

	Dialect *sqlstore.Dialect
	DB      func(ctx context.Context, url string) (db sqlstore.DB, close func(), err error)

	// Bytes makes bytes of an expression that is a text.
	Bytes func(text string) string

	// Explain before a statement asks for its plan. Scans and Index are patterns: of
	// a plan that reads all sessions, and of one that uses an index, each with the
	// prefix or the name in place of %s. PrimaryKey is the end of the name of that.
	Explain, Scans, Index, PrimaryKey string

	Analyze string // follows ANALYZE
}

var prefixes atomic.Int64

// Prefix returns a prefix of tables that nobody else uses, and has them deleted
// when the test ends.
func (e *Engine) Prefix(t testing.TB) string {
	t.Helper()
	prefix := fmt.Sprintf("t%d_%d_%x_", os.Getpid(), prefixes.Add(1), time.Now().UnixNano()&0xffffff)
	t.Cleanup(func() { e.Query(t, fmt.Sprintf("DROP TABLE IF EXISTS %sschema, %ssessions", prefix, prefix)) })
	return prefix
}

// Query runs a statement on a connection of its own.
func (e *Engine) Query(t testing.TB, sql string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // also when the test is over
	defer cancel()
	query, close, err := e.Connect(ctx, e.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer close()
	column, err := query(sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return column
}

// OpenNew returns a store on new tables.
func (e *Engine) OpenNew(t testing.TB) Store {
	t.Helper()
	prefix := e.Prefix(t)
	e.apply(t, prefix)
	return e.open(t, e.URL, prefix)
}

// Emptied returns a function that empties one store and returns it, for tests that
// need new ones one after the other: to create tables takes longer than they do.
func (e *Engine) Emptied(t testing.TB) func(t *testing.T) session.Store {
	t.Helper()
	prefix := e.Prefix(t)
	e.apply(t, prefix)
	st := e.open(t, e.URL, prefix)
	return func(t *testing.T) session.Store {
		t.Helper()
		e.Query(t, "DELETE FROM "+prefix+"sessions")
		return st
	}
}

func (e *Engine) apply(t testing.TB, prefix string) {
	t.Helper()
	if err := e.Apply(t.Context(), e.URL, prefix); err != nil {
		t.Fatal(err)
	}
}

func (e *Engine) open(t testing.TB, url, prefix string) Store {
	t.Helper()
	return e.openLogging(t, url, prefix, slog.New(slog.DiscardHandler))
}

func (e *Engine) openLogging(t testing.TB, url, prefix string, logger *slog.Logger) Store {
	t.Helper()
	st, err := e.Open(t.Context(), url, prefix, logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

// behindProxy opens a store that reaches its tables through a proxy.
func (e *Engine) behindProxy(t testing.TB, prefix string) (Store, *servers.Proxy) {
	t.Helper()
	proxy, url, err := servers.ProxyFor(e.URL)
	if err != nil {
		t.Fatal(err)
	}
	st := e.open(t, url, prefix)
	t.Cleanup(func() {
		if err := proxy.Close(); err != nil {
			t.Error(err)
		}
	})
	return st, proxy
}

func id(n int) session.ID { return session.ID(fmt.Sprintf("Sqltest__%07d", n)) }

func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

// visitor returns the record of the nth visitor.
func visitor(n int) *session.Record {
	at := now()
	return &session.Record{
		Info:   session.Info{ID: id(n), Created: at, Seen: at, Expires: at.Add(time.Hour)},
		Secret: sha256.Sum256(fmt.Append(nil, n)), Idle: time.Hour, Absolute: at.Add(24 * time.Hour),
	}
}

func bare(n int) *session.Record { return &session.Record{Info: session.Info{ID: id(n)}} }

func create(t testing.TB, st Store, recs ...*session.Record) {
	t.Helper()
	for _, rec := range recs {
		if err := st.Create(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
	}
}

func load(t testing.TB, st Store, n int) *session.Record {
	t.Helper()
	rec, err := st.Load(t.Context(), id(n))
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// add is a change that adds 1 to the counter n.n.
func add() *session.Change {
	return &session.Change{Now: now(), Ops: []session.Op{{Kind: session.OpAdd, Key: "n.n", Delta: 1}}}
}

func counter(t testing.TB, st Store, n int) string {
	t.Helper()
	return string(load(t, st, n).Values.Get("n.n"))
}

func has(err error, parts ...string) bool {
	if err == nil {
		return false
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			return false
		}
	}
	return true
}
