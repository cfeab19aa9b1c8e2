package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	zs "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/crumb-go/crumb/store/sqlite"
)

// soundSettings are those of an app behind TLS of its own in which check finds
// nothing.
const soundSettings = `
[server]
addr = ":8443"
tls_cert = "cert.pem"
tls_key = "key.pem"
public_url = "https://shop.example"
ops_addr = "127.0.0.1:9090"
trusted_proxies = ["10.0.0.5/32"]
`

// sound makes a folder in which check finds nothing wrong.
func sound(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	writeCertificate(t, dir, time.Now().Add(-time.Hour), time.Now().Add(90*24*time.Hour), "shop.example")
	must(t, os.WriteFile(filepath.Join(dir, "crumb.toml"), []byte(soundSettings), 0o600))
	st, err := sqlite.Open(t.Context(), filepath.Join(dir, "crumb.db"), sqlite.Config{})
	must(t, err)
	must(t, st.Close())
	return dir
}

func writeCertificate(t *testing.T, dir string, from, until time.Time, host string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: until, DNSNames: []string{host}}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	must(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
}

func check(t *testing.T, dir string) (findings []finding, code int) {
	t.Helper()
	o := crumb(t, dir, "check", "--json")
	if err := json.Unmarshal([]byte(o.stdout), &findings); err != nil {
		t.Fatalf("%v: %+v", err, o)
	}
	return findings, o.code
}

func TestCheckFindsNothingWrongWhereNothingIs(t *testing.T) {
	t.Parallel()
	dir := sound(t)
	o := crumb(t, dir, "check")
	if o.code != 0 || o.stderr != "" || !regexp.MustCompile(`\n1[0-9] checks: 1[0-9] ok, 0 warn, 0 fail\n$`).MatchString(o.stdout) {
		t.Errorf("%+v", o)
	}
	t.Run("also beside a server at work", func(t *testing.T) {
		dir := t.TempDir()
		s := start(t, dir, crumbPath)
		s.visitor()
		if o := crumb(t, dir, "check"); o.code != 0 || !strings.Contains(o.stdout, " 0 warn, 0 fail\n") || !strings.Contains(o.stdout, "schema version 1, 1 session\n") {
			t.Errorf("%+v", o)
		}
	})
	t.Run("and before a server ever ran", func(t *testing.T) {
		dir := t.TempDir()
		if o := crumb(t, dir, "check"); o.code != 0 || !strings.Contains(o.stdout, "hint: crumb serve creates it; ") || len(list(t, dir)) != 0 {
			t.Errorf("%+v", o)
		}
	})
}

// edit replaces text in the settings.
func edit(t *testing.T, dir, old, new string) {
	t.Helper()
	file := filepath.Join(dir, "crumb.toml")
	text, err := os.ReadFile(file)
	must(t, err)
	if !strings.Contains(string(text), old) {
		t.Fatalf("the settings do not hold %q", old)
	}
	must(t, os.WriteFile(file, []byte(strings.ReplaceAll(string(text), old, new)), 0o600))
}

