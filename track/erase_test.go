package track

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/crumb-go/crumb/internal/sqldb"
	"github.com/crumb-go/crumb/session"
)

// numbers returns what the table of counts holds of quarters.
func numbers(t *testing.T, tables *Tables) map[string]int64 {
	t.Helper()
	list := map[string]int64{}
	err := tables.rows(t.Context(), tables.db, tables.sql("SELECT kind, span, slot, name, n FROM {counts}"), nil, func(scan sqldb.Scan) error {
		var kind, span int
		var slot, n int64
		var name string
		err := scan(&kind, &span, &slot, &name, &n)
		if span == spanQuarter || n < 0 {
			list[fmt.Sprintf("%d %d %s %s", kind, span, slotTime(slot).Format("15:04"), name)] = n
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestErasingATrailWhoseBeginningWasSweptTakesWhatIsLeftOfItOnly has other visitors
// in the same quarters, whose numbers must stay.
func TestErasingATrailWhoseBeginningWasSweptTakesWhatIsLeftOfItOnly(t *testing.T) {
	const other = session.ID("visitor000000002")
	noon := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for name, minutes := range map[string][]int{
		"in the middle of a visit":             {1, 14, 16, 17},
		"a quarter without a view in between":  {14, 31},
		"with half an hour in between":         {14, 44},
		"with more than half an hour":          {14, 45},
		"with nothing before":                  {16, 17},
		"with nothing left":                    {13, 14},
		"a view in the middle that comes late": {1, 14, 20, 16},
	} {
		for _, cut := range []int{15, 30} {
			t.Run(fmt.Sprintf("%s, cut at %d", name, cut), func(t *testing.T) {
				onEngines(t, func(t *testing.T, tables *Tables) {
					// What is to stay: the other's numbers, and of the erased visitor
					// what was counted when only the views before the cut were there, but
					// for the page on which a visit ended that went on.
					at := func(m int) time.Time { return noon.Add(time.Duration(m) * time.Minute) }
					var kept []int
					for _, m := range minutes {
						if m < cut {
							kept = append(kept, m)
						}
					}
					for _, m := range []int{2, 18, 32, 50} {
						write(t, tables, of(other, seenAt(at(m), "/other")))
					}
					for _, m := range kept {
						write(t, tables, seenAt(at(m), fmt.Sprintf("/%d", m)))
					}
					want := numbers(t, tables)
					for _, m := range minutes[len(kept):] {
						write(t, tables, seenAt(at(m), fmt.Sprintf("/%d", m)))
					}
					if len(kept) > 0 && len(kept) < len(minutes) {
						if last := kept[len(kept)-1]; slices.Min(minutes[len(kept):])-last <= 30 {
							delete(want, fmt.Sprintf("%d 0 %s /%d", countExit, slotTime(slotOf(at(last).UnixMicro())).Format("15:04"), last))
						}
					}
					r := Retention{Trail: time.Hour}
					for _, c := range []int{cut - 15, cut} { // as it goes in small steps
						if err := tables.Sweep(t.Context(), at(c).Add(time.Hour), r); err != nil {
							t.Fatal(err)
						}
					}
					if err := tables.Erase(t.Context(), someone, at(120)); err != nil {
						t.Fatal(err)
					}
					got := numbers(t, tables)
					for k, n := range got {
						if n != want[k] {
							t.Errorf("%s: %d, want %d", k, n, want[k])
						}
					}
					for k, n := range want {
						if n != got[k] {
							t.Errorf("%s: %d, want %d", k, got[k], n)
						}
					}
				})
			})
		}
	}
}

func TestAViewThatComesLateGoesOnWithAVisitThatWasSwept(t *testing.T) {
	onEngines(t, func(t *testing.T, tables *Tables) {
		noon := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
		at := func(m int) time.Time { return noon.Add(time.Duration(m) * time.Minute) }
		visits := func() int64 {
			totals, err := tables.Totals(t.Context(), Span{From: noon, To: at(60)})
			if err != nil {
				t.Fatal(err)
			}
			return totals.Visits
		}
		write(t, tables, seenAt(at(14), "/14"))
		write(t, tables, seenAt(at(55), "/55"))
		if err := tables.Sweep(t.Context(), at(75), Retention{Trail: time.Hour}); err != nil {
			t.Fatal(err)
		}
		write(t, tables, seenAt(at(20), "/20"))
		if n := visits(); n != 2 {
			t.Errorf("%d visits, want 2", n)
		}
		if err := tables.Erase(t.Context(), someone, at(80)); err != nil {
			t.Fatal(err)
		}
		if n := visits(); n != 1 {
			t.Errorf("%d visits are left, want that which began before the trail does", n)
		}
		for name, n := range numbers(t, tables) {
			if n < 0 {
				t.Errorf("%s: %d", name, n)
			}
		}
	})
}

func TestErasingLeavesNoNumberBelowNothing(t *testing.T) {
	onEngines(t, func(t *testing.T, tables *Tables) {
		at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
		write(t, tables, seenAt(at, "/a", "/b"))
		// As a process with other settings may have left it.
		if _, err := tables.exec(t.Context(), tables.db, tables.sql("DELETE FROM {counts}")); err != nil {
			t.Fatal(err)
		}
		if err := tables.Erase(t.Context(), someone, at); err != nil {
			t.Fatal(err)
		}
		if got := numbers(t, tables); len(got) > 0 {
			t.Errorf("what is left: %v", got)
		}
	})
}

func TestATrailOutlivesNeitherItsVisitorNorItsNumbers(t *testing.T) {
	for _, r := range []Retention{{Counts: 89 * day}, {Visitors: 89 * day}, {Trail: 401 * day}} {
		if got, err := r.WithDefaults(); err == nil {
			t.Errorf("%+v is fine, as %+v", r, got)
		}
	}
	r := Retention{Trail: time.Hour, Visitors: time.Hour, Counts: time.Hour}
	onEngines(t, func(t *testing.T, tables *Tables) {
		at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
		write(t, tables, seenAt(at, "/a", "/b"))
		for swept := at; swept.Before(at.Add(2 * time.Hour)); swept = swept.Add(5 * time.Minute) {
			if err := tables.Sweep(t.Context(), swept, r); err != nil {
				t.Fatal(err)
			}
			lines, err := tables.Trail(t.Context(), someone, at, at.Add(time.Hour), 10)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tables.Visitor(t.Context(), someone); err != nil && len(lines) > 0 {
				t.Errorf("after %v the trail is there without its visitor", swept.Sub(at))
			}
			if len(lines) > 0 && len(numbers(t, tables)) == 0 {
				t.Errorf("after %v the trail is there without its numbers", swept.Sub(at))
			}
		}
	})
}
