package sqlite

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unsafe"

	zs "zombiezen.com/go/sqlite"

	"github.com/crumb-go/crumb/internal/sqlstore"
	"github.com/crumb-go/crumb/session"
)

// sqlText holds the statements of one table prefix.
type sqlText struct {
	load, insert, update, updateValues, touch, delete, sweep string
	listUser, listAll, check, count                          string
}

// The order of infoColumns and recordColumns is that of scanInfo and scanRecord.
const (
	infoColumns   = "id, format, user, created, seen, expires, signed_in, remember, addr, agent"
	recordColumns = infoColumns + `, idle, absolute, auth, secret, old_secret, old_until, version, "values"`
)

func statements(prefix string) *sqlText {
	named := func(sql string) string { return strings.ReplaceAll(sql, "{sessions}", prefix+"sessions") }
	const list = "SELECT " + infoColumns + " FROM {sessions} WHERE idle <> 0 AND expires > ?1" +
		" AND created <= ?2 AND (created < ?2 OR id > ?3)"
	return &sqlText{
		load: named("SELECT " + recordColumns + " FROM {sessions} WHERE id = ?1"),
		insert: named("INSERT INTO {sessions} (id, user, created, seen, expires, signed_in, remember, addr, agent," +
			` idle, absolute, auth, secret, old_secret, old_until, version, "values", expires_10min, format)` +
			" VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, 1)"),
		update: named("UPDATE {sessions} SET user = ?2, created = ?3, seen = ?4, expires = ?5, signed_in = ?6," +
			" remember = ?7, addr = ?8, agent = ?9, idle = ?10, absolute = ?11, auth = ?12, secret = ?13," +
			` old_secret = ?14, old_until = ?15, version = ?16, "values" = ?17, expires_10min = ?18 WHERE id = ?1`),
		// What a request usually changes. Neither touches a column of an index,
		// which halves the pages that a commit writes.
		updateValues: named(`UPDATE {sessions} SET seen = ?2, expires = ?3, version = ?4, "values" = ?5 WHERE id = ?1`),
		touch:        named("UPDATE {sessions} SET seen = ?2, expires = ?3, version = ?4 WHERE id = ?1"),
		delete:       named("DELETE FROM {sessions} WHERE id = ?1"),
		sweep: named("DELETE FROM {sessions} WHERE rowid IN (SELECT rowid FROM {sessions}" +
			" WHERE expires_10min <= ?1 AND expires <= ?2 AND format = 1 LIMIT ?3) RETURNING id"),
		listUser: named(list + " AND user = ?4 AND user <> '' ORDER BY created DESC, id LIMIT ?5"),
		listAll:  named(list + " ORDER BY created DESC, id LIMIT ?4"),
		count: named("SELECT coalesce(sum(user = ''), 0), coalesce(sum(user <> '' AND NOT remember), 0), coalesce(sum(user <> '' AND remember), 0)" +
			" FROM {sessions} WHERE idle <> 0 AND expires > ?1 AND format = 1"),
		check: named("SELECT auth FROM {sessions} WHERE id = ?1 AND idle <> 0 AND expires > ?2 AND format = 1"),
	}
}

func tenMinutes(t time.Time) int64 {
	const length = int64(10 * time.Minute / time.Microsecond)
	us := t.UnixMicro()
	if us < 0 {
		us -= length - 1 // so that the division rounds down
	}
	return us / length
}

// bindRecord binds what insert and update take. text is the encoded values.
func bindRecord(st *zs.Stmt, rec *session.Record, text []byte) {
	st.BindText(1, string(rec.ID))
	st.BindText(2, rec.User)
	st.BindInt64(3, rec.Created.UnixMicro())
	st.BindInt64(4, rec.Seen.UnixMicro())
	st.BindInt64(5, rec.Expires.UnixMicro())
	bindTime(st, 6, rec.SignedIn)
	st.BindBool(7, rec.Remember)
	addr := ""
	if rec.Addr.IsValid() {
		addr = rec.Addr.String()
	}
	st.BindText(8, addr)
	st.BindText(9, rec.Agent)
	st.BindInt64(10, rec.Idle.Microseconds())
	st.BindInt64(11, rec.Absolute.UnixMicro())
	st.BindInt64(12, rec.Auth)
	st.BindBytes(13, rec.Secret[:])
	if rec.OldSecret == (session.Hash{}) {
		st.BindNull(14)
	} else {
		st.BindBytes(14, rec.OldSecret[:])
	}
	bindTime(st, 15, rec.OldUntil)
	st.BindInt64(16, rec.Version)
	bindText(st, 17, text)
	st.BindInt64(18, tenMinutes(rec.Expires))
}

