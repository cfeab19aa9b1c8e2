package track_test

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
	"github.com/crumb-go/crumb/track"
)

// BenchmarkTracking is one request, with its part of the writing, beside the same
// request without tracking. One of 15,000 requests writes, as in a second of a
// busy server.
func BenchmarkTracking(b *testing.B) {
	for _, tracked := range []bool{false, true} {
		b.Run(map[bool]string{false: "off", true: "on"}[tracked], func(b *testing.B) {
			tables, err := track.OpenTables(b.Context(), "sqlite:"+filepath.Join(b.TempDir(), "track.db"), track.TablesConfig{})
			if err != nil {
				b.Fatal(err)
			}
			defer tables.Close()
			tracker, err := track.New(track.Config{Tables: tables, PerSession: 1 << 40, MaxQueue: 1 << 20, MaxQueueBytes: 1 << 30})
			if err != nil {
				b.Fatal(err)
			}
			m, err := session.NewManager(memory.New(), session.Config{Insecure: true})
			if err != nil {
				b.Fatal(err)
			}
			mux := http.NewServeMux()
			mux.HandleFunc("GET /about", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNoContent) })
			mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
				seen.Add(session.From(r), 1)
				w.WriteHeader(http.StatusNoContent)
			})
			h := http.Handler(mux)
			if tracked {
				h = tracker.Handler(mux)
			}
			h = m.Handler(h)
			var visitors []*http.Request
			for range 32 {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
				r := httptest.NewRequest("GET", "/about", nil)
				r.AddCookie(w.Result().Cookies()[0])
				r.Header.Set("User-Agent", firefox)
				r.Header.Set("Accept-Language", "de-CH,de;q=0.9")
				visitors = append(visitors, r)
			}
			b.ReportAllocs()
			var writing time.Duration
			n := 0
			for b.Loop() {
				h.ServeHTTP(discard{}, visitors[n%len(visitors)])
				if n++; tracked && n%15_000 == 0 {
					began := time.Now()
					if err := tracker.Flush(b.Context()); err != nil {
						b.Fatal(err)
					}
					writing += time.Since(began)
				}
			}
			b.ReportMetric(float64(writing.Nanoseconds())/float64(n), "ns-writing/op")
		})
	}
}

// discard is a ResponseWriter that keeps nothing.
type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}
