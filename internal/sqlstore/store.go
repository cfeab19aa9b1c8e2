package sqlstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/crumb-go/crumb/session"
)

// A Store keeps sessions in the tables of a SQL server. It implements
// [session.Store] and all its optional interfaces over a [DB].
type Store struct {
	db      DB
	sql     *statements
	logger  *slog.Logger
	updates updates
}

var (
	_ session.Store   = (*Store)(nil)
	_ session.Lister  = (*Store)(nil)
	_ session.Toucher = (*Store)(nil)
	_ session.Sweeper = (*Store)(nil)
	_ session.Checker = (*Store)(nil)
)

// New returns a Store whose tables begin with prefix. It asks the server nothing.
func New(db DB, d *Dialect, prefix string, logger *slog.Logger) *Store {
	s := &Store{db: db, sql: newStatements(d, prefix), logger: logger}
	s.updates.start(s)
	return s
}

// Create implements [session.Store].
func (s *Store) Create(ctx context.Context, rec *session.Record) error {
	err := checkRecord(rec)
	if err == nil {
		err = CheckValues(rec.Values)
	}
	if err == nil {
		st := Statement{s.sql.insert, append(recordArgs(rec), string(rec.ID))}
		var n int64
		if n, err = s.exec(ctx, st); err == nil && n == 0 {
			err = session.ErrExists
		}
	}
	return s.fail("create", err)
}

// Load implements [session.Store].
func (s *Store) Load(ctx context.Context, id session.ID) (*session.Record, error) {
	if !isText(id) {
		return nil, session.ErrNotFound
	}
	var rec *session.Record
	st := Statement{s.sql.load, []any{string(id)}}
	err := s.repeat(ctx, func() error {
		rec = nil
		return s.db.Query(ctx, st, func(scan Scan) (err error) {
			rec, err = scanRecord(scan, id)
			return err
		})
	})
	if err == nil && rec == nil {
		err = session.ErrNotFound
	}
	if err != nil {
		return nil, s.fail("load", err)
	}
	return rec, nil
}

// Update implements [session.Store]. Updates that come at once share statements
// and commits: see updates.
func (s *Store) Update(ctx context.Context, base *session.Record, c *session.Change) (*session.Record, error) {
	if !isText(base.ID) {
		return nil, session.ErrNotFound
	}
	err := CheckChange(c)
	if err == nil {
		err = ctx.Err()
	}
	var out *session.Record
	if err == nil {
		out, err = s.updates.do(&update{ctx: ctx, base: base, change: c})
	}
	switch err {
	case nil, session.ErrConflict, session.ErrStale:
		return out, err
	}
	return nil, s.fail("update", err)
}

// change is the statement that makes next of rec, if that is the record as it
// stands.
func (s *Store) change(rec, next *session.Record) (st Statement) {
	switch {
	case !onlyUsual(rec, next):
		st = Statement{s.sql.update, recordArgs(next)}
	case sameValues(rec.Values, next.Values):
		st = Statement{s.sql.updateSeen, []any{next.Seen.UnixMicro(), next.Expires.UnixMicro(), next.Version}}
	default:
		st = Statement{s.sql.updateValues, []any{next.Seen.UnixMicro(), next.Expires.UnixMicro(), next.Version, valuesArg(next)}}
	}
	st.Args = append(st.Args, string(rec.ID), rec.Version, rec.Secret[:], rec.Absolute.UnixMicro(), rec.Seen.UnixMicro())
	return st
}

// Delete implements [session.Store].
func (s *Store) Delete(ctx context.Context, id session.ID) error {
	if !isText(id) {
		return nil
	}
	_, err := s.exec(ctx, Statement{s.sql.delete, []any{string(id)}})
	return s.fail("delete", err)
}

// List implements [session.Lister]. A Limit that is not positive counts as 100.
// A row in a format this program does not know is an error: a revocation must not
// miss a session and claim that none is left.
func (s *Store) List(ctx context.Context, q session.Query) ([]session.Info, error) {
	if err := q.Check(); err != nil {
		return nil, err
	}
	if q.Limit <= 0 {
		q.Limit = 100
	}
	created, id := int64(math.MaxInt64), ""
	if q.After != nil {
		created, id = q.After.Created.UnixMicro(), string(q.After.ID)
	}
	st := Statement{s.sql.listAll, []any{q.Now.UnixMicro(), created, created, id}}
	if !q.All {
		st.SQL, st.Args = s.sql.listUser, append(st.Args, []byte(q.User))
	}
	st.Args = append(st.Args, int64(q.Limit))
	var page []session.Info
	err := s.repeat(ctx, func() error {
		page = nil
		return s.db.Query(ctx, st, func(scan Scan) error {
			info, err := scanInfo(scan, "")
			page = append(page, info)
			return err
		})
	})
	if err != nil {
		return nil, s.fail("list", err)
	}
	return page, nil
}

