package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
)

// Checks are what is counted rather than timed, of Crumb alone.
type checks struct {
	// A request without a cookie that leaves the session alone.
	BareCalls, BareCookies int64

	// 100 requests of one visitor that read and change nothing.
	QuietWrites, QuietCookies int64

	// What a session in the memory store takes beyond its keys, values and agent.
	RecordBytes float64
}

// A countingStore counts the calls of a store.
type countingStore struct {
	*memory.Store
	reads, writes atomic.Int64
}

func (st *countingStore) Load(ctx context.Context, id session.ID) (*session.Record, error) {
	st.reads.Add(1)
	return st.Store.Load(ctx, id)
}

func (st *countingStore) Create(ctx context.Context, rec *session.Record) error {
	st.writes.Add(1)
	return st.Store.Create(ctx, rec)
}

func (st *countingStore) Update(ctx context.Context, base *session.Record, c *session.Change) (*session.Record, error) {
	st.writes.Add(1)
	return st.Store.Update(ctx, base, c)
}

func (st *countingStore) Touch(ctx context.Context, touches []session.Touch) error {
	st.writes.Add(1)
	return st.Store.Touch(ctx, touches)
}

func (st *countingStore) Delete(ctx context.Context, id session.ID) error {
	st.writes.Add(1)
	return st.Store.Delete(ctx, id)
}

func measureChecks(b *bench) error {
	if !b.wants("check", "crumb-memory", "calls") {
		return nil
	}
	c := &checks{}
	if err := c.countCalls(); err != nil {
		return err
	}
	if err := c.weighRecords(); err != nil {
		return err
	}
	b.res.Checks = c
	b.progress("check      %+v", *c)
	return nil
}

func (c *checks) countCalls() error {
	st := &countingStore{Store: memory.New()}
	a, err := openCrumb(st, nil)
	if err != nil {
		return err
	}
	defer a.close()
	cookies := func(path, cookie string) (set string, n int64) {
		w := httptest.NewRecorder()
		a.handlers[path].ServeHTTP(w, request(cookie))
		for _, c := range w.Result().Cookies() {
			set = c.Name + "=" + c.Value
			n++
		}
		return set, n
	}
	_, c.BareCookies = cookies("idle", "")
	c.BareCalls = st.reads.Load() + st.writes.Load()
	cookie, _ := cookies("fill", "")
	before := st.writes.Load()
	for range 100 {
		_, n := cookies("read", cookie)
		c.QuietCookies += n
	}
	c.QuietWrites = st.writes.Load() - before
	return nil
}

func (c *checks) weighRecords() error {
	const n = 50_000
	a, err := openCrumb(memory.New(), nil)
	if err != nil {
		return err
	}
	defer a.close()
	data := len(userAgent) + len(counter) + len("1")
	for _, key := range valueKeys {
		data += len(key) + len(valueText) + len(`""`)
	}
	before := heap()
	for range n {
		r := request("")
		r.Header["User-Agent"] = []string{strings.Clone(userAgent)} // as net/http makes it
		w := &nullWriter{header: http.Header{}}
		a.handlers["fill"].ServeHTTP(w, r)
		if w.code != 0 {
			return fmt.Errorf("fill: status %d", w.code)
		}
	}
	c.RecordBytes = float64(heap()-before)/n - float64(data)
	runtime.KeepAlive(a)
	return nil
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
