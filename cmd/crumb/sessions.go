package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/login"
	"github.com/crumb-go/crumb/session"
)

func sessionsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "sessions", Short: "List, show, follow and end sessions"}
	settingFlags(cmd)
	onlySubcommands(cmd)
	cmd.AddCommand(listCommand(), showCommand(), revokeCommand(), sweepCommand(), tailCommand())
	return cmd
}

func listCommand() *cobra.Command {
	var user string
	var limit int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the sessions that live, newest first",
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case cmd.Flags().Changed("user") && user == "":
				return usageError(errors.New("--user is empty"), "leave it out to list everybody's sessions")
			case limit < 0:
				return usageError(errors.New("--limit is negative"), "leave it out to list them all")
			}
			return noArgs(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return withSessions(cmd, func(ctx context.Context, m *session.Manager, _ session.Store) error {
				q := session.Query{User: user, All: user == "", Limit: pageSize}
				if limit > 0 {
					q.Limit = min(limit, pageSize)
				}
				if asJSON {
					return listJSON(ctx, cmd.OutOrStdout(), m, q, limit)
				}
				return listTable(ctx, cmd.OutOrStdout(), cmd.ErrOrStderr(), m, q, limit)
			})
		},
	}
	cmd.Flags().StringVar(&user, "user", "", "only the sessions of this user")
	cmd.Flags().IntVar(&limit, "limit", 0, "at most so many; 0 is all")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

// pageSize is how many sessions are read at once, and how many rows are held back
// to line up their columns.
const pageSize = 1000

func listTable(ctx context.Context, stdout, stderr io.Writer, m *session.Manager, q session.Query, limit int) error {
	now := time.Now()
	tw := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	n := 0
	for in, err := range m.List(ctx, q) {
		if err != nil {
			return errors.Join(err, tw.Flush())
		}
		if n == 0 {
			fmt.Fprintln(tw, "ID\tUSER\tCLASS\tCREATED\tSEEN\tEXPIRES\tADDRESS\tAGENT")
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s ago\t%s ago\tin %s\t%s\t%s\n", in.ID, plain(in.User), class(in), span(now.Sub(in.Created)),
			span(now.Sub(in.Seen)), span(nearest(in.Expires.Sub(now))), address(in.Addr), cut(plain(in.Agent), 60))
		if n++; n == limit {
			break
		}
		if n%pageSize == 0 {
			if err := tw.Flush(); err != nil {
				return err
			}
		}
	}
	if n == 0 {
		fmt.Fprintln(stderr, "No sessions.")
	}
	return tw.Flush()
}

func listJSON(ctx context.Context, stdout io.Writer, m *session.Manager, q session.Query, limit int) error {
	w := bufio.NewWriter(stdout)
	n := 0
	for in, err := range m.List(ctx, q) {
		if err != nil {
			return err
		}
		text, err := marshal(jsonInfo(in), "")
		if err != nil {
			return err
		}
		sep := ",\n"
		if n == 0 {
			sep = "[\n"
		}
		w.WriteString(sep)
		w.Write(text)
		if n++; n == limit {
			break
		}
	}
	if n == 0 {
		w.WriteString("[")
	}
	w.WriteString("\n]\n")
	return w.Flush()
}

// A sessionJSON is a session as the command prints it.
type sessionJSON struct {
	ID       session.ID     `json:"id"`
	User     string         `json:"user"`
	Class    string         `json:"class"`
	Created  time.Time      `json:"created"`
	Seen     time.Time      `json:"seen"`
	Expires  time.Time      `json:"expires"`
	SignedIn *time.Time     `json:"signed_in,omitempty"`
	Addr     string         `json:"addr"`
	Agent    string         `json:"agent"`
	Values   map[string]any `json:"values,omitempty"`
}

func jsonInfo(in session.Info) sessionJSON {
	out := sessionJSON{ID: in.ID, User: in.User, Class: class(in), Created: in.Created, Seen: in.Seen, Expires: in.Expires, Agent: in.Agent}
	if in.Addr.IsValid() {
		out.Addr = in.Addr.String()
	}
	if !in.SignedIn.IsZero() {
		out.SignedIn = &in.SignedIn
	}
	return out
}

