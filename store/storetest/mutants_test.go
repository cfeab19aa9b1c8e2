package storetest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crumb-go/crumb/session"
)

// A model is a store as plain as can be: one lock, one map. Where a hook is set
// it stands in for the method, and breaks one promise.
type model struct {
	mu   sync.Mutex // guards recs; held while a hook runs
	recs map[session.ID]*session.Record

	create func(m *model, rec *session.Record) error
	load   func(m *model, id session.ID) (*session.Record, error)
	update func(m *model, base *session.Record, c *session.Change) (*session.Record, error)
	delete func(m *model, id session.ID) error
	list   func(m *model, q session.Query) ([]session.Info, error)
	touch  func(m *model, t session.Touch)
	sweep  func(m *model, then time.Time, limit int) int
	check  func(m *model, now time.Time, ids []session.ID) map[session.ID]int64
	done   func(ctx context.Context) error
}

func (m *model) begin(ctx context.Context) (func(), error) {
	err := ctx.Err()
	if m.done != nil {
		err = m.done(ctx)
	}
	runtime.Gosched() // so that callers alternate
	m.mu.Lock()
	return m.mu.Unlock, err
}

func (m *model) Create(ctx context.Context, rec *session.Record) error {
	end, err := m.begin(ctx)
	defer end()
	switch {
	case err != nil:
		return err
	case m.create != nil:
		return m.create(m, rec)
	case m.recs[rec.ID] != nil:
		return session.ErrExists
	}
	m.recs[rec.ID] = rec
	return nil
}

func (m *model) Load(ctx context.Context, id session.ID) (*session.Record, error) {
	end, err := m.begin(ctx)
	defer end()
	switch {
	case err != nil:
		return nil, err
	case m.load != nil:
		return m.load(m, id)
	case m.recs[id] == nil:
		return nil, session.ErrNotFound
	}
	return m.recs[id], nil
}

func (m *model) Update(ctx context.Context, base *session.Record, c *session.Change) (*session.Record, error) {
	end, err := m.begin(ctx)
	defer end()
	switch {
	case err != nil:
		return nil, err
	case m.update != nil:
		return m.update(m, base, c)
	}
	return m.apply(base.ID, c)
}

func (m *model) apply(id session.ID, c *session.Change) (*session.Record, error) {
	rec := m.recs[id]
	if rec == nil {
		return nil, session.ErrNotFound
	}
	out, err := c.Apply(rec)
	if err == nil {
		m.recs[id] = out
	}
	return out, err
}

func (m *model) Delete(ctx context.Context, id session.ID) error {
	end, err := m.begin(ctx)
	defer end()
	if err == nil && m.delete != nil {
		return m.delete(m, id)
	}
	if err == nil {
		delete(m.recs, id)
	}
	return err
}

func (m *model) List(ctx context.Context, q session.Query) ([]session.Info, error) {
	end, err := m.begin(ctx)
	defer end()
	if err != nil {
		return nil, err
	}
	if m.list != nil {
		return m.list(m, q)
	}
	if err := q.Check(); err != nil {
		return nil, err
	}
	return m.find(q, func(rec *session.Record) bool {
		return (q.All || rec.User == q.User) && rec.Live(q.Now) && q.IsAfter(&rec.Info)
	})
}

func (m *model) find(q session.Query, match func(*session.Record) bool) ([]session.Info, error) {
	var infos []session.Info
	for _, rec := range m.recs {
		if match(rec) {
			infos = append(infos, rec.Info)
		}
	}
	slices.SortFunc(infos, func(a, b session.Info) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
	})
	return infos[:min(len(infos), q.Limit)], nil
}

func (m *model) Touch(ctx context.Context, touches []session.Touch) error {
	end, err := m.begin(ctx)
	defer end()
	if err != nil {
		return err
	}
	for _, t := range touches {
		if m.touch != nil {
			m.touch(m, t)
		} else if rec := m.recs[t.ID]; rec != nil {
			m.recs[t.ID], _ = t.Apply(rec)
		}
	}
	return nil
}

func (m *model) Sweep(ctx context.Context, then time.Time, limit int) (int, error) {
	end, err := m.begin(ctx)
	defer end()
	if err != nil {
		return 0, err
	}
	if m.sweep != nil {
		return m.sweep(m, then, limit), nil
	}
	return m.drop(limit, func(rec *session.Record) bool { return !rec.Expires.After(then) }), nil
}

func (m *model) drop(limit int, match func(*session.Record) bool) (n int) {
	for id, rec := range m.recs {
		if n < limit && match(rec) {
			delete(m.recs, id)
			n++
		}
	}
	return n
}

func (m *model) Check(ctx context.Context, now time.Time, ids []session.ID) (map[session.ID]int64, error) {
	end, err := m.begin(ctx)
	defer end()
	if err != nil {
		return nil, err
	}
	if m.check != nil {
		return m.check(m, now, ids), nil
	}
	live := map[session.ID]int64{}
	for _, id := range ids {
		if rec := m.recs[id]; rec != nil && rec.Live(now) {
			live[id] = rec.Auth
		}
	}
	return live, nil
}

// pause lets others in while a hook runs, as a store does that reads and writes
// in two steps. It waits until somebody changed something, or nobody seems to.
func (m *model) pause() {
	before := maps.Clone(m.recs)
	for range 300 {
		m.mu.Unlock()
		runtime.Gosched()
		m.mu.Lock()
		if !maps.Equal(before, m.recs) {
			return
		}
	}
}

// updating returns what makes a model whose updates are those of fn.
func updating(fn func(m *model, base *session.Record, c *session.Change) (*session.Record, error)) func(*model) {
	return func(m *model) { m.update = fn }
}

