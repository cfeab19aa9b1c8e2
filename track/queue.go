package track

import (
	"crypto/rand"
	"crypto/sha256"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/crumb-go/crumb/session"
)

// The kinds of entries of a trail.
const (
	view  = 0
	event = 1
)

// Bounds of what comes from outside, in bytes.
const (
	maxName     = 200 // of a route or an event
	maxDetail   = 128
	maxReferrer = 128
	maxAgent    = 256
	maxLanguage = 35 // RFC 5646, section 4.4.1
)

// An entry is one line of a trail.
type entry struct {
	at     int64  // microseconds since 1970
	took   int64  // microseconds
	name   string // the path of the route, or the name of the event
	extra  *extra // nil if there is none
	route  uint32 // the number of the route whose path name is, 0 if that is not known
	status int16
	method method
	kind   uint8
}

// A line is an entry that waits to be written. Thousands do, and none has a pointer:
// the collector, which looks at all that wait as often as memory fills, has
// nothing to look for in them.
type line struct {
	at, took int64
	visitor  uint32 // the number of the update
	route    uint32
	other    uint32 // the number of the whole entry, where it is no view of a known route; else 0
	status   int16
	method   method
}

// An extra is what few entries have.
type extra struct {
	referrer string
	detail   string // values of wildcards, or the attributes of an event as JSON
}

// more returns the extra of e.
func (e *entry) more() (x extra) {
	if e.extra != nil {
		x = *e.extra
	}
	return x
}

// extraOf is the reverse.
func extraOf(referrer, detail string) *extra {
	if referrer == "" && detail == "" {
		return nil
	}
	return &extra{referrer, detail}
}

const (
	entryBytes  = 160 // an entry without its strings from outside, and its part of lists that grow
	updateBytes = 640 // an update, with agent and language
)

func (e *entry) bytes() int {
	if e.extra == nil {
		return entryBytes
	}
	return entryBytes + len(e.extra.referrer) + len(e.extra.detail)
}

// An update is what one visitor did since the last batch.
type update struct {
	id                  session.ID
	user                string
	created             int64 // when the session was
	first, last         int64 // requests
	requests            int64
	firstAddr, lastAddr netip.Addr
	agent, languages    string  // headers of the last request
	page                string  // of the last view; "" if none
	number              uint32  // by which lines name it
	waiting             int     // lines
	entries             []entry // in batches; the queue has lines
	quota               *quota
}

// A quota is how many entries of a session were kept in an hour, which is counted
// from 1970.
type quota struct {
	hour int64
	kept int
}

// maxWaiting bounds the visitors that wait to be written.
const maxWaiting = 1 << 16

// A queue gathers what requests note until it is written.
type queue struct {
	max, maxBytes, perSession int
	now                       func() time.Time
	routes                    *routes

	half  chan struct{} // told when the queue is half full
	stats *counters
	lists [4]list // more than one, lest requests wait while one is sorted

	mu       sync.Mutex // guards what follows; locked after that of a list
	visitors map[session.ID]*update
	numbered []*update // the same
	lines    []line    // in the order in which they came
	others   []entry   // which lines cannot hold
	spare    []line    // those of the time before, to use again
	entries  int       // that wait, those taken and not written among them
	bytes    int
	quotas   map[session.ID]*quota
	hour     int64 // of the oldest of them
}

// A list is what requests left and is not sorted into visitors yet.
type list struct {
	mu    sync.Mutex // guards what follows
	noted []noted
	fresh []entry  // theirs
	_     [72]byte // the next list is in another line of a processor's cache
}

// Noted is what one request leaves. A request only adds it to a list; who fills the
// list sorts all of it, which costs less than each for itself.
type noted struct {
	id               session.ID
	user             string
	created          int64
	addr             netip.Addr
	at               int64
	agent, languages string
	page             string
	entries          int
}

// mostNoted is how many requests a list holds.
const mostNoted = 128

