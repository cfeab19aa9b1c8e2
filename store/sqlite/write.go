package sqlite

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	zs "zombiezen.com/go/sqlite"

	"github.com/crumb-go/crumb/internal/sqlstore"
	"github.com/crumb-go/crumb/session"
)

// A batch takes what is queued when it has the lock, but no more than this.
const (
	maxBatch     = 1024
	maxBatchTime = 5 * time.Millisecond
	maxGather    = 8
)

// A writer is the one goroutine that writes. It commits what is queued at once,
// however little that is; what comes in the meantime is the next batch.
type writer struct {
	queue queue
	conn  *zs.Conn
	cache *cache
	ended chan struct{}
	stats stats

	// What follows belongs to the goroutine.

	begin, commit, rollback, dataVersion, checkpoint         *zs.Stmt
	load, insert, update, updateValues, touch, delete, sweep *zs.Stmt

	isFull bool   // the level of the connection
	batch  []*job // the one under way
	rows   map[session.ID]*row
	order  []*row // of rows, in the order of their first use
	spare  []*row
	text   []byte

	written int // rows, by the batch
	log     *checkpointer
	others  others
}

// A row is what a batch knows about one session. It is written once, at the end
// of the batch, however many jobs changed it.
type row struct {
	id     session.ID
	stored *session.Record // as the table has it, nil if it does not
	now    *session.Record // as it shall be, nil to have none
	exists bool            // there is a row, maybe one that cannot be read
	err    error           // why it cannot be read
}

func newWriter(ctx context.Context, c *zs.Conn, sql *sqlText) (*writer, error) {
	w := &writer{conn: c, ended: make(chan struct{}), rows: make(map[session.ID]*row), queue: queue{wake: make(chan struct{}, 1)}}
	err := whileBusy(ctx, func() error {
		return errors.Join(
			exec(c, "PRAGMA synchronous = normal"),
			// The checkpointer does that, off the path of the commits.
			exec(c, "PRAGMA wal_autocheckpoint = 0"),
			exec(c, "PRAGMA journal_size_limit = 67108864"),
			prepare(c, "BEGIN IMMEDIATE", &w.begin),
			prepare(c, "COMMIT", &w.commit),
			prepare(c, "ROLLBACK", &w.rollback),
			prepare(c, "PRAGMA data_version", &w.dataVersion),
			prepare(c, "PRAGMA wal_checkpoint(FULL)", &w.checkpoint),
			prepare(c, sql.load, &w.load),
			prepare(c, sql.insert, &w.insert),
			prepare(c, sql.update, &w.update),
			prepare(c, sql.updateValues, &w.updateValues),
			prepare(c, sql.touch, &w.touch),
			prepare(c, sql.delete, &w.delete),
			prepare(c, sql.sweep, &w.sweep),
		)
	})
	return w, err
}

func (w *writer) start() { go w.run() }

// stop has the queue drained and ends the goroutine.
func (w *writer) stop() {
	w.queue.close()
	<-w.ended
}

// close is called after stop.
func (w *writer) close() error {
	// What a reader of another process still needs stays in the log, and whoever
	// opens the file next finds it there: nothing is lost if this does nothing.
	_ = exec(w.conn, "PRAGMA wal_checkpoint(TRUNCATE)")
	return w.conn.Close()
}

func (w *writer) run() {
	defer close(w.ended)
	for {
		n, _, closed := w.queue.waiting()
		switch {
		case n > 0:
			w.gather(n)
			w.write()
		case closed:
			return
		default:
			<-w.queue.wake
		}
	}
}

// gather waits as long as each time that the requests which are ready to run have
// run brings more changes: whoever woke this goroutine is seldom alone, and a
// batch costs the same however much it carries.
func (w *writer) gather(n int) {
	for range maxGather {
		runtime.Gosched()
		before := n
		if n, _, _ = w.queue.waiting(); n <= before {
			return
		}
	}
}

// write makes one batch.
func (w *writer) write() {
	switch locked, err := w.lock(); {
	case err != nil:
		w.batch = w.queue.take(w.batch[:0], maxBatch, true)
		w.answer(err)
		return
	case !locked:
		return
	}
	w.written = 0
	w.batch = w.batch[:0]
	err := w.applyWaiting()
	switch {
	case err != nil || len(w.batch) == 0: // all withdrawn
		w.rollBack()
	default:
		w.cache.commits()
		if err = w.commitBatch(); err != nil {
			w.rollBack()
			w.cache.forget()
			break
		}
		w.cache.publish(w.order, w.alone)
		w.stats.committed(len(w.batch))
	}
	w.forget()
	w.answer(err)
	if err == nil {
		w.log.wrote(w.written, w.checkpoint)
		w.others.yield()
	}
}

