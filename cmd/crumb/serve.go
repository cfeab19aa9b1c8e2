package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/internal/helloworld"
)

// settingsFile is read if it is there.
const settingsFile = "crumb.toml"

func serveCommand() *cobra.Command {
	options := func(args ...string) app.Options {
		return app.Options{Args: args, Environ: os.Environ(), File: settingsFile, Program: "crumb serve"}
	}
	cmd := &cobra.Command{
		Use:   "serve [flags]",
		Short: "Serve the Hello World: a page that counts each visitor's views, and with --login a private one",
		// The flags are the app's own: one for every setting of its modules.
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts := options(args...)
			code := app.Serve(opts, helloworld.Modules(opts)...)
			if code != 0 {
				return exitCode(code)
			}
			return nil
		},
	}
	cmd.SetHelpFunc(func(cmd *cobra.Command, _ []string) {
		_, err := app.New(options("--help"), helloworld.Module, helloworld.Private)
		app.Report(cmd.OutOrStdout(), cmd.ErrOrStderr(), err)
	})
	return cmd
}
