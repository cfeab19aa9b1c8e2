package session

import (
	"context"
	"sync/atomic"
	"time"
)

// A callContext bounds the calls of a store in one step of a request. It is a
// context whose timer and channel are made only when the store asks for them: a
// store in memory never does, and they would cost more than its work.
type callContext struct {
	parent   context.Context
	deadline time.Time
	detached bool                        // from the parent's end: a commit outlives a client that left
	again    *bool                       // set when a call is made once more
	made     atomic.Pointer[madeContext] // from parent and deadline, once asked for
}

type madeContext struct {
	context.Context
	stop context.CancelFunc
}

var _ context.Context = (*callContext)(nil)

func (c *callContext) Deadline() (time.Time, bool) { return c.make().Deadline() }
func (c *callContext) Done() <-chan struct{}       { return c.make().Done() }

func (c *callContext) Err() error {
	switch made := c.made.Load(); {
	case made != nil:
		return made.Err()
	case time.Now().After(c.deadline):
		return c.make().Err()
	case c.detached:
		return nil
	}
	return c.parent.Err()
}

func (c *callContext) Value(key any) any {
	if made := c.made.Load(); made != nil { // contexts derived from c hang on it and need no goroutine
		return made.Value(key)
	}
	if c.detached { // the parent's value may be how it ended
		return c.make().Value(key)
	}
	return c.parent.Value(key)
}

func (c *callContext) make() *madeContext {
	if made := c.made.Load(); made != nil {
		return made
	}
	parent := c.parent
	if c.detached {
		parent = context.WithoutCancel(parent)
	}
	ctx, stop := context.WithDeadline(parent, c.deadline)
	if made := (&madeContext{ctx, stop}); c.made.CompareAndSwap(nil, made) {
		return made
	}
	stop()
	return c.made.Load()
}

// done releases what was made. The context is not used again.
func (c *callContext) done() {
	if made := c.made.Load(); made != nil {
		made.stop()
	}
}
