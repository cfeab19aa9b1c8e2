package track

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/crumb-go/crumb/internal/sqldb"
	"github.com/crumb-go/crumb/session"
)

// OfUser returns the visitors who last signed in as user.
func (t *Tables) OfUser(ctx context.Context, user string) ([]session.ID, error) {
	if user == "" {
		return nil, errors.New("track: OfUser needs a user")
	}
	var ids []session.ID
	err := t.rows(ctx, t.db, t.sql("SELECT session FROM {visitors} WHERE user_id = ? ORDER BY session"), []any{user}, func(scan sqldb.Scan) error {
		var id session.ID
		err := scan(&id)
		ids = append(ids, id)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("track: visitors of a user: %w", err)
	}
	return ids, nil
}

// An Export is all that the tables hold about a visitor.
type Export struct {
	Visitor
	Trail []Entry `json:"trail"`
	// Active are the quarters of an hour in which the visitor did something. They
	// outlive the trail.
	Active []ActiveQuarter `json:"active"`
}

// An ActiveQuarter is a quarter of an hour in which a visitor did something.
type ActiveQuarter struct {
	From    time.Time `json:"from"`
	Browser string    `json:"browser"`
	System  string    `json:"system"`
	Device  string    `json:"device"`
}

// Export returns all that is known about a visitor, or [ErrNotFound].
func (t *Tables) Export(ctx context.Context, id session.ID) (Export, error) {
	v, err := t.Visitor(ctx, id)
	if err != nil {
		return Export{}, err
	}
	out := Export{Visitor: v, Trail: []Entry{}, Active: []ActiveQuarter{}}
	err = t.eachEntry(ctx, t.db, id, 0, math.MaxInt64, math.MaxInt32, func(e *entry) { out.Trail = append(out.Trail, e.public()) })
	if err == nil {
		err = t.rows(ctx, t.db, t.sql("SELECT slot, device FROM {slots} WHERE session = ? ORDER BY slot"), []any{string(id)}, func(scan sqldb.Scan) error {
			var slot int64
			var label string
			err := scan(&slot, &label)
			parts := append(strings.SplitN(label, "/", 3), "", "", "")
			out.Active = append(out.Active, ActiveQuarter{slotTime(slot), parts[0], parts[1], parts[2]})
			return err
		})
	}
	if err != nil {
		return Export{}, fmt.Errorf("track: export: %w", err)
	}
	return out, nil
}

// Erase deletes all about a visitor, takes the views and events of the trail out of
// the counts, and remembers for three days, by a hash alone, that what still
// waits in some process is not to be written. One that is not known is fine.
//
// Deleted rows stay readable in the files of a database for a while. On SQLite
// [Scrub] removes them; elsewhere it is up to the server, its logs and its
// backups.
func (t *Tables) Erase(ctx context.Context, id session.ID, now time.Time) error {
	err := t.db.Tx(ctx, func(tx *sqldb.Tx) error {
		w := &writer{t, tx, ctx}
		if err := t.lockErasing(ctx, tx, true); err != nil {
			return err
		}
		hash := erasedHash(id)
		if _, err := w.exec("DELETE FROM {erased} WHERE hash = ?", hash); err != nil {
			return err
		}
		if _, err := w.exec("INSERT INTO {erased} (hash, erased_at) VALUES (?, ?)", hash, now.UnixMicro()); err != nil {
			return err
		}
		if err := w.uncount(id); err != nil {
			return err
		}
		for _, table := range []string{"{trail}", "{slots}", "{visitors}"} {
			if _, err := w.exec("DELETE FROM "+table+" WHERE session = ?", string(id)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("track: erase: %w", err)
	}
	return nil
}

// uncount takes the trail of a visitor out of the counts. What is nothing then
// goes, names that nobody else brought among it.
func (w *writer) uncount(id session.ID) error {
	var v visitor
	err := w.tx.Row(w.ctx, w.t.sql("SELECT bot, swept FROM {visitors} WHERE session = ?"), []any{string(id)}, &v.bot, &v.swept)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	c := newCounts()
	last := v.sweptView() // from which a visit may go on
	err = w.t.eachEntry(w.ctx, w.tx, id, 0, math.MaxInt64, math.MaxInt32, func(e *entry) {
		c.entry(e, v.bot, -1)
		if e.kind == view {
			c.border(last, e, v.bot, -1)
			last = e
		}
	})
	if err != nil {
		return err
	}
	c.border(last, nil, v.bot, -1)
	if err := w.count(c); err != nil {
		return err
	}
	for kind := countViews; kind <= countEvent; kind++ {
		if err := w.dropEmpty(c, kind); err != nil {
			return err
		}
	}
	return nil
}

// dropEmpty deletes the counts of a kind that c brought to nothing.
func (w *writer) dropEmpty(c *counts, kind int) error {
	var keys []countKey
	for k := range c.all {
		if k.kind == kind {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, countKey.compare)
	for part := range slices.Chunk(keys, 1000) {
		first, last := part[0], part[len(part)-1]
		for span := first.span; span <= last.span; span++ {
			var args []any
			args = append(args, kind, span)
			var slots []any
			for _, k := range part {
				if k.span == span && (len(slots) == 0 || slots[len(slots)-1] != k.slot) {
					slots = append(slots, k.slot)
				}
			}
			if _, err := w.exec("DELETE FROM {counts} WHERE kind = ? AND span = ? AND n <= 0 AND slot IN ("+marks(len(slots))+")", append(args, slots...)...); err != nil {
				return err
			}
		}
	}
	return nil
}

func (k countKey) compare(o countKey) int {
	return cmp.Or(cmp.Compare(k.kind, o.kind), cmp.Compare(k.span, o.span), cmp.Compare(k.slot, o.slot),
		cmp.Compare(bit(k.bot), bit(o.bot)), cmp.Compare(k.name, o.name))
}
