package mysql

import (
	"context"
	"database/sql"
	"log/slog"
	neturl "net/url"
	"strings"
	"testing"

	driver "github.com/go-sql-driver/mysql"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/internal/sqlstore"
	"github.com/crumb-go/crumb/internal/sqlstore/sqltest"
	"github.com/crumb-go/crumb/store/storetest"
)

func TestMain(m *testing.M) { servers.Main(m, servers.MySQL) }

func TestStore(t *testing.T) {
	storetest.Run(t, engine(t).Emptied(t))
}

// A pool of the app's own is REPEATABLE READ and sends parameters apart from
// their statements, unless the app says otherwise.
func TestStoreOverAPoolOfTheApp(t *testing.T) {
	e := engine(t)
	pool := connectApp(t, e.URL)
	e.Open = func(ctx context.Context, _, prefix string, logger *slog.Logger) (sqltest.Store, error) {
		return New(ctx, pool, Config{TablePrefix: prefix, Logger: logger})
	}
	storetest.Run(t, e.Emptied(t))
}

func TestFaults(t *testing.T) { sqltest.Run(t, engine(t)) }

func TestAServerThatIsKilledLosesNothingAcknowledged(t *testing.T) {
	sqltest.Kill(t, engine(t), servers.MySQL)
}

// engine is the server that the tests share.
func engine(t testing.TB) *sqltest.Engine {
	t.Helper()
	url, ok := servers.URL(servers.MySQL)
	if !ok {
		t.Fatal("there is no MariaDB")
	}
	return &sqltest.Engine{
		URL: url,
		Open: func(ctx context.Context, url, prefix string, logger *slog.Logger) (sqltest.Store, error) {
			return Open(ctx, url, Config{TablePrefix: prefix, Logger: logger})
		},
		Apply: func(ctx context.Context, url, prefix string) error {
			return ApplySchema(ctx, url, Config{TablePrefix: prefix})
		},
		Connect: func(ctx context.Context, url string) (func(string) ([]string, error), func(), error) {
			return dial(ctx, connectApp(t, url))
		},
		LockedRequests: 4,
		Dialect:        dialect,
		DB: func(ctx context.Context, url string) (sqlstore.DB, func(), error) {
			d, err := connect(url, slog.New(slog.DiscardHandler))
			if err != nil {
				return nil, nil, err
			}
			return d, func() { d.pool.Close() }, nil
		},
		Bytes:      func(text string) string { return text },
		Explain:    "EXPLAIN FORMAT=JSON",
		Scans:      `"table_name": "(%ssessions|s)",\s*"access_type": "(ALL|index)",\s*"rows"`,
		Index:      `"key": "%s"`,
		PrimaryKey: "PRIMARY",
		Analyze:    "TABLE ",
	}
}

// connectApp returns a pool as an app makes it.
func connectApp(t testing.TB, url string) *sql.DB {
	t.Helper()
	u, err := neturl.Parse(url)
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
	t.Cleanup(func() {
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
	})
	return pool
}

func dial(ctx context.Context, pool *sql.DB) (query func(string) ([]string, error), close func(), err error) {
	c, err := pool.Conn(ctx)
	if err != nil {
		return nil, nil, err
	}
	query = func(text string) (column []string, err error) {
		rows, err := c.QueryContext(context.WithoutCancel(ctx), text)
		if err != nil {
			return nil, err
		}
		defer rows.Close()
		names, err := rows.Columns()
		if err != nil {
			return nil, err
		}
		var first sql.NullString
		dest := []any{&first}
		for range len(names) - 1 {
			dest = append(dest, new(any))
		}
		for rows.Next() {
			if err := rows.Scan(dest...); err != nil {
				return nil, err
			}
			column = append(column, first.String)
		}
		return column, rows.Err()
	}
	return query, func() {
		c.Close()
		pool.Close()
	}, nil
}
