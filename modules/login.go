package modules

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/keyring"
	"github.com/crumb-go/crumb/login"
	"github.com/crumb-go/crumb/session"
)

var (
	// Public marks a route of a module that requires [Login] as one for
	// everybody. [login.CurrentUser] works there, too.
	Public = &app.Mark{Name: "public"}

	// Fresh marks a route that asks for the password again if that was given
	// longer ago than [login] fresh says; see [login.RequireFresh].
	Fresh = &app.Mark{Name: "fresh"}
)

// Login signs users in. Routes of the modules that require it are private, but for
// those marked [Public]. It adds /login, /logout, /forgot, /reset, /account and
// what is below that, and /register if [login] register says so; it provides the
// [*login.Login].
//
// Users are kept in the database of the sessions, or in the one that [login] url
// names. For a users table of your own copy it, as a module is a value, and require
// one of yours that provides [login.Users] as well:
//
//	accounts := *modules.Login
//	accounts.Requires = append(slices.Clone(accounts.Requires), myUsers)
//
// Your other modules then require &accounts.
var Login = &app.Module{
	Name:     "login",
	Requires: []*app.Module{Session, Database, Keys},
	Config: LoginConfig{
		AppName: "This site", AuditFor: 365 * 24 * time.Hour, Enabled: true,
		Fresh: 15 * time.Minute, MinPassword: 15,
	},
	Setup: func(e *app.Env) error {
		cfg := app.ConfigOf[LoginConfig](e)
		if !cfg.Enabled {
			return app.Bad("enabled", "private routes of this app need it", "remove the setting")
		}
		database, _ := app.Lookup[DatabaseConfig](e)
		ctx, cancel := context.WithTimeout(e.Context(), OpenTimeout)
		defer cancel()
		tables, err := cfg.OpenTables(ctx, database, e.Logger())
		if err != nil {
			return err
		}
		e.OnStop(func(context.Context) error { return tables.Close() })
		all := cfg.For(e.Server())
		all.Keys, all.Sessions, all.Tables = app.Get[*keyring.Ring](e), app.Get[*session.Manager](e), tables
		all.Users, _ = app.Lookup[login.Users](e)
		all.Logger = e.Logger()
		accounts, err := login.New(all)
		if err != nil {
			return err
		}
		accounts.Routes(func(pattern string, h http.Handler) { e.Handle(pattern, accounts.Handler(h)) })
		e.Wrap(func(next http.Handler, r app.Route) http.Handler {
			switch {
			case r.Has(Fresh):
				next = login.RequireFresh(cfg.Fresh, next)
			case !r.Has(Public):
				next = login.Require(next)
			}
			return accounts.Handler(next)
		}, Public, Fresh)
		e.Provide(accounts)
		e.Go(tables.Run)
		e.Go(accounts.Run)
		e.OnCheck(accounts.Check)
		return nil
	},
}

// LoginConfig is the table [login].
type LoginConfig struct {
	AppName        string        `toml:"app_name" help:"name of the site on its pages"`
	AuditFor       time.Duration `toml:"audit_for" help:"how long the audit log keeps an entry"`
	Enabled        bool          `toml:"enabled" flag:"login" help:"sign-in, accounts and private pages"`
	FormTokens     bool          `toml:"form_tokens" help:"have forms carry a token of their session, besides what browsers say about a request"`
	Fresh          time.Duration `toml:"fresh" help:"how long ago users may have given their password before they change what matters"`
	MaxSessions    int           `toml:"max_sessions" help:"sessions a user may have at once, the oldest ends first; 0 is no limit"`
	MinPassword    int           `toml:"min_password" help:"characters of a new password, 8 to 64"`
	Register       bool          `toml:"register" flag:"register" help:"let anybody make an account at /register, which tells taken names"`
	TrustedOrigins []string      `toml:"trusted_origins" help:"other origins whose pages may send forms, such as https://admin.example.com"`

	// URL is the SQL database of users, where it is not that of the sessions: a
	// sqlite:, postgres: or mysql: URL.
	URL string `toml:"url" help:"SQL database of users and audit log, by default that of the sessions"`
}

