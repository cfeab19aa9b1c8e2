package sqlite

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crumb-go/crumb/session"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func testID(n int) session.ID { return session.ID(fmt.Sprintf("AAAAAAAAAA%06d", n)) }

// record is a session of eight values, as the figures of the project have it.
func record(n int) *session.Record {
	rec := &session.Record{
		Info: session.Info{
			ID: testID(n), Created: now, Seen: now, Expires: now.Add(time.Hour),
			Agent: "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
		},
		Secret: session.Hash{byte(n), byte(n >> 8), 1}, Idle: time.Hour, Absolute: now.Add(24 * time.Hour), Version: 1,
	}
	for i, v := range []string{"1", `"dark"`, "[1,2,3]", `{"name":"Ann","roles":["a","b"]}`, "true", `"2026-11-22T12:00:00Z"`, `"x"`, "12345678"} {
		rec.Values = append(rec.Values, session.Value{Key: fmt.Sprintf("bench.v%d", i), JSON: []byte(v)})
	}
	return rec
}

func add(auth int64) *session.Change {
	return &session.Change{Now: now, Auth: auth, Ops: []session.Op{{Kind: session.OpAdd, Key: "bench.v0", Delta: 1}}}
}

func openAt(tb testing.TB, path string) *Store {
	tb.Helper()
	s, err := Open(tb.Context(), path, Config{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func openNew(tb testing.TB) *Store { return openAt(tb, filepath.Join(tb.TempDir(), "crumb.db")) }

func fill(b *testing.B, s *Store, n int) {
	b.Helper()
	var next atomic.Int64
	b.SetParallelism(64)
	done := make(chan error, 64)
	for range 64 {
		go func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					done <- nil
					return
				}
				if err := s.Create(b.Context(), record(i)); err != nil {
					done <- err
					return
				}
			}
		}()
	}
	for range 64 {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
}

const benchRecords = 10_000

func BenchmarkLoad(b *testing.B) {
	s := openNew(b)
	fill(b, s, benchRecords)
	ids := make([]session.ID, benchRecords)
	for i := range ids {
		ids[i] = testID(i)
	}
	b.Run("one after the other", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := s.Load(b.Context(), ids[i*7919%len(ids)]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(16)
		var n atomic.Int64
		b.RunParallel(func(pb *testing.PB) {
			i := int(n.Add(1)) * 997
			for ; pb.Next(); i++ {
				if _, err := s.Load(b.Context(), ids[i*7919%len(ids)]); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

func BenchmarkUpdate(b *testing.B) {
	for _, sessions := range []int{1, 32, benchRecords} {
		for _, clients := range []int{1, 32, 256} {
			b.Run(fmt.Sprintf("sessions=%d/clients=%d", sessions, clients), func(b *testing.B) {
				s := openNew(b)
				fill(b, s, sessions)
				bases := make([]*session.Record, sessions)
				for i := range bases {
					bases[i] = record(i)
				}
				b.ReportAllocs()
				b.SetParallelism((clients + 1) / 2)
				var n atomic.Int64
				var worst atomic.Int64
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					i := int(n.Add(1))
					if i > clients {
						return
					}
					for ; pb.Next(); i += 7919 {
						start := time.Now()
						if _, err := s.Update(b.Context(), bases[i%sessions], add(0)); err != nil {
							b.Error(err)
						}
						took := int64(time.Since(start))
						for w := worst.Load(); took > w && !worst.CompareAndSwap(w, took); w = worst.Load() {
						}
					}
				})
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "updates/s")
				b.ReportMetric(float64(worst.Load())/1e6, "max-ms")
			})
		}
	}
}
