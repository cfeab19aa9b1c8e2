package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/modules"
)

func checkCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Look for what is wrong with the settings, the cookie, the database and this machine",
		Long: "Look for what is wrong with the settings, the cookie, the database and this machine, and say how to mend it.\n" +
			"It reads the whole database, changes nothing, and exits with 1 if something fails.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c := &checker{now: time.Now(), settings: func(mods ...*app.Module) (*app.App, error) { return settings(cmd, mods...) }}
			c.run(cmd.Context())
			if cmd.Context().Err() != nil {
				return errors.New("interrupted")
			}
			var err error
			if asJSON {
				err = writeJSON(cmd.OutOrStdout(), c.findings)
			} else {
				err = c.print(cmd.OutOrStdout())
			}
			if err == nil && c.count(failing) > 0 {
				err = exitCode(1)
			}
			return err
		},
	}
	settingFlags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// A state says how bad a finding is.
type state string

const (
	fine    state = "ok"
	warning state = "warn"
	failing state = "fail"
)

// A finding is what one check found.
type finding struct {
	Check string `json:"check"`
	State state  `json:"state"`
	Found string `json:"found"`
	Hint  string `json:"hint,omitempty"`
}

type checker struct {
	now      time.Time
	settings func(...*app.Module) (*app.App, error)

	server   app.ServerConfig
	session  modules.SessionConfig
	database modules.DatabaseConfig
	others   []app.Other

	findings []finding
}

func (c *checker) ok(check, found string, args ...any) {
	c.findings = append(c.findings, finding{check, fine, fmt.Sprintf(found, args...), ""})
}

func (c *checker) warn(check, hint, found string, args ...any) {
	c.findings = append(c.findings, finding{check, warning, fmt.Sprintf(found, args...), hint})
}

func (c *checker) fail(check, hint, found string, args ...any) {
	c.findings = append(c.findings, finding{check, failing, fmt.Sprintf(found, args...), hint})
}

func (c *checker) count(s state) (n int) {
	for _, f := range c.findings {
		if f.State == s {
			n++
		}
	}
	return n
}

func (c *checker) print(w io.Writer) error {
	for _, f := range c.findings {
		fmt.Fprintf(w, "%-4s  %-15s  %s\n", f.State, f.Check, plain(f.Found))
		if f.Hint != "" {
			fmt.Fprintf(w, "      hint: %s\n", plain(f.Hint))
		}
	}
	_, err := fmt.Fprintf(w, "%d checks: %d ok, %d warn, %d fail\n", len(c.findings), c.count(fine), c.count(warning), c.count(failing))
	return err
}

func (c *checker) run(ctx context.Context) {
	if err := c.readSettings(ctx); err != nil {
		var out strings.Builder
		app.Report(io.Discard, &out, err)
		problem, hint, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(out.String()), "error: "), "\nhint: ")
		if hint == "" {
			hint = "correct this setting; crumb config show lists all"
		}
		c.fail("settings", hint, "%s", problem)
		return
	}
	c.ok("settings", "all are understood; crumb config show lists them")
	c.checkOthers()
	c.checkAddress()
	c.checkCookie()
	c.checkProxies()
	c.checkOps()
	c.checkCertificate()
	c.checkDatabase(ctx)
}

// readSettings reads the tables of the core modules by modules of the same names
// that open nothing.
func (c *checker) readSettings(ctx context.Context) error {
	a, err := c.settings(
		&app.Module{Name: modules.Session.Name, Config: modules.Session.Config, Setup: func(e *app.Env) error {
			c.session, c.server = app.ConfigOf[modules.SessionConfig](e), e.Server()
			return nil
		}},
		&app.Module{Name: modules.Database.Name, Config: modules.Database.Config, Setup: func(e *app.Env) error {
			c.database = app.ConfigOf[modules.DatabaseConfig](e)
			return nil
		}},
	)
	if err != nil {
		return err
	}
	c.others = a.Others()
	_, err = a.Start(ctx)
	return errors.Join(err, a.Stop(context.WithoutCancel(ctx)))
}

// checkOthers lists tables and variables that this command does not know. They may
// be those of the app's own modules, so only what looks misspelt is a warning.
func (c *checker) checkOthers() {
	var unknown []string
	for _, o := range c.others {
		if o.Near != "" {
			c.warn("settings", "write "+o.Near+", or leave it if it is your app's own", "%s: not Crumb's own: %s; did you mean %s?", o.Source, o.Name, o.Near)
			continue
		}
		unknown = append(unknown, o.Name)
	}
	if len(unknown) > 0 {
		c.ok("settings", "not Crumb's own, and not looked at: %s", strings.Join(unknown, ", "))
	}
}

const behindTLS = "set tls_cert and tls_key; or, behind a proxy that speaks TLS, trusted_proxies and public_url = \"https://…\""

func (c *checker) checkAddress() {
	const check = "address"
	public, _ := url.Parse(c.server.PublicURL)
	https := public != nil && public.Scheme == "https"
	switch {
	case c.server.TLS():
		c.ok(check, "%s, with TLS", c.server.Addr)
	case c.server.Insecure && !c.server.Loopback():
		c.fail(check, "remove insecure; "+behindTLS, "insecure is set on %s, which others can reach: every cookie crosses the network in plain text", c.server.Addr)
	case !c.server.Loopback() && !https && len(c.server.TrustedProxies) == 0:
		c.fail(check, behindTLS, "%s is plain HTTP that others can reach; the server will not start", c.server.Addr)
	default:
		c.ok(check, "%s, plain HTTP", c.server.Addr)
	}
	switch {
	case c.server.PublicURL == "":
	case !https && !thisMachine(public.Hostname()):
		c.fail("public URL", "make it https://", "%s: browsers do not send the session cookie back over plain HTTP", c.server.PublicURL)
	case https && !c.server.TLS() && len(c.server.TrustedProxies) == 0:
		c.warn("public URL", "set trusted_proxies to the address of the proxy that ends TLS",
			"%s is served by a proxy that is not trusted, so every visitor has the proxy's address", c.server.PublicURL)
	default:
		c.ok("public URL", "%s", c.server.PublicURL)
	}
}

