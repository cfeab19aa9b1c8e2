package track

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/internal/sqldb"
	"github.com/crumb-go/crumb/session"
)

func TestATrailIsReadAsItWasWrittenHoweverItsPiecesLie(t *testing.T) {
	urls := []string{"memory:"}
	for _, kind := range []string{servers.Postgres, servers.MySQL} {
		if url, ok := servers.URL(kind); ok {
			urls = append(urls, url)
		}
	}
	start := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC).UnixMicro()
	texts := []string{"", "/", `/"quoted"\`, "/ä/\u2028", "/<b>&amp;", "/\ufffd\x7f\x01"}
	for _, url := range urls {
		tables := open(t, url)
		id := session.ID("visitor000000001")
		// A piece in each of 600 quarters, more than are read at once.
		all := &update{id: id, created: start, first: start, last: start, requests: 1}
		for i := range int64(600) {
			all.entries = append(all.entries, entry{at: start + (i-482)*quarter + 7, kind: view, name: "/", method: methodOf("GET")})
		}
		write(t, tables, all)
		want := slices.Clone(all.entries)
		// Forty batches in any order, as several processes write them: pieces overlap.
		for i, order := range rand.Perm(40) {
			u := &update{id: id, created: start, first: start, last: start, requests: 1}
			for j := range 1 + rand.IntN(20) {
				e := entry{
					at: start + int64(order/4)*quarter + rand.Int64N(quarter*4/5), name: texts[1+rand.IntN(5)], method: methodOf("GET"), status: 200,
					took: rand.Int64N(math.MaxInt64), extra: extraOf(texts[rand.IntN(6)], texts[rand.IntN(6)]),
				}
				if j%3 == 0 {
					e = entry{at: e.at, kind: event, name: "checkout", extra: &extra{detail: fmt.Sprintf(`{"n":%d,"text":"<\u2028>"}`, i)}}
				}
				u.entries = append(u.entries, e)
			}
			write(t, tables, u)
			want = append(want, u.entries...) // as written: no two at one time
		}
		slices.SortFunc(want, func(a, b entry) int { return int(a.at - b.at) })
		for i := 1; i < len(want); i++ {
			if want[i].at == want[i-1].at {
				t.Fatalf("%s: two entries at %d", url, want[i].at)
			}
		}
		read := func(from, to int64, limit int) (got []entry) {
			t.Helper()
			if err := tables.eachEntry(t.Context(), tables.db, id, from, to, limit, func(e *entry) { got = append(got, *e) }); err != nil {
				t.Fatal(err)
			}
			return got
		}
		if got := read(0, math.MaxInt64, math.MaxInt); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %d entries were read of %d, or others", url, len(got), len(want))
		}
		// In pages of seven, of a part.
		from, to := want[5].at, want[len(want)-5].at
		var got []entry
		for next := from; ; {
			page := read(next, to, 7)
			if got = append(got, page...); len(page) < 7 {
				break
			}
			next = page[6].at + 1
		}
		if !reflect.DeepEqual(got, want[5:len(want)-5]) {
			t.Errorf("%s: in pages of a part %d entries were read of %d", url, len(got), len(want)-10)
		}
	}
}

func write(t *testing.T, tables *Tables, u *update) {
	t.Helper()
	for _, b := range batchesOf([]*update{u}, timeOf(u.first)) {
		if err := tables.write(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAPieceHoldsOneQuarterOfAnHourAndNotMuch(t *testing.T) {
	var entries []entry
	for i := range 2000 {
		entries = append(entries, entry{at: quarter*1000 + int64(i)*quarter/800, kind: view, name: "/a/rather/long/route", method: methodOf("GET")})
	}
	n := 0
	pieces := piecesOf(entries)
	for _, p := range pieces {
		list, err := p.parse()
		if err != nil {
			t.Fatal(err)
		}
		last := list[len(list)-1]
		if slotOf(p.at) != slotOf(last.at) || p.at != list[0].at || p.viewed != last.at || len(p.entries) > maxPiece+1000 {
			t.Errorf("a piece at %d ends at %d, has its last view at %d and takes %d bytes", p.at, last.at, p.viewed, len(p.entries))
		}
		n += len(list)
	}
	if n != len(entries) || len(pieces) < 4 {
		t.Errorf("%d pieces hold %d of %d entries", len(pieces), n, len(entries))
	}
	if _, err := (&piece{entries: `[[1,"GET"`}).parse(); err == nil {
		t.Error("a broken piece was read")
	}
}

func TestTheGuidesQueryReadsTheTrail(t *testing.T) {
	guide, err := os.ReadFile("../docs/tracking-guide.md")
	if err != nil {
		t.Fatal(err)
	}
	_, query, _ := strings.Cut(string(guide), "```sql\n")
	query, _, ok := strings.Cut(query, "```")
	if !ok {
		t.Fatal("the guide has no query")
	}
	tables, err := OpenTables(t.Context(), "memory:", TablesConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer tables.Close()
	at := time.Now().UTC().Truncate(time.Second).Add(-10 * time.Minute)
	u := &update{id: "visitor000000001", first: at.UnixMicro(), last: at.UnixMicro()}
	for i, route := range []string{"/", "/about"} {
		u.entries = append(u.entries, entry{at: at.UnixMicro() + int64(i)*1e6, kind: view, name: route, method: methodOf("GET"), status: 200})
	}
	write(t, tables, u)
	var got []string
	err = tables.db.Rows(t.Context(), query, nil, func(scan sqldb.Scan) error {
		var id, when, route string
		var status int
		err := scan(&id, &when, &route, &status)
		got = append(got, fmt.Sprint(id, " ", when, " ", route, " ", status))
		return err
	})
	want := []string{
		"visitor000000001 " + at.Format(time.DateTime) + " / 200", "visitor000000001 " + at.Add(time.Second).Format(time.DateTime) + " /about 200",
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}
