package track

import (
	"context"
	"fmt"
	"time"

	"github.com/crumb-go/crumb/internal/sqldb"
)

// A Retention says how long what was written is kept. Zero fields mean the
// defaults; there is no unlimited.
type Retention struct {
	// Addresses are kept whole for so long, then cut to a /24, or a /48 of IPv6.
	// Defaults to 1 day.
	Addresses time.Duration

	// Trail is how long page views and events are kept, which go by the quarter of an
	// hour. It is at most Visitors and Counts, since whoever is erased must be found
	// and their views taken out of the numbers. Defaults to 90 days.
	Trail time.Duration

	// Visitors is how long a visitor is kept who was not seen again, and how long
	// it is kept who was here in which quarter of an hour. They go by the quarter of
	// an hour too. Defaults to 400 days.
	Visitors time.Duration

	// Counts is how long the numbers of views, events and visits by quarter of an
	// hour and day are kept, which name no visitor. Defaults to 400 days.
	Counts time.Duration
}

const (
	day          = 24 * time.Hour
	maxRetention = 10 * 366 * day
	// keepErased is how long a visitor that was erased is remembered, by a hash
	// alone: longer than any queue waits and than the cookie of a first visit lives.
	keepErased  = 3 * day
	keepBatches = day
)

// WithDefaults returns r with every default filled in, or an error that says what
// is wrong.
func (r Retention) WithDefaults() (Retention, error) {
	for _, f := range []struct {
		name string
		d    *time.Duration
		def  time.Duration
	}{
		{"Addresses", &r.Addresses, day},
		{"Trail", &r.Trail, 90 * day},
		{"Visitors", &r.Visitors, 400 * day},
		{"Counts", &r.Counts, 400 * day},
	} {
		if *f.d == 0 {
			*f.d = f.def
		}
		if *f.d < time.Minute || *f.d > maxRetention {
			return r, fmt.Errorf("track: Retention.%s is %v; it must be at least 1m and at most 10 years (%v)", f.name, *f.d, maxRetention)
		}
	}
	if r.Trail > r.Visitors {
		return r, fmt.Errorf("track: Retention.Trail is %v; it must be at most Retention.Visitors (%v), for a trail has to end before its visitor does", r.Trail, r.Visitors)
	}
	if r.Trail > r.Counts {
		return r, fmt.Errorf("track: Retention.Trail is %v; it must be at most Retention.Counts (%v), for numbers that are gone cannot be corrected", r.Trail, r.Counts)
	}
	return r, nil
}

// sweepBatch is how many rows one transaction of a sweep removes.
const sweepBatch = 500

// Sweep removes what is older at now than r says and cuts addresses, in small
// transactions with a pause between them nine times as long as each took.
// [Tracker.Run] calls it every ten minutes. Several processes may do so at once.
func (t *Tables) Sweep(ctx context.Context, now time.Time, r Retention) error {
	r, err := r.WithDefaults()
	if err != nil {
		return err
	}
	before := func(d time.Duration) int64 { return now.Add(-d).UnixMicro() }
	for _, step := range []func(context.Context) (int, error){
		func(ctx context.Context) (int, error) { return t.truncateAddresses(ctx, before(r.Addresses)) },
		func(ctx context.Context) (int, error) { return t.dropTrail(ctx, slotStart(before(r.Trail))) },
		t.dropping("slots", "session, slot", "slot < ?", slotOf(before(r.Visitors))),
		t.dropping("visitors", "session", "seen < ?", slotStart(before(r.Visitors))),
		t.dropping("counts", "kind, span, slot, bot, name", "span = 0 AND slot < ?", slotOf(before(r.Counts))),
		t.dropping("counts", "kind, span, slot, bot, name", "span = 1 AND slot < ?", slotOf(before(r.Counts))/quartersADay),
		t.dropping("erased", "hash", "erased_at < ?", before(keepErased)),
		t.dropping("batches", "id", "written_at < ?", before(keepBatches)),
	} {
		if err := repeat(ctx, step); err != nil {
			return fmt.Errorf("track: sweep: %w", err)
		}
	}
	return nil
}

