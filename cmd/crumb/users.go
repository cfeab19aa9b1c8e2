package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/keyring"
	"github.com/crumb-go/crumb/login"
	"github.com/crumb-go/crumb/modules"
	"github.com/crumb-go/crumb/session"
)

func usersCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "users", Short: "Add, list, disable and delete users, and set their passwords"}
	settingFlags(cmd)
	onlySubcommands(cmd)
	cmd.AddCommand(addUserCommand(), listUsersCommand(),
		onUser("disable", "Keep a user from signing in, and end their sessions", disable),
		onUser("enable", "Let a user sign in again", enable),
		passwordCommand(),
		onUser("unlock", "Forget the failed tries on a user's account", unlock),
		onUser("reset", "Print a link with which a user sets a new password", resetLink),
		deleteUserCommand())
	return cmd
}

// users are the users of an app, for an operator.
type users struct {
	accounts *login.Login
	cfg      modules.LoginConfig
	keys     *keyring.Ring
	sessions *session.Manager
	tables   *login.Tables
}

// withUsers runs f on the users of the database that the settings name, which must
// be there. Nothing runs beside f.
func withUsers(cmd *cobra.Command, f func(ctx context.Context, u *users) error) error {
	return openUsers(cmd, true, f)
}

func openUsers(cmd *cobra.Command, mustExist bool, f func(ctx context.Context, u *users) error) error {
	u := &users{}
	var keyFile string
	a, err := settings(cmd, &app.Module{
		// The name and settings of the modules that serve.
		Name: modules.Keys.Name, Config: modules.Keys.Config,
		Setup: func(e *app.Env) error {
			keyFile = app.ConfigOf[modules.KeysConfig](e).SecretKeyFile
			return nil
		},
	}, &app.Module{
		Name: modules.Login.Name, Config: modules.Login.Config, Requires: []*app.Module{modules.Database},
		Setup: func(e *app.Env) (err error) {
			u.cfg = app.ConfigOf[modules.LoginConfig](e)
			ctx, cancel := context.WithTimeout(e.Context(), modules.OpenTimeout)
			defer cancel()
			if u.tables, err = u.cfg.OpenTables(ctx, app.Get[modules.DatabaseConfig](e), e.Logger()); err != nil {
				return err
			}
			e.OnStop(func(context.Context) error { return u.tables.Close() })
			if u.keys, err = openKeys(ctx, u.tables, keyFile, mustExist); err != nil {
				return err
			}
			if u.sessions, err = session.NewManager(app.Get[session.Store](e), session.Config{Logger: e.Logger()}); err != nil {
				return err
			}
			cfg := u.cfg.For(e.Server())
			cfg.Keys, cfg.Logger, cfg.Sessions, cfg.Tables = u.keys, e.Logger(), u.sessions, u.tables
			u.accounts, err = login.New(cfg)
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
	if mustExist || d.Engine() != "sqlite" {
		if err := d.mustHaveTables(cmd.Context()); err != nil {
			return err
		}
	}
	if _, err := a.Start(cmd.Context()); err != nil {
		return err
	}
	return errors.Join(f(cmd.Context(), u), a.Stop(context.WithoutCancel(cmd.Context())))
}

// openKeys opens the keys of the app. Only for its first user does it make the file:
// what is counted under the keys of the app is not found under others.
func openKeys(ctx context.Context, tables *login.Tables, file string, mustExist bool) (*keyring.Ring, error) {
	if !mustExist {
		some, err := tables.List(ctx, "", 1)
		if err != nil {
			return nil, err
		}
		mustExist = len(some) > 0
	}
	if _, err := os.Stat(file); mustExist && errors.Is(err, fs.ErrNotExist) {
		return nil, app.WithHint(fmt.Errorf("there are no secret keys at %s", file),
			"the first start of the app and the first crumb users add make them; name the file of the app with the setting [keys] secret_key_file")
	}
	return keyring.Open(file)
}

// record writes what the operator did into the audit log.
func (u *users) record(ctx context.Context, e login.AuditEntry) error {
	return record(ctx, u.tables, e)
}

// settle follows the write of a users row: that is told at once, whether or not the
// sessions can be ended, and both are done although the operator interrupts.
func (u *users) settle(ctx context.Context, e login.AuditEntry) (ended int, err error) {
	ctx = context.WithoutCancel(ctx)
	recorded := u.record(ctx, e)
	ended, err = u.sessions.RevokeUser(ctx, e.UserID)
	if err != nil {
		err = app.WithHint(fmt.Errorf("the row of %q is written, but the sessions could not all be ended: %w", e.Name, err),
			"private routes take them no more; crumb sessions revoke --user "+e.UserID+" ends them")
	}
	return ended, errors.Join(err, recorded)
}

// find returns the user of this name.
func (u *users) find(ctx context.Context, name string) (*login.User, error) {
	canonical, err := login.Canonical(name)
	if err != nil {
		return nil, err
	}
	found, err := u.tables.ByName(ctx, canonical)
	if errors.Is(err, login.ErrNoUser) {
		return nil, app.WithHint(fmt.Errorf("there is no user %q", name), "crumb users list shows them")
	}
	return found, err
}

// oneName takes the name of a user as the only argument.
func oneName(cmd *cobra.Command, args []string) error {
	if len(args) != 1 || args[0] == "" {
		return usageError(fmt.Errorf("%s needs one name", strings.TrimPrefix(cmd.CommandPath(), "crumb ")), "crumb users list shows the names")
	}
	return nil
}

// onUser is a command that does something to the user it names.
func onUser(verb, short string, do func(ctx context.Context, u *users, found *login.User) (done string, err error)) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NAME", Short: short, Args: oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			return withUsers(cmd, func(ctx context.Context, u *users) error {
				found, err := u.find(ctx, args[0])
				if err != nil {
					return err
				}
				done, err := do(ctx, u, found)
				if done != "" {
					fmt.Fprintln(cmd.OutOrStdout(), done)
				}
				return err
			})
		},
	}
}

func addUserCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "add NAME",
		Short: "Add a user, with the password that is asked for",
		Long:  "Add a user. The password is asked for on a terminal; else it is the first line of the standard input.",
		Args:  oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			canonical, err := login.Canonical(args[0])
			if err != nil {
				return usageError(err, "letters, digits and most marks can be in a name; blanks cannot")
			}
			return openUsers(cmd, false, func(ctx context.Context, u *users) error {
				if _, err := u.tables.ByName(ctx, canonical); err == nil {
					return errTaken(args[0])
				}
				hash, err := u.askHash(cmd, args[0])
				if err != nil {
					return err
				}
				added, err := u.tables.Add(ctx, args[0], canonical, hash)
				if errors.Is(err, login.ErrNameTaken) {
					return errTaken(args[0])
				}
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "Added %s.\n", plain(added.Name))
				return u.record(ctx, login.AuditEntry{Event: login.AuditUserAdded, UserID: added.ID, Name: added.Name})
			})
		},
	}
}

func errTaken(name string) error {
	return app.WithHint(fmt.Errorf("there is a user %q already", name), "crumb users passwd sets another password")
}

func passwordCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "passwd NAME",
		Short: "Set a user's password and end their sessions",
		Long:  "Set a user's password and end their sessions. The password is asked for on a terminal; else it is the first line of the standard input.",
		Args:  oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			return withUsers(cmd, func(ctx context.Context, u *users) error {
				found, err := u.find(ctx, args[0])
				if err != nil {
					return err
				}
				hash, err := u.askHash(cmd, found.Name)
				if err != nil {
					return err
				}
				err = u.onRow(ctx, found, func(now *login.User) error {
					_, err := u.tables.SetPassword(ctx, now.ID, now.Generation, hash)
					return err
				})
				if err != nil {
					return err
				}
				n, err := u.settle(ctx, login.AuditEntry{Event: login.AuditPasswordChange, UserID: found.ID, Name: found.Name})
				fmt.Fprintf(cmd.OutOrStdout(), "Set the password of %s and ended %s.\n", plain(found.Name), plural(n))
				return err
			})
		},
	}
}

// onRow has do write the row of a user as it is now: what they, or whoever has
// their password, changed while the operator was asked does not stand in the way.
func (u *users) onRow(ctx context.Context, found *login.User, do func(now *login.User) error) error {
	for {
		now, err := u.tables.ByID(ctx, found.ID)
		if errors.Is(err, login.ErrNoUser) {
			return fmt.Errorf("%q was deleted meanwhile", found.Name)
		}
		if err == nil {
			err = do(now)
		}
		if !errors.Is(err, login.ErrChanged) {
			return err
		}
	}
}

// askHash asks for a new password and returns its hash. A password is never an
// argument, which others on the machine can read.
func (u *users) askHash(cmd *cobra.Command, name string) (string, error) {
	password, err := askPassword(cmd)
	if err != nil {
		return "", err
	}
	hash, err := login.HashPassword(password, u.cfg.MinPassword, name, u.cfg.AppName)
	if rule, ok := errors.AsType[*login.PasswordError](err); ok {
		hint := "a few words in a row make a good password"
		if rule.Rule == login.TooShort {
			hint = "that is [login] min_password; " + hint
		}
		return "", app.WithHint(err, hint)
	}
	return hash, err
}

func askPassword(cmd *cobra.Command) (string, error) {
	f, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		line, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), 64<<10)).ReadString('\n')
		if line == "" && err != nil {
			return "", usageError(errors.New("no password on the standard input"), "write it there, as one line")
		}
		return strings.TrimRight(line, "\r\n"), nil
	}
	var typed [2]string
	for i, prompt := range []string{"Password: ", "Once more: "} {
		fmt.Fprint(cmd.ErrOrStderr(), prompt)
		text, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(cmd.ErrOrStderr())
		if err != nil {
			return "", err
		}
		typed[i] = string(text)
	}
	if typed[0] != typed[1] {
		return "", errors.New("the two are not the same; nothing was changed")
	}
	return typed[0], nil
}

