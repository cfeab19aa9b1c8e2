package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// OpenSQLite opens a file that the session store may have open too: both are the
// same engine, so that closing one does not drop the locks of the other. Each
// connection has the pragmas, such as secure_delete(1), besides those of [Open].
func OpenSQLite(ctx context.Context, raw string, pragmas ...string) (*DB, error) {
	path, err := SQLitePath(raw)
	if err != nil {
		return nil, err
	}
	if err := createFile(path); err != nil {
		return nil, err
	}
	pragmas = append([]string{
		"busy_timeout(0)",   // again() waits, and ends with the context
		"foreign_keys(1)",   //
		"synchronous(FULL)", // a password that was changed stays so after a power cut
	}, pragmas...)
	reads, err := openPool(SQLiteURI(path, pragmas...), max(4, min(16, 2*runtime.GOMAXPROCS(0))))
	if err != nil {
		return nil, err
	}
	writes, err := openPool(SQLiteURI(path, pragmas...), 1)
	if err != nil {
		return nil, err
	}
	light, err := openPool(SQLiteURI(path, append(pragmas, "synchronous(NORMAL)")...), 1)
	if err != nil {
		return nil, err
	}
	db, err := New(reads, SQLite)
	if err != nil {
		return nil, err
	}
	db.writes, db.light, db.owned = writes, light, true
	if err := db.startLog(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("sqlite: open %s: %w", path, err), db.Close())
	}
	return db, nil
}

// openPool makes a pool of n connections, which stay open. It does not connect yet.
func openPool(uri string, n int) (*sql.DB, error) {
	pool, err := sql.Open("sqlite", uri)
	if err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	pool.SetMaxOpenConns(n)
	pool.SetMaxIdleConns(n)
	return pool, nil
}

// startLog turns the write-ahead log on, which stays in the file.
func (db *DB) startLog(ctx context.Context) error {
	var mode string
	if err := db.Row(ctx, "PRAGMA journal_mode = wal", nil, &mode); err != nil {
		return err
	}
	if mode != "wal" {
		return fmt.Errorf("it cannot use a write-ahead log (journal mode %q): is it on a network file system, or read-only?", mode)
	}
	return nil
}

// openMemory opens a database that only this DB sees.
func openMemory() (*DB, error) {
	pool, err := openPool("file::memory:?_pragma=foreign_keys(1)", 1) // each would have a database of its own
	if err != nil {
		return nil, err
	}
	db, err := New(pool, SQLite)
	if err != nil {
		return nil, err
	}
	db.memory = true
	return db, nil
}

// SQLiteURI returns what a driver opens a file by that is there, with pragmas for
// each connection.
func SQLiteURI(path string, pragmas ...string) string {
	// An absolute path with three slashes is a URI that SQLite takes everywhere.
	slashed := "/" + strings.TrimPrefix(filepath.ToSlash(path), "/")
	query := url.Values{"mode": {"rw"}, "_pragma": pragmas}
	return "file://" + (&url.URL{Path: slashed}).EscapedPath() + "?" + query.Encode()
}

// SQLitePath returns the absolute path of the file that raw names.
func SQLitePath(raw string) (string, error) {
	rest := strings.TrimPrefix(raw, "sqlite:")
	if name, query, ok := strings.Cut(rest, "?"); ok {
		param, _, _ := strings.Cut(query, "=")
		return "", fmt.Errorf("sqlite:%s: unknown parameter %q; a SQLite URL takes none", name, param)
	}
	// sqlite://name.db means the file name.db: SQLite has no hosts.
	path, err := url.PathUnescape(strings.TrimPrefix(rest, "//"))
	switch {
	case err != nil:
		return "", fmt.Errorf("%s: %w; write %%25 for a percent sign", raw, err)
	case path == "" || path == ":memory:":
		return "", errors.New("sqlite: the URL names no file; write sqlite:crumb.db, or memory: for tables that end with the process")
	case strings.Contains(path, "\x00"):
		return "", fmt.Errorf("sqlite: the path %q holds a zero byte", path)
	}
	return filepath.Abs(path)
}

// createFile makes an empty file that only its owner can read, whatever the umask
// is. The file gets its name when its descriptor is closed: POSIX drops all locks
// of a process on a file when it closes any descriptor of that file.
func createFile(path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".crumb-*") // mode 0600
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("sqlite: open %s: the directory %s does not exist; create it first", path, dir)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("sqlite: open %s: the directory %s is not writable, which the file and its -wal and -shm need: %w", path, dir, err)
	case err != nil:
		return fmt.Errorf("sqlite: create %s: %w", path, err)
	}
	if err = f.Close(); err == nil {
		if err = os.Link(f.Name(), path); errors.Is(err, fs.ErrExist) {
			err = nil // another process was faster
		}
	}
	if err := errors.Join(err, os.Remove(f.Name())); err != nil {
		return fmt.Errorf("sqlite: create %s: %w", path, err)
	}
	return nil
}