// applyWaiting moves what is queued into the batch and the transaction.
func (w *writer) applyWaiting() error {
	start := time.Now()
	alone, err := w.others.look(w.dataVersion)
	if err != nil {
		return err
	}
	if !alone {
		w.cache.forget()
	}
	limit, _, _ := w.queue.waiting()
	limit = min(limit, maxBatch)
	for len(w.batch) < limit {
		from := len(w.batch)
		w.batch = w.queue.take(w.batch, min(32, limit-from), w.isFull)
		for _, j := range w.batch[from:] {
			if err := w.apply(j); err != nil {
				return err
			}
		}
		if len(w.batch) == from || time.Since(start) > maxBatchTime {
			break
		}
	}
	return w.flush()
}

// alone reports whether nobody else has committed since the last look.
func (w *writer) alone() bool {
	alone, err := w.others.look(w.dataVersion)
	return alone && err == nil
}

// lock begins the transaction. While another process has the lock the jobs stay
// in the queue, so that their callers can withdraw them: their deadlines bound
// the wait. It returns false if none is left.
func (w *writer) lock() (bool, error) {
	closing := time.Time{}
	for poll := minPoll; ; poll = min(2*poll, maxPoll) {
		n, full, closed := w.queue.waiting()
		if n == 0 {
			return false, nil
		}
		// Not possible inside of a transaction.
		if err := w.setLevel(full > 0); err != nil {
			return false, err
		}
		err := run(w.begin)
		if err == nil {
			return true, nil
		}
		if !isBusy(err) {
			return false, err
		}
		if closed {
			if closing.IsZero() {
				closing = time.Now()
			} else if time.Since(closing) > closePatience {
				return false, fmt.Errorf("the store was closed while another process held the database locked: %w", plain(err))
			}
		}
		w.others.met()
		time.Sleep(poll)
	}
}

// closePatience is how long Close waits for a lock another process holds.
const closePatience = 5 * time.Second

func (w *writer) setLevel(full bool) error {
	if full == w.isFull {
		return nil
	}
	level := "normal"
	if full {
		level = "full"
	}
	// Not a prepared statement: SQLite sets the level when it compiles this, and
	// running it again would do nothing.
	if err := exec(w.conn, "PRAGMA synchronous = "+level); err != nil {
		return err
	}
	w.isFull = full
	return nil
}

// run executes a statement that returns nothing of interest.
func run(st *zs.Stmt) error {
	if _, err := st.Step(); err != nil {
		return err
	}
	return st.Reset()
}

// apply does j in memory. Its error is the database's and ends the batch; what
// concerns j alone is j.err.
func (w *writer) apply(j *job) error {
	switch j.kind {
	case touchJob:
		for _, t := range j.touch {
			r, err := w.row(t.ID)
			if err != nil {
				return err
			}
			if r.now != nil {
				r.now, _ = t.Apply(r.now)
			}
		}
		return nil
	case sweepJob:
		return w.applySweep(j)
	}
	r, err := w.row(j.id)
	if err != nil {
		return err
	}
	switch {
	case j.kind == deleteJob:
		r.now, r.err = nil, nil
	case j.kind == createJob && (r.now != nil || r.err != nil):
		j.err = session.ErrExists
	case j.kind == createJob:
		r.now = j.rec
	case r.err != nil:
		j.err = r.err
	case r.now == nil:
		j.err = session.ErrNotFound
	default:
		j.out, j.err = j.change.Apply(r.now)
		if j.err == nil {
			r.now = j.out
		} else if j.err != session.ErrConflict && j.err != session.ErrStale {
			j.out = nil
		}
	}
	return nil
}

// applySweep deletes in the table, so what the batch did before has to be there.
func (w *writer) applySweep(j *job) error {
	if err := w.flush(); err != nil {
		return err
	}
	w.sweep.BindInt64(1, tenMinutes(j.then))
	w.sweep.BindInt64(2, j.then.UnixMicro())
	w.sweep.BindInt64(3, int64(j.limit))
	for {
		switch more, err := w.sweep.Step(); {
		case err != nil:
			return err
		case !more:
			w.written += j.n
			return w.sweep.Reset()
		}
		j.n++
		id := session.ID(w.sweep.ColumnText(0))
		if r := w.rows[id]; r != nil {
			*r = row{id: id}
		} else {
			w.add(row{id: id})
		}
	}
}

