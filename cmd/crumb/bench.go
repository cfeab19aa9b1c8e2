package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/crumb-go/crumb/app"
)

func benchCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "bench", Short: "Measure a server"}
	onlySubcommands(cmd)
	cmd.AddCommand(loadCommand())
	return cmd
}

func loadCommand() *cobra.Command {
	l := load{clients: 50, time: 10 * time.Second}
	var remote, asJSON bool
	cmd := &cobra.Command{
		Use:   "load URL",
		Short: "Ask for one page over and over, with many clients",
		Long: "Ask for one page over and over, each client with a session of its own, and show how fast the answers came.\n" +
			"On the page of crumb serve it also compares what was counted with what was answered.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError(errors.New("bench load needs one URL"), "write crumb bench load http://127.0.0.1:8080/")
			}
			u, err := url.Parse(args[0])
			switch {
			case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
				return usageError(errors.New("that is no URL of a page"), "write it like http://127.0.0.1:8080/")
			case l.clients < 1 || l.clients > 10_000:
				return usageError(errors.New("--clients must be from 1 to 10000"), "50 is the default")
			case l.time <= 0:
				return usageError(errors.New("--time must be more than nothing"), "write it like 10s or 5m")
			}
			l.url, l.own = u.String(), thisMachine(u.Hostname())
			if !l.own && !remote {
				return usageError(fmt.Errorf("%s is another machine", plain(u.Hostname())),
					"loading a server that is not yours is an attack; if this one is, add --allow-remote")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			out, err := l.run(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				err = writeJSON(cmd.OutOrStdout(), out)
			} else {
				err = out.print(cmd.OutOrStdout())
			}
			if err == nil && (out.Statuses["200"] == 0 || out.Kept < out.Sent) {
				err = exitCode(1)
			}
			return err
		},
	}
	cmd.Flags().IntVar(&l.clients, "clients", l.clients, "how many ask at once")
	cmd.Flags().DurationVar(&l.time, "time", l.time, "how long")
	cmd.Flags().BoolVar(&l.shared, "shared-cookie", false, "all clients are one visitor")
	cmd.Flags().BoolVar(&remote, "allow-remote", false, "allow a server on another machine, which must be yours")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func thisMachine(host string) bool {
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.IsLoopback()
}

// A load is one run.
type load struct {
	url     string
	clients int
	time    time.Duration
	shared  bool
	own     bool // the server is on this machine
}

// A loadResult is what came of it.
type loadResult struct {
	Seconds  float64          `json:"seconds"`
	Requests int64            `json:"requests"`
	Rate     float64          `json:"requests_per_second"`
	Latency  map[string]int64 `json:"latency_us"`
	Statuses map[string]int64 `json:"statuses"` // "failed" where no answer came

	// Of the page that counts: requests answered 200, and what the counter says.
	// Both 0 if the page does not count.
	Sent int64 `json:"sent"`
	Kept int64 `json:"kept"`

	firstFailure string
}

// A visitor is one session, of one client or of all.
type visitor struct {
	mu       sync.Mutex
	cookie   string // name=value
	answered int64
}

var counterText = regexp.MustCompile(`seen this page (\d+) times`)

func (l *load) run(ctx context.Context) (*loadResult, error) {
	transport := &http.Transport{MaxIdleConnsPerHost: l.clients, DisableCompression: true}
	if l.own {
		// A development certificate is no reason not to measure.
		transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

	visitors := make([]*visitor, l.clients)
	for i := range visitors {
		if visitors[i] = new(visitor); l.shared {
			visitors[i] = visitors[0]
		}
	}
	var all tally
	// The first request of a visitor alone: two without a cookie would be two visitors.
	distinct := slices.Compact(slices.Clone(visitors))
	for _, v := range distinct {
		if _, err := l.ask(ctx, client, v, &all); err != nil {
			if ctx.Err() != nil {
				return nil, errors.New("interrupted before the first answers came")
			}
			return nil, app.WithHint(fmt.Errorf("no answer from %s: %w", l.url, err), "is the server running? crumb serve starts one")
		}
	}
	all = tally{}

	start := time.Now()
	end := start.Add(l.time)
	tallies := make([]tally, l.clients)
	var wait sync.WaitGroup
	for i, v := range visitors {
		wait.Go(func() {
			for time.Now().Before(end) && ctx.Err() == nil {
				// A request under way is not cut off: it may have been counted.
				l.ask(context.WithoutCancel(ctx), client, v, &tallies[i])
			}
		})
	}
	wait.Wait()
	took := time.Since(start)
	for i := range tallies {
		all.add(&tallies[i])
	}
	out := all.result(took)
	for _, v := range distinct {
		n, err := l.ask(context.WithoutCancel(ctx), client, v, &all)
		if err != nil {
			return nil, fmt.Errorf("the counter could not be read at the end: %w", err)
		}
		if n > 0 {
			out.Sent += v.answered
			out.Kept += n
		}
	}
	return out, nil
}

// ask sends one request of v and returns what the page's counter says, 0 if the
// page has none.
func (l *load) ask(ctx context.Context, client *http.Client, v *visitor, t *tally) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", l.url, nil)
	if err != nil {
		return 0, err
	}
	v.mu.Lock()
	if v.cookie != "" {
		req.Header.Set("Cookie", v.cookie)
	}
	v.mu.Unlock()
	start := time.Now()
	resp, err := client.Do(req)
	var body []byte
	if err == nil {
		body, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		resp.Body.Close()
	}
	if err != nil {
		t.failed(err)
		return 0, err
	}
	t.answered(resp.StatusCode, time.Since(start))
	v.mu.Lock()
	defer v.mu.Unlock()
	if cookies := resp.Cookies(); len(cookies) > 0 {
		v.cookie = cookies[0].Name + "=" + cookies[0].Value
	}
	if resp.StatusCode != http.StatusOK {
		return 0, nil
	}
	v.answered++
	if m := counterText.FindSubmatch(body); m != nil {
		return strconv.ParseInt(string(m[1]), 10, 64)
	}
	return 0, nil
}

