package redis

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/session"
)

// A failover behind a name: the old primary is demoted and keeps its connections, the
// name leads to the new one, where somebody ends a session. Whoever has connections
// to the old one notices at the first change, which is refused, and is served by the
// new one soon after.
func TestAPrimaryThatWasDemotedIsLeft(t *testing.T) {
	if !needs(t, servers.Redis) {
		return
	}
	first, second := startServer(t, servers.Redis).Nodes[0], startServer(t, servers.Redis).Nodes[0]
	replicaOf := func(n *servers.Node, args ...string) {
		t.Helper()
		c := connect(t, n)
		if err := c.Do(t.Context(), c.B().Arbitrary(append([]string{"REPLICAOF"}, args...)...).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []*servers.Node{first, second} {
		configure(t, connect(t, n), "repl-diskless-sync-delay", "0") // seconds to wait for more replicas
		// One that begins its log anew, as a new replica, does not stop when it is told to.
		t.Cleanup(func() { _ = n.Kill() })
	}
	host, port, err := net.SplitHostPort(first.Addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, stale := range []string{"yes", "no"} {
		t.Run("replica-serve-stale-data "+stale, func(t *testing.T) {
			replicaOf(first, "NO", "ONE")
			replicaOf(second, host, port)
			p, err := servers.NewProxy(first.Addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { p.Close() })
			cfg := Config{KeyPrefix: newPrefix(), Logger: slog.New(slog.DiscardHandler)}
			open := func() *Store {
				s, err := Open(t.Context(), "redis://"+p.Addr(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { s.Close() })
				return s
			}
			s := open()
			configure(t, s.client(), "replica-serve-stale-data", stale)
			rec, other := visitor("a"), visitor("b")
			mustCreate(t, s, rec, other)
			follower := connect(t, second)
			eventually(t, 20*time.Second, func() error {
				n, err := follower.Do(t.Context(), follower.B().Exists().Key(s.recordKey(rec.ID), s.recordKey(other.ID)).Build()).AsInt64()
				if n != 2 {
					return fmt.Errorf("%d of 2 records are on the replica, %v", n, err)
				}
				return nil
			})
			end := &session.Change{Now: rec.Seen, End: true}
			if _, err := s.Update(t.Context(), other, end); err != nil { // which leaves a connection behind
				t.Fatal(err)
			}
			replicaOf(second, "NO", "ONE")
			replicaOf(first, "127.0.0.1", "1") // where nobody answers
			p.Lead(second.Addr)
			if _, err := open().Update(t.Context(), rec, end); err != nil {
				t.Fatal(err)
			}
			_, err = s.Update(t.Context(), rec, add(1))
			if stale == "yes" && (err == nil || !strings.Contains(err.Error(), "READONLY") || errors.Is(err, session.ErrUnknown)) {
				t.Errorf("a change at the old primary: %v", err)
			}
			eventually(t, 5*time.Second, func() error {
				if got, err := s.Load(t.Context(), rec.ID); err != nil || !got.Ended() {
					return fmt.Errorf("after the failover an ended session is served: %+v, %v", got, err)
				}
				return nil
			})
			if err := s.Create(t.Context(), visitor("c")); err != nil {
				t.Errorf("Create at the new primary: %v", err)
			}
			if _, err := s.Update(t.Context(), visitor("c"), end); err != nil {
				t.Errorf("an end at the new primary: %v", err)
			}
		})
	}
}

// A server that stays a replica is asked by new connections once a second, not by
// one for every refusal, and the old ones do not stay.
func TestConnectionsAreRenewedSeldom(t *testing.T) {
	if !needs(t, servers.Redis) {
		return
	}
	n := startServer(t, servers.Redis).Nodes[0]
	p, err := servers.NewProxy(n.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	s, err := Open(t.Context(), "redis://"+p.Addr(), Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	rec := visitor("a")
	mustCreate(t, s, rec)
	c := connect(t, n)
	if err := c.Do(t.Context(), c.B().Arbitrary("REPLICAOF", "127.0.0.1", "1").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	for range 300 {
		if _, err := s.Update(t.Context(), rec, add(1)); err == nil || errors.Is(err, session.ErrUnknown) {
			t.Fatalf("a change at a replica: %v", err)
		}
	}
	if conns := p.Conns(); conns > 3 {
		t.Errorf("%d connections", conns)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, 5*time.Second, func() error {
		if conns := p.Conns(); conns > 0 {
			return fmt.Errorf("%d connections after Close", conns)
		}
		return nil
	})
}