// changing returns what makes a model that applies another change than it is
// given, to the record as it stands.
func changing(fn func(rec *session.Record, c *session.Change)) func(*model) {
	return updating(func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
		rec, other := m.recs[base.ID], *c
		if rec == nil {
			return nil, session.ErrNotFound
		}
		other.Ops = slices.Clone(c.Ops)
		fn(rec, &other)
		return m.apply(base.ID, &other)
	})
}

// seeing returns what makes a model that applies changes to another record than
// it has.
func seeing(fn func(rec *session.Record, c *session.Change)) func(*model) {
	return updating(func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
		if m.recs[base.ID] == nil {
			return nil, session.ErrNotFound
		}
		rec := clone(m.recs[base.ID])
		fn(rec, c)
		out, err := c.Apply(rec)
		if err == nil {
			m.recs[base.ID] = out
		}
		return out, err
	})
}

// keeping returns what makes a model that keeps another record than it is given.
func keeping(fn func(rec *session.Record)) func(*model) {
	return func(m *model) {
		m.create = func(m *model, rec *session.Record) error {
			if m.recs[rec.ID] != nil {
				return session.ErrExists
			}
			rec = clone(rec)
			fn(rec)
			m.recs[rec.ID] = rec
			return nil
		}
		m.update = func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
			out, err := m.apply(base.ID, c)
			if err == nil {
				out = clone(out)
				fn(out)
				m.recs[base.ID] = out
			}
			return out, err
		}
	}
}

// listing returns what makes a model that lists the records that match, in the
// right order.
func listing(match func(rec *session.Record, q session.Query) bool) func(*model) {
	return func(m *model) {
		m.list = func(m *model, q session.Query) ([]session.Info, error) {
			if err := q.Check(); err != nil {
				return nil, err
			}
			return m.find(q, func(rec *session.Record) bool { return match(rec, q) })
		}
	}
}

// touching returns what makes a model whose touches are those of fn; rec is nil
// if there is none, and a nil result changes nothing.
func touching(fn func(m *model, rec *session.Record, t session.Touch) *session.Record) func(*model) {
	return func(m *model) {
		m.touch = func(m *model, t session.Touch) {
			if out := fn(m, m.recs[t.ID], t); out != nil {
				m.recs[t.ID] = out
			}
		}
	}
}

// seenAt returns rec seen at t, whatever its state.
func seenAt(rec *session.Record, t time.Time) *session.Record {
	out := *rec
	out.Version++
	out.Seen = t
	if out.Expires = t.Add(rec.Idle); rec.Absolute.Before(out.Expires) {
		out.Expires = rec.Absolute
	}
	return &out
}

// racing is an update in two steps, without a lock between them, if only tells.
func racing(only func(c *session.Change) bool) func(*model) {
	return updating(func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
		rec := m.recs[base.ID]
		if rec == nil {
			return nil, session.ErrNotFound
		}
		out, err := c.Apply(rec)
		if only(c) {
			m.pause()
		}
		if err == nil {
			m.recs[base.ID] = out
		}
		return out, err
	})
}

func reencode(rec *session.Record) {
	for i, v := range rec.Values {
		var x any
		if json.Unmarshal(v.JSON, &x) == nil {
			rec.Values[i].JSON, _ = json.Marshal(x)
		}
	}
}

