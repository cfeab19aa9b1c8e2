package ops

import (
	"fmt"
	"strconv"
	"strings"
)

// A text is a page of metrics in the Prometheus text format, version 0.0.4.
// Names and labels are the code's own, never a visitor's, so that nobody from
// outside makes series.
type text struct{ strings.Builder }

// metric begins a metric. kind is counter, gauge or histogram.
func (t *text) metric(name, kind, help string) {
	fmt.Fprintf(t, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// sample writes one value. labels are pairs.
func (t *text) sample(name string, value float64, labels ...string) {
	t.WriteString(name)
	for i := 0; i < len(labels); i += 2 {
		t.WriteString(map[bool]string{true: "{", false: ","}[i == 0])
		fmt.Fprintf(t, `%s="%s"`, labels[i], escapeLabel.Replace(labels[i+1]))
	}
	if len(labels) > 0 {
		t.WriteByte('}')
	}
	t.WriteString(" " + strconv.FormatFloat(value, 'f', -1, 64) + "\n")
}

var escapeLabel = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// histogram writes the series of one histogram: counts holds what fell into each
// bucket, the last being what was beyond all bounds.
func (t *text) histogram(name string, bounds []float64, counts []int64, sum float64, labels ...string) {
	total := int64(0)
	for i, n := range counts {
		total += n
		le := "+Inf"
		if i < len(bounds) {
			le = strconv.FormatFloat(bounds[i], 'f', -1, 64)
		}
		t.sample(name+"_bucket", float64(total), append(labels[:len(labels):len(labels)], "le", le)...)
	}
	t.sample(name+"_sum", sum, labels...)
	t.sample(name+"_count", float64(total), labels...)
}
