package login

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/internal/sqldb"
	"github.com/crumb-go/crumb/keyring"
	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
)

// A bench is a Login without HTTP, under a clock that stands still.
type bench struct {
	*Login
	t    testing.TB
	time *stillClock
	keys string // the file of the keys
	log  *logBuffer

	mu     sync.Mutex
	hashes []cost // computed so far
}

type stillClock struct{ micros atomic.Int64 }

func (c *stillClock) now() time.Time      { return time.UnixMicro(c.micros.Load()).UTC() }
func (c *stillClock) add(d time.Duration) { c.micros.Add(d.Microseconds()) }

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var benches atomic.Int64

// newPrefix returns one for tables that nobody else uses.
func newPrefix() string { return fmt.Sprintf("login_%d_%d_", os.Getpid(), benches.Add(1)) }

func newBench(t testing.TB) *bench { return newBenchOn(t, "memory:", TablesConfig{}) }

func newBenchOn(t testing.TB, url string, cfg TablesConfig) *bench {
	t.Helper()
	b := &bench{t: t, time: &stillClock{}, keys: filepath.Join(t.TempDir(), "keys"), log: &logBuffer{}}
	b.time.micros.Store(time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC).UnixMicro())
	b.Login = b.open(url, cfg)
	return b
}

// open returns another Login on the database, as another process would have it.
func (b *bench) open(url string, cfg TablesConfig) *Login {
	b.t.Helper()
	cfg.Logger = slog.New(slog.NewJSONHandler(b.log, nil))
	ctx := context.Background()
	if !strings.HasPrefix(url, "memory:") && !strings.HasPrefix(url, "sqlite:") {
		if err := ApplySchema(ctx, url, cfg); err != nil {
			b.t.Fatal(err)
		}
	}
	tables, err := OpenTables(ctx, url, cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	tables.clock = b.time.now
	b.t.Cleanup(func() { tables.Close() })
	keys, err := keyring.Open(b.keys)
	if err != nil {
		b.t.Fatal(err)
	}
	sessions, err := session.NewManager(memory.New(), session.Config{})
	if err != nil {
		b.t.Fatal(err)
	}
	l, err := New(Config{AppName: "Cherry Orchard", Clock: b.time.now, Keys: keys, Logger: cfg.Logger, MinPassword: 8, Sessions: sessions, Tables: tables})
	if err != nil {
		b.t.Fatal(err)
	}
	l.hasher.counted = func(c cost) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.hashes = append(b.hashes, c)
	}
	return l
}

// hashed returns what was hashed since it was asked last.
func (b *bench) hashed() []cost {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := b.hashes
	b.hashes = nil
	return list
}

// add adds a user with a hash.
func (b *bench) add(name, hash string) *User {
	b.t.Helper()
	canonical, err := Canonical(name)
	if err != nil {
		b.t.Fatal(err)
	}
	u, err := b.tables.Add(context.Background(), name, canonical, hash)
	if err != nil {
		b.t.Fatal(err)
	}
	return u
}

const rightPassword = "crumbs in every corner"

var rightHash = sync.OnceValue(func() string {
	hash, err := HashPassword(rightPassword, 8)
	if err != nil {
		panic(err)
	}
	return hash
})

// try signs in from an address of its own for each name, so that only the account
// counts.
func (b *bench) try(name, password string) error {
	_, err := b.verify(context.Background(), attempt{name: name, password: password, addr: netip.MustParseAddr("127.0.0.1")})
	return err
}

// onEach runs fn on each database there is, with the configuration that gives it
// tables of its own, which are dropped afterwards.
func onEach(t *testing.T, fn func(t *testing.T, url string, cfg TablesConfig)) {
	urls := map[string]string{"sqlite": "sqlite:" + filepath.Join(t.TempDir(), "test.db")}
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
			cfg := TablesConfig{TablePrefix: newPrefix()}
			t.Cleanup(func() { drop(t, url, cfg.TablePrefix) })
			fn(t, url, cfg)
		})
	}
}

func drop(t *testing.T, url, prefix string) {
	db, err := sqldb.Open(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, table := range []string{"users", "login_counters", "login_resets", "audit", "login_schema"} {
		if _, err := db.Exec(context.Background(), "DROP TABLE IF EXISTS "+prefix+table); err != nil {
			t.Error(err)
		}
	}
}

// dump returns all that a table holds.
func (b *bench) dump(table string) string {
	b.t.Helper()
	rows := map[string]string{
		"login_counters": "SELECT id, failures, '' FROM {}login_counters", "login_resets": "SELECT user_id, created, token FROM {}login_resets",
		"audit": "SELECT name || agent || detail || user_id, id, event || result || addr || session FROM {}audit",
	}
	var text strings.Builder
	err := b.tables.db.Rows(context.Background(), b.tables.sql(rows[table]), nil, func(scan sqldb.Scan) error {
		var first, last []byte
		var n int64
		err := scan(&first, &n, &last)
		fmt.Fprintf(&text, "%s %d %s\n", first, n, last)
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return text.String()
}