// mutants are the ways to get it wrong. caught names the check whose promise
// each breaks.
var mutants = []struct {
	name, caught string
	mutate       func(*model)
}{
	// Records.
	{"loses OldUntil", "a record comes back as it was given", keeping(func(rec *session.Record) { rec.OldUntil = time.Time{} })},
	{"keeps addresses as four or sixteen bytes", "a record comes back as it was given", keeping(func(rec *session.Record) { rec.Addr = rec.Addr.Unmap().WithZone("") })},
	{"loses the remember flag", "a record comes back as it was given", keeping(func(rec *session.Record) { rec.Remember = false })},
	{"keeps Auth as a float", "a record comes back as it was given", keeping(func(rec *session.Record) { rec.Auth = int64(float64(rec.Auth)) })},
	{"cuts the agent", "a record comes back as it was given", keeping(func(rec *session.Record) { rec.Agent = rec.Agent[:min(len(rec.Agent), 255)] })},
	{"re-encodes values", "values come back byte for byte", keeping(reencode)},
	{"cuts the space around values", "values come back byte for byte", keeping(func(rec *session.Record) {
		for i, v := range rec.Values {
			rec.Values[i].JSON = bytes.TrimSpace(v.JSON)
		}
	})},
	{"cuts values at 32 KB", "values come back byte for byte", keeping(func(rec *session.Record) {
		for i, v := range rec.Values {
			rec.Values[i].JSON = v.JSON[:min(len(v.JSON), 32<<10)]
		}
	})},
	{"sorts keys by a collation", "values come back in the byte order of their keys", keeping(func(rec *session.Record) {
		slices.SortStableFunc(rec.Values, func(a, b session.Value) int {
			return strings.Compare(strings.ToLower(a.Key), strings.ToLower(b.Key))
		})
	})},
	{"cuts times to milliseconds", "times come back to the microsecond and in UTC", keeping(func(rec *session.Record) {
		rec.Created, rec.Seen, rec.Expires = rec.Created.Truncate(time.Millisecond), rec.Seen.Truncate(time.Millisecond), rec.Expires.Truncate(time.Millisecond)
	})},
	{"returns local times", "times come back to the microsecond and in UTC", keeping(func(rec *session.Record) { rec.Seen = rec.Seen.In(time.FixedZone("CET", 3600)) })},
	{"keeps times as Unix nanoseconds", "times come back to the microsecond and in UTC", keeping(func(rec *session.Record) {
		rec.SignedIn, rec.OldUntil = time.Unix(0, rec.SignedIn.UnixNano()).UTC(), time.Unix(0, rec.OldUntil.UnixNano()).UTC()
	})},
	{"ignores ErrExists", "an ID is taken once", func(m *model) {
		m.create = func(m *model, rec *session.Record) error {
			m.recs[rec.ID] = rec
			return nil
		}
	}},
	{"takes the IDs of dead sessions", "the ID of an ended or expired session stays taken", func(m *model) {
		m.create = func(m *model, rec *session.Record) error {
			if old := m.recs[rec.ID]; old != nil && old.Live(rec.Created) {
				return session.ErrExists
			}
			m.recs[rec.ID] = rec
			return nil
		}
	}},
	{"hides expired sessions", "an expired session still loads", func(m *model) {
		m.load = func(m *model, id session.ID) (*session.Record, error) {
			if rec := m.recs[id]; rec != nil && time.Now().Before(rec.Expires) {
				return rec, nil
			}
			return nil, session.ErrNotFound
		}
	}},
	{"makes a record for an unknown ID", "an unknown ID is not found", func(m *model) {
		m.load = func(m *model, id session.ID) (*session.Record, error) {
			if rec := m.recs[id]; rec != nil {
				return rec, nil
			}
			return &session.Record{Info: session.Info{ID: id}}, nil
		}
	}},
	{"folds the case of IDs", "IDs are compared byte for byte", func(m *model) {
		m.load = func(m *model, id session.ID) (*session.Record, error) {
			for _, rec := range m.recs {
				if strings.EqualFold(string(rec.ID), string(id)) {
					return rec, nil
				}
			}
			return nil, session.ErrNotFound
		}
	}},
	{"says that what is deleted was absent", "deleting twice is fine and frees the ID", func(m *model) {
		m.delete = func(m *model, id session.ID) error {
			if m.recs[id] == nil {
				return session.ErrNotFound
			}
			delete(m.recs, id)
			return nil
		}
	}},
	{"deletes by ending", "deleting twice is fine and frees the ID", func(m *model) {
		m.delete = func(m *model, id session.ID) error {
			if rec := m.recs[id]; rec != nil {
				_, _ = m.apply(id, &session.Change{Now: rec.Seen, End: true})
			}
			return nil
		}
	}},
	{"changes values in place", "a record does not change once it is handed out", updating(func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
		old := m.recs[base.ID]
		out, err := m.apply(base.ID, c)
		if err == nil && len(old.Values) > 0 && len(out.Values) > 0 {
			out.Values = old.Values[:copy(old.Values, out.Values)]
		}
		return out, err
	})},
	{"changes records in place", "a record does not change once it is handed out", updating(func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
		old := m.recs[base.ID]
		out, err := m.apply(base.ID, c)
		if err == nil {
			*old = *out
			m.recs[base.ID] = old
			return old, nil
		}
		return out, err
	})},
	{"touches in place", "a record does not change once it is handed out", touching(func(_ *model, rec *session.Record, t session.Touch) *session.Record {
		if rec != nil {
			out, _ := t.Apply(rec)
			*rec = *out
		}
		return rec
	})},
	{"says that a canceled call found nothing", "a canceled call is an error that has changed nothing", func(m *model) {
		m.done = func(ctx context.Context) error {
			if ctx.Err() != nil {
				return session.ErrNotFound
			}
			return nil
		}
	}},
	{"leaves open what a canceled call did", "a canceled call is an error that has changed nothing", func(m *model) {
		m.done = func(ctx context.Context) error {
			if ctx.Err() != nil {
				return fmt.Errorf("%w: %w", session.ErrUnknown, ctx.Err())
			}
			return nil
		}
	}},
	{"goes on although canceled", "a canceled call is an error that has changed nothing", func(m *model) {
		m.done = func(context.Context) error { return nil }
	}},

	// Updates.
	{"creates by an update", "an update never creates", updating(func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
		if m.recs[base.ID] == nil {
			m.recs[base.ID] = base
		}
		return m.apply(base.ID, c)
	})},
	{"ends what is not there", "an update never creates", updating(func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
		if m.recs[base.ID] == nil && c.End {
			m.recs[base.ID] = &session.Record{Info: session.Info{ID: base.ID, Expires: c.Now}}
			return m.recs[base.ID], nil
		}
		return m.apply(base.ID, c)
	})},
	{"changes expired sessions", "an expired session takes no change", seeing(func(rec *session.Record, c *session.Change) {
		if !rec.Ended() {
			rec.Expires = c.Now.Add(time.Hour)
		}
	})},
	{"counts the moment of expiry as alive", "an expired session takes no change", seeing(func(rec *session.Record, c *session.Change) {
		if !rec.Ended() {
			rec.Expires = rec.Expires.Add(time.Microsecond)
		}
	})},
	{"revives an ended session by a clock that is behind", "an ended session stays ended whatever the clock says", seeing(func(rec *session.Record, c *session.Change) {
		if rec.Ended() && c.Now.Before(rec.Expires) {
			rec.Idle = time.Hour
		}
	})},
	{"deletes instead of ending", "an end empties the record and leaves it", updating(func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
		out, err := m.apply(base.ID, c)
		if err == nil && c.End {
			delete(m.recs, base.ID)
		}
		return out, err
	})},
	{"leaves the values of an ended session", "an end empties the record and leaves it", updating(func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
		old := m.recs[base.ID]
		out, err := m.apply(base.ID, c)
		if err == nil && c.End {
			out.Values = old.Values
		}
		return out, err
	})},
	{"lets an end ask for Auth", "an end asks for no Auth", updating(func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
		if rec := m.recs[base.ID]; rec != nil && c.End && c.Auth != rec.Auth && rec.Live(c.Now) {
			return rec, session.ErrStale
		}
		return m.apply(base.ID, c)
	})},
	{"adds to base", "an addition counts from what is stored", updating(func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
		sums, err := (&session.Change{Now: base.Seen, Auth: base.Auth, Ops: c.Ops}).Apply(base)
		if err != nil {
			return m.apply(base.ID, c)
		}
		other := *c
		other.Ops = slices.Clone(c.Ops)
		for i, op := range c.Ops {
			if op.Kind == session.OpAdd {
				other.Ops[i] = session.Op{Kind: session.OpSet, Key: op.Key, Value: sums.Values.Get(op.Key), If: op.If, Old: op.Old}
			}
		}
		return m.apply(base.ID, &other)
	})},
	{"writes base back whole", "different keys from one stale base are all kept", updating(func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
		rec := m.recs[base.ID]
		if rec == nil || base.Secret == (session.Hash{}) {
			return m.apply(base.ID, c)
		}
		out, err := c.Apply(base)
		if err == nil {
			m.recs[base.ID] = out
		}
		return out, err
	})},
	{"believes an error of a stale base", "a base proves nothing", updating(func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
		if m.recs[base.ID] != nil && base.Secret != (session.Hash{}) {
			if _, err := c.Apply(base); errors.Is(err, session.ErrNotFound) || errors.Is(err, session.ErrStale) {
				return m.recs[base.ID], err
			}
		}
		return m.apply(base.ID, c)
	})},
	{"believes the conditions of a stale base", "a base proves nothing", updating(func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
		if _, err := c.Apply(base); err == nil {
			free := *c
			free.Ops = slices.Clone(c.Ops)
			for i := range free.Ops {
				free.Ops[i].If = session.Always
			}
			return m.apply(base.ID, &free)
		}
		return m.apply(base.ID, c)
	})},
	{"ignores conditions", "a change whose condition fails does nothing at all", changing(func(_ *session.Record, c *session.Change) {
		for i := range c.Ops {
			c.Ops[i].If = session.Always
		}
	})},
	{"skips instead of failing", "a change whose condition fails does nothing at all", changing(func(_ *session.Record, c *session.Change) {
		for i := range c.Ops {
			if c.Ops[i].If == session.OrFail {
				c.Ops[i].If = session.OrSkip
			}
		}
	})},
	{"writes what comes before a failed condition", "a change whose condition fails does nothing at all", updating(func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
		out, err := m.apply(base.ID, c)
		if errors.Is(err, session.ErrConflict) {
			part := *c
			part.Ops = c.Ops[:1]
			if _, err := m.apply(base.ID, &part); err == nil {
				return m.recs[base.ID], session.ErrConflict
			}
		}
		return out, err
	})},
	{"returns no record beside ErrConflict", "a change whose condition fails does nothing at all", updating(func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
		out, err := m.apply(base.ID, c)
		if errors.Is(err, session.ErrConflict) {
			return nil, err
		}
		return out, err
	})},
	{"compares conditions as JSON", "a condition compares bytes", changing(func(rec *session.Record, c *session.Change) {
		for i, op := range c.Ops {
			var a, b any
			if json.Unmarshal(op.Old, &a) == nil && json.Unmarshal(rec.Values.Get(op.Key), &b) == nil && fmt.Sprint(a) == fmt.Sprint(b) {
				c.Ops[i].Old = rec.Values.Get(op.Key)
			}
		}
	})},
	{"takes null for no value", "a condition compares bytes", changing(func(rec *session.Record, c *session.Change) {
		for i, op := range c.Ops {
			if old := rec.Values.Get(op.Key); op.Old == nil && string(old) == "null" {
				c.Ops[i].Old = old
			}
		}
	})},
	{"fails instead of skipping", "popping a message leaves a newer one alone", changing(func(_ *session.Record, c *session.Change) {
		for i := range c.Ops {
			c.Ops[i].If = min(c.Ops[i].If, session.OrFail)
		}
	})},
	{"pops what is there", "popping a message leaves a newer one alone", changing(func(_ *session.Record, c *session.Change) {
		for i := range c.Ops {
			if c.Ops[i].If == session.OrSkip {
				c.Ops[i].If = session.Always
			}
		}
	})},
	{"ignores Auth", "a change made under another Auth is refused", changing(func(rec *session.Record, c *session.Change) { c.Auth = rec.Auth })},
	{"returns no record beside ErrStale", "a change made under another Auth is refused", updating(func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
		out, err := m.apply(base.ID, c)
		if errors.Is(err, session.ErrStale) {
			return nil, err
		}
		return out, err
	})},
	{"says ErrConflict for ErrStale", "a change made under another Auth is refused", updating(func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
		out, err := m.apply(base.ID, c)
		if errors.Is(err, session.ErrStale) {
			err = session.ErrConflict
		}
		return out, err
	})},
	{"keeps all values at a sign-in", "a sign-in keeps no value but those in Keep or under it", changing(func(rec *session.Record, c *session.Change) {
		if c.SignIn != nil {
			in := *c.SignIn
			for _, v := range rec.Values {
				in.Keep = append(in.Keep, strings.SplitN(v.Key, ".", 2)[0])
			}
			c.SignIn = &in
		}
	})},
	{"ends only what lives by the clock of who asks", "an end ends a session that has expired too", updating(func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
		if rec := m.recs[base.ID]; rec != nil && c.End && !rec.Live(c.Now) {
			return nil, session.ErrNotFound
		}
		return m.apply(base.ID, c)
	})},
	{"leaves the secret at a sign-in", "a sign-in keeps no value but those in Keep or under it", updating(func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
		old := m.recs[base.ID]
		out, err := m.apply(base.ID, c)
		if err == nil && c.SignIn != nil {
			out.Secret = old.Secret
		}
		return out, err
	})},
	{"lets users take over sessions", "nobody takes over another's session", seeing(func(rec *session.Record, c *session.Change) {
		if c.SignIn != nil && c.Renew != nil && c.Auth == rec.Auth {
			rec.User = ""
		}
	})},
	{"folds the case of users at a step-up", "nobody takes over another's session", seeing(func(rec *session.Record, c *session.Change) {
		if c.SignIn != nil && strings.EqualFold(c.SignIn.User, rec.User) {
			rec.User = c.SignIn.User
		}
	})},
	{"moves Auth at a renewal", "a change from before a plain renewal lands however late", seeing(func(rec *session.Record, c *session.Change) {
		if rec.OldSecret != (session.Hash{}) && c.Renew == nil && rec.User == "" {
			rec.Auth++
		}
	})},
	{"always renews", "a renewal waits until the one before has come back", seeing(func(rec *session.Record, c *session.Change) {
		if c.Renew != nil {
			rec.OldUntil = time.Time{}
		}
	})},
	{"renews from any secret", "a renewal waits until the one before has come back", changing(func(rec *session.Record, c *session.Change) {
		if c.Renew != nil && c.SignIn == nil {
			re := *c.Renew
			re.From, c.Renew = rec.Secret, &re
		}
	})},
	{"lets any secret come back", "only the return of the current secret shortens the life of the one before", changing(func(rec *session.Record, c *session.Change) {
		if c.Came != nil {
			c.Came = &session.Came{Secret: rec.Secret, Until: c.Came.Until}
		}
	})},
	{"adds as floats", "a sum out of range is an error", updating(func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
		out, err := m.apply(base.ID, c)
		if err == nil && len(c.Ops) > 0 {
			out = clone(out)
			for i, v := range out.Values {
				var f float64
				if json.Unmarshal(v.JSON, &f) == nil {
					out.Values[i].JSON = fmt.Appendf(nil, "%.0f", f)
				}
			}
			m.recs[base.ID] = out
		}
		return out, err
	})},
	{"reports an overflow as a conflict", "a sum out of range is an error", updating(func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
		out, err := m.apply(base.ID, c)
		if _, ok := errors.AsType[*session.ValueError](err); ok {
			err = session.ErrConflict
		}
		return out, err
	})},
	{"adds to what looks like a number", "a value that is no integer counts as nothing", seeing(func(rec *session.Record, c *session.Change) {
		for i, v := range rec.Values {
			var f float64
			if json.Unmarshal(v.JSON, &f) == nil {
				rec.Values[i].JSON = fmt.Appendf(nil, "%.0f", f)
			}
		}
	})},
	{"ignores MaxBytes", "a change that grows past MaxBytes fails", changing(func(_ *session.Record, c *session.Change) { c.MaxBytes = 0 })},
	{"lets nobody shrink below MaxBytes", "a change that grows past MaxBytes fails", updating(func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
		old := m.recs[base.ID]
		out, err := m.apply(base.ID, c)
		if err == nil && c.MaxBytes > 0 && len(values(out)) > c.MaxBytes+20 {
			m.recs[base.ID] = old
			return old, &session.ValueError{Key: c.Ops[0].Key, Err: errors.New("too big")}
		}
		return out, err
	})},
	{"clears by a pattern", "clearing a group spares its neighbours", changing(func(rec *session.Record, c *session.Change) {
		for _, op := range c.Ops {
			for _, v := range rec.Values {
				if i := strings.Index(v.Key, "."); op.Kind == session.OpClear && strings.Contains(op.Key, "_") && i == len(op.Key) && v.Key[0] == op.Key[0] {
					c.Ops = append(c.Ops, remove(v.Key))
				}
			}
		}
	})},
	{"clears without the dot", "clearing a group spares its neighbours", changing(func(rec *session.Record, c *session.Change) {
		for _, op := range c.Ops {
			for _, v := range rec.Values {
				if op.Kind == session.OpClear && strings.HasPrefix(v.Key, op.Key) {
					c.Ops = append(c.Ops, remove(v.Key))
				}
			}
		}
	})},
	{"does deletes first", "operations are applied in their order", changing(func(_ *session.Record, c *session.Change) {
		slices.SortStableFunc(c.Ops, func(a, b session.Op) int {
			return cmp.Compare(b.Kind&session.OpDelete, a.Kind&session.OpDelete)
		})
	})},
	{"moves seen back", "an update never moves seen back and never lowers idle", seeing(func(rec *session.Record, c *session.Change) {
		if !c.Seen.IsZero() && rec.Live(c.Now) {
			rec.Seen = c.Seen
		}
	})},
	{"lowers idle", "an update never moves seen back and never lowers idle", seeing(func(rec *session.Record, c *session.Change) {
		if c.Idle > 0 && !rec.Ended() {
			rec.Idle = c.Idle
		}
	})},
	{"moves no version", "every update moves the version", seeing(func(rec *session.Record, c *session.Change) { rec.Version-- })},
	{"loses the address now and then", "a long random life is what Apply says", changing(func(rec *session.Record, c *session.Change) {
		if c.Agent != "" && c.Addr.IsValid() {
			c.Addr = rec.Addr
		}
	})},
	{"forgets that a step-up keeps remember", "a long random life is what Apply says", seeing(func(rec *session.Record, c *session.Change) {
		if c.SignIn != nil && c.SignIn.User == rec.User {
			rec.Remember = false
		}
	})},

	// Races.
	{"adds in two steps", "no addition of two hundred clients is lost", racing(func(c *session.Change) bool { return c.Ops != nil })},
	{"returns the record as it stands later", "no addition of two hundred clients is lost", updating(func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
		if _, err := m.apply(base.ID, c); err != nil {
			return nil, err
		}
		m.pause()
		return m.recs[base.ID], nil
	})},
	{"lets the last writer win", "ten keys written at once are all kept", racing(func(c *session.Change) bool { return c.Ops != nil })},
	{"takes in two steps", "of fifty takers one gets the value", racing(func(c *session.Change) bool { return c.Ops != nil })},
	{"compares and sets in two steps", "fifty updates at once all count", racing(func(c *session.Change) bool { return c.Ops != nil })},
	{"creates in two steps", "of many who create one session one does", func(m *model) {
		m.create = func(m *model, rec *session.Record) error {
			taken := m.recs[rec.ID] != nil
			m.pause()
			if taken {
				return session.ErrExists
			}
			m.recs[rec.ID] = rec
			return nil
		}
	}},
	{"ends in two steps", "of many ends one succeeds", racing(func(c *session.Change) bool { return c.End })},
	{"signs in in two steps beside an end", "of an end beside sign-ins and renewals the end remains", racing(func(c *session.Change) bool { return c.SignIn != nil })},
	{"asks an end for its Auth", "of an end beside sign-ins and renewals the end remains", updating(func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
		if rec := m.recs[base.ID]; rec != nil && c.End && !rec.Ended() && c.Auth != rec.Auth {
			return rec, session.ErrStale
		}
		return m.apply(base.ID, c)
	})},
	{"drops from the index of a user what has not signed in yet", "a sign-in beside lists is in the next list", pruning},
	{"writes in two steps beside an end", "nothing lands after an end", racing(func(c *session.Change) bool { return c.Ops != nil })},
	{"writes in two steps beside a sign-in", "nothing from before a sign-in lands after it", racing(func(c *session.Change) bool { return c.Ops != nil })},
	{"signs in in two steps", "of many sign-ins to one session one succeeds", racing(func(c *session.Change) bool { return c.SignIn != nil })},
	{"renews in two steps", "of fifty renewals there is one successor", racing(func(c *session.Change) bool { return c.Renew != nil })},
	{"touches in two steps", "touches and updates at once lose nothing of each other", touching(func(m *model, rec *session.Record, t session.Touch) *session.Record {
		if rec == nil {
			return nil
		}
		m.pause()
		out, _ := t.Apply(rec)
		return out
	})},

	// Lists.
	{"folds the case of users", "users are compared byte for byte", listing(func(rec *session.Record, q session.Query) bool {
		return (q.All || strings.EqualFold(rec.User, q.User)) && rec.Live(q.Now) && q.IsAfter(&rec.Info)
	})},
	{"trims users", "users are compared byte for byte", listing(func(rec *session.Record, q session.Query) bool {
		return (q.All || strings.TrimSpace(rec.User) == strings.TrimSpace(q.User)) && rec.Live(q.Now) && q.IsAfter(&rec.Info)
	})},
	{"lists everybody for nobody", "a query for neither a user nor all is an error", func(m *model) {
		m.list = func(m *model, q session.Query) ([]session.Info, error) {
			return m.find(q, func(rec *session.Record) bool { return q.User == "" || rec.User == q.User })
		}
	}},
	{"lists less than it knows", "a list says all that is known but values", func(m *model) {
		m.list = func(m *model, q session.Query) ([]session.Info, error) {
			infos, err := m.find(q, func(rec *session.Record) bool { return q.All || rec.User == q.User })
			for i := range infos {
				infos[i].Agent = ""
			}
			return infos, err
		}
	}},
	{"lists expired sessions", "a list leaves out what has ended or expired", listing(func(rec *session.Record, q session.Query) bool {
		return (q.All || rec.User == q.User) && !rec.Ended() && q.IsAfter(&rec.Info)
	})},
	{"lists sessions that ended by a clock that is ahead", "a list leaves out what has ended or expired", listing(func(rec *session.Record, q session.Query) bool {
		return (q.All || rec.User == q.User) && q.Now.Before(rec.Expires) && q.IsAfter(&rec.Info)
	})},
	{"indexes users at Create only", "a session is under its user from sign-in to end", listing(func(rec *session.Record, q session.Query) bool {
		return (q.All || rec.User == q.User && rec.Auth == 1 && rec.Version == 0) && rec.Live(q.Now) && q.IsAfter(&rec.Info)
	})},
	{"lists pages that overlap", "pages come newest first and do not overlap", listing(func(rec *session.Record, q session.Query) bool {
		return (q.All || rec.User == q.User) && rec.Live(q.Now) && (q.After == nil || !rec.Created.After(q.After.Created))
	})},
	{"lists pages with gaps", "pages come newest first and do not overlap", listing(func(rec *session.Record, q session.Query) bool {
		return (q.All || rec.User == q.User) && rec.Live(q.Now) && (q.After == nil || rec.Created.Before(q.After.Created))
	})},
	{"lists oldest first", "pages come newest first and do not overlap", func(m *model) {
		m.list = func(m *model, q session.Query) ([]session.Info, error) {
			limit := q.Limit
			q.Limit = len(m.recs)
			infos, err := m.find(q, func(rec *session.Record) bool { return q.All || rec.User == q.User })
			slices.Reverse(infos)
			return infos[:min(limit, len(infos))], err
		}
	}},
	{"ignores the limit of a list", "pages come newest first and do not overlap", func(m *model) {
		m.list = func(m *model, q session.Query) ([]session.Info, error) {
			q.Limit = len(m.recs)
			return m.find(q, func(rec *session.Record) bool { return q.IsAfter(&rec.Info) })
		}
	}},
	{"pages by counting", "a list goes on while its sessions are deleted", func(m *model) {
		pages := 0
		m.list = func(m *model, q session.Query) ([]session.Info, error) {
			if q.After == nil {
				pages = 0
			}
			limit := q.Limit
			q.Limit = len(m.recs)
			infos, err := m.find(q, func(rec *session.Record) bool { return rec.Live(q.Now) && (q.All || rec.User == q.User) })
			infos = infos[min(pages*limit, len(infos)):]
			pages++
			return infos[:min(limit, len(infos))], err
		}
	}},
	{"fails a list under which something changes", "a list holds up no one who deletes or writes", func(m *model) {
		m.list = func(m *model, q session.Query) ([]session.Info, error) {
			before := maps.Clone(m.recs)
			m.pause()
			if !maps.Equal(before, m.recs) {
				return nil, errors.New("database is locked")
			}
			return m.find(q, func(rec *session.Record) bool { return q.All || rec.User == q.User })
		}
	}},

	// Touches.
	{"touches back", "a touch moves the seen-time forward only", touching(func(_ *model, rec *session.Record, t session.Touch) *session.Record {
		if rec == nil || !rec.Live(t.Seen) {
			return nil
		}
		return seenAt(rec, t.Seen)
	})},
	{"inserts by a touch", "a touch creates nothing", touching(func(_ *model, rec *session.Record, t session.Touch) *session.Record {
		if rec == nil {
			return &session.Record{Info: session.Info{ID: t.ID, Seen: t.Seen}}
		}
		out, _ := t.Apply(rec)
		return out
	})},
	{"revives expired sessions by a touch", "a touch revives nothing", touching(func(_ *model, rec *session.Record, t session.Touch) *session.Record {
		if rec == nil || rec.Ended() || !t.Seen.After(rec.Seen) {
			return nil
		}
		return seenAt(rec, t.Seen)
	})},
	{"revives ended sessions by a touch", "a touch revives nothing", touching(func(_ *model, rec *session.Record, t session.Touch) *session.Record {
		if rec == nil || !t.Seen.Before(rec.Expires) || !t.Seen.After(rec.Seen) {
			return nil
		}
		return seenAt(rec, t.Seen)
	})},
	{"touches all with one idle time", "a touch derives the expiry from the record's own limits", touching(func(_ *model, rec *session.Record, t session.Touch) *session.Record {
		if rec == nil {
			return nil
		}
		out, changed := t.Apply(rec)
		if changed {
			out.Expires = t.Seen.Add(time.Hour)
		}
		return out
	})},
	{"touches past the absolute limit", "a touch derives the expiry from the record's own limits", touching(func(_ *model, rec *session.Record, t session.Touch) *session.Record {
		if rec == nil {
			return nil
		}
		out, changed := t.Apply(rec)
		if changed {
			out.Expires = t.Seen.Add(rec.Idle)
		}
		return out
	})},
	{"moves no version by a touch", "a touch moves the version", touching(func(_ *model, rec *session.Record, t session.Touch) *session.Record {
		if rec == nil {
			return nil
		}
		out, changed := t.Apply(rec)
		if changed {
			out.Version--
		}
		return out
	})},
	{"touches every record with one time", "a thousand touches are one call", func(m *model) {
		var first session.Touch
		m.touch = func(m *model, t session.Touch) {
			if first.ID == "" {
				first = t
			}
			if rec := m.recs[t.ID]; rec != nil {
				m.recs[t.ID], _ = session.Touch{ID: t.ID, Seen: first.Seen}.Apply(rec)
			}
		}
	}},
	{"compares seen-times and writes them in two steps", "touches of the same sessions at once leave the latest", touching(func(m *model, rec *session.Record, t session.Touch) *session.Record {
		if rec == nil || !rec.Live(t.Seen) || !t.Seen.After(rec.Seen) {
			return nil
		}
		m.pause()
		return seenAt(m.recs[t.ID], t.Seen)
	})},

	// Sweeps.
	{"sweeps live sessions", "a sweep deletes what expired and nothing else", func(m *model) {
		m.sweep = func(m *model, then time.Time, limit int) int {
			return m.drop(limit, func(*session.Record) bool { return true })
		}
	}},
	{"leaves what expired at the moment", "a sweep deletes what expired and nothing else", func(m *model) {
		m.sweep = func(m *model, then time.Time, limit int) int {
			return m.drop(limit, func(rec *session.Record) bool { return rec.Expires.Before(then) })
		}
	}},
	{"sweeps all that has ended", "a sweep deletes what expired and nothing else", func(m *model) {
		m.sweep = func(m *model, then time.Time, limit int) int {
			return m.drop(limit, func(rec *session.Record) bool { return rec.Ended() || !rec.Expires.After(then) })
		}
	}},
	{"ignores the limit of a sweep", "a sweep stops at its limit", func(m *model) {
		m.sweep = func(m *model, then time.Time, limit int) int {
			return m.drop(len(m.recs), func(rec *session.Record) bool { return !rec.Expires.After(then) })
		}
	}},
	{"counts what another sweeper deleted", "two sweepers delete each record once", func(m *model) {
		m.sweep = func(m *model, then time.Time, limit int) int { return m.sweepInTwoSteps(then, limit, true) }
	}},
	{"sweeps what was seen meanwhile", "a sweep loses nobody who was seen meanwhile", func(m *model) {
		m.sweep = func(m *model, then time.Time, limit int) int { return m.sweepInTwoSteps(then, limit, false) }
	}},

	// Checks.
	{"says that the dead live", "a check tells which sessions live", func(m *model) {
		m.check = func(m *model, now time.Time, ids []session.ID) map[session.ID]int64 {
			live := map[session.ID]int64{}
			for _, id := range ids {
				if rec := m.recs[id]; rec != nil {
					live[id] = rec.Auth
				}
			}
			return live
		}
	}},
	{"asks the clock alone who lives", "a check tells which sessions live", func(m *model) {
		m.check = func(m *model, now time.Time, ids []session.ID) map[session.ID]int64 {
			live := map[session.ID]int64{}
			for _, id := range ids {
				if rec := m.recs[id]; rec != nil && now.Before(rec.Expires) {
					live[id] = rec.Auth
				}
			}
			return live
		}
	}},
	{"asks after a hundred", "a check asks after a thousand sessions at once", func(m *model) {
		m.check = func(m *model, now time.Time, ids []session.ID) map[session.ID]int64 {
			live := map[session.ID]int64{}
			for _, id := range ids[:min(len(ids), 100)] {
				if rec := m.recs[id]; rec != nil && rec.Live(now) {
					live[id] = rec.Auth
				}
			}
			return live
		}
	}},
}

