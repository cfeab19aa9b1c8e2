package postgres

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/internal/sqlstore"
	"github.com/crumb-go/crumb/internal/sqlstore/sqltest"
	"github.com/crumb-go/crumb/store/storetest"
)

func TestMain(m *testing.M) { servers.Main(m, servers.Postgres) }

func TestStore(t *testing.T) {
	storetest.Run(t, engine(t).Emptied(t))
}

// A PgBouncer in transaction mode loses prepared statements.
func TestStoreWithoutPreparedStatements(t *testing.T) {
	e := engine(t)
	separator := "?"
	if strings.Contains(e.URL, "?") {
		separator = "&"
	}
	e.URL += separator + "default_query_exec_mode=exec"
	storetest.Run(t, e.Emptied(t))
}

func TestFaults(t *testing.T) { sqltest.Run(t, engine(t)) }

func TestAServerThatIsKilledLosesNothingAcknowledged(t *testing.T) {
	sqltest.Kill(t, engine(t), servers.Postgres)
}

// engine is the server that the tests share.
func engine(t testing.TB) *sqltest.Engine {
	t.Helper()
	url, ok := servers.URL(servers.Postgres)
	if !ok {
		t.Fatal("there is no PostgreSQL")
	}
	return &sqltest.Engine{
		URL: url,
		Open: func(ctx context.Context, url, prefix string, logger *slog.Logger) (sqltest.Store, error) {
			return Open(ctx, url, Config{TablePrefix: prefix, Logger: logger})
		},
		Apply: func(ctx context.Context, url, prefix string) error {
			return ApplySchema(ctx, url, Config{TablePrefix: prefix})
		},
		Connect:        dial,
		LockedRequests: 2,
		Dialect:        dialect,
		DB: func(ctx context.Context, url string) (sqlstore.DB, func(), error) {
			pool, err := connect(ctx, url)
			if err != nil {
				return nil, nil, err
			}
			return db{pool}, pool.Close, nil
		},
		Bytes:      func(text string) string { return "convert_to(" + text + ", 'UTF8')" },
		Explain:    "EXPLAIN",
		Scans:      `Seq Scan on %ssessions`,
		Index:      `(Index|Index Only|Bitmap Index) Scan (Backward )?(using|on) %s\b`,
		PrimaryKey: "sessions_pkey",
	}
}

func dial(ctx context.Context, url string) (query func(string) ([]string, error), close func(), err error) {
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, nil, err
	}
	query = func(sql string) ([]string, error) {
		rows, err := c.Query(context.WithoutCancel(ctx), sql, pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) { return string(row.RawValues()[0]), nil })
	}
	return query, func() { c.Close(context.WithoutCancel(ctx)) }, nil
}
