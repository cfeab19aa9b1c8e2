package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	_ "github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/redis/rueidis"

	"github.com/crumb-go/crumb/internal/servers"
)

// onEachEngine runs f on SQLite and on every engine of which a server runs, with a
// folder whose settings name a database of its own. What is left out, make test
// says.
func onEachEngine(t *testing.T, f func(t *testing.T, dir string)) {
	t.Run("on SQLite", func(t *testing.T) { f(t, t.TempDir()) })
	for _, kind := range servers.Kinds {
		if raw, ok := servers.URL(kind); ok {
			t.Run("on "+servers.Name(kind), func(t *testing.T) {
				dir := folderFor(t, raw)
				applySchema(t, dir, raw)
				f(t, dir)
			})
		}
	}
}

// folderFor returns a folder whose settings name the database at raw and prefixes
// that nobody else uses, and deletes what is there when the test ends. lines are
// further settings.
func folderFor(t *testing.T, raw string, lines ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	name := "t" + strings.ToLower(rand.Text()[:10])
	text := fmt.Sprintf("[database]\nurl = %q\ntable_prefix = \"%s_\"\nkey_prefix = \"%s:\"\n%s\n", raw, name, name, strings.Join(lines, "\n"))
	must(t, os.WriteFile(filepath.Join(dir, settingsFile), []byte(text), 0o600))
	t.Cleanup(func() {
		switch {
		case isRedis(raw):
			deleteKeys(t, raw, name+":")
		default:
			for _, table := range []string{
				"sessions", "schema", "users", "audit", "login_counters", "login_resets", "login_schema",
				"track_visitors", "track_trail", "track_slots", "track_counts", "track_erased", "track_batches", "track_schema",
			} {
				execServer(t, raw, "DROP TABLE IF EXISTS "+name+"_"+table)
			}
		}
	})
	return dir
}

func isRedis(raw string) bool { return strings.HasPrefix(raw, "redis") }

// applySchema creates the tables, if the engine has any.
func applySchema(t *testing.T, dir, raw string) {
	t.Helper()
	if !isRedis(raw) {
		mustCrumb(t, dir, "schema", "apply")
	}
}

// execServer runs a script on a SQL server, as another program would.
func execServer(t *testing.T, raw, script string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	if strings.HasPrefix(raw, "postgres") {
		c, err := pgx.Connect(ctx, raw)
		must(t, err)
		defer c.Close(ctx)
		_, err = c.PgConn().Exec(ctx, script).ReadAll()
		must(t, err)
		return
	}
	u, err := url.Parse(raw)
	must(t, err)
	db, err := sql.Open("mysql", u.User.String()+"@tcp("+u.Host+")"+u.Path+"?multiStatements=true")
	must(t, err)
	defer db.Close()
	_, err = db.ExecContext(ctx, script)
	must(t, err)
}

// redisClient is a client of the Redis at raw.
func redisClient(t *testing.T, raw string) rueidis.Client {
	t.Helper()
	_, hosts, _ := strings.Cut(raw, "://")
	c, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: strings.Split(hosts, ","), ForceSingleClient: strings.HasPrefix(raw, "redis:"), DisableCache: true,
	})
	must(t, err)
	t.Cleanup(c.Close)
	return c
}

func deleteKeys(t *testing.T, raw, prefix string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	all := redisClient(t, raw)
	for _, node := range all.Nodes() {
		for cursor := uint64(0); ; {
			page, err := node.Do(ctx, node.B().Scan().Cursor(cursor).Match(prefix+"*").Count(1000).Build()).AsScanEntry()
			must(t, err)
			for _, key := range page.Elements {
				must(t, all.Do(ctx, all.B().Del().Key(key).Build()).Error())
			}
			if cursor = page.Cursor; cursor == 0 {
				break
			}
		}
	}
}

// startAll starts n servers on the database of dir.
func startAll(t *testing.T, dir, program string, n int, args ...string) (list []*server) {
	t.Helper()
	for range n {
		list = append(list, start(t, dir, program, args...))
	}
	return list
}

// Two hundred clients may wait for one row while the machine does other things too.
func TestEveryViewCountsThroughThreeServers(t *testing.T) {
	onEachEngine(t, func(t *testing.T, dir string) {
		hammer(t, startAll(t, dir, crumbPath, 3, "--session.store_timeout=30s")...)
	})
}

