package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/modules"
	"github.com/crumb-go/crumb/store/mysql"
	"github.com/crumb-go/crumb/store/postgres"
	"github.com/crumb-go/crumb/store/redis"
	"github.com/crumb-go/crumb/store/sqlite"
)

func (c *checker) checkDatabase(ctx context.Context) {
	const check = "database"
	address, err := c.database.Address()
	if bad, ok := errors.AsType[*app.SettingError](err); ok {
		c.fail(check, bad.Hint, "%s: %s", bad.Key, bad.Problem)
		return
	}
	if file := c.database.PasswordFile; file != "" {
		c.checkMode("password file", file)
	}
	// No time limit on the reading: a large database takes what it takes.
	switch c.database.Engine() {
	case "memory":
		c.warn(check, "set [database] url to sqlite:crumb.db to keep them", "memory: forgets all sessions when the server stops")
	case "postgres":
		in, err := postgres.Inspect(ctx, address, postgres.Config{TablePrefix: c.database.TablePrefix}, c.now)
		if err != nil {
			c.unreachable(err)
			return
		}
		c.checkTables(in.Server, "postgres", in.SchemaVersion, in.Sessions)
		c.checkPromises(in.Promises, in.Problems)
		c.checkSkew(in.Skew)
		c.checkRows(in.SchemaVersion, in.Overdue, in.Future, in.Ahead)
	case "mysql":
		in, err := mysql.Inspect(ctx, address, mysql.Config{TablePrefix: c.database.TablePrefix}, c.now)
		if err != nil {
			c.unreachable(err)
			return
		}
		c.checkTables(in.Server, "mysql", in.SchemaVersion, in.Sessions)
		c.checkPromises(in.Promises, in.Problems)
		c.checkSkew(in.Skew)
		c.checkRows(in.SchemaVersion, in.Overdue, in.Future, in.Ahead)
	case "redis":
		in, err := redis.Inspect(ctx, address, redis.Config{KeyPrefix: c.database.KeyPrefix}, time.Now)
		if err != nil {
			c.unreachable(err)
			return
		}
		c.checkRedis(in)
	default:
		c.checkFile(ctx)
	}
}

// unreachable is the finding of a server that tells nothing.
func (c *checker) unreachable(err error) {
	c.fail("database", "is the server running? are host, port, user, password and database under [database] right, and may this user read?", "%s", err)
}

// checkTables looks at the tables of a SQL server.
func (c *checker) checkTables(server, engine string, version int, sessions int64) {
	const check = "database"
	newest := engines[engine].newest
	server, _, _ = strings.Cut(server, " on ") // what PostgreSQL was built for
	switch {
	case version > newest:
		c.fail(check, "run the newer crumb", "%s: the tables %s* have schema version %d and this crumb knows up to %d", server, c.database.TablePrefix, version, newest)
	case version == 0:
		c.fail(check, "crumb schema apply creates them; is table_prefix under [database] the right one?", "%s: there are no tables %s*", server, c.database.TablePrefix)
	case version < newest:
		c.fail(check, "crumb schema apply brings them up to date", "%s: the tables %s* have schema version %d and this crumb needs %d", server, c.database.TablePrefix, version, newest)
	default:
		c.ok(check, "%s, schema version %d, %s", server, version, plural(int(sessions)))
	}
}

// mends says what to do about the settings of a SQL server, by the first word of
// what is wrong. Where the data themselves are in danger, or nothing can be
// written, the check fails.
var mends = map[string]struct {
	state state
	hint  string
}{
	"fsync":                          {failing, "set fsync = on in postgresql.conf and restart the server"},
	"full_page_writes":               {failing, "set full_page_writes = on in postgresql.conf and reload it"},
	"synchronous_commit":             {warning, "ALTER ROLE … SET synchronous_commit = on, or set it in postgresql.conf"},
	"innodb_flush_log_at_trx_commit": {warning, "SET GLOBAL innodb_flush_log_at_trx_commit = 1, and the same in the server's settings file"},
	"innodb_doublewrite":             {failing, "set innodb_doublewrite = ON in the server's settings file and restart it"},
	"sync_binlog":                    {warning, "SET GLOBAL sync_binlog = 1, and the same in the server's settings file"},
}

