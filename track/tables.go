package track

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/crumb-go/crumb/internal/sqldb"
	"github.com/crumb-go/crumb/session"
)

// TablesConfig holds what [OpenTables] may be told besides the database.
type TablesConfig struct {
	// Create has the tables created, or brought up to date, on PostgreSQL and MySQL
	// too. Without it they must be there, since servers are often used by somebody
	// who may not create any. On SQLite and in memory they always are created.
	Create bool

	// TablePrefix is what the names of the tables begin with: ASCII letters,
	// digits and underscores. Defaults to "crumb_".
	TablePrefix string
}

// Tables hold what was tracked, in SQLite, PostgreSQL or MySQL, and answer
// questions about it. They are safe for use by several goroutines, and several
// processes may write to them.
type Tables struct {
	db     *sqldb.DB
	names  *strings.Replacer
	prefix string
	agents agents

	statements atomic.Int64
	asked      func(query string, args []any) // told of each query; nil but in tests
}

// OpenTables opens the tables in the database that url names: sqlite:FILE,
// postgres://…, mysql://… or memory:, whose tables end with the process.
func OpenTables(ctx context.Context, url string, cfg TablesConfig) (*Tables, error) {
	if cfg.TablePrefix == "" {
		cfg.TablePrefix = defaultPrefix
	}
	for i, c := range []byte(cfg.TablePrefix) {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return nil, fmt.Errorf("track: table prefix %q: use ASCII letters, digits and underscores, and no digit first", cfg.TablePrefix)
		}
	}
	db, err := openDB(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("track: %w", err)
	}
	t := &Tables{db: db, prefix: cfg.TablePrefix}
	var pairs []string
	for _, name := range []string{"schema", "visitors", "trail", "slots", "counts", "erased", "batches"} {
		pairs = append(pairs, "{"+name+"}", t.table(name))
	}
	t.names = strings.NewReplacer(pairs...)
	if err := t.prepare(ctx, cfg.Create); err != nil {
		return nil, errors.Join(fmt.Errorf("track: %w", err), t.Close())
	}
	return t, nil
}

// openDB opens the database. On SQLite a power cut may take the last second: a
// commit that waited for the disk would be too dear for a page view.
func openDB(ctx context.Context, url string) (*sqldb.DB, error) {
	if strings.HasPrefix(url, "sqlite:") {
		return sqldb.OpenSQLite(ctx, url, "synchronous(NORMAL)", "secure_delete(1)", "wal_autocheckpoint(8000)", "cache_size(-16000)")
	}
	return sqldb.Open(ctx, url)
}

func (t *Tables) prepare(ctx context.Context, create bool) error {
	s := sqldb.Schema{Table: t.table("schema"), Steps: []string{Schema(string(t.db.Dialect), t.prefix)}}
	if create || t.db.Dialect == sqldb.SQLite {
		return t.db.Migrate(ctx, s)
	}
	return t.db.CheckVersion(ctx, s)
}

// Close closes the database.
func (t *Tables) Close() error { return t.db.Close() }

// Statements returns how many statements were sent so far, each BEGIN and COMMIT
// among them.
func (t *Tables) Statements() int64 { return t.statements.Load() }

func (t *Tables) table(name string) string { return t.prefix + "track_" + name }

// sql writes the names of the tables: {trail} is crumb_track_trail.
func (t *Tables) sql(query string) string { return t.names.Replace(query) }

func (t *Tables) exec(ctx context.Context, r sqldb.Runner, query string, args ...any) (int64, error) {
	t.statements.Add(1)
	return r.Exec(ctx, query, args...)
}

func (t *Tables) rows(ctx context.Context, r sqldb.Runner, query string, args []any, row func(sqldb.Scan) error) error {
	t.statements.Add(1)
	if t.asked != nil {
		t.asked(query, args)
	}
	return r.Rows(ctx, query, args, row)
}

