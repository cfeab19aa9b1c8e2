package track

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/crumb-go/crumb/internal/sqldb"
)

// ErrBlocked says that deleted rows could not be removed from the files of SQLite,
// because another program is using them.
var ErrBlocked = errors.New("another program reads or writes the database and does not let go")

// scrubPatience is how long Scrub waits for others.
const scrubPatience = 30 * time.Second

// Scrub removes from the files of the SQLite database that url names what deleted
// rows left there: it writes the database anew and empties the write-ahead log. If
// another program keeps it from that for longer than 30 seconds, or until ctx ends,
// the error wraps [ErrBlocked], and what was deleted may still be in the files. For
// other databases it does nothing.
func Scrub(ctx context.Context, rawURL string) error {
	if !strings.HasPrefix(rawURL, "sqlite:") {
		return nil
	}
	path, err := sqldb.SQLitePath(rawURL)
	if err != nil {
		return fmt.Errorf("track: scrub: %w", err)
	}
	db, err := sql.Open("sqlite", sqldb.SQLiteURI(path, "busy_timeout(1000)", "secure_delete(1)"))
	if err != nil {
		return fmt.Errorf("track: scrub %s: %w", path, err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	ctx, cancel := context.WithTimeout(ctx, scrubPatience)
	defer cancel()
	for _, step := range []func() error{
		func() error { _, err := db.ExecContext(ctx, "VACUUM"); return err },
		func() error {
			var busy, pages, copied int
			err := db.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &pages, &copied)
			if err == nil && busy != 0 {
				err = errBusy
			}
			return err
		},
	} {
		if err := patiently(ctx, step); err != nil {
			return fmt.Errorf("track: scrub %s: %w", path, err)
		}
	}
	return nil
}

var errBusy = errors.New("busy")

// patiently repeats step until nobody is in its way.
func patiently(ctx context.Context, step func() error) error {
	for {
		err := step()
		if err == nil {
			return nil
		}
		if !errors.Is(err, errBusy) && !sqldb.IsRetryable(err) && ctx.Err() == nil {
			return err
		}
		timer := time.NewTimer(20 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w: %w", ErrBlocked, ctx.Err())
		}
	}
}