// bindTime binds a time that is often zero, as NULL then: easier to read.
func bindTime(st *zs.Stmt, param int, t time.Time) {
	if t.IsZero() {
		st.BindNull(param)
	} else {
		st.BindInt64(param, t.UnixMicro())
	}
}

// bindText binds text, of which the driver takes a copy, without another one.
func bindText(st *zs.Stmt, param int, text []byte) {
	st.BindText(param, unsafe.String(unsafe.SliceData(text), len(text)))
}

// A formatError reports a row written by another version of this program.
func formatError(id session.ID, got int64) error {
	return fmt.Errorf("the row of session %q has format %d and this program knows %d; was a newer one running?", id, got, format)
}

func brokenError(id session.ID, column string, err error) error {
	return fmt.Errorf("the row of session %q is broken: %s: %w", id, column, err)
}

// scanRecord reads the row st stands at. id is what was asked for.
func scanRecord(st *zs.Stmt, id session.ID) (*session.Record, error) {
	const values = 17
	rec := new(session.Record)
	text, err := scanInfo(st, &rec.Info, id, st.ColumnLen(values))
	if err != nil {
		return nil, err
	}
	rec.Idle = time.Duration(st.ColumnInt64(10)) * time.Microsecond
	rec.Absolute = microTime(st.ColumnInt64(11))
	rec.Auth = st.ColumnInt64(12)
	if n := st.ColumnBytes(13, rec.Secret[:]); n != len(rec.Secret) || st.ColumnLen(13) != n {
		return nil, brokenError(id, "secret", fmt.Errorf("%d bytes, not %d", st.ColumnLen(13), len(rec.Secret)))
	}
	if n := st.ColumnBytes(14, rec.OldSecret[:]); n != 0 && (n != len(rec.OldSecret) || st.ColumnLen(14) != n) {
		return nil, brokenError(id, "old_secret", fmt.Errorf("%d bytes, not %d", st.ColumnLen(14), len(rec.OldSecret)))
	}
	rec.OldUntil = scanTime(st, 15)
	rec.Version = st.ColumnInt64(16)
	text = text[:st.ColumnBytes(values, text)]
	if rec.Values, err = sqlstore.ParseValues(text); err != nil {
		return nil, brokenError(id, "values", err)
	}
	return rec, nil
}

// scanInfo reads the columns of info and returns room for more bytes, which is
// part of the one buffer that holds every text of the row.
func scanInfo(st *zs.Stmt, info *session.Info, id session.ID, more int) ([]byte, error) {
	const user, addr, agent = 2, 8, 9
	nUser, nAddr, nAgent := st.ColumnLen(user), st.ColumnLen(addr), st.ColumnLen(agent)
	nID := st.ColumnLen(0)
	buf := make([]byte, nID+nUser+nAddr+nAgent+more)
	text := func(col, n int) string {
		s := buf[:n:n]
		buf = buf[n:]
		st.ColumnBytes(col, s)
		return unsafe.String(unsafe.SliceData(s), n)
	}
	// The ID is compared, since the worst a session store can do is to serve one
	// visitor the record of another.
	info.ID = session.ID(text(0, nID))
	if id != "" && info.ID != id {
		return nil, brokenError(id, "id", fmt.Errorf("it is %q", info.ID))
	}
	if f := st.ColumnInt64(1); f != format {
		return nil, formatError(info.ID, f)
	}
	info.User = text(user, nUser)
	info.Created = microTime(st.ColumnInt64(3))
	info.Seen = microTime(st.ColumnInt64(4))
	info.Expires = microTime(st.ColumnInt64(5))
	info.SignedIn = scanTime(st, 6)
	info.Remember = st.ColumnInt64(7) != 0
	if nAddr > 0 {
		var err error
		if info.Addr, err = netip.ParseAddr(text(addr, nAddr)); err != nil {
			return nil, brokenError(info.ID, "addr", err)
		}
	}
	info.Agent = text(agent, nAgent)
	return buf, nil
}

func microTime(us int64) time.Time { return time.UnixMicro(us).UTC() }

func scanTime(st *zs.Stmt, col int) time.Time {
	us := st.ColumnInt64(col)
	if us == 0 && st.ColumnIsNull(col) {
		return time.Time{}
	}
	return microTime(us)
}
