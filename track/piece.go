package track

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/crumb-go/crumb/internal/sqldb"
	"github.com/crumb-go/crumb/session"
)

// A piece is a row of the trail: what a visitor did in one slot and was written at
// once. Rows cost more than what is in them.
type piece struct {
	at, viewed int64
	entries    string // JSON, see the schema
}

// maxPiece is about how many bytes a piece has at most: who wants one line reads
// the whole piece.
const maxPiece = 16 << 10

// piecesOf returns the pieces that hold entries, which are in order.
func piecesOf(entries []entry) (list []piece) {
	b := make([]byte, 0, min(64*len(entries), maxPiece))
	var p piece
	for i := range entries {
		e := &entries[i]
		if i == 0 || slotOf(e.at) != slotOf(p.at) || len(b) > maxPiece {
			if i > 0 {
				p.entries = string(append(b, ']'))
				list = append(list, p)
			}
			p, b = piece{at: e.at}, append(b[:0], '[')
		} else {
			b = append(b, ',')
		}
		b = e.appendJSON(b, p.at)
		if e.kind == view {
			p.viewed = e.at
		}
	}
	if len(entries) > 0 {
		p.entries = string(append(b, ']'))
		list = append(list, p)
	}
	return list
}

// appendJSON appends e as the schema describes it.
func (e *entry) appendJSON(b []byte, start int64) []byte {
	b = strconv.AppendInt(append(b, '['), e.at-start, 10)
	b = appendText(append(b, ','), e.method.String())
	b = appendText(append(b, ','), e.name)
	b = strconv.AppendInt(append(b, ','), int64(e.status), 10)
	b = strconv.AppendInt(append(b, ','), e.took, 10)
	if x := e.extra; x != nil {
		b = appendText(append(b, ','), x.referrer)
		if x.detail != "" {
			b = appendText(append(b, ','), x.detail)
		}
	}
	return append(b, ']')
}

// appendText appends s as JSON.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			text, err := json.Marshal(s)
			if err != nil {
				panic(err) // strings always have a form
			}
			return append(b, text...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// parse returns the entries of p in their order.
func (p *piece) parse() ([]entry, error) {
	var lines [][]json.RawMessage
	err := json.Unmarshal([]byte(p.entries), &lines)
	list := make([]entry, len(lines))
	for i, line := range lines {
		e := &list[i]
		var method string
		var x extra
		for j, field := range []any{&e.at, &method, &e.name, &e.status, &e.took, &x.referrer, &x.detail} {
			if err == nil && j < len(line) {
				err = json.Unmarshal(line[j], field)
			}
		}
		e.at += p.at
		e.extra = extraOf(x.referrer, x.detail)
		if e.kind = event; method != "" {
			e.kind, e.method = view, methodOf(method)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("the entries of a trail at %d are broken: %w", p.at, err)
	}
	return list, nil
}

// piecesAtOnce is how many pieces are read at once.
const piecesAtOnce = 500

// eachEntry calls f for what a visitor did from from to before to, oldest first,
// limit times at most.
func (t *Tables) eachEntry(ctx context.Context, r sqldb.Runner, id session.ID, from, to int64, limit int, f func(e *entry)) error {
	query := t.sql("SELECT at, entries FROM {trail} WHERE session = ? AND at >= ? AND at < ? ORDER BY at LIMIT ?")
	var waiting []*entry // for the next pieces, which may hold what came before
	for next := slotStart(from); limit > 0; {
		n := 0
		err := t.rows(ctx, r, query, []any{string(id), next, to, piecesAtOnce}, func(scan sqldb.Scan) error {
			var p piece
			if err := scan(&p.at, &p.entries); err != nil {
				return err
			}
			n, next = n+1, p.at+1
			entries, err := p.parse()
			for i := range entries {
				if e := &entries[i]; e.at >= from && e.at < to {
					waiting = append(waiting, e)
				}
			}
			return err
		})
		if err != nil {
			return err
		}
		complete := next
		if n < piecesAtOnce {
			complete = math.MaxInt64
		}
		slices.SortFunc(waiting, func(a, b *entry) int { return cmp.Compare(a.at, b.at) })
		for len(waiting) > 0 && waiting[0].at < complete && limit > 0 {
			f(waiting[0])
			waiting, limit = waiting[1:], limit-1
		}
		if n < piecesAtOnce {
			return nil
		}
	}
	return nil
}
