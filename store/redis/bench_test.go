package redis

import (
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/session"
)

// Sessions of eight values, 32 requests at a time.
func BenchmarkStore(b *testing.B) {
	url, ok := servers.URL(servers.Redis)
	if !ok {
		b.Log(servers.LeftOut([]string{servers.Redis}))
		return
	}
	s, err := Open(b.Context(), url, Config{KeyPrefix: newPrefix(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	defer deleteKeys(b, s.client(), s.cfg.KeyPrefix)
	const sessions = 64
	var recs [sessions]*session.Record
	for i := range recs {
		rec := visitor(fmt.Sprintf("bench-%04d", i))
		rec.Agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
		for k := range 7 {
			rec.Values = append(rec.Values, session.Value{Key: fmt.Sprint("o.k", k), JSON: []byte(`"some value here"`)})
		}
		if err := s.Create(b.Context(), rec); err != nil {
			b.Fatal(err)
		}
		recs[i] = rec
	}
	var next atomic.Int64
	parallel := func(b *testing.B, call func(n int64) error) {
		b.ReportAllocs()
		b.SetParallelism(16)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := call(next.Add(1)); err != nil {
					b.Error(err)
				}
			}
		})
	}
	b.Run("load", func(b *testing.B) {
		parallel(b, func(n int64) error { return second(s.Load(b.Context(), recs[n%sessions].ID)) })
	})
	b.Run("load and update", func(b *testing.B) {
		parallel(b, func(n int64) error {
			rec, err := s.Load(b.Context(), recs[n%sessions].ID)
			if err != nil {
				return err
			}
			c := add(1)
			c.Seen = c.Now
			_, err = s.Update(b.Context(), rec, c)
			return err
		})
	})
	b.Run("update of what another changed", func(b *testing.B) {
		parallel(b, func(n int64) error { return second(s.Update(b.Context(), recs[0], add(1))) })
	})
	b.Run("touch of 500", func(b *testing.B) {
		var touches []session.Touch
		for i := range 500 {
			touches = append(touches, session.Touch{ID: recs[i%sessions].ID})
		}
		b.ReportAllocs()
		for b.Loop() {
			now := time.Now().UTC().Truncate(time.Microsecond)
			for i := range touches {
				touches[i].Seen = now
			}
			if err := s.Touch(b.Context(), touches); err != nil {
				b.Fatal(err)
			}
		}
	})
}
