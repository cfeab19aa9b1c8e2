package sqltest

import (
	"context"
	"errors"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/session"
)

// Kill kills a server of its own with SIGKILL, over and over while clients add,
// and checks that what was acknowledged is there, and that an error which says
// that nothing happened is right.
func Kill(t *testing.T, e *Engine, kind string) {
	if !servers.CanStart(kind) {
		return
	}
	server, err := servers.Start(t.Context(), kind, filepath.Join(t.TempDir(), kind))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	const prefix, clients, kills, between = "crumb_", 8, 3, 40
	if err := e.Apply(t.Context(), server.URL, prefix); err != nil {
		t.Fatal(err)
	}
	st := e.open(t, server.URL, prefix)
	var acked, unknown [clients]int
	for n := range clients {
		create(t, st, visitor(n))
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var total atomic.Int64
	var wg sync.WaitGroup
	for n := range clients {
		wg.Go(func() {
			for ctx.Err() == nil {
				call, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				base, err := st.Load(call, id(n))
				if err == nil {
					_, err = st.Update(call, base, add())
				}
				cancel()
				switch {
				case err == nil:
					acked[n]++
					total.Add(1)
				case errors.Is(err, session.ErrUnknown):
					unknown[n]++
				case errors.Is(err, session.ErrNotFound):
					t.Errorf("the session is gone: %v", err)
					return
				}
			}
		})
	}
	for range kills {
		before := total.Load()
		waitFor(t, "additions", func() bool { return total.Load() >= before+between })
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	before := total.Load()
	waitFor(t, "additions", func() bool { return total.Load() >= before+between })
	stop()
	wg.Wait()
	open := 0
	for n := range clients {
		stored, _ := strconv.Atoi(counter(t, st, n))
		if stored < acked[n] || stored > acked[n]+unknown[n] {
			t.Errorf("%d additions were acknowledged and the outcome of %d is unknown, stored are %d", acked[n], unknown[n], stored)
		}
		open += unknown[n]
	}
	t.Logf("%d kills, %d additions acknowledged, none lost; the outcome of %d unknown", kills, total.Load(), open)
}