// row returns what the batch knows about a session, from the table at first.
func (w *writer) row(id session.ID) (*row, error) {
	if r := w.rows[id]; r != nil {
		return r, nil
	}
	rec, err := w.cache.known(id), error(nil)
	if rec == nil {
		rec, err = load(w.load, id)
	}
	if code := zs.ErrCode(err); err != nil && code != zs.ResultError {
		return nil, err
	}
	if err == session.ErrNotFound {
		return w.add(row{id: id}), nil
	}
	return w.add(row{id: id, stored: rec, now: rec, exists: true, err: err}), nil
}

func (w *writer) add(as row) *row {
	r := new(row)
	if n := len(w.spare); n > 0 {
		r, w.spare = w.spare[n-1], w.spare[:n-1]
	}
	*r = as
	w.rows[r.id] = r
	w.order = append(w.order, r)
	return r
}

// forget empties what the batch knows.
func (w *writer) forget() {
	clear(w.rows)
	for _, r := range w.order {
		*r = row{}
	}
	w.spare = append(w.spare, w.order...)
	w.order = w.order[:0]
}

// flush writes the rows that changed.
func (w *writer) flush() error {
	for _, r := range w.order {
		if err := w.flushRow(r); err != nil {
			return err
		}
		r.stored, r.exists = r.now, r.now != nil || r.err != nil
	}
	return nil
}

func (w *writer) flushRow(r *row) error {
	if r.err != nil || r.now == r.stored && r.exists == (r.now != nil) {
		return nil
	}
	w.written++
	if r.now == nil {
		w.delete.BindText(1, string(r.id))
		return run(w.delete)
	}
	if r.exists && r.stored == nil {
		// A row that could not be read was deleted and created again.
		w.delete.BindText(1, string(r.id))
		if err := run(w.delete); err != nil {
			return err
		}
		r.exists = false
	}
	if !r.exists {
		w.text = sqlstore.AppendValues(w.text[:0], r.now.Values)
		bindRecord(w.insert, r.now, w.text)
		return run(w.insert)
	}
	st := w.update
	if onlyUsual(r.stored, r.now) {
		st = w.touch
		if !sameValues(r.stored.Values, r.now.Values) {
			st = w.updateValues
			w.text = sqlstore.AppendValues(w.text[:0], r.now.Values)
			bindText(st, 5, w.text)
		}
		st.BindText(1, string(r.id))
		st.BindInt64(2, r.now.Seen.UnixMicro())
		st.BindInt64(3, r.now.Expires.UnixMicro())
		st.BindInt64(4, r.now.Version)
		return run(st)
	}
	w.text = sqlstore.AppendValues(w.text[:0], r.now.Values)
	bindRecord(st, r.now, w.text)
	return run(st)
}

// onlyUsual reports whether nothing but values, seen, expires and version differ,
// and expires too little for its index.
func onlyUsual(a, b *session.Record) bool {
	return a.User == b.User && a.Auth == b.Auth && a.Secret == b.Secret && a.OldSecret == b.OldSecret &&
		a.Idle == b.Idle && a.Remember == b.Remember && a.Addr == b.Addr && a.Agent == b.Agent &&
		a.Created.Equal(b.Created) && a.SignedIn.Equal(b.SignedIn) && a.OldUntil.Equal(b.OldUntil) &&
		a.Absolute.Equal(b.Absolute) && tenMinutes(a.Expires) == tenMinutes(b.Expires)
}

// sameValues reports whether b is a untouched. It may say no for equal ones.
func sameValues(a, b session.Values) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// commitBatch commits, or returns an error that says whether the outcome is known.
func (w *writer) commitBatch() error {
	err := run(w.commit)
	if err == nil {
		return nil
	}
	switch code := zs.ErrCode(err); {
	case code.ToPrimary() == zs.ResultBusy, code.ToPrimary() == zs.ResultFull, code == zs.ResultIOErrWrite:
		// The frame that makes a commit is written last, so without it there is none.
		return fmt.Errorf("commit: nothing was written: %w", plain(err))
	}
	// The frames may have reached the file, and a process that recovers the log
	// after a crash would then find them.
	return fmt.Errorf("commit: %w: %w", session.ErrUnknown, plain(err))
}

// rollBack ends the transaction, if SQLite has not done so itself.
func (w *writer) rollBack() {
	if !w.conn.AutocommitEnabled() {
		_ = run(w.rollback)
	}
}

// answer tells the callers of the batch. err is that of the whole batch.
func (w *writer) answer(err error) {
	for _, j := range w.batch {
		if err != nil {
			j.err, j.out, j.n = err, nil, 0
		}
		j.done <- struct{}{}
	}
	clear(w.batch)
	w.batch = slices.Delete(w.batch, 0, len(w.batch))
}
