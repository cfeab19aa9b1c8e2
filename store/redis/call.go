package redis

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/crumb-go/crumb/session"
)

// A command makes a command, anew for every time it is sent: the client recycles
// what it was given.
type command func(b rueidis.Builder) rueidis.Completed

// do sends a command and returns the reply. What the server refused in a passing state is sent
// again: nothing came of it.
func (s *Store) do(ctx context.Context, cmd command) (rueidis.RedisMessage, error) {
	return s.again(ctx, func() (rueidis.RedisMessage, error) {
		return s.reply(s.send(ctx, cmd(s.client().B())))
	})
}

// run runs a script on key.
func (s *Store) run(ctx context.Context, sc *script, key string, args ...string) (rueidis.RedisMessage, error) {
	return s.again(ctx, func() (rueidis.RedisMessage, error) {
		msg, err := s.reply(s.send(ctx, sc.byHash(s.client().B(), key, args)))
		if isMissingScript(err) {
			msg, err = s.reply(s.send(ctx, sc.byText(s.client().B(), key, args)))
		}
		return msg, err
	})
}

// A call is a command among many.
type call struct {
	cmd  command
	text command // where cmd runs a script by its hash, the same by its text; else nil
}

func (sc *script) on(key string, args ...string) call {
	return call{
		cmd:  func(b rueidis.Builder) rueidis.Completed { return sc.byHash(b, key, args) },
		text: func(b rueidis.Builder) rueidis.Completed { return sc.byText(b, key, args) },
	}
}

// together is how many commands share a way to the server. A server does all that
// has come over a connection before it looks at another, and requests share the
// connection: so many hold them up for well under a millisecond.
const together = 64

// all sends commands, many together, to as many nodes as hold their keys, and
// returns the replies in their order. After an error some may have been done.
func (s *Store) all(ctx context.Context, calls []call) ([]rueidis.RedisMessage, error) {
	msgs := make([]rueidis.RedisMessage, 0, len(calls))
	if len(calls) == 0 {
		return msgs, s.ready(ctx)
	}
	for batch := range slices.Chunk(calls, together) {
		if err := s.ready(ctx); err != nil {
			return nil, err
		}
		cmds := make([]rueidis.Completed, len(batch))
		for i, c := range batch {
			cmds[i] = c.cmd(s.client().B())
		}
		var first error
		for i, res := range s.sendAll(ctx, cmds) {
			msg, err := s.reply(res)
			switch c := batch[i]; {
			case isMissingScript(err):
				msg, err = s.do(ctx, c.text)
			case isTransient(err):
				msg, err = s.do(ctx, c.cmd)
			}
			if msgs = append(msgs, msg); err != nil && first == nil {
				first = err
			}
		}
		if first != nil {
			return nil, first
		}
	}
	return msgs, nil
}

// reply returns the message of a reply, or an error that says whether the command
// may have been done. A reply of nothing is a message that is nil.
func (s *Store) reply(res rueidis.RedisResult) (rueidis.RedisMessage, error) {
	msg, err := res.ToMessage()
	if err == nil || rueidis.IsRedisNil(err) {
		return msg, nil
	}
	s.renewAfter(err)
	return msg, sorted(err)
}

// sorted tells errors that mean that nothing was done from those that leave it
// open, which wrap [session.ErrUnknown].
func sorted(err error) error {
	var dial *net.OpError
	_, refused := rueidis.IsRedisErr(err)
	switch {
	case refused: // by the server, in so many words
	case errors.Is(err, rueidis.ErrNoSlot): // no node to send it to
	case errors.As(err, &dial) && dial.Op == "dial": // no connection to send it on
	default:
		return &unknownError{err}
	}
	return err
}

// An unknownError may be that of a command that was done.
type unknownError struct{ err error }

func (e *unknownError) Error() string   { return session.ErrUnknown.Error() + ": " + e.err.Error() }
func (e *unknownError) Unwrap() []error { return []error{session.ErrUnknown, e.err} }

func isMissingScript(err error) bool {
	re, ok := rueidis.IsRedisErr(err)
	return ok && re.IsNoScript()
}

// isTransient reports whether the server refused a command for a reason that may be
// gone in a moment: a slot on its way to another node, a failover, a restart, a long
// script.
func isTransient(err error) bool {
	re, ok := rueidis.IsRedisErr(err)
	if !ok {
		return false
	}
	kind, _, _ := strings.Cut(re.Error(), " ")
	switch kind {
	case "TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "BUSY":
		return true
	}
	return false
}

// pauses are those before a command that was refused in a passing state is sent again.
var pauses = [...]time.Duration{5 * time.Millisecond, 20 * time.Millisecond, 80 * time.Millisecond, 320 * time.Millisecond}

// again calls send until it returns what will not be otherwise in a moment.
func (s *Store) again(ctx context.Context, send func() (rueidis.RedisMessage, error)) (rueidis.RedisMessage, error) {
	for try := 0; ; try++ {
		if err := s.ready(ctx); err != nil {
			return rueidis.RedisMessage{}, err
		}
		msg, err := send()
		if !isTransient(err) || try == len(pauses) {
			return msg, err
		}
		timer := time.NewTimer(pauses[try])
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return msg, err
		}
	}
}

// ready returns an error if nothing may be sent. A context that is done must do
// nothing, and from the client its error may mean that the command is under way.
func (s *Store) ready(ctx context.Context) error {
	if s.closed.Load() {
		return errClosed
	}
	return ctx.Err()
}

// The client queues commands for a connection, and while the queue is full it does
// not look at contexts. So once this many calls wait, or were given up since the
// last answer, the others wait in goroutines of their own, which may stay behind
// until the connection is known to be dead.
const (
	waitingDirectly = 512 // of 1024 places in the queue
	waitingBehind   = 4096
)

// send sends one command.
func (s *Store) send(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	return patiently(s, ctx, func() rueidis.RedisResult {
		return s.client().Do(ctx, cmd)
	}, rueidis.NewErrorResult)
}

// sendAll sends many commands together.
func (s *Store) sendAll(ctx context.Context, cmds []rueidis.Completed) []rueidis.RedisResult {
	return patiently(s, ctx, func() []rueidis.RedisResult {
		return s.client().DoMulti(ctx, cmds...)
	}, func(err error) []rueidis.RedisResult {
		return slices.Repeat([]rueidis.RedisResult{rueidis.NewErrorResult(err)}, len(cmds))
	})
}

// patiently calls send, but returns when ctx is done even if send does not.
func patiently[T any](s *Store, ctx context.Context, send func() T, failed func(error) T) T {
	defer s.waiting.Add(-1)
	if s.waiting.Add(1)+s.abandoned.Load() <= waitingDirectly {
		res := send()
		if ctx.Err() != nil {
			s.abandoned.Add(1)
		} else if s.abandoned.Load() != 0 {
			s.abandoned.Store(0)
		}
		return res
	}
	select {
	case s.behind <- struct{}{}:
	case <-ctx.Done():
		return failed(ctx.Err())
	}
	done := make(chan T, 1)
	go func() {
		done <- send()
		<-s.behind
	}()
	select {
	case res := <-done:
		if ctx.Err() == nil {
			s.abandoned.Store(0)
		}
		return res
	case <-ctx.Done():
		return failed(ctx.Err())
	}
}
