package sqldb_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/internal/sqldb"
	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/sqlite"
)

var tables atomic.Int64

// onEach runs fn on each database there is, with the name of a table that nobody
// else uses.
func onEach(t *testing.T, fn func(t *testing.T, url, table string)) {
	urls := map[string]string{"sqlite": "sqlite:" + filepath.Join(t.TempDir(), "test.db"), "memory": "memory:"}
	for _, kind := range []string{servers.Postgres, servers.MySQL} {
		if url, ok := servers.URL(kind); ok {
			urls[kind] = url
		}
	}
	if missing := servers.Missing(servers.Postgres, servers.MySQL); len(missing) > 0 {
		t.Log(servers.LeftOut(missing))
	}
	for name, url := range urls {
		t.Run(name, func(t *testing.T) {
			fn(t, url, fmt.Sprintf("sqldb_%d_%d_", os.Getpid(), tables.Add(1)))
		})
	}
}

func open(t *testing.T, url string) *sqldb.DB {
	t.Helper()
	db, err := sqldb.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// schema is a table of names, each once, and numbers.
func schema(prefix string) sqldb.Schema {
	return sqldb.Schema{Table: prefix + "schema", Steps: []string{
		strings.ReplaceAll("CREATE TABLE P_t (name varchar(20) NOT NULL PRIMARY KEY, n bigint NOT NULL);\nCREATE TABLE P_schema (version integer NOT NULL);\nINSERT INTO P_schema VALUES (1);\n", "P_", prefix),
	}}
}

// create makes the table and returns it, with its rows a and b.
func create(t *testing.T, db *sqldb.DB, prefix string) (table string) {
	t.Helper()
	s := schema(prefix)
	if err := db.Migrate(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	table = prefix + "t"
	t.Cleanup(func() {
		for _, name := range []string{table, s.Table} {
			if _, err := db.Exec(context.Background(), "DROP TABLE "+name); err != nil {
				t.Error(err)
			}
		}
	})
	for _, name := range []string{"a", "b"} {
		if n, err := db.Exec(t.Context(), "INSERT INTO "+table+" (name, n) VALUES (?, ?)", name, 0); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	return table
}

func number(t *testing.T, db *sqldb.DB, table, name string) (n int) {
	t.Helper()
	if err := db.Row(t.Context(), "SELECT n FROM "+table+" WHERE name = ?", []any{name}, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestTransactionsAtOnceLoseNothing(t *testing.T) {
	onEach(t, func(t *testing.T, url, prefix string) {
		db := open(t, url)
		table := create(t, db, prefix)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for range 10 {
					err := db.Tx(t.Context(), func(tx *sqldb.Tx) error {
						var n int
						if err := tx.Row(t.Context(), "SELECT n FROM "+table+" WHERE name = ?"+tx.ForUpdate(), []any{"a"}, &n); err != nil {
							return err
						}
						_, err := tx.Exec(t.Context(), "UPDATE "+table+" SET n = ? WHERE name = ?", n+1, "a")
						return err
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if n := number(t, db, table, "a"); n != 200 {
			t.Errorf("%d of 200 additions were kept", n)
		}
	})
}

func TestADeadlockIsRepeated(t *testing.T) {
	onEach(t, func(t *testing.T, url, prefix string) {
		db := open(t, url)
		table := create(t, db, prefix)
		add := func(tx *sqldb.Tx, name string) error {
			_, err := tx.Exec(t.Context(), "UPDATE "+table+" SET n = n + 1 WHERE name = ?", name)
			return err
		}
		// Both lock their first row before either locks its second one, where the
		// engine lets two in; once they have met they may run as they like.
		met := make(chan struct{})
		var first atomic.Int32
		meet := func() {
			if db.Dialect == sqldb.SQLite {
				return
			}
			if first.Add(1) == 2 {
				close(met)
			}
			<-met
		}
		var wg sync.WaitGroup
		for _, order := range [][2]string{{"a", "b"}, {"b", "a"}} {
			wg.Go(func() {
				tries := 0
				err := db.Tx(t.Context(), func(tx *sqldb.Tx) error {
					if err := add(tx, order[0]); err != nil {
						return err
					}
					if tries++; tries == 1 {
						meet()
					}
					return add(tx, order[1])
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if a, b := number(t, db, table, "a"), number(t, db, table, "b"); a != 2 || b != 2 {
			t.Errorf("a = %d, b = %d; both should be 2", a, b)
		}
	})
}

func TestATransactionThatFailsChangesNothingAndLocksNothing(t *testing.T) {
	onEach(t, func(t *testing.T, url, prefix string) {
		db := open(t, url)
		table := create(t, db, prefix)
		add := func(tx *sqldb.Tx) {
			if _, err := tx.Exec(t.Context(), "UPDATE "+table+" SET n = n + 1 WHERE name = ?", "a"); err != nil {
				t.Error(err)
			}
		}
		refused := errors.New("refused")
		if err := db.Tx(t.Context(), func(tx *sqldb.Tx) error { add(tx); return refused }); err != refused {
			t.Errorf("the error is %v", err)
		}
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic was swallowed")
				}
			}()
			_ = db.Tx(t.Context(), func(tx *sqldb.Tx) error { add(tx); panic("in the middle") })
		}()
		ctx, cancel := context.WithCancel(t.Context())
		if err := db.Tx(ctx, func(tx *sqldb.Tx) error { add(tx); cancel(); return ctx.Err() }); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		if n := number(t, db, table, "a"); n != 0 {
			t.Errorf("n = %d", n)
		}
		for range 20 { // more than there are connections
			if err := db.Tx(t.Context(), func(tx *sqldb.Tx) error { add(tx); return nil }); err != nil {
				t.Fatal(err)
			}
		}
		if n := number(t, db, table, "a"); n != 20 {
			t.Errorf("afterwards n = %d", n)
		}
	})
}

func TestWhatThereMayBeOnceIsToldFromOtherErrors(t *testing.T) {
	onEach(t, func(t *testing.T, url, prefix string) {
		db := open(t, url)
		table := create(t, db, prefix)
		_, err := db.Exec(t.Context(), "INSERT INTO "+table+" (name, n) VALUES (?, ?)", "a", 1)
		if !sqldb.IsUnique(err) || sqldb.IsRetryable(err) {
			t.Errorf("a second a: %v", err)
		}
		if _, err := db.Exec(t.Context(), "INSERT INTO "+table+" (name, n) VALUES (?, ?)", "c", nil); err == nil || sqldb.IsUnique(err) || sqldb.IsRetryable(err) {
			t.Errorf("no number: %v", err)
		}
		if err := db.Row(t.Context(), "SELECT n FROM "+table+" WHERE name = ?", []any{"none"}, new(int)); !errors.Is(err, sql.ErrNoRows) {
			t.Errorf("no row: %v", err)
		}
		if sqldb.IsUnique(nil) || sqldb.IsRetryable(nil) {
			t.Error("no error is taken for one")
		}
	})
}

func TestMigrationsAtOnceAreDoneOnce(t *testing.T) {
	onEach(t, func(t *testing.T, url, prefix string) {
		db := open(t, url)
		s := schema(prefix)
		if v, err := db.Version(t.Context(), s); v != 0 || err != nil {
			t.Errorf("before: version %d, %v", v, err)
		}
		if err := db.CheckVersion(t.Context(), s); err == nil || !strings.Contains(err.Error(), "crumb schema apply") {
			t.Errorf("before: %v", err)
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if err := db.Migrate(t.Context(), s); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if v, err := db.Version(t.Context(), s); v != 1 || err != nil {
			t.Errorf("after: version %d, %v", v, err)
		}
		create(t, db, prefix)

		s.Steps = append(s.Steps, "ALTER TABLE "+prefix+"t ADD COLUMN more bigint;\nUPDATE "+s.Table+" SET version = 2;\n")
		if err := db.CheckVersion(t.Context(), s); err == nil || !strings.Contains(err.Error(), "has version 1 and this program needs 2") {
			t.Errorf("an older one: %v", err)
		}
		if err := db.Migrate(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if err := db.CheckVersion(t.Context(), s); err != nil {
			t.Error(err)
		}
		s.Steps = s.Steps[:1]
		if err := db.Migrate(t.Context(), s); err == nil || !strings.Contains(err.Error(), "run the newer program") {
			t.Errorf("a newer one: %v", err)
		}
	})
}

func TestAPasswordIsInNoError(t *testing.T) {
	const secret = "kr%zm"
	for _, url := range []string{
		"postgres://u:" + secret + "@host/db", "mysql://u:" + secret + "@host/db", "postgres://u:xkrzm@host:notaport/db",
		"mysql://u:xkrzm@host:3306", "mysql://u:xkrzm@host/db?krzm=1&no=1", "postgres://u:xkrzm@127.0.0.1:1/db?sslmode=nonsense", "redis://u:xkrzm@host",
	} {
		_, err := sqldb.Open(t.Context(), url)
		if err == nil || strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "xkrzm") {
			t.Errorf("the error is %v", err)
		}
	}
	db := open(t, "postgres://u:xkrzm@127.0.0.1:1/db")
	if err := db.Row(t.Context(), "SELECT 1", nil, new(int)); err == nil || strings.Contains(err.Error(), "xkrzm") {
		t.Errorf("no server: %v", err)
	}
}

func TestASQLiteFileIsItsOwnersAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a % b?.db")
	open(t, "sqlite:"+strings.ReplaceAll(strings.ReplaceAll(path, "%", "%25"), "?", "%3F"))
	info, err := os.Stat(path)
	if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info, err)
	}
	for _, bad := range []string{"sqlite:", "sqlite::memory:", "sqlite:x.db?mode=ro", "sqlite:" + filepath.Join(t.TempDir(), "none", "x.db")} {
		if _, err := sqldb.Open(t.Context(), bad); err == nil {
			t.Errorf("%s was opened", bad)
		}
	}
	text := filepath.Join(t.TempDir(), "text.db")
	if err := os.WriteFile(text, []byte(strings.Repeat("This is no database. ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sqldb.Open(t.Context(), "sqlite:"+text); err == nil {
		t.Error("a text was opened")
	}
}

// Two engines of one process on one file would take each other's locks.
func TestAFileIsSharedWithTheStoreOfSessions(t *testing.T) {
	url := "sqlite:" + filepath.Join(t.TempDir(), "crumb.db")
	store, err := sqlite.Open(t.Context(), url, sqlite.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	db := open(t, url)
	table := create(t, db, "x_")
	now := time.Now().UTC().Truncate(time.Microsecond)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 50 {
				rec := &session.Record{Info: session.Info{ID: session.ID(fmt.Sprintf("%016d", i*1000+n)), Created: now, Seen: now, Expires: now.Add(time.Hour)}}
				rec.Idle, rec.Absolute = time.Hour, now.Add(time.Hour)
				if err := store.Create(t.Context(), rec); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for range 50 {
				if _, err := db.Exec(t.Context(), "UPDATE "+table+" SET n = n + 1 WHERE name = ?", "a"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := number(t, db, table, "a"); n != 200 {
		t.Errorf("%d of 200 additions were kept", n)
	}
}

func TestAFileThatSomebodyLocksIsWaitedForUntilTheContextEnds(t *testing.T) {
	url := "sqlite:" + filepath.Join(t.TempDir(), "crumb.db")
	other, db := open(t, url), open(t, url)
	table := create(t, db, "x_")
	locked, let, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		done <- other.Tx(context.Background(), func(*sqldb.Tx) error { close(locked); <-let; return nil })
	}()
	<-locked
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err := db.Exec(ctx, "UPDATE "+table+" SET n = 1")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while it is locked: %v", err)
	}
	if n := number(t, db, table, "a"); n != 0 {
		t.Errorf("n = %d", n)
	}
	result := make(chan error)
	go func() {
		_, err := db.Exec(t.Context(), "UPDATE "+table+" SET n = 2")
		result <- err
	}()
	close(let)
	if err := errors.Join(<-done, <-result); err != nil {
		t.Error(err)
	}
	if n := number(t, db, table, "a"); n != 2 {
		t.Errorf("n = %d", n)
	}
}

func TestADatabaseInMemoryIsPrivate(t *testing.T) {
	one, two := open(t, "memory:"), open(t, "memory:")
	create(t, one, "x_")
	if v, err := two.Version(t.Context(), schema("x_")); v != 0 || err != nil {
		t.Errorf("version %d, %v", v, err)
	}
}

func TestADatabaseThatTheAppOpenedStaysOpen(t *testing.T) {
	own, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "app.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { own.Close() })
	db, err := sqldb.New(own, sqldb.SQLite)
	if err != nil {
		t.Fatal(err)
	}
	create(t, db, "x_")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := own.Ping(); err != nil {
		t.Error(err)
	}
	if _, err := sqldb.New(own, "oracle"); err == nil {
		t.Error("a dialect that there is not was taken")
	}
	if _, err := sqldb.New(nil, sqldb.SQLite); err == nil {
		t.Error("no database was taken")
	}
}
