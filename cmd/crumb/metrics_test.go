package main

import (
	"fmt"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A series is one line of a page of metrics: a name with its labels.
type series map[string]float64

// A metric is what HELP and TYPE say.
type metric struct{ kind, help string }

var (
	metricName = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)+)\})? (\S+)$`)
	labelPair  = regexp.MustCompile(`([a-z_]+)="((?:[^"\\\n]|\\[\\"n])*)"`)
)

// parseMetrics is strict about the Prometheus text format, version 0.0.4: HELP
// and TYPE before the samples of a metric, which stand together; no series twice;
// histograms that add up.
func parseMetrics(t *testing.T, text string) (map[string]metric, series) {
	t.Helper()
	if !strings.HasSuffix(text, "\n") {
		t.Error("the last line has no end")
	}
	metrics, values := map[string]metric{}, series{}
	current := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, help, _ := strings.Cut(rest, " ")
			if _, twice := metrics[name]; twice || !metricName.MatchString(name) || help == "" {
				t.Errorf("%q", line)
			}
			current, metrics[name] = name, metric{help: help}
			continue
		}
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, kind, _ := strings.Cut(rest, " ")
			if name != current || metrics[name].kind != "" || !slices.Contains([]string{"counter", "gauge", "histogram"}, kind) {
				t.Errorf("%q after %s", line, current)
			}
			metrics[name] = metric{kind, metrics[name].help}
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil {
			t.Errorf("%q is no sample", line)
			continue
		}
		base := m[1]
		kind := metrics[current].kind
		if kind == "histogram" {
			base = regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(base, "")
		}
		if base != current {
			t.Errorf("%q stands under %s", line, current)
		}
		if kind == "counter" && !strings.HasSuffix(base, "_total") {
			t.Errorf("the name of counter %s does not end in _total", base)
		}
		v, err := strconv.ParseFloat(m[3], 64)
		key := m[1] + "{" + m[2] + "}"
		if _, twice := values[key]; err != nil || twice || math.IsNaN(v) || kind != "gauge" && v < 0 {
			t.Errorf("%q", line)
		}
		values[key] = v
	}
	checkHistograms(t, metrics, values, text)
	return metrics, values
}

func checkHistograms(t *testing.T, metrics map[string]metric, values series, text string) {
	t.Helper()
	last, bound := map[string]float64{}, map[string]float64{} // by name and labels but le
	for line := range strings.Lines(text) {
		m := sampleLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil || !strings.HasSuffix(m[1], "_bucket") || metrics[strings.TrimSuffix(m[1], "_bucket")].kind != "histogram" {
			continue
		}
		le, others := "", ""
		for _, pair := range labelPair.FindAllStringSubmatch(m[2], -1) {
			if pair[1] == "le" {
				le = pair[2]
			} else {
				others += pair[0]
			}
		}
		key := strings.TrimSuffix(m[1], "_bucket") + "_count{" + others + "}"
		b, err := strconv.ParseFloat(le, 64)
		n, _ := strconv.ParseFloat(m[3], 64)
		if before, seen := bound[key]; err != nil || n < last[key] || seen && b <= before {
			t.Errorf("%q: a bucket is less than the one before", line)
		}
		last[key], bound[key] = n, b
	}
	for key, n := range last {
		if !math.IsInf(bound[key], 1) || values[key] != n {
			t.Errorf("%s is %v and its last bucket, up to %v, is %v", key, values[key], bound[key], n)
		}
	}
}

// startOps starts a program with a listener for operators and returns its URL.
func startOps(t *testing.T, dir, program string, args ...string) (s *server, ops string) {
	t.Helper()
	s = start(t, dir, program, append(args, "--ops-addr=127.0.0.1:0")...)
	return s, s.log.wait(t, `for operators on (http://\S+)`)[1]
}

// scrape asks for the metrics.
func (s *server) scrape(ops string) (map[string]metric, series) {
	s.t.Helper()
	resp, err := s.client.Get(ops + "/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var text strings.Builder
	if _, err := fmt.Fprint(&text, readAll(s.t, resp.Body)); err != nil {
		s.t.Fatal(err)
	}
	if got := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || got != "text/plain; version=0.0.4; charset=utf-8" {
		s.t.Errorf("/metrics is %s, %s", resp.Status, got)
	}
	return parseMetrics(s.t, text.String())
}

func TestMetrics(t *testing.T) {
	t.Parallel()

	t.Run("what happened is counted", func(t *testing.T) {
		s, ops := startOps(t, t.TempDir(), slowAppPath)
		visitor := s.visitor()
		s.get("/", visitor)
		bob := s.post("/signin?user=bob", "").token()
		alice := s.post("/signin?user=alice", bob).token() // over bob's
		s.post("/signout", alice)
		carol := s.post("/signin?user=carol", "").token()
		slow := s.begin(carol)
		s.post("/signout", carol)
		s.release()
		<-slow
		s.get("/look", "malformed")
		s.get("/look", visitor[:42]+"B") // bits of the last character that count for nothing
		s.get("/look", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
		s.get("/look", "", "Cookie", "crumb="+visitor+"; crumb="+bob)
		s.post("/signin?user=dora", "")

		_, got := s.scrape(ops)
		want := series{
			`crumb_sessions{class="visitor"}`:                            1,
			`crumb_sessions{class="signed_in"}`:                          1,
			`crumb_sessions{class="remember"}`:                           0,
			`crumb_sessions_created_total{}`:                             5,
			`crumb_sign_ins_total{}`:                                     4,
			`crumb_sessions_ended_total{reason="signed out"}`:            2,
			`crumb_sessions_ended_total{reason="replaced"}`:              1,
			`crumb_changes_late_total{}`:                                 1,
			`crumb_cookies_rejected_total{cause="malformed"}`:            2,
			`crumb_cookies_rejected_total{cause="unknown"}`:              1,
			`crumb_cookies_rejected_total{cause="ambiguous"}`:            1,
			`crumb_cookies_rejected_total{cause="other"}`:                0,
			`crumb_store_calls_total{method="create",result="ok"}`:       5,
			`crumb_store_calls_total{method="load",result="not_found"}`:  1,
			`crumb_store_call_seconds_count{method="create"}`:            5,
			`crumb_store_call_seconds_bucket{method="create",le="+Inf"}`: 5,
			`crumb_store_calls_total{method="create",result="error"}`:    0,
			`crumb_sqlite_batch_calls_sum{}`:                             -1,
			`crumb_sqlite_log_bytes{}`:                                   -1,
			`go_goroutines{}`:                                            -1,
			`process_start_time_seconds{}`:                               -1,
			`crumb_events_lost_total{}`:                                  0,
			`crumb_renewals_total{}`:                                     0,
			`crumb_tokens_reused_total{}`:                                0,
		}
		for key, n := range want {
			if v, ok := got[key]; !ok || n >= 0 && v != n || n < 0 && v <= 0 {
				t.Errorf("%s is %v, %v; want %v", key, v, ok, n)
			}
		}
		// Each call that writes is in one batch.
		calls := 0.0
		for _, method := range []string{"create", "update"} {
			calls += got[`crumb_store_call_seconds_count{method="`+method+`"}`]
		}
		if got[`crumb_sqlite_batch_calls_sum{}`] != calls {
			t.Errorf("the batches carried %v calls of %v", got[`crumb_sqlite_batch_calls_sum{}`], calls)
		}
	})

	t.Run("nobody from outside makes series", func(t *testing.T) {
		s, ops := startOps(t, t.TempDir(), slowAppPath)
		_, before := s.scrape(ops)
		for i := range 20 {
			s.post(fmt.Sprintf("/signin?user=mallory%%22%d%%0A", i), "")
			s.get(fmt.Sprintf("/nowhere/%d", i), strings.Repeat("x", i))
			s.get("/", "", "User-Agent", fmt.Sprintf("agent-%d", i))
		}
		_, after := s.scrape(ops)
		if a, b := slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)); !slices.Equal(a, b) {
			t.Errorf("there were %d series and are %d", len(a), len(b))
		}
	})

	t.Run("the metrics are for operators only", func(t *testing.T) {
		s, ops := startOps(t, t.TempDir(), crumbPath)
		for _, path := range []string{"/metrics", "/events"} {
			if a := s.get(path, ""); a.StatusCode != 404 {
				t.Errorf("visitors get %s from %s", a.Status, path)
			}
			s := &server{t: t, url: ops, client: s.client}
			if a := s.get(path, "", "Host", "rebound.example"); a.StatusCode != 421 || !strings.Contains(a.body, "\nhint: ") {
				t.Errorf("a page of another name gets %s from %s: %s", a.Status, path, a.body)
			}
			if a := s.post(path, ""); a.StatusCode != 405 {
				t.Errorf("POST %s is answered %s", path, a.Status)
			}
		}
	})

	t.Run("the memory store has no metrics of SQLite", func(t *testing.T) {
		s, ops := startOps(t, t.TempDir(), crumbPath, "--database=memory:")
		s.visitor()
		metrics, got := s.scrape(ops)
		if _, there := metrics["crumb_sqlite_log_bytes"]; there || got[`crumb_sessions{class="visitor"}`] != 1 {
			t.Errorf("%v", got)
		}
	})
}

var metricRow = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (counter|gauge|histogram) \\|")

func TestTheTableOfMetricsInTheGuideIsThatOfTheCode(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]string{}
	for _, m := range metricRow.FindAllStringSubmatch(string(text), -1) {
		told[m[1]] = m[2]
	}
	s, ops := startOps(t, t.TempDir(), crumbPath)
	metrics, _ := s.scrape(ops)
	for name, m := range metrics {
		if told[name] != m.kind {
			t.Errorf("docs/operations.md says of %s, a %s: %q", name, m.kind, told[name])
		}
	}
	for name := range told {
		if _, there := metrics[name]; !there {
			t.Errorf("docs/operations.md tells of %s, which there is not", name)
		}
	}
}
