package memory_test

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
	"github.com/crumb-go/crumb/store/storetest"
)

var (
	ctx = context.Background()
	now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(*testing.T) session.Store { return memory.New() })
}

func TestALoadAllocatesNothingAndAnUpdateNoMoreThanApply(t *testing.T) {
	st := memory.New()
	rec := signedIn(1, "ana")
	if err := st.Create(ctx, rec); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = st.Load(ctx, rec.ID) }); n != 0 {
		t.Errorf("Load allocates %v times", n)
	}
	c := count(rec)
	apply := testing.AllocsPerRun(100, func() { _, _ = c.Apply(rec) })
	if n := testing.AllocsPerRun(100, func() { _, _ = st.Update(ctx, rec, c) }); n > apply {
		t.Errorf("Update allocates %v times, Apply %v", n, apply)
	}
}

func TestARecordCostsLessThanAKilobyteMoreThanItsData(t *testing.T) {
	const n = 50_000
	for _, tt := range []struct {
		name   string
		record func(i int) *session.Record
	}{
		{"a visitor", visitor},
		{"a user with one session", func(i int) *session.Record { return signedIn(i, "user "+strconv.Itoa(i)) }},
		{"a user with three sessions", func(i int) *session.Record { return signedIn(i, "user "+strconv.Itoa(i/3)) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := heap()
			st := memory.New()
			data := 0
			for i := range n {
				rec := tt.record(i)
				data += len(rec.ID) + len(rec.User) + len(rec.Agent)
				for _, v := range rec.Values {
					data += len(v.Key) + len(v.JSON)
				}
				if err := st.Create(ctx, rec); err != nil {
					t.Fatal(err)
				}
			}
			total := int(heap()-before) / n
			runtime.KeepAlive(st)
			over := total - data/n
			t.Logf("%d bytes a record, %d of them ID, user, agent, keys and values: %d over the data", total, data/n, over)
			if over > 1024 {
				t.Errorf("a record costs %d bytes over its data, more than 1024", over)
			}
		})
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func BenchmarkLoad(b *testing.B) {
	st, recs := filled(b, 10_000)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := st.Load(ctx, recs[i%len(recs)].ID); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLoadParallel(b *testing.B) {
	st, recs := filled(b, 10_000)
	b.ReportAllocs()
	var first atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		for i := int(first.Add(5003)); pb.Next(); i++ {
			if _, err := st.Load(ctx, recs[i%len(recs)].ID); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkUpdateCounter(b *testing.B) {
	st, recs := filled(b, 10_000)
	c := count(recs[0])
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := st.Update(ctx, recs[i%len(recs)], c); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUpdateCounterParallel(b *testing.B) {
	st, recs := filled(b, 10_000)
	c := count(recs[0])
	b.ReportAllocs()
	var first atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		for i := int(first.Add(5003)); pb.Next(); i++ {
			if _, err := st.Update(ctx, recs[i%len(recs)], c); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkListUser(b *testing.B) {
	st, _ := filled(b, 10_000)
	q := session.Query{User: "ana 7", Limit: 100, Now: now}
	b.ReportAllocs()
	for b.Loop() {
		if infos, err := st.List(ctx, q); err != nil || len(infos) != 10 {
			b.Fatal(len(infos), err)
		}
	}
}

// filled returns a store with n sessions, ten of each user.
func filled(b *testing.B, n int) (*memory.Store, []*session.Record) {
	st := memory.New()
	var recs []*session.Record
	for i := range n {
		recs = append(recs, signedIn(i, "ana "+strconv.Itoa(i/10)))
		if err := st.Create(ctx, recs[i]); err != nil {
			b.Fatal(err)
		}
	}
	return st, recs
}

func count(rec *session.Record) *session.Change {
	return &session.Change{Now: now, Auth: rec.Auth, Seen: now, Ops: []session.Op{{Kind: session.OpAdd, Key: "hello.views", Delta: 1}}}
}

func visitor(i int) *session.Record {
	return &session.Record{
		Info: session.Info{
			ID: session.ID(fmt.Sprintf("memory_%09d", i)), Created: now, Seen: now, Expires: now.Add(time.Hour),
			Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), Agent: string(fmt.Appendf(nil, "Mozilla/5.0 (X11; Linux x86_64; rv:%d.0)", i)),
		},
		Secret:   session.Hash{byte(i), byte(i >> 8)},
		Idle:     time.Hour,
		Absolute: now.Add(24 * time.Hour),
		Values: session.Values{
			{Key: "hello.views", JSON: []byte("1")},
			{Key: "ui.theme", JSON: []byte(`"dark"`)},
		},
	}
}

func signedIn(i int, user string) *session.Record {
	rec := visitor(i)
	rec.User, rec.SignedIn, rec.Auth = user, now, 1
	return rec
}

func TestCountIsByClassAndOfThoseThatLive(t *testing.T) {
	st := memory.New()
	n := 0
	create := func(user string, remember bool, expires time.Duration, idle time.Duration) {
		n++
		rec := &session.Record{Idle: idle}
		rec.ID, rec.User, rec.Remember, rec.Expires = session.ID(fmt.Sprintf("count-%010d", n)), user, remember, now.Add(expires)
		if err := st.Create(ctx, rec); err != nil {
			t.Fatal(err)
		}
	}
	create("", false, time.Minute, time.Hour)
	create("", false, 0, time.Hour)
	create("", false, time.Minute, 0)
	create("ana", false, time.Minute, time.Hour)
	create("ana", false, time.Minute, time.Hour)
	create("ana", true, time.Minute, time.Hour)
	create("bea", true, time.Minute, time.Hour)
	create("bea", true, time.Microsecond, time.Hour)
	create("bea", true, -time.Minute, time.Hour)
	if a, b, c, err := st.Count(ctx, now); a != 1 || b != 2 || c != 3 || err != nil {
		t.Errorf("it counts %d, %d, %d, %v", a, b, c, err)
	}
}