func showCommand() *cobra.Command {
	var asJSON, values bool
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show one session and the names of what it holds",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError(errors.New("sessions show needs one ID"), "crumb sessions list shows the IDs")
			}
			return checkIDs(args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return withSessions(cmd, func(ctx context.Context, _ *session.Manager, st session.Store) error {
				rec, err := st.Load(ctx, session.ID(args[0]))
				if err == nil && !rec.Live(time.Now()) {
					err = session.ErrNotFound
				}
				if errors.Is(err, session.ErrNotFound) {
					return app.WithHint(fmt.Errorf("no session %s lives", args[0]), "crumb sessions list shows those that do")
				}
				if err != nil {
					return err
				}
				if asJSON {
					out := jsonInfo(rec.Info)
					out.Values = map[string]any{}
					for _, v := range rec.Values {
						out.Values[v.Key] = len(v.JSON)
						if values {
							out.Values[v.Key] = v.JSON
						}
					}
					return writeJSON(cmd.OutOrStdout(), out)
				}
				return showTable(cmd.OutOrStdout(), rec.Info, rec.Values, values)
			})
		},
	}
	cmd.Flags().BoolVar(&values, "values", false, "show the values too, not only how long they are; they are the visitor's")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func showTable(w io.Writer, in session.Info, vs session.Values, values bool) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, value string) { fmt.Fprintf(tw, "%s\t%s\n", name, value) }
	row("ID", string(in.ID))
	if in.User != "" {
		row("user", plain(in.User))
		row("signed in", stamp(in.SignedIn))
	}
	row("class", class(in))
	row("created", stamp(in.Created))
	row("seen", stamp(in.Seen))
	row("expires", stamp(in.Expires))
	row("address", address(in.Addr))
	row("agent", plain(in.Agent))
	for _, v := range vs {
		text := numbered(len(v.JSON), "byte")
		if values {
			text = plain(string(v.JSON))
		}
		row("  "+plain(v.Key), text)
	}
	return tw.Flush()
}

