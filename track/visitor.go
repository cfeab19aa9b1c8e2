package track

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/crumb-go/crumb/session"
)

// VisitGap is how long a visitor looks at nothing before the next view begins
// another visit.
const VisitGap = 30 * time.Minute

const (
	gap     = int64(VisitGap / time.Microsecond)
	quarter = int64(15 * time.Minute / time.Microsecond)
	// quartersADay is how many slots a row of counts with the span of a day holds.
	quartersADay = 96
)

// slotOf returns the quarter of an hour that at lies in, counted from 1970.
func slotOf(at int64) int64 { return at / quarter }

// slotStart returns when the slot begins that at lies in.
func slotStart(at int64) int64 { return slotOf(at) * quarter }

// What the table of counts counts.
const (
	countViews = iota + 1
	countEvents
	countVisits
	countRoute
	countReferrer
	countLanding
	countExit
	countEvent
)

// The spans of a count.
const (
	spanQuarter = 0
	spanDay     = 1 // of UTC
)

// A countKey names one count.
type countKey struct {
	kind, span int
	slot       int64 // the quarter, or the day, since 1970
	bot        bool
	name       string
}

// A count is how much is added to one.
type count struct {
	countKey
	n int64
}

// counts are the changes of one batch to the table of counts, by the quarter.
type counts struct {
	all  map[countKey]*count
	last [countEvent + 1]*count // of each kind, to which the next is often added too
}

func newCounts() *counts { return &counts{all: map[countKey]*count{}} }

func (c *counts) add(kind int, at int64, bot bool, name string, n int64) {
	k := countKey{kind, spanQuarter, slotOf(at), bot, name}
	if last := c.last[kind]; last == nil || last.countKey != k {
		c.last[kind] = c.of(k)
	}
	c.last[kind].n += n
}

func (c *counts) of(k countKey) *count {
	one := c.all[k]
	if one == nil {
		one = &count{countKey: k}
		c.all[k] = one
	}
	return one
}

// addDays adds the days that the quarters lie in. It is called once, at the end.
func (c *counts) addDays() {
	for _, one := range slices.Collect(maps.Values(c.all)) {
		k := one.countKey
		k.span, k.slot = spanDay, k.slot/quartersADay
		c.of(k).n += one.n
	}
}

// entry counts e itself, n times.
func (c *counts) entry(e *entry, bot bool, n int64) {
	if e.kind == event {
		c.add(countEvents, e.at, bot, "", n)
		c.add(countEvent, e.at, bot, e.name, n)
		return
	}
	c.add(countViews, e.at, bot, "", n)
	c.add(countRoute, e.at, bot, e.name, n)
	if from := e.more().referrer; from != "" {
		c.add(countReferrer, e.at, bot, from, n)
	}
}

// border counts where visits begin and end between two views that follow each
// other, n times; nil is before the first and after the last. Of a view that was
// swept the page may not be known: what was counted of it stays.
func (c *counts) border(before, after *entry, bot bool, n int64) {
	if before != nil && after != nil && after.at-before.at <= gap {
		return
	}
	if after != nil {
		c.add(countVisits, after.at, bot, "", n)
		c.add(countLanding, after.at, bot, after.name, n)
	}
	if before != nil && before.name != "" {
		c.add(countExit, before.at, bot, before.name, n)
	}
}

// A slot says that a visitor did something in a quarter of an hour, and in which
// one before it: the visitors of any time are the slots in it whose prev is not.
type slot struct {
	slot, prev int64 // prev is 0 if there is none
	stored     bool
	changed    bool
}

// A visitor is what is known about one, a row.
type visitor struct {
	id                  session.ID
	user                string // who signed in last
	first, seen         int64
	requests            int64
	firstAddr, lastAddr string
	addrAt              int64 // of the older one that is not truncated yet; 0 if both are
	device, language    string
	bot                 bool
	landing, referrer   string // of the first view
	page                string // where the visitor is
	exit                string // the route of the latest view in the trail
	viewed              int64  // when that was; 0 if there is none
	active              int64  // the latest entry
	slot                int64  // the latest slot
	swept               int64  // the latest view that is no longer in the trail; 0 if there is none

	stored       bool
	storedUser   string // what the row has
	storedAddrAt int64
}

