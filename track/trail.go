package track

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/crumb-go/crumb/internal/sqldb"
	"github.com/crumb-go/crumb/session"
)

// ErrNotFound says that nothing is known about a visitor.
var ErrNotFound = errors.New("track: no such visitor")

// A Visitor is what is known about one visitor.
type Visitor struct {
	ID        session.ID `json:"id"`
	User      string     `json:"user"`       // who signed in last, or ""
	First     time.Time  `json:"first"`      // visit
	Seen      time.Time  `json:"seen"`       // last request
	Requests  int64      `json:"requests"`   //
	FirstAddr string     `json:"first_addr"` // cut to a network after [Retention.Addresses]
	LastAddr  string     `json:"last_addr"`  //
	Browser   string     `json:"browser"`
	System    string     `json:"system"`
	Device    string     `json:"device"` // desktop, phone, tablet, bot, other
	Language  string     `json:"language"`
	Bot       bool       `json:"bot"`
	Landing   string     `json:"landing"`  // the first page
	Referrer  string     `json:"referrer"` // the origin that led there
	Page      string     `json:"page"`     // the last page
}

func (v *visitor) public() Visitor {
	parts := append(strings.SplitN(v.device, "/", 3), "", "", "")
	return Visitor{
		ID: v.id, User: v.user, First: timeOf(v.first), Seen: timeOf(v.seen), Requests: v.requests,
		FirstAddr: v.firstAddr, LastAddr: v.lastAddr, Browser: parts[0], System: parts[1], Device: parts[2],
		Language: v.language, Bot: v.bot, Landing: v.landing, Referrer: v.referrer, Page: v.page,
	}
}

// Visitor returns what is known about one visitor, or [ErrNotFound].
func (t *Tables) Visitor(ctx context.Context, id session.ID) (Visitor, error) {
	var found *visitor
	query := t.sql("SELECT " + strings.Join(visitorColumns, ", ") + " FROM {visitors} WHERE session = ?")
	err := t.rows(ctx, t.db, query, []any{string(id)}, func(scan sqldb.Scan) error {
		found = &visitor{}
		return found.scan(scan)
	})
	switch {
	case err != nil:
		return Visitor{}, fmt.Errorf("track: visitor: %w", err)
	case found == nil:
		return Visitor{}, ErrNotFound
	}
	return found.public(), nil
}

// An Entry is one line of a visitor's trail: a page view, or an event of the app.
type Entry struct {
	Time     time.Time       `json:"time"`
	Event    string          `json:"event,omitempty"` // its name; "" for a view
	Attrs    json.RawMessage `json:"attrs,omitempty"` // of an event
	Method   string          `json:"method,omitempty"`
	Route    string          `json:"route,omitempty"`
	Values   string          `json:"values,omitempty"` // of wildcards, as in "id=42"
	Status   int             `json:"status,omitempty"`
	Took     time.Duration   `json:"took,omitempty"`     // nanoseconds, in steps of a microsecond
	Referrer string          `json:"referrer,omitempty"` // the origin that led here from elsewhere
}

func (e *entry) public() Entry {
	if e.kind == event {
		return Entry{Time: timeOf(e.at), Event: e.name, Attrs: json.RawMessage(e.more().detail)}
	}
	return Entry{
		Time: timeOf(e.at), Method: e.method.String(), Route: e.name, Values: e.more().detail, Status: int(e.status),
		Took: time.Duration(e.took) * time.Microsecond, Referrer: e.more().referrer,
	}
}

// Trail returns what a visitor did from from to before to, oldest first, limit
// lines at most. No two lines have the same time: for the next page ask from one
// microsecond after the last.
func (t *Tables) Trail(ctx context.Context, id session.ID, from, to time.Time, limit int) ([]Entry, error) {
	list := []Entry{}
	err := t.eachEntry(ctx, t.db, id, from.UnixMicro(), to.UnixMicro(), limit, func(e *entry) { list = append(list, e.public()) })
	if err != nil {
		return nil, fmt.Errorf("track: trail: %w", err)
	}
	return list, nil
}

// A TrailDay is one day of a visitor's trail.
type TrailDay struct {
	Date    string  `json:"date"` // in the viewer's zone, 2026-11-22
	Entries []Entry `json:"entries"`
}

// ByDay groups entries, which are in order, by their day in zone.
func ByDay(entries []Entry, zone *time.Location) []TrailDay {
	days := []TrailDay{}
	for _, e := range entries {
		date := e.Time.In(zone).Format(time.DateOnly)
		if len(days) == 0 || days[len(days)-1].Date != date {
			days = append(days, TrailDay{Date: date})
		}
		last := &days[len(days)-1]
		last.Entries = append(last.Entries, e)
	}
	return days
}
