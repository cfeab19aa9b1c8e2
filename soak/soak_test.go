package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

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

// CRUMB_SOAK_PAGES names a directory in which histories without an order are drawn.
func page(t testing.TB) string {
	dir := os.Getenv("CRUMB_SOAK_PAGES")
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "-")+".html")
}

func testID(n int) session.ID { return session.ID(fmt.Sprintf("soak%012d", n)) }

func TestCallsAtOnceHaveAnOrder(t *testing.T) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			st := open(t)
			for seed := range 20 {
				ends := []int{0, 150}[seed%2]
				events, err := callAtOnce(t.Context(), st, testID(seed), 8, 60, ends, uint64(seed))
				if err != nil {
					t.Fatal(err)
				}
				for _, history := range operations(events) {
					if err := check(callModel, history, page(t)); err != nil {
						t.Fatalf("seed %d: %v", seed, err)
					}
				}
			}
		})
	}
}

func TestVisitsAtOnceHaveAnOrder(t *testing.T) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			st := open(t)
			for seed := range 20 {
				if _, _, err := visitAtOnce(st, false, 6, 15, uint64(seed), page(t)); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
		})
	}
}

func TestNothingHappensTwiceWhenAnswersAreLost(t *testing.T) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			st := open(t)
			kinds := map[string]int{}
			for seed := range 30 {
				_, lost, err := visitAtOnce(st, true, 6, 15, uint64(seed), page(t))
				if err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				for kind, n := range lost {
					kinds[kind] += n
				}
			}
			for _, kind := range []string{"load", "create", "set", "remove", "add", "set or fail", "remove or fail", "remove or skip", "sign-in", "renew", "end", "seen"} {
				if kinds[kind] == 0 {
					t.Errorf("no answer to %q was lost, of %v", kind, kinds)
				}
			}
		})
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
		if err := st.Create(ctx, out); err != nil {
			return nil, session.ErrConflict
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
