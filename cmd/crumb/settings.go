package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/modules"
	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/sqlite"
)

// settingFlags adds the flags that say which settings hold. Whatever else a
// setting needs is in the file or the environment, as for serve.
func settingFlags(cmd *cobra.Command) {
	cmd.PersistentFlags().String("config", "", "settings file (default "+settingsFile+", if it is there)")
	cmd.PersistentFlags().String("database", "", "database, such as sqlite:crumb.db (default from the settings)")
}

// settings resolves the settings of an app made of mods, as serve would.
func settings(cmd *cobra.Command, mods ...*app.Module) (*app.App, error) {
	var args []string
	for _, name := range []string{"config", "database"} {
		if f := cmd.Flag(name); f != nil && f.Changed {
			args = append(args, "--"+name, f.Value.String())
		}
	}
	return app.New(app.Options{
		Args: args, Environ: os.Environ(), File: settingsFile, OtherTables: true, Program: "crumb",
		Logger: slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}, mods...)
}

// database returns the settings of the database, as they are and not as they are
// shown.
func database(a *app.App) modules.DatabaseConfig {
	cfg, _ := a.Config(modules.Database.Name).(modules.DatabaseConfig)
	return cfg
}

// shownURL returns the URL of the database without the passwords in it.
func shownURL(a *app.App) string {
	for _, s := range a.Settings() {
		if s.Table == modules.Database.Name && s.Key == "url" {
			return s.Value
		}
	}
	return ""
}

// withSessions runs f on the sessions of the database that the settings name. It
// creates nothing: an operator who mistypes its name should hear of it. The
// manager has the default settings, since the others are about requests, and
// nothing runs beside f: what expired is swept by those who serve.
func withSessions(cmd *cobra.Command, f func(ctx context.Context, m *session.Manager, st session.Store) error) error {
	var m *session.Manager
	var st session.Store
	a, err := settings(cmd, &app.Module{
		Name: "command", Requires: []*app.Module{modules.Database},
		Setup: func(e *app.Env) (err error) {
			st = app.Get[session.Store](e)
			m, err = session.NewManager(st, session.Config{Logger: e.Logger()})
			return err
		},
	})
	if err != nil {
		return err
	}
	url, version, err := schemaVersion(cmd.Context(), a)
	if err != nil {
		return err
	}
	if version == 0 {
		return noTables(a, url)
	}
	if _, err := a.Start(cmd.Context()); err != nil {
		return err
	}
	return errors.Join(f(cmd.Context(), m, st), a.Stop(context.WithoutCancel(cmd.Context())))
}

func noTables(a *app.App, url string) error {
	return app.WithHint(fmt.Errorf("%s has no tables of sessions whose names begin with %s", url, database(a).TablePrefix),
		"crumb serve and crumb schema apply create them; name another database with --database")
}

// schemaVersion returns the URL of the database, for showing, and the version of the schema in
// it, or an error if it is not there or only in another process.
func schemaVersion(ctx context.Context, a *app.App) (url string, version int, err error) {
	cfg := database(a)
	url = shownURL(a)
	if cfg.URL == "memory:" {
		return url, 0, app.WithHint(errors.New("the sessions of memory: are in the process that serves them, and nowhere else"),
			"name a database with --database, such as sqlite:crumb.db")
	}
	ctx, cancel := context.WithTimeout(ctx, modules.OpenTimeout)
	defer cancel()
	version, err = sqlite.Status(ctx, cfg.URL, sqlite.Config{TablePrefix: cfg.TablePrefix})
	if errors.Is(err, fs.ErrNotExist) {
		err = app.WithHint(err, "crumb serve and crumb schema apply create it; name another with --database")
	}
	return url, version, err
}

func schemaCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "schema", Short: "Show and create the tables of the database"}
	settingFlags(cmd)
	onlySubcommands(cmd)
	cmd.AddCommand(
		&cobra.Command{
			Use:   "print [sqlite]",
			Short: "Print the SQL that creates the tables",
			Args: func(cmd *cobra.Command, args []string) error {
				if len(args) > 1 || len(args) == 1 && args[0] != "sqlite" {
					return usageError(fmt.Errorf("no schema for %q", strings.Join(args, " ")), "write crumb schema print sqlite")
				}
				return nil
			},
			RunE: func(cmd *cobra.Command, args []string) error {
				a, err := settings(cmd, modules.Database)
				if err != nil {
					return err
				}
				_, err = io.WriteString(cmd.OutOrStdout(), sqlite.Schema(database(a).TablePrefix))
				return err
			},
		},
		&cobra.Command{
			Use:   "status",
			Short: "Show which version of the schema the database has",
			Args:  noArgs,
			RunE: func(cmd *cobra.Command, args []string) error {
				a, err := settings(cmd, modules.Database)
				if err != nil {
					return err
				}
				url, version, err := schemaVersion(cmd.Context(), a)
				if err != nil {
					return err
				}
				verdict := "up to date"
				switch {
				case version < sqlite.SchemaVersion:
					verdict = "crumb schema apply brings it up to date"
				case version > sqlite.SchemaVersion:
					verdict = "made by a newer crumb; this one does not open it"
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: schema version %d, this crumb knows %d: %s\n", url, version, sqlite.SchemaVersion, verdict)
				return err
			},
		},
		&cobra.Command{
			Use:   "apply",
			Short: "Create the tables, or bring them up to date",
			Args:  noArgs,
			RunE: func(cmd *cobra.Command, args []string) error {
				a, err := settings(cmd, modules.Database)
				if err != nil {
					return err
				}
				if database(a).URL == "memory:" {
					_, _, err := schemaVersion(cmd.Context(), a)
					return err
				}
				if _, err := a.Start(cmd.Context()); err != nil { // opening a SQLite file applies its schema
					return err
				}
				if err := a.Stop(context.WithoutCancel(cmd.Context())); err != nil {
					return err
				}
				url, version, err := schemaVersion(cmd.Context(), a)
				if err == nil {
					_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: schema version %d\n", url, version)
				}
				return err
			},
		},
	)
	return cmd
}

func writeJSON(w io.Writer, v any) error {
	text, err := marshal(v, "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

// marshal returns v as JSON that moves no cursor and reorders no line: see plain.
func marshal(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", indent)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	var out []byte
	for _, c := range string(bytes.TrimSpace(b.Bytes())) {
		if shown(c) || c == '\n' {
			out = utf8.AppendRune(out, c)
		} else {
			out = append(out, escape(c)...) // what is not ASCII is in a string
		}
	}
	return out, nil
}
