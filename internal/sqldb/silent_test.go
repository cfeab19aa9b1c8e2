package sqldb_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/internal/sqldb"
)

// onServers runs fn on each server there is, with a database that goes through a
// proxy, a table that goes directly, and its name.
func onServers(t *testing.T, fn func(t *testing.T, db, direct *sqldb.DB, p *servers.Proxy, table string)) {
	kinds := []string{servers.Postgres, servers.MySQL}
	if missing := servers.Missing(kinds...); len(missing) > 0 {
		t.Log(servers.LeftOut(missing))
	}
	for _, kind := range kinds {
		url, ok := servers.URL(kind)
		if !ok {
			continue
		}
		t.Run(servers.Name(kind), func(t *testing.T) {
			p, through, err := servers.ProxyFor(url)
			if err != nil {
				t.Fatal(err)
			}
			direct := open(t, url)
			table := create(t, direct, fmt.Sprintf("sqldb_%d_%d_", os.Getpid(), tables.Add(1)))
			db := open(t, through)
			t.Cleanup(func() { p.Close() }) // before db, which may wait for what was given up
			fn(t, db, direct, p, table)
		})
	}
}

// within fails the test unless fn returns, with an error, soon after a deadline.
func within(t *testing.T, deadline time.Duration, fn func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- fn(ctx) }()
	patience := time.NewTimer(deadline + 3*time.Second)
	defer patience.Stop()
	select {
	case err := <-done:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("on a server that says nothing the transaction returns %v", err)
		}
	case <-patience.C:
		t.Errorf("3 seconds after its deadline of %s the transaction has not ended", deadline)
	}
}

func set(t *testing.T, tx *sqldb.Tx, table string, n int) {
	t.Helper()
	if _, err := tx.Exec(t.Context(), "UPDATE "+table+" SET n = ? WHERE name = ?", n, "a"); err != nil {
		t.Error(err)
	}
}

func TestACommitEndsWithItsContextAndLeavesNoTransactionOpen(t *testing.T) {
	onServers(t, func(t *testing.T, db, direct *sqldb.DB, p *servers.Proxy, table string) {
		within(t, 300*time.Millisecond, func(ctx context.Context) error {
			return db.Tx(ctx, func(tx *sqldb.Tx) error {
				set(t, tx, table, 1)
				p.Hold() // the next thing is the commit
				return nil
			})
		})
		p.Release()
		// Whatever became of it, it holds no row, and the next transaction is another.
		for _, d := range []*sqldb.DB{db, direct} {
			if err := d.Tx(t.Context(), func(tx *sqldb.Tx) error { set(t, tx, table, 2); return nil }); err != nil {
				t.Error(err)
			}
			if n := number(t, direct, table, "a"); n != 2 {
				t.Errorf("the row is %d, not 2", n)
			}
		}
	})
}

func TestAStatementEndsWithItsTransaction(t *testing.T) {
	onServers(t, func(t *testing.T, db, _ *sqldb.DB, p *servers.Proxy, table string) {
		within(t, 300*time.Millisecond, func(ctx context.Context) error {
			return db.Tx(ctx, func(tx *sqldb.Tx) error {
				p.Hold()
				var n int // with a context that has no deadline
				return tx.Row(t.Context(), "SELECT n FROM "+table+" WHERE name = ?", []any{"a"}, &n)
			})
		})
	})
}

// A connection that the server closed while nobody used it is no error.
func TestATransactionOnAConnectionThatBrokeTakesAnother(t *testing.T) {
	onServers(t, func(t *testing.T, db, _ *sqldb.DB, p *servers.Proxy, table string) {
		var opened []func()
		for range 3 {
			begun, end := make(chan struct{}), make(chan struct{})
			done := make(chan error, 1)
			go func() {
				done <- db.Tx(t.Context(), func(*sqldb.Tx) error { close(begun); <-end; return nil })
			}()
			<-begun
			opened = append(opened, func() {
				close(end)
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		}
		for _, end := range opened {
			end()
		}
		p.Cut()
		if err := db.Tx(t.Context(), func(tx *sqldb.Tx) error { set(t, tx, table, 1); return nil }); err != nil {
			t.Errorf("after all connections broke: %v", err)
		}
	})
}
