package sqltest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/session"
)

// Run runs all of it.
func Run(t *testing.T, e *Engine) {
	for name, test := range map[string]func(*testing.T, *Engine){
		"a write whose answer is lost is done once and its outcome unknown":  lostWrites,
		"a transaction that breaks before its commit is done again":          lostBeforeCommit,
		"a read whose answer is lost is read again":                          lostRead,
		"a server that does not answer holds nobody up beyond the deadline":  silentServer,
		"a server that is gone is an error that has changed nothing":         noServer,
		"a call that is given up hands its answer to nobody else":            givenUpReads,
		"an update that is given up leaves no lock":                          givenUpUpdate,
		"a deadlock is no error, the call is made again":                     deadlock,
		"additions through three pools are exact":                            threePools,
		"updates that come at once share calls, each with its own answer":    updatesShare,
		"a shared answer that is lost has nothing done twice":                sharedAnswerLost,
		"a row that is locked holds up its own session only":                 lockedRowHoldsUpItself,
		"tables that are missing or too new are refused, with what to run":   wrongTables,
		"the schema is applied once however many apply it":                   applyTogether,
		"a row of another format is neither served nor taken for absent":     otherFormat,
		"texts come back byte for byte whatever the bytes, users apart":      anyBytes,
		"a text that is longer than its column is refused and not cut":       longTexts,
		"an ID that is no text is not found":                                 noTextID,
		"a record that was erased and made anew takes no change from before": erased,
		"a change of a state that a failover lost overwrites nothing":        lostState,
		"a broken row is an error and its neighbours are served":             brokenRow,
		"a list, a check and a sweep that are given up are plain errors":     givenUpScans,
		"a table prefix that is none is refused":                             badPrefix,
		"calls after Close are errors":                                       closed,
	} {
		t.Run(name, func(t *testing.T) { test(t, e) })
	}
}

// lose has the nth request from now lose its answer.
func lose(p *servers.Proxy, n int) {
	p.LoseAnswers(1, func([]byte) bool {
		n--
		return n == 0
	})
}

