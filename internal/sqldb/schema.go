package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
)

// A Schema is the tables of one component. Step i brings them from version i to
// i+1, its statements end with a semicolon at the end of a line, and one of them
// sets the version in the table called Table.
type Schema struct {
	Table string // holds the version; with the prefix
	Steps []string
}

// Version returns the version of the tables, 0 if there are none.
func (db *DB) Version(ctx context.Context, s Schema) (int, error) {
	return version(ctx, db, db.Dialect, s)
}

func version(ctx context.Context, r Runner, d Dialect, s Schema) (v int, err error) {
	exists := map[Dialect]string{
		SQLite:   "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?",
		Postgres: "SELECT count(*) FROM pg_catalog.pg_class WHERE oid = to_regclass(?)",
		MySQL:    "SELECT count(*) FROM information_schema.tables WHERE table_schema = database() AND table_name = ?",
	}
	var n int
	if err := r.Row(ctx, exists[d], []any{s.Table}, &n); err != nil || n == 0 {
		return 0, err
	}
	err = r.Row(ctx, "SELECT coalesce(max(version), 0) FROM "+s.Table, nil, &v)
	return v, err
}

// CheckVersion returns an error that says what to do unless the tables are there
// in the version that this program knows.
func (db *DB) CheckVersion(ctx context.Context, s Schema) error {
	v, err := db.Version(ctx, s)
	switch {
	case err != nil:
		return err
	case v == 0:
		return fmt.Errorf("the table %s is not there yet; crumb schema apply creates it and those beside it", s.Table)
	case v < len(s.Steps):
		return fmt.Errorf("%s has version %d and this program needs %d; crumb schema apply brings it there", s.Table, v, len(s.Steps))
	}
	return s.checkNewer(v)
}

func (s Schema) checkNewer(v int) error {
	if v > len(s.Steps) {
		return fmt.Errorf("%s has version %d and this program knows up to %d; run the newer program", s.Table, v, len(s.Steps))
	}
	return nil
}

// migrateTimeout is how long a process waits for another that migrates.
const migrateTimeout = time.Minute

// Migrate brings the tables to the newest version. Of several processes at once one
// does it. On MySQL, where a statement that creates a table commits, a migration
// that is cut off is continued by the next one.
func (db *DB) Migrate(ctx context.Context, s Schema) error {
	ctx, cancel := context.WithTimeout(ctx, migrateTimeout)
	defer cancel()
	if db.Dialect == MySQL {
		return db.migrateMySQL(ctx, s)
	}
	return db.Tx(ctx, func(tx *Tx) error {
		if db.Dialect == Postgres {
			if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtext(?))", s.Table); err != nil {
				return err
			}
		}
		return migrate(ctx, tx, db.Dialect, s)
	})
}

func (db *DB) migrateMySQL(ctx context.Context, s Schema) error {
	conn, err := db.sql.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	r := runner{conn: conn, dialect: MySQL}
	// The name counts for the whole server, the database belongs into it.
	const name = "left(concat('crumb:', database(), ':', ?), 64)"
	var got sql.NullInt64
	if err := r.Row(ctx, "SELECT get_lock("+name+", 50)", []any{s.Table}, &got); err != nil {
		return err
	}
	if got.Int64 != 1 {
		return errors.New("another process has been changing the tables for 50 seconds; try again when it is done")
	}
	err = migrate(ctx, r, MySQL, s)
	released := r.Row(ctx, "SELECT release_lock("+name+")", []any{s.Table}, &got)
	if released != nil {
		drop(conn) // and the lock with it
	}
	return errors.Join(err, released)
}

func migrate(ctx context.Context, r Runner, d Dialect, s Schema) error {
	v, err := version(ctx, r, d, s)
	if err != nil {
		return err
	}
	if err := s.checkNewer(v); err != nil {
		return err
	}
	if v == len(s.Steps) && d == SQLite {
		// A file that cannot be written shows now, not at the first sign-in.
		_, err := r.Exec(ctx, "DELETE FROM "+s.Table+" WHERE 0")
		return err
	}
	for _, step := range s.Steps[v:] {
		for statement := range strings.SplitSeq(step, ";\n") {
			if strings.TrimSpace(statement) == "" {
				continue
			}
			if _, err := r.Exec(ctx, statement); err != nil {
				return err
			}
		}
	}
	return nil
}
