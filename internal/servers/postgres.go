package servers

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"
)

func createPostgres(ctx context.Context, s *Server, user string) error {
	bin, err := postgresPrograms()
	if err != nil {
		return err
	}
	n, err := s.newNode("node", user)
	if err != nil {
		return err
	}
	password := rand.Text()
	secret := filepath.Join(n.Dir, "password")
	if err := os.WriteFile(secret, []byte(password), 0o600); err != nil {
		return err
	}
	if err := giveTo(secret, user); err != nil {
		return err
	}
	data := filepath.Join(n.Dir, "data")
	err = n.run(ctx, filepath.Join(bin, "initdb"), "--pgdata", data, "--username", "crumb", "--pwfile", secret,
		"--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8")
	if err != nil {
		return err
	}
	n.Program = filepath.Join(bin, "postgres")
	n.Args = []string{"-D", data, "-h", "127.0.0.1", "-p", n.port(), "-k", "", "-c", "max_connections=200"}
	s.URL = fmt.Sprintf("postgres://crumb:%s@%s/crumb?sslmode=disable", password, n.Addr)
	return nil
}

// postgresPrograms is the folder of the newest PostgreSQL; Debian keeps it off the
// PATH.
func postgresPrograms() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil {
		return "", err
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		return n
	}
	if len(found) > 0 {
		newest := slices.MaxFunc(found, func(a, b string) int { return cmp.Compare(version(a), version(b)) })
		return filepath.Dir(newest), nil
	}
	path, err := exec.LookPath("postgres")
	if err != nil {
		return "", err
	}
	return filepath.Dir(path), nil
}

func readyPostgres(ctx context.Context, s *Server) error {
	cfg, err := pgx.ParseConfig(s.URL)
	if err != nil {
		return err
	}
	cfg.Database = "postgres"
	c, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	var there bool
	err = c.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'crumb')").Scan(&there)
	if err == nil && !there {
		_, err = c.Exec(ctx, "CREATE DATABASE crumb")
	}
	return errors.Join(err, c.Close(ctx))
}
