package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/crumb-go/crumb/internal/servers"
)

// A serverFault is planted on a server that was fine, and taken away again.
type serverFault struct {
	fault       string
	plant, mend string
	want        finding // Found and Hint are what the finding's hold
}

// wantFinding wants the finding among those of check, and the exit code that goes
// with it.
func wantFinding(t *testing.T, dir, fault string, want finding) {
	t.Helper()
	findings, code := check(t, dir)
	named := false
	for _, f := range findings {
		if f.Check == want.Check && f.State == want.State && strings.Contains(f.Found, want.Found) && strings.Contains(f.Hint, want.Hint) {
			named = true
		} else if f.State != fine && f.Hint == "" {
			t.Errorf("%s: no mend: %+v", fault, f)
		}
	}
	if !named {
		t.Errorf("%s is not named %+v; there are\n%+v", fault, want, findings)
	}
	if wantCode := map[state]int{failing: 1}[want.State]; code != wantCode {
		t.Errorf("%s: check exits with %d, want %d", fault, code, wantCode)
	}
}

func wantNothingWrong(t *testing.T, dir, found string) {
	t.Helper()
	o := crumb(t, dir, "check")
	if o.code != 0 || !strings.Contains(o.stdout, " 0 warn, 0 fail\n") || !strings.Contains(o.stdout, found) {
		t.Errorf("where nothing is wrong: %+v", o)
	}
}

func TestCheckNamesEachFaultOfASQLServer(t *testing.T) {
	t.Parallel()
	const survives = "an acknowledged change survives a crash of the server and of its machine"
	for kind, faults := range map[string][]serverFault{
		servers.Postgres: {
			{"fsync", "ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf()", "ALTER SYSTEM RESET fsync; SELECT pg_reload_conf()",
				finding{"promise", failing, "fsync is off", "set fsync = on in postgresql.conf"}},
			{"full_page_writes", "ALTER SYSTEM SET full_page_writes = off; SELECT pg_reload_conf()", "ALTER SYSTEM RESET full_page_writes; SELECT pg_reload_conf()",
				finding{"promise", failing, "full_page_writes is off", "set full_page_writes = on"}},
			{"commits that are not waited for", "ALTER ROLE crumb SET synchronous_commit = off", "ALTER ROLE crumb RESET synchronous_commit",
				finding{"promise", warning, "synchronous_commit is off: when the server crashes, the last acknowledged changes are lost", "ALTER ROLE"}},
		},
		servers.MySQL: {
			{"a log written each second", "SET GLOBAL innodb_flush_log_at_trx_commit = 0", "SET GLOBAL innodb_flush_log_at_trx_commit = 1",
				finding{"promise", warning, "innodb_flush_log_at_trx_commit is 0: when the server crashes", "SET GLOBAL innodb_flush_log_at_trx_commit = 1"}},
			{"a log synced each second", "SET GLOBAL innodb_flush_log_at_trx_commit = 2", "SET GLOBAL innodb_flush_log_at_trx_commit = 1",
				finding{"promise", warning, "innodb_flush_log_at_trx_commit is 2: when the machine crashes", "SET GLOBAL innodb_flush_log_at_trx_commit = 1"}},
			{"a server that takes no writes", "SET GLOBAL read_only = ON", "SET GLOBAL read_only = OFF",
				finding{"promise", failing, "the server is read-only", "name the primary"}},
		},
	} {
		if !servers.CanStart(kind) {
			continue
		}
		t.Run(servers.Name(kind), func(t *testing.T) {
			t.Parallel()
			db := startDatabase(t, kind)
			dir := folderFor(t, db.URL)
			table := tablePrefix(t, dir)
			wantFinding(t, dir, "no tables", finding{"database", failing, "there are no tables " + table + "*", "crumb schema apply creates them"})
			applySchema(t, dir, db.URL)
			s := start(t, dir, crumbPath)
			s.visitor()
			s.kill()
			wantNothingWrong(t, dir, survives)
			for _, f := range append(faults,
				serverFault{"sessions from the future", "UPDATE " + table + "sessions SET created = created + 7230000000", "UPDATE " + table + "sessions SET created = created - 7230000000",
					finding{"clock", failing, "1 session created up to 2h from now", "set this machine's clock"}},
				serverFault{"nobody sweeps", "UPDATE " + table + "sessions SET expires = expires - 200000000000", "UPDATE " + table + "sessions SET expires = expires + 200000000000",
					finding{"sweep", warning, "1 session expired over a day ago", "is a server running"}},
				serverFault{"a schema of a newer program", "INSERT INTO " + table + "schema (version) VALUES (99)", "DELETE FROM " + table + "schema WHERE version = 99",
					finding{"database", failing, "have schema version 99 and this crumb knows up to 1", "run the newer crumb"}},
			) {
				for _, statement := range strings.Split(f.plant, "; ") { // some refuse a transaction
					execServer(t, db.URL, statement)
				}
				wantFinding(t, dir, f.fault, f.want)
				for _, statement := range strings.Split(f.mend, "; ") {
					execServer(t, db.URL, statement)
				}
			}
			wantNothingWrong(t, dir, survives)
			must(t, db.Kill())
			wantFinding(t, dir, "a server that is gone", finding{"database", failing, "", "is the server running?"})
			must(t, db.Restart(t.Context()))
		})
	}
}