// A tally counts answers. Latencies fall into buckets that are at most a
// sixteenth apart, so that a long run needs no more memory than a short one.
type tally struct {
	statuses map[int]int64 // 0 is no answer
	buckets  [64 * 16]int64
	failure  string // the first
}

func (t *tally) failed(err error) {
	t.count(0)
	if t.failure == "" {
		t.failure = err.Error()
	}
}

func (t *tally) answered(status int, took time.Duration) {
	t.count(status)
	t.buckets[bucketOf(uint64(took.Microseconds()))]++
}

func (t *tally) count(status int) {
	if t.statuses == nil {
		t.statuses = map[int]int64{}
	}
	t.statuses[status]++
}

func (t *tally) add(o *tally) {
	for status, n := range o.statuses {
		t.count(status)
		t.statuses[status] += n - 1
	}
	for i, n := range o.buckets {
		t.buckets[i] += n
	}
	if t.failure == "" {
		t.failure = o.failure
	}
}

// bucketOf returns the bucket of a number: its magnitude and the four bits after
// its first.
func bucketOf(n uint64) int {
	if n < 16 {
		return int(n)
	}
	magnitude := bits.Len64(n) - 5
	return magnitude*16 + int(n>>magnitude)
}

// bucketMax returns the largest number of a bucket.
func bucketMax(i int) int64 {
	if i < 32 {
		return int64(i)
	}
	magnitude := i/16 - 1
	return int64(i%16+17)<<magnitude - 1
}

// percentile returns the latency, in microseconds, that p of a hundred did not
// exceed.
func (t *tally) percentile(p float64) int64 {
	total := int64(0)
	for _, n := range t.buckets {
		total += n
	}
	want, seen := int64(p/100*float64(total)+0.5), int64(0)
	for i, n := range t.buckets {
		if seen += n; n > 0 && seen >= want {
			return bucketMax(i)
		}
	}
	return 0
}

func (t *tally) result(took time.Duration) *loadResult {
	out := &loadResult{Seconds: took.Seconds(), Latency: map[string]int64{}, Statuses: map[string]int64{}, firstFailure: t.failure}
	for status, n := range t.statuses {
		out.Requests += n
		name := strconv.Itoa(status)
		if status == 0 {
			name = "failed"
		}
		out.Statuses[name] = n
	}
	out.Rate = float64(out.Requests) / took.Seconds()
	for _, p := range []float64{50, 90, 99, 99.9, 100} {
		out.Latency["p"+strconv.FormatFloat(p, 'g', -1, 64)] = t.percentile(p)
	}
	return out
}

func (r *loadResult) print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "requests\t%d in %.1f s, %.0f a second\n", r.Requests, r.Seconds, r.Rate)
	us := func(p string) string { return (time.Duration(r.Latency[p]) * time.Microsecond).String() }
	fmt.Fprintf(tw, "latency\thalf within %s, 90%% %s, 99%% %s, 99.9%% %s, all %s\n", us("p50"), us("p90"), us("p99"), us("p99.9"), us("p100"))
	names := make([]string, 0, len(r.Statuses))
	for name := range r.Statuses {
		names = append(names, name)
	}
	slices.Sort(names)
	for i, name := range names {
		names[i] = fmt.Sprintf("%s: %d", name, r.Statuses[name])
	}
	fmt.Fprintf(tw, "answers\t%s\n", strings.Join(names, ", "))
	if r.firstFailure != "" {
		fmt.Fprintf(tw, "failure\t%s\n", plain(r.firstFailure))
	}
	switch {
	case r.Sent == 0:
		fmt.Fprint(tw, "counter\tthe page has none that this command knows\n")
	default:
		fmt.Fprintf(tw, "counter\tkept %d of %d, lost %d\n", r.Kept, r.Sent, max(0, r.Sent-r.Kept))
	}
	return tw.Flush()
}
