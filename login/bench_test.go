package login

import (
	"path/filepath"
	"testing"
)

func BenchmarkTheUserOfARequestIsRead(b *testing.B) {
	l := newBenchOn(b, "sqlite:"+filepath.Join(b.TempDir(), "bench.db"), TablesConfig{})
	u := l.add("ann", "")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.tables.ByID(b.Context(), u.ID); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkATryThatComesTooSoonIsRefused(b *testing.B) {
	l := newBenchOn(b, "sqlite:"+filepath.Join(b.TempDir(), "bench.db"), TablesConfig{})
	fail(b, l.Login, l.account(nil, "ann"))
	b.ReportAllocs()
	for b.Loop() {
		if wait := after(b, l.try("ann", "guess")); wait != firstPause {
			b.Fatal(wait)
		}
	}
}

func BenchmarkATryIsReservedAndGivenBack(b *testing.B) {
	l := newBenchOn(b, "sqlite:"+filepath.Join(b.TempDir(), "bench.db"), TablesConfig{})
	counters := []counter{l.account(nil, "ann")}
	b.ReportAllocs()
	for b.Loop() {
		res, err := l.tables.reserve(b.Context(), l.now(), counters)
		if err != nil {
			b.Fatal(err)
		}
		if err := l.tables.giveBack(b.Context(), l.now(), res); err != nil {
			b.Fatal(err)
		}
	}
}
