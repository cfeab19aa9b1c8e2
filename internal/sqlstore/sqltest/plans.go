package sqltest

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/crumb-go/crumb/internal/sqlstore"
	"github.com/crumb-go/crumb/session"
)

// An explainer asks for the plan of each statement before it runs.
type explainer struct {
	sqlstore.DB
	explain string
	plans   strings.Builder
	calls   int
}

func (e *explainer) ask(ctx context.Context, st sqlstore.Statement) error {
	e.calls++
	st.SQL = e.explain + " " + st.SQL
	return e.DB.Query(ctx, st, func(scan sqlstore.Scan) error {
		var line string
		err := scan(&line)
		e.plans.WriteString(line + "\n")
		return err
	})
}

func (e *explainer) Exec(ctx context.Context, st sqlstore.Statement) (int64, error) {
	if err := e.ask(ctx, st); err != nil {
		return 0, err
	}
	return e.DB.Exec(ctx, st)
}

func (e *explainer) Query(ctx context.Context, st sqlstore.Statement, row func(sqlstore.Scan) error) error {
	if err := e.ask(ctx, st); err != nil {
		return err
	}
	return e.DB.Query(ctx, st, row)
}

func (e *explainer) Locked(ctx context.Context, lock sqlstore.Statement, change func(sqlstore.Scan) (sqlstore.Statement, error)) (int64, error) {
	if err := e.ask(ctx, lock); err != nil {
		return 0, err
	}
	return e.DB.Locked(ctx, lock, change)
}

// Plans checks that each call is one statement, or one transaction if it is an
// update that locks, and reads no more of a large table than it needs.
func Plans(t *testing.T, e *Engine) {
	prefix := e.Prefix(t)
	e.apply(t, prefix)
	e.fill(t, prefix)
	db, close, err := e.DB(t.Context(), e.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(close)
	x := &explainer{DB: db, explain: e.Explain}
	st := sqlstore.New(x, e.Dialect, prefix, slog.New(slog.DiscardHandler))
	ctx := t.Context()
	base, err := st.Load(ctx, filled(7))
	if err != nil {
		t.Fatal(err)
	}
	at := base.Seen
	key, user, created, expires := e.PrimaryKey, prefix+"sessions_user", prefix+"sessions_created", prefix+"sessions_expires"
	if strings.HasPrefix(key, "sessions") {
		key = prefix + key
	}
	for _, call := range []struct {
		name, index string
		do          func() error
	}{
		{"Load", key, func() error { _, err := st.Load(ctx, base.ID); return err }},
		{"Create", "", func() error { return st.Create(ctx, visitor(1)) }},
		{"Update", key, func() error {
			base, err = st.Update(ctx, base, &session.Change{Now: at, Auth: base.Auth, Ops: add().Ops})
			return err
		}},
		{"Update of all columns", key, func() error {
			_, err := st.Update(ctx, base, &session.Change{Now: at, Auth: base.Auth, Agent: "another"})
			return err
		}},
		{"Update that locks", key, func() error {
			_, err := st.Update(ctx, &session.Record{Info: session.Info{ID: base.ID}}, &session.Change{Now: at, Auth: base.Auth, Ops: add().Ops})
			return err
		}},
		{"Touch", key, func() error {
			var touches []session.Touch
			for n := range 50 {
				touches = append(touches, session.Touch{ID: filled(n * 11), Seen: at.Add(time.Minute)})
			}
			return st.Touch(ctx, touches)
		}},
		{"Check", key, func() error {
			var ids []session.ID
			for n := range 50 {
				ids = append(ids, filled(n*11))
			}
			_, err := st.Check(ctx, at, ids)
			return err
		}},
		{"List of a user", user, func() error {
			page, err := st.List(ctx, session.Query{User: "user 7", Now: at, Limit: 1000})
			if len(page) != 20 {
				return fmt.Errorf("the page holds %d sessions", len(page))
			}
			return err
		}},
		{"the next page of a user", user, func() error {
			_, err := st.List(ctx, session.Query{User: "user 7", Now: at, Limit: 10, After: &base.Info})
			return err
		}},
		{"List of all", created, func() error { _, err := st.List(ctx, session.Query{All: true, Now: at, Limit: 100}); return err }},
		{"Sweep", expires, func() error {
			n, err := st.Sweep(ctx, filledFrom.Add(time.Hour+20*time.Minute), 500)
			if n == 0 || n == 500 {
				return fmt.Errorf("%d were swept", n)
			}
			return err
		}},
		{"Delete", key, func() error { return st.Delete(ctx, base.ID) }},
	} {
		t.Run(call.name, func(t *testing.T) {
			x.plans.Reset()
			x.calls = 0
			if err := call.do(); err != nil {
				t.Fatal(err)
			}
			if x.calls != 1 {
				t.Errorf("it took %d statements", x.calls)
			}
			plan := x.plans.String()
			if scans := fmt.Sprintf(e.Scans, prefix); regexp.MustCompile(scans).MatchString(plan) {
				t.Errorf("it reads all sessions:\n%s", plan)
			}
			if index := fmt.Sprintf(e.Index, call.index); call.index != "" && !regexp.MustCompile(index).MatchString(plan) {
				t.Errorf("it does not use the index %s:\n%s", call.index, plan)
			}
		})
	}
}

var filledFrom = now().Add(-10 * 24 * time.Hour)

func filled(n int) session.ID { return session.ID(fmt.Sprintf("Filled____%06d", n)) }

// fill creates 10,000 sessions, one a minute, half of them of 250 users.
func (e *Engine) fill(t *testing.T, prefix string) {
	t.Helper()
	const digits = "(SELECT 0 AS n UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4" +
		" UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)"
	created := fmt.Sprintf("%d + CAST(i AS decimal(20)) * 60000000", filledFrom.UnixMicro())
	q := e.Dialect.Quote
	e.Query(t, fmt.Sprintf("INSERT INTO %ssessions (id, %suser%s, created, seen, expires, expires_10min, idle, absolute, remember, addr, agent, auth, secret, format, version, %svalues%s)", prefix, q, q, q, q)+
		" SELECT concat('Filled____', lpad(concat(i, ''), 6, '0')), "+e.Bytes("CASE WHEN i % 500 < 250 THEN concat('user ', i % 500) ELSE '' END")+", "+
		strings.Join([]string{created, created, created + " + 3600000000", "floor((" + created + " + 3600000000) / 600000000)", "3600000000", created + " + 86400000000"}, ", ")+
		", false, '', "+e.Bytes("'Mozilla'")+", 1, "+e.Bytes("repeat('s', 32)")+", 1, 0, "+e.Bytes("concat('{\"a.b\":\"', repeat('x', 200), '\"}')")+
		" FROM (SELECT a.n + 10 * b.n + 100 * c.n + 1000 * d.n AS i FROM "+digits+" AS a, "+digits+" AS b, "+digits+" AS c, "+digits+" AS d) AS numbers")
	e.Query(t, "ANALYZE "+e.Analyze+prefix+"sessions")
}
