package login

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crumb-go/crumb/keyring"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// fail counts one failure, or returns how long it is until the next may come.
func fail(t testing.TB, l *Login, counters ...counter) time.Duration {
	t.Helper()
	_, err := l.tables.reserve(t.Context(), l.now(), ordered(slices.Clone(counters)))
	return after(t, err)
}

// after is how long the error of a try asks to wait; 0 without one.
func after(t testing.TB, err error) time.Duration {
	t.Helper()
	var slow *Throttled
	switch {
	case errors.As(err, &slow):
		if slow.After <= 0 {
			t.Errorf("after %v", slow.After)
		}
		return slow.After
	case err != nil:
		t.Fatal(err)
	}
	return 0
}

func counterRows(t testing.TB, tables *Tables) (n int) {
	t.Helper()
	if err := tables.db.Row(context.Background(), tables.sql("SELECT count(*) FROM {}login_counters"), nil, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestOneHashOfOneCostWhoeverItIsAbout(t *testing.T) {
	b := newBench(t)
	b.add("right", rightHash())
	b.add("empty", "")
	off := b.add("off", rightHash())
	if _, err := b.tables.SetDisabled(t.Context(), off.ID, true); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ what, name, password string }{
		{"unknown", "nobody", rightPassword}, {"wrong", "right", "another password"}, {"disabled, right password", "off", rightPassword},
		{"disabled, wrong password", "off", "another password"}, {"no password", "empty", rightPassword}, {"no password, and none typed", "empty", ""},
		{"none typed", "right", ""}, {"a name that nobody can have", "a b\x00", rightPassword}, {"no name", "", rightPassword},
	} {
		b.time.add(longPause)
		if err := b.try(c.name, c.password); !errors.Is(err, errWrong) {
			t.Errorf("%s: %v", c.what, err)
		}
		if hashes := b.hashed(); !slices.Equal(hashes, []cost{ourCost}) {
			t.Errorf("%s: hashed %v", c.what, hashes)
		}
		if wait := after(t, b.try(c.name, c.password)); wait != firstPause && wait != 2*firstPause {
			t.Errorf("%s: a second try may come after %v", c.what, wait)
		}
		if hashes := b.hashed(); len(hashes) != 0 {
			t.Errorf("%s: throttled, and hashed %v", c.what, hashes)
		}
	}
}

func TestThePauseDoublesFromASecondToAQuarterOfAnHour(t *testing.T) {
	b := newBench(t)
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900} {
		want *= time.Second
		if err := b.try("ann", "guess"); !errors.Is(err, errWrong) {
			t.Fatalf("guess %d: %v", i+1, err)
		}
		if wait := after(t, b.try("ann", "guess")); wait != want {
			t.Errorf("after failure %d one has to wait %v, not %v", i+1, wait, want)
		}
		b.time.add(want - time.Microsecond)
		if wait := after(t, b.try("ann", "guess")); wait != time.Microsecond {
			t.Errorf("failure %d: a microsecond before the time it says %v", i+1, wait)
		}
		b.time.add(time.Microsecond)
	}
	if hashes := b.hashed(); len(hashes) != 13 {
		t.Errorf("%d hashes", len(hashes))
	}
	b.time.add(forgetAfter)
	if err := b.try("ann", "guess"); !errors.Is(err, errWrong) {
		t.Fatal(err)
	}
	if wait := after(t, b.try("ann", "guess")); wait != firstPause {
		t.Errorf("a day later the first failure asks for %v", wait)
	}
}

// tryKnown signs in on a known device.
func (b *bench) tryKnown(name, password, device string) error {
	_, err := b.verify(context.Background(), attempt{name: name, password: password, device: device, addr: loopback})
	return err
}

