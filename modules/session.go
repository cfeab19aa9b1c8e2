package modules

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/session"
)

// Optional marks a route that can do without its session when the store fails;
// see [session.Manager.Optional].
var Optional = &app.Mark{Name: "optional"}

// Session gives every route of the modules that require it a session, and
// provides the [*session.Manager].
//
// Where the app speaks plain HTTP on a loopback address and nothing says that
// something in front of it speaks TLS, the cookie is the development one, and
// only requests that clearly come from this machine are served.
//
// It takes the [session.Store] that a module it requires provides. For a store of
// your own copy it, as a module is a value, and require yours in place of
// [Database]:
//
//	sessions := *modules.Session
//	sessions.Requires = []*app.Module{myStore}
//
// Your other modules then require &sessions.
var Session = &app.Module{
	Name:     "session",
	Requires: []*app.Module{Database},
	Config:   defaultSessionConfig(),
	Setup: func(e *app.Env) error {
		server := e.Server()
		cfg, development := app.ConfigOf[SessionConfig](e).For(server)
		cfg.Logger = e.Logger()
		m, err := session.NewManager(observe(e, app.Get[session.Store](e), &cfg), cfg)
		if err != nil {
			return badConfig(err)
		}
		e.Provide(m)
		e.Wrap(func(next http.Handler, r app.Route) http.Handler {
			next = wrap(m, next, r)
			if development {
				return onlyThisMachine(next)
			}
			return next
		}, Optional)
		e.Go(m.Run)
		e.OnCheck(func(ctx context.Context) error {
			if _, err := m.Info(ctx, "readyz"); !errors.Is(err, session.ErrNotFound) {
				return err
			}
			return nil
		})
		return nil
	},
}

func wrap(m *session.Manager, next http.Handler, r app.Route) http.Handler {
	if r.Has(Optional) {
		return m.Optional(next)
	}
	return m.Handler(next)
}

// onlyThisMachine refuses what may have crossed a network: the development cookie
// must not. A Host that is not loopback is a proxy's, or a page's that rebinds its
// name; so are headers that only proxies set.
func onlyThisMachine(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		why := ""
		for _, name := range slices.Sorted(maps.Keys(r.Header)) {
			if name == "Forwarded" || name == "Via" || name == "X-Real-Ip" || strings.HasPrefix(name, "X-Forwarded-") {
				why = "it carries the header " + name
			}
		}
		if !loopbackHost(r.Host) {
			why = fmt.Sprintf("its Host is %q", r.Host)
		}
		if why == "" {
			next.ServeHTTP(w, r)
			return
		}
		http.Error(w, "This server is set up for its own machine only, and the request seems to have come through a proxy: "+why+".\n"+
			"hint: behind a proxy that speaks TLS set --trusted-proxy to its address and --public-url to https://…; "+
			"to allow plain HTTP from everywhere, for development, set --insecure.", http.StatusMisdirectedRequest)
	})
}

func loopbackHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") { // RFC 6761, section 6.3
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// SessionConfig is the table [session]: what of [session.Config] a file can hold,
// under the same names. The table [server] has the rest.
type SessionConfig struct {
	CookieDomain        string        `toml:"cookie_domain" help:"let subdomains share the session; less safe"`
	CookieName          string        `toml:"cookie_name" help:"name of the cookie; by default __Host-crumb, or what the other settings allow"`
	CookiePath          string        `toml:"cookie_path" help:"path of the cookie; no protection from other paths"`
	FirstVisit          time.Duration `toml:"first_visit" help:"how long a session lasts whose cookie never came back; 0 is 1h, or visitor_idle_timeout if that is less"`
	IdleTimeout         time.Duration `toml:"idle_timeout" help:"ends a signed-in session not seen for so long"`
	KeepOnSignIn        []string      `toml:"keep_on_sign_in" help:"prefixes of keys that outlive a sign-in, such as cart"`
	Lifetime            time.Duration `toml:"lifetime" help:"ends a signed-in session so long after the sign-in"`
	MaxBytes            int           `toml:"max_bytes" help:"limit of the values of one session"`
	RememberIdleTimeout time.Duration `toml:"remember_idle_timeout" help:"idle_timeout of remembered sessions"`
	RememberLifetime    time.Duration `toml:"remember_lifetime" help:"lifetime of remembered sessions"`
	RenewGrace          time.Duration `toml:"renew_grace" help:"how long a renewed token works once the new one came back"`
	SameSite            SameSite      `toml:"same_site" help:"lax, strict or none"`
	StoreTimeout        time.Duration `toml:"store_timeout" help:"limit of a load or a commit"`
	SweepInterval       time.Duration `toml:"sweep_interval" help:"how often expired sessions are removed"`
	TouchInterval       time.Duration `toml:"touch_interval" help:"how far the time of the last visit may lag; 0 is 1m, or a quarter of the shortest idle time if that is less"`
	VisitorIdleTimeout  time.Duration `toml:"visitor_idle_timeout" help:"idle_timeout while nobody is signed in"`
	VisitorLifetime     time.Duration `toml:"visitor_lifetime" help:"lifetime while nobody is signed in"`
}

// defaultSessionConfig holds the defaults of package session, but for those that
// it derives from other settings.
func defaultSessionConfig() SessionConfig {
	cfg, err := session.Config{}.WithDefaults()
	if err != nil {
		panic(err) // the zero Config is valid
	}
	return SessionConfig{
		CookiePath:  cfg.CookiePath,
		IdleTimeout: cfg.IdleTimeout, Lifetime: cfg.Lifetime,
		MaxBytes:            cfg.MaxBytes,
		RememberIdleTimeout: cfg.RememberIdleTimeout, RememberLifetime: cfg.RememberLifetime,
		RenewGrace: cfg.RenewGrace, SameSite: SameSite(cfg.SameSite),
		StoreTimeout: cfg.StoreTimeout, SweepInterval: cfg.SweepInterval,
		VisitorIdleTimeout: cfg.VisitorIdleTimeout, VisitorLifetime: cfg.VisitorLifetime,
	}
}

// For returns the [session.Config] of an app under these settings, and whether
// its cookie is the development one, for requests from this machine only.
func (c SessionConfig) For(server app.ServerConfig) (cfg session.Config, development bool) {
	cfg = c.config()
	cfg.AddrHeader, cfg.TrustedProxies = server.ClientIPHeader, server.TrustedProxies
	behindTLS := server.TLS() || len(server.TrustedProxies) > 0 || strings.HasPrefix(server.PublicURL, "https://")
	development = !behindTLS && !server.Insecure && server.Loopback()
	cfg.Insecure = server.Insecure && !server.TLS() || development
	return cfg, development
}

func (c SessionConfig) config() session.Config {
	return session.Config{
		CookieDomain: c.CookieDomain, CookieName: c.CookieName, CookiePath: c.CookiePath,
		FirstVisit: c.FirstVisit, IdleTimeout: c.IdleTimeout, Lifetime: c.Lifetime,
		KeepOnSignIn: c.KeepOnSignIn, MaxBytes: c.MaxBytes,
		RememberIdleTimeout: c.RememberIdleTimeout, RememberLifetime: c.RememberLifetime,
		RenewGrace: c.RenewGrace, SameSite: http.SameSite(c.SameSite),
		StoreTimeout: c.StoreTimeout, SweepInterval: c.SweepInterval, TouchInterval: c.TouchInterval,
		VisitorIdleTimeout: c.VisitorIdleTimeout, VisitorLifetime: c.VisitorLifetime,
	}
}

