package redis

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/rueidis"

	"github.com/crumb-go/crumb/session"
)

// end ends a session: the record first, then the indexes, so that a crash between
// leaves an entry of a session that has ended, never a live one that is in none.
func (s *Store) end(ctx context.Context, id session.ID, c *session.Change) (*session.Record, error) {
	var e encoder
	now := e.text(c.Now)
	if e.err != nil {
		return nil, e.err
	}
	s.recent.forget(id)
	msg, err := s.runSurely(ctx, endScript, s.recordKey(id), now)
	if err != nil {
		return nil, fmt.Errorf("redis: end: %w", err)
	}
	if msg.IsNil() {
		return nil, session.ErrNotFound
	}
	before, err := record(id, msg)
	if err != nil { // it has ended
		return nil, fmt.Errorf("redis: end: %w", &unknownError{err})
	}
	out, err := c.Apply(before)
	switch {
	case err == nil:
		s.ended(ctx, out, before.User)
	case before.Ended(): // by a call that got no answer, perhaps
		s.ended(ctx, before, "")
	}
	return out, err
}

// endsAtOnce is how many connections may wait for replicas, of ends of sessions above
// all. As many come at a time when a user's sessions are revoked.
const endsAtOnce = 64

// runSurely runs a script and waits until all replicas that are connected to the
// node have what it wrote. If they do not confirm in time the outcome is unknown:
// it is done where it was sent, and a failover may undo it.
//
// WAIT waits for the last write of the connection that it comes over, and blocks
// it, so that is one that nobody else uses. The repetition of a call comes over
// another, so the script must write whatever it finds.
func (s *Store) runSurely(ctx context.Context, sc *script, key string, args ...string) (rueidis.RedisMessage, error) {
	if s.cfg.ReplicaWait < 0 {
		return s.run(ctx, sc, key, args...)
	}
	return s.again(ctx, func() (rueidis.RedisMessage, error) {
		select {
		case s.ends <- struct{}{}:
		case <-ctx.Done():
			return rueidis.RedisMessage{}, ctx.Err()
		}
		type result struct {
			msg rueidis.RedisMessage
			err error
		}
		done := make(chan result, 1)
		go func() { // the client does not look at ctx while it makes the connection
			msg, err := s.runOwn(ctx, sc, key, args)
			<-s.ends
			done <- result{msg, err}
		}()
		select {
		case r := <-done:
			return r.msg, r.err
		case <-ctx.Done():
			return rueidis.RedisMessage{}, sorted(ctx.Err())
		}
	})
}

// runOwn runs a script on a connection of its own, which does not follow the key to
// another node by itself.
func (s *Store) runOwn(ctx context.Context, sc *script, key string, args []string) (msg rueidis.RedisMessage, err error) {
	first := s.client()
	client := first
	for range 4 {
		asking := client != first
		err = client.Dedicated(func(own rueidis.DedicatedClient) error {
			msg, err = s.confirmed(ctx, own, asking, sc, key, args)
			return err
		})
		if client = s.redirected(ctx, err, key); client == nil {
			break
		}
	}
	return msg, err
}

// redirected returns the node that err says has key, or nil.
func (s *Store) redirected(ctx context.Context, err error, key string) rueidis.Client {
	re, ok := rueidis.IsRedisErr(err)
	if !ok {
		return nil
	}
	addr, ok := re.IsMoved()
	if !ok {
		addr, ok = re.IsAsk()
	}
	if !ok {
		return nil
	}
	node, ok := s.client().Nodes()[addr]
	if !ok { // a new one: the client gets to know it when it is sent there itself
		_, _ = s.do(ctx, func(b rueidis.Builder) rueidis.Completed { return b.Exists().Key(key).Build() })
		node = s.client().Nodes()[addr]
	}
	return node
}

// confirmed runs the script on a connection of its own and waits for the replicas.
func (s *Store) confirmed(ctx context.Context, own rueidis.DedicatedClient, asking bool, sc *script, key string, args []string) (rueidis.RedisMessage, error) {
	msg, replicas, err := s.runOn(ctx, own, asking, sc.byHash(own.B(), key, args))
	if isMissingScript(err) {
		msg, replicas, err = s.runOn(ctx, own, asking, sc.byText(own.B(), key, args))
	}
	if err != nil || replicas == 0 {
		return msg, err
	}
	wait := s.cfg.ReplicaWait
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline)*9/10)
	}
	wait = max(wait, time.Millisecond) // 0 would wait for ever
	got, err := own.Do(ctx, own.B().Wait().Numreplicas(replicas).Timeout(wait.Milliseconds()).Build()).AsInt64()
	if err != nil { // the node is gone, and what it did perhaps too
		return msg, &unknownError{fmt.Errorf("done, but it is not known whether the replicas have it: %w", err)}
	}
	if got < replicas {
		return msg, &unknownError{fmt.Errorf("done, but only %d of %d replicas confirmed it within %s: a failover now could undo it; try again when they have caught up", got, replicas, wait)}
	}
	return msg, nil
}

// runOn sends a command and asks how many replicas there are, in one go.
func (s *Store) runOn(ctx context.Context, own rueidis.DedicatedClient, asking bool, cmd rueidis.Completed) (msg rueidis.RedisMessage, replicas int64, err error) {
	cmds := []rueidis.Completed{cmd, own.B().Role().Build()}
	if asking {
		cmds = append([]rueidis.Completed{own.B().Asking().Build()}, cmds...)
	}
	res := own.DoMulti(ctx, cmds...)
	msg, err = s.reply(res[len(res)-2])
	if err != nil {
		return msg, 0, err
	}
	// Replies to ROLE with "master", how far it has written, and its replicas.
	role, err := res[len(res)-1].ToArray()
	if err != nil {
		return msg, 0, &unknownError{fmt.Errorf("done, but it is not known whether there are replicas: %w", err)}
	}
	if len(role) == 3 {
		list, _ := role[2].ToArray()
		replicas = int64(len(list))
	}
	return msg, replicas, nil
}
