package mysql_test

import (
	"context"
	"database/sql"
	"fmt"
	neturl "net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	driver "github.com/go-sql-driver/mysql"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/mysql"
	"github.com/crumb-go/crumb/store/storetest"
)

func TestMain(m *testing.M) { servers.Main(m, servers.MySQL) }

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) session.Store { return openNew(t) })
}

// A pool of the app's own is REPEATABLE READ, and sends parameters apart from
// their statements, unless the app says otherwise.
func TestStoreOverAPoolOfTheApp(t *testing.T) {
	pool := connect(t)
	storetest.Run(t, func(t *testing.T) session.Store {
		prefix := newPrefix(t)
		apply(t, prefix)
		st, err := mysql.New(t.Context(), pool, mysql.Config{TablePrefix: prefix})
		if err != nil {
			t.Fatal(err)
		}
		return st
	})
}

// serverURL is the address of the server that the tests share.
func serverURL(t testing.TB) string {
	t.Helper()
	url, ok := servers.URL(servers.MySQL)
	if !ok {
		t.Fatal("there is no MariaDB")
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

func apply(t testing.TB, prefix string) {
	t.Helper()
	if err := mysql.ApplySchema(t.Context(), serverURL(t), mysql.Config{TablePrefix: prefix}); err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, url, prefix string) *mysql.Store {
	t.Helper()
	st, err := mysql.Open(t.Context(), url, mysql.Config{TablePrefix: prefix})
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

func openNew(t testing.TB) *mysql.Store {
	t.Helper()
	prefix := newPrefix(t)
	apply(t, prefix)
	return open(t, serverURL(t), prefix)
}

// connect returns a pool as an app makes it.
func connect(t testing.TB) *sql.DB {
	t.Helper()
	u, err := neturl.Parse(serverURL(t))
	if err != nil {
		t.Fatal(err)
	}
	cfg := driver.NewConfig()
	cfg.User, cfg.DBName = u.User.Username(), strings.Trim(u.Path, "/")
	cfg.Passwd, _ = u.User.Password()
	cfg.Net, cfg.Addr = "tcp", u.Host
	c, err := driver.NewConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	pool := sql.OpenDB(c)
	pool.SetMaxOpenConns(20)
	pool.SetMaxIdleConns(20)
	t.Cleanup(func() { pool.Close() })
	return pool
}

// query runs a statement on a connection of its own and returns the first column
// of its rows, as text.
func query(t testing.TB, text string, args ...any) (column []string) {
	t.Helper()
	pool := connect(t)
	defer pool.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // also when the test is over
	defer cancel()
	rows, err := pool.QueryContext(ctx, text, args...)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	defer rows.Close()
	for rows.Next() {
		names, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		var first sql.NullString
		dest := []any{&first}
		for range names[1:] {
			dest = append(dest, new(any))
		}
		if err := rows.Scan(dest...); err != nil {
			t.Fatal(err)
		}
		column = append(column, first.String)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return column
}
