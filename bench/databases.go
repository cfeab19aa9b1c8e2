package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"slices"
	"sync"

	"github.com/alexedwards/scs/goredisstore"
	"github.com/alexedwards/scs/pgxstore"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	goredis "github.com/redis/go-redis/v9"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/store/postgres"
	"github.com/crumb-go/crumb/store/redis"
)

// The peers on database servers, which are measured where make servers has started
// those.
var databasePeers = []peer{
	{"crumb-redis", "Crumb, Redis", onServer(servers.Redis, openCrumbOnRedis), servers.Redis},
	{"scs-redis", "scs, goredisstore", onServer(servers.Redis, openSCSOnRedis), servers.Redis},
	{"crumb-postgres", "Crumb, PostgreSQL", onServer(servers.Postgres, openCrumbOnPostgres), servers.Postgres},
	{"scs-postgres", "scs, pgxstore", onServer(servers.Postgres, openSCSOnPostgres), servers.Postgres},
}

// leaveOut forgets the peers whose servers do not run, and says so.
func (b *bench) leaveOut() {
	peers = slices.DeleteFunc(peers, func(p peer) bool {
		missing := p.kind != "" && len(servers.Missing(p.kind)) > 0
		if missing {
			b.progress("%s is left out: no %s runs. make servers starts one.", p.name, servers.Name(p.kind))
		}
		return missing
	})
}

// onServer opens a peer on the shared server of a kind, under a name of its own.
func onServer(kind string, open func(url, name string) (*app, error)) func(string) (*app, error) {
	return func(string) (*app, error) {
		url, ok := servers.URL(kind)
		if !ok {
			return nil, fmt.Errorf("no %s runs: make servers starts one", servers.Name(kind))
		}
		return open(url, fmt.Sprintf("bench_%x", rand.Uint64()))
	}
}

func openCrumbOnRedis(url, name string) (*app, error) {
	store, err := redis.Open(context.Background(), url, redis.Config{KeyPrefix: name + ":", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	return openCrumb(store, sync.OnceValue(func() error {
		return errors.Join(dropKeys(url, name), store.Close())
	}))
}

func openSCSOnRedis(url, name string) (*app, error) {
	opt, err := goredis.ParseURL(url)
	if err != nil {
		return nil, err
	}
	client := goredis.NewClient(opt)
	return openSCS(goredisstore.NewWithPrefix(client, name+":"), sync.OnceValue(func() error {
		return errors.Join(dropKeys(url, name), client.Close())
	})), nil
}

// dropKeys deletes what a run has left.
func dropKeys(url, name string) error {
	opt, err := goredis.ParseURL(url)
	if err != nil {
		return err
	}
	client := goredis.NewClient(opt)
	defer client.Close()
	ctx := context.Background()
	keys := client.Scan(ctx, 0, name+":*", 1000).Iterator()
	for keys.Next(ctx) {
		if err := client.Unlink(ctx, keys.Val()).Err(); err != nil {
			return err
		}
	}
	return keys.Err()
}

// postgresConns is how many connections either library gets: what Crumb takes by
// default.
const postgresConns = "10"

// inSchema creates a schema of that name, and returns the URL of connections that
// find their tables in it, and what drops it.
func inSchema(raw, name string) (address string, drop func() error, err error) {
	if err := execOnce(raw, "CREATE SCHEMA "+name); err != nil {
		return "", nil, err
	}
	u, err := url.Parse(raw)
	if err != nil {
		return "", nil, err
	}
	q := u.Query()
	q.Set("search_path", name)
	q.Set("pool_max_conns", postgresConns)
	u.RawQuery = q.Encode()
	return u.String(), func() error { return execOnce(raw, "DROP SCHEMA "+name+" CASCADE") }, nil
}

func execOnce(url, sql string) error {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}

func openCrumbOnPostgres(raw, name string) (*app, error) {
	address, drop, err := inSchema(raw, name)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	if err := postgres.ApplySchema(ctx, address, postgres.Config{}); err != nil {
		return nil, errors.Join(err, drop())
	}
	store, err := postgres.Open(ctx, address, postgres.Config{})
	if err != nil {
		return nil, errors.Join(err, drop())
	}
	return openCrumb(store, sync.OnceValue(func() error { return errors.Join(store.Close(), drop()) }))
}

// openSCSOnPostgres has the table that the documentation of pgxstore asks for.
func openSCSOnPostgres(raw, name string) (*app, error) {
	address, drop, err := inSchema(raw, name)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, address)
	if err != nil {
		return nil, errors.Join(err, drop())
	}
	for _, statement := range []string{
		"CREATE TABLE sessions (token TEXT PRIMARY KEY, data BYTEA NOT NULL, expiry TIMESTAMPTZ NOT NULL)",
		"CREATE INDEX sessions_expiry_idx ON sessions (expiry)",
	} {
		if _, err := pool.Exec(ctx, statement); err != nil {
			pool.Close()
			return nil, errors.Join(err, drop())
		}
	}
	store := pgxstore.New(pool)
	return openSCS(store, sync.OnceValue(func() error {
		store.StopCleanup()
		pool.Close()
		return drop()
	})), nil
}
