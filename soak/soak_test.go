package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
	"github.com/crumb-go/crumb/store/sqlite"
)

func openSQLite(t testing.TB) session.Store {
	t.Helper()
	st, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "crumb.db"), sqlite.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

func newMemory(testing.TB) session.Store { return memory.New() }

var stores = map[string]func(testing.TB) session.Store{"memory": newMemory, "sqlite": openSQLite}

func testID(n int) session.ID { return session.ID(fmt.Sprintf("soak%012d", n)) }

func TestMain(m *testing.M) {
	if role := os.Getenv(childEnv); role != "" {
		if err := runChild(role, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// CRUMB_SOAK_PAGES names a directory in which histories without an order are drawn.
//
// Calls of the store, visits through a manager, and visits while answers are lost:
// of the latter none may take effect twice.
func TestHistoriesHaveAnOrder(t *testing.T) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			o := &ordering{name: name, store: open(t), dir: os.Getenv("CRUMB_SOAK_PAGES"), lost: map[string]int{}}
			if err := o.many(t.Context(), 0, 30, func() {}); err != nil {
				t.Fatal(err)
			}
			for _, kind := range []string{"load", "create", "set", "remove", "add", "set or fail", "remove or fail", "remove or skip", "sign-in", "renew", "end", "seen"} {
				if o.lost[kind] == 0 {
					t.Errorf("no answer to %q was lost, of %v", kind, o.lost)
				}
			}
		})
	}
}

// Of the engines whose servers run.
func TestWhatWasAcknowledgedSurvivesFaultsOfEachEngine(t *testing.T) {
	dir := t.TempDir()
	results, err := readResults(dir)
	if err != nil {
		t.Fatal(err)
	}
	r := &run{sizes: sizes{Faults: 2}, dir: dir, results: results, bar: newBar("faults")}
	f, err := runFaults(t.Context(), r, &figures{})
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Rows) < 3 {
		t.Errorf("the figures are %v", f.Rows)
	}
}

func TestWhatWasAcknowledgedSurvivesKill9(t *testing.T) {
	k := newKilling(t.TempDir())
	for n := range 8 {
		if err := k.round(t.Context(), n, "shared0000000000", 1+rand.IntN(1500)); err != nil {
			t.Fatalf("round %d: %v", n, err)
		}
	}
	if err := k.end(t.Context()); err != nil {
		t.Error(err)
	}
	if k.calls == 0 || len(k.left) < 2 {
		t.Errorf("%d calls on %d sessions were answered", k.calls, len(k.left))
	}
}

