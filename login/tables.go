package login

import (
	"context"
	"database/sql"
	_ "embed"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/crumb-go/crumb/internal/sqldb"
	"github.com/crumb-go/crumb/internal/sqlstore"
)

// A Dialect is the SQL that a database speaks.
type Dialect string

// The dialects that [NewTables] takes.
const (
	SQLite   Dialect = "sqlite"
	Postgres Dialect = "postgres" // PostgreSQL
	MySQL    Dialect = "mysql"    // MySQL and MariaDB
)

// TablesConfig holds what [OpenTables] may be told besides the database. The zero
// TablesConfig is a good one.
type TablesConfig struct {
	// AuditFor is how long the audit log keeps an entry. Defaults to 365 days.
	AuditFor time.Duration

	// Logger gets every entry of the audit log, and what goes wrong. Defaults to
	// slog.Default.
	Logger *slog.Logger

	// MaxCounters is how many accounts, devices and networks failed tries and wishes
	// for links are counted of at a time, of some 200 bytes each. Beyond it those with the fewest
	// failures are forgotten. Defaults to 100,000.
	MaxCounters int

	// TablePrefix is what the names of the tables begin with: ASCII letters,
	// digits and underscores, at most 40. Defaults to "crumb_".
	TablePrefix string
}

func (cfg *TablesConfig) check() error {
	if cfg.TablePrefix == "" {
		cfg.TablePrefix = sqlstore.DefaultPrefix
	}
	if err := sqlstore.CheckPrefix(cfg.TablePrefix); err != nil {
		return fmt.Errorf("login: %w", err)
	}
	if cfg.AuditFor == 0 {
		cfg.AuditFor = 365 * 24 * time.Hour
	}
	if cfg.MaxCounters == 0 {
		cfg.MaxCounters = 100_000
	}
	if cfg.AuditFor < 0 || cfg.MaxCounters < 0 {
		return fmt.Errorf("login: AuditFor is %v and MaxCounters %d; both must be more than 0", cfg.AuditFor, cfg.MaxCounters)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return nil
}

// Tables keep users, failed tries, reset links and the audit log in a database.
// They implement [Users], [Registrar], [Deleter] and [SignInRecorder], and are safe
// for use by several goroutines and processes. A call whose context has no deadline
// ends after 5 seconds.
type Tables struct {
	cfg   TablesConfig
	db    *sqldb.DB
	clock func() time.Time // for the times of users

	// inserted counts rows of counters since their number was last looked at.
	inserted atomic.Int64
	// refused limits the entries of tries that were not looked at.
	refused    *rate.Limiter
	warnedOnce sync.Once
}

var (
	_ Users          = (*Tables)(nil)
	_ Registrar      = (*Tables)(nil)
	_ Deleter        = (*Tables)(nil)
	_ SignInRecorder = (*Tables)(nil)
)

// OpenTables opens the database that url names: sqlite:FILE, which may be the file
// of the sessions, postgres://…, mysql://…, or memory: for one that ends with the
// process. In the first and the last it creates the tables; on a server they must
// be there: see [ApplySchema].
func OpenTables(ctx context.Context, url string, cfg TablesConfig) (*Tables, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	db, err := sqldb.Open(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	t, err := newTables(ctx, db, cfg)
	if err != nil {
		db.Close()
		return nil, err
	}
	return t, nil
}

// NewTables returns the tables in a database that is open already, through
// modernc.org/sqlite or github.com/mattn/go-sqlite3, the database/sql driver of pgx
// or github.com/lib/pq, or github.com/go-sql-driver/mysql. Close leaves it open.
func NewTables(ctx context.Context, db *sql.DB, d Dialect, cfg TablesConfig) (*Tables, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	own, err := sqldb.New(db, sqldb.Dialect(d))
	if err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	return newTables(ctx, own, cfg)
}

func newTables(ctx context.Context, db *sqldb.DB, cfg TablesConfig) (*Tables, error) {
	t := &Tables{cfg: cfg, db: db, clock: time.Now, refused: rate.NewLimiter(1, 60)}
	t.inserted.Store(int64(cfg.MaxCounters)) // look at the first one
	schema := schemaOf(Dialect(db.Dialect), cfg.TablePrefix)
	var err error
	if db.Dialect == sqldb.SQLite {
		err = db.Migrate(ctx, schema)
	} else {
		err = db.CheckVersion(ctx, schema)
	}
	if err != nil {
		return nil, fmt.Errorf("login: open: %w", err)
	}
	return t, nil
}

// Close closes the database if OpenTables opened it.
func (t *Tables) Close() error { return t.db.Close() }

var (
	//go:embed schema/sqlite.sql
	schemaSQLite string
	//go:embed schema/postgres.sql
	schemaPostgres string
	//go:embed schema/mysql.sql
	schemaMySQL string
)

// Schema returns the SQL of the tables, their names beginning with prefix; "" is
// the default. It is "" for a dialect that there is not.
func Schema(d Dialect, prefix string) string {
	if prefix == "" {
		prefix = sqlstore.DefaultPrefix
	}
	text := map[Dialect]string{SQLite: schemaSQLite, Postgres: schemaPostgres, MySQL: schemaMySQL}[d]
	return strings.ReplaceAll(text, sqlstore.DefaultPrefix, prefix)
}

func schemaOf(d Dialect, prefix string) sqldb.Schema {
	return sqldb.Schema{Table: prefix + "login_schema", Steps: []string{Schema(d, prefix)}}
}

// SchemaVersion is the version of the tables that this program reads and writes.
const SchemaVersion = 1

// ApplySchema creates the tables in the database that url names, or brings them to
// the version that this program needs. If they are that already it changes nothing.
func ApplySchema(ctx context.Context, url string, cfg TablesConfig) error {
	return withSchema(ctx, url, cfg, func(db *sqldb.DB, s sqldb.Schema) error { return db.Migrate(ctx, s) })
}

// Status returns the version of the tables in the database that url names, 0 if it
// holds none.
func Status(ctx context.Context, url string, cfg TablesConfig) (version int, err error) {
	err = withSchema(ctx, url, cfg, func(db *sqldb.DB, s sqldb.Schema) error {
		version, err = db.Version(ctx, s)
		return err
	})
	return version, err
}

func withSchema(ctx context.Context, url string, cfg TablesConfig, do func(*sqldb.DB, sqldb.Schema) error) error {
	if err := cfg.check(); err != nil {
		return err
	}
	db, err := sqldb.Open(ctx, url)
	if err != nil {
		return fmt.Errorf("login: %w", err)
	}
	defer db.Close()
	if err := do(db, schemaOf(Dialect(db.Dialect), cfg.TablePrefix)); err != nil {
		return fmt.Errorf("login: schema: %w", err)
	}
	return nil
}

// sql puts the names of tables into a statement.
func (t *Tables) sql(statement string) string {
	return strings.ReplaceAll(statement, "{}", t.cfg.TablePrefix)
}

// now is the time, as tables keep it.
func (t *Tables) now() time.Time { return t.clock().UTC().Truncate(time.Microsecond) }

const sweepInterval = time.Hour

// Run sweeps at once and then every hour, until ctx is done: go tables.Run(ctx).
// Without it rows that have expired stay. It never returns another error than nil.
func (t *Tables) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		if _, err := t.Sweep(ctx, t.now()); err != nil && ctx.Err() == nil {
			t.cfg.Logger.Warn("What expired could not be removed; it is tried again in an hour.", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// sweepBatch is how many rows are removed at once, so that nobody waits long.
const sweepBatch = 1000

// keepExpired is how long what expired stays, as sessions do: by the clock of
// another process it may not have.
const keepExpired = time.Hour

// Sweep removes counters and reset links that expired an hour before now, and
// entries of the audit log that are older than AuditFor, in batches, and returns how
// many.
func (t *Tables) Sweep(ctx context.Context, now time.Time) (total int, err error) {
	for _, old := range []struct {
		table, id, at string
		before        time.Time
	}{
		{"{}login_counters", "id", "expires", now.Add(-keepExpired)},
		{"{}login_resets", "user_id", "expires", now.Add(-keepExpired)},
		{"{}audit", "id", "at", now.Add(-t.cfg.AuditFor)},
	} {
		n, err := t.deleteOld(ctx, old.table, old.id, old.at, old.before)
		total += n
		if err != nil {
			return total, fmt.Errorf("login: sweep: %w", err)
		}
	}
	return total, nil
}

// deleteOld deletes the rows whose time is not after before, in batches.
func (t *Tables) deleteOld(ctx context.Context, table, id, at string, before time.Time) (total int, err error) {
	for {
		n, err := t.db.Exec(ctx, t.deleteSome(table, id, at+" <= ?", at), before.UnixMicro(), sweepBatch)
		total += int(n)
		if err != nil || n < sweepBatch {
			return total, err
		}
	}
}

// deleteSome is a statement that deletes the first rows of an order; its last
// parameter is how many.
func (t *Tables) deleteSome(table, id, where, order string) string {
	if where != "" {
		where = " WHERE " + where
	}
	rows := where + " ORDER BY " + order + " LIMIT ?"
	if t.db.Dialect == sqldb.MySQL { // which has no LIMIT in subqueries
		return t.sql("DELETE FROM " + table + rows)
	}
	return t.sql("DELETE FROM " + table + " WHERE " + id + " IN (SELECT " + id + " FROM " + table + rows + ")")
}
