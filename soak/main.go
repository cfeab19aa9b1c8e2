// Soak holds the large sizes: what takes minutes or hours to show. Each part that
// has finished is kept in a folder, so that a run which was interrupted goes on
// where it stopped.
//
//	go run .                           all, in some three and a half hours
//	go run . -only kill,sizes          some parts
//	go run . -only mixed -mixed 8h     a night
//	go run . -list                     the parts
//
// It ends with a table in Markdown, and leaves the figures in results.json.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/crumb-go/crumb/internal/servers"
)

// Sizes are how large the parts are.
type sizes struct {
	Rounds    int           // of kill
	Histories int           // of orders, for each store
	Sessions  int           // of sizes, memory and sweep
	Turns     int           // of sizes
	Sweeps    int           // turns of sweep, at most
	Mixed     time.Duration // how long
	Rate      int           // of mixed, requests/s
	Faults    int           // rounds of each fault
	Floods    int           // turns of flood
	Tries     int           // of timing, of each kind
	Views     int           // of questions, and requests of about
	Engine    string        // of faults, "" for all
}

// A run is one call of the program.
type run struct {
	sizes
	dir     string
	results *results
	bar     *bar
}

// A part is one thing to show. It returns nil figures only with an error.
type part struct {
	name, what string
	run        func(ctx context.Context, r *run, before *figures) (*figures, error)
}

var parts = []part{
	{"orders", "histories of calls and of visits at once have an order, also when answers are lost", runOrders},
	{"kill", "what was acknowledged survives kill -9", runKills},
	{"sizes", "SQLite from 1,000 sessions on: bytes each, time to load, update and list", runSizes},
	{"sizes-postgres", "PostgreSQL, the same (needs make servers)", runSizesPostgres},
	{"sizes-redis", "Redis, the same (needs make servers)", runSizesRedis},
	{"memory", "the memory store: bytes each", runMemory},
	{"sweep", "a sweep of expired sessions beside traffic", runSweep},
	{"sweep-servers", "the same on PostgreSQL and Redis (needs make servers)", runSweepServers},
	{"mixed", "mixed load: memory and goroutines stay flat", runMixed},
	{"faults", "each engine: apps and database servers are killed amid the load (needs make servers)", runFaults},
	{"flood", "a page beside a flood of sign-ins keeps its times", runFlood},
	{"timing", "sign-ins that fail cannot be told apart by their times", runTiming},
	{"questions", "every question about the views of a month, on SQLite and PostgreSQL: exact, and how long it takes", runQuestions},
	{"about", "pages opened without a cookie: no row, and memory stays flat", runAbout},
	{"durability", "the log is synced before the answer, and counts share commits (needs strace)", runDurability},
}

func main() {
	err := error(nil)
	if role := os.Getenv(childEnv); role != "" {
		err = runChild(role, os.Args[1:])
	} else {
		err = soak(os.Args[1:])
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func soak(args []string) error {
	r := &run{}
	flags := flag.NewFlagSet("soak", flag.ContinueOnError)
	flags.StringVar(&r.dir, "dir", "data", "keep results and databases in this `folder`")
	only := flags.String("only", "", "run only these `parts`, with commas between")
	again := flags.Bool("again", false, "run parts that have finished once more")
	list := flags.Bool("list", false, "list the parts and exit")
	flags.IntVar(&r.Rounds, "rounds", 1000, "how often kill -9 strikes")
	flags.IntVar(&r.Histories, "histories", 1000, "how many histories of each kind, for each store")
	flags.IntVar(&r.Sessions, "sessions", 1_000_000, "how many sessions sizes, memory and sweep go up to")
	flags.IntVar(&r.Turns, "turns", 900, "how often sizes measures each database")
	flags.IntVar(&r.Sweeps, "sweeps", 1000, "how often sweep measures with a sweep and without, 8 seconds each time, at most")
	flags.DurationVar(&r.Mixed, "mixed", time.Hour, "how long mixed load lasts")
	flags.IntVar(&r.Rate, "rate", 400, "requests a second of mixed load")
	flags.IntVar(&r.Faults, "faults", 100, "rounds of kill -9 of an app, on each engine; half as many of its server, a fifth of a Cluster's primary")
	flags.IntVar(&r.Floods, "floods", 12, "how often flood measures a page with sign-ins and without, 10 seconds each time")
	flags.IntVar(&r.Tries, "tries", 2000, "how many sign-ins of each kind timing makes")
	flags.IntVar(&r.Views, "views", 1_000_000, "how many views questions is asked about, and how many requests about makes")
	flags.StringVar(&r.Engine, "engine", "", "run faults on this `engine` alone: sqlite, "+strings.Join(servers.Kinds, ", "))
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *list {
		for _, p := range parts {
			fmt.Printf("%-14s %s\n", p.name, p.what)
		}
		return nil
	}
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return err
	}
	if r.results, err = readResults(r.dir); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	return errors.Join(r.all(ctx, chosen, *again), r.results.report(os.Stdout))
}

// choose returns the parts named in list, or all.
func choose(list string) (chosen []part, err error) {
	if list == "" {
		return parts, nil
	}
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(parts, func(p part) bool { return p.name == strings.TrimSpace(name) })
		if i < 0 {
			return nil, fmt.Errorf("there is no part %q; -list shows them", name)
		}
		chosen = append(chosen, parts[i])
	}
	return chosen, nil
}

// all runs the parts one after the other. One that fails does not stop the others.
func (r *run) all(ctx context.Context, chosen []part, again bool) error {
	var errs []error
	for _, p := range chosen {
		before := r.results.Parts[p.name]
		if before != nil && before.Done && !again {
			continue
		}
		if before == nil || before.Done || again || before.Count == nil {
			before = &figures{}
		}
		earlier := before.Took
		before.What = p.what
		r.bar = newBar(p.name)
		began := time.Now()
		f, err := p.run(ctx, r, before)
		r.bar.clear()
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
		}
		if f != nil {
			f.What, f.Took = p.what, earlier+time.Since(began).Round(time.Second)
			f.Done = err == nil && ctx.Err() == nil
			errs = append(errs, r.results.keep(p.name, f))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}
