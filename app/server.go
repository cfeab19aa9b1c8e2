package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// serverTable is the table of the settings that belong to no module.
const serverTable = "server"

// A ServerConfig is the table [server].
type ServerConfig struct {
	// Addr is the address to listen on. Defaults to 127.0.0.1:8080, which only
	// programs of the same machine reach.
	Addr string `toml:"addr" flag:"addr" help:"address to listen on"`

	// TLSCert and TLSKey are files with a certificate chain and its key, in PEM.
	// Both or none. By default the app speaks plain HTTP.
	TLSCert string `toml:"tls_cert" flag:"tls-cert" help:"file with the TLS certificate chain"`
	TLSKey  string `toml:"tls_key" flag:"tls-key" help:"file with its private key"`

	// Insecure allows plain HTTP where others can read it on its way. For
	// development. Defaults to false.
	Insecure bool `toml:"insecure" flag:"insecure" help:"allow plain HTTP from everywhere, for development"`

	// TrustedProxies are the address ranges of proxies in front of the app,
	// whose word on the visitor's address is taken. Defaults to none.
	TrustedProxies []netip.Prefix `toml:"trusted_proxies" flag:"trusted-proxy" help:"address range of a proxy in front, may be repeated"`

	// ClientIPHeader is the header in which they pass it on. Defaults to
	// X-Forwarded-For.
	ClientIPHeader string `toml:"client_ip_header" flag:"client-ip-header" help:"header with the visitor's address, from a trusted proxy"`

	// PublicURL is where visitors find the app, such as https://example.com.
	// Defaults to none; an app behind a proxy that ends TLS should name it.
	PublicURL string `toml:"public_url" flag:"public-url" help:"where visitors find the app, such as https://example.com"`

	// OpsAddr is a second address, for operators: metrics, /livez and /readyz.
	// It asks nobody who they are, so keep it on the loopback address or behind a
	// firewall; 127.0.0.1:9090 is customary. Defaults to none.
	OpsAddr string `toml:"ops_addr" flag:"ops-addr" help:"second address, for operators and metrics, such as 127.0.0.1:9090"`

	// LogFormat is "text", or "json" for one object a line on the standard error.
	// A program that gives [Options] a Logger decides for itself. Defaults to text.
	LogFormat string `toml:"log_format" flag:"log-format" help:"text, or json for one object a line"`
}

var defaultServer = ServerConfig{Addr: "127.0.0.1:8080", ClientIPHeader: "X-Forwarded-For", LogFormat: "text"}

// TLS says whether the app itself speaks TLS.
func (c ServerConfig) TLS() bool { return c.TLSCert != "" }

// Loopback says whether only programs of the same machine can connect to Addr.
// A proxy may be one of them.
func (c ServerConfig) Loopback() bool {
	host, _, err := net.SplitHostPort(c.Addr)
	if err != nil {
		return false
	}
	return host == "localhost" || loopback(host)
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// thisMachine says whether the host of a URL can only be the machine that asks:
// RFC 6761, section 6.3.
func thisMachine(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || loopback(host)
}

func (c ServerConfig) clone() ServerConfig {
	c.TrustedProxies = slices.Clone(c.TrustedProxies)
	return c
}

var headerFormat = regexp.MustCompile(`^[A-Za-z0-9!#$%&'*+.^_|~-]+$`)

// Check returns an error if the settings cannot be right. It is called by [New].
func (c ServerConfig) Check() error {
	if problem := badAddr(c.Addr); problem != "" {
		return Bad("addr", problem, `write host and port, like "127.0.0.1:8080" or ":8080"`)
	}
	if c.TLSCert != "" && c.TLSKey == "" {
		return Bad("tls_cert", "a certificate needs its key", "add tls_key (--tls-key FILE)")
	}
	if c.TLSKey != "" && c.TLSCert == "" {
		return Bad("tls_key", "a key needs its certificate", "add tls_cert (--tls-cert FILE)")
	}
	for _, p := range c.TrustedProxies {
		if !p.IsValid() {
			return Bad("trusted_proxies", "an address range is empty", hintFor(prefixType))
		}
	}
	if !headerFormat.MatchString(c.ClientIPHeader) {
		return Bad("client_ip_header", "not the name of a header", `the usual one is "X-Forwarded-For"`)
	}
	if c.PublicURL != "" {
		u, err := url.Parse(c.PublicURL)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" ||
			c.PublicURL != u.Scheme+"://"+u.Host {
			return Bad("public_url", "not the plain URL of a site", `write scheme and host only, like "https://example.com"`)
		}
	}
	if c.OpsAddr != "" {
		if problem := badAddr(c.OpsAddr); problem != "" {
			return Bad("ops_addr", problem, `write host and port, like "127.0.0.1:9090"`)
		}
	}
	if c.LogFormat != "text" && c.LogFormat != "json" {
		return Bad("log_format", "there is no such format", "write text or json")
	}
	return nil
}

func badAddr(addr string) string {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "not an address"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return "the port is not a number from 0 to 65535"
	}
	return ""
}

