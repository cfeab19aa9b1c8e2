package postgres_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/postgres"
	"github.com/crumb-go/crumb/store/storetest"
)

func TestMain(m *testing.M) { servers.Main(m, servers.Postgres) }

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) session.Store { return openNew(t) })
}

// Behind a PgBouncer in transaction mode there are no prepared statements.
func TestStoreWithoutPreparedStatements(t *testing.T) {
	storetest.Run(t, func(t *testing.T) session.Store {
		url := serverURL(t)
		sep := "?"
		if strings.Contains(url, "?") {
			sep = "&"
		}
		return open(t, url+sep+"default_query_exec_mode=exec", newPrefix(t))
	})
}

// serverURL is the address of the server that the tests share.
func serverURL(t testing.TB) string {
	t.Helper()
	url, ok := servers.URL(servers.Postgres)
	if !ok {
		t.Fatal("there is no PostgreSQL")
	}
	return url
}

var prefixes atomic.Int64

// newPrefix returns a prefix of tables that nobody else uses, and deletes them
// when the test ends.
func newPrefix(t testing.TB) string {
	t.Helper()
	prefix := fmt.Sprintf("t%d_%d_%x_", os.Getpid(), prefixes.Add(1), time.Now().UnixNano()&0xffffff)
	t.Cleanup(func() { query(t, fmt.Sprintf("DROP TABLE IF EXISTS %sschema, %ssessions", prefix, prefix)) })
	return prefix
}

// open applies the schema and opens a store.
func open(t testing.TB, url, prefix string) *postgres.Store {
	t.Helper()
	cfg := postgres.Config{TablePrefix: prefix}
	if err := postgres.ApplySchema(t.Context(), url, cfg); err != nil {
		t.Fatal(err)
	}
	return reopen(t, url, prefix)
}

func reopen(t testing.TB, url, prefix string) *postgres.Store {
	t.Helper()
	st, err := postgres.Open(t.Context(), url, postgres.Config{TablePrefix: prefix})
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

func openNew(t testing.TB) *postgres.Store {
	t.Helper()
	return open(t, serverURL(t), newPrefix(t))
}

// query runs a statement on a connection of its own and returns the first column
// of its rows, as text.
func query(t testing.TB, sql string, args ...any) (column []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // also when the test is over
	defer cancel()
	c, err := pgx.Connect(ctx, serverURL(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	rows, err := c.Query(ctx, sql, append([]any{pgx.QueryExecModeSimpleProtocol}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	column, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) { return string(row.RawValues()[0]), nil })
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return column
}
