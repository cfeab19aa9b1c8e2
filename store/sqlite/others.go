package sqlite

import (
	"time"

	zs "zombiezen.com/go/sqlite"
)

// others is what the writer knows about other processes that write to the file.
// SQLite's lock is not fair: who holds it takes it again before those who poll
// for it look.
type others struct {
	last    time.Time // when a sign of them was seen
	version int64
}

const (
	othersMemory = 100 * time.Millisecond
	othersPause  = 100 * time.Microsecond
)

// met notes that another process had the lock.
func (o *others) met() { o.last = time.Now() }

// yield leaves the lock to others for a moment if there are any. dataVersion
// moves when another connection has written.
func (o *others) yield(dataVersion *zs.Stmt) {
	if row, err := dataVersion.Step(); err == nil && row {
		if v := dataVersion.ColumnInt64(0); v != o.version {
			if o.version != 0 {
				o.met()
			}
			o.version = v
		}
	}
	dataVersion.Reset()
	if !o.last.IsZero() && time.Since(o.last) < othersMemory {
		time.Sleep(othersPause)
	}
}
