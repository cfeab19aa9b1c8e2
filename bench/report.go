package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strings"
	"time"
	"unicode/utf8"
)

// Results are what a run measured, every round of it.
type results struct {
	Machine    machine
	Middleware map[string]map[string][]cost       `json:",omitempty"` // by peer and case
	Servers    map[string]map[string][]loadResult `json:",omitempty"`
	Lost       map[string][]lostResult            `json:",omitempty"`
	Checks     *checks                            `json:",omitempty"`
	Commands   []commands                         `json:",omitempty"`
	Targets    []target                           `json:",omitempty"`
}

type machine struct {
	Cores       int
	Go          string
	System      string
	Date        string
	Load        string // of the machine over the minute before, if it can tell
	Rounds      int
	Seconds     float64 // of load a round
	Connections int
	Took        string
}

func newResults(b *bench) *results {
	return &results{
		Machine: machine{
			Cores: runtime.NumCPU(), Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH,
			Date: b.began.UTC().Format("2006-01-02 15:04 UTC"), Load: loadAverage(),
			Rounds: b.rounds, Seconds: b.time.Seconds(), Connections: connections,
		},
		Middleware: map[string]map[string][]cost{},
		Servers:    map[string]map[string][]loadResult{},
		Lost:       map[string][]lostResult{},
	}
}

func (m machine) String() string {
	s := fmt.Sprintf("%d cores, %s, %s, %s", m.Cores, strings.Replace(m.Go, "go", "Go ", 1), m.System, m.Date)
	if m.Load != "" {
		s += ", load before " + m.Load
	}
	return s + fmt.Sprintf("; %d rounds, %gs of load each, %d connections", m.Rounds, m.Seconds, m.Connections)
}

func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

func (r *results) addCost(peer, name string, c cost) {
	if r.Middleware[peer] == nil {
		r.Middleware[peer] = map[string][]cost{}
	}
	r.Middleware[peer][name] = append(r.Middleware[peer][name], c)
}

// addLoad takes the mean if a round measured the same twice.
func (r *results) addLoad(peer, name string, round int, l loadResult) {
	if r.Servers[peer] == nil {
		r.Servers[peer] = map[string][]loadResult{}
	}
	list := r.Servers[peer][name]
	if len(list) == round+1 {
		a := &list[round]
		a.Requests += l.Requests
		a.Failed += l.Failed
		a.PerSecond = (a.PerSecond + l.PerSecond) / 2
		a.P50, a.P99 = (a.P50+l.P50)/2, (a.P99+l.P99)/2
		a.CPU, a.ClientCPU = (a.CPU+l.CPU)/2, (a.ClientCPU+l.ClientCPU)/2
		return
	}
	r.Servers[peer][name] = append(list, l)
}

func (r *results) addLost(peer string, l lostResult) { r.Lost[peer] = append(r.Lost[peer], l) }

func (r *results) finish(b *bench) {
	r.Machine.Took = time.Since(b.began).Round(time.Second).String()
	r.judge()
}

// column returns one figure of each round.
func column[T any](rounds []T, f func(T) float64) []float64 {
	list := make([]float64, len(rounds))
	for i, v := range rounds {
		list[i] = f(v)
	}
	return list
}

func cpuOf(c cost) float64             { return c.CPU }
func nsOf(c cost) float64              { return c.NS }
func perSecondOf(l loadResult) float64 { return l.PerSecond }
func medianNS(rounds []cost) float64   { return median(column(rounds, nsOf)) }

// medianAllocs is whole: what the run time allocates now and then is not the
// request's.
func medianAllocs(rounds []cost) float64 {
	return math.Floor(median(column(rounds, func(c cost) float64 { return c.Allocs })) + 0.1)
}
func medianBytes(rounds []cost) float64 {
	return median(column(rounds, func(c cost) float64 { return c.Bytes }))
}
func medianRate(rs []loadResult) float64                           { return median(column(rs, perSecondOf)) }
func medianOf(rs []loadResult, f func(loadResult) float64) float64 { return median(column(rs, f)) }