// see adds the requests of u. What is known moves forward only.
func (v *visitor) see(u *update, d device) {
	if !v.stored {
		v.first, v.bot = u.first, d.bot
		if u.created > 0 {
			v.first = min(v.first, u.created)
		}
		if u.firstAddr.IsValid() {
			v.firstAddr, v.addrAt = u.firstAddr.String(), u.first
		}
	}
	v.first = min(v.first, u.first)
	v.requests += u.requests
	if v.user == "" {
		v.user = u.user // the request that signed in may have been overtaken
	}
	if u.last < v.seen {
		return
	}
	v.seen, v.device, v.language = u.last, d.label, language(u.languages)
	if u.user != "" {
		v.user = u.user
	}
	if u.page != "" {
		v.page = u.page
	}
	if u.lastAddr.IsValid() {
		v.lastAddr = u.lastAddr.String()
		if v.addrAt == 0 {
			v.addrAt = u.last
		}
	}
}

// truncate cuts the addresses noted before then.
func (v *visitor) truncate(then int64) {
	v.addrAt = 0
	if v.first < then {
		v.firstAddr = truncated(v.firstAddr)
	} else {
		v.addrAt = v.first
	}
	if v.seen < then {
		v.lastAddr = truncated(v.lastAddr)
	} else if v.addrAt == 0 {
		v.addrAt = v.seen
	}
}

// inOrder reports whether all entries of u come after those that are stored.
func (v *visitor) inOrder(u *update) bool {
	return !slices.ContainsFunc(u.entries, func(e entry) bool { return e.at <= v.active })
}

// known returns what of the trail add needs to know if the entries come in order.
func (v *visitor) known() (trail []*entry, slots []slot) {
	if v.viewed > 0 {
		trail = []*entry{{at: v.viewed, kind: view, name: v.exit}}
	}
	if v.slot > 0 {
		slots = []slot{{slot: v.slot, stored: true}}
	}
	return trail, slots
}

// sweptView returns the last view that is no longer in the trail, nil if there is
// none.
func (v *visitor) sweptView() *entry {
	if v.swept == 0 {
		return nil
	}
	return &entry{at: v.swept, kind: view}
}

// add puts the entries of u into the trail, whose part beginning with the last
// view before them is given, if a visit may go on from it, and the slots likewise.
// It orders the entries, no two of a visitor at one time, and returns the slots,
// with those to insert or to change marked.
func (v *visitor) add(u *update, trail []*entry, slots []slot, c *counts) []slot {
	slices.SortStableFunc(u.entries, func(a, b entry) int { return cmp.Compare(a.at, b.at) })
	trail = slices.Grow(trail, len(u.entries))
	for i := range u.entries {
		e := &u.entries[i]
		n := len(trail)
		for n > 0 && trail[n-1].at > e.at {
			n--
		}
		if n > 0 && trail[n-1].at == e.at {
			e.at++
			for n < len(trail) && trail[n].at == e.at {
				e.at++
				n++
			}
		}
		c.entry(e, v.bot, 1)
		if e.kind == view {
			before, after := neighbours(trail, n)
			c.border(before, after, v.bot, -1)
			c.border(before, e, v.bot, 1)
			c.border(e, after, v.bot, 1)
			if before == nil && (v.landing == "" || e.at-v.first <= gap) { // later on, what came before may be swept
				v.landing, v.referrer = e.name, e.more().referrer
			}
			if after == nil && e.at >= v.viewed {
				v.viewed, v.exit = e.at, e.name
			}
		}
		trail = slices.Insert(trail, n, e)
		v.active = max(v.active, e.at)
		slots = insertSlot(slots, slotOf(e.at))
	}
	if len(slots) > 0 {
		v.slot = max(v.slot, slots[len(slots)-1].slot)
	}
	return slots
}

// neighbours returns the views before and after place n of a trail, nil if there
// are none.
func neighbours(trail []*entry, n int) (before, after *entry) {
	for i := n - 1; i >= 0 && before == nil; i-- {
		if trail[i].kind == view {
			before = trail[i]
		}
	}
	for i := n; i < len(trail) && after == nil; i++ {
		if trail[i].kind == view {
			after = trail[i]
		}
	}
	return before, after
}

// insertSlot adds s to slots, in their order, unless it is there.
func insertSlot(slots []slot, s int64) []slot {
	n, found := slices.BinarySearchFunc(slots, s, func(t slot, s int64) int { return cmp.Compare(t.slot, s) })
	if found {
		return slots
	}
	added := slot{slot: s}
	if n > 0 {
		added.prev = slots[n-1].slot
	}
	if n < len(slots) {
		slots[n].prev, slots[n].changed = s, true
	}
	return slices.Insert(slots, n, added)
}