// checkPromises says what a SQL server promises, and what it does not. A problem
// may bring its mend along, behind a semicolon.
func (c *checker) checkPromises(promises, problems []string) {
	for _, problem := range problems {
		found, hint, _ := strings.Cut(problem, "; ")
		name, _, _ := strings.Cut(found, " ")
		level := warning
		if m, ok := mends[name]; ok {
			level, hint = m.state, m.hint
		} else if strings.HasPrefix(found, "the server ") {
			level = failing // it takes no writes
		}
		c.findings = append(c.findings, finding{"promise", level, found, hint})
	}
	if len(promises) > 0 {
		c.ok("promise", "%s", strings.Join(promises, "; "))
	}
}

const clockHint = "set this machine's clock, and keep it right with NTP"

// checkSkew compares this machine's clock with that of a server, which nothing
// goes by: one of the two is wrong.
func (c *checker) checkSkew(skew time.Duration) {
	const check = "clock"
	switch {
	case c.now.Year() < 2026:
		c.fail(check, clockHint, "it says %s", c.now.Format(time.DateTime))
	case skew.Abs() > time.Minute:
		c.fail(check, clockHint+"; or that of the server", "this machine and the server are %s apart", span(skew.Abs()))
	default:
		c.ok(check, "%s, as the server has it", c.now.Format("2006-01-02 15:04:05 MST"))
	}
}

// checkRows says what the rows of a SQL server tell.
func (c *checker) checkRows(version int, overdue, future int64, ahead time.Duration) {
	if version == 0 {
		return
	}
	if future > 0 {
		c.fail("clock", clockHint, "%s created up to %s from now: the clock was set back, or that of another machine is ahead", plural(int(future)), span(ahead))
	}
	c.checkSwept(overdue)
}

func (c *checker) checkSwept(overdue int64) {
	if overdue > 0 {
		c.warn("sweep", "is a server running, with a sweep_interval? crumb sessions sweep removes them now", "%s expired over a day ago and were not removed", plural(int(overdue)))
	} else {
		c.ok("sweep", "nothing is overdue")
	}
}

// checkRedis says what a Redis, or the nodes of a Cluster, promise.
func (c *checker) checkRedis(in *redis.Inspection) {
	versions := map[string]bool{}
	by := map[finding][]string{} // the nodes of which the same is to say
	for _, n := range in.Nodes {
		if n.Version != "" {
			versions[n.Version] = true
		}
		for _, f := range nodeFindings(n, in.Cluster) {
			by[f] = append(by[f], n.Addr)
		}
	}
	name := "Redis"
	if in.Cluster {
		name = "Redis Cluster of " + numbered(len(in.Nodes), "node")
	}
	c.ok("database", "%s, version %s, %s", name, strings.Join(slices.Sorted(maps.Keys(versions)), ", "), plural(int(in.Sessions)))
	for _, f := range slices.SortedFunc(maps.Keys(by), func(a, b finding) int { return strings.Compare(a.Check+a.Found, b.Check+b.Found) }) {
		switch n := len(by[f]); {
		case len(in.Nodes) == 1:
		case n == len(in.Nodes):
			f.Found = "all nodes: " + f.Found
		default:
			f.Found = strings.Join(by[f], ", ") + ": " + f.Found
		}
		c.findings = append(c.findings, f)
	}
}