// Check refuses what [login.New] would, before anything opens.
func (c LoginConfig) Check() error {
	switch {
	case c.AuditFor < time.Hour:
		return app.Bad("audit_for", "it is less than an hour", "write a time such as 365d")
	case c.Fresh <= 0:
		return app.Bad("fresh", "it must be more than 0", "write a time such as 15m")
	case c.MaxSessions < 0:
		return app.Bad("max_sessions", "it is below 0", "0 is no limit")
	case c.MinPassword < 8 || c.MinPassword > 64:
		return app.Bad("min_password", "it must be 8 to 64", "15 is what NIST SP 800-63B-4 asks of a password that stands alone")
	}
	for _, origin := range c.TrustedOrigins {
		if http.NewCrossOriginProtection().AddTrustedOrigin(origin) != nil {
			return app.Bad("trusted_origins", "one of them is no origin", "write them like https://admin.example.com")
		}
	}
	if c.URL != "" {
		db := DatabaseConfig{URL: c.URL, TablePrefix: "crumb_"}
		if err := db.Check(); err != nil {
			return err
		}
		if db.Engine() == "redis" {
			return app.Bad("url", "users are kept in a SQL database", "write a sqlite:, postgres: or mysql: URL")
		}
	}
	return nil
}

// For returns the [login.Config] of an app under these settings, without what is
// opened at its start.
func (c LoginConfig) For(server app.ServerConfig) login.Config {
	sessions, _ := SessionConfig{}.For(server)
	return login.Config{
		AppName: c.AppName, FormTokens: c.FormTokens, Fresh: c.Fresh, Insecure: sessions.Insecure, MaxSessions: c.MaxSessions,
		MinPassword: c.MinPassword, PublicURL: publicURL(server), Register: c.Register, TrustedOrigins: c.TrustedOrigins,
	}
}

// publicURL is where visitors find the app, or "" if that cannot be told: what it
// listens on, if only this machine can connect.
func publicURL(server app.ServerConfig) string {
	switch {
	case server.PublicURL != "":
		return server.PublicURL
	case !server.Loopback() || len(server.TrustedProxies) > 0 || strings.HasSuffix(server.Addr, ":0"):
		return ""
	case server.TLS():
		return "https://" + server.Addr
	}
	return "http://" + server.Addr
}

// OpenTables opens the tables of users in the database of the sessions, or in the
// one that the settings name.
func (c LoginConfig) OpenTables(ctx context.Context, db DatabaseConfig, log *slog.Logger) (*login.Tables, error) {
	db = c.Database(db)
	if engine := db.Engine(); engine == "" || engine == "redis" {
		return nil, app.Bad("url", "it is empty, and users are kept in a SQL database, which that of the sessions is not",
			"set [login] url to a sqlite:, postgres: or mysql: URL")
	}
	url, err := db.Address()
	if err != nil {
		return nil, err
	}
	tables, err := login.OpenTables(ctx, url, c.tables(db, log))
	if err != nil {
		return nil, app.WithHint(err, "[login] url names another database; on a server crumb schema apply creates the tables")
	}
	return tables, nil
}

// Database returns where users are kept: in db, that of the sessions, or in the one
// that the settings name.
func (c LoginConfig) Database(db DatabaseConfig) DatabaseConfig {
	if c.URL != "" {
		db.URL, db.PasswordFile = c.URL, ""
	}
	return db
}

func (c LoginConfig) tables(db DatabaseConfig, log *slog.Logger) login.TablesConfig {
	prefix := db.TablePrefix
	if prefix == "" {
		prefix = "crumb_"
	}
	return login.TablesConfig{AuditFor: c.AuditFor, Logger: log, TablePrefix: prefix}
}
