package sqlstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/crumb-go/crumb/session"
)

// A DB runs statements through a driver. Of each error it says what is known of
// the outcome: it wraps what [Unknown] or [Again] return, or nothing happened.
// Every call ends when ctx does.
type DB interface {
	// Exec runs one statement, which commits by itself, and returns how many rows
	// it matched.
	Exec(ctx context.Context, st Statement) (int64, error)

	// Query runs a statement that changes nothing and calls row for each of its
	// rows. A repetition begins with the first one again.
	Query(ctx context.Context, st Statement, row func(Scan) error) error

	// Locked runs two statements in one transaction: lock, which locks a row at
	// most, and the one that change makes of it. The Scan is nil if there is no
	// row. An error of change rolls back and is returned as it is. The result is
	// how many rows the second statement matched.
	Locked(ctx context.Context, lock Statement, change func(Scan) (Statement, error)) (int64, error)
}

// A Pipeline is a DB that sends several statements at once.
type Pipeline interface {
	// ExecAll runs statements in one transaction and returns how many rows each
	// matched. It does not wait long for a row that somebody has locked: that is an
	// error, and nothing happened.
	ExecAll(ctx context.Context, sts []Statement) ([]int64, error)
}

// A Statement is SQL and what its parameters stand for.
type Statement struct {
	SQL  string
	Args []any
}

// A Scan copies the columns of a row. It is used before the next row is read.
type Scan func(dest ...any) error

// Unknown says that the statement was sent and may have taken effect.
func Unknown(err error) error { return fmt.Errorf("%w: %w", session.ErrUnknown, err) }

// Again says that nothing happened, and that the same once more may succeed: a
// deadlock, a serialisation failure, a connection that broke before anything was
// sent or while something was read.
func Again(err error) error { return again{err} }

type again struct{ error }

func (e again) Unwrap() error { return e.error }

func mayRepeat(err error) bool {
	_, ok := errors.AsType[again](err)
	return ok
}
