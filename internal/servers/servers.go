// Package servers runs the real database servers that the tests of the stores
// talk to: PostgreSQL, MariaDB, Redis alone and a Redis Cluster of six, each in a
// folder and on ports of its own.
//
// Most tests share the servers that "make servers" started, each under a table or
// key prefix of its own; [URL] finds them. A test that kills its server starts one
// with [Start]. [Proxy] stands between a store and its server and breaks the line.
package servers

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The kinds of servers. Each but RedisCluster is the scheme of its URLs.
const (
	Postgres     = "postgres"
	MySQL        = "mysql" // a MariaDB
	Redis        = "redis"
	RedisCluster = "redis-cluster"
)

// Kinds lists all kinds.
var Kinds = []string{Postgres, MySQL, Redis, RedisCluster}

var names = map[string]string{Postgres: "PostgreSQL", MySQL: "MariaDB", Redis: "Redis", RedisCluster: "Redis Cluster"}

// Name is what people call a kind.
func Name(kind string) string { return names[kind] }

// Variable is the environment variable that names a server of the kind, such as
// CRUMB_TEST_REDIS_CLUSTER.
func Variable(kind string) string {
	return "CRUMB_TEST_" + strings.ToUpper(strings.ReplaceAll(kind, "-", "_"))
}

// URL returns the address of the server of the kind that tests share: what
// [Variable] holds, or else the server that "make servers" started, if it answers.
func URL(kind string) (url string, ok bool) {
	if url := os.Getenv(Variable(kind)); url != "" {
		return url, true
	}
	dir, err := Folder()
	if err != nil {
		return "", false
	}
	text, err := os.ReadFile(filepath.Join(dir, "urls"))
	if err != nil {
		return "", false
	}
	for line := range strings.Lines(string(text)) {
		if of, url, ok := strings.Cut(strings.TrimSpace(line), " "); ok && of == kind {
			return url, answers(url)
		}
	}
	return "", false
}

// answers reports whether something listens where raw points to.
func answers(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil {
		return false
	}
	first, _, _ := strings.Cut(u.Host, ",")
	c, err := net.DialTimeout("tcp", first, time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// Folder is where the shared servers live: .servers beside the go.mod of the
// project, which is looked for from the working directory upwards.
func Folder() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), "module github.com/crumb-go/crumb\n") {
			return filepath.Join(dir, ".servers"), nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("servers: there is no go.mod of github.com/crumb-go/crumb above the working directory")
		}
		dir = up
	}
}

// Missing returns the kinds of which no shared server runs.
func Missing(kinds ...string) (missing []string) {
	for _, kind := range kinds {
		if _, ok := URL(kind); !ok {
			missing = append(missing, kind)
		}
	}
	return missing
}

// Main is the TestMain of a package whose tests need a server of at least one of
// the kinds. Where there is none it runs no test, and go test says "[no tests to
// run]" beside the package.
func Main(m *testing.M, kinds ...string) {
	flag.Parse()
	if len(Missing(kinds...)) == len(kinds) {
		fmt.Println(LeftOut(kinds))
		for name, value := range map[string]string{
			"test.run":   "^$",
			"test.bench": "",
			// Without its list of what was read go test does not remember the result,
			// which would hide the tests once a server runs.
			"test.testlogfile": "",
		} {
			if err := flag.Set(name, value); err != nil {
				panic(err)
			}
		}
	}
	os.Exit(m.Run())
}

// LeftOut says that there are no servers of the kinds, and what to do about it.
func LeftOut(kinds []string) string {
	var list []string
	for _, kind := range kinds {
		list = append(list, Name(kind))
	}
	return fmt.Sprintf("The tests on %s were left out, as no such server runs: make servers starts them.", strings.Join(list, ", "))
}

// waitFor calls ready until it returns no error, ctx ends or stop says that it
// never will.
func waitFor(ctx context.Context, ready, stop func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		if dead := stop(); dead != nil {
			return dead
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; last: %w", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}
