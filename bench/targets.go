package main

import (
	"fmt"
	"strconv"
)

// A target is one promise of the project, as far as this program can measure it.
type target struct {
	What, Measured, Must, Aim string
	MeetsMust, MeetsAim       bool
}

func (t target) verdict() string {
	switch {
	case t.MeetsAim:
		return "aim reached"
	case t.MeetsMust:
		return "must reached"
	}
	return "MISSED"
}

// judge lists the targets whose figures this run has. What takes hours is measured
// elsewhere.
func (r *results) judge() {
	atLeast := func(what string, got, must, aim float64, format func(float64) string) {
		if got > 0 {
			r.Targets = append(r.Targets, target{what, format(got), "≥ " + format(must), "≥ " + format(aim), got >= must, got >= aim})
		}
	}
	atMost := func(what string, got, must, aim float64, format func(float64) string) {
		r.Targets = append(r.Targets, target{what, format(got), "≤ " + format(must), "≤ " + format(aim), got <= must, got <= aim})
	}
	count := func(n float64) string { return fmt.Sprintf("%.0f", n) }
	exactly := func(n float64) string { return strconv.FormatFloat(n, 'f', -1, 64) }

	for _, c := range []struct{ op, name string }{{opRead, "read"}, {opCounter, "counter"}} {
		rounds := r.Middleware["crumb-memory"][c.op]
		if len(rounds) == 0 {
			continue
		}
		atLeast("memory, "+c.name+", over scs + memstore", r.faster("crumb-memory", "scs-memory", c.op, nsOf), 20, 35, times)
		atMost("memory, "+c.name+", allocations", medianAllocs(rounds), 8, 5, count)
		atMost("memory, "+c.name+", bytes", medianBytes(rounds), 1536, 614, size)
	}
	if with, without := r.Middleware["crumb-memory"][opBare], r.Middleware["none"][opBare]; len(with) > 0 && len(without) == len(with) {
		var extra []float64
		for i := range with {
			extra = append(extra, with[i].NS-without[i].NS)
		}
		atMost("no cookie, not touched, over no middleware", median(extra), 300, 150, duration)
		atMost("no cookie, not touched, allocations more", medianAllocs(with)-medianAllocs(without), 3, 2, count)
	}
	if c := r.Checks; c != nil {
		atMost("no cookie, not touched, store calls and cookies", float64(c.BareCalls+c.BareCookies), 0, 0, count)
		atMost("100 requests that change nothing, store writes", float64(c.QuietWrites), 1, 1, count)
		atMost("100 requests that change nothing, cookies set", float64(c.QuietCookies), 0, 0, count)
		atMost("memory, a record over its data", c.RecordBytes, 1024, 400, size)
	}
	atLeast("server, memory, counter, of plain", r.ofPlain("crumb-memory", opCounter), 0.85, 0.95, percent)
	atLeast("server, SQLite, counter, over scs + SQLite", r.rate("crumb-sqlite", opCounter, "scs-sqlite", opCounter), 5, 8, times)
	atLeast("server, SQLite, counter, of plain", r.ofPlain("crumb-sqlite", opCounter), 0.40, 0.60, percent)
	atLeast("server, SQLite, read, of plain", r.ofPlain("crumb-sqlite", opRead), 0.65, 0.90, percent)
	atLeast("server, SQLite, counter, tracking on, of off", r.rate("crumb-sqlite-tracked", opCounter, "crumb-sqlite", opCounter), 0.95, 0.98, percent)
	atLeast("server, SQLite, read, tracking on, of off", r.rate("crumb-sqlite-tracked", opRead, "crumb-sqlite", opRead), 0.95, 0.98, percent)
	atLeast("server, Redis, counter, over scs + goredisstore", r.rate("crumb-redis", opCounter, "scs-redis", opCounter), 2, 3, times)
	atLeast("server, PostgreSQL, counter, over scs + pgxstore", r.rate("crumb-postgres", opCounter, "scs-postgres", opCounter), 1.5, 2.5, times)
	for _, c := range r.Commands {
		atMost(c.Server+", counter, loads a request", c.Loads, 1, 1, exactly)
		atMost(c.Server+", counter, updates a request", c.Updates, 1, 1, exactly)
	}
	for _, p := range peers {
		if rivals[p.short] == "" || len(r.Lost[p.short]) == 0 {
			continue
		}
		lost := 0
		for _, l := range r.Lost[p.short] {
			lost += l.Sent - l.Kept
		}
		atMost(p.name+", lost updates", float64(lost), 0, 0, count)
	}
}