// TestASessionRevokedOnOneServerIsNotServedByAnother asks a second server, which
// knows the session, as soon as the first has answered that it ended it.
func TestASessionRevokedOnOneServerIsNotServedByAnother(t *testing.T) {
	const clients, each = 10, 20
	onEachEngine(t, func(t *testing.T, dir string) {
		s := startAll(t, dir, slowAppPath, 3)
		var wait sync.WaitGroup
		for i := range clients {
			one, other, third := s[i%3], s[(i+1)%3], s[(i+2)%3]
			wait.Go(func() {
				for range each {
					token := third.try("POST", "/signin?user=alice", "").token()
					if a := other.try("GET", "/look", token); a.body != "0 alice\n" {
						t.Errorf("before the end the session is %q, %v", a.body, a.err)
						return
					}
					if a := one.try("POST", "/revoke?id="+id(token), ""); a.err != nil || a.StatusCode != 200 {
						t.Errorf("the end was answered %q, %v", a.body, a.err)
						return
					}
					for _, s := range []*server{other, third} {
						if a := s.try("GET", "/look", token); a.body != "0 \n" || a.token() != "" {
							t.Errorf("after the end another server says %q, %v", a.body, a.err)
						}
					}
				}
			})
		}
		wait.Wait()
	})
}

// TestTheCommandOnEachEngine is a day of an operator.
func TestTheCommandOnEachEngine(t *testing.T) {
	onEachEngine(t, func(t *testing.T, dir string) {
		s := start(t, dir, slowAppPath)
		visitor := s.visitor()
		s.get("/", visitor)
		alice := s.post("/signin?user=alice", "").token()
		bob := s.post("/signin?user=bob", "").token()
		if list := sessions(t, dir); len(list) != 3 {
			t.Errorf("the list has %+v", list)
		}
		if out := mustCrumb(t, dir, "sessions", "list", "--user", "alice"); !strings.Contains(out, id(alice)) || strings.Contains(out, id(bob)) {
			t.Errorf("alice's sessions are\n%s", out)
		}
		if out := mustCrumb(t, dir, "sessions", "show", "--values", id(visitor)); !strings.Contains(out, "hello.views  2\n") {
			t.Errorf("the visitor's session is\n%s", out)
		}
		if out := mustCrumb(t, dir, "sessions", "sweep"); out != "Removed 0 sessions.\n" {
			t.Errorf("the sweep says %q", out)
		}
		mustCrumb(t, dir, "sessions", "revoke", "--user", "alice", "--yes")
		if a := s.get("/look", alice); a.body != "0 \n" {
			t.Errorf("after the end the session is %q", a.body)
		}
		mustCrumb(t, dir, "sessions", "revoke", "--all", "--yes")
		if list := sessions(t, dir); len(list) != 0 {
			t.Errorf("after all ended the list has %+v", list)
		}
		if a := s.get("/look", bob); a.body != "0 \n" {
			t.Errorf("after the end the session is %q", a.body)
		}
		o := crumb(t, dir, "check")
		if o.code != 0 || !strings.Contains(o.stdout, "\nok    database ") {
			t.Errorf("check: %+v", o)
		}
	})
}

func TestThePrintedSchemaIsTakenByTheServer(t *testing.T) {
	for _, kind := range []string{servers.Postgres, servers.MySQL} {
		raw, ok := servers.URL(kind)
		if !ok {
			continue
		}
		t.Run(servers.Name(kind), func(t *testing.T) {
			dir := folderFor(t, raw)
			o := crumb(t, dir, "serve", "--addr=127.0.0.1:0")
			if o.code != 1 || !strings.Contains(o.stderr, "crumb schema apply creates them") {
				t.Errorf("without tables serve says %+v", o)
			}
			o = crumb(t, dir, "sessions", "list")
			if o.code != 1 || !strings.Contains(o.stderr, "has no tables of sessions") || !strings.Contains(o.stderr, "\nhint: crumb schema apply creates them") {
				t.Errorf("without tables the list says %+v", o)
			}
			schema := mustCrumb(t, dir, "schema", "print", kind)
			if schema != mustCrumb(t, dir, "schema", "print") {
				t.Error("the schema of the settings is another")
			}
			execServer(t, raw, schema)
			if out := mustCrumb(t, dir, "schema", "status"); !strings.HasSuffix(out, ": schema version 1, this crumb knows 1: up to date\n") {
				t.Errorf("the status is %q", out)
			}
			if out := mustCrumb(t, dir, "schema", "apply"); !strings.HasSuffix(out, ": schema version 1\n") {
				t.Errorf("apply says %q", out)
			}
			start(t, dir, crumbPath).visitor()
		})
	}
}

