package track

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
)

// Bounds of what [Event] takes.
const (
	MaxEvents     = 32   // a request
	MaxEventAttrs = 1024 // bytes of JSON
)

var eventFormat = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,63}$`)

// Event notes something of the app's own, such as a checkout, at the end of the
// request and only if the visitor may be tracked. The name is up to 64 of a-z, 0-9
// and _.- ; attrs, which may be nil, come to at most 1,024 bytes as JSON. They
// are shown to operators and exported for the visitor: put nothing secret there.
//
// The error is about the arguments, more than 32 events in a request, or a request
// that has ended or did not come through [Tracker.Handler]. Nothing is noted then.
func Event(r *http.Request, name string, attrs map[string]any) error {
	q := requestOf(r)
	if q == nil {
		return fmt.Errorf("track: event %q: the request to %q is not tracked; wrap the handler in Tracker.Handler, and that in Manager.Handler", name, r.URL.Path)
	}
	if !eventFormat.MatchString(name) {
		return fmt.Errorf("track: event %q: a name is 1 to 64 characters of a-z, 0-9 and _.- and begins with a letter or digit", name)
	}
	e := entry{at: q.t.cfg.Now().UnixMicro(), kind: event, name: name}
	if len(attrs) > 0 {
		text, err := json.Marshal(attrs)
		if err != nil {
			return fmt.Errorf("track: event %q: %w", name, err)
		}
		if len(text) > MaxEventAttrs {
			return fmt.Errorf("track: event %q: its attributes come to %d bytes of JSON; at most %d are kept", name, len(text), MaxEventAttrs)
		}
		e.extra = extraOf("", string(text))
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.over:
		return fmt.Errorf("track: event %q: the request has ended", name)
	case len(q.events) >= MaxEvents:
		return fmt.Errorf("track: event %q: a request notes at most %d", name, MaxEvents)
	}
	q.events = append(q.events, e)
	return nil
}
