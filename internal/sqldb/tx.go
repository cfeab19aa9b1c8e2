package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
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
// serialisation failure or a busy file has fn run again, in a new transaction. fn
// must not use the DB: a database in memory has one connection.
func (db *DB) Tx(ctx context.Context, fn func(tx *Tx) error) error {
	return db.again(ctx, func(ctx context.Context) error {
		if db.Dialect == SQLite {
			return db.txSQLite(ctx, fn)
		}
		tx, err := db.sql.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
		if err != nil {
			return err
		}
		defer tx.Rollback() // which does nothing after a commit
		if err := fn(&Tx{runner{tx, db.Dialect}}); err != nil {
			return err
		}
		return tx.Commit()
	})
}

// txSQLite takes the lock to write before anything is read. database/sql knows
// deferred transactions only, in which what was read may be out of date when the
// first write comes.
func (db *DB) txSQLite(ctx context.Context, fn func(tx *Tx) error) error {
	done, err := db.wait(ctx, true)
	if err != nil {
		return err
	}
	defer done()
	conn, err := db.writes.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		if ctx.Err() != nil { // it may have begun all the same; if not, this does nothing
			_, _ = conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
		}
		return err
	}
	committed := false
	defer func() {
		if !committed {
			rollBack(ctx, conn)
		}
	}()
	if err := fn(&Tx{runner{conn, db.Dialect}}); err != nil {
		return err
	}
	// A commit that is interrupted may have happened or not.
	if _, err := conn.ExecContext(context.WithoutCancel(ctx), "COMMIT"); err != nil {
		return err
	}
	committed = true
	return nil
}

// rollBack ends the transaction on a connection. SQLite may have ended it by
// itself; a connection of which that is not certain is closed.
func rollBack(ctx context.Context, conn *sql.Conn) {
	if _, err := conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK"); err != nil {
		_ = conn.Raw(func(any) error { return driver.ErrBadConn })
	}
}