func lostWrites(t *testing.T, e *Engine) {
	prefix := e.Prefix(t)
	e.apply(t, prefix)
	direct := e.open(t, e.URL, prefix)
	st, proxy := e.behindProxy(t, prefix)
	ctx := t.Context()
	is := func(n int, want string) {
		t.Helper()
		if got := counter(t, direct, n); got != want {
			t.Fatalf("the counter is %q, not %q", got, want)
		}
	}
	for _, write := range []struct {
		name     string
		requests int
		call     func(n int) error
		check    func(n int)
	}{
		{"Create", 1,
			func(n int) error { return st.Create(ctx, visitor(1000+n)) },
			func(n int) { load(t, direct, 1000+n) }},
		{"Update", 1,
			func(n int) error { _, err := st.Update(ctx, load(t, direct, n), add()); return err },
			func(n int) { is(n, "1") }},
		{"Update from a base that proves nothing", e.LockedRequests,
			func(n int) error { _, err := st.Update(ctx, bare(n), add()); return err },
			func(n int) { is(n, "1") }},
		{"an end", 1,
			func(n int) error {
				_, err := st.Update(ctx, load(t, direct, n), &session.Change{Now: now(), End: true})
				return err
			},
			func(n int) {
				if rec := load(t, direct, n); !rec.Ended() {
					t.Fatalf("the session has not ended")
				}
			}},
		{"Touch", 1,
			func(n int) error {
				return st.Touch(ctx, []session.Touch{{ID: id(n), Seen: now().Add(time.Minute)}})
			},
			func(n int) {
				if rec := load(t, direct, n); rec.Version != 1 {
					t.Fatalf("the version is %d after one touch", rec.Version)
				}
			}},
		{"Delete", 1,
			func(n int) error { return st.Delete(ctx, id(n)) },
			func(n int) {
				if _, err := direct.Load(ctx, id(n)); !errors.Is(err, session.ErrNotFound) {
					t.Fatalf("Load: %v", err)
				}
			}},
	} {
		t.Run(write.name, func(t *testing.T) {
			create(t, direct, visitor(1), visitor(2))
			if err := write.call(1); err != nil { // the connection is there and knows the statement
				t.Fatal(err)
			}
			write.check(1)
			lost := proxy.Lost()
			lose(proxy, write.requests)
			err := write.call(2)
			if proxy.Lost() != lost+1 {
				t.Fatalf("%d answers were lost, not 1: %v", proxy.Lost()-lost, err)
			}
			if !errors.Is(err, session.ErrUnknown) {
				t.Fatalf("the error is %v, not an unknown outcome", err)
			}
			write.check(2)
			for _, n := range []int{1, 2, 1001, 1002} {
				if err := st.Delete(ctx, id(n)); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func lostBeforeCommit(t *testing.T, e *Engine) {
	prefix := e.Prefix(t)
	e.apply(t, prefix)
	st, proxy := e.behindProxy(t, prefix)
	create(t, st, visitor(1))
	want := 0
	update := func() {
		t.Helper()
		want++
		rec, err := st.Update(t.Context(), bare(1), add())
		if err != nil {
			t.Fatal(err)
		}
		if got := string(rec.Values.Get("n.n")); got != fmt.Sprint(want) || counter(t, st, 1) != got {
			t.Fatalf("%d additions are %s, stored %s", want, got, counter(t, st, 1))
		}
	}
	update()
	for n := 1; n < e.LockedRequests; n++ {
		lost := proxy.Lost()
		lose(proxy, n)
		update()
		if proxy.Lost() != lost+1 {
			t.Fatalf("%d answers were lost, not 1", proxy.Lost()-lost)
		}
	}
}

func lostRead(t *testing.T, e *Engine) {
	prefix := e.Prefix(t)
	e.apply(t, prefix)
	st, proxy := e.behindProxy(t, prefix)
	rec := visitor(1)
	rec.User = "ana"
	create(t, st, rec)
	ctx := t.Context()
	for name, read := range map[string]func() (n int, err error){
		"Load": func() (int, error) {
			_, err := st.Load(ctx, id(1))
			return 1, err
		},
		"List": func() (int, error) {
			page, err := st.List(ctx, session.Query{User: "ana", Now: now()})
			return len(page), err
		},
		"Check": func() (int, error) {
			live, err := st.Check(ctx, now(), []session.ID{id(1)})
			return len(live), err
		},
	} {
		for lost := range 2 {
			proxy.LoseAnswers(lost, nil)
			before := proxy.Lost()
			if n, err := read(); n != 1 || err != nil {
				t.Errorf("%s with %d answers lost: %d, %v", name, lost, n, err)
			}
			if got := proxy.Lost() - before; got != lost {
				t.Errorf("%s: %d answers were lost, not %d", name, got, lost)
			}
		}
	}
}

func silentServer(t *testing.T, e *Engine) {
	prefix := e.Prefix(t)
	e.apply(t, prefix)
	st, proxy := e.behindProxy(t, prefix)
	create(t, st, visitor(1))
	base := load(t, st, 1)
	const patience = 200 * time.Millisecond
	call := func(what string, unknown bool, fn func(ctx context.Context) error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		began := time.Now()
		err := fn(ctx)
		if took := time.Since(began); took > 20*patience {
			t.Errorf("%s took %s with a deadline of %s", what, took, patience)
		}
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, session.ErrUnknown) != unknown {
			t.Errorf("%s: %v, want that the deadline passed, and that the outcome is unknown: %t", what, err, unknown)
		}
	}
	proxy.Hold()
	call("Update", true, func(ctx context.Context) error { _, err := st.Update(ctx, base, add()); return err })
	// The connection of that is gone, and there is no other one yet.
	call("Load", false, func(ctx context.Context) error { _, err := st.Load(ctx, id(1)); return err })
	call("Update without a connection", false, func(ctx context.Context) error { _, err := st.Update(ctx, base, add()); return err })
	proxy.Release()
	// What was held back arrives: it may be done or not, but once.
	before, _ := st.Load(t.Context(), id(1))
	if before == nil {
		t.Fatal("the session is gone")
	}
	if _, err := st.Update(t.Context(), bare(1), add()); err != nil {
		t.Fatal(err)
	}
	if n := counter(t, st, 1); n != "1" && n != "2" {
		t.Errorf("one addition whose outcome is unknown and one more are %s", n)
	}
}

func noServer(t *testing.T, e *Engine) {
	prefix := e.Prefix(t)
	e.apply(t, prefix)
	st, proxy := e.behindProxy(t, prefix)
	create(t, st, visitor(1))
	base := load(t, st, 1)
	proxy.Refuse()
	ctx := t.Context()
	// A connection that is open breaks under one call at most; that one may have
	// been sent.
	if err := st.Touch(ctx, []session.Touch{{ID: id(2), Seen: now()}}); err == nil {
		t.Fatal("a Touch without a server is no error")
	}
	_, errLoad := st.Load(ctx, id(1))
	_, errUpdate := st.Update(ctx, base, add())
	_, errLocked := st.Update(ctx, bare(1), add())
	_, errList := st.List(ctx, session.Query{All: true, Now: now()})
	for what, err := range map[string]error{
		"Load": errLoad, "Update": errUpdate, "Update that locks": errLocked, "List": errList,
		"Create": st.Create(ctx, visitor(2)), "Delete": st.Delete(ctx, id(1)),
	} {
		if err == nil || errors.Is(err, session.ErrUnknown) || errors.Is(err, session.ErrNotFound) || errors.Is(err, session.ErrExists) {
			t.Errorf("%s without a server: %v", what, err)
		}
	}
	proxy.Accept()
	if rec, err := st.Update(ctx, base, add()); err != nil || rec.Version != base.Version+1 {
		t.Errorf("when the server is back: %v", err)
	}
}

func givenUpReads(t *testing.T, e *Engine) {
	st := e.OpenNew(t)
	const sessions, readers, reads = 20, 16, 60
	for n := range sessions {
		create(t, st, visitor(n))
	}
	var wg sync.WaitGroup
	for r := range readers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(r)))
			for range reads {
				n := random.IntN(sessions)
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.IntN(3000))*time.Microsecond)
				rec, err := st.Load(ctx, id(n))
				cancel()
				switch {
				case err == nil && rec.ID != id(n):
					t.Errorf("asked for %s the store answered with %s", id(n), rec.ID)
				case err != nil && ctx.Err() == nil, errors.Is(err, session.ErrNotFound), errors.Is(err, session.ErrUnknown):
					t.Errorf("Load: %v", err)
				}
			}
		})
	}
	wg.Wait()
	for n := range sessions {
		load(t, st, n)
	}
}

