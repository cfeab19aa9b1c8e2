package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"strings"
)

// A Tx is a transaction: at READ COMMITTED on servers, and the only one that
// writes on SQLite.
type Tx struct{ runner }

var (
	_ Runner = (*DB)(nil)
	_ Runner = (*Tx)(nil)
)

// ForUpdate ends a query whose rows stay locked until the transaction ends.
func (tx *Tx) ForUpdate() string {
	if tx.dialect == SQLite {
		return ""
	}
	return " FOR UPDATE"
}

// Tx runs fn in a transaction and commits if it returns no error. A deadlock, a
// serialisation failure or a busy file has fn run again, in a new transaction. The
// deadline of the whole is that of each statement too. fn must not use the DB: a
// database in memory has one connection.
func (db *DB) Tx(ctx context.Context, fn func(tx *Tx) error) error {
	return db.txOn(ctx, db.writes, fn)
}

// LightTx is [DB.Tx] for what a power cut may take back: on SQLite the commit does
// not wait for the disk, so that others have the file sooner.
func (db *DB) LightTx(ctx context.Context, fn func(tx *Tx) error) error {
	return db.txOn(ctx, db.light, fn)
}

func (db *DB) txOn(ctx context.Context, pool *sql.DB, fn func(tx *Tx) error) error {
	return db.again(ctx, func(ctx context.Context) error {
		if db.Dialect != Postgres {
			return db.txOnConn(ctx, pool, fn)
		}
		tx, err := db.sql.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
		if err != nil {
			return err
		}
		defer tx.Rollback() // which does nothing after a commit
		if err := fn(db.tx(ctx, tx)); err != nil {
			return err
		}
		return tx.Commit()
	})
}

// tx is a transaction over conn, of which each statement ends when ctx does by its
// deadline.
func (db *DB) tx(ctx context.Context, conn conn) *Tx {
	until, _ := ctx.Deadline()
	return &Tx{runner{conn, db.Dialect, until}}
}

// txOnConn runs the transaction statement by statement. On SQLite it takes the lock
// to write before anything is read: database/sql knows deferred transactions only,
// in which what was read may be out of date when the first write comes. On MySQL a
// commit ends with ctx: that of the driver takes none, and would wait for a server
// that does not answer.
func (db *DB) txOnConn(ctx context.Context, pool *sql.DB, fn func(tx *Tx) error) error {
	done, err := db.wait(ctx, db.Dialect == SQLite)
	if err != nil {
		return err
	}
	defer done()
	ending := ctx
	if db.Dialect == SQLite {
		ending = context.WithoutCancel(ctx) // a commit that is interrupted may have happened or not
	}
	conn, err := db.begin(ctx, ending, pool)
	if err != nil {
		return err
	}
	defer conn.Close()
	committed := false
	defer func() {
		if !committed {
			rollBack(ending, conn)
		}
	}()
	if err := fn(db.tx(ctx, conn)); err != nil {
		return err
	}
	if _, err := conn.ExecContext(ending, "COMMIT"); err != nil {
		return err
	}
	committed = true
	return nil
}

// begin begins a transaction on a connection that the caller closes. One that broke
// while nobody used it is known by the first statement, and another takes its place.
func (db *DB) begin(ctx, ending context.Context, pool *sql.DB) (*sql.Conn, error) {
	statements := []string{"BEGIN IMMEDIATE"}
	if db.Dialect == MySQL {
		statements = []string{"SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "START TRANSACTION"}
	}
	for {
		conn, err := pool.Conn(ctx)
		if err != nil {
			return nil, err
		}
		for _, st := range statements {
			if _, err = conn.ExecContext(ctx, st); err != nil {
				break
			}
		}
		if err == nil {
			return conn, nil
		}
		broken := errors.Is(err, driver.ErrBadConn)
		if !broken {
			rollBack(ending, conn) // it may have begun all the same
		}
		_ = conn.Close()
		if !broken {
			return nil, err
		}
	}
}

// rollBack ends the transaction on a connection, if there is one. A connection of
// which that is not certain is closed.
func rollBack(ctx context.Context, conn *sql.Conn) {
	_, err := conn.ExecContext(ctx, "ROLLBACK")
	if err != nil && !strings.Contains(err.Error(), "no transaction is active") { // SQLite says so, and may have ended it by itself
		drop(conn)
	}
}

// drop closes a connection, which would else go back to the pool.
func drop(conn *sql.Conn) { _ = conn.Raw(func(any) error { return driver.ErrBadConn }) }
