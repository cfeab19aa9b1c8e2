package postgres

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/crumb-go/crumb/internal/sqlstore"
)

// A db implements [sqlstore.DB] and [sqlstore.Pipeline].
type db struct{ pool *pgxpool.Pool }

func (d db) Exec(ctx context.Context, st sqlstore.Statement) (int64, error) {
	c, err := d.pool.Acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Release()
	tag, err := c.Exec(ctx, st.SQL, st.Args...)
	if err != nil {
		d.leave(err)
		return 0, outcome(err)
	}
	return tag.RowsAffected(), nil
}

func (d db) Query(ctx context.Context, st sqlstore.Statement, row func(sqlstore.Scan) error) error {
	c, err := d.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer c.Release()
	rows, err := c.Query(ctx, st.SQL, st.Args...)
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

// Locked makes two round trips: BEGIN and the first statement are sent together,
// and the second one and COMMIT, so that the row is locked for one of them.
func (d db) Locked(ctx context.Context, lock sqlstore.Statement, change func(sqlstore.Scan) (sqlstore.Statement, error)) (int64, error) {
	c, err := d.pool.Acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Release() // which closes a connection that a transaction is open on
	var then sqlstore.Statement
	var refused error
	b := &pgx.Batch{}
	b.Queue("BEGIN ISOLATION LEVEL READ COMMITTED")
	b.Queue(lock.SQL, lock.Args...).Query(func(rows pgx.Rows) error {
		scan := rows.Scan
		if !rows.Next() {
			if err := rows.Err(); err != nil {
				return err
			}
			scan = nil
		}
		then, refused = change(scan)
		return nil
	})
	if err := c.SendBatch(ctx, b).Close(); err != nil {
		d.leave(err)
		rollBack(ctx, c)
		return 0, without(err)
	}
	if refused != nil {
		rollBack(ctx, c)
		return 0, refused
	}
	var tag pgconn.CommandTag
	b = &pgx.Batch{}
	b.Queue(then.SQL, then.Args...).Exec(func(t pgconn.CommandTag) error {
		tag = t
		return nil
	})
	b.Queue("COMMIT")
	if err := c.SendBatch(ctx, b).Close(); err != nil {
		rollBack(ctx, c)
		return 0, outcome(err)
	}
	return tag.RowsAffected(), nil
}

// ExecAll makes one round trip. The row locks it waits for are those of changes
// under way elsewhere, a few milliseconds: one that takes longer must not hold up
// the sessions that it has nothing to do with.
func (d db) ExecAll(ctx context.Context, sts []sqlstore.Statement) ([]int64, error) {
	c, err := d.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Release() // which closes a connection that a transaction is open on
	b := &pgx.Batch{}
	b.Queue("BEGIN ISOLATION LEVEL READ COMMITTED")
	b.Queue("SET LOCAL lock_timeout = '100ms'")
	matched := make([]int64, len(sts))
	for i, st := range sts {
		b.Queue(st.SQL, st.Args...).Exec(func(t pgconn.CommandTag) error {
			matched[i] = t.RowsAffected()
			return nil
		})
	}
	b.Queue("COMMIT")
	if err := c.SendBatch(ctx, b).Close(); err != nil {
		d.leave(err)
		rollBack(ctx, c)
		return nil, outcome(err)
	}
	return matched, nil
}

// rollBack keeps the connection for the next one. If it fails the connection is
// closed, and the server rolls back.
func rollBack(ctx context.Context, c *pgxpool.Conn) {
	if c.Conn().PgConn().TxStatus() != 'I' {
		_, _ = c.Exec(ctx, "ROLLBACK")
	}
}

// leave closes all connections, each when nobody uses it, to a server that takes no
// writes any more: after a failover the same name may lead to another one, and what
// is read from the old one is old.
func (d db) leave(err error) {
	const readOnly = "25006"
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok && pe.Code == readOnly {
		d.pool.Reset()
	}
}

// outcome sorts the error of a statement that was to commit.
func outcome(err error) error {
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case mayRepeat(pe):
			return sqlstore.Again(err)
		case leavesOpen(pe):
			return sqlstore.Unknown(err)
		}
		return err
	}
	if pgconn.SafeToRetry(err) { // nothing was sent
		return sqlstore.Again(err)
	}
	return sqlstore.Unknown(err)
}

// without sorts the error of a statement that commits nothing.
func without(err error) error {
	if err == nil {
		return nil
	}
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok && !mayRepeat(pe) && !leavesOpen(pe) {
		return err
	}
	return sqlstore.Again(err)
}

// mayRepeat says that the server rolled back because of what others did at the
// same time. https://www.postgresql.org/docs/current/mvcc-serialization-failure-handling.html
func mayRepeat(pe *pgconn.PgError) bool {
	return pe.Code == "40001" || pe.Code == "40P01" // serialization_failure, deadlock_detected
}

// leavesOpen says that the answer came from a server, or a proxy before it, that
// was about to lose the connection, or had trouble of its own: the commit may have
// gone before.
func leavesOpen(pe *pgconn.PgError) bool {
	return strings.HasPrefix(pe.Code, "08") || // connection_exception
		strings.HasPrefix(pe.Code, "57P") || // admin_shutdown and its kin
		strings.HasPrefix(pe.Code, "58") || // system_error
		strings.HasPrefix(pe.Code, "XX") || // internal_error
		pe.Code == "40003" // statement_completion_unknown
}

// A querier is a pool or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// schemaVersion returns the version of the tables with this prefix, 0 if there are
// none.
func schemaVersion(ctx context.Context, q querier, prefix string) (version int, err error) {
	var exists bool
	err = q.QueryRow(ctx, "SELECT to_regclass($1::text) IS NOT NULL", prefix+"schema").Scan(&exists)
	if err != nil || !exists {
		return 0, err
	}
	err = q.QueryRow(ctx, "SELECT coalesce(max(version), 0) FROM "+prefix+"schema").Scan(&version)
	return version, err
}
