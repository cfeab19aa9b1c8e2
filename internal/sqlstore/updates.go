package sqlstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crumb-go/crumb/session"
)

// How much updates may share. A commit costs the server a write to its disk, and a
// statement a round trip, however many changes they carry.
const (
	// lanes is how many transactions with updates of several sessions are under way
	// at most. The server flushes its log for all that wait for it, so more lanes
	// carry no more.
	lanes = 2
	// laneSessions and laneUpdates bound one of them.
	laneSessions = 64
	laneUpdates  = 512
	// laneTime is after what time others no longer wait for one: it waits for a row
	// that somebody has locked.
	laneTime = 100 * time.Millisecond
)

// updates has the updates that come at once share what they cost. One that comes
// alone is sent as it is, by its caller. While a session has one under way, others
// of it wait, and then become one: each is applied to what the one before it made,
// and the row is written once. If the driver can send several statements at once,
// those of several sessions share a transaction, too.
//
// A caller whose context ends while its update waits takes it out again: nothing
// happened. Once it is sent, only the server knows.
type updates struct {
	s        *Store
	pipeline Pipeline // nil if there is none
	lanes    int
	sessions int // in one batch

	mu      sync.Mutex // guards what follows
	waiting []*update
	busy    map[session.ID]bool // have an update under way
	running int                 // lanes in use
}

// An update is one call of [Store.Update].
type update struct {
	ctx    context.Context
	base   *session.Record
	change *session.Change
	batch  *batch        // that carries it, if it had to wait
	done   chan struct{} // closed when what follows is there

	out *session.Record
	err error
}

// A batch is what is sent together. It goes on until the last of its callers has
// left.
type batch struct {
	callers atomic.Int64
	cancel  context.CancelFunc
}

// A folded is what a batch holds of one session.
type folded struct {
	id      session.ID
	updates []*update
	base    *session.Record // the newest that a caller knows
	next    *session.Record // what the updates make of it, or it
	stored  *session.Record // what the server has, as far as is known
}

func (q *updates) start(s *Store) {
	q.s, q.busy = s, map[session.ID]bool{}
	q.lanes, q.sessions = math.MaxInt, 1
	if p, ok := s.db.(Pipeline); ok {
		q.pipeline, q.lanes, q.sessions = p, lanes, laneSessions
	}
}

func (q *updates) do(u *update) (*session.Record, error) {
	q.mu.Lock()
	if q.running < q.lanes && !q.busy[u.base.ID] {
		q.begin([]*update{u})
		q.mu.Unlock()
		q.run(u.ctx, []*update{u})
		return u.out, u.err
	}
	u.done = make(chan struct{})
	q.waiting = append(q.waiting, u)
	q.mu.Unlock()
	select {
	case <-u.done:
		return u.out, u.err
	case <-u.ctx.Done():
	}
	q.mu.Lock()
	i := slices.Index(q.waiting, u)
	if i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	q.mu.Unlock()
	if i >= 0 {
		return nil, u.ctx.Err()
	}
	select {
	case <-u.done:
		return u.out, u.err
	default:
		u.batch.leave()
		return nil, Unknown(u.ctx.Err())
	}
}

func (b *batch) leave() {
	if b.callers.Add(-1) == 0 {
		b.cancel()
	}
}

// begin marks the sessions of a batch. The lock is held.
func (q *updates) begin(us []*update) {
	q.running++
	for _, u := range us {
		q.busy[u.base.ID] = true
	}
}

// next sends what waits and may be sent. The lock is held.
func (q *updates) next() {
	for q.running < q.lanes {
		us := q.take()
		if len(us) == 0 {
			return
		}
		q.begin(us)
		ctx, cancel := together(us)
		b := &batch{cancel: cancel}
		b.callers.Store(int64(len(us)))
		for _, u := range us {
			u.batch = b
		}
		go func() {
			defer cancel()
			q.run(ctx, us)
		}()
	}
}

// take returns updates whose sessions have none under way, those that came first
// before others.
func (q *updates) take() (us []*update) {
	taken := map[session.ID]bool{}
	rest := q.waiting[:0]
	for _, u := range q.waiting {
		id := u.base.ID
		if len(us) == laneUpdates || q.busy[id] || !taken[id] && len(taken) == q.sessions {
			rest = append(rest, u)
			continue
		}
		taken[id] = true
		us = append(us, u)
	}
	clear(q.waiting[len(rest):])
	q.waiting = rest
	return us
}

// together returns a context that ends when the last of those of the updates ends
// by its time; the others are minded by their callers.
func together(us []*update) (context.Context, context.CancelFunc) {
	var latest time.Time
	for _, u := range us {
		deadline, ok := u.ctx.Deadline()
		if !ok {
			return context.WithCancel(context.Background())
		}
		if deadline.After(latest) {
			latest = deadline
		}
	}
	return context.WithDeadline(context.Background(), latest)
}

// run sends a batch and answers its callers.
func (q *updates) run(ctx context.Context, us []*update) {
	leave := sync.OnceFunc(q.leave)
	defer leave()
	defer time.AfterFunc(laneTime, leave).Stop()
	fs := fold(us)
	if len(fs) == 1 {
		defer q.end(fs[0])
		q.send(ctx, fs[0])
		return
	}
	through, left := q.sendTogether(ctx, fs)
	q.end(through...)
	leave()
	var alone sync.WaitGroup
	for _, f := range left {
		alone.Go(func() {
			q.send(ctx, f)
			q.end(f)
		})
	}
	alone.Wait()
}