func TestACopyOfAServerIsMadeByItsOwnTools(t *testing.T) {
	for kind, tool := range map[string]string{
		servers.Postgres: "pg_dump", servers.MySQL: "mysqldump", servers.Redis: "BGSAVE", servers.RedisCluster: "BGSAVE",
	} {
		raw, ok := servers.URL(kind)
		if !ok {
			continue
		}
		o := crumb(t, folderFor(t, raw), "backup", "copy.db")
		if o.code != 1 || !strings.Contains(o.stderr, "is a server\nhint: ") || !strings.Contains(o.stderr, tool) {
			t.Errorf("%s: %+v", kind, o)
		}
	}
}

// TestNoPasswordIsShown has every command fail at a server that refuses the
// password, and at one that is not there.
func TestNoPasswordIsShown(t *testing.T) {
	t.Parallel()
	const secret = "hunter2secret"
	nobody, err := servers.NewProxy("127.0.0.1:1")
	must(t, err)
	nobody.Refuse()
	t.Cleanup(func() { _ = nobody.Close() })
	for kind, form := range map[string]string{
		servers.Postgres: "postgres://crumb:%s@%s/crumb", servers.MySQL: "mysql://crumb:%s@%s/crumb",
		servers.Redis: "redis://:%s@%s", servers.RedisCluster: "redis+cluster://:%s@%s",
	} {
		addrs := []string{nobody.Addr()}
		if raw, ok := servers.URL(kind); ok {
			_, hosts, _ := strings.Cut(raw, "://")
			hosts = hosts[strings.LastIndex(hosts, "@")+1:]
			hosts, _, _ = strings.Cut(hosts, "/")
			addrs = append(addrs, hosts)
		}
		for _, addr := range addrs {
			raw := fmt.Sprintf(form, secret, addr)
			for _, args := range [][]string{
				{"serve", "--addr=127.0.0.1:0", "--database", raw}, {"config", "show", "--database", raw}, {"check", "--database", raw}, {"check", "--json", "--database", raw},
				{"sessions", "list", "--database", raw}, {"schema", "status", "--database", raw}, {"schema", "apply", "--database", raw},
				{"backup", "copy.db", "--database", raw}, {"serve", "--database", strings.Replace(raw, secret, secret+"/", 1)},
			} {
				o := crumb(t, t.TempDir(), args...)
				works := args[0] == "config" || args[1] == "apply" && isRedis(raw)
				if out := o.stdout + o.stderr; strings.Contains(out, secret) || out == "" || works != (o.code == 0) {
					t.Errorf("crumb %v: %+v", args[:2], o)
				}
			}
		}
	}
}

func TestThePasswordMayBeInAFile(t *testing.T) {
	for _, kind := range []string{servers.Postgres, servers.MySQL} {
		raw, ok := servers.URL(kind)
		if !ok {
			continue
		}
		t.Run(servers.Name(kind), func(t *testing.T) {
			u, err := url.Parse(raw)
			must(t, err)
			password, _ := u.User.Password()
			u.User = url.User(u.User.Username())
			dir := folderFor(t, raw)
			applySchema(t, dir, raw)
			list := []string{"sessions", "list", "--database", u.String()}
			if o := crumb(t, dir, list...); o.code == 0 {
				t.Errorf("without the password the list is %+v", o)
			}
			file := filepath.Join(dir, "password")
			must(t, os.WriteFile(file, []byte(password+"\n"), 0o600))
			settings := filepath.Join(dir, settingsFile)
			text, err := os.ReadFile(settings)
			must(t, err)
			must(t, os.WriteFile(settings, []byte(strings.Replace(string(text), "[database]\n", "[database]\npassword_file = \"password\"\n", 1)), 0o600))
			mustCrumb(t, dir, list...)
		})
	}
}