// pruning makes a model with an index of users beside its records, which lists
// clean, and which a sign-in writes first, the record after a moment.
func pruning(m *model) {
	index := map[session.ID]bool{}
	m.update = func(m *model, base *session.Record, c *session.Change) (*session.Record, error) {
		if c.SignIn != nil {
			index[base.ID] = true
			m.pause()
		}
		return m.apply(base.ID, c)
	}
	m.list = func(m *model, q session.Query) ([]session.Info, error) {
		if err := q.Check(); err != nil {
			return nil, err
		}
		for id := range index {
			if rec := m.recs[id]; rec == nil || rec.User == "" {
				delete(index, id)
			}
		}
		return m.find(q, func(rec *session.Record) bool {
			return index[rec.ID] && rec.User == q.User && rec.Live(q.Now) && q.IsAfter(&rec.Info)
		})
	}
}

// sweepInTwoSteps selects, lets others in, and deletes what it selected.
func (m *model) sweepInTwoSteps(then time.Time, limit int, countAll bool) (n int) {
	var found []session.ID
	for _, id := range slices.Sorted(maps.Keys(m.recs)) {
		if len(found) < limit && !m.recs[id].Expires.After(then) {
			found = append(found, id)
		}
	}
	m.pause()
	for _, id := range found {
		if m.recs[id] != nil || countAll {
			n++
		}
		delete(m.recs, id)
	}
	return n
}