func (q *queue) init(cfg Config, routes *routes, stats *counters) {
	q.max, q.maxBytes, q.perSession = cfg.MaxQueue, cfg.MaxQueueBytes, cfg.PerSession
	q.now, q.routes, q.half, q.stats = cfg.Now, routes, make(chan struct{}, 1), stats
	q.visitors, q.quotas = map[session.ID]*update{}, map[session.ID]*quota{}
}

// size returns how many entries wait, of how many visitors, and about what they take.
func (q *queue) size() (entries, visitors, bytes int) {
	q.sortAll()
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.entries, len(q.visitors), q.bytes
}

// note adds one request of a visitor, which has ended. It never waits for anything
// but a lock.
func (t *Tracker) note(in *session.Info, r *http.Request, began time.Time, entries []entry) {
	n := noted{
		id: in.ID, user: in.User, created: in.Created.UnixMicro(), addr: in.Addr, at: began.UnixMicro(),
		agent: short(header(r, "User-Agent"), maxAgent), languages: short(header(r, "Accept-Language"), 2*maxLanguage),
	}
	for i := range entries {
		if entries[i].kind == view {
			n.page = entries[i].name
		}
	}
	if t.cfg.Tables == nil {
		t.recent.note(in, n.at, n.page)
		return
	}
	if !sampled(in.ID, t.cfg.Sample) {
		entries = nil
	}
	n.entries = len(entries)
	l := t.queue.free(in.ID)
	defer l.mu.Unlock()
	l.noted, l.fresh = append(l.noted, n), append(l.fresh, entries...)
	if len(l.noted) >= mostNoted || len(l.fresh) >= 2*mostNoted {
		t.queue.sort(l)
	}
}

// free returns a list that nobody else uses, locked.
func (q *queue) free(id session.ID) *list {
	first := int(id[len(id)-1])
	for i := range q.lists {
		if l := &q.lists[(first+i)%len(q.lists)]; l.mu.TryLock() {
			return l
		}
	}
	l := &q.lists[first%len(q.lists)]
	l.mu.Lock()
	return l
}

// short returns s, or a copy of its first n bytes: a list must not hold what is long.
func short(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.Clone(s[:n])
}

func (q *queue) sortAll() {
	for i := range q.lists {
		l := &q.lists[i]
		l.mu.Lock()
		q.sort(l)
		l.mu.Unlock()
	}
}

// sort empties l, which is locked.
func (q *queue) sort(l *list) {
	q.mu.Lock()
	defer q.mu.Unlock()
	hour := q.now().UnixMicro() / time.Hour.Microseconds()
	fresh := l.fresh
	for i := range l.noted {
		n := &l.noted[i]
		q.add(n, fresh[:n.entries], hour)
		fresh = fresh[n.entries:]
	}
	clear(l.noted) // lest they hold what requests brought
	clear(l.fresh)
	l.noted, l.fresh = l.noted[:0], l.fresh[:0]
	if 2*q.entries >= q.max {
		select {
		case q.half <- struct{}{}:
		default:
		}
	}
}

func (q *queue) add(n *noted, entries []entry, hour int64) {
	u := q.visitors[n.id]
	if u == nil {
		if len(q.visitors) >= maxWaiting || q.bytes+updateBytes > q.maxBytes {
			q.stats.dropped.Add(int64(len(entries)))
			return
		}
		id := session.ID(strings.Clone(string(n.id))) // a store may have cut it out of the whole record
		u = &update{
			id: id, created: n.created, first: n.at, last: n.at, firstAddr: n.addr, quota: q.quota(id, hour), number: uint32(len(q.numbered)),
		}
		q.visitors[id], q.numbered = u, append(q.numbered, u)
		q.bytes += updateBytes
	}
	u.see(n)
	for i := range entries {
		q.keep(u, &entries[i], hour)
	}
}

func (u *update) see(n *noted) {
	u.requests++
	if n.at < u.first { // of another list
		u.first, u.firstAddr = n.at, n.addr
	}
	if n.user != u.user && n.user != "" && (n.at >= u.last || u.user == "") { // who signs in may be overtaken meanwhile
		u.user = strings.Clone(n.user)
	}
	if n.at < u.last {
		return
	}
	u.last, u.lastAddr = n.at, n.addr
	// Copies, lest they hold all the headers.
	if n.agent != u.agent {
		if agent := cutText(n.agent, maxAgent); agent != u.agent {
			u.agent = strings.Clone(agent)
		}
	}
	if n.languages != u.languages {
		u.languages = strings.Clone(n.languages)
	}
	if n.page != "" {
		u.page = n.page
	}
}