// exposed returns an error if visitors would talk to the app in plain text over a
// network and nothing says that this is meant.
func (c ServerConfig) exposed() error {
	u, _ := url.Parse(c.PublicURL)
	switch {
	case c.TLS() || c.Insecure || u != nil && u.Scheme == "https":
		return nil
	case !c.Loopback() && len(c.TrustedProxies) == 0:
		return Bad("addr", "plain HTTP on an address that others can reach",
			"use --tls-cert and --tls-key; or, behind a proxy that speaks TLS, --trusted-proxy CIDR and --public-url https://…; or --insecure")
	case u != nil && u.Scheme == "http" && !thisMachine(u.Hostname()):
		return Bad("public_url", "visitors would come over plain HTTP, which others can read on its way",
			"make it https:// and let the app or a proxy speak TLS; or, for development, --insecure")
	}
	return nil
}

// certificate loads the certificate, or returns nil for plain HTTP.
func (c ServerConfig) certificate() (*tls.Config, error) {
	if !c.TLS() {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		hint := "tls_cert names a certificate chain and tls_key its own key, in PEM, that this user can read"
		if p, ok := errors.AsType[*fs.PathError](err); ok && p.Path == c.TLSKey && p.Path != c.TLSCert {
			return nil, Bad("tls_key", "the key cannot be read: "+p.Err.Error(), hint)
		} else if ok {
			return nil, Bad("tls_cert", "the certificate cannot be read: "+p.Err.Error(), hint)
		}
		return nil, Bad("tls_cert", "the certificate and its key do not go together: "+err.Error(), hint)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, nil
}

// How long a stop may take in its steps; together less than the 30 s that
// Kubernetes and others leave a process.
const (
	drainTimeout  = 15 * time.Second // requests under way end by themselves
	cancelTimeout = 2 * time.Second  // their contexts have ended
)

// Run starts the app and serves it until ctx is done or background work fails.
// Then it drains: /readyz answers 503, no connection is accepted, and requests
// under way have 15 seconds before their contexts end. Last it stops the modules.
// After a stop by ctx the error is nil if all modules stopped well.
func (a *App) Run(ctx context.Context) error {
	defer a.addr.set("")
	defer a.opsAddr.set("")

	server := a.settings.table(serverTable)
	if err := a.server.exposed(); err != nil {
		return server.complete(err)
	}
	cert, err := a.server.certificate()
	if err != nil {
		return server.complete(err)
	}
	for _, o := range a.Others() {
		if o.Near != "" {
			a.log.Warn("crumb: "+o.Name+" belongs to no module of the app", "from", o.Source, "near", o.Near)
		}
	}
	handler, err := a.Start(ctx)
	if err != nil {
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			return nil
		}
		return err
	}
	err = a.serve(ctx, handler, cert)
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	return errors.Join(err, a.Stop(stopCtx))
}

