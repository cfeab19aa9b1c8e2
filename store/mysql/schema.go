package mysql

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"strings"

	"github.com/crumb-go/crumb/internal/sqlstore"
)

// SchemaVersion is the version of the schema that [ApplySchema] creates and
// [Open] expects.
const SchemaVersion = sqlstore.SchemaVersion

//go:embed schema.sql
var schema string

// Schema returns the SQL that creates the tables, their names beginning with
// prefix; "" means the default of [Config].
func Schema(prefix string) string {
	if prefix == "" {
		prefix = sqlstore.DefaultPrefix
	}
	return strings.ReplaceAll(schema, sqlstore.DefaultPrefix, prefix)
}

// Status returns the version of the schema in the database at url, 0 if it holds
// none. It changes nothing.
func Status(ctx context.Context, url string, cfg Config) (version int, err error) {
	err = withPool(url, &cfg, func(d db) error {
		version, err = schemaVersion(ctx, d.pool, cfg.TablePrefix)
		return err
	})
	return version, err
}

// ApplySchema creates the tables in the database at url if they are not there
// yet. Several processes may do so at once, on one server. Tables of a newer
// program are an error. The user of url needs the right to create tables; that of
// [Open] needs none but to select, insert, update and delete.
func ApplySchema(ctx context.Context, url string, cfg Config) error {
	return withPool(url, &cfg, func(d db) error {
		c, err := d.pool.Conn(ctx)
		if err != nil {
			return err
		}
		defer c.Close()
		return applySchema(ctx, c, cfg.TablePrefix)
	})
}

// applySchema needs no transaction, which the engine has none of for tables: the
// version is written last, and what is there already is left alone.
func applySchema(ctx context.Context, c *sql.Conn, prefix string) error {
	// Of the server, not of the database, hence both names; ends with the
	// connection.
	var locked sql.NullBool
	err := c.QueryRowContext(ctx, "SELECT GET_LOCK(MD5(CONCAT(DATABASE(), '.', ?)), 600)", prefix).Scan(&locked)
	if err == nil && !locked.Bool {
		err = errors.New("another process has been at it for ten minutes")
	}
	if err != nil {
		return fmt.Errorf("wait for others who apply the schema: %w", err)
	}
	version, err := schemaVersion(ctx, c, prefix)
	if err != nil || version == SchemaVersion {
		return err
	}
	if err := sqlstore.CheckNewer(version, prefix); err != nil {
		return err
	}
	for st := range strings.SplitSeq(strings.TrimSpace(Schema(prefix)), ";\n") {
		if _, err := c.ExecContext(ctx, st); err != nil {
			return err
		}
	}
	return nil
}

// A querier is a pool or a connection.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// schemaVersion returns the version of the tables with this prefix, 0 if there are
// none.
func schemaVersion(ctx context.Context, q querier, prefix string) (version int, err error) {
	err = q.QueryRowContext(ctx, "SELECT coalesce(max(version), 0) FROM "+prefix+"schema").Scan(&version)
	if number(err) == noSuchTable {
		return 0, nil
	}
	return version, err
}

// withPool connects for one errand.
func withPool(url string, cfg *Config, fn func(db) error) error {
	if err := cfg.check(); err != nil {
		return err
	}
	d, err := connect(url, cfg.Logger)
	if err != nil {
		return err
	}
	err = fn(d)
	if err := errors.Join(err, d.pool.Close()); err != nil {
		return fmt.Errorf("mysql: %w", err)
	}
	return nil
}