// What the parent would see if a crash took back what was acknowledged.
func TestACrashThatLosesAnAnswerIsRefused(t *testing.T) {
	events, err := callAtOnce(t.Context(), memory.New(), testID(0), 4, 30, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	looked := event{Client: -1, Call: &call{What: "load", ID: testID(0)}}
	for name, rec := range map[string]*session.Record{"all of it": nil, "all but the beginning": oneRecord(testID(0))} {
		after := append(slices.Clip(events), looked, event{Client: -1, Answer: &answer{Rec: rec}})
		if rec == nil {
			after[len(after)-1].Answer.Err = "not found"
		}
		if check(callModel, operations(after)[testID(0)], "") == nil {
			t.Errorf("it lost %s, and the history passed", name)
		}
	}
}

func TestSmallSizes(t *testing.T) {
	r := &run{sizes: sizes{Sessions: 1000, Turns: 30}, dir: t.TempDir(), bar: newBar("test")}
	list := []func(context.Context, *run, *figures) (*figures, error){runSizes, runMemory}
	for kind, sizes := range map[string]func(context.Context, *run, *figures) (*figures, error){
		servers.Postgres: runSizesPostgres, servers.Redis: runSizesRedis,
	} {
		if !servers.CanStart(kind) {
			t.Log(servers.LeftOut([]string{kind}))
			continue
		}
		list = append(list, sizes)
	}
	for _, part := range list {
		if f, err := part(t.Context(), r, &figures{}); err != nil {
			t.Error(err)
		} else if len(f.Rows) < 4 {
			t.Errorf("figures %v", f.Rows)
		}
	}
}

func TestSyncComesBeforeTheAnswerAndCountsShareCommits(t *testing.T) {
	ev, err := trace(t.Context(), t.TempDir())
	if errors.Is(err, errNoStrace) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if ev.commits == 0 || ev.commits > countTimes/2 || ev.syncs > ev.commits/4 {
		t.Errorf("%d counts took %d commits and %d syncs", countTimes, ev.commits, ev.syncs)
	}
}

func TestATraceWithoutTheSyncIsRefused(t *testing.T) {
	const (
		commit = `7 pwrite64(8</d/crumb.db-wal>, "\0\0\0\4\0\0\0\f\1\2\3\4\1\2\3\4\1\2\3\4\1\2\3\4", 24, 32) = 24`
		sync   = `7 fsync(8</d/crumb.db-wal>) = 0`
		begun  = `7 fsync(8</d/crumb.db-wal> <unfinished ...>`
		ended  = `7 <... fsync resumed>) = 0`
		out    = `9 write(5<socket:[1]>, "HTTP/1.1 204 No Content\r\nA: answer to signout\r\n", 48) = 48`
	)
	for _, c := range []struct {
		name  string
		lines []string
		ok    bool
	}{
		{"a sync before the answer", []string{commit, sync, out}, true},
		{"a sync that ends before the answer", []string{commit, begun, ended, out}, true},
		{"no sync", []string{commit, out}, false},
		{"a sync before the commit", []string{sync, commit, out}, false},
		{"no commit", []string{sync, out}, false},
		{"a sync that ends after the answer", []string{commit, begun, out, ended}, false},
	} {
		calls := parseTrace(strings.Join(c.lines, "\n"))
		i := slices.IndexFunc(calls, func(c *traceCall) bool { return c.name == "write" })
		if err := syncedBefore(calls[:i], calls[i]); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestFinishedPartsAreKept(t *testing.T) {
	dir := t.TempDir()
	r, err := readResults(dir)
	if err != nil {
		t.Fatal(err)
	}
	f := &figures{Done: true, What: "what"}
	f.add("a figure", "%d", 7)
	f.count("rounds", 3)
	if err := r.keep("kill", f); err != nil {
		t.Fatal(err)
	}
	again, err := readResults(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := again.Parts["kill"]
	if got == nil || !got.Done || got.Count["rounds"] != 3 || len(got.Rows) != 1 {
		t.Errorf("kept %+v", got)
	}
	var b strings.Builder
	if err := again.report(&b); err != nil || !strings.Contains(b.String(), "| a figure | 7 |") {
		t.Errorf("report %q, %v", b.String(), err)
	}
}

// A broken store is one that the checker must refuse.
type broken struct {
	*memory.Store
	update func(st session.Store, ctx context.Context, base *session.Record, c *session.Change) (*session.Record, error)
}

func (b broken) Update(ctx context.Context, base *session.Record, c *session.Change) (*session.Record, error) {
	return b.update(b.Store, ctx, base, c)
}

func hasAdd(c *session.Change) bool {
	return slices.ContainsFunc(c.Ops, func(op session.Op) bool { return op.Kind == session.OpAdd })
}

var brokenStores = map[string]func(st session.Store, ctx context.Context, base *session.Record, c *session.Change) (*session.Record, error){
	"the last writer wins": func(st session.Store, ctx context.Context, base *session.Record, c *session.Change) (*session.Record, error) {
		out, err := c.Apply(base)
		if err != nil {
			return out, err
		}
		if err := st.Delete(ctx, base.ID); err != nil {
			return nil, err
		}
		if err := st.Create(ctx, out); err != nil && err != session.ErrExists { // another writer was faster
			return nil, err
		}
		return out, nil
	},
	"additions are repeated": func(st session.Store, ctx context.Context, base *session.Record, c *session.Change) (*session.Record, error) {
		out, err := st.Update(ctx, base, c)
		if err == nil && hasAdd(c) {
			return st.Update(ctx, out, c)
		}
		return out, err
	},
	"additions are repeated in silence": func(st session.Store, ctx context.Context, base *session.Record, c *session.Change) (*session.Record, error) {
		out, err := st.Update(ctx, base, c)
		if err == nil && hasAdd(c) {
			_, err = st.Update(ctx, out, c)
		}
		return out, err
	},
	"conditions are ignored": func(st session.Store, ctx context.Context, base *session.Record, c *session.Change) (*session.Record, error) {
		loose := *c
		loose.Ops = slices.Clone(c.Ops)
		for i := range loose.Ops {
			loose.Ops[i].If = session.Always
		}
		return st.Update(ctx, base, &loose)
	},
	"an end is forgotten": func(st session.Store, ctx context.Context, base *session.Record, c *session.Change) (*session.Record, error) {
		if c.End {
			return c.Apply(base)
		}
		return st.Update(ctx, base, c)
	},
	"a slow request writes after a sign-in": func(st session.Store, ctx context.Context, base *session.Record, c *session.Change) (*session.Record, error) {
		out, err := st.Update(ctx, base, c)
		if err == session.ErrStale && c.SignIn == nil {
			late := *c
			late.Auth = out.Auth
			return st.Update(ctx, out, &late)
		}
		return out, err
	},
}

func TestHistoriesOfBrokenStoresAreRefused(t *testing.T) {
	for name, update := range brokenStores {
		t.Run(name, func(t *testing.T) {
			refused := [2]int{}
			for seed := range 200 {
				st := broken{memory.New(), update}
				events, err := callAtOnce(t.Context(), st, testID(seed), 8, 60, 150, uint64(seed))
				if err != nil {
					t.Fatal(err)
				}
				for _, history := range operations(events) {
					if check(callModel, history, "") != nil {
						refused[0]++
					}
				}
				if _, _, err := visitAtOnce(st, false, 6, 15, uint64(seed), ""); err != nil {
					refused[1]++
				}
				if refused[0] > 0 && refused[1] > 0 {
					return
				}
			}
			t.Errorf("of 200 histories %d of the store and %d of visits were refused", refused[0], refused[1])
		})
	}
}
