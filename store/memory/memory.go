// Package memory is a [session.Store] in the memory of one process: for tests,
// for development, and for an app of one process whose visitors may be forgotten
// when it restarts.
package memory

import (
	"cmp"
	"context"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crumb-go/crumb/session"
)

var (
	_ session.Store   = (*Store)(nil)
	_ session.Lister  = (*Store)(nil)
	_ session.Toucher = (*Store)(nil)
	_ session.Sweeper = (*Store)(nil)
	_ session.Checker = (*Store)(nil)
)

const shardCount = 64 // a power of two, more than the cores that write at once

// A Store keeps sessions until the process ends. It hands records out uncopied.
// A call whose context is already done returns the context's error and does
// nothing; no call waits for anything but another's lock.
type Store struct {
	shards [shardCount]shard
	users  [shardCount]userShard
	seed   maphash.Seed
	sweeps atomic.Uint32 // the shard where Sweep goes on
}

// A shard holds the records whose ID hashes to it.
type shard struct {
	mu   sync.RWMutex // guards recs; may be held while a userShard's is taken
	recs map[session.ID]*session.Record
	_    [32]byte // a cache line each, so that cores do not slow each other down
}

// A userShard holds, for the users whose name hashes to it, the IDs of the
// records of that user, live or not. An entry changes under the lock of the
// record's shard too, in the step that changes the record: whoever finds a user
// in a record finds the record under the user.
type userShard struct {
	mu  sync.Mutex // guards ids; nothing is locked while it is held
	ids map[string]idSet
	_   [48]byte
}

// New returns an empty store.
func New() *Store {
	st := &Store{seed: maphash.MakeSeed()}
	for i := range shardCount {
		st.shards[i].recs = map[session.ID]*session.Record{}
		st.users[i].ids = map[string]idSet{}
	}
	return st
}

