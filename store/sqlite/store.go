// Package sqlite keeps sessions in a SQLite file. It is the store to begin with:
// nothing to install, safe with several processes of one machine on one file,
// and fast, since writes that come at once share a commit.
//
// An acknowledged change survives the end of the process, however it ends. One
// that ends or renews a session, signs in or deletes also survives a power cut.
//
// The file must be on a local disk: network file systems do not lock as SQLite
// needs it.
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	zs "zombiezen.com/go/sqlite"

	"github.com/crumb-go/crumb/session"
)

// Config holds what [Open] may be told besides the file. The zero Config is a
// good one.
type Config struct {
	// Logger is told when the write-ahead log cannot be copied back into the
	// file, which holds nobody up but lets the log grow.
	//
	// Defaults to [slog.Default].
	Logger *slog.Logger

	// TablePrefix is what the names of the tables begin with: ASCII letters,
	// digits and underscores. Several apps can so share a file.
	//
	// Defaults to "crumb_".
	TablePrefix string
}

func (cfg *Config) check() error {
	if cfg.TablePrefix == "" {
		cfg.TablePrefix = defaultPrefix
	}
	for i, c := range []byte(cfg.TablePrefix) {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return fmt.Errorf("sqlite: table prefix %q: use ASCII letters, digits and underscores, and no digit first", cfg.TablePrefix)
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return nil
}

// A Store keeps sessions in a SQLite file. Besides [session.Store] it implements
// [session.Lister], [session.Toucher], [session.Sweeper] and [session.Checker].
//
// It keeps the sessions used last in memory, up to 16 MB, and serves none of them
// before it has asked the file whether others have changed it.
//
// From Open to Close it owns two goroutines: one writes, one copies the
// write-ahead log back into the file.
type Store struct {
	path    string
	cache   *cache
	readers *pool
	writer  *writer
	log     *checkpointer
	count   string // a statement; too rare to be prepared
	close   func() error
}

var (
	_ session.Store   = (*Store)(nil)
	_ session.Lister  = (*Store)(nil)
	_ session.Toucher = (*Store)(nil)
	_ session.Sweeper = (*Store)(nil)
	_ session.Checker = (*Store)(nil)
)

var errClosed = errors.New("sqlite: the store is closed")

// Open opens the file that url names, such as "sqlite:crumb.db" or
// "sqlite:/var/lib/app/crumb.db", and creates it, readable by its owner alone,
// and its tables if they are not there yet. Several processes may do so at once;
// ctx bounds how long one waits for another.
func Open(ctx context.Context, url string, cfg Config) (*Store, error) {
	path, err := parseURL(url)
	if err != nil {
		return nil, err
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if err := create(path); err != nil {
		return nil, err
	}
	s := &Store{path: path}
	s.close = sync.OnceValue(s.shut)
	if err := s.open(ctx, cfg); err != nil {
		return nil, openError(path, err)
	}
	s.writer.start()
	s.log.start()
	return s, nil
}

func (s *Store) open(ctx context.Context, cfg Config) (err error) {
	var conns []*zs.Conn
	defer func() {
		if err != nil {
			for _, c := range conns {
				err = errors.Join(err, c.Close())
			}
		}
	}()
	conn := func() (*zs.Conn, error) {
		c, err := openConn(s.path, zs.OpenReadWrite)
		if err == nil {
			conns = append(conns, c)
		}
		return c, err
	}
	c, err := conn()
	if err != nil {
		return err
	}
	if err := startLog(ctx, c); err != nil {
		return err
	}
	if err := applySchema(ctx, c, cfg.TablePrefix); err != nil {
		return err
	}
	sql := statements(cfg.TablePrefix)
	s.count = sql.count
	if s.writer, err = newWriter(ctx, c, sql); err != nil {
		return err
	}
	if c, err = conn(); err != nil {
		return err
	}
	if s.cache, err = newCache(ctx, c); err != nil {
		return err
	}
	s.writer.cache = s.cache
	if c, err = conn(); err != nil {
		return err
	}
	if s.log, err = newCheckpointer(ctx, c, s.writer, cfg.Logger); err != nil {
		return err
	}
	s.readers = newPool(max(4, min(16, 2*runtime.GOMAXPROCS(0))))
	for range cap(s.readers.free) {
		if c, err = conn(); err != nil {
			return err
		}
		if err := s.readers.add(ctx, c, sql); err != nil {
			return err
		}
	}
	return nil
}

// startLog turns the write-ahead log on. Its mode is kept in the file, so that
// this writes only once in the file's life.
func startLog(ctx context.Context, c *zs.Conn) error {
	return whileBusy(ctx, func() error {
		mode := ""
		err := query(c, "PRAGMA journal_mode = wal", func(st *zs.Stmt) { mode = st.ColumnText(0) })
		if err == nil && mode != "wal" {
			err = fmt.Errorf("it cannot use a write-ahead log (journal mode %q): is it on a network file system, or read-only?", mode)
		}
		return err
	})
}

// Close waits for the changes under way, copies the write-ahead log back into
// the file and closes it. Later calls of the other methods return an error.
func (s *Store) Close() error { return s.close() }

func (s *Store) shut() error {
	s.writer.stop()
	err := errors.Join(s.log.stop(), s.cache.close(), s.readers.close(), s.writer.close())
	if err != nil {
		return fmt.Errorf("sqlite: close %s: %w", s.path, err)
	}
	return nil
}

// creating keeps a second Open of this process from locking the file while the
// first still holds the descriptor that created it: POSIX drops all locks of a
// process on a file when it closes any descriptor of that file.
var creating sync.Mutex

// create makes an empty file that only its owner can read, so that no umask
// decides who can. SQLite gives the -wal and -shm files the same mode.
func create(path string) error {
	creating.Lock()
	defer creating.Unlock()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	dir := filepath.Dir(path)
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("sqlite: open %s: the directory %s does not exist; create it first", path, dir)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("sqlite: open %s: the directory %s is not writable, which the file and its -wal and -shm need: %w", path, dir, err)
	case err != nil:
		return fmt.Errorf("sqlite: create %s: %w", path, err)
	}
	if err := errors.Join(f.Chmod(0o600), f.Close(), syncDir(dir)); err != nil {
		return fmt.Errorf("sqlite: create %s: %w", path, err)
	}
	return nil
}

// syncDir makes the name of a new file survive a power cut.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // has no such call
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// openConn opens a connection that never waits by itself: SQLite's own back-off
// reaches 100 ms and knows no context.
func openConn(path string, flags zs.OpenFlags) (*zs.Conn, error) {
	// SQLite opens what it may not write for reading, and makes its -wal and -shm
	// as read-only as the file is: they would still be when the file no longer is.
	if err := access(path); err != nil {
		return nil, fmt.Errorf("the file is read-only or unreadable; sessions need it and its directory writable by this user: %w", err)
	}
	c, err := zs.OpenConn(path, flags)
	if err != nil {
		return nil, err
	}
	c.SetBusyTimeout(0)
	return c, nil
}

func openError(path string, err error) error {
	switch zs.ErrCode(err).ToPrimary() {
	case zs.ResultNotADB:
		return fmt.Errorf("sqlite: open %s: the file is no SQLite database; name another one", path)
	case zs.ResultReadOnly:
		return fmt.Errorf("sqlite: open %s: the file or its directory is read-only; sessions need both writable by this user: %w", path, plain(err))
	case zs.ResultCantOpen, zs.ResultPerm, zs.ResultAuth:
		return fmt.Errorf("sqlite: open %s: the file or its directory is not readable and writable by this user: %w", path, plain(err))
	}
	return fmt.Errorf("sqlite: open %s: %w", path, plain(err))
}

// plain leaves out what the driver's messages repeat.
func plain(err error) error {
	if zs.ErrCode(err) == zs.ResultError {
		return err
	}
	return engineError(zs.ErrCode(err))
}

// An engineError is what SQLite answered.
type engineError zs.ResultCode

func (e engineError) Error() string {
	return zs.ResultCode(e).Message() + " (" + zs.ResultCode(e).String() + ")"
}

func isBusy(err error) bool {
	code := zs.ErrCode(err).ToPrimary()
	return code == zs.ResultBusy || code == zs.ResultLocked
}

// Polls of a lock that another process holds. Its batches take milliseconds.
const (
	minPoll = 50 * time.Microsecond
	maxPoll = time.Millisecond
)

// whileBusy repeats fn for as long as another process holds the lock it needs.
func whileBusy(ctx context.Context, fn func() error) error {
	for poll := minPoll; ; poll = min(2*poll, maxPoll) {
		err := fn()
		if err == nil || !isBusy(err) {
			return err
		}
		if err := pause(ctx, poll); err != nil {
			return fmt.Errorf("another process holds the database locked: %w", err)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// exec runs the statements of a script.
func exec(c *zs.Conn, script string) error {
	for script = strings.TrimSpace(script); script != ""; {
		st, rest, err := c.PrepareTransient(script)
		if err != nil {
			return err
		}
		_, err = st.Step()
		if err := errors.Join(err, st.Finalize()); err != nil {
			return err
		}
		script = script[len(script)-rest:]
	}
	return nil
}

// query runs one statement and hands each row to fn.
func query(c *zs.Conn, sql string, fn func(*zs.Stmt), args ...int64) error {
	st, _, err := c.PrepareTransient(sql)
	if err != nil {
		return err
	}
	defer st.Finalize()
	for i, arg := range args {
		st.BindInt64(i+1, arg)
	}
	for {
		row, err := st.Step()
		if err != nil || !row {
			return err
		}
		fn(st)
	}
}
