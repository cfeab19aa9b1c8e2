package sqlite

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	zs "zombiezen.com/go/sqlite"
)

// SchemaVersion is the version of the schema that [Open] creates and expects.
const SchemaVersion = 1

// format is the layout of a row that this program reads and writes. A row of
// another is neither served nor taken for absent.
const format = 1

const defaultPrefix = "crumb_"

//go:embed schema.sql
var schema string

// Schema returns the SQL of the tables, their names beginning with prefix; ""
// means the default of [Config]. Open applies it by itself.
func Schema(prefix string) string {
	if prefix == "" {
		prefix = defaultPrefix
	}
	return strings.ReplaceAll(schema, defaultPrefix, prefix)
}

// Status returns the version of the schema in the database at url, 0 if it holds
// none. It changes nothing and creates no file: one that does not exist is an
// error that wraps [fs.ErrNotExist].
func Status(ctx context.Context, url string, cfg Config) (int, error) {
	path, err := parseURL(url)
	if err != nil {
		return 0, err
	}
	if err := cfg.check(); err != nil {
		return 0, err
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("sqlite: %s: %w", path, fs.ErrNotExist)
	}
	c, err := openConn(path, zs.OpenReadOnly)
	if err != nil {
		return 0, openError(path, err)
	}
	defer c.Close()
	var version int
	err = whileBusy(ctx, func() (err error) {
		version, err = schemaVersion(c, cfg.TablePrefix)
		return err
	})
	if err != nil {
		return 0, openError(path, err)
	}
	return version, nil
}

// applySchema creates the tables if they are not there yet. It takes the write
// lock even if they are: a database that cannot be written shows now, not at the
// first visitor.
func applySchema(ctx context.Context, c *zs.Conn, prefix string) error {
	return whileBusy(ctx, func() error {
		if err := exec(c, "BEGIN IMMEDIATE"); err != nil {
			return err
		}
		err := applyLocked(c, prefix)
		if err == nil {
			err = exec(c, "COMMIT")
		}
		if err != nil && !c.AutocommitEnabled() {
			return errors.Join(err, exec(c, "ROLLBACK"))
		}
		return err
	})
}

func applyLocked(c *zs.Conn, prefix string) error {
	version, err := schemaVersion(c, prefix)
	switch {
	case err != nil:
		return err
	case version > SchemaVersion:
		return fmt.Errorf("the tables %s* have schema version %d and this program knows up to %d; run the newer program", prefix, version, SchemaVersion)
	case version == SchemaVersion:
		// BEGIN IMMEDIATE alone takes no lock on a file opened read-only, and is
		// no error.
		return exec(c, "DELETE FROM "+prefix+"schema WHERE 0")
	}
	return exec(c, Schema(prefix))
}

func schemaVersion(c *zs.Conn, prefix string) (version int, err error) {
	found := false
	err = query(c, "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = '"+prefix+"schema'", func(*zs.Stmt) { found = true })
	if err != nil || !found {
		return 0, err
	}
	err = query(c, "SELECT max(version) FROM "+prefix+"schema", func(st *zs.Stmt) { version = st.ColumnInt(0) })
	return version, err
}
