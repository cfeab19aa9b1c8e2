package postgres

import (
	"context"
	_ "embed"
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

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
	err = withPool(ctx, url, &cfg, func(pool *pgxpool.Pool) error {
		version, err = schemaVersion(ctx, pool, cfg.TablePrefix)
		return err
	})
	return version, err
}

// ApplySchema creates the tables in the database at url if they are not there
// yet. Several processes may do so at once. Tables of a newer program are an
// error. The user of url needs the right to create tables; that of [Open] needs
// none but to select, insert, update and delete.
func ApplySchema(ctx context.Context, url string, cfg Config) error {
	return withPool(ctx, url, &cfg, func(pool *pgxpool.Pool) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			lock := fnv.New64a()
			lock.Write([]byte(cfg.TablePrefix + "schema"))
			if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(lock.Sum64())); err != nil {
				return fmt.Errorf("wait for others who apply the schema: %w", err)
			}
			version, err := schemaVersion(ctx, tx, cfg.TablePrefix)
			if err != nil || version == SchemaVersion {
				return err
			}
			if err := sqlstore.CheckNewer(version, cfg.TablePrefix); err != nil {
				return err
			}
			_, err = tx.Conn().PgConn().Exec(ctx, Schema(cfg.TablePrefix)).ReadAll()
			return err
		})
	})
}

// withPool connects for one errand.
func withPool(ctx context.Context, url string, cfg *Config, fn func(*pgxpool.Pool) error) error {
	if err := cfg.check(); err != nil {
		return err
	}
	pool, err := connect(ctx, url)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := fn(pool); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	return nil
}
