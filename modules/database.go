package modules

import (
	"context"
	"errors"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
	"github.com/crumb-go/crumb/store/mysql"
	"github.com/crumb-go/crumb/store/postgres"
	"github.com/crumb-go/crumb/store/redis"
	"github.com/crumb-go/crumb/store/sqlite"
)

// Database opens the database that [database] url names and provides it as a
// [session.Store]. A SQLite file is created, with its tables, if it is not there;
// in PostgreSQL and MySQL "crumb schema apply" creates them.
var Database = &app.Module{
	Name:   "database",
	Config: DatabaseConfig{KeyPrefix: "crumb:", TablePrefix: "crumb_", URL: "sqlite:crumb.db"},
	Setup: func(e *app.Env) error {
		cfg := app.ConfigOf[DatabaseConfig](e)
		e.Provide(cfg) // for modules that have tables beside those of the sessions
		ctx, cancel := context.WithTimeout(e.Context(), OpenTimeout)
		defer cancel()
		st, err := cfg.open(ctx, e)
		if err != nil {
			return err
		}
		if c, ok := st.(interface{ Close() error }); ok {
			e.OnStop(func(context.Context) error { return c.Close() })
		}
		e.Provide(st)
		return nil
	},
}

// OpenTimeout is how long to wait for a server to answer, or for a file that
// another process keeps locked.
const OpenTimeout = 5 * time.Second

// DatabaseConfig is the table [database].
type DatabaseConfig struct {
	// KeyPrefix is what the keys in a Redis begin with, so that several apps can
	// share a server. Defaults to crumb:.
	KeyPrefix string `toml:"key_prefix" help:"what the keys in a Redis begin with"`

	// PasswordFile names a file that holds the password and nothing else, for a URL
	// that says who but not the password. Defaults to none.
	PasswordFile string `toml:"password_file" help:"file that holds the password of the database"`

	// TablePrefix is what the names of the tables in a SQL database begin with, so
	// that several apps can share it. Defaults to crumb_.
	TablePrefix string `toml:"table_prefix" help:"what the names of the tables begin with"`

	// URL is one of
	//
	//	sqlite:FILE
	//	postgres://user@host:5432/database
	//	mysql://user@host:3306/database
	//	redis://host:6379
	//	redis+cluster://host:6379,host:6379
	//	memory:
	//
	// The default is sqlite:crumb.db in the working directory; memory: forgets
	// everything when the process ends. A password may stand behind the user and a
	// colon, but others read the arguments of a process: use the environment or a
	// settings file for such a URL, or PasswordFile.
	URL string `toml:"url" flag:"database" help:"database: sqlite:FILE, postgres://…, mysql://…, redis://…, redis+cluster://… or memory:"`
}

// open opens the store that the settings name.
func (cfg DatabaseConfig) open(ctx context.Context, e *app.Env) (st session.Store, err error) {
	url, err := cfg.Address()
	if err != nil {
		return nil, err
	}
	hint := serverHint
	switch cfg.Engine() {
	case "memory":
		return memory.New(), nil
	case "postgres":
		st, err = postgres.Open(ctx, url, postgres.Config{Logger: e.Logger(), TablePrefix: cfg.TablePrefix})
	case "mysql":
		st, err = mysql.Open(ctx, url, mysql.Config{Logger: e.Logger(), TablePrefix: cfg.TablePrefix})
	case "redis":
		st, err = redis.Open(ctx, url, redis.Config{Logger: e.Logger(), KeyPrefix: cfg.KeyPrefix})
	default:
		st, err = sqlite.Open(ctx, url, sqlite.Config{Logger: e.Logger(), TablePrefix: cfg.TablePrefix})
		hint = fileHint
	}
	if err != nil {
		return nil, app.WithHint(err, hint)
	}
	return st, nil
}

const (
	fileHint   = "--database sqlite:FILE names another file, --database memory: keeps sessions until the process ends"
	serverHint = "crumb check tells what is wrong with it; --database names another"
)

// Engine is what the URL is for: "sqlite", "postgres", "mysql", "redis", which a
// Cluster is too, or "memory". It is "" for a URL that Check refuses.
func (cfg DatabaseConfig) Engine() string {
	scheme, _, _ := strings.Cut(cfg.URL, ":")
	return engines[scheme]
}

var engines = map[string]string{
	"memory": "memory", "sqlite": "sqlite",
	"postgres": "postgres", "postgresql": "postgres", "mysql": "mysql",
	"redis": "redis", "rediss": "redis", "redis+cluster": "redis", "rediss+cluster": "redis",
	"valkey": "redis", "valkeys": "redis", "valkey+cluster": "redis", "valkeys+cluster": "redis",
}