// nodeFindings is what one node of a Redis gives reason to say.
func nodeFindings(n redis.Node, cluster bool) (list []finding) {
	add := func(check string, s state, found, hint string) { list = append(list, finding{check, s, found, hint}) }
	if n.Err != nil {
		add("database", failing, "it does not answer: "+n.Err.Error(), "start it, or take it out of the Cluster; is the user allowed to ask INFO?")
		return list
	}
	if !n.Primary && !cluster {
		add("database", failing, "it is a replica and takes no writes", "name the primary")
	}

	switch policy := n.EvictionPolicy; {
	case policy != "" && policy != "noeviction":
		add("memory", failing, "maxmemory-policy is "+policy+": when its memory is full it drops sessions of its own choice, and the server will not start",
			"CONFIG SET maxmemory-policy noeviction, and CONFIG REWRITE")
	case n.MaxMemory > 0 && n.UsedMemory > n.MaxMemory/10*9:
		add("memory", warning, "over nine tenths of its maxmemory, "+size(n.MaxMemory)+", are used; when it is full sessions cannot be written",
			"raise maxmemory, or shorten the life of sessions")
	case n.MaxMemory > 0:
		add("memory", fine, "up to "+size(n.MaxMemory)+"; when that is full sessions cannot be written, and none is dropped", "")
	default:
		add("memory", fine, "no limit but the machine's; no session is dropped", "")
	}

	const back = "; run crumb sessions revoke --all after it"
	switch {
	case n.AppendOnly && n.AppendFsync == "always":
		add("promise", fine, "an acknowledged change survives a crash of the server and of its machine", "")
	case n.AppendOnly && n.AppendFsync == "no":
		add("promise", warning, "appendfsync is no: a crash of the machine loses what the kernel had not written, some 30 seconds, sign-outs among it",
			"CONFIG SET appendfsync everysec, and CONFIG REWRITE")
	case n.AppendOnly:
		add("promise", fine, "a crash may lose the last second or two, sign-outs among it"+back+"; with appendfsync always it loses nothing", "")
	case n.Save != "":
		add("promise", warning, "appendonly is no: a crash loses what came after the last snapshot, sign-outs among it"+back,
			"CONFIG SET appendonly yes, and CONFIG REWRITE")
	default:
		add("promise", warning, "it writes nothing to a disk: a crash, and also a restart, forgets all sessions",
			"CONFIG SET appendonly yes, and CONFIG REWRITE, unless visitors may be forgotten")
	}

	switch {
	case !n.Primary:
	case n.Replicas == 0 && cluster:
		add("replicas", warning, "no replica follows this primary: without it its part of the sessions cannot be served, and no end is confirmed by another",
			"add a replica with redis-cli --cluster add-node --cluster-slave")
	case n.Replicas > 0 && n.MinReplicas == 0:
		add("replicas", fine, "ends of sessions are confirmed by "+numbered(n.Replicas, "replica")+"; a failover may lose other changes of the last moments, "+
			"and all that a primary took while it was cut off, unless min-replicas-to-write 1 has it refuse them", "")
	case n.Replicas > 0:
		add("replicas", fine, "ends of sessions are confirmed by "+numbered(n.Replicas, "replica")+"; a failover may lose other changes of the last moments", "")
	}

	// Redis drops a record by its own clock, an hour after it has expired.
	switch skew := n.Skew.Abs(); {
	case skew > 30*time.Minute:
		add("clock", failing, fmt.Sprintf("its clock and this machine's are %s apart: sessions may be dropped before they expire", span(skew)), clockHint+"; or that of the server")
	case skew > time.Minute:
		add("clock", warning, fmt.Sprintf("its clock and this machine's are %s apart", span(skew)), clockHint+"; or that of the server")
	default:
		add("clock", fine, "as this machine has it", "")
	}
	return list
}

