package postgres

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/crumb-go/crumb/session"
)

const password = "s3cr3t"

func TestAURLThatIsWrongSaysWhatToWriteAndNoPassword(t *testing.T) {
	for raw, want := range map[string]string{
		"postgres://user:" + password + "#x@host/db":                          "%23 for #",
		"postgres://user:" + password + "@host:port/db":                       "%23 for #",
		"mysql://user:" + password + "@host/db":                               "postgres://user:password@host:5432/database",
		"crumb.db":                                                            "postgres://user:password@host:5432/database",
		"postgres://user:" + password + "@host/db?sslmode=maybe":              "sslmode",
		"postgres://user:" + password + "@host/db?pool_max_conns=many":        "pool_max_conns",
		"postgres://user:" + password + "@127.0.0.1:1/db?sslmode=disable":     "127.0.0.1:1",
		"postgres://user@127.0.0.1:1/db?sslmode=disable&password=" + password: "127.0.0.1:1",
	} {
		_, err := Open(t.Context(), raw, Config{Logger: slog.New(slog.DiscardHandler)})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), password) {
			t.Errorf("%s: %v", raw, err)
		}
	}
}

func TestTheURLSetsThePool(t *testing.T) {
	for query, want := range map[string]string{
		"":                      "10 5s",
		"?pool_max_conns=3":     "3 5s",
		"?connect_timeout=2":    "10 2s",
		"?application_name=app": "10 5s",
	} {
		pool, err := connect(t.Context(), "postgres://user@host/db"+query)
		if err != nil {
			t.Fatal(err)
		}
		cfg := pool.Config()
		pool.Close()
		if got := fmt.Sprint(cfg.MaxConns, " ", cfg.ConnConfig.ConnectTimeout); got != want {
			t.Errorf("%q: %s, not %s", query, got, want)
		}
		if name := cfg.ConnConfig.RuntimeParams["application_name"]; (name == "crumb") != !strings.Contains(query, "application_name") {
			t.Errorf("%q: the server is told that this is %q", query, name)
		}
	}
}