// disable writes the row first and ends the sessions second: a sign-in under way
// reads the row after it stored its session.
func disable(ctx context.Context, u *users, found *login.User) (string, error) {
	if _, err := u.tables.SetDisabled(ctx, found.ID, true); err != nil {
		return "", err
	}
	n, err := u.settle(ctx, login.AuditEntry{Event: login.AuditUserDisabled, UserID: found.ID, Name: found.Name})
	return fmt.Sprintf("Disabled %s and ended %s.", plain(found.Name), plural(n)), err
}

func enable(ctx context.Context, u *users, found *login.User) (string, error) {
	if _, err := u.tables.SetDisabled(ctx, found.ID, false); err != nil {
		return "", err
	}
	return fmt.Sprintf("Enabled %s.", plain(found.Name)),
		u.record(ctx, login.AuditEntry{Event: login.AuditUserEnabled, UserID: found.ID, Name: found.Name})
}

func unlock(ctx context.Context, u *users, found *login.User) (string, error) {
	canonical, err := login.Canonical(found.Name)
	if err != nil {
		return "", err
	}
	if err := u.tables.Unlock(ctx, u.keys, canonical); err != nil {
		return "", err
	}
	return fmt.Sprintf("Unlocked %s.", plain(found.Name)),
		u.record(ctx, login.AuditEntry{Event: login.AuditUserUnlocked, UserID: found.ID, Name: found.Name})
}

func resetLink(ctx context.Context, u *users, found *login.User) (string, error) {
	link, err := u.accounts.NewReset(ctx, found.Name)
	switch {
	case errors.Is(err, login.ErrNoLink):
		return "", app.WithHint(fmt.Errorf("%q gets no link: the user is disabled, or asked for one within the last minute", found.Name),
			"crumb users enable lets them in again")
	case err != nil:
		return "", app.WithHint(err, "set [server] public_url")
	}
	return link, nil
}

func deleteUserCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "delete NAME", Short: "Delete a user and end their sessions", Args: oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			return withUsers(cmd, func(ctx context.Context, u *users) error {
				found, err := u.find(ctx, args[0])
				if err != nil {
					return err
				}
				if !yes {
					if err := ask(cmd, fmt.Sprintf("Delete %s, for good?", plain(found.Name))); err != nil {
						return err
					}
				}
				err = u.onRow(ctx, found, func(now *login.User) error { return u.tables.Delete(ctx, now.ID, now.Generation) })
				if err != nil {
					return err
				}
				n, err := u.settle(ctx, login.AuditEntry{Event: login.AuditUserDeleted, UserID: found.ID, Name: found.Name})
				fmt.Fprintf(cmd.OutOrStdout(), "Deleted %s and ended %s.\n", plain(found.Name), plural(n))
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func listUsersCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the users, by name", Args: noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return withUsers(cmd, func(ctx context.Context, u *users) error {
				list, err := u.all(ctx)
				if err != nil {
					return err
				}
				if asJSON {
					out := []userJSON{}
					for _, one := range list {
						out = append(out, jsonUser(one))
					}
					return writeJSON(cmd.OutOrStdout(), out)
				}
				if len(list) == 0 {
					fmt.Fprintln(cmd.ErrOrStderr(), "No users.")
					return nil
				}
				now := time.Now()
				tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
				fmt.Fprintln(tw, "NAME\tID\tSTATE\tCREATED\tSIGNED IN")
				for _, one := range list {
					fmt.Fprintf(tw, "%s\t%s\t%s\t%s ago\t%s\n", plain(one.Name), plain(one.ID), standing(one), span(now.Sub(one.Created)), lastIn(now, one))
				}
				return tw.Flush()
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

func (u *users) all(ctx context.Context) (list []*login.User, err error) {
	after := ""
	for {
		page, err := u.tables.List(ctx, after, pageSize)
		if err != nil {
			return nil, err
		}
		list = append(list, page...)
		if len(page) < pageSize {
			return list, nil
		}
		if after, err = login.Canonical(page[len(page)-1].Name); err != nil {
			return nil, err
		}
	}
}

func standing(u *login.User) string {
	switch {
	case u.Disabled:
		return "disabled"
	case u.Hash == "":
		return "no password"
	}
	return "active"
}

func lastIn(now time.Time, u *login.User) string {
	if u.SignedIn.IsZero() {
		return "never"
	}
	return span(now.Sub(u.SignedIn)) + " ago"
}

// A userJSON is a user as the command prints it.
type userJSON struct {
	ID       string     `json:"id"`
	Name     string     `json:"name"`
	State    string     `json:"state"`
	Created  time.Time  `json:"created"`
	Changed  time.Time  `json:"changed"`
	SignedIn *time.Time `json:"signed_in,omitempty"`
}

func jsonUser(u *login.User) userJSON {
	out := userJSON{ID: u.ID, Name: u.Name, State: standing(u), Created: u.Created, Changed: u.Changed}
	if !u.SignedIn.IsZero() {
		out.SignedIn = &u.SignedIn
	}
	return out
}
