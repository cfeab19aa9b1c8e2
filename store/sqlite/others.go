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

// look reports whether nobody else has committed since the last look. Inside the
// writer's transaction nobody can after it.
func (o *others) look(st *zs.Stmt) (alone bool, err error) {
	v, err := dataVersion(st)
	if err != nil {
		return false, err
	}
	alone = v == o.version
	if !alone && o.version != 0 {
		o.met()
	}
	o.version = v
	return alone, nil
}

// yield leaves the lock to others for a moment if there are any.
func (o *others) yield() {
	if !o.last.IsZero() && time.Since(o.last) < othersMemory {
		time.Sleep(othersPause)
	}
}
