// Package postgres keeps sessions in PostgreSQL, where many machines share them.
// CockroachDB and YugabyteDB speak the same SQL.
//
// An acknowledged change survives a crash of the server if synchronous_commit is
// on, as it is by default, and a failover if a synchronous standby has it.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/crumb-go/crumb/internal/sqlstore"
	"github.com/crumb-go/crumb/session"
)

// Config holds what [Open] and [New] may be told besides the server. The zero
// Config is a good one.
type Config struct {
	// Logger is told, at debug level, when a deadlock or a serialisation failure
	// had a statement repeated.
	//
	// Defaults to [slog.Default].
	Logger *slog.Logger

	// TablePrefix is what the names of the tables begin with: ASCII letters,
	// digits and underscores, at most 40. Several apps can so share a database.
	//
	// Defaults to "crumb_".
	TablePrefix string
}

func (cfg *Config) check() error {
	if cfg.TablePrefix == "" {
		cfg.TablePrefix = sqlstore.DefaultPrefix
	}
	if err := sqlstore.CheckPrefix(cfg.TablePrefix); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return nil
}

// rows is what [Store] inherits its methods from.
type rows = sqlstore.Store

// A Store keeps sessions in PostgreSQL. It implements [session.Store],
// [session.Lister], [session.Toucher], [session.Sweeper] and [session.Checker].
//
// An update is one statement while nobody else changes the session, and one
// transaction that locks its row otherwise. Updates that come at once share
// transactions, and those of one session a row write. Calls end when their context
// does.
type Store struct {
	*rows
	pool  *pgxpool.Pool
	owned bool
}

var (
	_ session.Store   = (*Store)(nil)
	_ session.Lister  = (*Store)(nil)
	_ session.Toucher = (*Store)(nil)
	_ session.Sweeper = (*Store)(nil)
	_ session.Checker = (*Store)(nil)
)

// Open connects to the server at url, such as
// "postgres://user:password@host:5432/database?sslmode=verify-full". The URL
// takes the parameters of libpq and of pgxpool, among them:
//
//   - sslmode: verify-full asks for a server that proves who it is. Defaults to
//     prefer, encrypted if the server can.
//   - connect_timeout: seconds. Defaults to 5.
//   - pool_max_conns: how many connections at most. Defaults to 10: the server's
//     limit, 100 by default, is shared by all processes.
//   - default_query_exec_mode: exec, behind a PgBouncer before 1.21 in
//     transaction mode, which loses prepared statements.
//
// It is an error if the tables are not there ([ApplySchema] creates them) or are
// those of a newer program.
func Open(ctx context.Context, url string, cfg Config) (*Store, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	pool, err := connect(ctx, url)
	if err != nil {
		return nil, err
	}
	s, err := New(ctx, pool, cfg)
	if err != nil {
		pool.Close()
		return nil, err
	}
	s.owned = true
	return s, nil
}

// New is Open over a pool of the app's own, which Close leaves open. Its
// connections must not be in a transaction or a role that cannot write the tables.
func New(ctx context.Context, pool *pgxpool.Pool, cfg Config) (*Store, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	version, err := schemaVersion(ctx, pool, cfg.TablePrefix)
	if err == nil {
		err = sqlstore.CheckVersion(version, dialect.Name, cfg.TablePrefix)
	}
	if err != nil {
		return nil, fmt.Errorf("postgres: open: %w", err)
	}
	return &Store{rows: sqlstore.New(db{pool}, dialect, cfg.TablePrefix, cfg.Logger), pool: pool}, nil
}

// Close waits for the calls under way and closes the connections that Open made.
// Later calls of the other methods return an error.
func (s *Store) Close() error {
	if s.owned {
		s.pool.Close()
	}
	return nil
}

const (
	defaultMaxConns       = 10
	defaultConnectTimeout = 5 * time.Second
)

// connect makes a pool for the server at raw. It does not connect yet.
func connect(ctx context.Context, raw string) (*pgxpool.Pool, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil: // which may quote a part of the password
		return nil, errors.New("postgres: this is no URL; write postgres://user:password@host:5432/database, and in user and password %23 for #, %2F for /, %3A for : and %40 for @")
	case u.Scheme != "postgres" && u.Scheme != "postgresql":
		return nil, fmt.Errorf("postgres: the URL begins with %q, which is not this store's; write postgres://user:password@host:5432/database", u.Scheme)
	}
	cfg, err := pgxpool.ParseConfig(raw)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	if !u.Query().Has("pool_max_conns") {
		cfg.MaxConns = defaultMaxConns
	}
	if cfg.ConnConfig.ConnectTimeout == 0 {
		cfg.ConnConfig.ConnectTimeout = defaultConnectTimeout
	}
	cfg.PingTimeout = cfg.ConnConfig.ConnectTimeout
	if !u.Query().Has("pool_max_conn_lifetime_jitter") {
		cfg.MaxConnLifetimeJitter = cfg.MaxConnLifetime / 10
	}
	if params := cfg.ConnConfig.RuntimeParams; params["application_name"] == "" {
		params["application_name"] = "crumb"
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	return pool, nil
}
