package session

import (
	"context"
	"sync/atomic"
	"time"
)

// A callContext bounds the calls of a store in one step of a request. It is a
// context that becomes a real one, with a clock read, a timer and a channel, only
// when the store asks for them: a store in memory never does, and they would cost
// more than its work. The time-out counts from then. A store has no use for it
// after the call.
type callContext struct {
	parent   context.Context
	limit    *timeout
	made     atomic.Pointer[madeContext] // nil, or asked, or from parent and limit
	detached bool                        // from the parent's end: a commit outlives a client that left
	again    atomic.Bool                 // a call was made once more
}

type madeContext struct {
	context.Context
	stop context.CancelFunc
}

// asked says that Err was called once. Only a store that waits asks again.
var asked = new(madeContext)

var _ context.Context = (*callContext)(nil)

func (c *callContext) Deadline() (time.Time, bool) { return c.make().Deadline() }
func (c *callContext) Done() <-chan struct{}       { return c.make().Done() }

func (c *callContext) Err() error {
	switch {
	case !c.made.CompareAndSwap(nil, asked):
		return c.make().Err()
	case c.detached:
		return nil
	}
	return c.parent.Err()
}

func (c *callContext) Value(key any) any {
	made := c.real()
	if made == nil && c.detached { // the parent's value may be how it ended
		made = c.make()
	}
	if made != nil { // contexts derived from c hang on it and need no goroutine
		if v := made.Value(key); v != nil {
			return v
		}
	}
	return c.parent.Value(key)
}

// real returns what was made, or nil.
func (c *callContext) real() *madeContext {
	if made := c.made.Load(); made != asked {
		return made
	}
	return nil
}

func (c *callContext) make() *madeContext {
	if made := c.real(); made != nil {
		return made
	}
	var made *madeContext
	if c.detached {
		made = c.limit.shared()
	} else {
		ctx, stop := context.WithTimeout(c.parent, c.limit.after)
		made = &madeContext{ctx, stop}
	}
	if c.made.CompareAndSwap(nil, made) || c.made.CompareAndSwap(asked, made) {
		return made
	}
	if !c.detached {
		made.stop()
	}
	return c.made.Load()
}

// done releases what was made. The context is not used again.
func (c *callContext) done() {
	if made := c.real(); made != nil && !c.detached {
		made.stop()
	}
}

// A timeout is how long the calls of a store may take. Those that end by nothing
// else and begin at about the same time share a context: a timer for each would
// cost more than a change does that waits for others' commit.
type timeout struct {
	after  time.Duration
	latest atomic.Pointer[sharedContext]
}

type sharedContext struct {
	madeContext
	fresh time.Time // until then others may have it
}

// shared returns a context that ends in the last thirty-second part of the
// time-out.
func (t *timeout) shared() *madeContext {
	now := time.Now()
	latest := t.latest.Load()
	if latest != nil && now.Before(latest.fresh) {
		return &latest.madeContext
	}
	ctx, stop := context.WithTimeout(context.Background(), t.after)
	next := &sharedContext{madeContext{ctx, stop}, now.Add(t.after / 32)}
	if t.latest.CompareAndSwap(latest, next) {
		return &next.madeContext
	}
	stop()
	return &t.latest.Load().madeContext
}