func revokeCommand() *cobra.Command {
	var user string
	var all, yes bool
	cmd := &cobra.Command{
		Use:   "revoke {ID… | --user USER | --all}",
		Short: "End sessions: those named, all of a user, or everybody's",
		Long: "End sessions: those named, all of a user, or everybody's that exist now.\n" +
			"It says how many and asks, unless --yes. When it returns, no request that begins later is served with them.",
		Args: func(cmd *cobra.Command, args []string) error {
			ways := 0
			for _, chosen := range []bool{len(args) > 0, cmd.Flags().Changed("user"), all} {
				if chosen {
					ways++
				}
			}
			if ways != 1 || cmd.Flags().Changed("user") && user == "" {
				return usageError(errors.New("sessions revoke needs either IDs, --user USER or --all"), "crumb sessions list shows IDs and users")
			}
			return checkIDs(args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			slices.Sort(args)
			args = slices.Compact(args)
			return withSessions(cmd, func(ctx context.Context, m *session.Manager, _ session.Store) error {
				live, err := count(ctx, m, user, args)
				if err != nil {
					return err
				}
				if live == 0 {
					fmt.Fprintln(cmd.ErrOrStderr(), "No such session lives; there is nothing to end.")
					return nil
				}
				if !yes {
					if err := ask(cmd, fmt.Sprintf("End %s?", plural(live))); err != nil {
						return err
					}
				}
				n, ended, err := revoke(ctx, m, user, args)
				fmt.Fprintf(cmd.OutOrStdout(), "Ended %s.\n", plural(n))
				return errors.Join(err, recordRevoked(cmd, ended))
			})
		},
	}
	cmd.Flags().StringVar(&user, "user", "", "end all sessions of this user")
	cmd.Flags().BoolVar(&all, "all", false, "end everybody's sessions")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// checkIDs refuses what is no ID, without repeating it: it may be a token.
func checkIDs(args []string) error {
	for _, id := range args {
		if !idFormat.MatchString(id) {
			return usageError(errors.New("that is no ID of a session, which has 16 letters, digits, - and _"),
				"crumb sessions list shows the IDs; that of a cookie is its first 16 characters")
		}
	}
	return nil
}

var idFormat = regexp.MustCompile(`^[A-Za-z0-9_-]{16}$`)

// count returns how many sessions revoke would end.
func count(ctx context.Context, m *session.Manager, user string, ids []string) (n int, err error) {
	for _, id := range ids {
		_, err := m.Info(ctx, session.ID(id))
		if err != nil && !errors.Is(err, session.ErrNotFound) {
			return n, err
		}
		if err == nil {
			n++
		}
	}
	if len(ids) > 0 {
		return n, nil
	}
	for _, err := range m.List(ctx, session.Query{User: user, All: user == "", Limit: pageSize}) {
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// revoke ends sessions and returns how many, and what the audit log should say.
func revoke(ctx context.Context, m *session.Manager, user string, ids []string) (n int, ended []login.AuditEntry, err error) {
	if len(ids) == 0 {
		if user != "" {
			n, err = m.RevokeUser(ctx, user)
		} else {
			n, err = m.RevokeAll(ctx)
		}
		if n > 0 {
			ended = append(ended, login.AuditEntry{UserID: user, Detail: "all: " + plural(n)})
		}
		return n, ended, err
	}
	for _, id := range ids {
		in, err := m.Info(ctx, session.ID(id))
		if errors.Is(err, session.ErrNotFound) {
			continue
		}
		if err := m.Revoke(ctx, session.ID(id)); err != nil {
			return n, ended, err
		}
		ended = append(ended, login.AuditEntry{UserID: in.User, Detail: "session " + id})
		n++
	}
	return n, ended, nil
}

// recordRevoked writes into the audit log which sessions were ended, where there is
// one. A log that cannot be opened keeps no session alive: they are ended before.
func recordRevoked(cmd *cobra.Command, ended []login.AuditEntry) error {
	if len(ended) == 0 {
		return nil
	}
	tables, err := openAudit(cmd)
	if err != nil || tables == nil {
		return notRecorded(err)
	}
	defer tables.Close()
	for _, e := range ended {
		e.Event = login.AuditSessionRevoked
		if u, err := tables.ByID(context.WithoutCancel(cmd.Context()), e.UserID); err == nil {
			e.Name = u.Name
		}
		if err := record(cmd.Context(), tables, e); err != nil {
			return err
		}
	}
	return nil
}

// ask returns nil if the answer is yes.
func ask(cmd *cobra.Command, question string) error {
	if f, ok := cmd.InOrStdin().(*os.File); ok && !term.IsTerminal(int(f.Fd())) {
		return usageError(errors.New("nobody is there to confirm"), "add --yes to end them without asking")
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s [y/N] ", question)
	answer := make(chan string, 1)
	go func() { // outlived by the process if a signal comes first
		line, _ := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case <-cmd.Context().Done():
		fmt.Fprintln(cmd.ErrOrStderr())
	case a := <-answer:
		if a == "y" || a == "yes" {
			return nil
		}
	}
	return errors.New("not confirmed; nothing was ended")
}

func plural(n int) string { return numbered(n, "session") }

// numbered returns n of a thing, such as "1 byte" and "2 bytes".
func numbered(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func class(in session.Info) string {
	switch {
	case in.User == "":
		return "visitor"
	case in.Remember:
		return "remember"
	}
	return "signed in"
}

func address(a netip.Addr) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}

func stamp(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") }

// span prints a duration in its largest unit.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Second:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 2*day:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/day)
}

// nearest rounds d to the unit in which span prints it: what ends in 29 days and
// 23 hours ends in 30 days.
func nearest(d time.Duration) time.Duration {
	const day = 24 * time.Hour
	for _, unit := range []struct{ below, unit time.Duration }{{time.Minute, time.Second}, {time.Hour, time.Minute}, {2 * day, time.Hour}} {
		if d < unit.below {
			return d.Round(unit.unit)
		}
	}
	return d.Round(day)
}

// plain returns s with every character escaped that could move the cursor,
// reorder the line or hide: names and agents come from strangers.
func plain(s string) string {
	if s == "" {
		return "-"
	}
	var b strings.Builder
	for _, c := range s {
		if shown(c) {
			b.WriteRune(c)
		} else {
			b.WriteString(escape(c))
		}
	}
	return b.String()
}

func shown(c rune) bool {
	return c == ' ' || unicode.IsGraphic(c) && !unicode.Is(unicode.Zs, c)
}

// escape writes c as JSON does.
func escape(c rune) string {
	if r1, r2 := utf16.EncodeRune(c); r1 != unicode.ReplacementChar {
		return fmt.Sprintf("\\u%04x\\u%04x", r1, r2)
	}
	return fmt.Sprintf("\\u%04x", c)
}

func cut(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
