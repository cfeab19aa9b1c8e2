package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	zs "zombiezen.com/go/sqlite"
)

// An Inspection is what [Inspect] finds out about a database.
type Inspection struct {
	Path          string   // of the file; -wal and -shm stand beside it
	SchemaVersion int      // 0 if there are no tables; this program knows [SchemaVersion]
	JournalMode   string   // "wal", unless something changed it
	Problems      []string // of the file's structure, at most 10; none if it is sound

	// What follows is 0 if there are no tables, or those of a newer program.

	Sessions int64         // sessions that live now
	Overdue  int64         // rows that expired more than a day ago and nobody swept
	Future   int64         // rows created more than a minute from now
	Ahead    time.Duration // how far from now the last of those was created
}

// Inspect reads the whole database at url and changes nothing but that it takes
// the lock of writers for a moment, to see whether it can; it waits so long for
// others who hold one. A file that does not exist is an error that wraps
// [fs.ErrNotExist], beside an Inspection that says which.
func Inspect(ctx context.Context, url string, cfg Config, now time.Time, patience time.Duration) (*Inspection, error) {
	path, err := parseURL(url)
	if err != nil {
		return nil, err
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	in := &Inspection{Path: path}
	if _, err := os.Stat(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fs.ErrNotExist
		}
		return in, fmt.Errorf("sqlite: %s: %w", path, err)
	}
	c, err := openConn(path, zs.OpenReadWrite)
	if err != nil {
		return in, openError(path, err)
	}
	defer c.Close()
	c.SetInterrupt(ctx.Done())
	// A lock is waited for, the reading is not cut off.
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = whileBusy(patient, func() error { return exec(c, "BEGIN IMMEDIATE; ROLLBACK") })
	if err == nil {
		err = whileBusy(ctx, func() error { return in.read(c, cfg.TablePrefix, now) })
	}
	if err != nil {
		return in, openError(path, err)
	}
	return in, nil
}

func (in *Inspection) read(c *zs.Conn, prefix string, now time.Time) (err error) {
	err = query(c, "PRAGMA journal_mode", func(st *zs.Stmt) { in.JournalMode = st.ColumnText(0) })
	if err != nil {
		return err
	}
	if in.Problems, err = quickCheck(c); err != nil || len(in.Problems) > 0 {
		return err
	}
	if in.SchemaVersion, err = schemaVersion(c, prefix); err != nil || in.SchemaVersion == 0 || in.SchemaVersion > SchemaVersion {
		return err
	}
	return query(c, "SELECT coalesce(sum(idle > 0 AND expires > ?3), 0), coalesce(sum(expires < ?1 AND format = 1), 0), "+
		"coalesce(sum(created > ?2), 0), max(created) FROM "+prefix+"sessions",
		func(st *zs.Stmt) {
			in.Sessions, in.Overdue, in.Future = st.ColumnInt64(0), st.ColumnInt64(1), st.ColumnInt64(2)
			if in.Future > 0 {
				in.Ahead = microTime(st.ColumnInt64(3)).Sub(now)
			}
		}, now.Add(-24*time.Hour).UnixMicro(), now.Add(time.Minute).UnixMicro(), now.UnixMicro())
}

// quickCheck returns what is wrong with the structure of the file.
func quickCheck(c *zs.Conn) (problems []string, err error) {
	err = query(c, "PRAGMA quick_check(10)", func(st *zs.Stmt) {
		if text := st.ColumnText(0); text != "ok" {
			problems = append(problems, text)
		}
	})
	if code := zs.ErrCode(err).ToPrimary(); code == zs.ResultCorrupt {
		return append(problems, code.Message()), nil
	}
	return problems, err
}
