package login

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/crumb-go/crumb/internal/sqldb"
	"github.com/crumb-go/crumb/keyring"
)

// Throttled is the error of a try that came too soon. It was neither looked at nor
// counted.
type Throttled struct {
	After time.Duration // until the next try makes sense
}

func (e *Throttled) Error() string {
	return fmt.Sprintf("login: too many tries; the next one makes sense in %v", e.After.Round(time.Second))
}

// What strangers together may do to one account, and each known device of its
// owner by itself: the pause after a failure doubles.
const (
	firstPause  = time.Second
	longPause   = 15 * time.Minute
	fullPause   = 11  // failures after which the pause is the long one
	maxFailures = 100 // in a row, then nobody gets in this way any more: NIST SP 800-63B-4, section 3.2.2

	forgetAfter = 24 * time.Hour // without a failure
	// A device that was known when the account was closed to strangers is none any
	// more after this time: nobody could open it.
	closedFor = deviceLife
)

// countedFor is how long what has a limit is counted, from its first time on.
const countedFor = time.Hour

// A counter counts the failures of one account, device or network.
type counter struct {
	// ids are its rows: one under each key of the ring, the newest first.
	ids [][]byte
	// limit is how many there may be in an hour, for networks and links; 0 says that
	// the pause doubles instead.
	limit int
}

func accountCounter(keys *keyring.Ring, canonical string) counter {
	return counter{ids: keys.MACs("login.account", []byte(canonical))}
}

func deviceCounter(keys *keyring.Ring, userID string, device []byte) counter {
	return counter{ids: keys.MACs("login.device.failures", []byte(userID), device)}
}

// A quota is what may come from one network in an hour.
type quota struct {
	purpose      string
	host, region int // an IPv4 address or an IPv6 /64, which is one host's; an IPv6 /48, which is one site's
}

var (
	failuresOf = quota{"login.source", 100, 1000}
	wishesOf   = quota{"login.wishes", 20, 200} // for links: people who share an address forget less often than they mistype
)

// linksAnHour is how many links are mailed to one user in an hour. A stranger who
// asks for them fills no mailbox, and the owner loses nothing: the last of them
// works, until the hour is over.
const linksAnHour = 3

func linkCounter(keys *keyring.Ring, u *User) counter {
	return counter{ids: keys.MACs("login.links", []byte(u.ID), binary.BigEndian.AppendUint64(nil, uint64(u.Generation))), limit: linksAnHour}
}

// sourceCounters returns the counters of the networks of an address, none for one
// that is this machine's or private: behind a proxy that is not trusted everybody
// would share it.
func sourceCounters(keys *keyring.Ring, addr netip.Addr, q quota) (list []counter) {
	addr = addr.Unmap().WithZone("")
	if !isPublic(addr) {
		return nil
	}
	nets := map[int]int{32: q.host}
	if addr.Is6() {
		nets = map[int]int{64: q.host, 48: q.region}
	}
	for bits, limit := range nets {
		p, err := addr.Prefix(bits)
		if err != nil {
			panic(err) // the lengths fit the families
		}
		list = append(list, counter{ids: keys.MACs(q.purpose, []byte(p.String())), limit: limit})
	}
	return list
}

func isPublic(addr netip.Addr) bool {
	return addr.IsValid() && !addr.IsLoopback() && !addr.IsPrivate() && !addr.IsLinkLocalUnicast()
}

// ordered sorts counters by their rows: who locks several does it in one order.
func ordered(counters []counter) []counter {
	slices.SortFunc(counters, func(a, b counter) int { return bytes.Compare(a.ids[0], b.ids[0]) })
	return counters
}

// A tally is what is known of a counter; the zero tally is nothing.
type tally struct {
	failures int
	blocked  time.Time // no try before
	expires  time.Time // nothing is known any more from then on
}

func (t tally) equal(u tally) bool {
	return t.failures == u.failures && t.blocked.Equal(u.blocked) && t.expires.Equal(u.expires)
}

// wait returns how long it is until a try is allowed, 0 if it is.
func (c counter) wait(t tally, now time.Time) time.Duration {
	switch {
	case c.limit > 0 && t.failures >= c.limit:
		return t.expires.Sub(now)
	case c.limit == 0 && t.failures >= maxFailures:
		return longPause
	}
	return max(0, t.blocked.Sub(now))
}

// add returns the tally with one more failure.
func (c counter) add(t tally, now time.Time) tally {
	t.failures++
	if c.limit > 0 {
		if t.failures == 1 {
			t.expires = now.Add(countedFor)
		}
		return t
	}
	t.blocked = now.Add(pause(t.failures))
	t.expires = expiry(t.failures, t.blocked)
	return t
}