func (a *App) serve(ctx context.Context, handler http.Handler, cert *tls.Config) error {
	ln, err := listen("addr", a.server.Addr)
	if err != nil {
		return err
	}
	defer ln.Close()
	var ops net.Listener
	if a.server.OpsAddr != "" {
		if ops, err = listen("ops-addr", a.server.OpsAddr); err != nil {
			return err
		}
		defer ops.Close()
	}

	a.mu.Lock()
	r := a.running
	a.mu.Unlock()
	if r == nil {
		return errors.New("app: stopped before it listened")
	}

	// Requests outlive ctx while they drain.
	base, cancelRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelRequests()
	failed := make(chan error, 2)

	main := newServer(base, a.log, handler)
	main.TLSConfig = cert
	scheme := "http"
	if cert != nil {
		scheme = "https"
		go func() { failed <- main.ServeTLS(ln, "", "") }()
	} else {
		go func() { failed <- main.Serve(ln) }()
	}
	defer main.Close()
	if ops != nil {
		// Operators see /readyz say no for as long as the draining takes.
		second := newServer(base, a.log, recoverer(a.log, r.health.before(r.ops)))
		go func() { failed <- second.Serve(ops) }()
		defer second.Close()
		a.log.Info("crumb: listening for operators on http://" + ops.Addr().String())
		a.opsAddr.set(ops.Addr().String())
	}
	a.log.Info("crumb: listening on " + scheme + "://" + ln.Addr().String())
	a.addr.set(ln.Addr().String())

	select {
	case <-ctx.Done():
		err = nil
	case bad := <-r.failed:
		a.log.Error("crumb: background work failed", "err", bad) // Stop returns it
	case err = <-failed:
	}
	r.health.drain()
	a.log.Info("crumb: stopping, waiting for requests")
	a.drain(main, r, cancelRequests)
	return err
}

// drain returns when no handler is at work, or when they have had their time.
func (a *App) drain(s *http.Server, r *running, cancelRequests context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	err := s.Shutdown(ctx)
	cancelRequests()

	ctx, cancel = context.WithTimeout(context.Background(), cancelTimeout)
	defer cancel()
	if err != nil {
		a.log.Warn("crumb: requests were still under way after " + drainTimeout.String() + " and are cut off")
	}
	if r.inflight.wait(ctx) != nil {
		a.log.Warn("crumb: handlers go on although their contexts have ended")
	}
	s.Shutdown(ctx) // lets the last answers out
	s.Close()
}

func newServer(base context.Context, log *slog.Logger, h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return base },
	}
}

func listen(flag, addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	switch {
	case err == nil:
		return ln, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, WithHint(fmt.Errorf("cannot listen on %s: another program does already", addr),
			"stop it, or choose another address with --"+flag)
	case errors.Is(err, syscall.EACCES):
		return nil, WithHint(fmt.Errorf("cannot listen on %s: not permitted", addr),
			"ports below 1024 are for privileged programs; choose another with --"+flag)
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return nil, WithHint(fmt.Errorf("cannot listen on %s: %w", addr, err), "choose another address with --"+flag)
}

// Addr waits until Run listens and returns the address, with the port that was
// chosen if the setting says 0. It returns "" if ctx is done, or if Run ended
// without having listened.
func (a *App) Addr(ctx context.Context) string { return a.addr.get(ctx) }

// OpsAddr is Addr for the listener of operators.
func (a *App) OpsAddr(ctx context.Context) string { return a.opsAddr.get(ctx) }

// An address is known once the app listens.
type address struct {
	once  sync.Once
	known chan struct{}
	text  string // set when known is closed
}

func newAddress() *address { return &address{known: make(chan struct{})} }

func (a *address) set(s string) {
	a.once.Do(func() {
		a.text = s
		close(a.known)
	})
}

func (a *address) get(ctx context.Context) string {
	select {
	case <-a.known:
		return a.text
	case <-ctx.Done():
		return ""
	}
}
