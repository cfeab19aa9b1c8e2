// Package mysql keeps sessions in MySQL 8 or MariaDB, from 10.6 on, where many
// machines share them.
//
// An acknowledged change survives a crash of the server if
// innodb_flush_log_at_trx_commit is 1, as it is by default.
package mysql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/crumb-go/crumb/internal/mysqlurl"
	"github.com/crumb-go/crumb/internal/sqlstore"
	"github.com/crumb-go/crumb/session"
)

// Config holds what [Open] and [New] may be told besides the server. The zero
// Config is a good one.
type Config struct {
	// Logger is told, at debug level, when a deadlock had a statement repeated and
	// when a connection was found broken.
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
		return fmt.Errorf("mysql: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return nil
}

// rows is what [Store] inherits its methods from.
type rows = sqlstore.Store

// A Store keeps sessions in MySQL or MariaDB. It implements [session.Store],
// [session.Lister], [session.Toucher], [session.Sweeper] and [session.Checker].
//
// An update is one statement while nobody else changes the session, and one
// transaction that locks its row otherwise. Updates of one session that come at
// once share a row write. Calls end when their context does.
type Store struct {
	*rows
	pool  *sql.DB
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
// "mysql://user:password@host:3306/database?tls=true". The parameters:
//
//   - tls: true asks for a server that proves who it is, skip-verify for any that
//     encrypts, false for none. Defaults to preferred, encrypted if the server can.
//   - tls_ca, tls_cert, tls_key: PEM files, of the authority that signed the
//     server's certificate and of a certificate to show it. Defaults to the
//     system's authorities and none.
//   - socket: the path of a Unix socket, in place of host and port.
//   - connect_timeout: seconds. Defaults to 5.
//   - pool_max_conns: how many connections at most. Defaults to 10: the server's
//     limit, 151 by default, is shared by all processes.
//
// It is an error if the tables are not there ([ApplySchema] creates them) or are
// those of a newer program.
func Open(ctx context.Context, url string, cfg Config) (*Store, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	d, err := connect(url, cfg.Logger)
	if err != nil {
		return nil, err
	}
	s, err := newStore(ctx, d, cfg)
	if err != nil {
		return nil, errors.Join(err, d.pool.Close())
	}
	s.owned = true
	return s, nil
}

// New is Open over a pool of the app's own, which Close leaves open. Its
// connections must commit each statement (autocommit), and have
// interpolateParams=true if a call is to be one round trip.
func New(ctx context.Context, pool *sql.DB, cfg Config) (*Store, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return newStore(ctx, db{pool: pool}, cfg)
}

func newStore(ctx context.Context, d db, cfg Config) (*Store, error) {
	version, err := schemaVersion(ctx, d.pool, cfg.TablePrefix)
	if err == nil {
		err = sqlstore.CheckVersion(version, dialect.Name, cfg.TablePrefix)
	}
	autocommit := false
	if err == nil {
		err = d.pool.QueryRowContext(ctx, "SELECT @@autocommit").Scan(&autocommit)
	}
	if err == nil && !autocommit {
		err = errors.New("the connections of the pool do not commit each statement; remove autocommit=0")
	}
	if err != nil {
		return nil, fmt.Errorf("mysql: open: %w", err)
	}
	return &Store{rows: sqlstore.New(d, dialect, cfg.TablePrefix, cfg.Logger), pool: d.pool}, nil
}

// Close closes the connections that Open made; calls under way go on to their
// end. Later calls of the other methods return an error.
func (s *Store) Close() error {
	if !s.owned {
		return nil
	}
	if err := s.pool.Close(); err != nil {
		return fmt.Errorf("mysql: close: %w", err)
	}
	return nil
}

// connect makes a pool for the server at url. It does not connect yet.
func connect(url string, logger *slog.Logger) (db, error) {
	cfg, maxConns, err := mysqlurl.Parse(url)
	if err != nil {
		return db{}, fmt.Errorf("mysql: %w", err)
	}
	cfg.Logger = driverLog{logger}
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		return db{}, fmt.Errorf("mysql: %w", err)
	}
	made := &connector{Connector: c}
	pool := sql.OpenDB(made)
	pool.SetMaxOpenConns(maxConns)
	pool.SetMaxIdleConns(maxConns)
	pool.SetConnMaxLifetime(time.Hour)
	pool.SetConnMaxIdleTime(10 * time.Minute)
	return db{pool, made}, nil
}

// A connector makes connections whose transactions are READ COMMITTED: none of
// them reads twice, and the default of the engine locks gaps between rows. The
// statement, not a variable, since the variable has two names.
type connector struct {
	driver.Connector
	left atomic.Int64 // how often all connections there were had to go
}

func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	left := c.left.Load()
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	made := connection{conn.(driverConn), c, left}
	if _, err := made.ExecContext(ctx, "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED", nil); err != nil {
		return nil, errors.Join(err, made.Close())
	}
	return made, nil
}

// A connection goes when the pool has it back after its connector was left, or when
// the pool would hand it out.
type connection struct {
	driverConn
	by   *connector
	left int64
}

func (c connection) IsValid() bool { return c.left == c.by.left.Load() && c.driverConn.IsValid() }

func (c connection) ResetSession(ctx context.Context) error {
	if c.left != c.by.left.Load() {
		return driver.ErrBadConn
	}
	return c.driverConn.ResetSession(ctx)
}

// A driverConn is all that database/sql asks of the driver's connections.
type driverConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.NamedValueChecker
	driver.Pinger
	driver.QueryerContext
	driver.SessionResetter
	driver.Validator
}

// driverLog passes on what the driver says besides the errors it returns.
type driverLog struct{ logger *slog.Logger }

func (l driverLog) Print(v ...any) { l.logger.Debug("mysql: " + fmt.Sprint(v...)) }
