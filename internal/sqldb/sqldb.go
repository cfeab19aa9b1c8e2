// Package sqldb is what the tables of an app need of database/sql on SQLite,
// PostgreSQL and MySQL: one way to write statements, transactions that are
// repeated when the engine asks for it, and versioned schemas.
//
// Statements use ? for parameters. Times are whole microseconds, as integers.
package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// A Dialect is the SQL that a database speaks.
type Dialect string

// The dialects. MySQL is MariaDB's too.
const (
	SQLite   Dialect = "sqlite"
	Postgres Dialect = "postgres"
	MySQL    Dialect = "mysql"
)

// A DB runs statements on a database. It is safe for use by several goroutines.
// A call ends when its context does, or after 5 seconds if that has no deadline.
type DB struct {
	Dialect Dialect

	sql    *sql.DB
	writes *sql.DB // the same, but for a SQLite file: who writes does not wait for a connection too
	light  *sql.DB // the same as writes, but for a SQLite file: its commits do not wait for the disk
	owned  bool

	// turn is held by who writes to SQLite, which lets in one at a time and has no
	// queue; in memory, where there is one connection, also by who reads.
	turn   chan struct{}
	memory bool
}

const callTimeout = 5 * time.Second

// Open opens the database that raw names: sqlite:FILE, memory:, postgres://… or
// mysql://….
func Open(ctx context.Context, raw string) (*DB, error) {
	var db *DB
	var err error
	scheme, _, _ := strings.Cut(raw, ":")
	switch scheme {
	case "sqlite":
		db, err = OpenSQLite(ctx, raw)
	case "memory":
		db, err = openMemory()
	case "postgres", "postgresql":
		db, err = openPostgres(raw)
	case "mysql":
		db, err = openMySQL(raw)
	default:
		return nil, fmt.Errorf("no database begins with %q; write memory:, sqlite:FILE, postgres://host/database or mysql://host/database", scheme+":")
	}
	if err != nil {
		return nil, err
	}
	db.owned = true
	return db, nil
}

// New runs statements on a database that is open already.
func New(db *sql.DB, d Dialect) (*DB, error) {
	switch {
	case db == nil:
		return nil, errors.New("the database is nil")
	case d != SQLite && d != Postgres && d != MySQL:
		return nil, fmt.Errorf("there is no dialect %q; use %s, %s or %s", d, SQLite, Postgres, MySQL)
	}
	return &DB{Dialect: d, sql: db, writes: db, light: db, turn: make(chan struct{}, 1)}, nil
}

// defaultMaxConns leaves most of a server's connections, 100 or 151 by default, to
// other processes.
const defaultMaxConns = 10

// openServer sets what the connections to any server share.
func openServer(db *sql.DB, d Dialect, maxConns int) (*DB, error) {
	db.SetMaxOpenConns(maxConns)
	db.SetMaxIdleConns(maxConns)
	db.SetConnMaxIdleTime(5 * time.Minute)
	db.SetConnMaxLifetime(time.Hour)
	return New(db, d)
}

// Close closes the database if Open opened it.
func (db *DB) Close() error {
	if !db.owned {
		return nil
	}
	err := db.sql.Close()
	if db.writes != db.sql {
		err = errors.Join(err, db.writes.Close(), db.light.Close())
	}
	return err
}

// A Runner runs statements: a [DB], each by itself, or a [Tx].
type Runner interface {
	// Exec runs a statement and returns how many rows it changed.
	Exec(ctx context.Context, query string, args ...any) (int64, error)
	// Row reads the only row of a query into dest; none is [sql.ErrNoRows].
	Row(ctx context.Context, query string, args []any, dest ...any) error
	// Rows calls row for each row of a query. row must not use the database.
	Rows(ctx context.Context, query string, args []any, row func(scan Scan) error) error
}

// Scan copies the columns of a row.
type Scan func(dest ...any) error

