package sqlite

import (
	"context"
	"math/bits"
	"os"
	"sync/atomic"
	"time"

	zs "zombiezen.com/go/sqlite"
)

// Stats are what a [Store] has done since Open.
type Stats struct {
	// Batches counts the commits by how many calls each carried: the first those
	// of one call, the next of 2, then of up to 4, 8 and so on to 1024.
	Batches [11]int64

	// Calls is how many calls all those commits carried.
	Calls int64

	// LogBytes is the size of the write-ahead log.
	LogBytes int64
}

// stats are the writer's counts, for others to read.
type stats struct {
	batches [len(Stats{}.Batches)]atomic.Int64
	calls   atomic.Int64
}

func (s *stats) committed(calls int) {
	s.batches[min(bits.Len(uint(calls-1)), len(s.batches)-1)].Add(1)
	s.calls.Add(int64(calls))
}

// Stats returns the counts. It asks nothing of the database.
func (s *Store) Stats() Stats {
	var out Stats
	for i := range out.Batches {
		out.Batches[i] = s.writer.stats.batches[i].Load()
	}
	out.Calls = s.writer.stats.calls.Load()
	if info, err := os.Stat(s.path + "-wal"); err == nil {
		out.LogBytes = info.Size()
	}
	return out
}

// Count returns how many sessions live at now, by class: visitors, users who are
// signed in, and users who are remembered. It reads every row, some seconds for a
// million.
func (s *Store) Count(ctx context.Context, now time.Time) (visitors, signedIn, remembered int64, err error) {
	err = s.scan(ctx, func(r *reader) error {
		return query(r.conn, s.count, func(st *zs.Stmt) {
			visitors, signedIn, remembered = st.ColumnInt64(0), st.ColumnInt64(1), st.ColumnInt64(2)
		}, now.UnixMicro())
	})
	if err != nil {
		return 0, 0, 0, fail("count", err)
	}
	return visitors, signedIn, remembered, nil
}