// TestCheckNamesEachPlantedFault plants one fault at a time and wants the finding
// that names it, with its mend, and no other.
func TestCheckNamesEachPlantedFault(t *testing.T) {
	t.Parallel()
	db := func(dir string) string { return filepath.Join(dir, "crumb.db") }
	row := func(created, expires string) string {
		return "INSERT INTO crumb_sessions SELECT 'planted-00000000', '', c, c, e, e / 600000000, 9000000000, e, NULL, 0, '', '', 0, zeroblob(32), NULL, NULL, 1, 1, '{}'" +
			" FROM (SELECT (unixepoch() + " + created + ") * 1000000 AS c, (unixepoch() + " + expires + ") * 1000000 AS e)"
	}
	for _, c := range []struct {
		fault string
		plant func(t *testing.T, dir string)
		want  finding // Found and Hint are what the finding's begin with or hold
	}{
		{"a setting that does not exist", func(t *testing.T, dir string) { edit(t, dir, "addr = \":8443\"", "adr = \":8443\"") },
			finding{"settings", failing, "crumb.toml:3: server.adr: there is no such setting", "did you mean addr"}},
		{"no TLS on an address that others reach", func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "crumb.toml"), []byte("[server]\naddr = \":80\"\n"), 0o600))
		}, finding{"address", failing, ":80 is plain HTTP that others can reach; the server will not start", "set tls_cert and tls_key; or"}},
		{"insecure on an address that others reach", func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "crumb.toml"), []byte("[server]\naddr = \":80\"\ninsecure = true\n"), 0o600))
		}, finding{"address", failing, "insecure is set on :80, which others can reach", "remove insecure; set tls_cert"}},
		{"a public URL without TLS", func(t *testing.T, dir string) { edit(t, dir, "https://shop", "http://shop") },
			finding{"public URL", failing, "http://shop.example: browsers do not send the session cookie back over plain HTTP", "make it https://"}},
		{"a proxy that nobody trusts", func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "crumb.toml"), []byte("[server]\npublic_url = \"https://shop.example\"\n"), 0o600))
		}, finding{"public URL", warning, "https://shop.example is served by a proxy that is not trusted", "set trusted_proxies to the address"}},
		{"a cookie that browsers refuse for its prefix", func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "crumb.toml"), []byte("[session]\ncookie_name = \"__Host-id\"\n"), 0o600))
		}, finding{"cookie", failing, "CookieName is \"__Host-id\" and Insecure is set; browsers refuse the prefix", "change the setting of this name under [session]"}},
		{"a cookie of another domain", func(t *testing.T, dir string) {
			edit(t, dir, "[server]", "[session]\ncookie_domain = \"shop.test\"\n[server]")
		}, finding{"cookie", failing, "cookie_domain is shop.test and public_url is on shop.example: browsers refuse the cookie", "remove cookie_domain"}},
		{"a cookie without a prefix", func(t *testing.T, dir string) {
			edit(t, dir, "[server]", "[session]\ncookie_name = \"sid\"\n[server]")
		}, finding{"cookie", warning, "sid has no prefix", "remove cookie_name"}},
		{"a cookie for other sites", func(t *testing.T, dir string) {
			edit(t, dir, "[server]", "[session]\nsame_site = \"none\"\n[server]")
		}, finding{"cookie", warning, "__Host-crumb has same_site none", "set same_site = \"lax\""}},
		{"trust in everybody", func(t *testing.T, dir string) { edit(t, dir, "10.0.0.5/32", "0.0.0.0/0") },
			finding{"trusted proxies", failing, "0.0.0.0/0 covers strangers", "name the addresses of the proxies alone"}},
		{"trust in half of everybody", func(t *testing.T, dir string) { edit(t, dir, "10.0.0.5/32", "::/1") },
			finding{"trusted proxies", failing, "::/1 covers strangers", "name the addresses of the proxies alone"}},
		{"an address for operators that others reach", func(t *testing.T, dir string) { edit(t, dir, "127.0.0.1:9090", ":9090") },
			finding{"operators", warning, "ops_addr is :9090, which others can reach", "set ops_addr to 127.0.0.1:9090"}},
		{"a certificate that expired", func(t *testing.T, dir string) {
			writeCertificate(t, dir, time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour), "shop.example")
		}, finding{"certificate", failing, "cert.pem expired on 20", "renew it and restart the server"}},
		{"a certificate that expires soon", func(t *testing.T, dir string) {
			writeCertificate(t, dir, time.Now().Add(-48*time.Hour), time.Now().Add(73*time.Hour), "shop.example")
		}, finding{"certificate", warning, "cert.pem expires in 3d, on 20", "renew it and restart the server"}},
		{"a certificate of another host", func(t *testing.T, dir string) {
			writeCertificate(t, dir, time.Now().Add(-48*time.Hour), time.Now().Add(90*24*time.Hour), "www.example")
		}, finding{"certificate", failing, "cert.pem is not for shop.example", "get one for the host of public_url"}},
		{"a key of another certificate", func(t *testing.T, dir string) {
			key, err := os.ReadFile(filepath.Join(dir, "key.pem"))
			must(t, err)
			writeCertificate(t, dir, time.Now(), time.Now().Add(90*24*time.Hour), "shop.example")
			must(t, os.WriteFile(filepath.Join(dir, "key.pem"), key, 0o600))
		}, finding{"certificate", failing, "tls: private key does not match public key", "name a certificate chain and its own key"}},
		{"a key that others read", func(t *testing.T, dir string) { must(t, os.Chmod(filepath.Join(dir, "key.pem"), 0o644)) },
			finding{"key of TLS", failing, "key.pem has mode 0644: every user of this machine", "chmod 600 key.pem"}},
		{"a database that others read", func(t *testing.T, dir string) { must(t, os.Chmod(db(dir), 0o604)) },
			finding{"file modes", failing, "@DB has mode 0604: every user of this machine", "chmod 600 @DB"}},
		{"a database that a group reads", func(t *testing.T, dir string) { must(t, os.Chmod(db(dir), 0o640)) },
			finding{"file modes", warning, "@DB has mode 0640: its group", "chmod 600 @DB"}},
		{"a memory database", func(t *testing.T, dir string) {
			edit(t, dir, "[server]", "[database]\nurl = \"memory:\"\n[server]")
		}, finding{"database", warning, "memory: forgets all sessions", "set [database] url to sqlite:crumb.db"}},
		{"a database that is not there", func(t *testing.T, dir string) { must(t, os.Remove(db(dir))) },
			finding{"database", warning, "@DB is not there", "crumb serve creates it"}},
		{"a file that is no database", func(t *testing.T, dir string) {
			must(t, os.WriteFile(db(dir), []byte(strings.Repeat("no database ", 1000)), 0o600))
		}, finding{"database", failing, "open @DB: the file is no SQLite database", "the owner of the server must be able"}},
		{"a damaged database", func(t *testing.T, dir string) {
			execSQL(t, db(dir), "PRAGMA journal_mode=delete; CREATE TABLE big (b BLOB); CREATE INDEX bigs ON big (b)")
			execSQL(t, db(dir), "INSERT INTO big WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 500) SELECT randomblob(200) FROM n")
			execSQL(t, db(dir), "PRAGMA journal_mode=wal")
			f, err := os.OpenFile(db(dir), os.O_RDWR, 0)
			must(t, err)
			defer f.Close()
			info, err := f.Stat()
			must(t, err)
			_, err = f.WriteAt([]byte(strings.Repeat("\xff", 4096)), info.Size()-8192)
			must(t, err)
		}, finding{"database", failing, "@DB is damaged: ", "stop the server and restore a backup"}},
		{"a database of a newer program", func(t *testing.T, dir string) { execSQL(t, db(dir), "INSERT INTO crumb_schema VALUES (99)") },
			finding{"database", failing, "@DB has schema version 99 and this crumb knows up to 1", "run the newer crumb"}},
		{"a database without the tables", func(t *testing.T, dir string) {
			edit(t, dir, "[server]", "[database]\ntable_prefix = \"other_\"\n[server]")
		}, finding{"database", warning, "@DB has no tables other_*", "crumb serve creates them"}},
		{"a database that somebody keeps locked", func(t *testing.T, dir string) {
			c, err := zs.OpenConn(db(dir), zs.OpenReadWrite)
			must(t, err)
			t.Cleanup(func() { c.Close() })
			must(t, sqlitex.ExecuteTransient(c, "BEGIN IMMEDIATE", nil))
		}, finding{"database", failing, "open @DB: another process holds the database locked", "nothing else may hold it locked"}},
		{"another journal", func(t *testing.T, dir string) { execSQL(t, db(dir), "PRAGMA journal_mode=delete") },
			finding{"journal", warning, "journal mode is delete, not wal", "restart the server, which sets it"}},
		{"a log that has grown", func(t *testing.T, dir string) {
			must(t, os.WriteFile(db(dir)+"-wal", nil, 0o600))
			must(t, os.Truncate(db(dir)+"-wal", 300<<20))
			// Somebody has it open, so that the last to close does not remove it.
			c, err := zs.OpenConn(db(dir), zs.OpenReadWrite)
			must(t, err)
			t.Cleanup(func() { c.Close() })
			must(t, sqlitex.ExecuteTransient(c, "SELECT count(*) FROM crumb_sessions", nil))
		}, finding{"log", warning, "@DB-wal has grown to 314.6 MB", "another program reads the database"}},
		{"a clock that was set back", func(t *testing.T, dir string) {
			later := time.Now().Add(2*time.Hour + time.Minute)
			must(t, os.Chtimes(db(dir), later, later))
		}, finding{"clock", failing, "@DB was written 2h from now", "set this machine's clock"}},
		{"sessions from the future", func(t *testing.T, dir string) { execSQL(t, db(dir), row("7230", "9000")) },
			finding{"clock", failing, "1 session created up to 2h from now", "set this machine's clock"}},
		{"nobody sweeps", func(t *testing.T, dir string) { execSQL(t, db(dir), row("-200000", "-90000")) },
			finding{"sweep", warning, "1 session expired over a day ago", "is a server running"}},
		{"a folder that is not there", func(t *testing.T, dir string) {
			edit(t, dir, "[server]", "[database]\nurl = \"sqlite:none/crumb.db\"\n[server]")
		}, finding{"disk", failing, "@DIR/none: no such file or directory", "create the folder"}},
	} {
		t.Run(c.fault, func(t *testing.T) {
			t.Parallel()
			dir := sound(t)
			c.plant(t, dir)
			findings, code := check(t, dir)
			here := strings.NewReplacer("@DB", db(dir), "@DIR", dir).Replace
			named := false
			for _, f := range findings {
				switch {
				case f.Check == c.want.Check && f.State == c.want.State && strings.Contains(f.Found, here(c.want.Found)) && strings.Contains(f.Hint, here(c.want.Hint)):
					named = true
				case f.State == failing && c.want.State != failing:
					t.Errorf("another fault is named: %+v", f)
				case f.State != fine && f.Hint == "":
					t.Errorf("no mend: %+v", f)
				}
			}
			if !named {
				t.Errorf("it is not named %+v; there are\n%+v", c.want, findings)
			}
			if want := map[state]int{warning: 0, failing: 1}[c.want.State]; code != want {
				t.Errorf("it exits with %d, want %d", code, want)
			}
		})
	}
}