// ratio returns the median over the rounds of a/b: rounds are compared with
// themselves, so that a machine that slows down half way changes nothing.
func ratio(a, b []float64) float64 {
	if len(a) != len(b) || len(a) == 0 {
		return 0
	}
	list := make([]float64, len(a))
	for i := range a {
		if b[i] == 0 {
			return 0
		}
		list[i] = a[i] / b[i]
	}
	return median(list)
}

// faster returns how many times as fast a is as b.
func (r *results) faster(a, b, op string, f func(cost) float64) float64 {
	return ratio(column(r.Middleware[b][op], f), column(r.Middleware[a][op], f))
}

// rate returns the requests/s of one case over those of another.
func (r *results) rate(a, aCase, b, bCase string) float64 {
	return ratio(column(r.Servers[a][aCase], perSecondOf), column(r.Servers[b][bCase], perSecondOf))
}

// ofPlainByCPU returns what part of the plain server's requests/s the CPU time of
// server and load would allow on two cores that do nothing else: near ofPlain if
// the machine was quiet, and the truer figure if it was not.
func (r *results) ofPlainByCPU(peer, name string) float64 {
	both := func(l loadResult) float64 { return l.CPU + l.ClientCPU }
	return ratio(column(r.Servers["none"][opIdle], both), column(r.Servers[peer][name], both))
}

func (r *results) ofPlain(peer, name string) float64 { return r.rate(peer, name, "none", opIdle) }

// rivals are whom Crumb is compared with, store by store.
var rivals = map[string]string{
	"crumb-memory": "scs-memory", "crumb-sqlite": "scs-sqlite",
	"crumb-redis": "scs-redis", "crumb-postgres": "scs-postgres",
}

func (r *results) print(w io.Writer) {
	fmt.Fprintln(w, r.Machine)
	r.printMiddleware(w)
	r.printServers(w)
	r.printLost(w)
	r.printTargets(w)
}

func (r *results) printMiddleware(w io.Writer) {
	if len(r.Middleware) == 0 {
		return
	}
	head := []string{"middleware alone, a request", "counter", "read one value", "not touched", "no cookie, not touched", "new visitor"}
	rows := [][]string{head}
	for _, p := range peers {
		row := []string{p.name}
		for _, op := range middlewareOps {
			cell := "–"
			if c := r.Middleware[p.short][op]; len(c) > 0 {
				cell = fmt.Sprintf("%s, %s, %.0f", duration(medianNS(c)), size(medianBytes(c)), medianAllocs(c))
			}
			row = append(row, cell)
		}
		rows = append(rows, row)
	}
	for _, short := range []string{"crumb-memory", "crumb-sqlite"} {
		row := []string{peerByName(short).name + ", times as fast as " + peerByName(rivals[short]).name}
		byCPU := []string{"the same, by CPU time"}
		for _, op := range middlewareOps {
			row = append(row, times(r.faster(short, rivals[short], op, nsOf)))
			byCPU = append(byCPU, times(r.faster(short, rivals[short], op, cpuOf)))
		}
		rows = append(rows, row, byCPU)
	}
	fmt.Fprint(w, "\nTime, bytes and allocations; 8 values in the session.\n\n")
	printTable(w, rows)
}

