package modules

import (
	"context"
	"strings"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/store/memory"
	"github.com/crumb-go/crumb/store/sqlite"
)

// Database opens the database that [database] url names and provides it as a
// [session.Store]. A SQLite file is created, with its tables, if it is not there.
var Database = &app.Module{
	Name:   "database",
	Config: DatabaseConfig{URL: "sqlite:crumb.db", TablePrefix: "crumb_"},
	Setup: func(e *app.Env) error {
		cfg := app.ConfigOf[DatabaseConfig](e)
		if cfg.URL == "memory:" {
			e.Provide(memory.New())
			return nil
		}
		st, err := sqlite.Open(e.Context(), cfg.URL, sqlite.Config{Logger: e.Logger(), TablePrefix: cfg.TablePrefix})
		if err != nil {
			return app.WithHint(err, databaseHint)
		}
		e.OnStop(func(context.Context) error { return st.Close() })
		e.Provide(st)
		return nil
	},
}

const databaseHint = "--database sqlite:FILE names another file, --database memory: keeps sessions until the process ends"

// DatabaseConfig is the table [database].
type DatabaseConfig struct {
	// URL is "sqlite:FILE", the default being sqlite:crumb.db in the working
	// directory, or "memory:", which forgets everything when the process ends.
	URL string `toml:"url" flag:"database" help:"database, sqlite:FILE or memory:"`

	// TablePrefix is what the names of the tables begin with, so that several
	// apps can share a database. Defaults to crumb_.
	TablePrefix string `toml:"table_prefix" help:"what the names of the tables begin with"`
}

// Check refuses a URL that no store is for.
func (cfg DatabaseConfig) Check() error {
	scheme, _, ok := strings.Cut(cfg.URL, ":")
	switch {
	case cfg.URL == "memory:", ok && scheme == "sqlite":
		return nil
	case scheme == "memory":
		return app.Bad("url", "memory: takes nothing behind the colon", "write memory:")
	case !ok:
		return app.Bad("url", "it is no URL", "write sqlite:"+cfg.URL+" for a file, or memory:")
	}
	return app.Bad("url", "unknown scheme "+scheme+":", "write sqlite:FILE or memory:")
}
