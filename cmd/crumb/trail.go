package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/track"
)

// A zoneFlag is the time zone that days and hours are of.
type zoneFlag struct{ name string }

func (z *zoneFlag) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&z.name, "zone", "", "time zone, such as Europe/Zurich (default that of this machine)")
}

func (z *zoneFlag) location() (*time.Location, error) {
	if z.name == "" {
		return time.Local, nil
	}
	loc, err := time.LoadLocation(z.name)
	if err != nil {
		return nil, usageError(fmt.Errorf("there is no time zone %q", z.name), "write it like Europe/Zurich or UTC")
	}
	return loc, nil
}

// dayOf returns the day that text names, 2026-11-22, or that of now.
func dayOf(text string, now time.Time, zone *time.Location) (track.Span, error) {
	if text == "" {
		return track.Day(now, zone), nil
	}
	at, err := time.ParseInLocation(time.DateOnly, text, zone)
	if err != nil {
		return track.Span{}, usageError(fmt.Errorf("%q is no day", text), "write it like "+now.In(zone).Format(time.DateOnly))
	}
	return track.Day(at, zone), nil
}

func trailCommand() *cobra.Command {
	var asJSON bool
	var zone zoneFlag
	var date string
	cmd := &cobra.Command{
		Use:   "trail ID",
		Short: "Show what one visitor did, by day",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError(errors.New("trail needs one ID"), "crumb top and crumb sessions list show the IDs")
			}
			return checkIDs(args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			loc, err := zone.location()
			if err != nil {
				return err
			}
			span := track.Span{From: time.Unix(0, 0), To: time.Now().Add(24 * time.Hour)}
			if date != "" {
				if span, err = dayOf(date, time.Now(), loc); err != nil {
					return err
				}
			}
			return withTracking(cmd, func(ctx context.Context, t *tracking) error {
				id := session.ID(args[0])
				v, err := t.tables.Visitor(ctx, id)
				if errors.Is(err, track.ErrNotFound) {
					return app.WithHint(fmt.Errorf("nothing is known about a visitor %s", id), "crumb top and crumb sessions list show the IDs")
				}
				if err != nil {
					return err
				}
				entries, err := wholeTrail(ctx, t.tables, id, span)
				if err != nil {
					return err
				}
				days := track.ByDay(entries, loc)
				if asJSON {
					return writeJSON(cmd.OutOrStdout(), struct {
						Visitor track.Visitor    `json:"visitor"`
						Days    []track.TrailDay `json:"days"`
					}{v, days})
				}
				return showTrail(cmd.OutOrStdout(), v, days, loc)
			})
		},
	}
	settingFlags(cmd)
	zone.add(cmd)
	cmd.Flags().StringVar(&date, "day", "", "only this day, such as 2026-11-22")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func wholeTrail(ctx context.Context, tables *track.Tables, id session.ID, span track.Span) (all []track.Entry, err error) {
	for from := span.From; ; {
		page, err := tables.Trail(ctx, id, from, span.To, pageSize)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if len(page) < pageSize {
			return all, nil
		}
		from = page[len(page)-1].Time.Add(time.Microsecond)
	}
}

func showTrail(w io.Writer, v track.Visitor, days []track.TrailDay, zone *time.Location) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, value string) { fmt.Fprintf(tw, "%s\t%s\n", name, value) }
	row("visitor", plain(string(v.ID)))
	if v.User != "" {
		row("user", plain(v.User))
	}
	row("first", v.First.In(zone).Format(stampFormat))
	row("seen", v.Seen.In(zone).Format(stampFormat))
	row("requests", fmt.Sprint(v.Requests))
	row("with", plain(fmt.Sprintf("%s on %s, %s", v.Browser, v.System, v.Device)))
	row("language", plain(v.Language))
	row("address", plain(v.FirstAddr))
	if v.LastAddr != v.FirstAddr {
		row("now from", plain(v.LastAddr))
	}
	if v.Referrer != "" {
		row("came from", plain(v.Referrer))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, day := range days {
		fmt.Fprintf(tw, "\n%s\n", day.Date)
		for _, e := range day.Entries {
			fmt.Fprintf(tw, "  %s\t%s\n", e.Time.In(zone).Format("15:04:05"), entryText(e))
		}
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	return nil
}

const stampFormat = "2006-01-02 15:04:05 MST"

func entryText(e track.Entry) string {
	if e.Event != "" {
		text := "event\t" + plain(e.Event) + "\t\t"
		if len(e.Attrs) > 0 {
			text += "\t" + plain(string(e.Attrs))
		}
		return text
	}
	route := plain(e.Route)
	if e.Values != "" {
		route += " (" + plain(e.Values) + ")"
	}
	text := fmt.Sprintf("%s\t%s\t%d\t%s", plain(e.Method), route, e.Status, took(e.Took))
	if e.Referrer != "" {
		text += "\tfrom " + plain(e.Referrer)
	}
	return text
}

func took(d time.Duration) string {
	if d < time.Millisecond {
		return fmt.Sprintf("%dµs", d.Microseconds())
	}
	return d.Round(time.Millisecond).String()
}