func TestAHundredFailuresInARowCloseTheAccountToStrangers(t *testing.T) {
	closed := func(t *testing.T) (*bench, *User) {
		b := newBench(t)
		u := b.add("ann", rightHash())
		account := b.account(nil, "ann")
		for n := range maxFailures {
			if wait := fail(t, b.Login, account); wait != 0 {
				t.Fatalf("failure %d has to wait %v", n+1, wait)
			}
			b.time.add(longPause)
		}
		b.time.add(100 * 24 * time.Hour)
		if wait := after(t, b.try("ann", rightPassword)); wait != longPause {
			t.Fatalf("a stranger with the right password has to wait %v", wait)
		}
		return b, u
	}
	open := func(t *testing.T, b *bench, password string, wait time.Duration) {
		t.Helper()
		if err := b.try("ann", "guess"); !errors.Is(err, errWrong) {
			t.Errorf("a stranger is not let in again: %v", err)
		}
		if got := after(t, b.try("ann", "guess")); got != wait {
			t.Errorf("after a failure strangers wait %v, not %v", got, wait)
		}
		b.time.add(longPause)
		if err := b.try("ann", password); err != nil {
			t.Errorf("with the right password: %v", err)
		}
	}
	t.Run("until a sign-in on a known device", func(t *testing.T) {
		b, u := closed(t)
		if err := b.tryKnown("ann", "wrong", b.newDevice(u)); !errors.Is(err, errWrong) {
			t.Fatal(err)
		}
		if wait := after(t, b.try("ann", rightPassword)); wait != longPause {
			t.Errorf("a failure on a known device opens it: %v", wait)
		}
		if err := b.tryKnown("ann", rightPassword, b.newDevice(u)); err != nil {
			t.Fatal(err)
		}
		// The pause stays: the owner being back makes the strangers no better.
		open(t, b, rightPassword, longPause)
	})
	t.Run("until it is unlocked", func(t *testing.T) {
		b, _ := closed(t)
		if err := b.tables.Unlock(t.Context(), b.cfg.Keys, "ann"); err != nil {
			t.Fatal(err)
		}
		open(t, b, rightPassword, firstPause)
	})
	t.Run("until a reset", func(t *testing.T) {
		b, _ := closed(t)
		if _, err := b.useReset(t.Context(), b.link(), "another fine password", loopback); err != nil {
			t.Fatal(err)
		}
		open(t, b, "another fine password", firstPause)
	})
}

