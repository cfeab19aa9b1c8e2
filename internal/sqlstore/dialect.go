package sqlstore

import (
	"fmt"
	"strconv"
	"strings"
)

// A Dialect is what one engine says otherwise than another. In its statements
// {sessions} is the table, and parameters are as the engine has them.
type Dialect struct {
	Name     string // of the store, which begins every error
	Quote    string // what stands around a name
	Numbered bool   // parameters are $1, $2 and so on
	Arrays   bool   // a list is one parameter

	// Insert follows the values of an INSERT, so that a taken ID inserts no row,
	// if the engine has such a clause.
	Insert string

	// Sweep deletes what expired. Its parameters: the expires_10min of the time,
	// the time, and how many at most.
	Sweep string

	// In completes "id" in a condition: one of n.
	In func(n int) string

	// Touch moves seen-times forward, of rows locked in the order of their IDs. Its
	// parameters: n IDs and n times as two arrays, or else in pairs.
	Touch func(n int) string
}

// maxPrefix keeps the names of indexes under the 63 bytes that PostgreSQL cuts
// them to, without a word.
const maxPrefix = 40

// CheckPrefix returns an error unless names can begin with prefix.
func CheckPrefix(prefix string) error {
	for i, c := range []byte(prefix) {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return fmt.Errorf("table prefix %q: use ASCII letters, digits and underscores, and no digit first", prefix)
		}
	}
	if len(prefix) > maxPrefix {
		return fmt.Errorf("table prefix %q: use at most %d characters, not %d", prefix, maxPrefix, len(prefix))
	}
	return nil
}

// statements holds the SQL of one dialect and one table prefix.
type statements struct {
	dialect *Dialect
	prefix  string

	load, lock, insert, delete, sweep string
	update, updateValues, updateSeen  string
	listUser, listAll, count, survey  string
}

// The order of infoColumns and recordColumns is that of scanInfo and scanRecord.
const (
	infoColumns   = `id, format, "user", created, seen, expires, signed_in, remember, addr, agent`
	recordColumns = infoColumns + `, idle, absolute, auth, secret, old_secret, old_until, version, "values"`
)

func newStatements(d *Dialect, prefix string) *statements {
	s := &statements{dialect: d, prefix: prefix}
	const (
		// That the version is that of the record says that the rest is, too, but for
		// an erased record with the same ID, and for a state of the same version that
		// a failover lost: sign-ins and renewals set another secret, ends another
		// absolute limit, all other changes another time of being seen, unless the
		// clock that they went by is behind by more than the failover took. None of
		// these has an index: MySQL would lock the row by way of that, against those
		// who go by the ID, and they would deadlock.
		unchanged = " WHERE id = ? AND version = ? AND secret = ? AND absolute = ? AND seen = ? AND format = 1"

		list = "SELECT " + infoColumns + " FROM {sessions} WHERE idle <> 0 AND expires > ?" +
			" AND created <= ? AND (created < ? OR id > ?)"
	)
	s.load = s.text("SELECT " + recordColumns + " FROM {sessions} WHERE id = ?")
	s.lock = s.text("SELECT " + recordColumns + " FROM {sessions} WHERE id = ? FOR UPDATE")
	s.insert = s.text(`INSERT INTO {sessions} ("user", created, seen, expires, signed_in, remember, addr, agent,` +
		` idle, absolute, auth, secret, old_secret, old_until, version, expires_10min, "values", id, format)` +
		" VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1) " + d.Insert)
	s.update = s.text(`UPDATE {sessions} SET "user" = ?, created = ?, seen = ?, expires = ?, signed_in = ?,` +
		" remember = ?, addr = ?, agent = ?, idle = ?, absolute = ?, auth = ?, secret = ?," +
		` old_secret = ?, old_until = ?, version = ?, expires_10min = ?, "values" = ?` + unchanged)
	// What a request usually changes. Neither touches a column of an index.
	s.updateValues = s.text(`UPDATE {sessions} SET seen = ?, expires = ?, version = ?, "values" = ?` + unchanged)
	s.updateSeen = s.text("UPDATE {sessions} SET seen = ?, expires = ?, version = ?" + unchanged)
	s.delete = s.text("DELETE FROM {sessions} WHERE id = ?")
	s.sweep = s.text(d.Sweep)
	s.listUser = s.text(list + ` AND "user" = ? AND "user" <> '' ORDER BY created DESC, id LIMIT ?`)
	s.listAll = s.text(list + " ORDER BY created DESC, id LIMIT ?")
	s.count = s.text("SELECT " + sum(`"user" = ''`) + ", " + sum(`"user" <> '' AND NOT remember`) + ", " + sum(`"user" <> '' AND remember`) +
		" FROM {sessions} WHERE idle <> 0 AND expires > ? AND format = 1")
	s.survey = s.text("SELECT " + sum("idle <> 0 AND expires > ?") + ", " + sum("expires < ? AND format = 1") + ", " +
		sum("created > ?") + ", coalesce(max(created), 0) FROM {sessions}")
	return s
}

// sum counts the rows for which a condition holds.
func sum(condition string) string {
	return "coalesce(sum(CASE WHEN " + condition + " THEN 1 ELSE 0 END), 0)"
}

func (s *statements) touch(n int) string { return s.text(s.dialect.Touch(n)) }

func (s *statements) check(n int) string {
	return s.text("SELECT id, auth FROM {sessions} WHERE id " + s.dialect.In(n) + " AND idle <> 0 AND expires > ? AND format = 1")
}

// text translates a statement into what the engine reads: {sessions} is the table,
// ? a parameter and "name" a name that is a reserved word somewhere.
func (s *statements) text(sql string) string {
	sql = strings.NewReplacer("{sessions}", s.prefix+"sessions", `"`, s.dialect.Quote).Replace(sql)
	if !s.dialect.Numbered {
		return sql
	}
	var b strings.Builder
	for n, part := range strings.Split(sql, "?") {
		if n > 0 {
			b.WriteString("$" + strconv.Itoa(n))
		}
		b.WriteString(part)
	}
	return b.String()
}
