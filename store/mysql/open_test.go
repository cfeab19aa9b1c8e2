package mysql

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"database/sql"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/crumb-go/crumb/internal/mysqlurl"
	"github.com/crumb-go/crumb/session"
)

const password = "s3cr3t"

func TestAURLThatIsWrongSaysWhatToWriteAndNoPassword(t *testing.T) {
	for raw, want := range map[string]string{
		"mysql://user:" + password + "#x@host/db":    "%23 for #",
		"mysql://user:" + password + "@host:port/db": "%23 for #",
		"postgres://user:" + password + "@host/db":   "mysql://user:password@host:3306/database",
		"crumb.db":                                                   "mysql://user:password@host:3306/database",
		"mysql://user:" + password + "@host":                         "names no database",
		"mysql://user:" + password + "@host/a/b":                     "names no database",
		"mysql://user:" + password + "@/db":                          "names no host",
		"mysql://user:" + password + "@host/db?socket=/s":            "remove one",
		"mysql://user:" + password + "@host/db?parseTime=true":       `unknown parameter "parseTime" in the URL; it may have connect_timeout, pool_max_conns, socket, tls`,
		"mysql://user:" + password + "@host/db?tls=maybe":            "write true, false, preferred or skip-verify",
		"mysql://user:" + password + "@host/db?tls=true&tls=false":   "2 times",
		"mysql://user:" + password + "@host/db?tls=false&tls_ca=x":   "need tls=true",
		"mysql://user:" + password + "@host/db?tls_ca=/nowhere":      "/nowhere",
		"mysql://user:" + password + "@host/db?tls_ca=open_test.go":  "no PEM certificate",
		"mysql://user:" + password + "@host/db?tls_cert=/nowhere":    "tls_cert and tls_key",
		"mysql://user:" + password + "@host/db?pool_max_conns=0":     "1 or more",
		"mysql://user:" + password + "@host/db?connect_timeout=soon": "1 or more",
		"mysql://user:" + password + "@host/db?tls=%zz":              "parameters of the URL",
		"mysql://user:" + password + "@127.0.0.1:1/db":               "127.0.0.1:1",
	} {
		_, err := Open(t.Context(), raw, Config{Logger: slog.New(slog.DiscardHandler)})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), password) {
			t.Errorf("%s: %v", raw, err)
		}
	}
}

func TestTheURLSetsTheDriver(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, certificate(t), 0o600); err != nil {
		t.Fatal(err)
	}
	for raw, want := range map[string]string{
		"mysql://u:p%23%2F%40@h/db":                             "u p#/@ tcp h:3306 db preferred 5s 10",
		"mysql://u@[::1]:3307/db?tls=true&pool_max_conns=3":     "u  tcp [::1]:3307 db true 5s 3",
		"mysql://u:p@/db?socket=/run/my.sock&connect_timeout=2": "u p unix /run/my.sock db preferred 2s 10",
		"mysql://u:p@h/db?tls=skip-verify":                      "u p tcp h:3306 db skip-verify 5s 10",
		"mysql://u:p@h:1/db?tls_ca=" + url.QueryEscape(ca):      "u p tcp h:1 db h with an authority of its own 5s 10",
		"mysql://u:p@h:1/db?tls=false":                          "u p tcp h:1 db false 5s 10",
	} {
		cfg, conns, err := mysqlurl.Parse(raw)
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		mode := cfg.TLSConfig
		if cfg.TLS != nil && cfg.TLS.RootCAs != nil && !cfg.TLS.InsecureSkipVerify {
			mode = cfg.TLS.ServerName + " with an authority of its own"
		}
		got := fmt.Sprint(cfg.User, " ", cfg.Passwd, " ", cfg.Net, " ", cfg.Addr, " ", cfg.DBName, " ", mode, " ", cfg.Timeout, " ", conns)
		if got != want {
			t.Errorf("%s: %s, not %s", raw, got, want)
		}
		if !cfg.InterpolateParams || !cfg.ClientFoundRows || cfg.MultiStatements {
			t.Errorf("%s: %+v", raw, cfg)
		}
	}
}

