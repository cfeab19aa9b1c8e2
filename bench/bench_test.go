package main

import (
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crumb-go/crumb/internal/servers"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0}, {[]float64{7}, 7}, {[]float64{9, 1, 4}, 4}, {[]float64{8, 1, 2, 4}, 3},
	} {
		if got := median(c.values); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.values, got, c.want)
		}
	}
	values := []float64{3, 1, 2}
	if median(values); values[0] != 3 {
		t.Error("median reorders what it is given")
	}
}

func TestRatioComparesEachRoundWithItself(t *testing.T) {
	// The machine ran at half its speed in the second round.
	if got := ratio([]float64{80, 40, 80}, []float64{100, 50, 100}); got != 0.8 {
		t.Errorf("ratio = %v, want 0.8", got)
	}
	if got := ratio([]float64{1}, nil); got != 0 {
		t.Errorf("ratio to what was not measured = %v, want 0", got)
	}
}

func TestEveryPeerCounts(t *testing.T) {
	for i := range peers {
		p := &peers[i]
		if p.kind != "" && len(servers.Missing(p.kind)) > 0 {
			t.Log(servers.LeftOut([]string{p.kind}))
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			a, err := p.open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			cookie, err := visit(a)
			if err != nil {
				t.Error(err)
			}
			if (cookie != "") != (a.handlers["counter"] != nil) {
				t.Errorf("cookie %q", cookie)
			}
			if err := a.close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestLoadCountsWhatTheServerCounts(t *testing.T) {
	var served atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := served.Add(1)
		if r.Header.Get("Cookie") != "a=1" {
			t.Errorf("cookie %q", r.Header.Get("Cookie"))
		}
		if n%4 == 0 {
			w.WriteHeader(http.StatusTeapot)
		}
		w.Write(hello)
	}))
	defer srv.Close()
	requests := [][]byte{get("x", "a=1"), get("x", "a=1"), get("x", "a=1")}
	r, err := load(srv.Listener.Addr().String(), requests, 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	n := int(served.Load())
	if n == 0 || r.Requests != n || r.Failed != n/4 {
		t.Errorf("%d requests, %d failed; the server saw %d and failed %d", r.Requests, r.Failed, n, n/4)
	}
	if r.PerSecond <= 0 || r.P50 <= 0 || r.P99 < r.P50 {
		t.Errorf("%+v", r)
	}
}

// TestLostUpdatesAreFound has a server that forgets every second addition.
func TestLostUpdatesAreFound(t *testing.T) {
	var n atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("/fill", sayHello)
	mux.HandleFunc("/counter", func(w http.ResponseWriter, r *http.Request) { n.Add(1); sayHello(w, r) })
	mux.HandleFunc("/count", func(w http.ResponseWriter, _ *http.Request) { showCount(w, int(n.Load()/2)) })
	srv := httptest.NewServer(mux)
	defer srv.Close()
	r, err := loseUpdates(srv.Listener.Addr().String(), 10, 4)
	if want := (lostResult{Sent: 40, Kept: 20}); err != nil || r != want {
		t.Errorf("%+v, %v; want %+v", r, err, want)
	}
}

func TestParse(t *testing.T) {
	const text = "HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 5\r\n\r\nhello"
	for i := range len(text) {
		if _, whole, err := parse([]byte(text[:i])); whole || err != nil {
			t.Fatalf("%q: %v, %v", text[:i], whole, err)
		}
	}
	a, whole, err := parse([]byte(text))
	if !whole || err != nil || !a.ok || string(a.body) != "hello" || a.cookie() != "a=b" {
		t.Errorf("%+v, %v, %v, cookie %q", a, whole, err, a.cookie())
	}
	for _, bad := range []string{text + "!", "HTTP/1.1 200 OK\r\n\r\n"} {
		if _, _, err := parse([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func sample() *results {
	r := newResults(&bench{rounds: 1, time: time.Second})
	r.addLoad("none", opIdle, 0, loadResult{Requests: 10, PerSecond: 40_000})
	r.addLoad("none", opIdle, 0, loadResult{Requests: 10, PerSecond: 20_000})
	r.addLoad("crumb-memory", opCounter, 0, loadResult{Requests: 10, PerSecond: 27_000})
	r.addLost("crumb-memory", lostResult{Sent: 1000, Kept: 1000})
	r.addLost("scs-memory", lostResult{Sent: 1000, Kept: 400})
	r.judge()
	return r
}

func TestPlotIsWellFormed(t *testing.T) {
	text := sample().svg()
	dec := xml.NewDecoder(strings.NewReader(text))
	bars := 0
	for {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			bars++
		}
	}
	if bars != 1+2+2 {
		t.Errorf("%d rectangles, want the card and 4 bars", bars)
	}
	for _, want := range []string{"27,000 · 90 %", "plain net/http", ">400<", "prefers-color-scheme"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in %s", want, text)
		}
	}
}

func TestTargets(t *testing.T) {
	got := map[string]string{}
	for _, target := range sample().Targets {
		got[target.What] = target.verdict()
	}
	if v := got["server, memory, counter, of plain"]; v != "must reached" {
		t.Errorf("90 %% of plain: %q", v)
	}
	if v := got["Crumb, memory, lost updates"]; v != "aim reached" {
		t.Errorf("no lost update: %q", v)
	}
	if len(got) != 2 {
		t.Errorf("judged what was not measured: %v", got)
	}
}
