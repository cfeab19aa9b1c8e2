package login

import (
	"context"
	"math"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// A hasher computes hashes of passwords, a few at a time: each takes 19 MiB.
type hasher struct {
	all       queue // a place for each hash under way
	strangers queue // as many places, but for a third, which known devices keep
	reserve   reserve

	counted func(cost) // of tests: called before each hash
}

// slots is how many hashes are computed at once: as many as there are processors,
// each of which a hash keeps busy, two at least, and few enough that their memory
// stays below 320 MiB. Strangers have a third less, so that a flood of them leaves
// processors to the rest of the app.
func slots() int { return max(2, min(runtime.GOMAXPROCS(0), 16)) }

func newHasher() *hasher {
	n := slots()
	return &hasher{all: newQueue(n), strangers: newQueue(n - (n+2)/3)}
}

func (h *hasher) count(c cost) {
	if h.counted != nil {
		h.counted(c)
	}
}

// acquire waits for a place, for a second at most, and returns what gives it back,
// or a [*Throttled]. known is for those who have shown that they are no stranger:
// however many strangers come, they find a place.
func (h *hasher) acquire(ctx context.Context, known bool) (release func(), err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, maxWait, errBusy)
	defer cancel()
	if known {
		return h.all.enter(ctx)
	}
	leave, err := h.strangers.enter(ctx)
	if err != nil {
		return nil, err
	}
	leaveAll, err := h.all.enter(ctx)
	if err != nil {
		leave()
		return nil, err
	}
	began := time.Now()
	return func() {
		leaveAll()
		if h.isFull() {
			h.reserve.hold()
			time.AfterFunc(min(floodPause*time.Since(began), longestPause), leave)
			return
		}
		leave()
	}, nil
}

// floodPause is how many times as long as it was used a place of strangers stays
// empty while more of them wait than can have their turn in time. A flood, most of
// which is refused whatever is done, so takes a tenth of the processors that it
// could take, and the rest of the app keeps its times. But no longer than a quarter of
// what somebody waits: also where hashing is slow, some have their turn.
const (
	floodPause   = 9
	longestPause = maxWait / 4
)

// isFull reports whether a stranger would be told at once that there is no place.
func (h *hasher) isFull() bool {
	return int(h.strangers.waiting.Load()) >= maxWaiting*cap(h.strangers.places)
}

const maxWait = time.Second

// A reserve is memory that is held from the first flood on and never touched, so
// that it takes addresses alone. What the heap holds decides how much garbage is
// collected at a time: beside a small heap, the 19 MiB of each hash would have a
// collection of their own, and each of those makes some requests wait for
// milliseconds.
type reserve struct {
	mu   sync.Mutex
	held []byte // guarded by mu
}

const reserveBytes = 64 << 20

// hold takes the reserve, but not where a memory limit is set, for it would count.
func (r *reserve) hold() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held == nil && debug.SetMemoryLimit(-1) == math.MaxInt64 {
		r.held = make([]byte, reserveBytes)
	}
}

// errBusy says that there was no place in time. What is asked of those who get
// it is longer than what they waited, so that their number goes down.
var errBusy = &Throttled{After: 2 * time.Second}

// A queue lets in so many at once and lets a few more wait.
type queue struct {
	places  chan struct{}
	waiting *atomic.Int32
}

// maxWaiting for each place: more of them would not have their turn in time.
const maxWaiting = 16

func newQueue(places int) queue {
	return queue{places: make(chan struct{}, places), waiting: new(atomic.Int32)}
}

func (q queue) enter(ctx context.Context) (leave func(), err error) {
	leave = func() { <-q.places }
	select {
	case q.places <- struct{}{}:
		return leave, nil
	default:
	}
	defer q.waiting.Add(-1)
	if int(q.waiting.Add(1)) > maxWaiting*cap(q.places) {
		return nil, errBusy
	}
	select {
	case q.places <- struct{}{}:
		return leave, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