// tablePrefix is that in the settings of dir.
func tablePrefix(t *testing.T, dir string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, settingsFile))
	must(t, err)
	_, rest, _ := strings.Cut(string(text), "table_prefix = \"")
	prefix, _, ok := strings.Cut(rest, `"`)
	if !ok {
		t.Fatalf("no prefix in %s", text)
	}
	return prefix
}

func TestCheckNamesEachFaultOfARedis(t *testing.T) {
	t.Parallel()
	if !servers.CanStart(servers.Redis) {
		return
	}
	db := startDatabase(t, servers.Redis)
	dir := folderFor(t, db.URL)
	client := redisClient(t, db.URL)
	set := func(setting, value string) {
		t.Helper()
		must(t, client.Do(t.Context(), client.B().ConfigSet().ParameterValue().ParameterValue(setting, value).Build()).Error())
	}
	const fineNow = "a crash may lose the last second or two, sign-outs among it"
	wantNothingWrong(t, dir, fineNow)
	for _, f := range []struct {
		fault, setting, value, mend string
		want                        finding
	}{
		{"sessions dropped at will", "maxmemory-policy", "allkeys-lru", "noeviction",
			finding{"memory", failing, "maxmemory-policy is allkeys-lru", "CONFIG SET maxmemory-policy noeviction"}},
		{"sessions dropped early", "maxmemory-policy", "volatile-ttl", "noeviction",
			finding{"memory", failing, "maxmemory-policy is volatile-ttl", "CONFIG SET maxmemory-policy noeviction"}},
		{"a memory that is full", "maxmemory", "1000000", "0",
			finding{"memory", warning, "nine tenths of its maxmemory, 1.0 MB, are used", "raise maxmemory"}},
		{"a log the kernel writes when it likes", "appendfsync", "no", "everysec",
			finding{"promise", warning, "appendfsync is no", "CONFIG SET appendfsync everysec"}},
		{"no log", "appendonly", "no", "yes", finding{"promise", warning, "it writes nothing to a disk", "CONFIG SET appendonly yes"}},
	} {
		set(f.setting, f.value)
		wantFinding(t, dir, f.fault, f.want)
		set(f.setting, f.mend)
	}
	set("appendonly", "no")
	set("save", "3600 1")
	wantFinding(t, dir, "snapshots alone", finding{"promise", warning, "a crash loses what came after the last snapshot", "CONFIG SET appendonly yes"})
	set("save", "")
	set("appendonly", "yes")
	set("appendfsync", "always")
	wantNothingWrong(t, dir, "an acknowledged change survives a crash of the server and of its machine")
	must(t, db.Kill())
	wantFinding(t, dir, "a server that is gone", finding{"database", failing, "connection refused", "is the server running?"})
	must(t, db.Restart(t.Context()))
}

func TestCheckNamesTheNodesOfAClusterThatAreMissing(t *testing.T) {
	t.Parallel()
	if !servers.CanStart(servers.RedisCluster) {
		return
	}
	db := startDatabase(t, servers.RedisCluster)
	dir := folderFor(t, db.URL)
	wantNothingWrong(t, dir, "ends of sessions are confirmed by 1 replica")
	primary, err := db.Primary(t.Context(), "some key")
	must(t, err)
	must(t, primary.Kill())
	eventually(t, patience, func() string { // until a replica has taken over
		findings, _ := check(t, dir)
		for _, f := range findings {
			if f.Check == "replicas" && f.State == warning && strings.Contains(f.Found, "no replica follows this primary") && strings.Contains(f.Hint, "add-node") {
				return ""
			}
		}
		return "the primary without a replica is not named"
	})
}

func TestCheckNamesTheFileOfAPasswordThatOthersRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "password")
	must(t, os.WriteFile(file, []byte("hunter2\n"), 0o600))
	must(t, os.Chmod(file, 0o644))
	must(t, os.WriteFile(filepath.Join(dir, settingsFile), []byte("[database]\nurl = \"redis://127.0.0.1:1\"\npassword_file = \"password\"\n"), 0o600))
	wantFinding(t, dir, "a password that others read", finding{"password file", failing, "password has mode 0644", "chmod 600 password"})
	must(t, os.Remove(file))
	wantFinding(t, dir, "a password that is not there", finding{"database", failing, "password_file: it cannot be read", "name a file"})
}
