package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/crumb-go/crumb/login"
	"github.com/crumb-go/crumb/modules"
)

func auditCommand() *cobra.Command {
	var user string
	var limit int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Show who signed in and what was done to accounts, newest first",
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case cmd.Flags().Changed("user") && user == "":
				return usageError(errors.New("--user is empty"), "leave it out to see everybody's entries")
			case limit < 0:
				return usageError(errors.New("--limit is negative"), "0 shows them all")
			}
			return noArgs(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return withUsers(cmd, func(ctx context.Context, u *users) error {
				q := login.AuditQuery{}
				if user != "" {
					found, err := u.find(ctx, user)
					if err != nil {
						return err
					}
					q.UserID = found.ID
				}
				list, err := u.auditLog(ctx, q, limit)
				if err != nil {
					return err
				}
				if asJSON {
					out := []auditJSON{}
					for _, e := range list {
						out = append(out, jsonEntry(e))
					}
					return writeJSON(cmd.OutOrStdout(), out)
				}
				if len(list) == 0 {
					fmt.Fprintln(cmd.ErrOrStderr(), "No entries.")
					return nil
				}
				tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
				fmt.Fprintln(tw, "TIME\tEVENT\tRESULT\tUSER\tBY\tADDRESS\tSESSION\tAGENT\tDETAIL")
				for _, e := range list {
					fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", stamp(e.Time), plain(e.Event), plain(e.Result), plain(cmp.Or(e.Name, e.UserID)),
						plain(e.Actor), address(e.Addr), plain(string(e.Session)), cut(plain(e.Agent), 40), plain(e.Detail))
				}
				return tw.Flush()
			})
		},
	}
	settingFlags(cmd)
	cmd.Flags().StringVar(&user, "user", "", "only what is about the user of this name")
	cmd.Flags().IntVar(&limit, "limit", 100, "at most so many; 0 is all")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

// openAudit opens the tables with the audit log of the app, or returns nil if it
// keeps none, having no login. It creates nothing.
func openAudit(cmd *cobra.Command) (*login.Tables, error) {
	a, err := settings(cmd, modules.Login)
	if err != nil {
		return nil, err
	}
	db, _ := a.Config(modules.Database.Name).(modules.DatabaseConfig)
	cfg, _ := a.Config(modules.Login.Name).(modules.LoginConfig)
	db = cfg.Database(db)
	e := engines[db.Engine()]
	if e == nil {
		return nil, nil
	}
	url, err := db.Address()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), modules.OpenTimeout)
	defer cancel()
	if _, err := e.status(ctx, url, db.TablePrefix); errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a file, which login.Status would make
	}
	version, err := login.Status(ctx, url, login.TablesConfig{TablePrefix: db.TablePrefix})
	if err != nil || version == 0 {
		return nil, err
	}
	return cfg.OpenTables(ctx, db, warnings(cmd))
}

// record writes what an operator did into the audit log, if there is one.
func record(ctx context.Context, tables *login.Tables, e login.AuditEntry) error {
	if tables == nil {
		return nil
	}
	e.Actor, e.Result, e.Time = "operator", login.AuditOK, time.Now()
	return notRecorded(tables.Record(context.WithoutCancel(ctx), e))
}

func notRecorded(err error) error {
	if err != nil {
		return fmt.Errorf("it is done, and not in the audit log: %w", err)
	}
	return nil
}

// auditLog returns at most limit entries, or all if that is 0.
func (u *users) auditLog(ctx context.Context, q login.AuditQuery, limit int) (list []login.AuditEntry, err error) {
	for {
		q.Limit = pageSize
		if limit > 0 {
			q.Limit = min(pageSize, limit-len(list))
		}
		page, err := u.tables.Audit(ctx, q)
		if err != nil {
			return nil, err
		}
		list = append(list, page...)
		if len(page) < q.Limit || len(list) == limit {
			return list, nil
		}
		q.Before = page[len(page)-1].ID
	}
}

// An auditJSON is an entry as the command prints it.
type auditJSON struct {
	ID      int64     `json:"id"`
	Time    time.Time `json:"time"`
	Event   string    `json:"event"`
	Result  string    `json:"result"`
	UserID  string    `json:"user_id,omitempty"`
	Name    string    `json:"name,omitempty"`
	By      string    `json:"by,omitempty"`
	Addr    string    `json:"addr,omitempty"`
	Agent   string    `json:"agent,omitempty"`
	Session string    `json:"session,omitempty"`
	Detail  string    `json:"detail,omitempty"`
}

func jsonEntry(e login.AuditEntry) auditJSON {
	out := auditJSON{ID: e.ID, Time: e.Time, Event: e.Event, Result: e.Result, UserID: e.UserID, Name: e.Name, By: e.Actor,
		Agent: e.Agent, Session: string(e.Session), Detail: e.Detail}
	if e.Addr.IsValid() {
		out.Addr = e.Addr.String()
	}
	return out
}