// checkCookie holds the cookie, as the settings together make it, against what
// browsers refuse or weaken: RFC 6265bis, sections 4.1.3 and 5.7.
func (c *checker) checkCookie() {
	const check = "cookie"
	raw, development := c.session.For(c.server)
	cfg, err := raw.WithDefaults()
	if err != nil {
		c.fail(check, "change the setting of this name under [session], or remove it", "%s", strings.TrimPrefix(err.Error(), "session: "))
		return
	}
	host := ""
	if u, err := url.Parse(c.server.PublicURL); err == nil {
		host = strings.ToLower(u.Hostname())
	}
	domain := strings.ToLower(cfg.CookieDomain)
	lower := strings.ToLower(cfg.CookieName)
	switch {
	case domain != "" && host != "" && host != domain && !strings.HasSuffix(host, "."+domain):
		c.fail(check, "remove cookie_domain, or make it the host of public_url or a parent of it",
			"cookie_domain is %s and public_url is on %s: browsers refuse the cookie", cfg.CookieDomain, host)
	case cfg.SameSite == http.SameSiteNoneMode:
		c.warn(check, "set same_site = \"lax\" unless other sites embed this one", "%s has same_site none: it comes with requests that other sites start", cfg.CookieName)
	case !cfg.Insecure && !strings.HasPrefix(lower, "__host-") && !strings.HasPrefix(lower, "__secure-"):
		c.warn(check, "remove cookie_name, or begin it with __Host-", "%s has no prefix: a page without TLS, or of a sibling host, can replace it", cfg.CookieName)
	case development:
		c.ok(check, "%s, without Secure, for requests from this machine only", cfg.CookieName)
	case cfg.Insecure:
		c.warn(check, "remove insecure outside of development", "%s, without Secure: it goes over plain HTTP too", cfg.CookieName)
	default:
		c.ok(check, "%s", cfg.CookieName)
	}
}

func (c *checker) checkProxies() {
	const check = "trusted proxies"
	for _, p := range c.server.TrustedProxies {
		// Nobody's network is that large: an eighth bit of IPv4, a sixteenth of IPv6.
		if limit := map[bool]int{true: 8, false: 16}[p.Addr().Is4()]; p.Bits() < limit && !p.Addr().IsPrivate() {
			c.fail(check, "name the addresses of the proxies alone, such as 10.0.0.5/32",
				"%s covers strangers, who can then claim any address in %s", p, c.server.ClientIPHeader)
			return
		}
	}
	if len(c.server.TrustedProxies) > 0 {
		names := make([]string, len(c.server.TrustedProxies))
		for i, p := range c.server.TrustedProxies {
			names[i] = p.String()
		}
		c.ok(check, "%s", strings.Join(names, ", "))
	}
}

func (c *checker) checkOps() {
	const check = "operators"
	switch addr := c.server.OpsAddr; {
	case addr == "":
	case !(app.ServerConfig{Addr: addr}).Loopback():
		c.warn(check, "set ops_addr to 127.0.0.1:9090, or keep it behind a firewall", "ops_addr is %s, which others can reach: it asks nobody who they are", addr)
	default:
		c.ok(check, "%s", addr)
	}
}

func (c *checker) checkCertificate() {
	const check = "certificate"
	if !c.server.TLS() {
		return
	}
	pair, err := tls.LoadX509KeyPair(c.server.TLSCert, c.server.TLSKey)
	if err != nil {
		c.fail(check, "name a certificate chain and its own key, in PEM, that this user can read", "%s", err)
		return
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		c.fail(check, "get a new certificate", "%s: %s", c.server.TLSCert, err)
		return
	}
	host := ""
	if u, err := url.Parse(c.server.PublicURL); err == nil {
		host = u.Hostname()
	}
	until := cert.NotAfter.Format(time.DateOnly)
	switch left := cert.NotAfter.Sub(c.now); {
	case left <= 0:
		c.fail(check, "renew it and restart the server", "%s expired on %s", c.server.TLSCert, until)
	case c.now.Before(cert.NotBefore):
		c.fail(check, "set the clock, or get another certificate", "%s is not valid before %s", c.server.TLSCert, cert.NotBefore.Format(time.DateOnly))
	case host != "" && cert.VerifyHostname(host) != nil:
		c.fail(check, "get one for the host of public_url", "%s is not for %s", c.server.TLSCert, host)
	case left < 14*24*time.Hour:
		c.warn(check, "renew it and restart the server", "%s expires in %s, on %s", c.server.TLSCert, span(left), until)
	default:
		c.ok(check, "%s, until %s", c.server.TLSCert, until)
	}
	c.checkMode("key of TLS", c.server.TLSKey)
}

// checkMode looks for others who can read a file that holds secrets, and reports
// whether there are any.
func (c *checker) checkMode(check string, paths ...string) {
	if runtime.GOOS == "windows" {
		return
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		mode := info.Mode().Perm()
		hint := "chmod 600 " + path
		switch {
		case mode&0o007 != 0:
			c.fail(check, hint, "%s has mode %#o: every user of this machine can read or change it", path, mode)
			return
		case mode&0o070 != 0:
			c.warn(check, hint, "%s has mode %#o: its group can read or change it", path, mode)
			return
		}
	}
	c.ok(check, "%s: only its owner", paths[0])
}
