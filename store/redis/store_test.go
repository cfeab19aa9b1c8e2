package redis

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"

	"github.com/redis/rueidis"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/storetest"
)

func TestMain(m *testing.M) { servers.Main(m, servers.Redis, servers.RedisCluster) }

func TestStore(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		storetest.Run(t, func(t *testing.T) session.Store { return openNew(t, url) })
	})
}

// eachServer runs a test on every shared server there is.
func eachServer(t *testing.T, test func(t *testing.T, url string)) {
	for _, kind := range []string{servers.Redis, servers.RedisCluster} {
		if url, ok := servers.URL(kind); ok {
			t.Run(servers.Name(kind), func(t *testing.T) { test(t, url) })
		}
	}
}

// openNew opens a store under a key prefix of its own, which is emptied at the end.
func openNew(t *testing.T, url string) *Store {
	t.Helper()
	return openConfig(t, url, Config{KeyPrefix: newPrefix()})
}

func newPrefix() string { return fmt.Sprintf("crumb-test-%x:", rand.Uint64()) }

func openConfig(t *testing.T, url string, cfg Config) *Store {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := Open(t.Context(), url, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		deleteKeys(t, s.client(), cfg.KeyPrefix)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// deleteKeys deletes what begins with prefix on every node.
func deleteKeys(t testing.TB, client rueidis.Client, prefix string) {
	ctx := context.Background()
	for _, node := range client.Nodes() {
		for cursor := uint64(0); ; {
			scan, err := node.Do(ctx, node.B().Scan().Cursor(cursor).Match(prefix+"*").Count(1000).Build()).AsScanEntry()
			if err != nil {
				t.Errorf("SCAN: %v", err)
				return
			}
			for _, key := range scan.Elements {
				// A replica refuses, and follows its primary.
				_ = node.Do(ctx, node.B().Unlink().Key(key).Build()).Error()
			}
			if cursor = scan.Cursor; cursor == 0 {
				break
			}
		}
	}
}
