package sqldb

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
)

// openPostgres takes the URLs that the session store takes, so that both can be
// given the same one.
func openPostgres(raw string) (*DB, error) {
	if _, err := url.Parse(raw); err != nil { // which may quote a part of the password
		return nil, errors.New("postgres: this is no URL; write postgres://user:password@host:5432/database, and in user and password %23 for #, %2F for /, %3A for : and %40 for @")
	}
	cfg, err := pgxpool.ParseConfig(raw) // which knows the parameters of a pool
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	conn := cfg.ConnConfig
	if conn.ConnectTimeout == 0 {
		conn.ConnectTimeout = 5 * time.Second
	}
	if conn.RuntimeParams["application_name"] == "" {
		conn.RuntimeParams["application_name"] = "crumb"
	}
	maxConns := defaultMaxConns
	if strings.Contains(raw, "pool_max_conns=") {
		maxConns = int(cfg.MaxConns)
	}
	return openServer(stdlib.OpenDB(*conn), Postgres, maxConns)
}
