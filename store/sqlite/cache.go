package sqlite

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	zs "zombiezen.com/go/sqlite"

	"github.com/crumb-go/crumb/session"
)

// A cache keeps the records that were used last, and hands one out only after a
// look at the file that began after it was asked and found that nobody else has
// committed. So it is never behind: not behind this process, whose writer
// publishes what it committed before it answers, and not behind others.
//
// A look is PRAGMA data_version on a connection that does nothing else: a number
// that moves when another connection, of any process, has committed. The commits
// of the writer move it too. The writer tells these apart: its own connection's
// number moves only by commits that are not its own.
//
// One look serves everybody who asked before it began.
type cache struct {
	looks atomic.Uint64 // how many have begun; moves under mu

	mu         sync.Mutex // guards what follows
	conn       *zs.Conn
	look       *zs.Stmt
	fresh      bool  // the last look found version
	version    int64 // the number at which records are as the file has them, 0 for none
	committing bool  // the writer may have committed what it has not published
	records    recent
}

func newCache(ctx context.Context, c *zs.Conn) (*cache, error) {
	k := &cache{conn: c}
	k.records.clear()
	return k, whileBusy(ctx, func() error {
		return prepare(c, "PRAGMA data_version", &k.look)
	})
}

func (k *cache) close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.look, k.fresh, k.version = nil, false, 0
	k.records.clear()
	return k.conn.Close()
}

// load returns the record of id as the file has it, or nil if that is not known
// here. A caller who then reads it in the file may hand it to fill with version.
func (k *cache) load(id session.ID) (rec *session.Record, version int64) {
	asked := k.looks.Load()
	k.mu.Lock()
	if k.version != 0 && k.records.get(id) == nil {
		defer k.mu.Unlock()
		return nil, k.version
	}
	k.mu.Unlock()
	// Requests that are ready to run ask too, and share a look.
	runtime.Gosched()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.looks.Load() == asked {
		k.refresh()
	}
	if !k.fresh {
		return nil, 0
	}
	return k.records.get(id), k.version
}

// refresh looks. A number that moved says that others have committed, unless the
// writer is about to publish a commit, and will find out.
func (k *cache) refresh() {
	v := k.lookNow()
	k.fresh = v != 0 && v == k.version
	if v == 0 || k.fresh || k.committing {
		return
	}
	k.records.clear()
	k.version, k.fresh = v, true
}

// lookNow returns the number, or 0 if it cannot be had.
func (k *cache) lookNow() (v int64) {
	k.looks.Add(1)
	if k.look == nil {
		return 0
	}
	v, _ = dataVersion(k.look)
	return v
}

// fill keeps a record read in the file after load returned version.
func (k *cache) fill(rec *session.Record, version int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if version != 0 && version == k.version {
		k.records.put(rec)
	}
}

// known returns the record of id if it is here. It is as the file has it only for
// the writer, while it holds the lock and has found that nobody else committed.
func (k *cache) known(id session.ID) *session.Record {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.records.get(id)
}

// forget empties the cache: others have committed, or nobody knows what has been.
func (k *cache) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.committing = false
	k.drop()
}

func (k *cache) drop() {
	k.records.clear()
	k.version, k.fresh = 0, false
}

// commits is told before the writer commits. publish or forget must follow.
func (k *cache) commits() {
	k.mu.Lock()
	k.committing = true
	k.mu.Unlock()
}

// publish takes over what the writer committed. alone reports whether nobody else
// has committed up to the moment it is called.
func (k *cache) publish(rows []*row, alone func() bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.committing = false
	v := k.lookNow()
	// In this order: who commits between the two is found by the second.
	if v == 0 || !alone() {
		k.drop()
		return
	}
	for _, r := range rows {
		switch {
		case r.now == nil:
			k.records.delete(r.id)
		case k.records.get(r.id) != r.now:
			k.records.put(compact(r.now))
		}
	}
	k.version, k.fresh = v, true
}

// dataVersion asks a connection for the number that moves when another one has
// committed. It is never 0.
func dataVersion(st *zs.Stmt) (v int64, err error) {
	row, err := st.Step()
	if err != nil {
		return 0, err
	}
	if row {
		v = st.ColumnInt64(0)
	}
	return v, st.Reset()
}

// recent holds records up to a number of bytes. When the young fill half of it
// they become the old ones, and those that were old before are gone.
type recent struct {
	young, old map[session.ID]*session.Record
	size       int // of young
}

// recentBytes is room for some ten thousand sessions of eight short values.
const recentBytes = 16 << 20

func (r *recent) clear() {
	if r.young == nil || len(r.young)+len(r.old) > 0 {
		r.young, r.old, r.size = make(map[session.ID]*session.Record), nil, 0
	}
}

func (r *recent) get(id session.ID) *session.Record {
	if rec := r.young[id]; rec != nil {
		return rec
	}
	rec := r.old[id]
	if rec != nil {
		r.put(rec)
	}
	return rec
}

func (r *recent) put(rec *session.Record) {
	r.delete(rec.ID)
	size := recordSize(rec)
	if r.size+size > recentBytes/2 {
		r.old, r.young, r.size = r.young, make(map[session.ID]*session.Record), 0
	}
	r.young[rec.ID] = rec
	r.size += size
}

func (r *recent) delete(id session.ID) {
	if rec := r.young[id]; rec != nil {
		r.size -= recordSize(rec)
		delete(r.young, id)
	}
	delete(r.old, id)
}

// recordSize is about what rec holds in memory, its place in a map too.
func recordSize(rec *session.Record) int { return 512 + 40*len(rec.Values) + textSize(rec) }

func textSize(rec *session.Record) int {
	n := len(rec.ID) + len(rec.User) + len(rec.Agent)
	for _, v := range rec.Values {
		n += len(v.Key) + len(v.JSON)
	}
	return n
}

// compact returns a copy of rec that shares no bytes with others: a short text
// may be part of a long one, such as a request, which it would keep in memory.
func compact(rec *session.Record) *session.Record {
	buf := make([]byte, 0, textSize(rec))
	own := func(s string) string {
		from := len(buf)
		buf = append(buf, s...)
		return unsafe.String(unsafe.SliceData(buf[from:]), len(s))
	}
	out := *rec
	out.ID, out.User, out.Agent = session.ID(own(string(rec.ID))), own(rec.User), own(rec.Agent)
	out.Values = make(session.Values, len(rec.Values))
	for i, v := range rec.Values {
		key, from := own(v.Key), len(buf)
		buf = append(buf, v.JSON...)
		out.Values[i] = session.Value{Key: key, JSON: buf[from:len(buf):len(buf)]}
	}
	return &out
}
