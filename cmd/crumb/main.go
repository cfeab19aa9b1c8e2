// Crumb serves the Hello World that counts each visitor's views, and shows
// operators the sessions of an app and lets them end them.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/crumb-go/crumb/app"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the command: it returns the code to exit with.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:           "crumb",
		Short:         "Sessions for Go web apps: a Hello World to start from, and the operator's tools",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	var code exitCode
	root.AddCommand(serveCommand(), sessionsCommand(), statsCommand(), topCommand(), trailCommand(), trackCommand(), usersCommand(), auditCommand(), keysCommand(), checkCommand(), backupCommand(), benchCommand(), schemaCommand(), configCommand(), versionCommand())
	onlySubcommands(root)
	plainWords(root)
	root.SetArgs(idsLast(root, args))
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError(err, "see "+cmd.CommandPath()+" --help")
	})
	err := root.ExecuteContext(ctx)
	switch {
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, new(*usage)):
		app.Report(stdout, stderr, err)
		return 2
	}
	return app.Report(stdout, stderr, err)
}

// idsLast moves the IDs that begin with a dash, one in 64, behind "--": they are no
// flags.
func idsLast(root *cobra.Command, args []string) []string {
	cmd, _, err := root.Find(args)
	if err != nil || cmd.DisableFlagParsing || slices.Contains(args, "--") {
		return args
	}
	isFlag := func(arg string) bool {
		return strings.HasPrefix(arg, "--") && cmd.Flag(arg[2:]) != nil
	}
	var ids, others []string
	for i, arg := range args {
		value := i > 0 && isFlag(args[i-1]) && cmd.Flag(args[i-1][2:]).NoOptDefVal == "" // such as a user's name
		if strings.HasPrefix(arg, "-") && idFormat.MatchString(arg) && !isFlag(arg) && !value {
			ids = append(ids, arg)
		} else {
			others = append(others, arg)
		}
	}
	if ids == nil {
		return args
	}
	return append(append(others, "--"), ids...)
}

// An exitCode ends the command; what there is to say was said.
type exitCode int

func (exitCode) Error() string { return "exit" }

// A usage error is about how the command was called.
type usage struct{ error }

func (u *usage) Unwrap() error { return u.error }

func usageError(err error, hint string) error { return &usage{app.WithHint(err, hint)} }

// onlySubcommands has cmd, which only groups others, show its help and refuse
// what is none of them: cobra would show help for a misspelt one, and exit with 0.
func onlySubcommands(cmd *cobra.Command) {
	cmd.SuggestionsMinimumDistance = 2
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		hint := "see " + cmd.CommandPath() + " --help"
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			hint = "did you mean " + cmd.CommandPath() + " " + near[0] + "?"
		}
		return usageError(fmt.Errorf("there is no command %q", cmd.CommandPath()+" "+args[0]), hint)
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
}

var completionFor = map[string]string{
	"bash":       "crumb completion bash > /etc/bash_completion.d/crumb",
	"fish":       "crumb completion fish > ~/.config/fish/completions/crumb.fish",
	"powershell": "crumb completion powershell >> $PROFILE",
	"zsh":        "crumb completion zsh > \"${fpath[1]}/_crumb\"",
}

// plainWords says in the words of this command what cobra adds to it.
func plainWords(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	var each func(cmd *cobra.Command)
	each = func(cmd *cobra.Command) {
		cmd.InitDefaultHelpFlag()
		cmd.Flags().Lookup("help").Usage = "show this"
		switch cmd.CommandPath() {
		case "crumb help":
			cmd.Use, cmd.Short, cmd.Long = "help [COMMAND]", "Show what a command does", "Show what a command does and which flags it has."
		case "crumb completion":
			cmd.Short = "Print a script that completes this command in a shell"
			cmd.Long = cmd.Short + ".\nThe help of each shell says where to put it."
		}
		if cmd.HasParent() && cmd.Parent().CommandPath() == "crumb completion" {
			cmd.Short = "Print the script for " + cmd.Name()
			cmd.Long = cmd.Short + ". To have it in every new shell:\n\n  " + completionFor[cmd.Name()]
			if f := cmd.Flags().Lookup("no-descriptions"); f != nil {
				f.Usage = "leave out what each command does"
			}
		}
		for _, sub := range cmd.Commands() {
			each(sub)
		}
	}
	each(root)
}

// noArgs refuses arguments in the words of this command.
func noArgs(cmd *cobra.Command, args []string) error {
	if err := cobra.NoArgs(cmd, args); err != nil {
		return usageError(err, "see "+cmd.CommandPath()+" --help")
	}
	return nil
}
