package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// A Config holds the settings of a [Manager]. The zero value is safe and right
// for an app behind HTTPS.
type Config struct {
	// AddrHeader is the header in which TrustedProxies pass on the visitor's
	// address, a comma-separated list that is read from the right. Defaults to
	// X-Forwarded-For. It is never read without TrustedProxies.
	AddrHeader string

	// CookieDomain lets subdomains share the session. Defaults to none, which
	// is safer: the cookie is called __Host-crumb and no other host can set it.
	// With a domain every host below it can set, and so replace, the cookie.
	CookieDomain string

	// CookieName defaults to "__Host-crumb", "__Secure-crumb" with a
	// CookieDomain or CookiePath, "crumb" with Insecure.
	CookieName string

	// CookiePath defaults to "/". It is no protection from other paths.
	CookiePath string

	// FirstVisit is how long the session of a visitor lasts whose cookie has not
	// come back yet. Defaults to 1 hour: most such cookies never do.
	FirstVisit time.Duration

	// IdleTimeout ends a signed-in session that was not seen for so long.
	// Defaults to 30 minutes. There is no unlimited, here or below.
	IdleTimeout time.Duration

	// Insecure allows the cookie over plain HTTP, for development. Without it
	// browsers do not send the cookie back over plain HTTP.
	Insecure bool

	// KeepOnSignIn lists the keys that outlive a sign-in, and prefixes of such
	// keys: "cart" keeps all that begin with "cart.". Defaults to none: an attacker
	// could have planted them.
	KeepOnSignIn []string

	// Lifetime ends a signed-in session so long after the user proved who they
	// are, however busy. Defaults to 24 hours.
	Lifetime time.Duration

	// Logger defaults to slog.Default. Tokens are never logged.
	Logger *slog.Logger

	// MaxBytes limits the keys and encoded values of one session. Defaults to
	// 64 KiB: every request of the visitor loads them all.
	MaxBytes int

	// Now is the clock. Defaults to time.Now.
	Now func() time.Time

	// OnError answers a request whose session could not be loaded or committed;
	// what the handler wrote is dropped. By default a [*ValueError] is 500,
	// anything else 503 with Retry-After.
	OnError func(w http.ResponseWriter, r *http.Request, err error)

	// OnEvent is called after an event, on the request's goroutine: be quick.
	OnEvent func(ctx context.Context, e Event)

	// RememberIdleTimeout and RememberLifetime are the limits of remembered
	// sessions. They default to 14 and 30 days, at most 400 as browsers keep no
	// cookie longer (RFC 6265bis, section 5.5).
	RememberIdleTimeout, RememberLifetime time.Duration

	// RenewGrace is how long a renewed token still works once the new one has
	// come back: other requests may be under way with it. Defaults to 10 seconds.
	RenewGrace time.Duration

	// SameSite defaults to http.SameSiteLaxMode.
	SameSite http.SameSite

	// StoreTimeout bounds the calls of the store that load a session, and those
	// that commit it, with all repeats. Both may have up to a thirty-second part
	// less. A deadline of the request's own context ends a load sooner. Defaults
	// to 5 seconds.
	StoreTimeout time.Duration

	// SweepInterval is how often Run sweeps. Defaults to 5 minutes.
	SweepInterval time.Duration

	// TouchInterval is how far Seen may lag, and thus how seldom a request that
	// changes nothing writes. Defaults to 1 minute, or a quarter of the shortest
	// idle time if that is less; it may not be more than that quarter.
	TouchInterval time.Duration

	// TrustedProxies may name the visitor's address in AddrHeader. Defaults to
	// none.
	TrustedProxies []netip.Prefix

	// VisitorIdleTimeout and VisitorLifetime are the limits while nobody is
	// signed in. They default to 30 and 180 days.
	VisitorIdleTimeout, VisitorLifetime time.Duration
}

const (
	day       = 24 * time.Hour
	maxAge    = 400 * day // RFC 6265bis, section 5.5: browsers cut longer ones
	maxCookie = 4096      // RFC 6265bis, section 5.6: name and value
)

