package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/modules"
)

func configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Show the settings"}
	var asJSON bool
	show := &cobra.Command{
		Use:   "show",
		Short: "Show every setting, its value and where it comes from",
		Long: "Show every setting, its value and where it comes from.\nPasswords and secrets are not shown. " +
			"What is not Crumb's own is listed on the standard error.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := settings(cmd, modules.Login, modules.Track)
			if err != nil {
				return err
			}
			list := withDerived(a)
			for _, o := range a.Others() {
				text := o.Source + ": not Crumb's own: " + o.Name
				if o.Near != "" {
					text += "; did you mean " + o.Near + "?"
				}
				fmt.Fprintln(cmd.ErrOrStderr(), plain(text))
			}
			if asJSON {
				out := []settingJSON{}
				for _, s := range list {
					out = append(out, settingJSON{s.Table + "." + s.Key, s.Value, s.Source})
				}
				return writeJSON(cmd.OutOrStdout(), out)
			}
			tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(tw, "SETTING\tVALUE\tFROM")
			for _, s := range list {
				fmt.Fprintf(tw, "%s.%s\t%s\t%s\n", s.Table, s.Key, plain(s.Value), plain(s.Source))
			}
			return tw.Flush()
		},
	}
	settingFlags(cmd)
	onlySubcommands(cmd)
	show.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.AddCommand(show)
	return cmd
}

// withDerived returns the settings of a, with the values that package session
// derives from others where nobody set one.
func withDerived(a *app.App) []app.Setting {
	list := a.Settings()
	raw, _ := a.Config(modules.Session.Name).(modules.SessionConfig).For(a.Server())
	cfg, err := raw.WithDefaults()
	if err != nil {
		return list // crumb check says what is wrong with it
	}
	derived := map[string]string{
		"cookie_name":    cfg.CookieName,
		"first_visit":    short(cfg.FirstVisit),
		"touch_interval": short(cfg.TouchInterval),
	}
	for i, s := range list {
		if value := derived[s.Key]; s.Table == modules.Session.Name && value != "" && (s.Value == "" || s.Value == "0s") {
			list[i].Value, list[i].Source = value, "derived"
		}
	}
	return list
}

// short is d without the zeros at its end.
func short(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-2]
		}
	}
	return text
}

// A settingJSON is a setting as the command prints it.
type settingJSON struct {
	Setting string `json:"setting"`
	Value   string `json:"value"`
	From    string `json:"from"`
}
