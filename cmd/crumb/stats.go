package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/crumb-go/crumb/track"
)

func statsCommand() *cobra.Command {
	var asJSON, bots bool
	var zone zoneFlag
	var date string
	var days, limit int
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Show the numbers of today beside those of yesterday",
		Long: "Show the numbers of a day, or of several with --days, beside those of the same time before: visitors, visits,\n" +
			"views and events, the pages people saw, came to first and left from, and what they came with.",
		Args: func(cmd *cobra.Command, args []string) error {
			if days < 1 || days > 366 || limit < 1 {
				return usageError(errors.New("--days is 1 to 366, and --limit at least 1"), "crumb stats --days 7")
			}
			return noArgs(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			loc, err := zone.location()
			if err != nil {
				return err
			}
			span, err := dayOf(date, time.Now(), loc)
			if err != nil {
				return err
			}
			span.From, span.Bots = span.From.AddDate(0, 0, 1-days), bots
			return withTracking(cmd, func(ctx context.Context, t *tracking) error {
				s, err := statsOf(ctx, t.tables, span, loc, limit)
				if err != nil {
					return err
				}
				if asJSON {
					return writeJSON(cmd.OutOrStdout(), s)
				}
				return s.print(cmd.OutOrStdout(), days, loc)
			})
		},
	}
	settingFlags(cmd)
	zone.add(cmd)
	cmd.Flags().StringVar(&date, "day", "", "the last day, such as 2026-11-22 (default today)")
	cmd.Flags().IntVar(&days, "days", 1, "so many days")
	cmd.Flags().IntVar(&limit, "limit", 10, "lines of each ranking")
	cmd.Flags().BoolVar(&bots, "bots", false, "count bots too")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// stats are the answers that the command shows.
type stats struct {
	From      time.Time     `json:"from"`
	To        time.Time     `json:"to"`
	Now       track.Totals  `json:"now"`
	Before    track.Totals  `json:"before"`
	Series    []track.Point `json:"series"` // by hour of one day, else by day
	Routes    []track.Count `json:"routes"`
	Referrers []track.Count `json:"referrers"`
	Landings  []track.Count `json:"landings"`
	Exits     []track.Count `json:"exits"`
	Events    []track.Count `json:"events"`
	Devices   track.Devices `json:"devices"`

	before []track.Point
}

func statsOf(ctx context.Context, tables *track.Tables, span track.Span, zone *time.Location, limit int) (s *stats, err error) {
	s = &stats{From: span.From, To: span.To}
	before := span.Before(zone)
	step := track.Hours
	if span.To.Sub(span.From) > 26*time.Hour {
		step = track.Days
	}
	for _, ask := range []func() error{
		func() (err error) { s.Now, err = tables.Totals(ctx, span); return err },
		func() (err error) { s.Before, err = tables.Totals(ctx, before); return err },
		func() (err error) { s.Series, err = tables.Series(ctx, span, step, zone); return err },
		func() (err error) { s.before, err = tables.Series(ctx, before, step, zone); return err },
		func() (err error) { s.Routes, err = tables.Top(ctx, span, track.Routes, limit, 0); return err },
		func() (err error) { s.Referrers, err = tables.Top(ctx, span, track.Referrers, limit, 0); return err },
		func() (err error) { s.Landings, err = tables.Top(ctx, span, track.Landings, limit, 0); return err },
		func() (err error) { s.Exits, err = tables.Top(ctx, span, track.Exits, limit, 0); return err },
		func() (err error) { s.Events, err = tables.Top(ctx, span, track.Events, limit, 0); return err },
		func() (err error) { s.Devices, err = tables.Devices(ctx, span); return err },
	} {
		if err := ask(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *stats) print(w io.Writer, days int, zone *time.Location) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	name, then := s.From.Format("Mon 2 Jan 2006"), "day before"
	if days > 1 {
		name, then = fmt.Sprintf("%d days to %s", days, s.To.Add(-time.Second).In(zone).Format("Mon 2 Jan 2006")), "days before"
	}
	fmt.Fprintf(w, "%s, %s\n\n", name, s.From.Format("MST"))
	fmt.Fprintf(tw, "\tnow\t%s\t\t\n", then)
	for _, line := range []struct {
		name        string
		now, before int64
	}{
		{"visitors", s.Now.Visitors, s.Before.Visitors}, {"visits", s.Now.Visits, s.Before.Visits},
		{"views", s.Now.Views, s.Before.Views}, {"events", s.Now.Events, s.Before.Events},
	} {
		fmt.Fprintf(tw, "%s\t%d\t%d\t%s\t\n", line.name, line.now, line.before, change(line.now, line.before))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nviews  %s  now\n       %s  %s\n", sparkline(s.Series, s.before), sparkline(s.before, s.Series), then)
	for _, ranking := range []struct {
		title string
		list  []track.Count
	}{
		{"pages, by views", s.Routes}, {"came from, by views", s.Referrers}, {"came to first, by visits", s.Landings}, {"left from, by visits", s.Exits},
		{"events", s.Events}, {"browsers, by visitors", s.Devices.Browsers}, {"systems", s.Devices.Systems}, {"kinds of devices", s.Devices.Kinds},
	} {
		if err := printRanking(w, ranking.title, ranking.list); err != nil {
			return err
		}
	}
	return nil
}

// change tells how much more now is than before.
func change(now, before int64) string {
	if before == 0 {
		return ""
	}
	return fmt.Sprintf("%+.0f%%", 100*float64(now-before)/float64(before))
}

// sparkline draws the views of points, one character each, on a scale that beside
// fits too.
func sparkline(points, beside []track.Point) string {
	var most int64
	for _, list := range [][]track.Point{points, beside} {
		for _, p := range list {
			most = max(most, p.Views)
		}
	}
	const steps = "▁▂▃▄▅▆▇█"
	chars := []rune(steps)
	var b strings.Builder
	for _, p := range points {
		if p.Views == 0 {
			b.WriteRune('·')
			continue
		}
		b.WriteRune(chars[(p.Views*int64(len(chars))-1)/most])
	}
	return b.String()
}

const barWidth = 24

func printRanking(w io.Writer, title string, list []track.Count) error {
	if len(list) == 0 {
		return nil
	}
	fmt.Fprintf(w, "\n%s\n", title)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, c := range list {
		bar := int((c.N*barWidth + list[0].N - 1) / list[0].N)
		fmt.Fprintf(tw, "  %s\t%d\t%s\n", cut(plain(c.Name), 60), c.N, strings.Repeat("█", bar))
	}
	return tw.Flush()
}
