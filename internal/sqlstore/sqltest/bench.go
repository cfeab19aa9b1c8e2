package sqltest

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/crumb-go/crumb/session"
)

// Bench measures a store alone: the server's work and the way there and back.
func Bench(b *testing.B, e *Engine) {
	st := e.OpenNew(b)
	const sessions = 1000
	recs := make([]*session.Record, sessions)
	for n := range recs {
		recs[n] = visitor(n)
		recs[n].Agent = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"
		recs[n].Values = session.Values{{Key: "n.n", JSON: []byte("1")}, {Key: "ui.theme", JSON: []byte(`"dark"`)}}
	}
	create(b, st, recs...)
	var next atomic.Int64
	parallel := func(b *testing.B, fn func(n int) error) {
		b.ReportAllocs()
		b.SetParallelism(8)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := fn(int(next.Add(1)) % sessions); err != nil {
					b.Error(err)
				}
			}
		})
	}
	b.Run("load", func(b *testing.B) {
		parallel(b, func(n int) error { _, err := st.Load(b.Context(), id(n)); return err })
	})
	b.Run("update", func(b *testing.B) {
		b.ReportAllocs()
		for n := 0; b.Loop(); n = (n + 1) % sessions {
			var err error
			if recs[n], err = st.Update(b.Context(), recs[n], add()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("load and update", func(b *testing.B) {
		parallel(b, func(n int) error {
			rec, err := st.Load(b.Context(), id(n))
			if err == nil {
				_, err = st.Update(b.Context(), rec, add())
			}
			return err
		})
	})
	b.Run("load and update of one session by all", func(b *testing.B) {
		parallel(b, func(int) error {
			rec, err := st.Load(b.Context(), id(1))
			if err == nil {
				_, err = st.Update(b.Context(), rec, add())
			}
			return err
		})
	})
	b.Run("touch of 500", func(b *testing.B) {
		b.ReportAllocs()
		touches := make([]session.Touch, 500)
		for round := 1; b.Loop(); round++ {
			for n := range touches {
				touches[n] = session.Touch{ID: id(2 * n), Seen: recs[0].Seen.Add(time.Duration(round) * time.Millisecond)}
			}
			if err := st.Touch(b.Context(), touches); err != nil {
				b.Fatal(err)
			}
		}
	})
}
