package redis

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/crumb-go/crumb/session"
)

// The scripts do what Change.Apply and Touch.Apply do, on records and changes made
// at random with a liking for edges. The seed of a failure is printed and can be
// given again in STORETEST_SEED.
func TestTheScriptsDoWhatApplyDoes(t *testing.T) {
	const workers = 8
	seed := rand.Uint64()
	if s := os.Getenv("STORETEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	eachServer(t, func(t *testing.T, url string) {
		s, each := openNew(t, url), 400
		if s.client().Mode() == rueidis.ClientModeCluster { // the scripts are the same
			each = 50
		}
		now := time.Now().UTC().Truncate(time.Microsecond)
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				d := &dice{rand.New(rand.NewPCG(seed, uint64(w))), now}
				for i := range each {
					if wrong := d.try(t, s, session.ID(fmt.Sprintf("%d-%d", w, i))); wrong != "" {
						t.Errorf("STORETEST_SEED=%d, worker %d, try %d: %s", seed, w, i, wrong)
						return
					}
				}
			})
		}
		wg.Wait()
	})
}

type dice struct {
	*rand.Rand
	now time.Time
}

// try stores a record, changes it, and says what differs from Apply.
func (d *dice) try(t *testing.T, s *Store, id session.ID) string {
	rec := d.record(id)
	if err := s.Create(t.Context(), rec); err != nil {
		return fmt.Sprintf("Create of %+v: %v", rec, err)
	}
	var want, got *session.Record
	var wantErr, err error
	var what string
	if d.one(5) {
		touch := session.Touch{ID: id, Seen: d.time()}
		what = fmt.Sprintf("%+v", touch)
		want, _ = touch.Apply(rec)
		got, err = want, s.Touch(t.Context(), []session.Touch{touch})
	} else {
		c := d.change(rec)
		what = fmt.Sprintf("%+v", c)
		want, wantErr = c.Apply(rec)
		got, err = s.Update(t.Context(), d.base(rec), c)
	}
	stored, loadErr := s.Load(t.Context(), id)
	after := want
	if wantErr != nil {
		after = rec
	}
	switch {
	case fmt.Sprint(err) != fmt.Sprint(wantErr):
		return fmt.Sprintf("%+v\nto %+v:\nerror %v, not %v", what, rec, err, wantErr)
	case loadErr != nil || !same(stored, after):
		return fmt.Sprintf("%+v\nto %+v:\nstored is %+v, %v\nnot %+v", what, rec, stored, loadErr, after)
	case !same(got, want):
		return fmt.Sprintf("%+v\nto %+v:\nreturned was %+v\nnot %+v", what, rec, got, want)
	}
	return ""
}

// same compares byte for byte; no values and an empty list of them are the same.
func same(a, b *session.Record) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, y := *a, *b
	x.Values, y.Values = nil, nil
	return reflect.DeepEqual(x, y) && slices.EqualFunc(a.Values, b.Values, func(v, w session.Value) bool {
		return v.Key == w.Key && bytes.Equal(v.JSON, w.JSON)
	})
}

func (d *dice) one(n int) bool { return d.IntN(n) == 0 }

func pick[T any](d *dice, list ...T) T { return list[d.IntN(len(list))] }

// time returns one of few times around now, so that many are equal or next to each
// other, none of them so far back that Redis drops what expired then.
func (d *dice) time() time.Time {
	return d.now.Add(time.Duration(d.IntN(7)-3) * pick(d, time.Microsecond, time.Second, 10*time.Minute))
}

func (d *dice) until() time.Time {
	return d.time().Add(pick(d, time.Minute, time.Hour, 365*24*time.Hour))
}

func (d *dice) idle() time.Duration {
	return pick(d, time.Minute, time.Hour, time.Hour+time.Microsecond, 30*24*time.Hour)
}

func (d *dice) hash() (h session.Hash) {
	if n := d.IntN(4); n > 0 {
		h[0], h[31] = byte(n), '\n'
	}
	return h
}

func (d *dice) user() string { return pick(d, "", "ana", "Ana ", "a\x00\r\n b") }

func (d *dice) large() int64 {
	return pick[int64](d, 0, 1, 1<<53-1, 1<<53, 1<<53+1, 1<<62+1, math.MaxInt64-1, 999_999_999_999_999, 9_999_999_999, 10_000_000_000)
}

func (d *dice) addr() netip.Addr {
	return pick(d, netip.Addr{}, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("::ffff:192.0.2.1"), netip.MustParseAddr("fe80::1%eth 0"))
}