// Check refuses what [session.NewManager] would, before anything opens.
func (c SessionConfig) Check() error {
	for _, d := range []struct {
		key string
		d   time.Duration
	}{
		{"idle_timeout", c.IdleTimeout}, {"lifetime", c.Lifetime},
		{"remember_idle_timeout", c.RememberIdleTimeout}, {"remember_lifetime", c.RememberLifetime},
		{"visitor_idle_timeout", c.VisitorIdleTimeout}, {"visitor_lifetime", c.VisitorLifetime},
	} {
		if d.d == 0 {
			return app.Bad(d.key, "there is no unlimited session", "write a time of at most 400 days, such as 30m, 24h or 30d")
		}
	}
	if _, err := c.config().WithDefaults(); err != nil {
		return badConfig(err)
	}
	return nil
}

// badConfig says an error of package session about its Config as one about the
// setting. "IdleTimeout is 48h0m0s, longer than Lifetime, 24h0m0s; make it
// shorter" begins with the name of a field and its value, which the error of a
// setting shows by itself, and ends with what to do.
func badConfig(err error) error {
	problem := strings.TrimPrefix(err.Error(), "session: ")
	key := ""
	if name, _, _ := strings.Cut(problem, " "); name != "" {
		if f, ok := reflect.TypeFor[SessionConfig]().FieldByName(name); ok {
			key = f.Tag.Get("toml")
		}
	}
	if key != "" && strings.Contains(problem, "Insecure is set") {
		return app.Bad(key, "browsers refuse it over plain HTTP",
			"set tls_cert and tls_key, or public_url if a proxy speaks TLS; or remove it for development")
	}
	problem = fieldNames.Replace(problem)
	problem = goTime.ReplaceAllStringFunc(problem, func(text string) string {
		d, err := time.ParseDuration(text)
		if err != nil {
			return text
		}
		return duration(d)
	})
	if key != "" {
		problem = strings.TrimLeft(valueFirst.ReplaceAllString(problem, ""), ",; ")
	}
	problem, hint, _ := strings.Cut(problem, "; ")
	if with, ok := strings.CutPrefix(problem, "and "); ok {
		problem = "does not go with " + with
	}
	return app.Bad(key, problem, hint)
}

var (
	valueFirst = regexp.MustCompile(`^\w+ (is|holds) ("(\\.|[^"\\])*"|[^,; ]+)`)
	goTime     = regexp.MustCompile(`\b(\d+h)?(\d+m)?[\d.]+[nµm]?s\b`)
	// fieldNames writes the fields of Config as settings.
	fieldNames = func() *strings.Replacer {
		pairs := []string{" (9600h0m0s)", "", "AddrHeader", "[server] client_ip_header", "TrustedProxies", "[server] trusted_proxies", "Insecure", "insecure"}
		fields := reflect.VisibleFields(reflect.TypeFor[SessionConfig]())
		// A long name such as VisitorLifetime is found before Lifetime at its end.
		for _, f := range fields {
			pairs = append(pairs, f.Name, f.Tag.Get("toml"))
		}
		return strings.NewReplacer(pairs...)
	}()
)

// duration is d as a person writes it in the settings.
func duration(d time.Duration) string {
	const day = 24 * time.Hour
	if d > day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-2]
		}
	}
	return text
}

// SameSite is [http.SameSite] as a setting: lax, strict or none.
type SameSite http.SameSite

var sameSites = []struct {
	text string
	mode http.SameSite
}{{"lax", http.SameSiteLaxMode}, {"strict", http.SameSiteStrictMode}, {"none", http.SameSiteNoneMode}}

// MarshalText returns lax, strict or none.
func (s SameSite) MarshalText() ([]byte, error) {
	for _, p := range sameSites {
		if p.mode == http.SameSite(s) {
			return []byte(p.text), nil
		}
	}
	return nil, fmt.Errorf("unknown SameSite mode %d", s)
}

// UnmarshalText reads lax, strict or none, in any case.
func (s *SameSite) UnmarshalText(text []byte) error {
	i := slices.IndexFunc(sameSites, func(p struct {
		text string
		mode http.SameSite
	}) bool {
		return strings.EqualFold(p.text, string(text))
	})
	if i < 0 {
		return errors.New("write lax, strict or none")
	}
	*s = SameSite(sameSites[i].mode)
	return nil
}