// Create implements [session.Store].
func (st *Store) Create(ctx context.Context, rec *session.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	sh := st.shard(rec.ID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.recs[rec.ID] != nil {
		return session.ErrExists
	}
	sh.recs[rec.ID] = rec
	st.move(rec.ID, "", rec.User)
	return nil
}

// Load implements [session.Store].
func (st *Store) Load(ctx context.Context, id session.ID) (*session.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if rec := st.load(id); rec != nil {
		return rec, nil
	}
	return nil, session.ErrNotFound
}

// Update implements [session.Store].
func (st *Store) Update(ctx context.Context, base *session.Record, c *session.Change) (*session.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	sh := st.shard(base.ID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	rec := sh.recs[base.ID]
	if rec == nil {
		return nil, session.ErrNotFound
	}
	out, err := c.Apply(rec)
	if err != nil {
		return out, err
	}
	// Not base.ID: as a part of a request's header it would keep all of it.
	sh.recs[out.ID] = out
	if out.User != rec.User {
		st.move(out.ID, rec.User, out.User)
	}
	return out, nil
}

// Delete implements [session.Store].
func (st *Store) Delete(ctx context.Context, id session.ID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	sh := st.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if rec := sh.recs[id]; rec != nil {
		st.drop(sh, rec)
	}
	return nil
}

// List implements [session.Lister]. A page of one user costs what that user's
// sessions do; a page of all looks at every record, one shard after the other.
func (st *Store) List(ctx context.Context, q session.Query) ([]session.Info, error) {
	if err := cmp.Or(ctx.Err(), q.Check()); err != nil {
		return nil, err
	}
	if q.Limit <= 0 {
		return nil, nil
	}
	p := page{q: &q}
	if !q.All {
		for _, id := range st.idsOf(q.User) {
			if rec := st.load(id); rec != nil && rec.User == q.User {
				p.add(rec)
			}
		}
		return p.infos(), nil
	}
	for i := range st.shards {
		sh := &st.shards[i]
		sh.mu.RLock()
		for _, rec := range sh.recs {
			p.add(rec)
		}
		sh.mu.RUnlock()
	}
	return p.infos(), nil
}

// Touch implements [session.Toucher].
func (st *Store) Touch(ctx context.Context, touches []session.Touch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, t := range touches {
		st.touch(t)
	}
	return nil
}

func (st *Store) touch(t session.Touch) {
	sh := st.shard(t.ID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if rec := sh.recs[t.ID]; rec != nil {
		if out, changed := t.Apply(rec); changed {
			sh.recs[out.ID] = out
		}
	}
}

// Sweep implements [session.Sweeper]. It goes on where the last call stopped.
func (st *Store) Sweep(ctx context.Context, then time.Time, limit int) (n int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	first := st.sweeps.Load()
	for i := range uint32(shardCount) {
		if n >= limit {
			st.sweeps.Store(first + i - 1)
			break
		}
		n += st.sweep(&st.shards[(first+i)%shardCount], then, limit-n)
	}
	return n, nil
}

// sweep searches under the read lock, so that a shard full of live sessions is
// served meanwhile, and looks at what it found again before it deletes.
func (st *Store) sweep(sh *shard, then time.Time, limit int) (n int) {
	var found []session.ID
	sh.mu.RLock()
	for id, rec := range sh.recs {
		if len(found) == limit {
			break
		}
		if !rec.Expires.After(then) {
			found = append(found, id)
		}
	}
	sh.mu.RUnlock()
	if found == nil {
		return 0
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, id := range found {
		if rec := sh.recs[id]; rec != nil && !rec.Expires.After(then) {
			st.drop(sh, rec)
			n++
		}
	}
	return n
}

// Check implements [session.Checker].
func (st *Store) Check(ctx context.Context, now time.Time, ids []session.ID) (map[session.ID]int64, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	live := make(map[session.ID]int64, len(ids))
	for _, id := range ids {
		if rec := st.load(id); rec != nil && rec.Live(now) {
			live[id] = rec.Auth
		}
	}
	return live, nil
}

// Count returns how many sessions live at now, by class: visitors, users who are
// signed in, and users who are remembered. It looks at every record, one shard
// after the other.
func (st *Store) Count(ctx context.Context, now time.Time) (visitors, signedIn, remembered int64, err error) {
	for i := range st.shards {
		if err := ctx.Err(); err != nil {
			return 0, 0, 0, err
		}
		sh := &st.shards[i]
		sh.mu.RLock()
		for _, rec := range sh.recs {
			switch {
			case !rec.Live(now):
			case rec.User == "":
				visitors++
			case rec.Remember:
				remembered++
			default:
				signedIn++
			}
		}
		sh.mu.RUnlock()
	}
	return visitors, signedIn, remembered, nil
}

// shard returns the shard of id. The hash is seeded: whoever sends made-up IDs
// cannot aim them at one lock.
func (st *Store) shard(id session.ID) *shard {
	return &st.shards[maphash.String(st.seed, string(id))%shardCount]
}

func (st *Store) userShard(user string) *userShard {
	return &st.users[maphash.String(st.seed, user)%shardCount]
}

// load returns the record of id or nil.
func (st *Store) load(id session.ID) *session.Record {
	sh := st.shard(id)
	sh.mu.RLock()
	rec := sh.recs[id]
	sh.mu.RUnlock()
	return rec
}

// drop removes rec from sh, which is locked.
func (st *Store) drop(sh *shard, rec *session.Record) {
	delete(sh.recs, rec.ID)
	st.move(rec.ID, rec.User, "")
}

// move takes id from one user and gives it to another; "" is nobody. The shard
// of id is locked.
func (st *Store) move(id session.ID, from, to string) {
	if from != "" {
		us := st.userShard(from)
		us.mu.Lock()
		if set := us.ids[from].without(id); set.empty() {
			delete(us.ids, from)
		} else {
			us.ids[from] = set
		}
		us.mu.Unlock()
	}
	if to != "" {
		us := st.userShard(to)
		us.mu.Lock()
		us.ids[to] = us.ids[to].with(id)
		us.mu.Unlock()
	}
}

// idsOf returns the IDs of the records of user.
func (st *Store) idsOf(user string) []session.ID {
	us := st.userShard(user)
	us.mu.Lock()
	defer us.mu.Unlock()
	return us.ids[user].all()
}

// An idSet holds the IDs of one user. Most users have one session, and a map of
// one costs as much as half a record.
type idSet struct {
	one  session.ID
	more map[session.ID]struct{}
}

func (s idSet) empty() bool { return s.one == "" && len(s.more) == 0 }

func (s idSet) with(id session.ID) idSet {
	if s.one == "" {
		s.one = id
		return s
	}
	if s.more == nil {
		s.more = map[session.ID]struct{}{}
	}
	s.more[id] = struct{}{}
	return s
}

func (s idSet) without(id session.ID) idSet {
	if s.one == id {
		s.one = ""
		return s
	}
	delete(s.more, id)
	return s
}

func (s idSet) all() []session.ID {
	ids := make([]session.ID, 0, 1+len(s.more))
	if s.one != "" {
		ids = append(ids, s.one)
	}
	for id := range s.more {
		ids = append(ids, id)
	}
	return ids
}

// A page gathers the first q.Limit records of a query out of any number, in any
// order, in memory for a few times q.Limit.
type page struct {
	q    *session.Query
	recs []*session.Record
	last *session.Record // of a full page so far; nothing behind it is needed
}

func (p *page) add(rec *session.Record) {
	if !rec.Live(p.q.Now) || !p.q.IsAfter(&rec.Info) || p.last != nil && newestFirst(rec, p.last) > 0 {
		return
	}
	if p.recs = append(p.recs, rec); len(p.recs)/4 >= p.q.Limit {
		p.cut()
	}
}

// cut sorts the page and drops what does not fit.
func (p *page) cut() {
	slices.SortFunc(p.recs, newestFirst)
	if len(p.recs) >= p.q.Limit {
		p.recs = p.recs[:p.q.Limit]
		p.last = p.recs[p.q.Limit-1]
	}
}

func (p *page) infos() []session.Info {
	p.cut()
	infos := make([]session.Info, len(p.recs))
	for i, rec := range p.recs {
		infos[i] = rec.Info
	}
	return infos
}

func newestFirst(a, b *session.Record) int {
	return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
}
