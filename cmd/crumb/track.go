package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/modules"
	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/track"
)

func trackCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "track", Short: "Export and erase what is known about a visitor"}
	settingFlags(cmd)
	onlySubcommands(cmd)
	cmd.AddCommand(exportCommand(), eraseCommand())
	return cmd
}

// tracking is what an operator asks about visitors.
type tracking struct {
	tables   *track.Tables
	sessions *session.Manager
	store    session.Store
	files    []string // URLs of the databases that hold something about visitors
}

// withTracking runs f on what the settings name. It creates nothing.
func withTracking(cmd *cobra.Command, f func(ctx context.Context, t *tracking) error) error {
	t := &tracking{}
	a, err := settings(cmd, &app.Module{
		// The name and settings of the module that serves.
		Name: modules.Track.Name, Config: modules.Track.Config, Requires: []*app.Module{modules.Database},
		Setup: func(e *app.Env) (err error) {
			cfg, database := app.ConfigOf[modules.TrackConfig](e), app.Get[modules.DatabaseConfig](e)
			if err := t.mustExist(cfg, database); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(e.Context(), modules.OpenTimeout)
			defer cancel()
			if t.tables, err = cfg.OpenTables(ctx, database); err != nil {
				return err
			}
			e.OnStop(func(context.Context) error { return t.tables.Close() })
			t.store = app.Get[session.Store](e)
			t.sessions, err = session.NewManager(t.store, session.Config{Logger: e.Logger()})
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
		if start, ok := errors.AsType[*app.StartError](err); ok && start.Module == modules.Track.Name {
			err = start.Err
		}
		return err
	}
	return errors.Join(f(cmd.Context(), t), a.Stop(context.WithoutCancel(cmd.Context())))
}

// mustExist returns an error if the tables are in a file that is not there.
func (t *tracking) mustExist(cfg modules.TrackConfig, database modules.DatabaseConfig) error {
	url, err := cfg.Address(database)
	if err != nil {
		return err
	}
	t.files = []string{url}
	if database.Engine() == "sqlite" && database.URL != url {
		t.files = append(t.files, database.URL)
	}
	path, ok := strings.CutPrefix(url, "sqlite:")
	if !ok {
		return nil
	}
	if _, err := os.Stat(strings.TrimPrefix(path, "//")); errors.Is(err, fs.ErrNotExist) {
		return app.WithHint(fmt.Errorf("nothing was tracked yet: there is no file %s", path),
			"crumb serve creates it; [track] url names another database")
	}
	return nil
}

// applyTracking creates the tables of tracking on a server. Those of SQLite are in a
// file of their own, which serve creates.
func (d *database) applyTracking(ctx context.Context) error {
	if d.Engine() == "sqlite" {
		return nil
	}
	tables, err := track.OpenTables(ctx, d.address, track.TablesConfig{Create: true, TablePrefix: d.TablePrefix})
	if err != nil {
		return err
	}
	return tables.Close()
}

// visitorFlags says whom a command is about.
type visitorFlags struct{ user string }

func (f *visitorFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.user, "user", "", "all visitors who signed in as this user")
}

func (f *visitorFlags) check(cmd *cobra.Command, args []string) error {
	byUser := cmd.Flags().Changed("user")
	if byUser == (len(args) > 0) || byUser && f.user == "" {
		return usageError(fmt.Errorf("%s needs either IDs or --user USER", strings.TrimPrefix(cmd.CommandPath(), "crumb ")),
			"crumb top and crumb sessions list show the IDs")
	}
	return checkIDs(args)
}

// ids returns the visitors meant: those who were tracked, and the sessions that
// live.
func (f *visitorFlags) ids(ctx context.Context, t *tracking, args []string) (ids []session.ID, err error) {
	for _, arg := range args {
		ids = append(ids, session.ID(arg))
	}
	if f.user != "" {
		if ids, err = t.tables.OfUser(ctx, f.user); err != nil {
			return nil, err
		}
		for in, err := range t.sessions.List(ctx, session.Query{User: f.user, Limit: pageSize}) {
			if err != nil {
				return nil, err
			}
			ids = append(ids, in.ID)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// An exportJSON is all that is stored about one visitor.
type exportJSON struct {
	ID      session.ID    `json:"id"`
	Visitor *track.Export `json:"visitor"` // null if never tracked
	Session *sessionJSON  `json:"session"` // with its values; null if it does not live
}

// export returns all that is stored about one visitor; ok is false if that is
// nothing.
func (t *tracking) export(ctx context.Context, id session.ID) (out exportJSON, ok bool, err error) {
	out.ID = id
	v, err := t.tables.Export(ctx, id)
	switch {
	case err == nil:
		out.Visitor = &v
	case !errors.Is(err, track.ErrNotFound):
		return out, false, err
	}
	rec, err := t.store.Load(ctx, id)
	switch {
	case err == nil && rec.Live(time.Now()):
		s := jsonInfo(rec.Info)
		s.Values = map[string]any{}
		for _, v := range rec.Values {
			s.Values[v.Key] = v.JSON
		}
		out.Session = &s
	case err != nil && !errors.Is(err, session.ErrNotFound):
		return out, false, err
	}
	return out, out.Visitor != nil || out.Session != nil, nil
}

func exportCommand() *cobra.Command {
	var who visitorFlags
	cmd := &cobra.Command{
		Use:   "export {ID… | --user USER}",
		Short: "Print all that is stored about visitors, as JSON",
		Args:  who.check,
		RunE: func(cmd *cobra.Command, args []string) error {
			return withTracking(cmd, func(ctx context.Context, t *tracking) error {
				ids, err := who.ids(ctx, t, args)
				if err != nil {
					return err
				}
				list := []exportJSON{}
				for _, id := range ids {
					one, ok, err := t.export(ctx, id)
					if err != nil {
						return err
					}
					if ok {
						list = append(list, one)
					}
				}
				if len(list) == 0 {
					return nobodyKnown()
				}
				return writeJSON(cmd.OutOrStdout(), list)
			})
		},
	}
	who.add(cmd)
	return cmd
}

func nobodyKnown() error {
	return app.WithHint(errors.New("nothing is stored about such a visitor"), "crumb top and crumb sessions list show the IDs")
}

func eraseCommand() *cobra.Command {
	var who visitorFlags
	var yes bool
	cmd := &cobra.Command{
		Use:   "erase {ID… | --user USER}",
		Short: "Erase all that is stored about visitors, their sessions too",
		Long: "Erase all that is stored about visitors, their sessions too. What a running server still has in memory about\n" +
			"them is not written any more. SQLite files are then written anew, so that no byte is left in them; what other\n" +
			"databases keep in logs and backups is up to them.",
		Args: who.check,
		RunE: func(cmd *cobra.Command, args []string) error {
			return withTracking(cmd, func(ctx context.Context, t *tracking) error {
				ids, err := who.ids(ctx, t, args)
				if err != nil {
					return err
				}
				if len(ids) == 0 {
					return nobodyKnown()
				}
				if !yes {
					if err := ask(cmd, fmt.Sprintf("Erase all about %s?", numbered(len(ids), "visitor"))); err != nil {
						return err
					}
				}
				if err := t.erase(ctx, ids); err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "Erased %s.\n", numbered(len(ids), "visitor"))
				return err
			})
		},
	}
	who.add(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// erase removes visitors. IDs that nothing is stored about count too: a server may
// have some of it in memory.
func (t *tracking) erase(ctx context.Context, ids []session.ID) error {
	for _, id := range ids {
		if err := t.tables.Erase(ctx, id, time.Now()); err != nil {
			return err
		}
		if err := t.store.Delete(ctx, id); err != nil {
			return err
		}
	}
	for _, url := range t.files {
		err := track.Scrub(ctx, url)
		if errors.Is(err, track.ErrBlocked) {
			return app.WithHint(fmt.Errorf("the rows are deleted, and bytes of them may still be in the files: %w", err),
				"run it again when no backup or other long reader is at work, or stop the server for a moment")
		}
		if err != nil {
			return err
		}
	}
	return nil
}