func certificate(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestTheConnectionsOfOpenAreReadCommittedAndCommitEachStatement(t *testing.T) {
	d, err := connect(engine(t).URL, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer d.pool.Close()
	c, err := d.pool.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	vars, err := variables(t.Context(), c, "SHOW SESSION VARIABLES")
	if err != nil {
		t.Fatal(err)
	}
	if isolation := vars["tx_isolation"] + vars["transaction_isolation"]; !strings.HasPrefix(isolation, "READ-COMMITTED") || vars["autocommit"] != "ON" {
		t.Errorf("isolation %s, autocommit %s", isolation, vars["autocommit"])
	}
}

func TestConnectionsToAServerThatBecameReadOnlyAreLeft(t *testing.T) {
	e := engine(t)
	prefix := e.Prefix(t)
	cfg := Config{TablePrefix: prefix}
	if err := ApplySchema(t.Context(), e.URL, cfg); err != nil {
		t.Fatal(err)
	}
	st, err := Open(t.Context(), e.URL+"?pool_max_conns=4", cfg)
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
		release := eachConnection(t, st, "SET SESSION TRANSACTION READ ONLY")
		release(3) // the fourth is in use
		if _, err := st.Update(t.Context(), base, &session.Change{Now: at}); number(err) != readOnlyTransaction || errors.Is(err, session.ErrUnknown) {
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
	var conns []*sql.Conn
	for range 4 {
		c, err := st.pool.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.ExecContext(t.Context(), statement); err != nil {
			t.Errorf("%s: %v", statement, err)
		}
		conns = append(conns, c)
	}
	return func(n int) {
		for _, c := range conns[:n] {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		conns = conns[n:]
	}
}

func TestAPoolThatDoesNotCommitEachStatementIsRefused(t *testing.T) {
	e := engine(t)
	prefix := e.Prefix(t)
	cfg := Config{TablePrefix: prefix}
	if err := ApplySchema(t.Context(), e.URL, cfg); err != nil {
		t.Fatal(err)
	}
	pool := connectApp(t, e.URL)
	pool.SetMaxOpenConns(1)
	if _, err := pool.ExecContext(t.Context(), "SET autocommit = 0"); err != nil {
		t.Fatal(err)
	}
	if _, err := New(t.Context(), pool, cfg); err == nil || !strings.Contains(err.Error(), "autocommit") {
		t.Error(err)
	}
}

func TestAStoreOverAPoolOfTheAppLeavesItOpen(t *testing.T) {
	e := engine(t)
	prefix := e.Prefix(t)
	pool := connectApp(t, e.URL)
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
	if err := pool.PingContext(t.Context()); err != nil {
		t.Errorf("the pool of the app is closed: %v", err)
	}
}

// What crumb schema print prints is what people give to the mysql command, which
// cuts it at semicolons as this does.
func TestTheServerTakesTheSchemaAsItIsPrinted(t *testing.T) {
	e := engine(t)
	prefix := e.Prefix(t)
	for st := range strings.SplitSeq(strings.TrimSuffix(strings.TrimSpace(Schema(prefix)), ";"), ";") {
		e.Query(t, st)
	}
	if version, err := Status(t.Context(), e.URL, Config{TablePrefix: prefix}); version != SchemaVersion || err != nil {
		t.Errorf("version %d, %v", version, err)
	}
	if !strings.Contains(Schema(""), "EXISTS crumb_sessions") {
		t.Error("the default prefix is another one")
	}
}

// Tables are not made in transactions: a process that was killed between two of
// them leaves the first.
func TestASchemaThatWasAppliedHalfIsCompleted(t *testing.T) {
	e := engine(t)
	prefix := e.Prefix(t)
	cfg := Config{TablePrefix: prefix}
	statements := strings.Split(strings.TrimSpace(Schema(prefix)), ";\n")
	for n := range statements {
		for _, st := range statements[:n] {
			e.Query(t, st)
		}
		if err := ApplySchema(t.Context(), e.URL, cfg); err != nil {
			t.Errorf("after %d of %d statements: %v", n, len(statements), err)
		}
		if version, err := Status(t.Context(), e.URL, cfg); version != SchemaVersion || err != nil {
			t.Errorf("after %d of %d statements: version %d, %v", n, len(statements), version, err)
		}
		e.Query(t, fmt.Sprintf("DROP TABLE %ssessions, %sschema", prefix, prefix))
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
	if in.Server == "" || in.FlushLog == "" || in.Isolation != "READ-COMMITTED" || in.ReadOnly || !in.Local || in.Skew.Abs() > 10*time.Second {
		t.Errorf("the server: %+v", in)
	}
	if in, err = Inspect(t.Context(), e.URL, cfg, now.Add(-time.Hour)); err != nil || in.Skew.Round(time.Minute) != time.Hour {
		t.Errorf("an hour behind the server: %+v, %v", in, err)
	}
}

func TestThePromisesFollowTheSettings(t *testing.T) {
	safe := Inspection{FlushLog: "1", Doublewrite: "ON", LogBin: "OFF", SyncBinlog: "0", Encrypted: true}
	for name, test := range map[string]struct {
		change            func(*Inspection)
		promises, problem string
	}{
		"a server as it comes": {func(*Inspection) {}, "survives a crash of the server and of its machine", ""},
		"the log each second":  {func(in *Inspection) { in.FlushLog = "0" }, "", "when the server crashes"},
		"the log unsynced":     {func(in *Inspection) { in.FlushLog = "2" }, "", "when the machine crashes"},
		"torn pages":           {func(in *Inspection) { in.Doublewrite = "OFF" }, "", "torn"},
		"binary log unsynced":  {func(in *Inspection) { in.LogBin = "ON" }, "", "sync_binlog is 0"},
		"binary log synced":    {func(in *Inspection) { in.LogBin, in.SyncBinlog = "ON", "1" }, "survives", ""},
		"statements":           {func(in *Inspection) { in.LogBin, in.SyncBinlog, in.BinlogFormat = "ON", "1", "STATEMENT" }, "survives", "ROW"},
		"read-only":            {func(in *Inspection) { in.ReadOnly = true }, "survives", "name the primary"},
		"in clear":             {func(in *Inspection) { in.Encrypted = false }, "survives", "tls=true"},
		"a replica in time":    {func(in *Inspection) { in.Replicas, in.SemiSync = 1, true }, "has reached a replica", ""},
		"replicas that lag":    {func(in *Inspection) { in.Replicas = 2 }, "there are 2, may lag", ""},
		"a cluster":            {func(in *Inspection) { in.ClusterSize, in.SyncWait = "3", true }, "3 in all", ""},
		"a cluster that lags":  {func(in *Inspection) { in.ClusterSize = "3" }, "3 in all", "wsrep_sync_wait"},
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