// WithDefaults returns cfg with every default filled in, or the error with which
// NewManager would refuse it: for showing what holds.
func (cfg Config) WithDefaults() (Config, error) {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&cfg.IdleTimeout, 30*time.Minute)
	def(&cfg.Lifetime, day)
	def(&cfg.RememberIdleTimeout, 14*day)
	def(&cfg.RememberLifetime, 30*day)
	def(&cfg.VisitorIdleTimeout, 30*day)
	def(&cfg.VisitorLifetime, 180*day)
	def(&cfg.FirstVisit, min(time.Hour, cfg.VisitorIdleTimeout))
	def(&cfg.RenewGrace, 10*time.Second)
	def(&cfg.StoreTimeout, 5*time.Second)
	def(&cfg.SweepInterval, 5*time.Minute)
	shortest := min(cfg.IdleTimeout, cfg.RememberIdleTimeout, cfg.VisitorIdleTimeout, cfg.FirstVisit)
	def(&cfg.TouchInterval, min(time.Minute, shortest/4).Truncate(time.Microsecond))
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 64 << 10
	}
	if cfg.AddrHeader == "" {
		cfg.AddrHeader = "X-Forwarded-For"
	}
	cfg.AddrHeader = http.CanonicalHeaderKey(cfg.AddrHeader)
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.OnError == nil {
		cfg.OnError = answerError
	}
	if cfg.OnEvent == nil {
		cfg.OnEvent = func(context.Context, Event) {}
	}
	if cfg.SameSite == 0 || cfg.SameSite == http.SameSiteDefaultMode {
		cfg.SameSite = http.SameSiteLaxMode
	}
	if cfg.CookiePath == "" {
		cfg.CookiePath = "/"
	}
	if cfg.CookieName == "" {
		switch {
		case cfg.Insecure:
			cfg.CookieName = "crumb"
		case cfg.CookieDomain != "" || cfg.CookiePath != "/":
			cfg.CookieName = "__Secure-crumb"
		default:
			cfg.CookieName = "__Host-crumb"
		}
	}
	if err := cfg.check(shortest); err != nil {
		return cfg, fmt.Errorf("session: %w", err)
	}
	return cfg, nil
}

func (cfg *Config) check(shortest time.Duration) error {
	for _, d := range []struct {
		name string
		d    time.Duration
	}{
		{"IdleTimeout", cfg.IdleTimeout}, {"Lifetime", cfg.Lifetime},
		{"RememberIdleTimeout", cfg.RememberIdleTimeout}, {"RememberLifetime", cfg.RememberLifetime},
		{"VisitorIdleTimeout", cfg.VisitorIdleTimeout}, {"VisitorLifetime", cfg.VisitorLifetime},
		{"FirstVisit", cfg.FirstVisit}, {"RenewGrace", cfg.RenewGrace}, {"StoreTimeout", cfg.StoreTimeout},
		{"SweepInterval", cfg.SweepInterval}, {"TouchInterval", cfg.TouchInterval},
	} {
		if d.d <= 0 || d.d > maxAge || d.d%time.Microsecond != 0 {
			return fmt.Errorf("%s is %v; it must be whole microseconds, more than 0 and at most 400 days (%v)", d.name, d.d, maxAge)
		}
	}
	for _, p := range []struct {
		name        string
		idle, total time.Duration
	}{
		{"FirstVisit is %v, longer than VisitorIdleTimeout, %v", cfg.FirstVisit, cfg.VisitorIdleTimeout},
		{"IdleTimeout is %v, longer than Lifetime, %v", cfg.IdleTimeout, cfg.Lifetime},
		{"RememberIdleTimeout is %v, longer than RememberLifetime, %v", cfg.RememberIdleTimeout, cfg.RememberLifetime},
		{"VisitorIdleTimeout is %v, longer than VisitorLifetime, %v", cfg.VisitorIdleTimeout, cfg.VisitorLifetime},
	} {
		if p.idle > p.total {
			return fmt.Errorf(p.name+"; make it shorter", p.idle, p.total)
		}
	}
	if cfg.TouchInterval > shortest/4 {
		return fmt.Errorf("TouchInterval is %v; it must be at most a quarter of the shortest idle time, %v", cfg.TouchInterval, shortest/4)
	}
	if cfg.MaxBytes < 0 || cfg.MaxBytes > 16<<20 {
		return fmt.Errorf("MaxBytes is %d; it must be at most 16 MiB (%d)", cfg.MaxBytes, 16<<20)
	}
	for _, p := range cfg.KeepOnSignIn {
		if !validName(p) {
			return fmt.Errorf("KeepOnSignIn holds %q; a prefix is parts of a-z, 0-9 and _ with dots between, such as \"cart\"", p)
		}
	}
	for _, p := range cfg.TrustedProxies {
		if !p.IsValid() {
			return fmt.Errorf("TrustedProxies holds an invalid prefix, %q; write it like 10.0.0.0/8", p)
		}
		if p.Addr().Is4In6() {
			return fmt.Errorf("TrustedProxies holds %v, which matches nothing; write IPv4 addresses as such, like 10.0.0.0/8", p)
		}
	}
	if !isToken(cfg.AddrHeader) {
		return fmt.Errorf("AddrHeader is %q; it must be the name of a header, such as X-Forwarded-For", cfg.AddrHeader)
	}
	if cfg.AddrHeader == "Forwarded" {
		return errors.New("AddrHeader is Forwarded (RFC 7239), which is not a plain list; have the proxy set X-Forwarded-For")
	}
	return cfg.checkCookie()
}

