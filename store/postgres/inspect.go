package postgres

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/crumb-go/crumb/internal/sqlstore"
)

// An Inspection is what [Inspect] finds out about a server and its tables. What
// an engine that only speaks PostgreSQL's language has no setting for is "".
type Inspection struct {
	Server            string        // what the server calls itself
	SchemaVersion     int           // 0 if there are no tables; this program knows [SchemaVersion]
	Fsync             string        // "on", unless somebody changed it
	FullPageWrites    string        // "on", unless somebody changed it
	SynchronousCommit string        // "on" by default, as this user gets it
	Isolation         string        // of single statements
	MaxConnections    string        // of all programs together
	Standby           bool          // the server takes no writes
	Replicas          int           // standbys that are connected
	Synchronous       int           // those among them that a commit waits for, as far as the user may see
	Encrypted         bool          // the connection
	Local             bool          // the connection does not leave the machine
	Skew              time.Duration // the server's clock ahead of now; crumb never goes by it

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
	err := withPool(ctx, url, &cfg, func(pool *pgxpool.Pool) (err error) {
		if err := in.readServer(ctx, pool, now, began); err != nil {
			return err
		}
		in.judge()
		in.SchemaVersion, err = schemaVersion(ctx, pool, cfg.TablePrefix)
		if err != nil || in.SchemaVersion != SchemaVersion {
			return err
		}
		survey, err := sqlstore.New(db{pool}, dialect, cfg.TablePrefix, cfg.Logger).Survey(ctx, now)
		in.Sessions, in.Overdue, in.Future, in.Ahead = survey.Sessions, survey.Overdue, survey.Future, survey.Ahead
		return err
	})
	if err != nil {
		return nil, err
	}
	return in, nil
}

// readServer asks the server. now is what this machine's clock said at began.
func (in *Inspection) readServer(ctx context.Context, pool *pgxpool.Pool, now, began time.Time) error {
	c, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer c.Release()
	asked := time.Since(began)
	var clock int64
	if err := c.QueryRow(ctx, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").Scan(&clock); err != nil {
		return err
	}
	// Half of the time it took was the way there.
	in.Skew = time.UnixMicro(clock).Sub(now.Add((asked + time.Since(began)) / 2)).Round(time.Millisecond)
	const setting = "coalesce(current_setting('%s', true), '')"
	sql := "SELECT version()"
	for _, name := range []string{"fsync", "full_page_writes", "synchronous_commit", "default_transaction_isolation", "max_connections"} {
		sql += ", " + fmt.Sprintf(setting, name)
	}
	err = c.QueryRow(ctx, sql+", pg_is_in_recovery()").
		Scan(&in.Server, &in.Fsync, &in.FullPageWrites, &in.SynchronousCommit, &in.Isolation, &in.MaxConnections, &in.Standby)
	if err != nil {
		return err
	}
	err = c.QueryRow(ctx, "SELECT count(*), count(CASE WHEN sync_state IN ('sync', 'quorum') THEN 1 END) FROM pg_stat_replication").
		Scan(&in.Replicas, &in.Synchronous)
	if err != nil {
		return err
	}
	conn := c.Conn().PgConn().Conn()
	_, in.Encrypted = conn.(*tls.Conn)
	in.Local = isLocal(conn.RemoteAddr())
	return nil
}

func isLocal(addr net.Addr) bool {
	switch addr := addr.(type) {
	case *net.UnixAddr:
		return true
	case *net.TCPAddr:
		return addr.IP.IsLoopback()
	}
	return false
}

// judge puts into words what the server promises.
func (in *Inspection) judge() {
	problem := func(is bool, text string) {
		if is {
			in.Problems = append(in.Problems, text)
		}
	}
	problem(in.Standby, "the server is a standby and takes no writes; name the primary")
	problem(in.Fsync == "off", "fsync is off: when the machine crashes, everything can be lost")
	problem(in.FullPageWrites == "off", "full_page_writes is off: when the machine crashes, pages can be torn")
	problem(in.SynchronousCommit == "off", "synchronous_commit is off: when the server crashes, the last acknowledged changes are lost, sign-outs among them")
	problem(!in.Encrypted && !in.Local, "the connection is not encrypted and leaves the machine; add sslmode=verify-full to the URL")
	if in.Fsync == "on" && in.FullPageWrites == "on" && in.SynchronousCommit != "off" {
		in.Promises = append(in.Promises, "an acknowledged change survives a crash of the server and of its machine")
	}
	switch {
	case in.SynchronousCommit != "off" && in.SynchronousCommit != "local" && in.Synchronous > 0:
		in.Promises = append(in.Promises, fmt.Sprintf("and is on %s too before it is acknowledged", standbys(in.Synchronous)))
	case in.Replicas > 0:
		in.Promises = append(in.Promises, fmt.Sprintf("the %s may lag: after a failover run crumb sessions revoke --all", standbys(in.Replicas)))
	}
}

func standbys(n int) string {
	if n == 1 {
		return "1 standby"
	}
	return fmt.Sprintf("%d standbys", n)
}
