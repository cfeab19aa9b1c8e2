package servers

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/go-sql-driver/mysql"
)

func createMySQL(ctx context.Context, s *Server, user string) error {
	program, err := mysqlProgram()
	if err != nil {
		return err
	}
	n, err := s.newNode("node", user)
	if err != nil {
		return err
	}
	data, accounts := filepath.Join(n.Dir, "data"), filepath.Join(n.Dir, "accounts.sql")
	err = n.run(ctx, "mariadb-install-db", "--no-defaults", "--datadir="+data, "--auth-root-authentication-method=socket", "--skip-test-db")
	if err != nil {
		return err
	}
	password := rand.Text()
	sql := "CREATE DATABASE IF NOT EXISTS crumb;\n" +
		"CREATE USER IF NOT EXISTS crumb@'127.0.0.1' IDENTIFIED BY '" + password + "';\n" +
		"GRANT ALL ON *.* TO crumb@'127.0.0.1' WITH GRANT OPTION;\n"
	if err := os.WriteFile(accounts, []byte(sql), 0o600); err != nil {
		return err
	}
	if err := giveTo(accounts, user); err != nil {
		return err
	}
	n.Program = program
	n.Args = []string{
		"--no-defaults", "--datadir=" + data, "--init-file=" + accounts,
		"--bind-address=127.0.0.1", "--port=" + n.port(), "--skip-name-resolve", "--max-connections=200",
		"--socket=" + filepath.Join(n.Dir, "socket"), "--pid-file=" + filepath.Join(n.Dir, "pid"),
	}
	s.URL = fmt.Sprintf("mysql://crumb:%s@%s/crumb", password, n.Addr)
	return nil
}

func mysqlProgram() (string, error) {
	for _, path := range []string{"mariadbd", "/usr/sbin/mariadbd", "/usr/libexec/mariadbd"} {
		if path, err := exec.LookPath(path); err == nil {
			return path, nil
		}
	}
	return "", &exec.Error{Name: "mariadbd", Err: exec.ErrNotFound}
}

func readyMySQL(ctx context.Context, s *Server) error {
	u, err := url.Parse(s.URL)
	if err != nil {
		return err
	}
	cfg := mysql.NewConfig()
	cfg.Net, cfg.Addr, cfg.User, cfg.DBName = "tcp", u.Host, u.User.Username(), strings.TrimPrefix(u.Path, "/")
	cfg.Passwd, _ = u.User.Password()
	cfg.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return err
	}
	c, err := connector.Connect(ctx)
	if err != nil {
		return err
	}
	return c.Close()
}
