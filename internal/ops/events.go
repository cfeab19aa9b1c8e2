package ops

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/crumb-go/crumb/session"
)

// An Event is a [session.Event] as operators read it: one JSON object a line. It
// holds no token.
type Event struct {
	Time   time.Time  `json:"time"`
	Kind   string     `json:"kind"` // of the session.Event, or "lost"
	ID     session.ID `json:"id,omitempty"`
	User   string     `json:"user,omitempty"`
	Reason string     `json:"reason,omitempty"`
	Addr   string     `json:"addr,omitempty"`
	Agent  string     `json:"agent,omitempty"`
	Lost   int64      `json:"lost,omitempty"` // how many events the reader was too slow for
}

// What readers may hold up: 1000 events each, and so many readers at once.
const (
	eventBuffer = 1000
	maxReaders  = 16
)

// A feed hands events to those who read them as they happen. A request never
// waits for a reader: one that is too slow loses events and is told how many.
type feed struct {
	count atomic.Int32 // of readers, so that without any an event costs a look
	lost  atomic.Int64 // by all readers

	mu      sync.Mutex // guards readers
	readers []*eventReader
}

type eventReader struct {
	events chan Event
	lost   atomic.Int64 // since it was last told
}

func (f *feed) publish(e session.Event) {
	if f.count.Load() == 0 {
		return
	}
	out := Event{Time: time.Now().UTC(), Kind: string(e.Kind), ID: e.Info.ID, User: e.Info.User, Reason: e.Reason, Agent: e.Info.Agent}
	if e.Info.Addr.IsValid() {
		out.Addr = e.Info.Addr.String()
	}
	if e.Err != nil {
		out.Reason = strings.TrimPrefix(e.Err.Error(), "session: ")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.readers {
		select {
		case r.events <- out:
		default:
			r.lost.Add(1)
			f.lost.Add(1)
		}
	}
}

func (f *feed) join() (*eventReader, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.readers) == maxReaders {
		return nil, false
	}
	r := &eventReader{events: make(chan Event, eventBuffer)}
	f.readers = append(f.readers, r)
	f.count.Add(1)
	return r, true
}

func (f *feed) leave(r *eventReader) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readers = slices.DeleteFunc(f.readers, func(o *eventReader) bool { return o == r })
	f.count.Add(-1)
}

// ServeHTTP writes the events that come from now on until the reader leaves or
// the app stops.
func (f *feed) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r, ok := f.join()
	if !ok {
		http.Error(w, fmt.Sprintf("there are %d readers already", maxReaders), http.StatusServiceUnavailable)
		return
	}
	defer f.leave(r)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	rc := http.NewResponseController(w)
	for {
		if len(r.events) == 0 && rc.Flush() != nil {
			return
		}
		e, ok := r.next(req.Context())
		if !ok {
			return
		}
		if _, err := w.Write(line(e)); err != nil {
			return
		}
	}
}

// next waits for an event. What was lost is told first: a reader that stays behind
// never empties its buffer.
func (r *eventReader) next(ctx context.Context) (Event, bool) {
	if n := r.lost.Swap(0); n > 0 {
		return Event{Time: time.Now().UTC(), Kind: "lost", Lost: n}, true
	}
	select {
	case e := <-r.events:
		return e, true
	case <-ctx.Done():
		return Event{}, false
	}
}

// line is e as JSON in ASCII: names and agents come from strangers, and some of
// their characters move a terminal's cursor or reverse its text.
func line(e Event) []byte {
	text, _ := json.Marshal(e)
	out := make([]byte, 0, len(text)+1)
	for _, c := range string(text) {
		switch {
		case c < 0x7f:
			out = append(out, byte(c))
		case c > 0xffff:
			r1, r2 := utf16.EncodeRune(c)
			out = fmt.Appendf(out, `\u%04x\u%04x`, r1, r2)
		case c != utf8.RuneError:
			out = fmt.Appendf(out, `\u%04x`, c)
		default:
			out = append(out, `\ufffd`...)
		}
	}
	return append(out, '\n')
}
