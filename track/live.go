package track

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/crumb-go/crumb/internal/sqldb"
	"github.com/crumb-go/crumb/session"
)

// LiveWindow is how long after a request a visitor counts as here.
const LiveWindow = 5 * time.Minute

// Live is who is here.
type Live struct {
	Visitors int       `json:"visitors"` // bots left out
	Users    int       `json:"users"`    // signed in, each once
	Bots     int       `json:"bots"`
	Present  []Present `json:"present"` // a page of them, the latest first
}

// Present is a visitor who is here.
type Present struct {
	ID   session.ID `json:"id"`
	User string     `json:"user"`
	Seen time.Time  `json:"seen"`
	Page string     `json:"page"` // the route they are on
	Bot  bool       `json:"bot"`
}

// Live tells who made a request in the last [LiveWindow], and which page they are
// on: limit of them, the latest first. after is the last of the page before, or
// nil.
func (t *Tables) Live(ctx context.Context, now time.Time, limit int, after *Present) (Live, error) {
	then := now.Add(-LiveWindow).UnixMicro()
	out := Live{Present: []Present{}}
	err := t.rows(ctx, t.db, t.sql("SELECT bot, count(*), count(DISTINCT CASE WHEN user_id <> '' THEN user_id END) FROM {visitors} WHERE seen >= ? GROUP BY bot"),
		[]any{then}, func(scan sqldb.Scan) error {
			var bot bool
			var visitors, users int
			err := scan(&bot, &visitors, &users)
			if bot {
				out.Bots = visitors
			} else {
				out.Visitors, out.Users = visitors, users
			}
			return err
		})
	if err != nil {
		return out, fmt.Errorf("track: live: %w", err)
	}
	where, args := "seen >= ?", []any{then}
	if after != nil {
		where += " AND seen <= ? AND (seen < ? OR session > ?)"
		at := after.Seen.UnixMicro()
		args = append(args, at, at, string(after.ID))
	}
	err = t.rows(ctx, t.db, t.sql("SELECT session, user_id, seen, page, bot FROM {visitors} WHERE "+where+" ORDER BY seen DESC, session LIMIT ?"),
		append(args, limit), func(scan sqldb.Scan) error {
			var p Present
			var seen int64
			err := scan(&p.ID, &p.User, &seen, &p.Page, &p.Bot)
			p.Seen = timeOf(seen)
			out.Present = append(out.Present, p)
			return err
		})
	if err != nil {
		return out, fmt.Errorf("track: live: %w", err)
	}
	return out, nil
}

func timeOf(micros int64) time.Time { return time.UnixMicro(micros).UTC() }

// recent is who is here, for a tracker without tables.
type recent struct {
	mu       sync.Mutex // guards what follows
	visitors map[session.ID]Present
	pruned   int64
}

// maxRecent bounds the memory; beyond it new visitors are not noted.
const maxRecent = 1 << 16

func (p *recent) note(in *session.Info, at int64, page string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.visitors == nil {
		p.visitors = map[session.ID]Present{}
	}
	window := LiveWindow.Microseconds()
	if at-p.pruned > window/5 {
		p.pruned = at
		for id, v := range p.visitors {
			if v.Seen.UnixMicro() < at-window {
				delete(p.visitors, id)
			}
		}
	}
	v, known := p.visitors[in.ID]
	if !known && len(p.visitors) >= maxRecent || known && v.Seen.UnixMicro() > at {
		return
	}
	if page == "" {
		page = v.Page
	}
	id := v.ID
	if !known {
		id = session.ID(strings.Clone(string(in.ID))) // a store may have cut it out of the whole record
	}
	p.visitors[id] = Present{ID: id, User: strings.Clone(in.User), Seen: timeOf(at), Page: page}
}

// Live is [Tables.Live] of the tables of t or, if it has none, of what this process
// served, at most 65,536 visitors.
func (t *Tracker) Live(ctx context.Context, limit int, after *Present) (Live, error) {
	if t.cfg.Tables != nil {
		return t.cfg.Tables.Live(ctx, t.cfg.Now(), limit, after)
	}
	return t.recent.live(t.cfg.Now(), limit, after), nil
}

func (p *recent) live(now time.Time, limit int, after *Present) Live {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := Live{Present: []Present{}}
	users := map[string]bool{}
	order := func(a, b Present) int { return cmp.Or(b.Seen.Compare(a.Seen), cmp.Compare(a.ID, b.ID)) }
	for _, v := range p.visitors {
		if v.Seen.Before(now.Add(-LiveWindow)) {
			continue
		}
		out.Visitors++
		if v.User != "" {
			users[v.User] = true
		}
		if after == nil || order(*after, v) < 0 {
			out.Present = append(out.Present, v)
		}
	}
	out.Users = len(users)
	slices.SortFunc(out.Present, order)
	out.Present = out.Present[:min(limit, len(out.Present))]
	return out
}