// repeat calls step until it finds less than a batch.
func repeat(ctx context.Context, step func(context.Context) (int, error)) error {
	for {
		began := time.Now()
		n, err := step(ctx)
		if err != nil || n < sweepBatch {
			return err
		}
		timer := time.NewTimer(9 * time.Since(began))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// dropTrail deletes a batch of the trail before then, and notes in the rows of its
// visitors when their last view in it was: a visit may go on in what stays.
// Batches and erasures wait, for both read the one and the other.
func (t *Tables) dropTrail(ctx context.Context, then int64) (n int, err error) {
	some := false
	err = t.rows(ctx, t.db, t.sql("SELECT 1 FROM {trail} WHERE at < ? LIMIT 1"), []any{then}, func(scan sqldb.Scan) error {
		some = true
		return scan(new(int))
	})
	if err != nil || !some { // and nobody waits
		return 0, err
	}
	err = t.db.Tx(ctx, func(tx *sqldb.Tx) error {
		n = 0
		if err := t.lockErasing(ctx, tx, true); err != nil {
			return err
		}
		var last int64
		var ids []any
		query := t.sql("SELECT session, at FROM {trail} WHERE at < ? ORDER BY at LIMIT ?")
		err := t.rows(ctx, tx, query, []any{then, sweepBatch}, func(scan sqldb.Scan) error {
			var id string
			err := scan(&id, &last)
			ids = append(ids, id)
			return err
		})
		if err != nil || len(ids) == 0 {
			return err
		}
		in := "session IN (" + marks(len(ids)) + ")"
		_, err = t.exec(ctx, tx, t.sql(`UPDATE {visitors} SET swept = (SELECT max(CASE WHEN viewed > swept THEN viewed ELSE swept END)
			FROM {trail} WHERE session = {visitors}.session AND at <= ?) WHERE `+in), append([]any{last}, ids...)...)
		if err != nil {
			return err
		}
		deleted, err := t.exec(ctx, tx, t.sql("DELETE FROM {trail} WHERE "+in+" AND at <= ?"), append(ids, last)...)
		n = int(deleted)
		return err
	})
	return n, err
}

// dropping deletes a batch of the rows of a table that a condition is true for. Each
// engine has its own way to delete a few only.
func (t *Tables) dropping(table, key, where string, limit int64) func(context.Context) (int, error) {
	table = t.table(table)
	query := fmt.Sprintf("DELETE FROM %s WHERE %s LIMIT %d", table, where, sweepBatch)
	if t.db.Dialect != sqldb.MySQL {
		// The condition stands outside too: while the statement waits for a row it may
		// become another.
		query = fmt.Sprintf("DELETE FROM %s WHERE (%s) IN (SELECT %s FROM %s WHERE %s LIMIT %d) AND %s", table, key, key, table, where, sweepBatch, where)
	}
	return func(ctx context.Context) (int, error) {
		args := []any{limit}
		if t.db.Dialect != sqldb.MySQL {
			args = append(args, limit)
		}
		n, err := t.exec(ctx, t.db, query, args...)
		return int(n), err
	}
}

// truncateAddresses cuts the addresses of one batch of visitors.
func (t *Tables) truncateAddresses(ctx context.Context, then int64) (n int, err error) {
	err = t.db.Tx(ctx, func(tx *sqldb.Tx) error {
		var list []*visitor
		query := t.sql("SELECT session, first_seen, seen, first_addr, last_addr FROM {visitors} WHERE addr_at > 0 AND addr_at < ? ORDER BY addr_at LIMIT ?") + tx.ForUpdate()
		err := t.rows(ctx, tx, query, []any{then, sweepBatch}, func(scan sqldb.Scan) error {
			v := &visitor{}
			list = append(list, v)
			return scan(&v.id, &v.first, &v.seen, &v.firstAddr, &v.lastAddr)
		})
		if err != nil {
			return err
		}
		n = len(list)
		for _, v := range list {
			v.truncate(then)
			if _, err := t.exec(ctx, tx, t.sql("UPDATE {visitors} SET first_addr = ?, last_addr = ?, addr_at = ? WHERE session = ?"),
				v.firstAddr, v.lastAddr, v.addrAt, string(v.id)); err != nil {
				return err
			}
		}
		return nil
	})
	return n, err
}
