package sqlite

import (
	"context"
	"errors"
	"log/slog"
	"time"

	zs "zombiezen.com/go/sqlite"
)

// The write-ahead log is copied back once this many rows were written since, on
// a connection of its own while commits go on. What they add meanwhile the
// writer copies itself after the second number of rows, some 40 MB: only a pass
// without a commit beside it lets the log begin anew, and without any it reached
// 315 MB in ten seconds. Making every pass on the commits' path, as SQLite does
// by default, or the second number smaller, gave a worse p99.
var (
	checkpointRows = 1_000
	checkpointMust = 10_000
)

// A checkpointer copies the write-ahead log back into the file.
type checkpointer struct {
	conn   *zs.Conn
	pass   *zs.Stmt
	logger *slog.Logger
	wake   chan struct{}
	ended  chan struct{}
	failed time.Time // when that was last logged

	// These are the writer's.

	rows int // written since the last background pass began
	must int // written since the log began anew
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
			l.report(run(l.pass))
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
	l.rows += rows
	l.must += rows
	switch {
	case l.must >= checkpointMust:
		l.must, l.rows = 0, 0
		row, err := full.Step()
		if err != nil || row && full.ColumnInt(0) != 0 {
			// A writer or a slow reader elsewhere. Nothing is lost: the log grows,
			// and the passes beside tell if that has another reason.
			l.must = checkpointMust / 2
		}
		full.Reset()
	case l.rows >= checkpointRows:
		l.rows = 0
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
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
