package session

import (
	"context"
	"sync"
	"time"
)

// A callContext bounds the calls of a store in one step of a request. It is a
// context whose timer and channel are made only when the store asks for them: a
// store in memory never does, and they would cost more than its work.
type callContext struct {
	parent   context.Context
	deadline time.Time
	detached bool // from the parent's end: a commit outlives a client that left

	mu   sync.Mutex
	ctx  context.Context // what parent and deadline make together, once asked for
	stop context.CancelFunc
}

var _ context.Context = (*callContext)(nil)

func (c *callContext) Deadline() (time.Time, bool) { return c.made().Deadline() }
func (c *callContext) Done() <-chan struct{}       { return c.made().Done() }

func (c *callContext) Err() error {
	c.mu.Lock()
	ctx := c.ctx
	c.mu.Unlock()
	switch {
	case ctx != nil:
		return ctx.Err()
	case c.detached:
		return nil
	}
	return c.parent.Err()
}

func (c *callContext) Value(key any) any {
	c.mu.Lock()
	ctx := c.ctx
	c.mu.Unlock()
	if ctx != nil { // so that contexts derived from c hang on it and need no goroutine
		return ctx.Value(key)
	}
	return c.parent.Value(key)
}

func (c *callContext) made() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx == nil {
		parent := c.parent
		if c.detached {
			parent = context.WithoutCancel(parent)
		}
		c.ctx, c.stop = context.WithDeadline(parent, c.deadline)
	}
	return c.ctx
}

// done releases what was made. The context is not used again.
func (c *callContext) done() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stop != nil {
		c.stop()
	}
}