// leave gives up a lane.
func (q *updates) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running--
	q.next()
}

// end notes that the updates of sessions have been answered.
func (q *updates) end(fs ...*folded) {
	q.mu.Lock()
	defer q.mu.Unlock()
	stored := make(map[session.ID]*session.Record, len(fs))
	for _, f := range fs {
		delete(q.busy, f.id)
		stored[f.id] = f.stored
	}
	for _, u := range q.waiting {
		if rec := stored[u.base.ID]; rec != nil && rec.Version > u.base.Version {
			u.base = rec // so that one statement does
		}
	}
	q.next()
}

// sendTogether sends the updates of several sessions in one transaction, rows in
// the order of their IDs, as Touch locks them. It returns those sessions that are
// through, and those that are not: their base is not the record as it stands, or
// what is wrong with one of them is not to spoil the others.
func (q *updates) sendTogether(ctx context.Context, fs []*folded) (through, left []*folded) {
	var sts []Statement
	var sent []*folded
	for _, f := range fs {
		if f.apply(f.base); f.next == f.base {
			left = append(left, f)
			continue
		}
		sts, sent = append(sts, q.s.change(f.base, f.next)), append(sent, f)
	}
	if len(sent) < 2 {
		return nil, fs
	}
	var matched []int64
	err := q.s.repeat(ctx, func() (err error) {
		matched, err = q.pipeline.ExecAll(ctx, sts)
		return err
	})
	if err != nil && !errors.Is(err, session.ErrUnknown) {
		return nil, fs
	}
	for i, f := range sent {
		if err == nil && matched[i] == 0 {
			left = append(left, f)
			continue
		}
		f.answer(err)
		through = append(through, f)
	}
	return through, left
}

// send makes the updates of one session: in one statement if base is the record as
// it stands, else in a transaction that locks the row.
func (q *updates) send(ctx context.Context, f *folded) {
	err := q.s.repeat(ctx, func() error {
		if f.apply(f.base); f.next != f.base {
			if n, err := q.s.db.Exec(ctx, q.s.change(f.base, f.next)); err != nil || n > 0 {
				return err
			}
		}
		return q.sendLocked(ctx, f)
	})
	if err == nil || len(f.updates) == 1 || ctx.Err() != nil || errors.Is(err, session.ErrUnknown) {
		f.answer(err)
		return
	}
	for _, u := range f.updates { // one may be what is wrong
		one := &folded{id: f.id, updates: []*update{u}, base: f.base}
		q.send(ctx, one)
		f.stored = one.stored
	}
}

// errNothing rolls back the transaction of updates that change nothing.
var errNothing = errors.New("nothing to change")

func (q *updates) sendLocked(ctx context.Context, f *folded) error {
	lock := Statement{q.s.sql.lock, []any{string(f.id)}}
	n, err := q.s.db.Locked(ctx, lock, func(scan Scan) (Statement, error) {
		if scan == nil {
			f.refuse(session.ErrNotFound)
			return Statement{}, errNothing
		}
		rec, err := scanRecord(scan, f.id)
		if err != nil {
			return Statement{}, err
		}
		if f.apply(rec); f.next == rec {
			return Statement{}, errNothing
		}
		return q.s.change(rec, f.next), nil
	})
	switch {
	case err == errNothing:
		return nil
	case err == nil && n != 1:
		return fmt.Errorf("the update of session %q matched %d rows, though its row was locked", f.id, n)
	}
	return err
}

// fold returns what the updates hold of each session, in the order of the IDs.
func fold(us []*update) (fs []*folded) {
	at := make(map[session.ID]*folded, len(us))
	for _, u := range us {
		f := at[u.base.ID]
		if f == nil {
			f = &folded{id: u.base.ID, base: u.base}
			at[f.id], fs = f, append(fs, f)
		}
		if u.base.Version > f.base.Version {
			f.base = u.base
		}
		f.updates = append(f.updates, u)
	}
	slices.SortFunc(fs, func(a, b *folded) int { return cmp.Compare(a.id, b.id) })
	return fs
}

// apply makes next of rec: every update that can be applied is, to what the one
// before it made. The others have the verdict on what there is in the end, which
// counts once next, or rec if that is it, is known to be stored.
func (f *folded) apply(rec *session.Record) {
	f.next = rec
	rest := f.updates
	for again := true; again; {
		again = false
		var refused []*update
		for _, u := range rest {
			out, err := u.change.Apply(f.next)
			if err == nil && !onlyUsual(f.next, out) {
				err = checkRecord(out)
			}
			if u.out, u.err = out, err; err != nil {
				refused = append(refused, u)
				continue
			}
			f.next, again = out, true
		}
		rest = refused
	}
}

func (f *folded) refuse(err error) {
	f.next = nil
	for _, u := range f.updates {
		u.out, u.err = nil, err
	}
}

// answer tells the callers. err is that of the whole.
func (f *folded) answer(err error) {
	if err != nil {
		f.refuse(err)
	}
	f.stored = f.next
	for _, u := range f.updates {
		if u.done != nil {
			close(u.done)
		}
	}
}