// locking holds the row of a session, or more, in a transaction of its own.
func locking(t *testing.T, e *Engine, statements ...string) (query func(string) ([]string, error), rollback func()) {
	t.Helper()
	query, close, err := e.Connect(t.Context(), e.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(close)
	for _, st := range append([]string{"BEGIN"}, statements...) {
		if _, err := query(st); err != nil {
			t.Fatalf("%s: %v", st, err)
		}
	}
	return query, func() {
		if _, err := query("ROLLBACK"); err != nil {
			t.Error(err)
		}
	}
}

func givenUpUpdate(t *testing.T, e *Engine) {
	prefix := e.Prefix(t)
	e.apply(t, prefix)
	st := e.open(t, e.URL, prefix)
	create(t, st, visitor(1))
	_, rollback := locking(t, e, fmt.Sprintf("SELECT id FROM %ssessions WHERE id = '%s' FOR UPDATE", prefix, id(1)))
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_, err := st.Update(ctx, bare(1), add())
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, session.ErrUnknown) {
			t.Errorf("an update that waited for a lock: %v", err)
		}
	}
	rollback()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := st.Update(ctx, bare(1), add()); err != nil {
		t.Fatal(err)
	}
	if n := counter(t, st, 1); n != "1" {
		t.Errorf("the counter is %s", n)
	}
}

