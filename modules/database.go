package modules

import (
	"context"
	"regexp"
	"strings"
	"time"

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
		ctx, cancel := context.WithTimeout(e.Context(), OpenTimeout)
		defer cancel()
		st, err := sqlite.Open(ctx, cfg.URL, sqlite.Config{Logger: e.Logger(), TablePrefix: cfg.TablePrefix})
		if err != nil {
			return app.WithHint(err, databaseHint)
		}
		e.OnStop(func(context.Context) error { return st.Close() })
		e.Provide(st)
		return nil
	},
}

// OpenTimeout is how long to wait for a database that another process keeps
// locked.
const OpenTimeout = 5 * time.Second

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

var prefixFormat = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Check refuses what no store would open.
func (cfg DatabaseConfig) Check() error {
	if !prefixFormat.MatchString(cfg.TablePrefix) {
		return app.Bad("table_prefix", "not the beginning of a name", "use ASCII letters, digits and underscores, and no digit first")
	}
	scheme, rest, ok := strings.Cut(cfg.URL, ":")
	switch {
	case !ok:
		return app.Bad("url", "it is no URL", "write sqlite:"+cfg.URL+" for a file, or memory:")
	case scheme == "memory" && rest == "":
		return nil
	case scheme == "memory":
		return app.Bad("url", "memory: takes nothing behind the colon", "write memory:")
	case scheme != "sqlite":
		return app.Bad("url", "unknown scheme "+scheme+":", "write sqlite:FILE or memory:")
	case strings.Trim(rest, "/") == "":
		return app.Bad("url", "it names no file", "write sqlite:crumb.db")
	case rest == ":memory:":
		return app.Bad("url", "SQLite in memory is not supported", "write memory:")
	case strings.Contains(rest, "?"):
		return app.Bad("url", "a sqlite: URL takes no parameters", "remove what begins with ?; in the name of a file write %3F")
	}
	return nil
}
