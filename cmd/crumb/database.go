package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/login"
	"github.com/crumb-go/crumb/modules"
	"github.com/crumb-go/crumb/store/mysql"
	"github.com/crumb-go/crumb/store/postgres"
	"github.com/crumb-go/crumb/store/sqlite"
	"github.com/crumb-go/crumb/track"
)

// An engine is what the commands ask of a SQL database besides its sessions. A
// Redis has no tables.
type engine struct {
	newest int // version of the schema
	schema func(prefix string) string
	status func(ctx context.Context, url, prefix string) (version int, err error)
	apply  func(ctx context.Context, url, prefix string) error
}

var engines = map[string]*engine{
	"sqlite": {
		sqlite.SchemaVersion, sqlite.Schema,
		func(ctx context.Context, url, prefix string) (int, error) {
			return sqlite.Status(ctx, url, sqlite.Config{TablePrefix: prefix})
		},
		func(ctx context.Context, url, prefix string) error {
			st, err := sqlite.Open(ctx, url, sqlite.Config{TablePrefix: prefix})
			if err != nil {
				return err
			}
			return st.Close()
		},
	},
	"postgres": {
		postgres.SchemaVersion, postgres.Schema,
		func(ctx context.Context, url, prefix string) (int, error) {
			return postgres.Status(ctx, url, postgres.Config{TablePrefix: prefix})
		},
		func(ctx context.Context, url, prefix string) error {
			return postgres.ApplySchema(ctx, url, postgres.Config{TablePrefix: prefix})
		},
	},
	"mysql": {
		mysql.SchemaVersion, mysql.Schema,
		func(ctx context.Context, url, prefix string) (int, error) {
			return mysql.Status(ctx, url, mysql.Config{TablePrefix: prefix})
		},
		func(ctx context.Context, url, prefix string) error {
			return mysql.ApplySchema(ctx, url, mysql.Config{TablePrefix: prefix})
		},
	},
}

// A database is the one that the settings name.
type database struct {
	modules.DatabaseConfig
	*engine        // nil for a Redis
	address string // to open it; nobody should see it
	shown   string // the URL without passwords
}

// databaseOf returns the database of a, or an error if its sessions are only in
// another process.
func databaseOf(a *app.App) (*database, error) {
	cfg, _ := a.Config(modules.Database.Name).(modules.DatabaseConfig)
	d := &database{DatabaseConfig: cfg, engine: engines[cfg.Engine()]}
	if cfg.Engine() == "memory" {
		return nil, app.WithHint(errors.New("the sessions of memory: are in the process that serves them, and nowhere else"),
			"name a database with --database, such as sqlite:crumb.db")
	}
	for _, s := range a.Settings() {
		if s.Table == modules.Database.Name && s.Key == "url" {
			d.shown = s.Value
		}
	}
	var err error
	d.address, err = cfg.Address()
	return d, err
}

// version returns that of the schema in the database, 0 if it has no tables yet.
func (d *database) version(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, modules.OpenTimeout)
	defer cancel()
	version, err := d.status(ctx, d.address, d.TablePrefix)
	if errors.Is(err, fs.ErrNotExist) {
		err = app.WithHint(err, "crumb serve and crumb schema apply create it; name another with --database")
	}
	return version, err
}

// mustHaveTables returns an error if the database is not there, or empty. A Redis
// is opened to find out.
func (d *database) mustHaveTables(ctx context.Context) error {
	if d.engine == nil {
		return nil
	}
	version, err := d.version(ctx)
	if err == nil && version == 0 {
		err = app.WithHint(fmt.Errorf("%s has no tables of sessions whose names begin with %s", d.shown, d.TablePrefix),
			d.whoCreates()+"; name another database with --database")
	}
	return err
}

func (d *database) whoCreates() string {
	if d.Engine() == "sqlite" {
		return "crumb serve and crumb schema apply create them"
	}
	return "crumb schema apply creates them"
}

func schemaCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "schema", Short: "Show and create the tables of the database"}
	settingFlags(cmd)
	onlySubcommands(cmd)
	known := strings.Join(slices.Sorted(maps.Keys(engines)), "|")
	cmd.AddCommand(
		&cobra.Command{
			Use:   "print [" + known + "]",
			Short: "Print the SQL that creates the tables",
			Args: func(cmd *cobra.Command, args []string) error {
				if len(args) > 1 || len(args) == 1 && engines[args[0]] == nil {
					return usageError(fmt.Errorf("no schema for %q", strings.Join(args, " ")), "write crumb schema print "+known)
				}
				return nil
			},
			RunE: func(cmd *cobra.Command, args []string) error { return printSchema(cmd, args) },
		},
		&cobra.Command{
			Use:   "status",
			Short: "Show which version of the schema the database has",
			Args:  noArgs,
			RunE: onDatabase(func(ctx context.Context, w io.Writer, d *database) error {
				if d.engine == nil {
					return noSchema(d.Engine())
				}
				version, err := d.version(ctx)
				if err != nil {
					return err
				}
				verdict := "up to date"
				switch {
				case version < d.newest:
					verdict = "crumb schema apply brings it up to date"
				case version > d.newest:
					verdict = "made by a newer crumb; this one does not open it"
				}
				_, err = fmt.Fprintf(w, "%s: schema version %d, this crumb knows %d: %s\n", d.shown, version, d.newest, verdict)
				return err
			}),
		},
		&cobra.Command{
			Use:   "apply",
			Short: "Create the tables, or bring them up to date",
			Args:  noArgs,
			RunE: andLogin(onDatabase(func(ctx context.Context, w io.Writer, d *database) error {
				if d.engine == nil { // so that a deployment need not know the engine
					_, err := fmt.Fprintf(w, "%s: needs no tables\n", d.shown)
					return err
				}
				limited, cancel := context.WithTimeout(ctx, modules.OpenTimeout)
				defer cancel()
				if err := d.apply(limited, d.address, d.TablePrefix); err != nil {
					return err
				}
				if err := d.applyTracking(limited); err != nil {
					return err
				}
				version, err := d.version(ctx)
				if err == nil {
					_, err = fmt.Fprintf(w, "%s: schema version %d\n", d.shown, version)
				}
				return err
			})),
		},
	)
	return cmd
}

// printSchema needs no database: only its prefix, and its engine if args do not
// name one.
func printSchema(cmd *cobra.Command, args []string) error {
	a, err := settings(cmd, modules.Database)
	if err != nil {
		return err
	}
	cfg, _ := a.Config(modules.Database.Name).(modules.DatabaseConfig)
	name := cfg.Engine()
	if len(args) == 1 {
		name = args[0]
	}
	if engines[name] == nil {
		return noSchema(name)
	}
	schema := engines[name].schema(cfg.TablePrefix)
	if name != "sqlite" { // where they are in a file of their own, which serve creates
		schema += "\n" + track.Schema(name, cfg.TablePrefix) + "\n" + login.Schema(login.Dialect(name), cfg.TablePrefix)
	}
	_, err = io.WriteString(cmd.OutOrStdout(), schema)
	return err
}

func noSchema(name string) error {
	return app.WithHint(fmt.Errorf("%s has no tables", name), "there is nothing to create")
}

// onDatabase runs f on the database that the settings name.
func onDatabase(f func(ctx context.Context, w io.Writer, d *database) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		a, err := settings(cmd, modules.Database)
		if err != nil {
			return err
		}
		d, err := databaseOf(a)
		if err != nil {
			return err
		}
		return f(cmd.Context(), cmd.OutOrStdout(), d)
	}
}