func (d *dice) record(id session.ID) *session.Record {
	rec := &session.Record{
		Info: session.Info{
			ID: id, User: d.user(), Created: d.time(), Seen: d.time(), Remember: d.one(2),
			Addr: d.addr(), Agent: pick(d, "", "agent", strings.Repeat("é", 128)),
		},
		Auth: d.large(), Version: d.large(), Secret: d.hash(), OldSecret: d.hash(),
		Idle: d.idle(), Absolute: d.until(),
	}
	if d.one(2) {
		rec.SignedIn, rec.OldUntil = d.time(), d.time()
	}
	rec.Expires = rec.Seen.Add(rec.Idle)
	if rec.Absolute.Before(rec.Expires) {
		rec.Expires = rec.Absolute
	}
	if d.one(12) {
		rec.Idle = 0
	}
	for _, key := range []string{"", "a", "a.", "a.b", "a.b\x00", "a.b.c", "ab.c", "facts", "n.n", "user", "é.é"} {
		if d.one(2) {
			rec.Values = append(rec.Values, session.Value{Key: key, JSON: []byte(d.value())})
		}
	}
	return rec
}

// value returns numbers as people and machines write them, and other text.
func (d *dice) value() string {
	if d.one(4) {
		return strconv.FormatInt(d.number(), 10)
	}
	return pick(d, "", "0", "-0", "+1", "-1", " 1", "1 ", "01", "-007", "00", "--1", "-", "1_000", "0x10", "1.0", "1e3",
		"9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809",
		"00009223372036854775807", "18446744073709551616", "99999999999999999999999999", strings.Repeat("0", 5000)+"7",
		"٣", "null", "[]", `"\u0000"`, "\x00\r\n\xff", "nan", "inf", "1\n", "1\x00")
}

func (d *dice) number() int64 {
	n := pick[int64](d, 0, 1, 2, 999, 1<<31, 9_999_999_999, 10_000_000_000, 10_000_000_001, 999_999_999_999_999, 1_000_000_000_000_000,
		1<<53-1, 1<<53, 1<<53+1, 9_223_372_036_854_775_000, math.MaxInt64-1, math.MaxInt64, d.Int64(), d.Int64N(1e12))
	switch d.IntN(3) {
	case 0:
		return -n
	case 1:
		return -n - 1
	}
	return n
}

// base returns what the caller of Update may have seen last.
func (d *dice) base(rec *session.Record) *session.Record {
	stale := *rec
	switch d.IntN(5) {
	case 0:
		return &session.Record{Info: session.Info{ID: rec.ID}}
	case 1:
		return &session.Record{Info: rec.Info}
	case 2:
		stale.Version--
		stale.Values, stale.Secret, stale.Agent = nil, session.Hash{9}, "before"
		return &stale
	}
	return rec
}

func (d *dice) change(rec *session.Record) *session.Change {
	c := &session.Change{Now: d.time(), Auth: rec.Auth, End: d.one(12)}
	if d.one(8) {
		c.Auth = d.large()
	}
	for !d.one(4) {
		c.Ops = append(c.Ops, d.op(rec))
	}
	if d.one(2) {
		c.Seen = d.time()
	}
	if d.one(3) {
		c.Idle = d.idle()
	}
	if d.one(3) {
		c.SignIn = &session.SignIn{User: d.user(), At: d.time(), Remember: d.one(2), Idle: d.idle(), Absolute: d.until()}
		if d.one(2) {
			c.SignIn.User = rec.User
		}
		for d.one(2) {
			c.SignIn.Keep = append(c.SignIn.Keep, pick(d, "", "a", "a.b", "é", "n", "."))
		}
	}
	if c.SignIn != nil && !d.one(6) || d.one(4) {
		c.Renew = &session.Renew{From: pick(d, rec.Secret, rec.Secret, rec.OldSecret, d.hash()), To: d.hash(), OldUntil: d.until()}
	}
	if d.one(4) {
		c.Came = &session.Came{Secret: pick(d, rec.Secret, rec.OldSecret), Until: d.time()}
	}
	c.Addr, c.Agent = d.addr(), pick(d, "", "", "another agent")
	if d.one(3) {
		c.MaxBytes = 1 + d.IntN(120)
	}
	return c
}

func (d *dice) op(rec *session.Record) session.Op {
	op := session.Op{
		Kind:  pick(d, session.OpSet, session.OpDelete, session.OpAdd, session.OpAdd, session.OpClear),
		Key:   pick(d, "", "a", "a.", "a.b", "a.b.c", "ab.c", "facts", "n.n", "secret", "é.é"),
		Value: []byte(d.value()),
		Delta: d.number(),
	}
	if d.one(2) {
		op.If = pick(d, session.OrFail, session.OrSkip, session.OrSkip)
		if op.Old = rec.Values.Get(op.Key); d.one(6) {
			op.Old = []byte(d.value())
		}
	}
	return op
}
