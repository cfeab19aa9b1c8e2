package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/crumb-go/crumb/session"
)

// A lossy store loses answers, as a broken connection does: of every six calls
// one is made and its answer lost, one is never made, and one is made later, when
// its caller has long been told that nobody knows.
type lossy struct {
	session.Store
	mu   sync.Mutex // guards what follows
	rng  *rand.Rand
	off  bool
	lost map[string]int // by kind of call
	late []func()
}

func newLossy(st session.Store, seed uint64) *lossy {
	return &lossy{Store: st, rng: rand.New(rand.NewPCG(seed, 1)), lost: map[string]int{}}
}

type fate uint8

const (
	pass fate = iota
	loseAnswer
	loseCall
	delay
)

// roll decides the fate of a call, and returns a delayed call whose time has come.
func (l *lossy) roll(what string) (f fate, due func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.late); n > 0 && (l.off || l.rng.IntN(3) == 0) {
		i := l.rng.IntN(n)
		due, l.late[i] = l.late[i], l.late[n-1]
		l.late = l.late[:n-1]
	}
	if f = fate(l.rng.IntN(12)); f > delay || l.off {
		return pass, due
	}
	if f != pass {
		l.lost[what]++
	}
	return f, due
}

var errCut = fmt.Errorf("the connection broke: %w", session.ErrUnknown)

// do makes call according to its fate.
func (l *lossy) do(ctx context.Context, what string, call func(ctx context.Context) error) error {
	f, due := l.roll(what)
	if due != nil {
		due()
	}
	made, _ := ctx.Value(lostKey{}).(func(what string))
	lose := func(ctx context.Context) {
		if call(ctx) == nil && made != nil {
			made(what)
		}
	}
	switch f {
	case loseAnswer:
		lose(ctx)
		return errCut
	case delay:
		l.mu.Lock()
		defer l.mu.Unlock()
		detached := context.WithoutCancel(ctx)
		l.late = append(l.late, func() { lose(detached) })
		return errCut
	case loseCall:
		return errCut
	}
	return call(ctx)
}

// lostKey is where a context holds the function to call when a call of that kind
// has taken effect whose answer was lost.
type lostKey struct{}

// settle makes the calls that are still late, and loses no more.
func (l *lossy) settle() {
	l.mu.Lock()
	l.off = true
	l.mu.Unlock()
	for {
		_, due := l.roll("")
		if due == nil {
			return
		}
		due()
	}
}

func (l *lossy) Create(ctx context.Context, rec *session.Record) error {
	return l.do(ctx, "create", func(ctx context.Context) error { return l.Store.Create(ctx, rec) })
}

func (l *lossy) Load(ctx context.Context, id session.ID) (*session.Record, error) {
	var got *session.Record
	err := l.do(ctx, "load", func(ctx context.Context) (err error) {
		got, err = l.Store.Load(ctx, id)
		return err
	})
	if err == errCut { // got may be written to yet
		return nil, err
	}
	return got, err
}

func (l *lossy) Update(ctx context.Context, base *session.Record, c *session.Change) (*session.Record, error) {
	var got *session.Record
	err := l.do(ctx, kindOf(c), func(ctx context.Context) (err error) {
		got, err = l.Store.Update(ctx, base, c)
		return err
	})
	if err == errCut {
		return nil, err
	}
	return got, err
}

func (l *lossy) Delete(ctx context.Context, id session.ID) error {
	return l.do(ctx, "delete", func(ctx context.Context) error { return l.Store.Delete(ctx, id) })
}

// kindOf names what a change is for.
func kindOf(c *session.Change) string {
	switch {
	case c.End:
		return "end"
	case c.SignIn != nil:
		return "sign-in"
	case c.Renew != nil:
		return "renew"
	case len(c.Ops) == 0:
		return "seen"
	}
	op := c.Ops[len(c.Ops)-1]
	return [...]string{"", "set", "remove", "add", "clear"}[op.Kind] + [...]string{"", " or fail", " or skip"}[op.If]
}
