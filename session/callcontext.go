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
	timeout  time.Duration
	made     atomic.Pointer[madeContext] // nil, or asked, or from parent and timeout
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
	if made := c.real(); made != nil { // contexts derived from c hang on it and need no goroutine
		return made.Value(key)
	}
	if c.detached { // the parent's value may be how it ended
		return c.make().Value(key)
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
	parent := c.parent
	if c.detached {
		parent = context.WithoutCancel(parent)
	}
	ctx, stop := context.WithTimeout(parent, c.timeout)
	made := &madeContext{ctx, stop}
	if c.made.CompareAndSwap(nil, made) || c.made.CompareAndSwap(asked, made) {
		return made
	}
	stop()
	return c.made.Load()
}

// done releases what was made. The context is not used again.
func (c *callContext) done() {
	if made := c.real(); made != nil {
		made.stop()
	}
}
