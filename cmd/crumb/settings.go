package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/modules"
	"github.com/crumb-go/crumb/session"
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
		Logger: warnings(cmd),
	}, mods...)
}

// warnings is the log of a command.
func warnings(cmd *cobra.Command) *slog.Logger {
	return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
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
	d, err := databaseOf(a)
	if err != nil {
		return err
	}
	if err := d.mustHaveTables(cmd.Context()); err != nil {
		return err
	}
	if _, err := a.Start(cmd.Context()); err != nil {
		return err
	}
	return errors.Join(f(cmd.Context(), m, st), a.Stop(context.WithoutCancel(cmd.Context())))
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