// checkFile looks at a SQLite file.
func (c *checker) checkFile(ctx context.Context) {
	const check = "database"
	in, err := sqlite.Inspect(ctx, c.database.URL, sqlite.Config{TablePrefix: c.database.TablePrefix}, c.now, modules.OpenTimeout)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.warn(check, "crumb serve creates it; is url under [database] the right one?", "%s is not there", in.Path)
		c.checkDisk(filepath.Dir(in.Path), 0)
		return
	case err != nil:
		c.fail(check, "the owner of the server must be able to read and write it, and nothing else may hold it locked", "%s", strings.TrimPrefix(err.Error(), "sqlite: "))
		return
	case len(in.Problems) > 0:
		c.fail(check, "stop the server and restore a backup; .recover of the sqlite3 program saves what can be read", "%s is damaged: %s", in.Path, strings.Join(in.Problems, "; "))
		return
	case in.SchemaVersion > sqlite.SchemaVersion:
		c.fail(check, "run the newer crumb", "%s has schema version %d and this crumb knows up to %d", in.Path, in.SchemaVersion, sqlite.SchemaVersion)
		return
	case in.SchemaVersion == 0:
		c.warn(check, "crumb serve creates them; is table_prefix under [database] the right one?", "%s has no tables %s*", in.Path, c.database.TablePrefix)
	default:
		c.ok(check, "%s is sound, schema version %d, %s", in.Path, in.SchemaVersion, plural(int(in.Sessions)))
	}
	if in.JournalMode == "wal" {
		c.ok("journal", "write-ahead log")
	} else {
		c.warn("journal", "restart the server, which sets it; nothing else should", "journal mode is %s, not wal: requests wait for each other", in.JournalMode)
	}
	c.checkLog(in.Path)
	c.checkMode("file modes", in.Path, in.Path+"-wal", in.Path+"-shm")
	c.checkDisk(filepath.Dir(in.Path), fileSize(in.Path))
	c.checkClock(in)
	c.checkSwept(in.Overdue)
}

// maxLog is a size that the write-ahead log does not reach by itself: the server
// begins it anew at some 40 MB.
const maxLog = 256 << 20

func (c *checker) checkLog(path string) {
	if n := fileSize(path + "-wal"); n > maxLog {
		c.warn("log", "another program reads the database and does not end: find it with fuser "+path, "%s-wal has grown to %s", path, size(n))
	} else {
		c.ok("log", "%s", size(n))
	}
}

func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// checkDisk looks at the file system of dir, whose database has so many bytes.
func (c *checker) checkDisk(dir string, bytes int64) {
	free, network, err := fileSystem(dir)
	if err != nil {
		c.fail("disk", "create the folder, or name another file under [database] url", "%s: %s", dir, err)
		return
	}
	if network != "" {
		c.fail("file system", "put the database on a local disk", "%s is on %s: network file systems do not lock as SQLite needs it", dir, network)
	}
	c.judgeSpace(dir, free, bytes)
}

func (c *checker) judgeSpace(dir string, free, bytes int64) {
	switch {
	case free < 0: // not known on this system
	case free < 100<<20:
		c.fail("disk", "make room, or move the database to a larger disk", "%s has %s left: sessions cannot be written when it is full", dir, size(free))
	case free < max(1<<30, bytes):
		c.warn("disk", "make room: the log and a backup need some", "%s has %s left", dir, size(free))
	default:
		c.ok("disk", "%s has %s left", dir, size(free))
	}
}

func (c *checker) checkClock(in *sqlite.Inspection) {
	const check, hint = "clock", clockHint
	written := time.Time{}
	for _, path := range []string{in.Path, in.Path + "-wal"} {
		if info, err := os.Stat(path); err == nil && info.ModTime().After(written) {
			written = info.ModTime()
		}
	}
	switch {
	case c.now.Year() < 2026:
		c.fail(check, hint, "it says %s", c.now.Format(time.DateTime))
	case written.After(c.now.Add(time.Minute)):
		c.fail(check, hint, "%s was written %s from now", in.Path, span(written.Sub(c.now)))
	case in.Future > 0:
		c.fail(check, hint, "%s created up to %s from now: the clock was set back, or that of another machine is ahead", plural(int(in.Future)), span(in.Ahead))
	default:
		c.ok(check, "%s", c.now.Format("2006-01-02 15:04:05 MST"))
	}
}
