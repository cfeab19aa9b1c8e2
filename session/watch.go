package session

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Watch returns a context that is cancelled with cause [ErrEnded] within a
// second of the session's end, or of a sign-in on it, wherever that happened. For
// websockets and event streams; cancel it, or the request's context, when done.
//
// The streams of a process share one question a second to the store, asked by a
// goroutine that lives as long as a stream does. If the store cannot answer for a
// minute the context is cancelled with the store's error: a stream that nobody
// can vouch for does not go on. A session that is not stored has no end to wait
// for.
func (s *Session) Watch(ctx context.Context) (context.Context, context.CancelFunc) {
	s.mu.Lock()
	s.used = true
	rec, late, why := s.rec, s.late, s.err
	s.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	stop := func() { cancel(context.Canceled) }
	switch {
	case late:
		cancel(ErrEnded)
	case rec == nil && why != nil:
		cancel(why)
	case rec != nil:
		st := &stream{id: rec.ID, auth: rec.Auth, cancel: cancel}
		s.m.streams.add(st)
		context.AfterFunc(ctx, func() { s.m.streams.remove(st) })
	}
	return ctx, stop
}

const (
	watchInterval = time.Second
	watchPatience = time.Minute
	watchBatch    = 1000
)

// A stream is one context that Watch returned.
type stream struct {
	id     ID
	auth   int64
	cancel context.CancelCauseFunc
}

// streams are the open streams of a process.
type streams struct {
	m    *Manager
	mu   sync.Mutex // guards what follows
	open map[ID]map[*stream]struct{}
	stop chan struct{} // ends the goroutine that asks; nil if there is none
}

func (w *streams) add(st *stream) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open == nil {
		w.open = map[ID]map[*stream]struct{}{}
	}
	if w.open[st.id] == nil {
		w.open[st.id] = map[*stream]struct{}{}
	}
	w.open[st.id][st] = struct{}{}
	if w.stop == nil {
		w.stop = make(chan struct{})
		go w.ask(w.stop)
	}
}

func (w *streams) remove(st *stream) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.open[st.id], st)
	if len(w.open[st.id]) == 0 {
		delete(w.open, st.id)
	}
	if len(w.open) == 0 && w.stop != nil {
		close(w.stop)
		w.stop = nil
	}
}

// ended cancels the streams of a session that this process ended: no need to ask.
func (w *streams) ended(id ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for st := range w.open[id] {
		st.cancel(ErrEnded)
	}
}

// ask asks the store once a second which of the sessions still live.
func (w *streams) ask(stop chan struct{}) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	answered := time.Now()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		err := w.check(ctx)
		if err == nil {
			answered = time.Now()
		} else if time.Since(answered) >= watchPatience {
			w.giveUp(fmt.Errorf("session: watch: %w", err))
		}
	}
}

func (w *streams) check(ctx context.Context) error {
	w.mu.Lock()
	ids := make([]ID, 0, len(w.open))
	for id := range w.open {
		ids = append(ids, id)
	}
	w.mu.Unlock()
	for len(ids) > 0 {
		batch := ids[:min(len(ids), watchBatch)]
		ids = ids[len(batch):]
		live, err := w.m.check(ctx, batch)
		if err != nil {
			return err
		}
		w.mu.Lock()
		for _, id := range batch {
			auth, ok := live[id]
			for st := range w.open[id] {
				// One opened since with a later sign-in is the next question's.
				if !ok || st.auth < auth {
					st.cancel(ErrEnded)
				}
			}
		}
		w.mu.Unlock()
	}
	return nil
}

func (w *streams) giveUp(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, sts := range w.open {
		for st := range sts {
			st.cancel(err)
		}
	}
}

// check returns the Auth of those of ids that live.
func (m *Manager) check(ctx context.Context, ids []ID) (map[ID]int64, error) {
	now := m.now()
	call := m.callFor(&callContext{}, ctx, false)
	defer call.done()
	if m.checker != nil {
		return m.checker.Check(call, now, ids)
	}
	live := make(map[ID]int64, len(ids))
	for _, id := range ids {
		rec, err := m.load(call, id)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		if err == nil && rec.Live(now) {
			live[id] = rec.Auth
		}
	}
	return live, nil
}
