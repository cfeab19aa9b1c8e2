package mysql

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/crumb-go/crumb/internal/mysqlurl"
	"github.com/crumb-go/crumb/internal/sqlstore"
)

// An Inspection is what [Inspect] finds out about a server and its tables. What
// the server has no variable for is "".
type Inspection struct {
	Server         string        // what the server calls itself
	SchemaVersion  int           // 0 if there are no tables; this program knows [SchemaVersion]
	FlushLog       string        // innodb_flush_log_at_trx_commit, "1" by default
	Doublewrite    string        // innodb_doublewrite, "ON" by default
	SyncBinlog     string        // sync_binlog, of importance if LogBin is "ON"
	LogBin         string        // log_bin
	BinlogFormat   string        // binlog_format
	Isolation      string        // of the connections that Open makes
	MaxConnections string        // of all programs together
	ReadOnly       bool          // the server takes no writes
	Replicas       int           // that are connected, as far as the user may see
	SemiSync       bool          // a commit waits for a replica
	ClusterSize    string        // of a Galera cluster
	SyncWait       bool          // a read waits for what the cluster's other nodes committed
	Encrypted      bool          // the connection
	Local          bool          // the connection does not leave the machine
	Skew           time.Duration // the server's clock ahead of now; crumb never goes by it

	Promises []string // what an acknowledged change survives, in words
	Problems []string // what it does not, and why

	// What follows is 0 if there are no tables, or those of a newer program.

	Sessions int64         // sessions that live now
	Overdue  int64         // rows that expired more than a day ago and nobody swept
	Future   int64         // rows created more than a minute from now
	Ahead    time.Duration // how far from now the last of those was created
}

// Inspect asks the server at url what it promises, and reads every session in it.
// It changes nothing. now is the time of this machine.
func Inspect(ctx context.Context, url string, cfg Config, now time.Time) (*Inspection, error) {
	in := new(Inspection)
	began := time.Now()
	err := withPool(url, &cfg, func(d db) (err error) {
		if err := in.readServer(ctx, d.pool, now, began); err != nil {
			return err
		}
		in.Local = isLocal(url)
		in.judge()
		in.SchemaVersion, err = schemaVersion(ctx, d.pool, cfg.TablePrefix)
		if err != nil || in.SchemaVersion != SchemaVersion {
			return err
		}
		survey, err := sqlstore.New(d, dialect, cfg.TablePrefix, cfg.Logger).Survey(ctx, now)
		in.Sessions, in.Overdue, in.Future, in.Ahead = survey.Sessions, survey.Overdue, survey.Future, survey.Ahead
		return err
	})
	if err != nil {
		return nil, err
	}
	return in, nil
}

// readServer asks the server. now is what this machine's clock said at began.
func (in *Inspection) readServer(ctx context.Context, pool *sql.DB, now, began time.Time) error {
	c, err := pool.Conn(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	asked := time.Since(began)
	var clock int64
	if err := c.QueryRowContext(ctx, "SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)").Scan(&clock); err != nil {
		return err
	}
	// Half of the time it took was the way there.
	in.Skew = time.UnixMicro(clock).Sub(now.Add((asked + time.Since(began)) / 2)).Round(time.Millisecond)
	vars, err := variables(ctx, c, "SHOW SESSION VARIABLES")
	if err != nil {
		return err
	}
	status, err := variables(ctx, c, "SHOW SESSION STATUS")
	if err != nil {
		return err
	}
	in.Server = strings.TrimSpace(vars["version"] + " " + vars["version_comment"])
	in.FlushLog, in.Doublewrite = vars["innodb_flush_log_at_trx_commit"], vars["innodb_doublewrite"]
	in.SyncBinlog, in.LogBin, in.BinlogFormat = vars["sync_binlog"], vars["log_bin"], vars["binlog_format"]
	in.Isolation = cmp.Or(vars["transaction_isolation"], vars["tx_isolation"])
	in.MaxConnections = vars["max_connections"]
	in.ReadOnly = vars["read_only"] == "ON"
	in.SemiSync = vars["rpl_semi_sync_master_enabled"] == "ON" || vars["rpl_semi_sync_source_enabled"] == "ON"
	if vars["wsrep_on"] == "ON" {
		in.ClusterSize = status["wsrep_cluster_size"]
		bits, _ := strconv.Atoi(vars["wsrep_sync_wait"])
		in.SyncWait = bits&1 != 0
	}
	in.Encrypted = status["Ssl_cipher"] != ""
	return c.QueryRowContext(ctx, "SELECT count(*) FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'").Scan(&in.Replicas)
}

// variables returns the rows of a SHOW statement.
func variables(ctx context.Context, c *sql.Conn, show string) (map[string]string, error) {
	rows, err := c.QueryContext(ctx, show)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	vars := map[string]string{}
	for rows.Next() {
		var name string
		var value sql.NullString
		if err := rows.Scan(&name, &value); err != nil {
			return nil, err
		}
		vars[name] = value.String
	}
	return vars, rows.Err()
}

// isLocal reports whether url names a socket or an address of this machine.
func isLocal(url string) bool {
	cfg, _, err := mysqlurl.Parse(url)
	if err != nil || cfg.Net == "unix" {
		return err == nil
	}
	host, _, _ := net.SplitHostPort(cfg.Addr)
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// judge puts into words what the server promises.
func (in *Inspection) judge() {
	problem := func(is bool, text string) {
		if is {
			in.Problems = append(in.Problems, text)
		}
	}
	binlog := in.LogBin == "ON"
	problem(in.ReadOnly, "the server is read-only; name the primary")
	problem(in.FlushLog == "0", "innodb_flush_log_at_trx_commit is 0: when the server crashes, the last second is lost, sign-outs among it")
	problem(in.FlushLog == "2", "innodb_flush_log_at_trx_commit is 2: when the machine crashes, the last second is lost, sign-outs among it")
	problem(in.Doublewrite == "OFF", "innodb_doublewrite is OFF: when the machine crashes, pages can be torn")
	problem(binlog && in.SyncBinlog != "1", "sync_binlog is "+in.SyncBinlog+": when the machine crashes, acknowledged changes that are not in the binary log are rolled back")
	problem(binlog && in.BinlogFormat == "STATEMENT", "binlog_format is STATEMENT, with which the server refuses the writes of READ COMMITTED; set it to ROW")
	problem(in.ClusterSize != "" && !in.SyncWait, "wsrep_sync_wait is 0: for a moment another node serves a session that was revoked; set it to 1, or name the same node for all processes")
	problem(!in.Encrypted && !in.Local, "the connection is not encrypted and leaves the machine; add tls=true to the URL")
	if (in.FlushLog == "1" || in.FlushLog == "3") && in.Doublewrite != "OFF" && (!binlog || in.SyncBinlog == "1") {
		in.Promises = append(in.Promises, "an acknowledged change survives a crash of the server and of its machine")
	}
	switch {
	case in.ClusterSize != "":
		in.Promises = append(in.Promises, "and has reached the other nodes of the cluster, of which there are "+in.ClusterSize+" in all, before it is acknowledged")
	case in.SemiSync:
		in.Promises = append(in.Promises, "and has reached a replica before it is acknowledged, unless none answers in time")
	case in.Replicas > 0:
		in.Promises = append(in.Promises, fmt.Sprintf("replicas, of which there are %d, may lag: after a failover run crumb sessions revoke --all", in.Replicas))
	}
}