func (r *results) printServers(w io.Writer) {
	if len(r.Servers) == 0 {
		return
	}
	rows := [][]string{{"whole server", "requests/s", "of plain", "by CPU time", "of scs", "p50", "p99", "server CPU a request"}}
	add := func(c serverCase) {
		l := r.Servers[c.peer][c.name()]
		if len(l) == 0 {
			return
		}
		of := "–"
		if rival := rivals[c.peer]; rival != "" {
			of = times(r.rate(c.peer, c.name(), rival, c.name()))
		}
		cpu := "–"
		if us := medianOf(l, func(l loadResult) float64 { return l.CPU }); us > 0 {
			cpu = fmt.Sprintf("%.1f µs", us)
		}
		rate := thousands(medianRate(l))
		if failed := medianOf(l, func(l loadResult) float64 { return float64(l.Failed) / float64(l.Requests) }); failed > 0 {
			rate += fmt.Sprintf(" (%.1f %% failed)", 100*failed)
		}
		rows = append(rows, []string{c.title(), rate, percent(r.ofPlain(c.peer, c.name())), percent(r.ofPlainByCPU(c.peer, c.name())), of,
			fmt.Sprintf("%.2f ms", medianOf(l, func(l loadResult) float64 { return l.P50 })),
			fmt.Sprintf("%.2f ms", medianOf(l, func(l loadResult) float64 { return l.P99 })), cpu})
	}
	add(plainCase)
	for _, c := range serverCases {
		add(c)
	}
	fmt.Fprintf(w, "\nKeep-alive over loopback, a session of 8 values for each connection or one for all.\n\n")
	printTable(w, rows)
}

func (c serverCase) title() string {
	if c == plainCase {
		return "plain net/http"
	}
	title := peerByName(c.peer).name + ", " + c.op
	if c.shared {
		title += ", one session"
	}
	return title
}

func (r *results) printLost(w io.Writer) {
	if len(r.Lost) == 0 {
		return
	}
	rows := [][]string{{fmt.Sprintf("%d clients × %d increments", lostClients, lostTimes), "kept of 1000, each round", "lost of all", "failed answers"}}
	for _, p := range peers {
		list := r.Lost[p.short]
		if len(list) == 0 {
			continue
		}
		var kept []string
		sent, sum, failed := 0, 0, 0
		for _, l := range list {
			kept = append(kept, fmt.Sprint(l.Kept))
			sent, sum, failed = sent+l.Sent, sum+l.Kept, failed+l.Failed
		}
		rows = append(rows, []string{p.name, strings.Join(kept, " / "), percent(1 - float64(sum)/float64(sent)), fmt.Sprint(failed)})
	}
	fmt.Fprint(w, "\nOne counter of one session, all at once.\n\n")
	printTable(w, rows)
}

func (r *results) printTargets(w io.Writer) {
	if len(r.Targets) == 0 {
		return
	}
	rows := [][]string{{"target", "measured", "must", "aim", "result"}}
	for _, t := range r.Targets {
		rows = append(rows, []string{t.What, t.Measured, t.Must, t.Aim, t.verdict()})
	}
	fmt.Fprint(w, "\n")
	printTable(w, rows)
}

// printTable prints Markdown that is readable as it is.
func printTable(w io.Writer, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	line := func(cells []string, pad string) {
		var b strings.Builder
		for i, cell := range cells {
			b.WriteString("| " + cell + strings.Repeat(pad, widths[i]-utf8.RuneCountInString(cell)) + " ")
		}
		fmt.Fprintln(w, b.String()+"|")
	}
	for i, row := range rows {
		line(row, " ")
		if i == 0 {
			line(make([]string, len(row)), "-")
		}
	}
}

func duration(ns float64) string {
	switch {
	case ns < 1000:
		return fmt.Sprintf("%.0f ns", ns)
	case ns < 100_000:
		return fmt.Sprintf("%.1f µs", ns/1000)
	}
	return fmt.Sprintf("%.0f µs", ns/1000)
}

func size(bytes float64) string {
	if bytes < 1024 {
		return fmt.Sprintf("%.0f B", bytes)
	}
	return fmt.Sprintf("%.1f KB", bytes/1024)
}

func times(r float64) string {
	switch {
	case r == 0:
		return "–"
	case r < 10:
		return fmt.Sprintf("%.1f×", r)
	}
	return fmt.Sprintf("%.0f×", r)
}

func percent(r float64) string { return fmt.Sprintf("%.0f %%", 100*r) }

func thousands(n float64) string {
	s := fmt.Sprintf("%.0f", n)
	if len(s) > 3 {
		s = s[:len(s)-3] + "," + s[len(s)-3:]
	}
	return s
}

func (r *results) writeJSON(file string) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}
