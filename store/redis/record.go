package redis

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/crumb-go/crumb/session"
)

// The fields of the hash that is a record. A value stands under its key with a dot
// before it, so that no key is taken for one of these.
const (
	factsField  = "facts"
	secretField = "secret"
	oldField    = "old"
	userField   = "user"
	addrField   = "addr"
	agentField  = "agent"
)

// infoFields are those that [session.Info] needs.
var infoFields = []string{factsField, userField, addrField, agentField}

// format is what the facts of a record begin with. A program that does not know a
// format leaves the record alone and returns an error: the cookie stays.
const format = "1"

// factCount is how many facts there are, the format included. They are numbers in
// decimal, times and durations in microseconds, and the ID at last:
//
//	1 version created auth seen idle expires absolute untilold size signedin remember id
//
// They share a field because every change moves some of them, and because a hash
// with a field for each takes more than twice the memory.
const factCount = 13

// maxMicros bounds times and durations: the scripts count in floating point.
const maxMicros = 1 << 53

// An encoder writes numbers as text and remembers what does not fit.
type encoder struct{ err error }

// time returns t in microseconds; a zero time is 0.
func (e *encoder) time(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	n := t.UnixMicro()
	if n <= 0 || n >= maxMicros {
		e.err = fmt.Errorf("redis: a time of %s: only those from 1970 to 2255 can be kept", t)
	}
	return n
}

func (e *encoder) duration(d time.Duration) int64 {
	if d < 0 {
		e.err = fmt.Errorf("redis: an idle time of %s: it must not be negative", d)
	}
	return d.Microseconds()
}

func (e *encoder) text(t time.Time) string { return strconv.FormatInt(e.time(t), 10) }

// encode returns the fields of rec, each behind its name.
func (e *encoder) encode(rec *session.Record) []string {
	fields := make([]string, 0, 12+2*len(rec.Values))
	fields = append(fields, factsField, e.facts(rec), secretField, string(rec.Secret[:]))
	if rec.OldSecret != (session.Hash{}) {
		fields = append(fields, oldField, string(rec.OldSecret[:]))
	}
	if rec.User != "" {
		fields = append(fields, userField, rec.User)
	}
	if rec.Addr.IsValid() {
		fields = append(fields, addrField, rec.Addr.String())
	}
	if rec.Agent != "" {
		fields = append(fields, agentField, rec.Agent)
	}
	for _, v := range rec.Values {
		fields = append(fields, "."+v.Key, string(v.JSON))
	}
	return fields
}

func (e *encoder) facts(rec *session.Record) string {
	remember := int64(0)
	if rec.Remember {
		remember = 1
	}
	b := append(make([]byte, 0, 160), format...)
	for _, n := range [...]int64{
		rec.Version, e.time(rec.Created), rec.Auth, e.time(rec.Seen), e.duration(rec.Idle), e.time(rec.Expires),
		e.time(rec.Absolute), e.time(rec.OldUntil), size(rec.Values), e.time(rec.SignedIn), remember,
	} {
		b = strconv.AppendInt(append(b, ' '), n, 10)
	}
	return string(append(append(b, ' '), rec.ID...))
}

// size is how many bytes the values have with their keys.
func size(vs session.Values) (n int64) {
	for _, v := range vs {
		n += int64(len(v.Key) + len(v.JSON))
	}
	return n
}

// dropAt is when Redis drops a record, in milliseconds, as record.lua has it.
func dropAt(expires time.Time) int64 {
	const step = 10 * time.Minute
	return (expires.UnixMicro()/step.Microseconds()+1)*step.Milliseconds() + skew.Milliseconds()
}

var errBroken = errors.New("its fields are not those of a record")

// decode returns the record of id that fields hold, names and contents in turns.
func decode(id session.ID, fields []string) (*session.Record, error) {
	rec := &session.Record{}
	facts := ""
	if n := len(fields)/2 - 2; n > 0 {
		rec.Values = make(session.Values, 0, n)
	}
	for i := 0; i+1 < len(fields); i += 2 {
		name, value := fields[i], fields[i+1]
		var err error
		switch name {
		case factsField:
			facts = value
		case secretField:
			err = decodeHash(&rec.Secret, value)
		case oldField:
			err = decodeHash(&rec.OldSecret, value)
		case userField:
			rec.User = value
		case addrField:
			rec.Addr, err = netip.ParseAddr(value)
		case agentField:
			rec.Agent = value
		default:
			if key, ok := strings.CutPrefix(name, "."); ok {
				rec.Values = append(rec.Values, session.Value{Key: key, JSON: bytesOf(value)})
			}
		}
		if err != nil {
			return nil, fmt.Errorf("session %s: field %s: %w", id, name, err)
		}
	}
	if err := decodeFacts(rec, facts); err != nil {
		return nil, fmt.Errorf("session %s: %w", id, err)
	}
	if rec.ID != id {
		return nil, fmt.Errorf("the server answered with session %s when asked for %s", rec.ID, id)
	}
	slices.SortFunc(rec.Values, func(a, b session.Value) int { return strings.Compare(a.Key, b.Key) })
	if len(rec.Values) == 0 {
		rec.Values = nil
	}
	return rec, nil
}

// bytesOf returns the bytes of s without a copy: nobody changes those of a value.
func bytesOf(s string) []byte {
	if s == "" {
		return []byte{}
	}
	return unsafe.Slice(unsafe.StringData(s), len(s))
}

// decodeInfo returns what the contents of [infoFields] say.
func decodeInfo(id session.ID, contents []string) (*session.Record, error) {
	fields := make([]string, 0, 2*len(contents))
	for i, content := range contents {
		if content != "" {
			fields = append(fields, infoFields[i], content)
		}
	}
	return decode(id, fields)
}

func decodeFacts(rec *session.Record, text string) error {
	found, rest, _ := strings.Cut(text, " ")
	if found != format {
		return fmt.Errorf("format %q is not known to this program, which knows %s; is a newer one running beside it?", found, format)
	}
	var n [factCount - 2]int64
	for i := range n {
		field, after, ok := strings.Cut(rest, " ")
		var err error
		if n[i], err = strconv.ParseInt(field, 10, 64); err != nil || !ok {
			return errBroken
		}
		rest = after
	}
	rec.Version, rec.Created, rec.Auth, rec.Seen = n[0], decodeTime(n[1]), n[2], decodeTime(n[3])
	rec.Idle, rec.Expires, rec.Absolute = time.Duration(n[4])*time.Microsecond, decodeTime(n[5]), decodeTime(n[6])
	rec.OldUntil, rec.SignedIn, rec.Remember = decodeTime(n[7]), decodeTime(n[9]), n[10] == 1
	rec.ID = session.ID(rest)
	return nil
}

func decodeTime(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}

func decodeHash(h *session.Hash, value string) error {
	if len(value) != len(h) {
		return errBroken
	}
	copy(h[:], value)
	return nil
}
