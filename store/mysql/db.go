package mysql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"

	"github.com/go-sql-driver/mysql"

	"github.com/crumb-go/crumb/internal/sqlstore"
	"github.com/crumb-go/crumb/session"
)

// A db implements [sqlstore.DB].
type db struct {
	pool *sql.DB

	// That which made the pool, whose sessions are READ COMMITTED already; nil if the
	// app made it.
	made *connector
}

func (d db) Exec(ctx context.Context, st sqlstore.Statement) (int64, error) {
	// A connection first, so that what fails later was sent.
	c, err := d.pool.Conn(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	res, err := c.ExecContext(ctx, st.SQL, st.Args...)
	if number(err) == duplicateKey {
		return 0, nil
	}
	if err != nil {
		d.leave(c, err)
		return 0, outcome(err)
	}
	return res.RowsAffected()
}

func (d db) Query(ctx context.Context, st sqlstore.Statement, row func(sqlstore.Scan) error) error {
	c, err := d.pool.Conn(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return queryRows(ctx, c, st, row)
}

func queryRows(ctx context.Context, c *sql.Conn, st sqlstore.Statement, row func(sqlstore.Scan) error) error {
	rows, err := c.QueryContext(ctx, st.SQL, st.Args...)
	if err != nil {
		return without(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return without(rows.Err())
}

// Locked runs the transaction statement by statement: the driver's own Commit
// takes no context and would wait for a server that does not answer.
func (d db) Locked(ctx context.Context, lock sqlstore.Statement, change func(sqlstore.Scan) (sqlstore.Statement, error)) (n int64, err error) {
	c, err := d.pool.Conn(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	defer func() {
		if err != nil {
			rollBack(ctx, c)
			d.leave(c, err)
		}
	}()
	if err := d.begin(ctx, c); err != nil {
		return 0, without(err)
	}
	then, err := lockRow(ctx, c, lock, change)
	if err != nil {
		return 0, err
	}
	res, err := c.ExecContext(ctx, then.SQL, then.Args...)
	if err != nil {
		return 0, without(err)
	}
	if _, err := c.ExecContext(ctx, "COMMIT"); err != nil {
		return 0, outcome(err)
	}
	return res.RowsAffected()
}

func (d db) begin(ctx context.Context, c *sql.Conn) error {
	if d.made == nil {
		if _, err := c.ExecContext(ctx, "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"); err != nil {
			return err
		}
	}
	_, err := c.ExecContext(ctx, "START TRANSACTION")
	return err
}

// lockRow returns what change makes of the row that lock finds.
func lockRow(ctx context.Context, c *sql.Conn, lock sqlstore.Statement, change func(sqlstore.Scan) (sqlstore.Statement, error)) (then sqlstore.Statement, err error) {
	found := false
	err = queryRows(ctx, c, lock, func(scan sqlstore.Scan) (err error) {
		found = true
		then, err = change(scan)
		return err
	})
	if err == nil && !found {
		then, err = change(nil)
	}
	return then, err
}

// rollBack keeps the connection for the next one. If it fails the connection is
// closed, and the server rolls back.
func rollBack(ctx context.Context, c *sql.Conn) {
	if _, err := c.ExecContext(ctx, "ROLLBACK"); err != nil {
		drop(c)
	}
}

// leave closes the connection to a server that takes no writes any more, and all
// others of a pool that we made, each when nobody uses it: after a failover the same
// name may lead to another server, and what is read from the old one is old.
func (d db) leave(c *sql.Conn, err error) {
	switch number(err) {
	case readOnlyServer, readOnlyTransaction, readOnlyMode:
		drop(c)
		if d.made != nil {
			d.made.left.Add(1)
		}
	}
}

// drop closes the connection, which would else go back to the pool.
func drop(c *sql.Conn) { _ = c.Raw(func(any) error { return driver.ErrBadConn }) }

// Numbers of errors. https://dev.mysql.com/doc/mysql-errors/8.0/en/server-error-reference.html,
// https://mariadb.com/kb/en/mariadb-error-code-reference/
const (
	recordChanged    = 1020 // since the snapshot was made
	serverShutdown   = 1053
	duplicateKey     = 1062
	unknownError     = 1105 // of proxies for anything, of the server for nothing in particular
	noSuchTable      = 1146
	duringCommit     = 1180
	lockWaitTimeout  = 1205 // takes back the statement, not the transaction
	deadlock         = 1213
	connectionKilled = 1927
	clientFirst      = 2000 // of the client's own, which proxies pass on when they lost the server
	clientLast       = 2999
	certification    = 3101 // by a replication group, at commit

	readOnlyServer      = 1290
	readOnlyTransaction = 1792
	readOnlyMode        = 1836
)

// number returns the number of the error that the server answered, or 0.
func number(err error) uint16 {
	if e, ok := errors.AsType[*mysql.MySQLError](err); ok {
		return e.Number
	}
	return 0
}

// outcome sorts the error of a statement that was to commit.
func outcome(err error) error {
	switch n := number(err); {
	case n == 0 && errors.Is(err, driver.ErrBadConn): // nothing was sent
		return sqlstore.Again(err)
	case n == recordChanged, n == lockWaitTimeout, n == deadlock, n == certification:
		return sqlstore.Again(err)
	case n == 0, n == serverShutdown, n == unknownError, n == duringCommit, n == connectionKilled, clientFirst <= n && n <= clientLast:
		return sqlstore.Unknown(err)
	}
	return err
}

// without sorts the error of a statement that commits nothing.
func without(err error) error {
	if err == nil {
		return nil
	}
	if err := outcome(err); number(err) != 0 && !errors.Is(err, session.ErrUnknown) {
		return err
	}
	return sqlstore.Again(err)
}