func TestCheckPrintsALineForEachFindingAndItsMend(t *testing.T) {
	t.Parallel()
	dir := sound(t)
	edit(t, dir, "10.0.0.5/32", "0.0.0.0/0")
	edit(t, dir, "127.0.0.1:9090", ":9090")
	o := crumb(t, dir, "check")
	if o.code != 1 || !strings.Contains(o.stdout, `
ok    cookie           __Host-crumb
fail  trusted proxies  0.0.0.0/0 covers strangers, who can then claim any address in X-Forwarded-For
      hint: name the addresses of the proxies alone, such as 10.0.0.5/32
warn  operators        ops_addr is :9090, which others can reach: it asks nobody who they are
      hint: set ops_addr to 127.0.0.1:9090, or keep it behind a firewall
ok    certificate      cert.pem, until `) || !strings.Contains(o.stdout, " ok, 1 warn, 1 fail\n") {
		t.Errorf("%+v", o)
	}
}

func TestCheckJudgesSpaceOnDisk(t *testing.T) {
	for _, c := range []struct {
		free, bytes int64
		want        state
	}{
		{10 << 30, 1 << 30, fine}, {500 << 20, 1 << 20, warning}, {5 << 30, 6 << 30, warning}, {99 << 20, 0, failing}, {0, 0, failing},
	} {
		k := new(checker)
		k.judgeSpace("/data", c.free, c.bytes)
		if len(k.findings) != 1 || k.findings[0].State != c.want {
			t.Errorf("%d free for %d: %+v", c.free, c.bytes, k.findings)
		}
	}
}

func TestCheckUsage(t *testing.T) {
	t.Parallel()
	if o := crumb(t, t.TempDir(), "check", "everything"); o.code != 2 || !strings.Contains(o.stderr, "\nhint: see crumb check --help\n") {
		t.Errorf("%+v", o)
	}
	// What a file says does not move the cursor.
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "crumb.toml"), []byte("[\"a\\u001b[2J\\u202e\"]\nx = 1\n[server]\naddr = \"\\u001b[2J\\u202e\"\n"), 0o600))
	o := crumb(t, dir, "check")
	if o.code != 1 || strings.ContainsAny(o.stdout+o.stderr, "\x1b\u202e") {
		t.Errorf("%+v", o)
	}
}