// A recorder is the output of a check that may fail.
type recorder struct {
	mu       sync.Mutex // guards failures
	failures []string
	skipped  bool
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *recorder) FailNow()            { runtime.Goexit() }
func (r *recorder) Helper()             {}
func (r *recorder) Logf(string, ...any) {}
func (r *recorder) SkipNow() {
	r.skipped = true
	runtime.Goexit()
}

// record runs the check of this name and returns its output.
func record(t *testing.T, name string, st session.Store) *recorder {
	t.Helper()
	all := checks()
	i := slices.IndexFunc(all, func(c check) bool { return c.name == name })
	if i < 0 {
		t.Fatalf("there is no check %q", name)
	}
	r := &recorder{}
	var wg sync.WaitGroup
	wg.Go(func() { all[i].on(r, st) })
	wg.Wait()
	return r
}

func newModel() *model { return &model{recs: map[session.ID]*session.Record{}} }

func TestAStoreThatKeepsTheContractPasses(t *testing.T) {
	Run(t, func(*testing.T) session.Store { return newModel() })
}

func TestEachBrokenStoreIsCaught(t *testing.T) {
	for _, mutant := range mutants {
		t.Run("a store that "+mutant.name, func(t *testing.T) {
			// Where the fault is a race a busy machine may hide it once, not always.
			var r *recorder
			for range 20 {
				m := newModel()
				mutant.mutate(m)
				if r = record(t, mutant.caught, m); len(r.failures) > 0 {
					break
				}
			}
			if len(r.failures) == 0 {
				t.Fatalf("the check %q does not catch it", mutant.caught)
			}
			if !strings.Contains(r.failures[0], "\n\trule: ") || !strings.Contains(r.failures[0], "\n\tfrom: ") {
				t.Errorf("the failure does not say which rule is broken: %s", r.failures[0])
			}
		})
	}
}

func TestEachCheckCatchesABrokenStore(t *testing.T) {
	named := map[string]bool{}
	for _, mutant := range mutants {
		named[mutant.caught] = true
	}
	seen := map[string]bool{}
	for _, c := range checks() {
		if c.rule == "" || c.from == "" || seen[c.name] {
			t.Errorf("the check %q has no rule, no source or no name of its own", c.name)
		}
		if seen[c.name] = true; !named[c.name] {
			t.Errorf("no broken store shows that the check %q can fail", c.name)
		}
	}
}

func TestAStoreWithFourMethodsPasses(t *testing.T) {
	for _, c := range checks() {
		r := &recorder{}
		var wg sync.WaitGroup
		wg.Go(func() { c.on(r, struct{ session.Store }{newModel()}) })
		wg.Wait()
		if len(r.failures) > 0 {
			t.Errorf("%s: %s", c.name, r.failures[0])
		}
		optional := strings.HasPrefix(c.name, "a touch ") || strings.HasPrefix(c.name, "a sweep ") || strings.HasPrefix(c.name, "a check ")
		if optional && !r.skipped {
			t.Errorf("%s: not skipped", c.name)
		}
	}
}