// Address returns the URL to open: URL, with the password that PasswordFile holds.
// Nobody should see it.
func (cfg DatabaseConfig) Address() (string, error) {
	if cfg.PasswordFile == "" || !cfg.remote() {
		return cfg.URL, nil
	}
	text, err := os.ReadFile(cfg.PasswordFile)
	if err != nil {
		return "", app.Bad("password_file", "it cannot be read: "+errors.Unwrap(err).Error(), "name a file that this user can read and others cannot")
	}
	password := strings.TrimRight(string(text), "\r\n")
	if password == "" {
		return "", app.Bad("password_file", "the file is empty", "write the password into it, or remove the setting")
	}
	m := serverURL.FindStringSubmatchIndex(cfg.URL)
	if m == nil {
		return "", errBadURL
	}
	user := ""
	if m[2] >= 0 {
		user = cfg.URL[m[2]:m[3]]
	}
	hosts := cfg.URL[m[6]:]
	scheme, _, _ := strings.Cut(cfg.URL, ":")
	return scheme + "://" + user + url.UserPassword("", password).String() + "@" + hosts, nil
}

// remote says that the database is a server, which may ask for a password.
func (cfg DatabaseConfig) remote() bool {
	e := cfg.Engine()
	return e != "sqlite" && e != "memory"
}

var prefixFormat = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Check refuses what no store would open.
func (cfg DatabaseConfig) Check() error {
	if !prefixFormat.MatchString(cfg.TablePrefix) {
		return app.Bad("table_prefix", "not the beginning of a name", "use ASCII letters, digits and underscores, and no digit first")
	}
	scheme, rest, ok := strings.Cut(cfg.URL, ":")
	switch {
	case !ok:
		return app.Bad("url", "it is no URL", "write sqlite:"+cfg.URL+" for a file; there are also "+others)
	case cfg.Engine() == "":
		return app.Bad("url", "unknown scheme "+scheme+":", "write sqlite:FILE; there are also "+others)
	case cfg.remote():
		return cfg.checkServer()
	case scheme == "memory" && rest == "":
		return nil
	case scheme == "memory":
		return app.Bad("url", "memory: takes nothing behind the colon", "write memory:")
	case strings.Trim(rest, "/") == "":
		return app.Bad("url", "it names no file", "write sqlite:crumb.db")
	case rest == ":memory:":
		return app.Bad("url", "SQLite in memory is not supported", "write memory:")
	case strings.Contains(rest, "?"):
		return app.Bad("url", "a sqlite: URL takes no parameters", "remove what begins with ?; in the name of a file write %3F")
	}
	return nil
}

const others = "postgres://…, mysql://…, redis://…, redis+cluster://… and memory:"

var errBadURL = app.Bad("url", "it is no URL of a server",
	"write it like postgres://user:password@host:5432/database; in user and password write %40 for @, %2F for /, %3A for :, %23 for # and %25 for %")

// serverURL matches the URL of a server; its parts are the user, the password with
// the colon before it, the hosts, the path and the parameters. The parser of
// net/url knows one host only, and shows in its errors a part of the password.
var serverURL = func() *regexp.Regexp {
	const host = `(?:\[[^\]\s]*\]|[^\[\]:/?#@,\s]*)(?::\d+)?`
	return regexp.MustCompile(`^[a-z+]+://(?:([^:/?#@\s]*)(:[^:/?#@\s]*)?@)?(` + host + `(?:,` + host + `)*)(/[^?#\s]*)?(\?[^#\s]*)?$`)
}()

func (cfg DatabaseConfig) checkServer() error {
	m := serverURL.FindStringSubmatch(cfg.URL)
	if m == nil {
		return errBadURL
	}
	password, hosts, path := m[2], m[3], m[4]
	engine := cfg.Engine()
	switch {
	case password != "" && cfg.PasswordFile != "":
		return app.Bad("password_file", "the URL has a password already", "remove one of the two")
	case hosts == "" && engine != "postgres": // whose host may be a parameter
		return app.Bad("url", "it names no server", "write it like "+example[engine])
	case engine == "mysql" && strings.Trim(path, "/") == "":
		return app.Bad("url", "it names no database", "write it like "+example[engine])
	}
	return nil
}

var example = map[string]string{
	"mysql": "mysql://user@host:3306/database",
	"redis": "redis://host:6379, or redis+cluster://host:6379,host:6379 for a Cluster",
}