// remove returns the tally with a failure less.
func (c counter) remove(t tally) tally {
	t.failures--
	if c.limit == 0 {
		t.expires = expiry(t.failures, t.blocked)
	}
	return t
}

// pause is how long nobody may try after so many failures.
func pause(failures int) time.Duration {
	if failures >= fullPause {
		return longPause
	}
	return firstPause << (failures - 1)
}

func expiry(failures int, from time.Time) time.Time {
	if failures >= maxFailures {
		return from.Add(closedFor)
	}
	return from.Add(forgetAfter)
}

// refuse returns a Throttled if one of the counters does not allow a try.
func refuse(counters []counter, tallies []tally, now time.Time) error {
	var longest time.Duration
	for i, c := range counters {
		longest = max(longest, c.wait(tallies[i], now))
	}
	if longest > 0 {
		return &Throttled{After: longest}
	}
	return nil
}

// A reservation is a try that counts as a failure before its outcome is known, so
// that those who try at the same time see each other.
type reservation struct {
	counters      []counter
	before, after []tally // of each counter
}

// peek returns a Throttled if reserve would. It locks nothing, so that a flood of
// tries that come too soon costs a read each.
func (t *Tables) peek(ctx context.Context, now time.Time, counters []counter) error {
	tallies, _, err := t.tallies(ctx, t.db, now, counters, "")
	if err != nil {
		return err
	}
	return refuse(counters, tallies, now)
}

