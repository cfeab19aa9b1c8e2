package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	goredis "github.com/redis/go-redis/v9"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/store/postgres"
	"github.com/crumb-go/crumb/store/redis"
)

// Commands are what a database server says that it was asked, for each of many
// requests of one visitor that add to a counter.
type commands struct {
	Server         string
	Loads, Updates float64 // a request
}

const countedRequests = 500

func measureCommands(b *bench) error {
	ctx := context.Background()
	for _, c := range []struct {
		peer, kind string
		count      func(context.Context, *servers.Server) (commands, error)
	}{
		{"crumb-redis", servers.Redis, countRedisCommands},
		{"crumb-postgres", servers.Postgres, countPostgresStatements},
	} {
		if !b.wants("check", c.peer, "commands") || !servers.CanStart(c.kind) {
			continue
		}
		dir := filepath.Join(b.dir, "commands-"+c.kind)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		server, err := servers.Start(ctx, c.kind, dir)
		if err != nil {
			return err
		}
		got, err := c.count(ctx, server)
		if err := errors.Join(err, server.Stop()); err != nil {
			return fmt.Errorf("%s: %w", c.peer, err)
		}
		got.Server = servers.Name(c.kind)
		b.res.Commands = append(b.res.Commands, got)
		b.progress("check      %-15s %+v", c.peer, got)
	}
	return nil
}

// countRequests makes a session and, in another process's stead, adds to its counter
// many times; stats is what the server has counted before that and after.
func countRequests(open func() (*app, error), stats func() (map[string]float64, error)) (each map[string]float64, err error) {
	a, err := open()
	if err != nil {
		return nil, err
	}
	cookie, err := visit(a)
	if err := errors.Join(err, a.close()); err != nil {
		return nil, err
	}
	if a, err = open(); err != nil {
		return nil, err
	}
	before, err := stats()
	for range countedRequests {
		w := httptest.NewRecorder()
		if a.handlers["counter"].ServeHTTP(w, request(cookie)); w.Code != http.StatusOK {
			err = errors.Join(err, fmt.Errorf("counter: status %d", w.Code))
			break
		}
	}
	if err := errors.Join(err, a.close()); err != nil {
		return nil, err
	}
	after, err := stats()
	for name, n := range after {
		after[name] = (n - before[name]) / countedRequests
	}
	return after, err
}

// countRedisCommands asks a Redis that nobody else uses for INFO commandstats.
func countRedisCommands(ctx context.Context, server *servers.Server) (c commands, err error) {
	opt, err := goredis.ParseURL(server.URL)
	if err != nil {
		return c, err
	}
	client := goredis.NewClient(opt)
	defer client.Close()
	each, err := countRequests(func() (*app, error) {
		store, err := redis.Open(ctx, server.URL, redis.Config{})
		if err != nil {
			return nil, err
		}
		return openCrumb(store, store.Close)
	}, func() (map[string]float64, error) {
		text, err := client.Info(ctx, "commandstats").Result()
		return commandStats(text), err
	})
	for name, n := range each {
		switch name {
		case "hset": // once by the script of a change
			c.Updates += n
			c.Loads -= n
		case "hget", "hdel", "pexpireat": // by a script, which is counted itself
		case "info", "hello", "client|setinfo", "ping": // by this function, to connect, and when the client closes
		default: // scripts and HGETALL, also what nobody expects
			c.Loads += n
		}
	}
	return c, err
}

// commandStats reads lines such as "cmdstat_get:calls=3,usec=5,…".
func commandStats(text string) map[string]float64 {
	stats := map[string]float64{}
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls=")
		if !ok {
			continue
		}
		calls, _, _ := strings.Cut(rest, ",")
		stats[name], _ = strconv.ParseFloat(calls, 64)
	}
	return stats
}

// countPostgresStatements asks a PostgreSQL that nobody else uses how often the
// table of sessions was searched and written.
func countPostgresStatements(ctx context.Context, server *servers.Server) (c commands, err error) {
	if err := postgres.ApplySchema(ctx, server.URL, postgres.Config{}); err != nil {
		return c, err
	}
	conn, err := pgx.Connect(ctx, server.URL)
	if err != nil {
		return c, err
	}
	defer conn.Close(ctx)
	each, err := countRequests(func() (*app, error) {
		store, err := postgres.Open(ctx, server.URL, postgres.Config{})
		if err != nil {
			return nil, err
		}
		return openCrumb(store, store.Close)
	}, func() (map[string]float64, error) { return tableStats(ctx, conn) })
	c.Updates = each["writes"]
	c.Loads = each["scans"] - each["writes"] // an update finds its row by a scan too
	return c, err
}

func tableStats(ctx context.Context, conn *pgx.Conn) (map[string]float64, error) {
	// A connection that was used tells what it did when it ends, at last.
	for others := 1; others > 0; time.Sleep(10 * time.Millisecond) {
		err := conn.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND query LIKE '%crumb_sessions%'").Scan(&others)
		if err != nil {
			return nil, err
		}
	}
	var scans, writes float64
	err := conn.QueryRow(ctx, "SELECT seq_scan + idx_scan, n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_user_tables WHERE relname = 'crumb_sessions'").
		Scan(&scans, &writes)
	return map[string]float64{"scans": scans, "writes": writes}, err
}
