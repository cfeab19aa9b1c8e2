package sqlstore

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/crumb-go/crumb/session"
)

// format is the layout of a row that this program reads and writes. A row of
// another is neither served nor taken for absent.
const format = 1

// How long texts may be, in bytes. Engines limit what an index holds, and MySQL
// outside of its strict mode cuts a text without a word: a user could become
// another one.
const (
	maxID    = 64
	maxUser  = 1024
	maxAddr  = 255
	maxAgent = 1024
)

// isText reports whether the table can hold id: PostgreSQL refuses to compare what
// is no text.
func isText(id session.ID) bool {
	return utf8.ValidString(string(id)) && strings.IndexByte(string(id), 0) < 0
}

// checkRecord returns an error if the columns cannot hold a text of rec.
func checkRecord(rec *session.Record) error {
	if !isText(rec.ID) {
		return fmt.Errorf("the ID %q is no text", rec.ID)
	}
	for _, text := range []struct {
		name string
		size int
		max  int
	}{
		{"ID", len(rec.ID), maxID},
		{"user", len(rec.User), maxUser},
		{"address", len(addrText(rec.Addr)), maxAddr},
		{"agent", len(rec.Agent), maxAgent},
	} {
		if text.size > text.max {
			return fmt.Errorf("the %s of session %.64q has %d bytes; the column holds %d", text.name, rec.ID, text.size, text.max)
		}
	}
	return nil
}

// tenMinutes is the column expires_10min, by which sweeps find what expired: so
// coarse that the index seldom changes when a session is seen.
func tenMinutes(expires time.Time) int64 {
	const length = int64(10 * time.Minute / time.Microsecond)
	us := expires.UnixMicro()
	if us < 0 {
		us -= length - 1 // so that the division rounds down
	}
	return us / length
}

// onlyUsual reports whether nothing but values, seen, expires and version differ
// between two records of one session, and expires too little for its index.
func onlyUsual(a, b *session.Record) bool {
	return a.User == b.User && a.Auth == b.Auth && a.Secret == b.Secret && a.OldSecret == b.OldSecret &&
		a.Idle == b.Idle && a.Remember == b.Remember && a.Addr == b.Addr && a.Agent == b.Agent &&
		a.Created.Equal(b.Created) && a.SignedIn.Equal(b.SignedIn) && a.OldUntil.Equal(b.OldUntil) &&
		a.Absolute.Equal(b.Absolute) && tenMinutes(a.Expires) == tenMinutes(b.Expires)
}

// sameValues reports whether b is a untouched. It may say no for equal ones.
func sameValues(a, b session.Values) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// recordArgs are the parameters that insert and update begin with.
func recordArgs(rec *session.Record) []any {
	var oldSecret any
	if rec.OldSecret != (session.Hash{}) {
		oldSecret = rec.OldSecret[:]
	}
	return []any{
		[]byte(rec.User), rec.Created.UnixMicro(), rec.Seen.UnixMicro(), rec.Expires.UnixMicro(), timeArg(rec.SignedIn),
		rec.Remember, addrText(rec.Addr), []byte(rec.Agent), rec.Idle.Microseconds(), rec.Absolute.UnixMicro(), rec.Auth,
		rec.Secret[:], oldSecret, timeArg(rec.OldUntil), rec.Version, tenMinutes(rec.Expires), valuesArg(rec),
	}
}

func valuesArg(rec *session.Record) []byte { return AppendValues(nil, rec.Values) }

// timeArg is a time that is often zero, as NULL then: easier to read.
func timeArg(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

func addrText(addr netip.Addr) string {
	if !addr.IsValid() {
		return ""
	}
	return addr.String()
}

func brokenError(id session.ID, column string, err error) error {
	return fmt.Errorf("the row of session %q is broken: %s: %w", id, column, err)
}

// A row is what columns are scanned into.
type row struct {
	id                     string
	format                 int64
	user                   []byte
	created, seen, expires int64
	signedIn               *int64
	remember               bool
	addr                   string
	agent                  []byte

	idle, absolute, auth int64
	secret, oldSecret    []byte
	oldUntil             *int64
	version              int64
	values               []byte
}

// scanInfo reads the columns of infoColumns. id is what was asked for, "" if the
// row may be any.
func scanInfo(scan Scan, id session.ID) (session.Info, error) {
	var r row
	if err := scan(&r.id, &r.format, &r.user, &r.created, &r.seen, &r.expires, &r.signedIn, &r.remember, &r.addr, &r.agent); err != nil {
		return session.Info{}, err
	}
	return r.info(id)
}

// scanRecord reads the columns of recordColumns.
func scanRecord(scan Scan, id session.ID) (*session.Record, error) {
	var r row
	if err := scan(&r.id, &r.format, &r.user, &r.created, &r.seen, &r.expires, &r.signedIn, &r.remember, &r.addr, &r.agent,
		&r.idle, &r.absolute, &r.auth, &r.secret, &r.oldSecret, &r.oldUntil, &r.version, &r.values); err != nil {
		return nil, err
	}
	return r.record(id)
}

func (r *row) info(id session.ID) (info session.Info, err error) {
	// The ID is compared, since the worst a session store can do is to serve one
	// visitor the record of another.
	if id != "" && session.ID(r.id) != id {
		return info, brokenError(id, "id", fmt.Errorf("it is %q", r.id))
	}
	if r.format != format {
		return info, fmt.Errorf("the row of session %q has format %d and this program knows %d; was a newer one running?", r.id, r.format, format)
	}
	info = session.Info{
		ID: session.ID(r.id), User: string(r.user), Created: microTime(r.created), Seen: microTime(r.seen),
		Expires: microTime(r.expires), SignedIn: scanTime(r.signedIn), Remember: r.remember, Agent: string(r.agent),
	}
	if r.addr != "" {
		if info.Addr, err = netip.ParseAddr(r.addr); err != nil {
			return info, brokenError(info.ID, "addr", err)
		}
	}
	return info, nil
}

func (r *row) record(id session.ID) (rec *session.Record, err error) {
	info, err := r.info(id)
	if err != nil {
		return nil, err
	}
	rec = &session.Record{
		Info: info, Idle: time.Duration(r.idle) * time.Microsecond, Absolute: microTime(r.absolute),
		Auth: r.auth, OldUntil: scanTime(r.oldUntil), Version: r.version,
	}
	if n := copy(rec.Secret[:], r.secret); n != len(rec.Secret) || n != len(r.secret) {
		return nil, brokenError(id, "secret", fmt.Errorf("%d bytes, not %d", len(r.secret), len(rec.Secret)))
	}
	if n := copy(rec.OldSecret[:], r.oldSecret); r.oldSecret != nil && (n != len(rec.OldSecret) || n != len(r.oldSecret)) {
		return nil, brokenError(id, "old_secret", fmt.Errorf("%d bytes, not %d", len(r.oldSecret), len(rec.OldSecret)))
	}
	if rec.Values, err = ParseValues(r.values); err != nil {
		return nil, brokenError(id, "values", err)
	}
	return rec, nil
}

func microTime(us int64) time.Time { return time.UnixMicro(us).UTC() }

func scanTime(us *int64) time.Time {
	if us == nil {
		return time.Time{}
	}
	return microTime(*us)
}
