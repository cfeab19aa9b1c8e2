package sqltest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/internal/sqlstore"
	"github.com/crumb-go/crumb/session"
)

// A gate keeps calls that write from the server until it is open.
type gate struct {
	sqlstore.DB
	open   chan struct{}
	closed atomic.Bool
	calls  atomic.Int64 // that came to it
}

func (g *gate) pass(ctx context.Context) {
	g.calls.Add(1)
	if g.closed.Load() {
		ctx.Done() // for whoever watches it
		<-g.open
	}
}

func (g *gate) Exec(ctx context.Context, st sqlstore.Statement) (int64, error) {
	g.pass(ctx)
	return g.DB.Exec(ctx, st)
}

func (g *gate) Locked(ctx context.Context, lock sqlstore.Statement, change func(sqlstore.Scan) (sqlstore.Statement, error)) (int64, error) {
	g.pass(ctx)
	return g.DB.Locked(ctx, lock, change)
}

// A gatedPipeline is a gate before a DB that is one.
type gatedPipeline struct{ *gate }

func (g gatedPipeline) ExecAll(ctx context.Context, sts []sqlstore.Statement) ([]int64, error) {
	g.pass(ctx)
	return g.DB.(sqlstore.Pipeline).ExecAll(ctx, sts)
}

// gated opens a store at url whose writes a gate can hold.
func (e *Engine) gated(t *testing.T, url, prefix string) (*sqlstore.Store, *gate) {
	t.Helper()
	db, closeDB, err := e.DB(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(closeDB)
	g := &gate{DB: db}
	wrapped := sqlstore.DB(g)
	if _, ok := db.(sqlstore.Pipeline); ok {
		wrapped = gatedPipeline{g}
	}
	return sqlstore.New(wrapped, e.Dialect, prefix, slog.New(slog.DiscardHandler)), g
}

// A watched context tells when somebody began to wait for its end.
type watched struct {
	context.Context
	once *sync.Once
	seen chan struct{}
}

func watch(ctx context.Context) watched {
	return watched{ctx, new(sync.Once), make(chan struct{})}
}

func (w watched) Done() <-chan struct{} {
	w.once.Do(func() { close(w.seen) })
	return w.Context.Done()
}

// A held is the answer to an update that a gate held, with others.
type held struct {
	rec *session.Record
	err error
}

// hold closes the gate, makes the updates of two sessions that go first, and then
// the others, and returns when all wait, with what opens the gate and returns the
// answers.
func (g *gate) hold(ctx context.Context, st *sqlstore.Store, first []int, others []func(ctx context.Context) held) (answers func() []held) {
	g.open = make(chan struct{})
	g.closed.Store(true)
	var all sync.WaitGroup
	out := make([]held, len(others))
	for _, n := range first {
		w := watch(ctx)
		all.Go(func() { _, _ = st.Update(w, bare(n), add()) })
		<-w.seen
	}
	for i, call := range others {
		w := watch(ctx)
		all.Go(func() { out[i] = call(w) })
		<-w.seen
	}
	return func() []held {
		g.closed.Store(false)
		close(g.open)
		all.Wait()
		return out
	}
}

func updating(st *sqlstore.Store, n int, c *session.Change) func(ctx context.Context) held {
	return func(ctx context.Context) held {
		base, err := st.Load(context.WithoutCancel(ctx), id(n))
		if err != nil {
			base = bare(n)
		}
		rec, err := st.Update(ctx, base, c)
		return held{rec, err}
	}
}

func updatesShare(t *testing.T, e *Engine) {
	prefix := e.Prefix(t)
	e.apply(t, prefix)
	st, g := e.gated(t, e.URL, prefix)
	plain := e.open(t, e.URL, prefix)
	create(t, plain, visitor(1), visitor(2), visitor(3), visitor(4))
	const adds = 10
	var others []func(ctx context.Context) held
	for range adds {
		for n := 1; n <= 3; n++ {
			others = append(others, updating(st, n, add()))
		}
	}
	at := len(others)
	given, give := context.WithCancel(t.Context())
	others = append(others,
		updating(st, 1, &session.Change{Now: now(), Ops: []session.Op{{Kind: session.OpDelete, Key: "n.n", If: session.OrFail, Old: []byte("77")}}}),
		updating(st, 2, &session.Change{Now: now(), Auth: 5, Ops: add().Ops}),
		updating(st, 3, &session.Change{Now: now(), Ops: []session.Op{{Kind: session.OpAdd, Key: "n.n", Delta: math.MaxInt64}}}),
		updating(st, 4, &session.Change{Now: now(), End: true}),
		updating(st, 99, add()),
		func(ctx context.Context) held {
			w := ctx.(watched)
			w.Context = given
			rec, err := st.Update(w, bare(1), add())
			return held{rec, err}
		},
	)
	answers := g.hold(t.Context(), st, []int{1, 2}, others)
	give()
	before := g.calls.Load()
	got := answers()
	if calls := g.calls.Load() - before; calls > 12 { // of them one for 99, and up to two for each refusal
		t.Errorf("%d updates that waited made %d calls of the database", len(others), calls)
	}
	sums := map[string]bool{}
	for i, a := range got[:at] {
		n := 1 + i%3
		if a.err != nil {
			t.Fatalf("an addition to session %d: %v", n, a.err)
		}
		sums[fmt.Sprint(n, " ", string(a.rec.Values.Get("n.n")))] = true
	}
	if len(sums) != at {
		t.Errorf("%d additions had %d different sums; each has to see its own", at, len(sums))
	}
	for n, want := range map[int]string{1: fmt.Sprint(adds + 1), 2: fmt.Sprint(adds + 1), 3: fmt.Sprint(adds)} {
		if got := counter(t, plain, n); got != want {
			t.Errorf("the counter of session %d is %s, not %s", n, got, want)
		}
	}
	refused := got[at:]
	if a := refused[0]; a.err != session.ErrConflict || a.rec == nil {
		t.Errorf("a condition that does not hold: %v, %v", a.rec, a.err)
	}
	if a := refused[1]; a.err != session.ErrStale {
		t.Errorf("another Auth: %v", a.err)
	}
	if _, ok := errors.AsType[*session.ValueError](refused[2].err); !ok {
		t.Errorf("a sum that overflows: %v", refused[2].err)
	}
	if a := refused[3]; a.err != nil || !a.rec.Ended() || !load(t, plain, 4).Ended() {
		t.Errorf("an end: %v, %v", a.rec, a.err)
	}
	if a := refused[4]; a.err != session.ErrNotFound {
		t.Errorf("no such session: %v", a.err)
	}
	if a := refused[5]; !errors.Is(a.err, context.Canceled) || errors.Is(a.err, session.ErrUnknown) {
		t.Errorf("an update that was given up while it waited: %v", a.err)
	}
}

func sharedAnswerLost(t *testing.T, e *Engine) {
	prefix := e.Prefix(t)
	e.apply(t, prefix)
	proxy, url, err := servers.ProxyFor(e.URL)
	if err != nil {
		t.Fatal(err)
	}
	st, g := e.gated(t, url, prefix)
	t.Cleanup(func() {
		if err := proxy.Close(); err != nil {
			t.Error(err)
		}
	})
	plain := e.open(t, e.URL, prefix)
	// Which request of a round commits depends on what each connection knows of the
	// statements, so another one is lost in each.
	appliedUnknown := 0
	for round := 0; round < 13 || appliedUnknown == 0 && round < 10*13; round++ {
		one, two := 10+2*round, 11+2*round
		create(t, plain, visitor(one), visitor(two))
		var others []func(ctx context.Context) held
		for i := range 20 {
			others = append(others, updating(st, one+i%2, add()))
		}
		answers := g.hold(t.Context(), st, []int{one, two}, others)
		lose(proxy, 1+round%13)
		acked, unknown := [2]int{}, [2]int{}
		for i, a := range answers() {
			switch {
			case a.err == nil:
				acked[i%2]++
			case errors.Is(a.err, session.ErrUnknown):
				unknown[i%2]++
			default:
				t.Errorf("round %d: %v", round, a.err)
			}
		}
		proxy.LoseAnswers(0, nil)
		for i, n := range []int{one, two} {
			var got int
			fmt.Sscan(counter(t, plain, n), &got)
			// One that was in the first call may be unknown too.
			if least, most := acked[i], acked[i]+unknown[i]+1; got < least || got > most {
				t.Errorf("round %d: %d additions are acknowledged, %d unknown, and the counter is %d", round, acked[i], unknown[i], got)
			}
			if unknown[i] > 0 && got >= acked[i]+unknown[i] {
				appliedUnknown++
			}
		}
	}
	if appliedUnknown == 0 {
		t.Error("no answer of a commit that was shared was lost")
	}
}

func lockedRowHoldsUpItself(t *testing.T, e *Engine) {
	prefix := e.Prefix(t)
	e.apply(t, prefix)
	st, g := e.gated(t, e.URL, prefix)
	plain := e.open(t, e.URL, prefix)
	for n := 1; n <= 5; n++ {
		create(t, plain, visitor(n))
	}
	lock := func(n int) string {
		return fmt.Sprintf("SELECT id FROM %ssessions WHERE id = '%s' FOR UPDATE", prefix, id(n))
	}
	_, rollback := locking(t, e, lock(3))
	through := make(chan int, 3)
	var others []func(ctx context.Context) held
	for n := 3; n <= 5; n++ {
		call := updating(st, n, add())
		others = append(others, func(ctx context.Context) held {
			a := call(ctx)
			through <- n
			return a
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	answers := g.hold(ctx, st, []int{1, 2}, others)
	done := make(chan []held)
	go func() { done <- answers() }()
	for range 2 {
		select {
		case n := <-through:
			if n == 3 {
				t.Error("an update of a locked row did not wait")
			}
		case <-ctx.Done():
			t.Fatal("a row that is locked holds up other sessions")
		}
	}
	rollback()
	for i, a := range <-done {
		if a.err != nil {
			t.Errorf("session %d: %v", 3+i, a.err)
		}
	}

	// Those that come one by one.
	_, rollback = locking(t, e, lock(1), lock(2), lock(3), lock(4))
	var waiting sync.WaitGroup
	for n := 1; n <= 4; n++ {
		w := watch(ctx)
		waiting.Go(func() {
			if a := updating(st, n, add())(w); a.err != nil {
				t.Errorf("session %d: %v", n, a.err)
			}
		})
		<-w.seen
	}
	if a := updating(st, 5, add())(ctx); a.err != nil {
		t.Errorf("four rows that are locked hold up a fifth session: %v", a.err)
	}
	rollback()
	waiting.Wait()
}
