package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/session"
)

const (
	// sweepBatch is how many sessions are removed at once; between two batches
	// those who serve get their turn.
	sweepBatch = 500
	// keepExpired is how long an expired session stays: a process whose clock
	// differs may still serve it.
	keepExpired = time.Hour
)

func sweepCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "sweep",
		Short: "Remove the sessions that expired or ended over an hour ago",
		Long: "Remove the sessions that expired or ended over an hour ago.\n" +
			"Those who serve do so by themselves, every few minutes; this is for a database that nobody serves.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return withSessions(cmd, func(ctx context.Context, _ *session.Manager, st session.Store) error {
				sweeper, ok := st.(session.Sweeper)
				if !ok {
					return app.WithHint(errors.New("this database removes what expired by itself"), "there is nothing to do")
				}
				n, err := sweep(ctx, sweeper, time.Now().Add(-keepExpired))
				if asJSON {
					return errors.Join(writeJSON(cmd.OutOrStdout(), map[string]int{"removed": n}), err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "Removed %s.\n", plural(n))
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// sweep returns how many sessions it removed, also beside an error.
func sweep(ctx context.Context, sweeper session.Sweeper, then time.Time) (total int, err error) {
	for {
		n, err := sweeper.Sweep(ctx, then, sweepBatch)
		total += n
		if err != nil || n < sweepBatch {
			return total, err
		}
	}
}
