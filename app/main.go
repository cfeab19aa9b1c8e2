package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"unicode"
)

// Main is the main function of an app: [Serve] with the arguments and environment
// of the process and the file crumb.toml, if there is one. It exits: 0 after a
// clean stop, 2 for a wrong setting, 1 otherwise.
func Main(modules ...*Module) {
	os.Exit(Serve(Options{Args: os.Args[1:], Environ: os.Environ(), File: "crumb.toml"}, modules...))
}

// Serve runs the modules until SIGTERM or SIGINT, reports errors and returns the
// code to exit with. A second signal ends the process at once, with 1.
func Serve(opts Options, modules ...*Module) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	over := make(chan struct{})
	defer close(over)
	go func() {
		for range 2 {
			select {
			case <-signals:
			case <-over:
				return
			}
			if ctx.Err() != nil {
				os.Exit(1)
			}
			cancel()
		}
	}()

	a, err := New(opts, modules...)
	if err == nil {
		if opts.Logger == nil {
			slog.SetDefault(a.log) // for what logs without a module's logger
		}
		err = a.Run(ctx)
	}
	return Report(os.Stdout, os.Stderr, err)
}

// Report prints err for people, as "error: …" and, if it has one, "hint: …", and
// returns the code to exit with: 0 for nil and for help, which goes to stdout;
// 2 for a wrong setting; 1 otherwise.
func Report(stdout, stderr io.Writer, err error) int {
	if err == nil {
		return 0
	}
	if h, ok := errors.AsType[*HelpError](err); ok {
		io.WriteString(stdout, h.Usage)
		return 0
	}
	fmt.Fprintf(stderr, "error: %s\n", oneLine(err.Error()))
	if hint := hintOf(err); hint != "" {
		fmt.Fprintf(stderr, "hint: %s\n", oneLine(hint))
	}
	if p, ok := errors.AsType[*panicError](err); ok {
		stderr.Write(p.stack)
	}
	if _, ok := errors.AsType[*SettingError](err); ok {
		return 2
	}
	return 1
}

// oneLine keeps what came from a file or a variable from moving the cursor of a
// terminal or reversing its text.
func oneLine(s string) string {
	s = strings.ReplaceAll(strings.TrimSpace(s), "\n", "; ")
	var b strings.Builder
	for _, r := range s {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}
