// Bench measures Crumb against other session libraries in one run: the middleware
// alone, whole servers, and what becomes of requests that change one session at
// once. It prints tables; the ratios in them are what to read, since all figures
// of a run come from one machine within minutes of each other.
//
//	go run .                                  all, in some four minutes
//	go run . -only 'server/crumb-'            what a regular expression matches
//	go run . -json run.json -svg run.svg      for machines and for eyes
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// A bench is one run.
type bench struct {
	rounds   int
	time     time.Duration
	only     *regexp.Regexp
	dir      string // for the stores' files
	profiles string // directory, or ""
	res      *results
	began    time.Time
}

func main() {
	err := error(nil)
	if spec := os.Getenv(serveEnv); spec != "" {
		err = serve(spec)
	} else {
		err = run(os.Args[1:])
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	rounds := flags.Int("rounds", 5, "`number` of rounds; the figures are medians over them")
	d := flags.Duration("time", 2*time.Second, "how long a server has load in a round; the middleware alone is measured for a tenth of it")
	only := flags.String("only", "", "measure only what this `regexp` matches in part/peer/case, such as server/crumb-sqlite/counter")
	jsonFile := flags.String("json", "", "write every round's figures to this `file`")
	svgFile := flags.String("svg", "", "write the plot to this `file`")
	dir := flags.String("dir", "", "keep the stores' files below this `directory` while measuring (default: the system's for temporary files)")
	profiles := flags.String("cpuprofile", "", "write CPU profiles of the middleware part and of each server to this `directory`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || *rounds < 1 || *d < 10*time.Millisecond {
		return errors.New("no arguments besides flags, at least one round and 10ms are needed")
	}
	filter, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(*dir, "crumb-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if *profiles != "" {
		if err := os.MkdirAll(*profiles, 0o755); err != nil {
			return err
		}
	}

	// testing.Benchmark takes its time from a flag.
	testing.Init()
	if err := flag.Set("test.benchtime", (*d / 10).String()); err != nil {
		return err
	}

	b := &bench{rounds: *rounds, time: *d, only: filter, dir: tmp, profiles: *profiles, began: time.Now()}
	b.res = newResults(b)
	b.leaveOut()
	if err := b.measure(); err != nil {
		return err
	}
	b.res.finish(b)
	b.res.print(os.Stdout)
	if *jsonFile != "" {
		if err := b.res.writeJSON(*jsonFile); err != nil {
			return err
		}
	}
	if *svgFile != "" {
		return b.res.writeSVG(*svgFile)
	}
	return nil
}

func (b *bench) measure() error {
	if err := b.measureInside(); err != nil {
		return err
	}
	if err := measureChecks(b); err != nil {
		return err
	}
	if err := measureCommands(b); err != nil {
		return err
	}
	f, err := startFleet(b)
	if err != nil {
		return err
	}
	defer f.stop()
	for round := range b.rounds {
		if err := measureServers(b, f, round); err != nil {
			return err
		}
	}
	if err := measureLost(b, f); err != nil {
		return err
	}
	return f.stop()
}

// measureInside is what runs in this process.
func (b *bench) measureInside() error {
	if b.profiles != "" {
		stop, err := startProfile(filepath.Join(b.profiles, "middleware.pprof"))
		if err != nil {
			return err
		}
		defer stop()
	}
	for round := range b.rounds {
		if err := measureMiddleware(b, round); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) wants(part, peer, name string) bool {
	return b.only.MatchString(part + "/" + peer + "/" + name)
}

func (b *bench) wantsAny(part, peer string, names []string) bool {
	for _, name := range names {
		if b.wants(part, peer, name) {
			return true
		}
	}
	return false
}

// wantsCase takes in the plain server with any other, to compare with.
func (b *bench) wantsCase(c serverCase) bool {
	if c != plainCase {
		return b.wants("server", c.peer, c.name())
	}
	for _, other := range serverCases {
		if b.wants("server", other.peer, other.name()) {
			return true
		}
	}
	return b.wants("server", c.peer, c.name())
}

func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%4.0fs  %s\n", time.Since(b.began).Seconds(), fmt.Sprintf(format, args...))
}
