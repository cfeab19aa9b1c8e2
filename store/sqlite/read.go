package sqlite

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	zs "zombiezen.com/go/sqlite"

	"github.com/crumb-go/crumb/session"
)

// A reader is a connection that reads, with its statements prepared.
type reader struct {
	conn                           *zs.Conn
	load, listUser, listAll, check *zs.Stmt
}

// A pool holds the readers. A closed store has none.
type pool struct {
	free   chan *reader
	closed chan struct{}
}

func newPool(size int) *pool {
	return &pool{free: make(chan *reader, size), closed: make(chan struct{})}
}

func (p *pool) add(ctx context.Context, c *zs.Conn, sql *sqlText) error {
	r := &reader{conn: c}
	err := whileBusy(ctx, func() error {
		return errors.Join(
			exec(c, "PRAGMA query_only = on"),
			prepare(c, sql.load, &r.load),
			prepare(c, sql.listUser, &r.listUser),
			prepare(c, sql.listAll, &r.listAll),
			prepare(c, sql.check, &r.check),
		)
	})
	if err == nil {
		p.free <- r
	}
	return err
}

func prepare(c *zs.Conn, sql string, to **zs.Stmt) (err error) {
	*to, err = c.Prepare(sql)
	return err
}

func (p *pool) take(ctx context.Context) (*reader, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case <-p.closed:
		return nil, errClosed
	default:
	}
	select {
	case r := <-p.free:
		return r, nil
	default:
	}
	select {
	case r := <-p.free:
		return r, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.closed:
		return nil, errClosed
	}
}

func (p *pool) put(r *reader) { p.free <- r }

func (p *pool) close() error {
	close(p.closed)
	var errs []error
	for range cap(p.free) {
		r := <-p.free
		errs = append(errs, r.conn.Close())
	}
	return errors.Join(errs...)
}

// Load implements [session.Store]. It waits for a connection no longer than ctx
// lasts; the lookup itself, some microseconds, runs to its end.
func (s *Store) Load(ctx context.Context, id session.ID) (rec *session.Record, err error) {
	if err := ctx.Err(); err != nil {
		return nil, fail("load", err)
	}
	rec, version := s.cache.load(id)
	if rec != nil {
		return rec, nil
	}
	r, err := s.readers.take(ctx)
	if err != nil {
		return nil, fail("load", err)
	}
	rec, err = load(r.load, id)
	if isBusy(err) {
		err = whileBusy(ctx, func() (err error) {
			rec, err = load(r.load, id)
			return err
		})
	}
	s.readers.put(r)
	if err != nil {
		return nil, fail("load", err)
	}
	s.cache.fill(rec, version)
	return rec, nil
}

func load(st *zs.Stmt, id session.ID) (rec *session.Record, err error) {
	st.BindText(1, string(id))
	row, err := st.Step()
	if err != nil {
		return nil, err
	}
	if !row {
		st.Reset()
		return nil, session.ErrNotFound
	}
	rec, err = scanRecord(st, id)
	st.Reset()
	return rec, err
}

// List implements [session.Lister]. A Limit that is not positive counts as 100.
// A row in a format this program does not know is an error: a revocation must not
// miss a session and claim that none is left.
func (s *Store) List(ctx context.Context, q session.Query) (page []session.Info, err error) {
	if err := q.Check(); err != nil {
		return nil, err
	}
	if q.Limit <= 0 {
		q.Limit = 100
	}
	err = s.scan(ctx, func(r *reader) error {
		page = nil
		st := r.listAll
		if !q.All {
			st = r.listUser
			st.BindText(4, q.User)
			st.BindInt64(5, int64(q.Limit))
		} else {
			st.BindInt64(4, int64(q.Limit))
		}
		st.BindInt64(1, q.Now.UnixMicro())
		st.BindInt64(2, math.MaxInt64)
		st.BindText(3, "")
		if q.After != nil {
			st.BindInt64(2, q.After.Created.UnixMicro())
			st.BindText(3, string(q.After.ID))
		}
		defer st.Reset()
		for {
			row, err := st.Step()
			if err != nil || !row {
				return err
			}
			var info session.Info
			if _, err := scanInfo(st, &info, "", 0); err != nil {
				return err
			}
			page = append(page, info)
		}
	})
	if err != nil {
		return nil, fail("list", err)
	}
	return page, nil
}

// Check implements [session.Checker]. A session in a format this program does not
// know is not among those that live.
func (s *Store) Check(ctx context.Context, now time.Time, ids []session.ID) (map[session.ID]int64, error) {
	live := make(map[session.ID]int64, len(ids))
	err := s.scan(ctx, func(r *reader) error {
		for _, id := range ids {
			r.check.BindText(1, string(id))
			r.check.BindInt64(2, now.UnixMicro())
			row, err := r.check.Step()
			if err != nil {
				return err
			}
			if row {
				live[id] = r.check.ColumnInt64(0)
			}
			r.check.Reset()
		}
		return nil
	})
	if err != nil {
		return nil, fail("check", err)
	}
	return live, nil
}

// scan runs fn, which may read many rows, until ctx ends.
func (s *Store) scan(ctx context.Context, fn func(*reader) error) error {
	r, err := s.readers.take(ctx)
	if err != nil {
		return err
	}
	defer s.readers.put(r)
	r.conn.SetInterrupt(ctx.Done())
	defer r.conn.SetInterrupt(nil)
	err = whileBusy(ctx, func() error { return fn(r) })
	if ctx.Err() != nil && zs.ErrCode(err).ToPrimary() == zs.ResultInterrupt {
		return ctx.Err()
	}
	return err
}

// fail says which call failed. What the contract of [session.Store] names stays
// as it is.
func fail(call string, err error) error {
	switch err {
	case session.ErrNotFound, session.ErrExists, session.ErrConflict, session.ErrStale, errClosed:
		return err
	}
	var value *session.ValueError
	if errors.As(err, &value) {
		return err
	}
	return fmt.Errorf("sqlite: %s: %w", call, plain(err))
}
