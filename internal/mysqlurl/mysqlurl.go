// Package mysqlurl reads the URL of a MySQL or MariaDB server, for the session store
// and for the tables of package login.
package mysqlurl

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
)

const (
	defaultMaxConns       = 10
	defaultConnectTimeout = 5 * time.Second
)

const example = "mysql://user:password@host:3306/database"

// parameters are those of a URL, in the order of the alphabet.
var parameters = []string{"connect_timeout", "pool_max_conns", "socket", "tls", "tls_ca", "tls_cert", "tls_key"}

// Parse returns what raw says in the driver's terms, and how many connections there
// may be. No error shows the password.
func Parse(raw string) (cfg *mysql.Config, maxConns int, err error) {
	u, err := url.Parse(raw)
	if err != nil { // which may quote a part of the password
		return nil, 0, errors.New("this is no URL; write " + example + ", and in user and password %23 for #, %2F for /, %3A for : and %40 for @")
	}
	if u.Scheme != "mysql" {
		return nil, 0, fmt.Errorf("the URL begins with %q, which is not MySQL's; write %s", u.Scheme, example)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, 0, fmt.Errorf("the parameters of the URL: %w", err)
	}
	for name, values := range query {
		if !slices.Contains(parameters, name) {
			return nil, 0, fmt.Errorf("unknown parameter %q in the URL; it may have %s", name, strings.Join(parameters, ", "))
		}
		if len(values) > 1 {
			return nil, 0, fmt.Errorf("the parameter %s stands in the URL %d times", name, len(values))
		}
	}
	cfg = mysql.NewConfig()
	cfg.User = u.User.Username()
	cfg.Passwd, _ = u.User.Password()
	if cfg.DBName = strings.TrimPrefix(u.Path, "/"); cfg.DBName == "" || strings.Contains(cfg.DBName, "/") {
		return nil, 0, errors.New("the URL names no database; write " + example)
	}
	if err := setAddr(cfg, u, query.Get("socket")); err != nil {
		return nil, 0, err
	}
	if err := setTLS(cfg, u.Hostname(), query); err != nil {
		return nil, 0, err
	}
	seconds, err := positive(query, "connect_timeout", int(defaultConnectTimeout/time.Second))
	if err != nil {
		return nil, 0, err
	}
	cfg.Timeout = time.Duration(seconds) * time.Second
	if maxConns, err = positive(query, "pool_max_conns", defaultMaxConns); err != nil {
		return nil, 0, err
	}
	// One round trip a statement, and nothing that a proxy could lose: the driver
	// puts the parameters into the text, in quotes.
	cfg.InterpolateParams = true
	cfg.ClientFoundRows = true
	cfg.Params = map[string]string{"autocommit": "1"}
	return cfg, maxConns, nil
}

func setAddr(cfg *mysql.Config, u *url.URL, socket string) error {
	switch {
	case socket != "" && u.Host != "":
		return fmt.Errorf("the URL names a host, %s, and a socket; remove one", u.Host)
	case socket != "":
		cfg.Net, cfg.Addr = "unix", socket
	case u.Hostname() == "":
		return errors.New("the URL names no host; write " + example)
	default:
		port := u.Port()
		if port == "" {
			port = "3306"
		}
		cfg.Net, cfg.Addr = "tcp", net.JoinHostPort(u.Hostname(), port)
	}
	return nil
}

// positive returns the parameter as a number, 1 or more.
func positive(query url.Values, name string, otherwise int) (int, error) {
	if !query.Has(name) {
		return otherwise, nil
	}
	n, err := strconv.Atoi(query.Get(name))
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%s=%s in the URL: write a whole number, 1 or more", name, query.Get(name))
	}
	return n, nil
}

func setTLS(cfg *mysql.Config, host string, query url.Values) error {
	own := query.Has("tls_ca") || query.Has("tls_cert") || query.Has("tls_key")
	mode := query.Get("tls")
	switch {
	case mode == "" && own:
		mode = "true"
	case mode == "":
		mode = "preferred"
	case !slices.Contains([]string{"true", "false", "preferred", "skip-verify"}, mode):
		return fmt.Errorf("tls=%s in the URL: write true, false, preferred or skip-verify", mode)
	case own && mode != "true":
		return fmt.Errorf("tls=%s in the URL does not go with tls_ca, tls_cert and tls_key, which need tls=true", mode)
	}
	if !own {
		cfg.TLSConfig = mode
		return nil
	}
	cfg.TLS = &tls.Config{ServerName: host}
	if file := query.Get("tls_ca"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("tls_ca in the URL: %w", err)
		}
		cfg.TLS.RootCAs = x509.NewCertPool()
		if !cfg.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("tls_ca in the URL: %s holds no PEM certificate", file)
		}
	}
	if query.Has("tls_cert") || query.Has("tls_key") {
		cert, err := tls.LoadX509KeyPair(query.Get("tls_cert"), query.Get("tls_key"))
		if err != nil {
			return fmt.Errorf("tls_cert and tls_key in the URL: %w", err)
		}
		cfg.TLS.Certificates = []tls.Certificate{cert}
	}
	return nil
}
