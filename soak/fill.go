package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crumb-go/crumb/session"
)

// usersSessions is how many sessions each user has among those of fill; one in
// five is a user's, the others are visitors'.
const usersSessions = 20

// A filling makes sessions of eight values, like those the project's other
// figures are about.
type filling struct {
	now     time.Time
	expired bool // two hours ago
	prefix  string
}

func (fl *filling) id(n int) session.ID {
	// Scattered, as random ones are: n times an odd number is a permutation of
	// the 64-bit numbers.
	return session.ID(fl.prefix + fmt.Sprintf("%015x", uint64(n+1)*0x9E3779B97F4A7C15>>4))
}

func userOf(n int) string { return fmt.Sprintf("user-%d", n/(5*usersSessions)) }

// record makes the n-th session. Nothing of it is shared with another but the
// names of the keys, as in an app.
func (fl *filling) record(n int) *session.Record {
	seen := fl.now.Add(-time.Duration(n%600) * time.Second).Truncate(time.Microsecond)
	if fl.expired {
		seen = seen.Add(-3 * time.Hour)
	}
	rec := &session.Record{
		Info: session.Info{ID: fl.id(n), Created: seen.Add(-time.Duration(n) * time.Microsecond), Seen: seen, Expires: seen.Add(time.Hour),
			Addr: netip.AddrFrom4([4]byte{192, 0, byte(n >> 8), byte(n)}), Agent: strings.Clone(fillAgent)},
		Secret: session.Hash{byte(n), byte(n >> 8), byte(n >> 16), 1}, Idle: time.Hour, Absolute: seen.Add(24 * time.Hour), Version: 1,
	}
	if n%5 == 0 {
		rec.User, rec.SignedIn, rec.Auth = userOf(n), seen, 1
	}
	rec.Values = make(session.Values, len(fillKeys))
	for i, key := range fillKeys {
		rec.Values[i] = session.Value{Key: key, JSON: json.RawMessage(strings.Clone(fillValues[i]))}
	}
	return rec
}

const fillAgent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"

var (
	fillKeys   = []string{"soak.v0", "soak.v1", "soak.v2", "soak.v3", "soak.v4", "soak.v5", "soak.v6", "soak.v7"}
	fillValues = []string{"1", `"dark"`, "[1,2,3]", `{"name":"Ann","roles":["a","b"]}`, "true", `"2026-11-22T12:00:00Z"`, `"x"`, "12345678"}
)

// dataBytes is what a session of fill holds itself: ID, user, user agent, keys
// and values.
func dataBytes(rec *session.Record) (n int) {
	for _, v := range rec.Values {
		n += len(v.Key) + len(v.JSON)
	}
	return n + len(rec.ID) + len(rec.User) + len(rec.Agent)
}

// A copier fills a database in the server's own way, where a million commits would
// take a quarter of an hour.
type copier interface {
	copy(ctx context.Context, fl *filling, from, to int, b *bar) error
}

// fill creates the sessions from..to-1 in st with 128 clients, or copies them.
func (fl *filling) fill(ctx context.Context, st session.Store, from, to int, b *bar) error {
	if c, ok := st.(copier); ok {
		return c.copy(ctx, fl, from, to, b)
	}
	var next, done atomic.Int64
	next.Store(int64(from))
	var all sync.WaitGroup
	const clients = 128
	errs := make([]error, clients)
	for i := range clients {
		all.Go(func() {
			for ctx.Err() == nil {
				n := int(next.Add(1)) - 1
				if n >= to {
					return
				}
				if errs[i] = st.Create(ctx, fl.record(n)); errs[i] != nil {
					return
				}
				b.at(int(done.Add(1)), to-from, "sessions made")
			}
		})
	}
	all.Wait()
	return errors.Join(errors.Join(errs...), ctx.Err())
}

func addOne(rec *session.Record, now time.Time) *session.Change {
	return &session.Change{Now: now, Auth: rec.Auth, Seen: now, Ops: []session.Op{{Kind: session.OpAdd, Key: "soak.v0", Delta: 1}}}
}
