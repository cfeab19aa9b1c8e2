package postgres

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/crumb-go/crumb/internal/sqlstore/sqltest"
	"github.com/crumb-go/crumb/session"
)

func TestEachCallGoesByAnIndex(t *testing.T) { sqltest.Plans(t, engine(t)) }

// An update that writes no index (a heap-only tuple) is why the expiry is indexed
// by ten minutes and why pages are filled to 80%.
func TestTouchesWriteNoIndex(t *testing.T) {
	const sessions, apart, rounds = 1000, 20, 3
	e := engine(t)
	prefix := e.Prefix(t)
	if err := e.Apply(t.Context(), e.URL, prefix); err != nil {
		t.Fatal(err)
	}
	st, err := Open(t.Context(), e.URL, Config{TablePrefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]session.ID, sessions)
	at := time.Now().UTC().Truncate(10 * time.Minute)
	for n := range ids {
		ids[n] = session.ID(fmt.Sprintf("Hot_______%06d", n))
		err := st.Create(t.Context(), &session.Record{
			Info: session.Info{ID: ids[n], Created: at, Seen: at, Expires: at.Add(time.Hour), Agent: strings.Repeat("a", 120)},
			Idle: time.Hour, Absolute: at.Add(24 * time.Hour),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for round := range rounds {
		for from := range apart {
			var touches []session.Touch
			for n := from; n < sessions; n += apart {
				touches = append(touches, session.Touch{ID: ids[n], Seen: at.Add(time.Duration(round+1) * time.Second)})
			}
			if err := st.Touch(t.Context(), touches); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := st.Close(); err != nil { // the server counts what a connection did when it ends
		t.Fatal(err)
	}
	var updates, hot int
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); updates < rounds*sessions && time.Now().Before(deadline); <-tick.C {
		row := e.Query(t, "SELECT concat(n_tup_upd, ' ', n_tup_hot_upd) FROM pg_stat_user_tables WHERE relname = '"+prefix+"sessions'")
		a, b, _ := strings.Cut(row[0], " ")
		updates, _ = strconv.Atoi(a)
		hot, _ = strconv.Atoi(b)
	}
	if updates != rounds*sessions || hot < updates*95/100 {
		t.Errorf("of %d updates %d wrote no index; want %d, and 95%% of them", updates, hot, rounds*sessions)
	}
	t.Logf("%d of %d updates wrote no index", hot, updates)
}