// quota returns that of a session. The queue is locked.
func (q *queue) quota(id session.ID, hour int64) *quota {
	if hour != q.hour || len(q.quotas) >= maxWaiting {
		q.hour = hour
		clear(q.quotas)
	}
	o := q.quotas[id]
	if o == nil {
		o = &quota{}
		q.quotas[id] = o
	}
	return o
}

// keep adds e to what is written, unless there is no room for it. The queue is
// locked.
func (q *queue) keep(u *update, e *entry, hour int64) {
	o := u.quota
	// By the hour in which it is sorted, which is not that of a first visit. A clock
	// that was set back begins an hour as well, or the cap would last until it has
	// caught up.
	if hour != o.hour {
		*o = quota{hour: hour}
	}
	switch {
	case o.kept >= q.perSession:
		q.stats.capped.Add(1)
		return
	case q.entries >= q.max || q.bytes+e.bytes() > q.maxBytes:
		q.stats.dropped.Add(1)
		return
	}
	o.kept++
	q.entries++
	q.bytes += e.bytes()
	u.waiting++
	l := line{at: e.at, took: e.took, visitor: u.number, route: e.route, status: e.status, method: e.method}
	if e.kind != view || e.route == 0 || e.extra != nil {
		q.others = append(q.others, *e)
		l.other = uint32(len(q.others))
	}
	q.lines = append(q.lines, l)
}

// take empties the queue. What it held counts on until done is called.
func (q *queue) take() []*update {
	q.sortAll()
	q.mu.Lock()
	taken, lines, others := q.numbered, q.lines, q.others
	if len(taken) == 0 {
		q.mu.Unlock()
		return nil
	}
	q.numbered, q.lines, q.others = nil, q.spare, nil
	q.visitors = make(map[session.ID]*update, len(taken))
	q.mu.Unlock()
	for _, u := range taken {
		u.entries = make([]entry, 0, u.waiting)
	}
	paths := q.routes.paths()
	for i := range lines {
		l := &lines[i]
		u := taken[l.visitor]
		if l.other > 0 {
			u.entries = append(u.entries, others[l.other-1])
			continue
		}
		u.entries = append(u.entries, entry{
			at: l.at, took: l.took, name: paths[l.route-1], status: l.status, method: l.method, kind: view,
		})
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.spare = lines[:0]
	return taken
}

func (q *queue) done(entries, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.entries -= entries
	q.bytes -= bytes
}

// A batch is what one transaction writes. Written twice it is the same as once.
type batch struct {
	id      string
	made    time.Time
	updates []*update // in the order of their IDs, so that no two batches wait for each other
	entries int
	bytes   int
}

// Where a batch ends: some ten statements write it.
const (
	batchVisitors = 1500
	batchEntries  = 20_000
)

func batchesOf(taken []*update, now time.Time) (list []*batch) {
	slices.SortFunc(taken, func(a, b *update) int { return strings.Compare(string(a.id), string(b.id)) })
	var b *batch
	for _, u := range taken {
		if b == nil || len(b.updates) >= batchVisitors || b.entries > 0 && b.entries+len(u.entries) > batchEntries {
			b = &batch{id: rand.Text(), made: now}
			list = append(list, b)
		}
		b.updates = append(b.updates, u)
		b.entries += len(u.entries)
		b.bytes += updateBytes
		for i := range u.entries {
			b.bytes += u.entries[i].bytes()
		}
	}
	return list
}

// hashID is what an ID that was erased is remembered by. IDs are 96 random bits,
// so nobody finds the ID to a hash by trying.
func hashID(id session.ID) [sha256.Size]byte {
	return sha256.Sum256([]byte("crumb track " + string(id)))
}