// reserve counts a failure in each of the counters, or, if one of them does not
// allow a try, in none: then the error is a Throttled.
func (t *Tables) reserve(ctx context.Context, now time.Time, counters []counter) (res reservation, err error) {
	added := 0
	err = t.repeat(ctx, func(tx *sqldb.Tx) error {
		before, rows, err := t.tallies(ctx, tx, now, counters, tx.ForUpdate())
		if err != nil {
			return err
		}
		if err := refuse(counters, before, now); err != nil {
			return err
		}
		res, added = reservation{counters: counters, before: before}, 0
		for i, c := range counters {
			if _, ok := rows[string(c.ids[0])]; !ok {
				added++
			}
			res.after = append(res.after, c.add(before[i], now))
			if err := t.store(ctx, tx, c, res.after[i], rows); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return reservation{}, err
	}
	t.bound(ctx, now, added)
	return res, nil
}

// giveBack takes back what reserve counted, and nothing else.
func (t *Tables) giveBack(ctx context.Context, now time.Time, res reservation) error {
	if len(res.counters) == 0 {
		return nil
	}
	return t.repeat(ctx, func(tx *sqldb.Tx) error {
		tallies, rows, err := t.tallies(ctx, tx, now, res.counters, tx.ForUpdate())
		if err != nil {
			return err
		}
		for i, c := range res.counters {
			to := tallies[i]
			switch {
			case to.failures == 0: // expired, evicted or forgiven meanwhile
				continue
			case to.equal(res.after[i]):
				to = res.before[i]
			default:
				to = c.remove(to)
			}
			if err := t.store(ctx, tx, c, to, rows); err != nil {
				return err
			}
		}
		return nil
	})
}

// repeat runs fn in a transaction, again if another process inserted a row first:
// then it is there to be locked. A power cut may take a count back: nobody who guesses
// can bring one about, and sessions in the same file are not to wait for the disk with
// each guess.
func (t *Tables) repeat(ctx context.Context, fn func(tx *sqldb.Tx) error) error {
	const most = 10
	for n := 1; ; n++ {
		err := t.db.LightTx(ctx, fn)
		if !sqldb.IsUnique(err) || n == most {
			return err
		}
	}
}

// tallies reads counters, and which rows they are made of, in the order of their
// IDs. The rows that a counter has under several keys are one tally: the strictest.
func (t *Tables) tallies(ctx context.Context, r sqldb.Runner, now time.Time, counters []counter, lock string) ([]tally, map[string]tally, error) {
	if len(counters) == 0 {
		return nil, nil, nil
	}
	ids := allIDs(counters)
	slices.SortFunc(ids, func(a, b any) int { return bytes.Compare(a.([]byte), b.([]byte)) })
	rows := map[string]tally{}
	query := t.sql("SELECT id, failures, blocked_until, expires FROM {}login_counters WHERE id IN " + marks(len(ids)) + " ORDER BY id" + lock)
	err := r.Rows(ctx, query, ids, func(scan sqldb.Scan) error {
		var id []byte
		var row tally
		if err := scan(&id, &row.failures, micros{&row.blocked}, micros{&row.expires}); err != nil {
			return err
		}
		rows[string(id)] = row
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("login: read the throttle: %w", err)
	}
	list := make([]tally, len(counters))
	for i, c := range counters {
		for _, id := range c.ids {
			if row := rows[string(id)]; now.Before(row.expires) {
				list[i].failures = max(list[i].failures, row.failures)
				list[i].blocked = later(list[i].blocked, row.blocked)
				list[i].expires = later(list[i].expires, row.expires)
			}
		}
	}
	return list, rows, nil
}

func allIDs(counters []counter) (ids []any) {
	for _, c := range counters {
		for _, id := range c.ids {
			ids = append(ids, id)
		}
	}
	return ids
}

// marks is a list of n parameters.
func marks(n int) string { return "(?" + strings.Repeat(", ?", n-1) + ")" }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// store writes a tally under the newest key and deletes the rows under the others.
// Of nothing there is no row.
func (t *Tables) store(ctx context.Context, tx *sqldb.Tx, c counter, to tally, rows map[string]tally) error {
	keep := 1
	if to.failures == 0 {
		keep = 0
	}
	for _, id := range c.ids[keep:] {
		if _, ok := rows[string(id)]; ok {
			if _, err := tx.Exec(ctx, t.sql("DELETE FROM {}login_counters WHERE id = ?"), id); err != nil {
				return fmt.Errorf("login: write the throttle: %w", err)
			}
		}
	}
	if to.failures == 0 {
		return nil
	}
	statement := "INSERT INTO {}login_counters (failures, blocked_until, expires, id) VALUES (?, ?, ?, ?)"
	if _, ok := rows[string(c.ids[0])]; ok {
		statement = "UPDATE {}login_counters SET failures = ?, blocked_until = ?, expires = ? WHERE id = ?"
	}
	if _, err := tx.Exec(ctx, t.sql(statement), to.failures, microsOf(to.blocked), microsOf(to.expires), c.ids[0]); err != nil {
		return fmt.Errorf("login: write the throttle: %w", err)
	}
	return nil
}

func microsOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// forgive forgets all failures in the counters.
func (t *Tables) forgive(ctx context.Context, counters ...counter) error {
	ids := allIDs(counters)
	if _, err := t.db.Exec(ctx, t.sql("DELETE FROM {}login_counters WHERE id IN "+marks(len(ids))), ids...); err != nil {
		return fmt.Errorf("login: forget failures: %w", err)
	}
	return nil
}

// reopen lets strangers try again where a hundred failures in a row shut them out,
// at the longest pause.
func (t *Tables) reopen(ctx context.Context, now time.Time, c counter) error {
	args := append([]any{fullPause, microsOf(expiry(fullPause, now)), fullPause}, allIDs([]counter{c})...)
	_, err := t.db.Exec(ctx, t.sql("UPDATE {}login_counters SET failures = ?, expires = ? WHERE failures > ? AND id IN "+marks(len(c.ids))), args...)
	if err != nil {
		return fmt.Errorf("login: let strangers try again: %w", err)
	}
	return nil
}

// bound keeps the number of rows below MaxCounters, and one in a hundred more for
// each process. What expired goes first, then the fewest failures, and of those what
// expires first: names that were tried once, by one who tries many.
func (t *Tables) bound(ctx context.Context, now time.Time, added int) {
	slack := t.cfg.MaxCounters/100 + 1
	if added == 0 || t.inserted.Add(int64(added)) < int64(slack) {
		return
	}
	t.inserted.Store(0)
	if err := t.evict(ctx, now, t.cfg.MaxCounters-slack); err != nil {
		t.cfg.Logger.Warn("The number of counted accounts, devices and networks could not be bounded; it is tried again soon.", "error", err)
	}
}

func (t *Tables) evict(ctx context.Context, now time.Time, keep int) error {
	if _, err := t.deleteOld(ctx, "{}login_counters", "id", "expires", now.Add(-keepExpired)); err != nil {
		return err
	}
	var rows int
	if err := t.db.Row(ctx, t.sql("SELECT count(*) FROM {}login_counters"), nil, &rows); err != nil {
		return err
	}
	for over := rows - keep; over > 0; over -= sweepBatch {
		if _, err := t.db.Exec(ctx, t.deleteSome("{}login_counters", "id", "", "failures, expires"), min(over, sweepBatch)); err != nil {
			return err
		}
	}
	return nil
}
