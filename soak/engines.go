package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/rueidis"
	zs "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/internal/sqlstore"
	"github.com/crumb-go/crumb/store/postgres"
	"github.com/crumb-go/crumb/store/redis"
)

func runSizesPostgres(ctx context.Context, r *run, f *figures) (*figures, error) {
	return f, sizeEngine(ctx, r, f, filepath.Join(r.dir, "sizes-postgres"), openSizedPostgres)
}

func runSizesRedis(ctx context.Context, r *run, f *figures) (*figures, error) {
	return f, sizeEngine(ctx, r, f, filepath.Join(r.dir, "sizes-redis"), openSizedRedis)
}

// sqliteBytes returns the size of a database, what is still in its log included.
func sqliteBytes(ctx context.Context, path string) (int64, error) {
	c, err := zs.OpenConn(path, zs.OpenReadOnly)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	c.SetInterrupt(ctx.Done())
	number := func(sql string) (n int64) {
		if err == nil {
			err = sqlitex.ExecuteTransient(c, sql, &sqlitex.ExecOptions{ResultFunc: func(st *zs.Stmt) error {
				n = st.ColumnInt64(0)
				return nil
			}})
		}
		return n
	}
	total := number("PRAGMA page_count") * number("PRAGMA page_size")
	return total, err
}

// startEngine starts a server in dir that nobody else uses.
func startEngine(ctx context.Context, kind, dir string) (*servers.Server, error) {
	if !servers.CanStart(kind) {
		return nil, errors.New(servers.LeftOut([]string{kind}))
	}
	return servers.Start(ctx, kind, dir)
}

func openSizedPostgres(ctx context.Context, dir string) (db opened, err error) {
	server, err := startEngine(ctx, servers.Postgres, dir)
	if err != nil {
		return db, err
	}
	quiet := postgres.Config{Logger: slog.New(slog.DiscardHandler)}
	if err := postgres.ApplySchema(ctx, server.URL, quiet); err != nil {
		return db, errors.Join(err, server.Stop())
	}
	st, err := postgres.Open(ctx, server.URL, quiet)
	if err != nil {
		return db, errors.Join(err, server.Stop())
	}
	copied := copiedPostgres{st, server.URL}
	return opened{
		store: copied, other: copied,
		bytes: func() (n int64, err error) {
			conn, err := pgx.Connect(ctx, server.URL)
			if err != nil {
				return 0, err
			}
			defer conn.Close(context.WithoutCancel(ctx))
			err = conn.QueryRow(ctx, "SELECT pg_total_relation_size('crumb_sessions')").Scan(&n)
			return n, err
		},
		close: func() error { return errors.Join(st.Close(), server.Stop()) },
	}, nil
}

func openSizedRedis(ctx context.Context, dir string) (db opened, err error) {
	server, err := startEngine(ctx, servers.Redis, dir)
	if err != nil {
		return db, err
	}
	st, err := redis.Open(ctx, server.URL, redis.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return db, errors.Join(err, server.Stop())
	}
	return opened{
		store: st, other: st,
		bytes: func() (int64, error) { return redisBytes(ctx, server) },
		close: func() error { return errors.Join(st.Close(), server.Stop()) },
	}, nil
}

// A copiedPostgres is filled by COPY.
type copiedPostgres struct {
	*postgres.Store
	url string
}

func (p copiedPostgres) copy(ctx context.Context, fl *filling, from, to int, b *bar) error {
	conn, err := pgx.Connect(ctx, p.url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	micros := func(t time.Time) any {
		if t.IsZero() {
			return nil
		}
		return t.UnixMicro()
	}
	_, err = conn.CopyFrom(ctx, pgx.Identifier{"crumb_sessions"}, []string{
		"id", "user", "created", "seen", "expires", "expires_10min", "idle", "absolute", "signed_in", "remember", "addr", "agent",
		"auth", "secret", "format", "version", "values",
	}, pgx.CopyFromSlice(to-from, func(i int) ([]any, error) {
		rec := fl.record(from + i)
		b.at(i, to-from, "sessions copied")
		return []any{
			string(rec.ID), []byte(rec.User), micros(rec.Created), micros(rec.Seen), micros(rec.Expires), rec.Expires.Unix() / 600,
			rec.Idle.Microseconds(), micros(rec.Absolute), micros(rec.SignedIn), rec.Remember, rec.Addr.String(), []byte(rec.Agent),
			rec.Auth, rec.Secret[:], 1, rec.Version, sqlstore.AppendValues(nil, rec.Values),
		}, nil
	}))
	if err == nil {
		_, err = conn.Exec(ctx, "VACUUM ANALYZE crumb_sessions")
	}
	return err
}

// redisBytes returns the memory that the server's data takes.
func redisBytes(ctx context.Context, server *servers.Server) (int64, error) {
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{server.Nodes[0].Addr}, ForceSingleClient: true, DisableCache: true})
	if err != nil {
		return 0, err
	}
	defer client.Close()
	stats, err := client.Do(ctx, client.B().MemoryStats().Build()).ToMap()
	if err != nil {
		return 0, err
	}
	data, ok := stats["dataset.bytes"]
	if !ok {
		return 0, errors.New("MEMORY STATS does not tell the size of the data")
	}
	total, err := data.AsInt64()
	if err != nil {
		return 0, err
	}
	// The tables of keys and of when they expire are told apart from the data.
	db, ok := stats["db.0"]
	if !ok {
		return total, nil
	}
	tables, err := db.ToMap()
	if err != nil {
		return 0, err
	}
	for _, size := range tables {
		n, err := size.AsInt64()
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// runSweepServers is sweep on database servers. Redis drops records by itself, so
// there it is the indexes that are swept.
func runSweepServers(ctx context.Context, r *run, f *figures) (_ *figures, err error) {
	f.Rows = nil
	for _, e := range []struct {
		kind string
		open func(ctx context.Context, dir string) (opened, error)
	}{{servers.Postgres, openSizedPostgres}, {servers.Redis, openSizedRedis}} {
		dir := filepath.Join(r.dir, "sweep-"+e.kind)
		if err := errors.Join(err, os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
			return nil, err
		}
		db, oerr := e.open(ctx, dir)
		if oerr != nil {
			return nil, errors.Join(err, fmt.Errorf("%s: %w", servers.Name(e.kind), oerr))
		}
		err = errors.Join(err, sweepOne(ctx, r, f, servers.Name(e.kind), db.store, db.store, 4*time.Second), db.close())
	}
	return f, err
}