// Exec implements [Runner].
func (db *DB) Exec(ctx context.Context, query string, args ...any) (n int64, err error) {
	err = db.again(ctx, func(ctx context.Context) error {
		done, err := db.wait(ctx, db.Dialect == SQLite)
		if err != nil {
			return err
		}
		defer done()
		n, err = runner{conn: db.writes, dialect: db.Dialect}.Exec(ctx, query, args...)
		return err
	})
	return n, err
}

// Row implements [Runner].
func (db *DB) Row(ctx context.Context, query string, args []any, dest ...any) error {
	return db.again(ctx, func(ctx context.Context) error {
		done, err := db.wait(ctx, db.memory)
		if err != nil {
			return err
		}
		defer done()
		return runner{conn: db.sql, dialect: db.Dialect}.Row(ctx, query, args, dest...)
	})
}

// Rows implements [Runner]. Once there was a row, nothing is repeated.
func (db *DB) Rows(ctx context.Context, query string, args []any, row func(scan Scan) error) error {
	var broken error
	err := db.again(ctx, func(ctx context.Context) error {
		done, err := db.wait(ctx, db.memory)
		if err != nil {
			return err
		}
		defer done()
		begun := false
		err = runner{conn: db.sql, dialect: db.Dialect}.Rows(ctx, query, args, func(scan Scan) error {
			begun = true
			return row(scan)
		})
		if begun {
			broken, err = err, nil
		}
		return err
	})
	if err == nil {
		err = broken
	}
	return err
}

// A conn is a database, a connection or a transaction of database/sql.
type conn interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// A runner runs statements on a conn, each until a time at most if there is one.
type runner struct {
	conn    conn
	dialect Dialect
	until   time.Time
}

// within returns ctx, but no longer than until.
func (r runner) within(ctx context.Context) (context.Context, context.CancelFunc) {
	if r.until.IsZero() {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, r.until)
}

func (r runner) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	ctx, cancel := r.within(ctx)
	defer cancel()
	res, err := r.conn.ExecContext(ctx, r.dialect.bind(query), args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (r runner) Row(ctx context.Context, query string, args []any, dest ...any) error {
	found := false
	err := r.Rows(ctx, query, args, func(scan Scan) error {
		found = true
		return scan(dest...)
	})
	if err == nil && !found {
		err = sql.ErrNoRows
	}
	return err
}

func (r runner) Rows(ctx context.Context, query string, args []any, row func(scan Scan) error) error {
	ctx, cancel := r.within(ctx)
	defer cancel()
	rows, err := r.conn.QueryContext(ctx, r.dialect.bind(query), args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// bind writes the parameters as the database reads them.
func (d Dialect) bind(query string) string {
	if d != Postgres {
		return query
	}
	var b strings.Builder
	for n, part := range strings.Split(query, "?") {
		if n > 0 {
			b.WriteString("$" + strconv.Itoa(n))
		}
		b.WriteString(part)
	}
	return b.String()
}

// wait waits for one's turn, if turns are taken. Those who wait have it in the
// order in which they came; a pool of connections takes any of them.
func (db *DB) wait(ctx context.Context, turns bool) (done func(), err error) {
	if !turns {
		return func() {}, nil
	}
	select {
	case db.turn <- struct{}{}:
		return func() { <-db.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Pauses between repetitions. Another process holds SQLite's lock for some
// hundred microseconds, and nobody is told when it lets go.
const (
	minPause       = 50 * time.Microsecond
	maxPauseSQLite = time.Millisecond
	maxPause       = 50 * time.Millisecond
)

// again repeats fn for as long as the database asks for it.
func (db *DB) again(ctx context.Context, fn func(ctx context.Context) error) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	longest := maxPause
	if db.Dialect == SQLite {
		longest = maxPauseSQLite
	}
	for pause := minPause; ; pause = min(2*pause, longest) {
		err := fn(ctx)
		if err == nil || !IsRetryable(err) {
			return err
		}
		t := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("%w, after: %w", ctx.Err(), err)
		}
	}
}