func TestARightPasswordGivesBackItsOwnTryOnly(t *testing.T) {
	b := newBench(t)
	u := b.add("ann", rightHash())
	known := b.newDevice(u)
	for range 5 {
		fail(t, b.Login, b.account(nil, "ann"))
		b.time.add(longPause)
	}
	for range 3 {
		if err := b.try("ann", rightPassword); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.tryKnown("ann", rightPassword, known); err != nil {
		t.Fatal(err)
	}
	if err := b.try("ann", "guess"); !errors.Is(err, errWrong) {
		t.Fatal(err)
	}
	if wait := after(t, b.try("ann", "guess")); wait != 32*time.Second {
		t.Errorf("the sixth failure of strangers asks for %v", wait)
	}

	t.Run("and one that was never wrong leaves no row", func(t *testing.T) {
		b := newBench(t)
		b.add("bob", rightHash())
		if _, err := b.verify(t.Context(), attempt{name: "bob", password: rightPassword, addr: netip.MustParseAddr("203.0.113.1")}); err != nil {
			t.Fatal(err)
		}
		if n := counterRows(t, b.tables); n != 0 {
			t.Errorf("%d rows", n)
		}
	})
	t.Run("and what failed meanwhile stays counted", func(t *testing.T) {
		b := newBench(t)
		account := b.account(nil, "bob")
		mine, err := b.tables.reserve(t.Context(), b.now(), []counter{account})
		if err != nil {
			t.Fatal(err)
		}
		b.time.add(firstPause)
		if wait := fail(t, b.Login, account); wait != 0 {
			t.Fatal(wait)
		}
		if err := b.tables.giveBack(t.Context(), b.now(), mine); err != nil {
			t.Fatal(err)
		}
		if wait := fail(t, b.Login, account); wait != 2*time.Second {
			t.Errorf("the failure meanwhile asks for %v", wait)
		}
		b.time.add(2 * time.Second)
		fail(t, b.Login, account)
		if wait := fail(t, b.Login, account); wait != 2*time.Second {
			t.Errorf("the failure after it asks for %v", wait)
		}
	})
}

func TestAKnownDeviceHasTriesOfItsOwn(t *testing.T) {
	b := newBench(t)
	u := b.add("ann", rightHash())
	one, two := b.newDevice(u), b.newDevice(u)
	for i, want := range []time.Duration{1, 2, 4} {
		if err := b.tryKnown("ann", "typo", one); !errors.Is(err, errWrong) {
			t.Fatal(err)
		}
		if wait := after(t, b.tryKnown("ann", rightPassword, one)); wait != want*time.Second {
			t.Errorf("failure %d asks for %v", i+1, wait)
		}
		b.time.add(want * time.Second)
	}
	b.time.add(-time.Microsecond)
	if err := b.tryKnown("ann", rightPassword, two); err != nil {
		t.Errorf("another device: %v", err)
	}
	if err := b.try("ann", rightPassword); err != nil {
		t.Errorf("a stranger: %v", err)
	}
	b.time.add(time.Microsecond)
	if err := b.tryKnown("ann", rightPassword, one); err != nil {
		t.Fatal(err)
	}
	if err := b.tryKnown("ann", "typo", one); !errors.Is(err, errWrong) {
		t.Fatal(err)
	}
	if wait := after(t, b.tryKnown("ann", "typo", one)); wait != firstPause {
		t.Errorf("after a success the first failure asks for %v", wait)
	}

	t.Run("until it failed a hundred times, then it is a stranger", func(t *testing.T) {
		d, _ := parseDevice(two)
		for range maxFailures {
			fail(t, b.Login, deviceCounter(b.cfg.Keys, u.ID, d.id[:]))
			b.time.add(longPause)
		}
		for range 3 {
			fail(t, b.Login, b.account(nil, "ann"))
			b.time.add(longPause)
		}
		b.time.add(-longPause)
		if wait := after(t, b.tryKnown("ann", rightPassword, two)); wait == 0 || wait > longPause {
			t.Errorf("it has to wait %v", wait)
		}
		b.time.add(longPause)
		if err := b.tryKnown("ann", rightPassword, two); err != nil {
			t.Errorf("as a stranger: %v", err)
		}
	})
}

func TestGuessesAtOnceCannotBeatTheCounterAndTheOwnerSignsInMeanwhile(t *testing.T) {
	onEach(t, func(t *testing.T, url string, cfg TablesConfig) {
		b := newBenchOn(t, url, cfg)
		u := b.add("ann", rightHash())
		known := b.newDevice(u)
		// A second process guesses too.
		other := b.open(url, cfg)
		// A busy machine may be slow at 500 reads.
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		guess := func(n int) (wait func()) {
			var wg sync.WaitGroup
			start := make(chan struct{})
			for i := range n {
				l := b.Login
				if i%2 == 1 {
					l = other
				}
				wg.Go(func() {
					<-start
					_, err := l.verify(ctx, attempt{name: "ann", password: fmt.Sprint("guess ", i), addr: loopback})
					if !errors.Is(err, errWrong) && !errors.As(err, new(*Throttled)) {
						t.Error(err)
					}
				})
			}
			close(start)
			return wg.Wait
		}
		wait := guess(500)
		if _, err := b.verify(ctx, attempt{name: "ann", password: rightPassword, device: known, addr: loopback}); err != nil {
			t.Errorf("the owner: %v", err)
		}
		wait()
		// The clock stands still: one guess, and the owner.
		if n := len(b.hashed()); n != 2 {
			t.Errorf("%d passwords were looked at, not 2", n)
		}
		for round := range 4 { // now there is a row to be locked
			b.time.add(firstPause << round)
			guess(50)()
			if n := len(b.hashed()); n != 1 {
				t.Errorf("%d guesses were looked at in round %d", n, round)
			}
		}
		if wait := after(t, b.try("ann", "guess")); wait != 16*time.Second {
			t.Errorf("the next guess has to wait %v", wait)
		}
	})
}

func TestCountersHoldAcrossProcessesAndAReopen(t *testing.T) {
	onEach(t, func(t *testing.T, url string, cfg TablesConfig) {
		b := newBenchOn(t, url, cfg)
		addr := netip.MustParseAddr("198.51.100.7")
		for i, l := range []*Login{b.Login, b.open(url, cfg), b.open(url, cfg)} {
			_, err := l.verify(t.Context(), attempt{name: "ann", password: "guess", addr: addr})
			if !errors.Is(err, errWrong) {
				t.Fatalf("process %d: %v", i+1, err)
			}
			if i == 1 {
				if err := l.tables.Close(); err != nil {
					t.Fatal(err)
				}
			}
			_, err = b.open(url, cfg).verify(t.Context(), attempt{name: "ANN", password: "guess", addr: addr})
			if wait := after(t, err); wait != firstPause<<i {
				t.Errorf("after %d failures another process asks for %v", i+1, wait)
			}
			b.time.add(firstPause << i)
		}
	})
}

func TestANetworkMayFailSoOftenInAnHour(t *testing.T) {
	addr := netip.MustParseAddr
	sources := func(b *bench, s string) []counter { return sourceCounters(b.cfg.Keys, addr(s), failuresOf) }
	exhaust := func(t *testing.T, b *bench, s string, n int) {
		t.Helper()
		for i := range n {
			if wait := fail(t, b.Login, sources(b, s)...); wait != 0 {
				t.Fatalf("failure %d of %s has to wait %v", i+1, s, wait)
			}
		}
	}
	t.Run("an IPv4 address 100 times", func(t *testing.T) {
		b := newBench(t)
		exhaust(t, b, "203.0.113.7", 60)
		b.time.add(10 * time.Minute)
		exhaust(t, b, "::ffff:203.0.113.7", 40)
		if wait := fail(t, b.Login, sources(b, "203.0.113.7")...); wait != 50*time.Minute {
			t.Errorf("failure 101 has to wait %v", wait)
		}
		exhaust(t, b, "203.0.113.8", 1)
		b.time.add(50*time.Minute - time.Microsecond)
		if wait := fail(t, b.Login, sources(b, "203.0.113.7")...); wait != time.Microsecond {
			t.Errorf("a microsecond before the hour is over: %v", wait)
		}
		b.time.add(time.Microsecond)
		exhaust(t, b, "203.0.113.7", 100)
	})
	t.Run("an IPv6 /64 100 times, whatever its hosts call themselves", func(t *testing.T) {
		b := newBench(t)
		for i := range 100 {
			exhaust(t, b, fmt.Sprintf("2001:db8:1:2::%x", i+1), 1)
		}
		if wait := fail(t, b.Login, sources(b, "2001:db8:1:2:ffff::1")...); wait != time.Hour {
			t.Errorf("failure 101 has to wait %v", wait)
		}
		exhaust(t, b, "2001:db8:1:3::1", 1)
	})
	t.Run("an IPv6 /48 1,000 times", func(t *testing.T) {
		b := newBench(t)
		for i := range 10 {
			exhaust(t, b, fmt.Sprintf("2001:db8:1:%x::1", i), 100)
		}
		if wait := fail(t, b.Login, sources(b, "2001:db8:1:ff::1")...); wait != time.Hour {
			t.Errorf("failure 1,001 has to wait %v", wait)
		}
		exhaust(t, b, "2001:db8:2::1", 1)
	})
	t.Run("but not this machine or a private one, which is told once", func(t *testing.T) {
		b := newBench(t)
		for _, s := range []string{"127.0.0.1", "::1", "10.1.2.3", "192.168.1.1", "172.16.0.1", "fd00::1", "fe80::1%eth0", "169.254.1.1", "::ffff:10.0.0.1"} {
			if list := sources(b, s); len(list) != 0 {
				t.Errorf("%s is counted", s)
			}
		}
		if list := sourceCounters(b.cfg.Keys, netip.Addr{}, failuresOf); len(list) != 0 {
			t.Error("no address is counted")
		}
		for n := range 3 {
			if err := b.try(fmt.Sprint("user", n), "guess"); !errors.Is(err, errWrong) {
				t.Fatal(err)
			}
		}
		if n := strings.Count(b.log.String(), "trusted proxies"); n != 1 {
			t.Errorf("it was told %d times", n)
		}
	})
	t.Run("and a known device does not suffer from its neighbours", func(t *testing.T) {
		b := newBench(t)
		u := b.add("ann", rightHash())
		exhaust(t, b, "203.0.113.7", 100)
		try := func(device string) error {
			_, err := b.verify(t.Context(), attempt{name: "ann", password: rightPassword, device: device, addr: addr("203.0.113.7")})
			return err
		}
		if wait := after(t, try("")); wait != time.Hour {
			t.Errorf("a stranger has to wait %v", wait)
		}
		if err := try(b.newDevice(u)); err != nil {
			t.Errorf("a known device: %v", err)
		}
	})
	t.Run("and a try that another counter refuses does not count", func(t *testing.T) {
		b := newBench(t)
		exhaust(t, b, "203.0.113.7", 99)
		account := b.account(nil, "ann")
		fail(t, b.Login, account)
		for range 5 {
			if wait := fail(t, b.Login, append(sources(b, "203.0.113.7"), account)...); wait != firstPause {
				t.Errorf("it has to wait %v", wait)
			}
		}
		exhaust(t, b, "203.0.113.7", 1)
	})
}

func TestEveryPlaceThatVerifiesASecretCounts(t *testing.T) {
	b := newBench(t)
	u := b.add("ann", rightHash())
	addr := netip.MustParseAddr("203.0.113.7")
	if _, err := b.verifyCurrent(t.Context(), u, "guess", "", addr); !errors.Is(err, errWrong) {
		t.Fatal(err)
	}
	if wait := after(t, b.try("ann", "guess")); wait != firstPause {
		t.Errorf("a wrong current password lets the sign-in wait %v", wait)
	}
	_, err := b.verifyCurrent(t.Context(), u, rightPassword, "", addr)
	if wait := after(t, err); wait != firstPause {
		t.Errorf("and the current password %v", wait)
	}
	b.time.add(firstPause)
	if _, err := b.verifyCurrent(t.Context(), u, rightPassword, "", addr); err != nil {
		t.Error(err)
	}
	for n := range 99 {
		if _, err := b.useReset(t.Context(), strings.Repeat("A", 43), "another fine password", addr); !errors.Is(err, errBadLink) {
			t.Fatalf("link %d: %v", n, err)
		}
	}
	_, err = b.useReset(t.Context(), strings.Repeat("A", 43), "another fine password", addr)
	if wait := after(t, err); wait == 0 || wait > time.Hour {
		t.Errorf("after 100 failures a link has to wait %v", wait)
	}
}

func TestCountersAreFoundAgainAfterARotation(t *testing.T) {
	b := newBench(t)
	for range 4 {
		fail(t, b.Login, b.account(nil, "ann"))
		b.time.add(8 * time.Second)
	}
	b.time.add(-8 * time.Second)
	if err := keyring.Rotate(b.keys, 2); err != nil {
		t.Fatal(err)
	}
	keys, err := keyring.Open(b.keys)
	if err != nil {
		t.Fatal(err)
	}
	b.cfg.Keys = keys
	if wait := fail(t, b.Login, b.account(nil, "ann")); wait != 8*time.Second {
		t.Errorf("after the rotation one has to wait %v", wait)
	}
	b.time.add(8 * time.Second)
	fail(t, b.Login, b.account(nil, "ann"))
	if wait := fail(t, b.Login, b.account(nil, "ann")); wait != 16*time.Second {
		t.Errorf("the fifth failure asks for %v", wait)
	}
	if n := counterRows(t, b.tables); n != 1 {
		t.Errorf("%d rows for one account", n)
	}
}

func TestAFloodOverManyNamesIsBoundedAndForgetsNoneThatIsAttacked(t *testing.T) {
	const most, names = 400, 1500
	b := newBenchOn(t, "memory:", TablesConfig{MaxCounters: most})
	attacked := b.account(nil, "ann")
	for range 8 {
		fail(t, b.Login, attacked)
		b.time.add(longPause)
	}
	highest := 0
	for n := range names {
		if wait := fail(t, b.Login, b.account(nil, fmt.Sprint("user", n))); wait != 0 {
			t.Fatalf("name %d has to wait %v", n, wait)
		}
		b.time.add(time.Millisecond)
		if n%29 == 0 {
			highest = max(highest, counterRows(t, b.tables))
		}
	}
	if highest = max(highest, counterRows(t, b.tables)); highest > most || highest < most/2 {
		t.Errorf("up to %d rows of %d", highest, most)
	}
	fail(t, b.Login, attacked)
	if wait := fail(t, b.Login, attacked); wait != 256*time.Second {
		t.Errorf("the account under attack asks for %v after nine failures", wait)
	}
	b.time.add(200 * 24 * time.Hour)
	if _, err := b.tables.Sweep(t.Context(), b.now()); err != nil {
		t.Fatal(err)
	}
	if n := counterRows(t, b.tables); n != 0 {
		t.Errorf("%d rows half a year later", n)
	}
}

func TestNoNameStandsInACounter(t *testing.T) {
	b := newBench(t)
	for _, name := range []string{"ann.very.unusual", "hunter2 is my password"} {
		if err := b.try(name, "guess"); !errors.Is(err, errWrong) {
			t.Fatal(err)
		}
	}
	if dump := b.dump("login_counters"); strings.Contains(dump, "unusual") || strings.Contains(dump, "hunter2") {
		t.Errorf("the counters hold %s", dump)
	}
}

// lookedUp counts how often a user is looked up by name.
type lookedUp struct {
	*Tables
	times int
}

func (u *lookedUp) ByName(ctx context.Context, canonical string) (*User, error) {
	u.times++
	return u.Tables.ByName(ctx, canonical)
}

func TestAFloodOfStrangersDoesNotReachTheDatabaseAndAKnownDeviceGetsThrough(t *testing.T) {
	b := newBench(t)
	u := b.add("ann", rightHash())
	users := &lookedUp{Tables: b.tables}
	b.users = users
	q := b.hasher.strangers
	for range cap(q.places) {
		q.places <- struct{}{}
	}
	q.waiting.Store(int32(maxWaiting * cap(q.places)))
	if wait := after(t, b.try("ann", rightPassword)); wait == 0 {
		t.Error("a stranger more found a place")
	}
	if users.times != 0 {
		t.Errorf("the users were asked %d times", users.times)
	}
	if err := b.tryKnown("ann", rightPassword, b.newDevice(u)); err != nil {
		t.Errorf("the owner on a known device: %v", err)
	}
}

func TestInAFloodAPlaceOfStrangersRestsNineTimesAsLongAsItWasUsedOrAQuarterOfASecond(t *testing.T) {
	for used, rest := range map[time.Duration]time.Duration{20 * time.Millisecond: 180 * time.Millisecond, 200 * time.Millisecond: 250 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			h := &hasher{all: newQueue(2), strangers: newQueue(1)}
			began := time.Now()
			var entered []time.Duration
			for range 1 + maxWaiting { // one has its turn, the others fill the queue
				go func() {
					release, err := h.acquire(t.Context(), false)
					if err != nil {
						return
					}
					entered = append(entered, time.Since(began))
					time.Sleep(used)
					release()
				}()
			}
			synctest.Wait()
			if !h.isFull() {
				t.Fatal("there is no flood")
			}
			time.Sleep(used) // the place is given back, and rests
			synctest.Wait()
			if release, err := h.acquire(t.Context(), true); err != nil {
				t.Errorf("a known device, while the place rests: %v", err)
			} else {
				release()
			}
			time.Sleep(2 * time.Second)
			synctest.Wait()
			want := []time.Duration{0}
			for n := used + rest; n < maxWait && len(want) < 1+maxWaiting; n += used { // the queue is not full any more
				want = append(want, n)
			}
			if !slices.Equal(entered, want) {
				t.Errorf("they had their turns at %v, want %v", entered, want)
			}
			if len(h.reserve.held) == 0 {
				t.Error("no reserve is held, and each hash has a collection of its own")
			}
		})
	}
}

