package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/crumb-go/crumb/session"
)

// epoch is when all histories take place: stores have no clock.
var epoch = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// A caller calls a store as requests do, from what it last saw of a session.
type caller struct {
	n     int // the client
	calls int
	store session.Store
	rec   *recorder
	rng   *rand.Rand
	id    session.ID
	seen  *session.Record
	ends  int // one call in so many ends the session; 0 is none
}

// oneRecord is what a history begins with.
func oneRecord(id session.ID) *session.Record {
	return &session.Record{
		Info: session.Info{ID: id, Created: epoch, Seen: epoch, Expires: epoch.Add(time.Hour),
			Addr: netip.MustParseAddr("192.0.2.1"), Agent: "soak"},
		Secret: session.Hash{1}, Idle: time.Hour, Absolute: epoch.Add(1000 * time.Hour), Version: 1,
		Values: session.Values{{Key: "soak.n", JSON: json.RawMessage("0")}},
	}
}

// do makes one call and records both ends of it.
func (c *caller) do(ctx context.Context, in *call) (answer, error) {
	in.ID = c.id
	n := c.calls
	c.calls++
	if err := c.rec.add(event{Client: c.n, N: n, Call: in}); err != nil {
		return answer{}, err
	}
	var rec *session.Record
	var err error
	switch in.What {
	case "create":
		err = c.store.Create(ctx, in.Rec)
	case "load":
		rec, err = c.store.Load(ctx, c.id)
	case "update":
		rec, err = c.store.Update(ctx, c.base(), in.Change)
	case "touch":
		err = c.store.(session.Toucher).Touch(ctx, []session.Touch{in.Touch})
	case "delete":
		err = c.store.Delete(ctx, c.id)
	}
	out := answer{Err: errWord(err), Rec: rec}
	if out.Err == errRefused {
		return out, fmt.Errorf("%s: %w", in.What, err)
	}
	if rec != nil {
		c.seen = rec
	}
	return out, c.rec.add(event{Client: c.n, N: n, Answer: &out})
}

func (c *caller) base() *session.Record {
	if c.seen == nil {
		return oneRecord(c.id)
	}
	return c.seen
}

// next makes a call at random.
func (c *caller) next(ctx context.Context) error {
	at := epoch.Add(time.Duration(c.rng.IntN(1000)) * time.Second)
	in := &call{What: "update"}
	switch r := c.rng.IntN(200); {
	case c.seen == nil || r < 20:
		in.What = "load"
	case r < 26:
		in.What, in.Touch = "touch", session.Touch{ID: c.id, Seen: at}
	case r < 28:
		in.What, in.Rec = "create", oneRecord(c.id)
	case c.ends > 0 && c.rng.IntN(c.ends) == 0:
		if in.Change = (&session.Change{Now: at, End: true}); r < 50 {
			in.What = "delete"
		}
	default:
		in.Change = c.change(at)
	}
	_, err := c.do(ctx, in)
	return err
}

// change makes up what a request could have done.
func (c *caller) change(at time.Time) *session.Change {
	ch := &session.Change{Now: at, Auth: c.base().Auth, Seen: at, MaxBytes: 64 << 10}
	switch c.rng.IntN(60) {
	case 0:
		ch.SignIn = &session.SignIn{User: "ann", At: at, Idle: time.Hour, Absolute: at.Add(24 * time.Hour), Keep: []string{"soak"}}
		ch.Renew = &session.Renew{From: c.base().Secret, To: c.secret(), OldUntil: at}
	case 1:
		ch.Renew = &session.Renew{From: c.base().Secret, To: c.secret(), OldUntil: c.base().Absolute}
	case 2:
		ch.Came = &session.Came{Secret: c.base().Secret, Until: at.Add(10 * time.Second)}
	case 3:
		ch.Addr, ch.Agent = netip.AddrFrom16([16]byte{0: 0x20, 15: byte(c.n)}), "soak "+strconv.Itoa(c.calls)
	}
	for range 1 + c.rng.IntN(2) {
		ch.Ops = append(ch.Ops, c.op())
	}
	return ch
}

func (c *caller) secret() session.Hash {
	return session.Hash{2, byte(c.n), byte(c.calls), byte(c.calls >> 8)}
}

func (c *caller) op() session.Op {
	if c.rng.IntN(3) == 0 {
		return session.Op{Kind: session.OpAdd, Key: "soak.n", Delta: 1 + c.rng.Int64N(9)}
	}
	key := []string{"soak.a", "soak.b", "soak.cart.x", "soak.cart.y"}[c.rng.IntN(4)]
	op := session.Op{Kind: session.OpSet, Key: key, Value: c.value()}
	switch c.rng.IntN(10) {
	case 0, 1:
		op.Kind, op.Value = session.OpDelete, nil
	case 2:
		op = session.Op{Kind: session.OpClear, Key: "soak.cart"}
	case 3, 4: // Update
		op.If, op.Old = session.OrFail, c.base().Values.Get(key)
	case 5, 6: // Take
		op.Kind, op.Value, op.If, op.Old = session.OpDelete, nil, session.OrFail, c.base().Values.Get(key)
	case 7: // Pop
		op.Kind, op.Value, op.If, op.Old = session.OpDelete, nil, session.OrSkip, c.base().Values.Get(key)
	}
	return op
}

// value is unlike any other of the history.
func (c *caller) value() json.RawMessage {
	return json.RawMessage(`"` + strconv.Itoa(c.n) + "." + strconv.Itoa(c.calls) + `"`)
}

// callAtOnce has clients make calls each, all on one session, and returns what
// happened.
func callAtOnce(ctx context.Context, st session.Store, id session.ID, clients, calls, ends int, seed uint64) ([]event, error) {
	var events []event
	rec := &recorder{to: func(e event) error {
		events = append(events, e)
		return nil
	}}
	first := caller{n: clients, store: st, rec: rec, id: id}
	if _, err := first.do(ctx, &call{What: "create", Rec: oneRecord(id)}); err != nil {
		return nil, err
	}
	var all sync.WaitGroup
	errs := make(chan error, clients)
	for i := range clients {
		all.Go(func() {
			c := caller{n: i, store: st, rec: rec, id: id, ends: ends, rng: rand.New(rand.NewPCG(seed, uint64(i)))}
			for range calls {
				if err := c.next(ctx); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	all.Wait()
	close(errs)
	return events, <-errs
}
