package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/crumb-go/crumb/track"
)

func topCommand() *cobra.Command {
	var asJSON bool
	var limit int
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show who is here now, and on which page",
		Long: "Show who is here now, and on which page: the visitors of the last five minutes, the latest first.\n" +
			"On a terminal it goes on until Ctrl-C; elsewhere, and with --json, it prints once.",
		Args: func(cmd *cobra.Command, args []string) error {
			if limit < 1 {
				return usageError(errors.New("--limit is less than 1"), "leave it out for a screen full")
			}
			return noArgs(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return withTracking(cmd, func(ctx context.Context, t *tracking) error {
				if asJSON {
					live, err := t.tables.Live(ctx, time.Now(), limit, nil)
					if err != nil {
						return err
					}
					return writeJSON(cmd.OutOrStdout(), live)
				}
				if f, ok := cmd.OutOrStdout().(*os.File); ok && term.IsTerminal(int(f.Fd())) {
					return followTop(ctx, f, t.tables, limit)
				}
				return printTop(ctx, cmd.OutOrStdout(), t.tables, limit, 0)
			})
		},
	}
	settingFlags(cmd)
	cmd.Flags().IntVar(&limit, "limit", 50, "at most so many visitors")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

const (
	topInterval = time.Second
	topHeader   = 4 // lines above the visitors, and the one the cursor is on

	clearScreen = "\x1b[H\x1b[2J"
	hideCursor  = "\x1b[?25l"
	showCursor  = "\x1b[?25h"
)

// followTop draws the screen again and again until ctx ends.
func followTop(ctx context.Context, f *os.File, tables *track.Tables, limit int) error {
	io.WriteString(f, hideCursor)
	defer io.WriteString(f, showCursor)
	tick := time.NewTicker(topInterval)
	defer tick.Stop()
	for {
		width, height, err := term.GetSize(int(f.Fd()))
		if err != nil {
			width, height = 80, 24
		}
		var screen bytes.Buffer
		screen.WriteString(clearScreen)
		if err := printTop(ctx, &screen, tables, min(limit, max(1, height-topHeader)), width); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if _, err := f.Write(screen.Bytes()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// printTop prints who is here, in lines of at most width characters unless that is
// 0.
func printTop(ctx context.Context, w io.Writer, tables *track.Tables, limit, width int) error {
	now := time.Now()
	live, err := tables.Live(ctx, now, limit, nil)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s here now, %s signed in, %s\n\n", numbered(live.Visitors, "visitor"), numbered(live.Users, "user"), numbered(live.Bots, "bot"))
	tw := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	if len(live.Present) > 0 {
		fmt.Fprintln(tw, "ID\tUSER\tSEEN\tPAGE")
	}
	for _, p := range live.Present {
		page := plain(p.Page)
		if p.Bot {
			page += " (bot)"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s ago\t%s\n", plain(string(p.ID)), cut(plain(p.User), 30), span(now.Sub(p.Seen)), page)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for line := range bytes.Lines(out.Bytes()) {
		if width > 0 {
			line = append([]byte(cut(string(bytes.TrimSuffix(line, []byte("\n"))), width)), '\n')
		}
		if _, err := w.Write(line); err != nil {
			return err
		}
	}
	return nil
}