// deadlock locks two rows in another order than Touch, which mostly is the one to
// be rolled back: it is the first to look, and the lighter one.
func deadlock(t *testing.T, e *Engine) {
	prefix := e.Prefix(t)
	e.apply(t, prefix)
	log := new(syncBuffer)
	st := e.openLogging(t, e.URL, prefix, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	for n := range 10 {
		create(t, st, visitor(n))
	}
	begin := now()
	for try := 1; !strings.Contains(strings.ToLower(log.String()), "deadlock"); try++ {
		if try > 10 {
			t.Fatal("of ten deadlocks none hit Touch")
		}
		seen := begin.Add(time.Duration(try) * time.Minute)
		e.deadlockWithTouch(t, st, prefix, seen)
		for n := 1; n <= 2; n++ {
			if rec := load(t, st, n); !rec.Seen.Equal(seen) || rec.Version != int64(try) {
				t.Errorf("session %d was seen at %s, version %d", n, rec.Seen, rec.Version)
			}
		}
	}
}

// deadlockWithTouch touches sessions 1 and 2 while another transaction wants to
// lock 2 and 1.
func (e *Engine) deadlockWithTouch(t *testing.T, st Store, prefix string, seen time.Time) {
	t.Helper()
	lock := func(n int) string {
		return fmt.Sprintf("SELECT id FROM %ssessions WHERE id = '%s' FOR UPDATE", prefix, id(n))
	}
	query, rollback := locking(t, e, fmt.Sprintf("UPDATE %ssessions SET auth = auth + 1 WHERE id >= '%s'", prefix, id(2)))
	touched := make(chan error, 1)
	go func() {
		touched <- st.Touch(t.Context(), []session.Touch{{ID: id(2), Seen: seen}, {ID: id(1), Seen: seen}})
	}()
	// Session 1 is locked when one cannot have it without waiting.
	waitFor(t, "Touch to lock its first row", func() bool { return len(e.Query(t, lock(1)+" SKIP LOCKED")) == 0 })
	_, _ = query(lock(1)) // one of the two is told that it is a deadlock
	rollback()
	if err := <-touched; err != nil {
		t.Fatal(err)
	}
}

// A syncBuffer may be read while others write.
type syncBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func threePools(t *testing.T, e *Engine) {
	prefix := e.Prefix(t)
	e.apply(t, prefix)
	stores := []Store{e.open(t, e.URL, prefix), e.open(t, e.URL, prefix), e.open(t, e.URL, prefix)}
	// They come in different orders, and must not lock each other out.
	const hot = 4
	for n := range hot {
		create(t, stores[0], visitor(n))
	}
	const clients, adds = 30, 8
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			st := stores[c%len(stores)]
			for i := range adds {
				base, err := st.Load(t.Context(), id((c+c%2*i+(1-c%2)*(adds-i))%hot))
				if err == nil {
					_, err = st.Update(t.Context(), base, add())
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	sum := 0
	for n := range hot {
		got := 0
		fmt.Sscan(counter(t, stores[1], n), &got)
		sum += got
	}
	if sum != clients*adds {
		t.Errorf("%d additions are %d", clients*adds, sum)
	}
}

func givenUpScans(t *testing.T, e *Engine) {
	prefix := e.Prefix(t)
	e.apply(t, prefix)
	st, proxy := e.behindProxy(t, prefix)
	create(t, st, visitor(1))
	proxy.Hold()
	for _, scan := range []func(ctx context.Context) error{
		func(ctx context.Context) error {
			_, err := st.List(ctx, session.Query{All: true, Now: now()})
			return err
		},
		func(ctx context.Context) error {
			_, err := st.Check(ctx, now(), []session.ID{id(1)})
			return err
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		err := scan(ctx)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, session.ErrUnknown) {
			t.Error(err)
		}
	}
	proxy.Release()
	if _, err := st.List(t.Context(), session.Query{All: true, Now: now()}); err != nil {
		t.Error(err)
	}
}
