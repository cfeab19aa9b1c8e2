package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
	"github.com/crumb-go/crumb/store/sqlite"
)

// An ordering makes histories and has each checked for an order that explains it.
type ordering struct {
	name  string
	store session.Store
	dir   string // where histories without an order are drawn

	calls, visits, lossy atomic.Int64 // operations
	mu                   sync.Mutex   // guards lost
	lost                 map[string]int
}

// together is how many histories are made at once: those that lose answers mostly
// wait.
const together = 16

// one makes one history of each kind.
func (o *ordering) one(ctx context.Context, n int) error {
	id := session.ID(fmt.Sprintf("order%011d", n))
	events, err := callAtOnce(ctx, o.store, id, 8, 100, []int{0, 200}[n%2], uint64(n))
	if err != nil {
		return err
	}
	page := func(kind string) string {
		if o.dir == "" {
			return ""
		}
		return filepath.Join(o.dir, fmt.Sprintf("%s-%s-%d.html", o.name, kind, n))
	}
	for _, history := range operations(events) {
		o.calls.Add(int64(len(history)))
		if err := check(callModel, history, page("calls")); err != nil {
			return fmt.Errorf("calls, %d: %w", n, err)
		}
	}
	ops, _, err := visitAtOnce(o.store, false, 6, 25, uint64(n), page("visits"))
	o.visits.Add(int64(ops))
	if err != nil {
		return fmt.Errorf("visits, %d: %w", n, err)
	}
	ops, lost, err := visitAtOnce(o.store, true, 6, 15, uint64(n), page("lossy"))
	o.lossy.Add(int64(ops))
	if err != nil {
		return fmt.Errorf("visits with lost answers, %d: %w", n, err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for kind, n := range lost {
		o.lost[kind] += n
	}
	return nil
}

// many makes the histories with the numbers from..to-1, many at once.
func (o *ordering) many(ctx context.Context, from, to int, at func()) error {
	var next atomic.Int64
	next.Store(int64(from))
	errs := make([]error, together)
	var all sync.WaitGroup
	for i := range together {
		all.Go(func() {
			for ctx.Err() == nil && errs[i] == nil {
				n := int(next.Add(1)) - 1
				if n >= to {
					return
				}
				errs[i] = o.one(ctx, n)
				at()
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

func runOrders(ctx context.Context, r *run, f *figures) (*figures, error) {
	dir := filepath.Join(r.dir, "orders")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return nil, err
	}
	st, err := sqlite.Open(ctx, filepath.Join(dir, "crumb.db"), sqlite.Config{})
	if err != nil {
		return nil, err
	}
	defer st.Close()
	f.Rows = nil
	var through atomic.Int64
	for _, o := range []*ordering{
		{name: "memory", store: memory.New(), dir: dir, lost: map[string]int{}},
		{name: "SQLite", store: st, dir: dir, lost: map[string]int{}},
	} {
		err := o.many(ctx, 0, r.Histories, func() { r.bar.at(int(through.Add(1)), 2*r.Histories, "histories of each kind") })
		if err = errors.Join(err, ctx.Err()); err != nil {
			return nil, err
		}
		f.add(o.name+": histories of 8 clients' calls of the store; operations", "%d; %d", r.Histories, o.calls.Load())
		f.add(o.name+": histories of 6 visitors' requests; operations", "%d; %d", r.Histories, o.visits.Load())
		f.add(o.name+": histories of 6 visitors' requests while answers are lost; operations", "%d; %d", r.Histories, o.lossy.Load())
		var kinds []string
		for _, kind := range slices.Sorted(maps.Keys(o.lost)) {
			kinds = append(kinds, fmt.Sprintf("%s %d", kind, o.lost[kind]))
		}
		f.add(o.name+": answers lost", "%s", strings.Join(kinds, ", "))
	}
	f.add("histories without an order", "0")
	return f, nil
}