func TestConnectionsToAServerThatBecameReadOnlyAreLeft(t *testing.T) {
	e := engine(t)
	prefix := e.Prefix(t)
	cfg := Config{TablePrefix: prefix}
	if err := ApplySchema(t.Context(), e.URL, cfg); err != nil {
		t.Fatal(err)
	}
	st, err := Open(t.Context(), e.URL+"&pool_max_conns=4", cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	at := time.Now().UTC().Truncate(time.Microsecond)
	rec := &session.Record{Info: session.Info{ID: "ReadOnly________", Created: at, Seen: at, Expires: at.Add(time.Hour)}, Idle: time.Hour, Absolute: at.Add(time.Hour)}
	if err := st.Create(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	for _, base := range []*session.Record{rec, {Info: session.Info{ID: rec.ID}}} {
		release := eachConnection(t, st, "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
		release(3) // the fourth is in use
		if _, err := st.Update(t.Context(), base, &session.Change{Now: at}); err == nil || !strings.Contains(err.Error(), "25006") || errors.Is(err, session.ErrUnknown) {
			t.Errorf("on a connection that is read-only: %v", err)
		}
		release(1)
		eachConnection(t, st, "DELETE FROM "+prefix+"sessions WHERE id = 'none'")(4)
		if _, err := st.Update(t.Context(), base, &session.Change{Now: at}); err != nil {
			t.Errorf("on a new connection: %v", err)
		}
	}
}

// eachConnection runs a statement on four connections and returns what gives back as
// many of them.
func eachConnection(t *testing.T, st *Store, statement string) (release func(n int)) {
	t.Helper()
	var conns []*pgxpool.Conn
	for range 4 {
		c, err := st.pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Exec(t.Context(), statement); err != nil {
			t.Errorf("%s: %v", statement, err)
		}
		conns = append(conns, c)
	}
	return func(n int) {
		for _, c := range conns[:n] {
			c.Release()
		}
		conns = conns[n:]
	}
}

func TestAStoreOverAPoolOfTheAppLeavesItOpen(t *testing.T) {
	e := engine(t)
	prefix := e.Prefix(t)
	pool, err := pgxpool.New(t.Context(), e.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	cfg := Config{TablePrefix: prefix}
	if _, err := New(t.Context(), pool, cfg); err == nil || !strings.Contains(err.Error(), "crumb schema apply") {
		t.Errorf("without tables: %v", err)
	}
	if err := ApplySchema(t.Context(), e.URL, cfg); err != nil {
		t.Fatal(err)
	}
	st, err := New(t.Context(), pool, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Error(err)
	}
	if err := pool.Ping(t.Context()); err != nil {
		t.Errorf("the pool of the app is closed: %v", err)
	}
}

// What crumb schema print prints is what people give to psql.
func TestTheServerTakesTheSchemaAsItIsPrinted(t *testing.T) {
	e := engine(t)
	prefix := e.Prefix(t)
	e.Query(t, Schema(prefix))
	if version, err := Status(t.Context(), e.URL, Config{TablePrefix: prefix}); version != SchemaVersion || err != nil {
		t.Errorf("version %d, %v", version, err)
	}
	if !strings.Contains(Schema(""), "CREATE TABLE crumb_sessions") {
		t.Error("the default prefix is another one")
	}
}

// An app needs no right to create tables.
func TestAUserWhoMayOnlyReadAndWriteRowsIsEnough(t *testing.T) {
	e := engine(t)
	prefix := e.Prefix(t)
	cfg := Config{TablePrefix: prefix}
	if err := ApplySchema(t.Context(), e.URL, cfg); err != nil {
		t.Fatal(err)
	}
	role := strings.TrimSuffix(prefix, "_")
	e.Query(t, fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD 'app'", role))
	t.Cleanup(func() { e.Query(t, fmt.Sprintf("DROP OWNED BY %s; DROP ROLE %s", role, role)) })
	e.Query(t, fmt.Sprintf("GRANT SELECT, INSERT, UPDATE, DELETE ON %ssessions TO %s; GRANT SELECT ON %sschema TO %s", prefix, role, prefix, role))
	u, err := url.Parse(e.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "app")
	st, err := Open(t.Context(), u.String(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	at := time.Now().UTC().Truncate(time.Microsecond)
	rec := &session.Record{Info: session.Info{ID: "Least____________", Created: at, Seen: at, Expires: at.Add(time.Hour)}, Idle: time.Hour, Absolute: at.Add(time.Hour)}
	if err := st.Create(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Update(t.Context(), rec, &session.Change{Now: at, End: true}); err != nil {
		t.Error(err)
	}
	if _, err := st.Sweep(t.Context(), at.Add(2*time.Hour), 10); err != nil {
		t.Error(err)
	}
	if err := ApplySchema(t.Context(), u.String(), cfg); err != nil {
		t.Errorf("applying a schema that is there: %v", err)
	}
}

func TestInspectSaysWhatTheServerPromises(t *testing.T) {
	e := engine(t)
	prefix := e.Prefix(t)
	cfg := Config{TablePrefix: prefix}
	now := time.Now()
	in, err := Inspect(t.Context(), e.URL, cfg, now)
	if err != nil || in.SchemaVersion != 0 {
		t.Fatalf("without tables: %+v, %v", in, err)
	}
	if err := ApplySchema(t.Context(), e.URL, cfg); err != nil {
		t.Fatal(err)
	}
	st, err := Open(t.Context(), e.URL, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	for n, created := range []time.Duration{-time.Minute, -48 * time.Hour, 2 * time.Hour} {
		at := now.Add(created).UTC().Truncate(time.Microsecond)
		err := st.Create(t.Context(), &session.Record{
			Info: session.Info{ID: session.ID(fmt.Sprintf("Inspect___%06d", n)), Created: at, Seen: at, Expires: at.Add(time.Hour)},
			Idle: time.Hour, Absolute: at.Add(time.Hour),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if in, err = Inspect(t.Context(), e.URL, cfg, now); err != nil {
		t.Fatal(err)
	}
	if in.SchemaVersion != SchemaVersion || in.Sessions != 2 || in.Overdue != 1 || in.Future != 1 || in.Ahead.Round(time.Minute) != 2*time.Hour {
		t.Errorf("the tables: %+v", in)
	}
	if !strings.HasPrefix(in.Server, "PostgreSQL ") || in.SynchronousCommit != "on" || in.Standby || !in.Local || in.Encrypted || in.Skew.Abs() > 10*time.Second {
		t.Errorf("the server: %+v", in)
	}
	// Of a session, which is what counts.
	u, err := url.Parse(e.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.RawQuery += "&synchronous_commit=off"
	in, err = Inspect(t.Context(), u.String(), cfg, now)
	if err != nil || !slices.ContainsFunc(in.Problems, func(p string) bool { return strings.Contains(p, "synchronous_commit is off") }) {
		t.Errorf("%+v, %v", in, err)
	}
	if in, err = Inspect(t.Context(), e.URL, cfg, now.Add(-time.Hour)); err != nil || in.Skew.Round(time.Minute) != time.Hour {
		t.Errorf("an hour behind the server: %+v, %v", in, err)
	}
}

func TestThePromisesFollowTheSettings(t *testing.T) {
	safe := Inspection{Fsync: "on", FullPageWrites: "on", SynchronousCommit: "on", Encrypted: true}
	for name, test := range map[string]struct {
		change            func(*Inspection)
		promises, problem string
	}{
		"a server as it comes":  {func(*Inspection) {}, "survives a crash of the server and of its machine", ""},
		"no fsync":              {func(in *Inspection) { in.Fsync = "off" }, "", "everything can be lost"},
		"torn pages":            {func(in *Inspection) { in.FullPageWrites = "off" }, "", "torn"},
		"no waiting":            {func(in *Inspection) { in.SynchronousCommit = "off" }, "", "sign-outs"},
		"a standby":             {func(in *Inspection) { in.Standby = true }, "survives", "name the primary"},
		"in clear":              {func(in *Inspection) { in.Encrypted = false }, "survives", "sslmode=verify-full"},
		"a synchronous standby": {func(in *Inspection) { in.Replicas, in.Synchronous = 2, 1 }, "on 1 standby too", ""},
		"standbys that lag":     {func(in *Inspection) { in.Replicas = 2 }, "2 standbys may lag", ""},
		"another engine":        {func(in *Inspection) { in.Fsync, in.FullPageWrites = "", "" }, "", ""},
	} {
		in := safe
		test.change(&in)
		in.judge()
		promises, problems := strings.Join(in.Promises, "; "), strings.Join(in.Problems, "; ")
		if !strings.Contains(promises, test.promises) || (test.promises == "") != (promises == "") {
			t.Errorf("%s: promises %q", name, promises)
		}
		if !strings.Contains(problems, test.problem) || (test.problem == "") != (problems == "") {
			t.Errorf("%s: problems %q", name, problems)
		}
	}
}
