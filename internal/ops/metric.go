package ops

// A Metric is one that another part of the app knows the value of.
type Metric struct {
	Name, Help string
	Kind       string         // counter or gauge
	Value      func() float64 // called when somebody asks; any goroutine
}

// Add adds a metric to the page. It is for the start, before the first request.
func (m *Metrics) Add(metric Metric) { m.added = append(m.added, metric) }

func (m *Metrics) writeAdded(t *text) {
	for _, a := range m.added {
		t.metric(a.Name, a.Kind, a.Help)
		t.sample(a.Name, a.Value())
	}
}
