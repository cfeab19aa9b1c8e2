package session

import (
	"context"
	"sync"
	"time"
)

// A claim is the right to tell the store something about one session: only one
// of the requests that see the same record needs to.
type claim struct {
	id ID
	of Hash // zero for a seen-time
}

// claims remember what was claimed of late.
type claims struct {
	mu       sync.Mutex // guards what follows
	now, old map[claim]time.Time
	turned   time.Time // when now became old last
}

// maxClaims bounds the memory; beyond it a few seen-times are written twice.
const maxClaims = 1 << 17

// take reports whether nobody took c within the interval, and takes it.
func (c *claims) take(k claim, now time.Time, interval time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.now[k]
	if !ok {
		at, ok = c.old[k]
	}
	if ok && now.Sub(at) < interval && !now.Before(at) {
		return false
	}
	if c.now == nil || now.Sub(c.turned) >= interval || len(c.now) >= maxClaims {
		c.old, c.now, c.turned = c.now, map[claim]time.Time{}, now
	}
	c.now[k] = now
	return true
}

// release gives k back: what it was for did not succeed.
func (c *claims) release(k claim) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.now, k)
	delete(c.old, k)
}

// touches are the seen-times that wait for Manager.Run to write them together.
type touches struct {
	mu      sync.Mutex // guards what follows
	running bool
	pending map[ID]time.Time
}

// maxTouches bounds what waits while the store does not answer. Beyond it requests
// write their own, and so notice.
const maxTouches = 1 << 17

// queue reports whether t will be written by Run.
func (q *touches) queue(t Touch) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.running || len(q.pending) >= maxTouches {
		return false
	}
	if t.Seen.After(q.pending[t.ID]) {
		q.pending[t.ID] = t.Seen
	}
	return true
}

// start opens the queue and reports false if it is open.
func (q *touches) start() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running {
		return false
	}
	q.running, q.pending = true, map[ID]time.Time{}
	return true
}

// take empties the queue, and closes it if last.
func (q *touches) take(last bool) []Touch {
	q.mu.Lock()
	defer q.mu.Unlock()
	if last {
		q.running = false
	}
	list := make([]Touch, 0, len(q.pending))
	for id, seen := range q.pending {
		list = append(list, Touch{id, seen})
	}
	clear(q.pending)
	return list
}

const (
	flushInterval = time.Second
	flushBatch    = 500
	sweepBatch    = 500
	// keepExpired is how long an expired or ended record stays, so that late
	// touches and processes whose clocks differ lose nobody, and late requests are
	// told from unknown ones.
	keepExpired = time.Hour
)

// flush writes what waits. What the store refuses waits for the next time.
func (m *Manager) flush(ctx context.Context, last bool) {
	list := m.touches.take(last)
	for len(list) > 0 {
		batch := list[:min(len(list), flushBatch)]
		call := m.callFor(&callContext{}, ctx, last)
		err := m.touch(call, batch)
		call.done()
		if err != nil {
			m.cfg.Logger.WarnContext(ctx, "session: the times of some visits were not written", "sessions", len(list), "last", last, "err", err)
			for _, t := range list {
				m.touches.queue(t)
			}
			return
		}
		list = list[len(batch):]
	}
}

// sweep drops what expired long enough ago, in batches with a pause between them
// nine times as long as the batch took: sweeping takes a tenth of the store, for
// nobody waits for it, and the requests beside it do.
func (m *Manager) sweep(ctx context.Context) {
	then := m.now().Add(-keepExpired)
	for ctx.Err() == nil {
		began := time.Now()
		call := m.callFor(&callContext{}, ctx, false)
		n, err := m.sweeper.Sweep(call, then, sweepBatch)
		call.done()
		if err != nil && ctx.Err() == nil {
			m.cfg.Logger.WarnContext(ctx, "session: the sweep of expired sessions stopped; it goes on at the next", "err", err)
		}
		if err != nil || n < sweepBatch {
			return
		}
		timer := time.NewTimer(9 * time.Since(began))
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C:
		}
	}
}