func TestHashingIsForAFewAtOnceAndAThirdForKnownDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hasher{all: newQueue(6), strangers: newQueue(4)}
		var leave []func()
		enter := func(known bool) error {
			release, err := h.acquire(context.Background(), known)
			if err == nil {
				leave = append(leave, release)
			}
			return err
		}
		for n := range 4 {
			if err := enter(false); err != nil {
				t.Fatalf("stranger %d: %v", n+1, err)
			}
		}
		began := time.Now()
		if wait := after(t, enter(false)); wait == 0 || time.Since(began) != time.Second {
			t.Errorf("the fifth stranger is asked to wait %v, after %v", wait, time.Since(began))
		}
		for n := range 2 {
			if err := enter(true); err != nil {
				t.Errorf("known device %d: %v", n+1, err)
			}
		}
		if err := enter(true); after(t, err) == 0 {
			t.Error("a seventh has found a place")
		}
		// A bounded number waits, the others are told at once.
		var told atomic.Int32
		var wg sync.WaitGroup
		for range 4*maxWaiting + 10 {
			wg.Go(func() {
				began := time.Now()
				if _, err := h.acquire(context.Background(), false); err == nil {
					t.Error("one more has found a place")
				} else if time.Since(began) == 0 {
					told.Add(1)
				}
			})
		}
		wg.Wait()
		if n := told.Load(); n != 10 {
			t.Errorf("%d were told at once", n)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := h.acquire(ctx, false); !errors.Is(err, context.Canceled) {
			t.Errorf("one who has gone: %v", err)
		}
		for _, q := range []queue{h.all, h.strangers} {
			if n := q.waiting.Load(); n != 0 {
				t.Errorf("%d wait for ever", n)
			}
		}
	})
	if n := slots(); n < 2 || n > 16 {
		t.Errorf("%d hashes at once", n)
	}
	// A hash keeps a processor busy, and the app has other things to do.
	if n := cap(newHasher().strangers.places); n < 1 || n > 1 && n >= runtime.GOMAXPROCS(0) {
		t.Errorf("strangers keep %d of %d processors busy", n, runtime.GOMAXPROCS(0))
	}
}