// checkCookie refuses what browsers would: RFC 6265bis, sections 4.1.3 and 5.7.
func (cfg *Config) checkCookie() error {
	name := cfg.CookieName
	lower := strings.ToLower(name)
	host, secure := strings.HasPrefix(lower, "__host-"), strings.HasPrefix(lower, "__secure-")
	switch {
	case !isToken(name) || len(name) > 128:
		return fmt.Errorf("CookieName is %q; it must be at most 128 letters, digits and -_", name)
	case (host || secure) && cfg.Insecure:
		return fmt.Errorf("CookieName is %q and Insecure is set; browsers refuse the prefix over plain HTTP", name)
	case host && cfg.CookieDomain != "":
		return fmt.Errorf("CookieName is %q and CookieDomain %q; browsers refuse __Host- with a domain, use __Secure-", name, cfg.CookieDomain)
	case host && cfg.CookiePath != "/":
		return fmt.Errorf("CookieName is %q and CookiePath %q; browsers refuse __Host- with another path than /, use __Secure-", name, cfg.CookiePath)
	case cfg.SameSite == http.SameSiteNoneMode && cfg.Insecure:
		return errors.New("SameSite is None and Insecure is set; browsers refuse SameSite=None without Secure")
	case cfg.SameSite < http.SameSiteDefaultMode || cfg.SameSite > http.SameSiteNoneMode:
		return fmt.Errorf("SameSite is %d; use http.SameSiteLaxMode, StrictMode or NoneMode", cfg.SameSite)
	case cfg.CookiePath[0] != '/' || strings.ContainsFunc(cfg.CookiePath, func(c rune) bool { return c <= ' ' || c == ';' || c >= 0x7f }):
		return fmt.Errorf("CookiePath is %q; it must begin with / and hold neither blanks nor ;", cfg.CookiePath)
	case cfg.CookieDomain != "" && !isDomain(cfg.CookieDomain):
		return fmt.Errorf("CookieDomain is %q; it must be a host name with a dot and nothing else, such as example.org", cfg.CookieDomain)
	}
	return nil
}

func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_')
	})
}

func isDomain(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil || len(s) > 253 || !strings.Contains(s, ".") {
		return false
	}
	return !slices.ContainsFunc(strings.Split(s, "."), func(label string) bool {
		return len(label) > 63 || !isToken(label) || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-")
	})
}

// answerError is the default of Config.OnError.
func answerError(w http.ResponseWriter, _ *http.Request, err error) {
	if value := (*ValueError)(nil); errors.As(err, &value) {
		http.Error(w, "Something went wrong on our side.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Retry-After", "5")
	http.Error(w, "We cannot reach your session right now. Please try again in a few seconds.", http.StatusServiceUnavailable)
}
