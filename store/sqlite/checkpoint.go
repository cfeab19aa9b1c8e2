package sqlite

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	zs "zombiezen.com/go/sqlite"
)

// The write-ahead log is copied back once this many rows were written since, on
// a connection of its own while commits go on. Only a pass without a commit
// beside it lets the log begin anew, and without any it reached 315 MB in ten
// seconds. So when a pass has found the log to hold this many pages, some 64 MB,
// the writer makes one more itself: what it still has to copy and to sync is
// what was committed during the other. Making every pass on the commits' path, as
// SQLite does by default, gave a worse p99.
var (
	checkpointRows  = 1_000
	checkpointPages = int64(16_000)
)

// A checkpointer copies the write-ahead log back into the file.
type checkpointer struct {
	conn   *zs.Conn
	pass   *zs.Stmt
	logger *slog.Logger
	wake   chan struct{}
	ended  chan struct{}
	failed time.Time    // when that was last logged
	pages  atomic.Int64 // in the log, as a pass found them that has just ended, or 0

	// These are the writer's.

	rows int   // written since the last background pass began
	must int64 // so many pages make the next pass the writer's
}

func newCheckpointer(ctx context.Context, c *zs.Conn, w *writer, logger *slog.Logger) (*checkpointer, error) {
	l := &checkpointer{conn: c, logger: logger, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	w.log = l
	return l, whileBusy(ctx, func() error {
		return errors.Join(
			exec(c, "PRAGMA synchronous = normal"),
			prepare(c, "PRAGMA wal_checkpoint(PASSIVE)", &l.pass),
		)
	})
}

func (l *checkpointer) start() {
	go func() {
		defer close(l.ended)
		for range l.wake {
			l.report(l.beside())
		}
	}()
}

// stop is called once the writer has ended.
func (l *checkpointer) stop() error {
	close(l.wake)
	<-l.ended
	return l.conn.Close()
}

// wrote is told by the writer, after each commit, how many rows that wrote. full
// makes a pass on the writer's connection, with the writers of other processes
// held off.
func (l *checkpointer) wrote(rows int, full *zs.Stmt) {
	switch pages := l.pages.Swap(0); {
	case pages <= 0: // none has ended, or another process makes one
	case pages < checkpointPages:
		l.must = checkpointPages
	case pages >= l.must:
		// The log may go on even so, for a writer or a slow reader elsewhere.
		l.must = pages + checkpointPages/2
		// Its error is left to the passes beside: they meet it too if it lasts.
		_ = run(full)
	}
	if l.rows += rows; l.rows >= checkpointRows {
		l.rows = 0
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// beside makes a pass while commits go on.
func (l *checkpointer) beside() error {
	_, err := l.pass.Step()
	if err != nil {
		return err
	}
	l.pages.Store(l.pass.ColumnInt64(1))
	return l.pass.Reset()
}

// report logs a failed pass, once a minute. Nothing is lost by it: the log holds
// what the file does not.
func (l *checkpointer) report(err error) {
	if err == nil || isBusy(err) || time.Since(l.failed) < time.Minute {
		return
	}
	l.failed = time.Now()
	l.logger.Warn("sqlite: the write-ahead log could not be copied back and grows", "error", plain(err))
}