// write writes b in one transaction. If b was written already it does nothing.
func (t *Tables) write(ctx context.Context, b *batch) error {
	const most = 10
	var err error
	for try := 1; ; try++ {
		err = t.db.Tx(ctx, func(tx *sqldb.Tx) error {
			t.statements.Add(2) // BEGIN and COMMIT
			return (&writer{t, tx, ctx}).write(b)
		})
		if !sqldb.IsUnique(err) {
			break
		}
		// Either this batch is there, or another process was first with a visitor, whom
		// the next try finds.
		var n int
		if failed := t.db.Row(ctx, t.sql("SELECT count(*) FROM {batches} WHERE id = ?"), []any{b.id}, &n); failed == nil && n == 1 {
			return nil
		} else if failed != nil || try == most {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("track: write: %w", err)
	}
	return nil
}

// A writer writes one batch.
type writer struct {
	t   *Tables
	tx  *sqldb.Tx
	ctx context.Context
}

func (w *writer) write(b *batch) error {
	if _, err := w.exec("INSERT INTO {batches} (id, written_at) VALUES (?, ?)", b.id, b.made.UnixMicro()); err != nil {
		return err
	}
	if err := w.t.lockErasing(w.ctx, w.tx, false); err != nil {
		return err
	}
	updates, err := w.notErased(b.updates)
	if err != nil {
		return err
	}
	visitors, err := w.visitors(updates)
	if err != nil {
		return err
	}
	lates, err := w.around(updates, visitors)
	if err != nil {
		return err
	}
	c := newCounts()
	var trail, slots, moved table
	for i, u := range updates {
		v := visitors[i]
		v.see(u, w.t.agents.parse(u.agent))
		if len(u.entries) == 0 {
			continue
		}
		known, in := v.known()
		if l := lates[v.id]; l != nil {
			known, in = l.known(v)
		}
		all := v.add(u, known, in, c)
		for _, p := range piecesOf(u.entries) {
			trail.add(string(v.id), p.at, p.viewed, p.entries)
		}
		for _, s := range all {
			switch row := []any{string(v.id), s.slot, s.prev, bit(v.bot), v.device}; {
			case !s.stored:
				slots.add(row...)
			case s.changed:
				moved.add(row...)
			}
		}
	}
	if err := w.storeVisitors(visitors); err != nil {
		return err
	}
	if err := w.insert("trail", trailColumns, trail, ""); err != nil {
		return err
	}
	// A slot may be there without its visitor, if others swept with another retention.
	if err := w.insert("slots", slotColumns, slots, w.t.onConflict("session, slot", "bot", w.t.given("bot"))); err != nil {
		return err
	}
	if err := w.insert("slots", slotColumns, moved, w.t.onConflict("session, slot", "prev", w.t.given("prev"))); err != nil {
		return err
	}
	return w.count(c)
}

var (
	visitorColumns = []string{
		"session", "user_id", "first_seen", "seen", "requests", "first_addr", "last_addr", "addr_at", "device", "language", "bot",
		"landing", "referrer", "page", "exit_page", "viewed", "active", "slot", "swept",
	}
	// movingColumns are those that every request may change, user_id and addr_at left
	// out.
	movingColumns = []string{
		"first_seen", "seen", "requests", "last_addr", "device", "language", "landing", "referrer", "page", "exit_page", "viewed", "active", "slot",
	}
	trailColumns = []string{"session", "at", "viewed", "entries"}
	slotColumns  = []string{"session", "slot", "prev", "bot", "device"}
	countColumns = []string{"kind", "span", "slot", "bot", "name", "n"}
)

func (v *visitor) row() []any {
	return []any{
		string(v.id), v.user, v.first, v.seen, v.requests, v.firstAddr, v.lastAddr, v.addrAt, v.device, v.language, bit(v.bot),
		v.landing, v.referrer, v.page, v.exit, v.viewed, v.active, v.slot, v.swept,
	}
}

func (v *visitor) scan(scan sqldb.Scan) error {
	v.stored = true
	defer func() { v.storedUser, v.storedAddrAt = v.user, v.addrAt }()
	return scan(&v.id, &v.user, &v.first, &v.seen, &v.requests, &v.firstAddr, &v.lastAddr, &v.addrAt, &v.device, &v.language, &v.bot,
		&v.landing, &v.referrer, &v.page, &v.exit, &v.viewed, &v.active, &v.slot, &v.swept)
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (w *writer) exec(query string, args ...any) (int64, error) {
	return w.t.exec(w.ctx, w.tx, w.t.sql(query), args...)
}

func (w *writer) rows(query string, args []any, row func(sqldb.Scan) error) error {
	return w.t.rows(w.ctx, w.tx, w.t.sql(query), args, row)
}

// lockErasing keeps batches and erasures apart: a batch that has read that a
// visitor is not erased must be over when the visitor's rows are deleted. Batches
// do not wait for each other.
func (t *Tables) lockErasing(ctx context.Context, tx *sqldb.Tx, alone bool) error {
	var how string
	switch {
	case t.db.Dialect == sqldb.SQLite: // who writes is alone anyway
		return nil
	case alone:
		how = " FOR UPDATE"
	case t.db.Dialect == sqldb.Postgres:
		how = " FOR SHARE"
	default:
		how = " LOCK IN SHARE MODE"
	}
	return t.rows(ctx, tx, t.sql("SELECT id FROM {batches} WHERE id = ''"+how), nil, func(sqldb.Scan) error { return nil })
}

// notErased returns the updates of visitors that nobody erased.
func (w *writer) notErased(updates []*update) ([]*update, error) {
	some := false
	err := w.rows("SELECT 1 FROM {erased} LIMIT 1", nil, func(sqldb.Scan) error {
		some = true
		return nil
	})
	if err != nil || !some {
		return updates, err
	}
	args := make([]any, len(updates))
	for i, u := range updates {
		args[i] = erasedHash(u.id)
	}
	erased := map[any]bool{}
	err = w.rows("SELECT hash FROM {erased} WHERE hash IN ("+marks(len(args))+")", args, func(scan sqldb.Scan) error {
		var hash string
		err := scan(&hash)
		erased[hash] = true
		return err
	})
	var rest []*update
	for i, u := range updates {
		if !erased[args[i]] {
			rest = append(rest, u)
		}
	}
	return rest, err
}

func erasedHash(id session.ID) string {
	h := hashID(id)
	return hex.EncodeToString(h[:])
}

// visitors returns the rows of the updates, in their order, locked; new ones for
// those that have none.
func (w *writer) visitors(updates []*update) ([]*visitor, error) {
	list := make([]*visitor, len(updates))
	if len(updates) == 0 {
		return list, nil
	}
	at := map[session.ID]int{}
	args := make([]any, len(updates))
	for i, u := range updates {
		list[i], at[u.id], args[i] = &visitor{id: u.id}, i, string(u.id)
	}
	query := "SELECT " + strings.Join(visitorColumns, ", ") + " FROM {visitors} WHERE session IN (" + marks(len(args)) + ") ORDER BY session"
	return list, w.rows(query+w.tx.ForUpdate(), args, func(scan sqldb.Scan) error {
		v := &visitor{}
		err := v.scan(scan)
		if i, ok := at[v.id]; ok {
			list[i] = v
		}
		return err
	})
}

// storeVisitors writes the rows. Of one that is there only what changed is set, for
// each index of a column that is set has to be written too.
func (w *writer) storeVisitors(list []*visitor) error {
	var others, known, moved table
	for _, v := range list {
		switch {
		case !v.stored:
			others.add(v.row()...)
		case v.user == v.storedUser && v.addrAt == v.storedAddrAt:
			known.add(v.row()...)
		default:
			moved.add(v.row()...)
		}
	}
	var pairs []string
	for _, column := range movingColumns {
		pairs = append(pairs, column, w.t.given(column))
	}
	if err := w.insert("visitors", visitorColumns, others, ""); err != nil {
		return err
	}
	if err := w.insert("visitors", visitorColumns, known, w.t.onConflict("session", pairs...)); err != nil {
		return err
	}
	pairs = append(pairs, "user_id", w.t.given("user_id"), "addr_at", w.t.given("addr_at"))
	return w.insert("visitors", visitorColumns, moved, w.t.onConflict("session", pairs...))
}

// A late is what an update meets that came late: the views from half an hour
// before its first entry, for older ones are in other visits, all of the trail
// from that entry on, and the slots in which that lies.
type late struct {
	first int64 // of the entries of the update
	trail []*entry
	slots []slot
}

// from is where the trail begins that has to be read.
func (l *late) from() int64 { return slotStart(l.first - gap) }

// known returns what of the trail add needs to know.
func (l *late) known(v *visitor) (trail []*entry, slots []slot) {
	trail = l.trail
	if e := v.sweptView(); e != nil && e.at < l.first {
		if e.at == v.viewed {
			e.name = v.exit
		}
		trail = append(trail, e)
	}
	slices.SortFunc(trail, func(a, b *entry) int { return cmp.Compare(a.at, b.at) })
	slices.SortFunc(l.slots, func(a, b slot) int { return cmp.Compare(a.slot, b.slot) })
	if len(l.slots) > 0 && l.slots[0].prev > 0 {
		slots = append(slots, slot{slot: l.slots[0].prev, stored: true})
	}
	return trail, append(slots, l.slots...)
}

// lateApart is by how much more than others some are late, such as first visits,
// to be asked for apart: whoever is asked for with them is read from there on.
const lateApart = time.Hour

// around returns what the updates meet that came late. However many there are, it
// takes three statements at most.
func (w *writer) around(updates []*update, visitors []*visitor) (map[session.ID]*late, error) {
	found := map[session.ID]*late{}
	var all, newer, older []any // IDs
	var first, last int64 = math.MaxInt64, 0
	for i, u := range updates {
		if visitors[i].inOrder(u) {
			continue
		}
		l := &late{first: math.MaxInt64}
		for j := range u.entries {
			l.first = min(l.first, u.entries[j].at)
		}
		found[u.id] = l
		all = append(all, string(u.id))
		first, last = min(first, l.first), max(last, l.first)
	}
	if len(all) == 0 {
		return nil, nil
	}
	between := last - lateApart.Microseconds()
	for _, u := range updates {
		switch l := found[u.id]; {
		case l == nil:
		case l.first >= between:
			newer = append(newer, string(u.id))
		default:
			older = append(older, string(u.id))
		}
	}
	if err := w.trailsFrom(max(first, between), newer, found); err != nil {
		return nil, err
	}
	if err := w.trailsFrom(first, older, found); err != nil {
		return nil, err
	}
	query := "SELECT session, slot, prev FROM {slots} WHERE session IN (" + marks(len(all)) + ") AND slot >= ?"
	return found, w.rows(query, append(all, slotOf(first)), func(scan sqldb.Scan) error {
		var id session.ID
		s := slot{stored: true}
		err := scan(&id, &s.slot, &s.prev)
		if l := found[id]; l != nil && s.slot >= slotOf(l.first) {
			l.slots = append(l.slots, s)
		}
		return err
	})
}

// trailsFrom reads the trails of some of those in found, none of whom has an entry
// before first.
func (w *writer) trailsFrom(first int64, ids []any, found map[session.ID]*late) error {
	if len(ids) == 0 {
		return nil
	}
	query := "SELECT session, at, entries FROM {trail} WHERE session IN (" + marks(len(ids)) + ") AND at >= ?"
	return w.rows(query, append(ids, slotStart(first-gap)), func(scan sqldb.Scan) error {
		var id session.ID
		var p piece
		if err := scan(&id, &p.at, &p.entries); err != nil {
			return err
		}
		l := found[id]
		if l == nil || p.at < l.from() {
			return nil
		}
		entries, err := p.parse()
		for i := range entries {
			if e := &entries[i]; e.at >= l.first || e.kind == view {
				l.trail = append(l.trail, &entry{at: e.at, kind: e.kind, name: e.name}) // not the rest, of so many
			}
		}
		return err
	})
}

// count adds c to the table of counts, in the order of its key, so that no two
// batches wait for each other.
func (w *writer) count(c *counts) error {
	c.addDays()
	list := make([]*count, 0, len(c.all))
	for _, one := range c.all {
		if one.n != 0 {
			list = append(list, one)
		}
	}
	slices.SortFunc(list, func(a, b *count) int { return a.compare(b.countKey) })
	var rows table
	for _, one := range list {
		rows.add(one.kind, one.span, one.slot, bit(one.bot), one.name, one.n)
	}
	sum := w.t.table("counts") + ".n + " + w.t.given("n")
	return w.insert("counts", countColumns, rows, w.t.onConflict("kind, span, slot, bot, name", "n", sum))
}

// onConflict ends an INSERT: of a row that is there columns are set, pairs of
// column and value.
func (t *Tables) onConflict(key string, pairs ...string) string {
	var sets []string
	for pair := range slices.Chunk(pairs, 2) {
		sets = append(sets, pair[0]+" = "+pair[1])
	}
	if t.db.Dialect == sqldb.MySQL {
		return " ON DUPLICATE KEY UPDATE " + strings.Join(sets, ", ")
	}
	return " ON CONFLICT (" + key + ") DO UPDATE SET " + strings.Join(sets, ", ")
}

// given is the value of a column in the row that met another.
func (t *Tables) given(column string) string {
	if t.db.Dialect == sqldb.MySQL {
		return "VALUES(" + column + ")"
	}
	return "excluded." + column
}

// A table is rows to insert, their columns one after the other.
type table []any

func (t *table) add(row ...any) { *t = append(*t, row...) }

// maxParameters is how many parameters a statement has at most: SQLite takes
// 32,766.
const maxParameters = 32_000

// insert inserts rows, in as few statements as there can be. conflict says what
// to do about rows that are there.
func (w *writer) insert(name string, columns []string, rows table, conflict string) error {
	size := maxParameters / len(columns) * len(columns)
	verb := "INSERT"
	if w.t.db.Dialect == sqldb.SQLite {
		verb = "INSERT OR FAIL" // whoever fails rolls back all, so SQLite need not be able to undo one statement
	}
	row := "(" + marks(len(columns)) + ")"
	for part := range slices.Chunk(rows, size) {
		n := len(part) / len(columns)
		query := verb + " INTO {" + name + "} (" + strings.Join(columns, ", ") + ") VALUES " + strings.Repeat(row+", ", n-1) + row + conflict
		if _, err := w.exec(query, part...); err != nil {
			return err
		}
	}
	return nil
}

// marks returns n question marks.
func marks(n int) string {
	if n == 0 {
		return "NULL"
	}
	return strings.Repeat("?, ", n-1) + "?"
}
