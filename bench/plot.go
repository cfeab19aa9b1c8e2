package main

import (
	"encoding/xml"
	"fmt"
	"os"
	"strings"
)

// A bar is one line of a chart.
type bar struct {
	label, text string
	value       float64
	ours        bool
}

// plotStyle has two sets of colours, and a background with each, so that the plot
// is readable on pages of either kind even where the page and the system differ.
const plotStyle = `
.card{fill:#fffdf8;stroke:#d9d2c3}
text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;font-size:13px;fill:#2b2620}
.title{font-size:16px;font-weight:600}
.note{font-size:12px;fill:#6a6257}
.ours{fill:#b4560b}
.theirs{fill:#8f9aa5}
.plain{fill:#c9cfd5}
.axis{stroke:#d9d2c3}
@media (prefers-color-scheme:dark){
.card{fill:#1c1a17;stroke:#3d382f}
text{fill:#ece6da}
.note{fill:#a89f90}
.ours{fill:#f0933a}
.theirs{fill:#76818c}
.plain{fill:#4c555e}
.axis{stroke:#3d382f}
}
`

const (
	plotWidth  = 800
	plotLabel  = 250 // where the bars begin
	plotBars   = 400 // the longest bar
	plotRow    = 26
	plotMargin = 24
)

// A plot is an SVG picture in the making.
type plot struct {
	b strings.Builder
	y int
}

func escape(s string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(s))
	return b.String()
}

func (p *plot) text(x, y int, class, s string) {
	fmt.Fprintf(&p.b, "<text x=\"%d\" y=\"%d\" class=%q>%s</text>\n", x, y, class, escape(s))
}

func (p *plot) chart(title, note string, full float64, bars []bar) {
	p.y += 30
	p.text(plotMargin, p.y, "title", title)
	p.y += 19
	p.text(plotMargin, p.y, "note", note)
	p.y += 14
	top := p.y
	for _, b := range bars {
		class := "theirs"
		switch {
		case b.ours:
			class = "ours"
		case strings.HasPrefix(b.label, "plain"):
			class = "plain"
		}
		width := 1.0
		if full > 0 {
			width = max(1, plotBars*b.value/full)
		}
		fmt.Fprintf(&p.b, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", plotLabel-8, p.y+17, escape(b.label))
		fmt.Fprintf(&p.b, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"18\" rx=\"2\" class=%q/>\n", plotLabel, p.y+4, width, class)
		fmt.Fprintf(&p.b, "<text x=\"%.0f\" y=\"%d\">%s</text>\n", plotLabel+width+7, p.y+17, escape(b.text))
		p.y += plotRow
	}
	fmt.Fprintf(&p.b, "<line x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\" class=\"axis\"/>\n", plotLabel, top, plotLabel, p.y)
}

// svg returns the plot of the servers and the lost updates.
func (r *results) svg() string {
	p := &plot{y: 10}
	var rates []bar
	most := 0.0
	for _, c := range append([]serverCase{plainCase}, serverCases...) {
		l := r.Servers[c.peer][c.name()]
		if len(l) == 0 || c.shared {
			continue
		}
		rate := medianRate(l)
		most = max(most, rate)
		text := thousands(rate)
		if c != plainCase {
			text += " · " + percent(r.ofPlain(c.peer, c.name()))
		}
		rates = append(rates, bar{c.title(), text, rate, strings.HasPrefix(c.peer, "crumb")})
	}
	p.chart("Requests per second", fmt.Sprintf("Whole servers, %d connections, 8 values in a session; per cent of plain net/http. More is better.", r.Machine.Connections), most, rates)
	var kept []bar
	for _, peer := range peers {
		list := r.Lost[peer.short]
		if len(list) == 0 {
			continue
		}
		m := median(column(list, func(l lostResult) float64 { return float64(l.Kept) }))
		kept = append(kept, bar{peer.name, fmt.Sprintf("%.0f", m), m, strings.HasPrefix(peer.short, "crumb")})
	}
	p.y += 14
	p.chart("Updates kept", fmt.Sprintf("%d clients add 1 to one counter %d times each, all at once; kept of 1000, median of %d rounds.", lostClients, lostTimes, lostRounds), lostClients*lostTimes, kept)
	p.y += 26
	m := r.Machine
	p.text(plotMargin, p.y, "note", fmt.Sprintf("One run on %d cores shared with the load, %s, %s.", m.Cores, strings.Replace(m.Go, "go", "Go ", 1), m.Date))
	height := p.y + 20
	return fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\" aria-labelledby=\"t\">\n"+
		"<title id=\"t\">Requests per second and updates kept, Crumb and others</title>\n<style>%s</style>\n"+
		"<rect x=\"0.5\" y=\"0.5\" width=\"%d\" height=\"%d\" rx=\"8\" class=\"card\"/>\n%s</svg>\n",
		plotWidth, height, plotStyle, plotWidth-1, height-1, p.b.String())
}

func (r *results) writeSVG(file string) error {
	return os.WriteFile(file, []byte(r.svg()), 0o644)
}