// Touch implements [session.Toucher].
func (s *Store) Touch(ctx context.Context, touches []session.Touch) error {
	touches = slices.DeleteFunc(slices.Clone(touches), func(t session.Touch) bool { return !isText(t.ID) })
	if len(touches) == 0 {
		return nil
	}
	slices.SortFunc(touches, func(a, b session.Touch) int { return cmp.Compare(a.ID, b.ID) })
	st := Statement{SQL: s.sql.touch(len(touches))}
	if s.sql.dialect.Arrays {
		ids, seen := make([]string, len(touches)), make([]int64, len(touches))
		for i, t := range touches {
			ids[i], seen[i] = string(t.ID), t.Seen.UnixMicro()
		}
		st.Args = []any{ids, seen}
	} else {
		for _, t := range touches {
			st.Args = append(st.Args, string(t.ID), t.Seen.UnixMicro())
		}
	}
	_, err := s.exec(ctx, st)
	return s.fail("touch", err)
}

// Sweep implements [session.Sweeper]. A row in a format this program does not
// know stays.
func (s *Store) Sweep(ctx context.Context, then time.Time, limit int) (int, error) {
	n, err := s.exec(ctx, Statement{s.sql.sweep, []any{tenMinutes(then), then.UnixMicro(), int64(limit)}})
	return int(n), s.fail("sweep", err)
}

// Check implements [session.Checker]. A session in a format this program does not
// know is not among those that live.
func (s *Store) Check(ctx context.Context, now time.Time, ids []session.ID) (map[session.ID]int64, error) {
	live := make(map[session.ID]int64, len(ids))
	ids = slices.DeleteFunc(slices.Clone(ids), func(id session.ID) bool { return !isText(id) })
	if len(ids) == 0 {
		return live, nil
	}
	st := Statement{SQL: s.sql.check(len(ids))}
	if s.sql.dialect.Arrays {
		list := make([]string, len(ids))
		for i, id := range ids {
			list[i] = string(id)
		}
		st.Args = []any{list}
	} else {
		for _, id := range ids {
			st.Args = append(st.Args, string(id))
		}
	}
	st.Args = append(st.Args, now.UnixMicro())
	err := s.repeat(ctx, func() error {
		clear(live)
		return s.db.Query(ctx, st, func(scan Scan) error {
			var id string
			var auth int64
			err := scan(&id, &auth)
			live[session.ID(id)] = auth
			return err
		})
	})
	if err != nil {
		return nil, s.fail("check", err)
	}
	return live, nil
}

// Count returns how many sessions live at now, by class: visitors, users who are
// signed in, and users who are remembered. It reads every row, some seconds for a
// million.
func (s *Store) Count(ctx context.Context, now time.Time) (visitors, signedIn, remembered int64, err error) {
	st := Statement{s.sql.count, []any{now.UnixMicro()}}
	err = s.repeat(ctx, func() error {
		return s.db.Query(ctx, st, func(scan Scan) error { return scan(&visitors, &signedIn, &remembered) })
	})
	return visitors, signedIn, remembered, s.fail("count", err)
}

func (s *Store) exec(ctx context.Context, st Statement) (n int64, err error) {
	err = s.repeat(ctx, func() (err error) {
		n, err = s.db.Exec(ctx, st)
		return err
	})
	return n, err
}

// maxTries is how often a call is made before a deadlock or a serialisation
// failure, or the connections that turn out to be broken, are too many.
const maxTries = 6

// repeat calls fn, and again if nothing happened and the same may succeed.
func (s *Store) repeat(ctx context.Context, fn func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for try := 1; ; try++ {
		err := fn()
		if err == nil || !mayRepeat(err) || try == maxTries {
			return err
		}
		s.logger.DebugContext(ctx, s.sql.dialect.Name+": nothing happened, once more", "try", try, "err", err)
		if !pause(ctx, try) {
			return err
		}
	}
}

// pause waits, by chance longer after more tries, so that those who were in each
// other's way come at different times. It reports false if ctx ends.
func pause(ctx context.Context, try int) bool {
	t := time.NewTimer(rand.N(time.Millisecond << try))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// fail says which call failed. What the contract of [session.Store] names stays
// as it is.
func (s *Store) fail(call string, err error) error {
	switch err {
	case nil, session.ErrNotFound, session.ErrExists:
		return err
	}
	if _, ok := errors.AsType[*session.ValueError](err); ok {
		return err
	}
	return fmt.Errorf("%s: %s: %w", s.sql.dialect.Name, call, err)
}
