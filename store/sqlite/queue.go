package sqlite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/crumb-go/crumb/internal/sqlstore"
	"github.com/crumb-go/crumb/session"
)

type jobKind uint8

const (
	createJob jobKind = iota + 1
	updateJob
	deleteJob
	touchJob
	sweepJob
)

// A job is one call that writes, on its way through the writer.
type job struct {
	kind   jobKind
	full   bool // its commit must survive a power cut
	rec    *session.Record
	id     session.ID
	change *session.Change
	touch  []session.Touch
	then   time.Time
	limit  int

	// The answer, the writer's until done is sent to.
	out  *session.Record
	n    int
	err  error
	done chan struct{}
}

var jobs = sync.Pool{New: func() any { return &job{done: make(chan struct{}, 1)} }}

func newJob(kind jobKind) *job {
	j := jobs.Get().(*job)
	done := j.done
	*j = job{kind: kind, done: done}
	return j
}

// A queue holds the jobs that no batch has taken yet. To be in it is to be
// undone for sure: a caller who finds its job there may take it out and say that
// nothing happened.
type queue struct {
	wake chan struct{} // holds one value if the writer has something to look at

	mu     sync.Mutex // guards what follows
	jobs   []*job
	full   int // how many of jobs are full
	closed bool
}

func (q *queue) push(j *job) error {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return errClosed
	}
	q.jobs = append(q.jobs, j)
	if j.full {
		q.full++
	}
	q.mu.Unlock()
	q.signal()
	return nil
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// withdraw takes j out again, or returns false if a batch has it.
func (q *queue) withdraw(j *job) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.jobs, j)
	if i < 0 {
		return false
	}
	q.jobs = slices.Delete(q.jobs, i, i+1)
	if j.full {
		q.full--
	}
	return true
}

// take moves at most limit jobs to batch, in order, and none from the first full
// one on unless full is set.
func (q *queue) take(batch []*job, limit int, full bool) []*job {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(limit, len(q.jobs))
	if !full && q.full > 0 {
		n = min(n, slices.IndexFunc(q.jobs, func(j *job) bool { return j.full }))
	}
	for _, j := range q.jobs[:n] {
		if j.full {
			q.full--
		}
	}
	batch = append(batch, q.jobs[:n]...)
	q.jobs = slices.Delete(q.jobs, 0, n)
	return batch
}

func (q *queue) waiting() (n, full int, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.jobs), q.full, q.closed
}

func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.signal()
}

// do has the writer do j and waits for it, but no longer than ctx lasts. If it
// returns false j is the writer's for ever and nothing of it may be read.
func (s *Store) do(ctx context.Context, j *job) (done bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if err := s.writer.queue.push(j); err != nil {
		return false, err
	}
	select {
	case <-j.done:
		return true, j.err
	case <-ctx.Done():
	}
	if s.writer.queue.withdraw(j) {
		return false, ctx.Err()
	}
	select {
	case <-j.done:
		return true, j.err
	default:
		return false, fmt.Errorf("%w: it was being written: %w", session.ErrUnknown, ctx.Err())
	}
}

// Create implements [session.Store].
func (s *Store) Create(ctx context.Context, rec *session.Record) error {
	if err := sqlstore.CheckValues(rec.Values); err != nil {
		return err
	}
	j := newJob(createJob)
	j.id, j.rec, j.full = rec.ID, rec, rec.User != ""
	done, err := s.do(ctx, j)
	if done {
		jobs.Put(j)
	}
	if err != nil {
		return fail("create", err)
	}
	return nil
}

// Update implements [session.Store].
func (s *Store) Update(ctx context.Context, base *session.Record, c *session.Change) (*session.Record, error) {
	if err := sqlstore.CheckChange(c); err != nil {
		return nil, err
	}
	j := newJob(updateJob)
	j.id, j.change, j.full = base.ID, c, c.End || c.Renew != nil || c.SignIn != nil
	done, err := s.do(ctx, j)
	var rec *session.Record
	if done {
		rec = j.out
		jobs.Put(j)
	}
	if err != nil {
		return rec, fail("update", err)
	}
	return rec, nil
}

// Delete implements [session.Store].
func (s *Store) Delete(ctx context.Context, id session.ID) error {
	j := newJob(deleteJob)
	j.id, j.full = id, true
	done, err := s.do(ctx, j)
	if done {
		jobs.Put(j)
	}
	if err != nil {
		return fail("delete", err)
	}
	return nil
}

// Touch implements [session.Toucher]. Rows in a format this program does not know
// are left alone.
func (s *Store) Touch(ctx context.Context, touches []session.Touch) error {
	// In parts, so that a long list does not hold up the requests between them.
	const part = 128
	for i := 0; i < len(touches); i += part {
		j := newJob(touchJob)
		j.touch = touches[i:min(i+part, len(touches))]
		done, err := s.do(ctx, j)
		if done {
			jobs.Put(j)
		}
		if err != nil && i > 0 && !errors.Is(err, session.ErrUnknown) {
			err = fmt.Errorf("%w: only the first %d of %d were written: %w", session.ErrUnknown, i, len(touches), err)
		}
		if err != nil {
			return fail("touch", err)
		}
	}
	return nil
}

// Sweep implements [session.Sweeper]. Rows in a format this program does not know
// are left alone. With an error it returns how many it had deleted before.
func (s *Store) Sweep(ctx context.Context, then time.Time, limit int) (n int, err error) {
	// Smaller than in Touch: a row that goes changes a page in each of three or four
	// trees, and the changes of a request wait for one part at most. The pauses
	// leave half of the time to them even while this goes on.
	const part = 16
	for n < limit {
		began := time.Now()
		j := newJob(sweepJob)
		j.then, j.limit = then, min(part, limit-n)
		asked := j.limit
		done, err := s.do(ctx, j)
		got := 0
		if done {
			got = j.n
			jobs.Put(j)
		}
		if err != nil {
			return n, fail("sweep", err)
		}
		if n += got; got < asked {
			break
		}
		if n < limit {
			_ = pause(ctx, time.Since(began)) // if ctx ends, the next part says so
		}
	}
	return n, nil
}
