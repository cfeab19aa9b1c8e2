package app_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/crumb-go/crumb/app"
)

type bakery struct {
	Name    string         `toml:"name"`
	Open    bool           `toml:"open"`
	Ovens   int            `toml:"ovens" help:"how many ovens"`
	Small   int8           `toml:"small"`
	Loaves  uint           `toml:"loaves"`
	Price   float64        `toml:"price"`
	Bake    time.Duration  `toml:"bake_time"`
	Breads  []string       `toml:"breads"`
	Net     netip.Prefix   `toml:"net"`
	Nets    []netip.Prefix `toml:"nets"`
	Level   slog.Level     `toml:"level"`
	Since   time.Time      `toml:"since"`
	URL     string         `toml:"url" flag:"database"`
	Key     string         `toml:"key" secret:"true"`
	KeyNet  netip.Prefix   `toml:"key_net" secret:"true"`
	Private int            `toml:"-"`
}

func (b bakery) Check() error {
	if b.Ovens < 0 {
		return app.Bad("ovens", "fewer than none", "buy one")
	}
	if b.Name == "closed" {
		return errors.New("the bakery is closed")
	}
	return nil
}

var defaults = bakery{Name: "Crumb", Ovens: 2, Bake: 45 * time.Minute, Breads: []string{"rye"}, Private: 7}

// newApp returns an app with a module bakery, and the name of its settings file.
func newApp(t *testing.T, toml string, environ, args []string) (*app.App, string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "crumb.toml")
	if err := os.WriteFile(file, []byte(toml), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := app.New(app.Options{File: file, Environ: environ, Args: args, Logger: quiet, Program: "bake"},
		&app.Module{Name: "bakery", Config: defaults, Setup: func(e *app.Env) error {
			e.Provide(app.ConfigOf[bakery](e))
			return nil
		}}, &app.Module{Name: "plain"})
	return a, file, err
}

func lookUp(a *app.App, table, key string) app.Setting {
	for _, s := range a.Settings() {
		if s.Table == table && s.Key == key {
			return s
		}
	}
	return app.Setting{}
}

func TestSettingsOfEveryType(t *testing.T) {
	want := bakery{
		Name: "Corner", Open: true, Ovens: -0 + 3, Small: -128, Loaves: 18446744073709551615, Price: 2.5,
		Bake: 36 * time.Hour, Breads: []string{"rye", "spelt"}, Net: netip.MustParsePrefix("10.0.0.0/8"),
		Nets:  []netip.Prefix{netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("10.0.0.0/8")},
		Level: slog.LevelWarn, Since: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC), URL: "sqlite:x.db", Key: "k",
		KeyNet: netip.MustParsePrefix("10.0.0.0/8"), Private: 7,
	}
	got := func(t *testing.T, toml string, environ, args []string) bakery {
		t.Helper()
		file := filepath.Join(t.TempDir(), "crumb.toml")
		if err := os.WriteFile(file, []byte(toml), 0o600); err != nil {
			t.Fatal(err)
		}
		var b bakery
		a, err := app.New(app.Options{File: file, Environ: environ, Args: args, Logger: quiet},
			&app.Module{Name: "bakery", Config: defaults, Setup: func(e *app.Env) error {
				b = app.ConfigOf[bakery](e)
				return nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		return b
	}
	same := func(t *testing.T, got, want bakery) {
		t.Helper()
		if got.Loaves == 9223372036854775807 { // TOML has no more
			got.Loaves = want.Loaves
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}

	t.Run("defaults", func(t *testing.T) { same(t, got(t, "", nil, nil), defaults) })
	t.Run("from the file", func(t *testing.T) {
		same(t, got(t, `
[bakery]
name = "Corner"
open = true
ovens = 3
small = -128
loaves = 9223372036854775807
price = 2.5
bake_time = "1d12h"
breads = ["rye", "spelt"]
net = "10.0.0.0/8"
nets = ["::1/128", "10.0.0.0/8"]
level = "warn"
since = 2026-11-22T00:00:00Z
url = "sqlite:x.db"
key = "k"
key_net = "10.0.0.0/8"
`, nil, nil), want)
	})
	t.Run("from the environment", func(t *testing.T) {
		same(t, got(t, "", []string{
			"PATH=/bin", "CRUMB=1", "CRUMB_OTHER=1", "CRUMB_BAKERY_NAME=Corner", "CRUMB_BAKERY_OPEN=true", "CRUMB_BAKERY_OVENS=3",
			"CRUMB_BAKERY_SMALL=-128", "CRUMB_BAKERY_LOAVES=18446744073709551615", "CRUMB_BAKERY_PRICE=2.5",
			"CRUMB_BAKERY_BAKE_TIME=1.5d", "CRUMB_BAKERY_BREADS=rye, spelt", "CRUMB_BAKERY_NET=10.0.0.0/8",
			"CRUMB_BAKERY_NETS=::1/128,10.0.0.0/8", "CRUMB_BAKERY_LEVEL=WARN", "CRUMB_BAKERY_SINCE=2026-11-22T00:00:00Z",
			"CRUMB_BAKERY_URL=sqlite:x.db", "CRUMB_BAKERY_KEY=k", "CRUMB_BAKERY_KEY_NET=10.0.0.0/8",
		}, nil), want)
	})
	t.Run("from flags, with = and without, lists repeated or with commas", func(t *testing.T) {
		same(t, got(t, "", nil, []string{
			"--bakery.name", "Corner", "--bakery.open", "--bakery.ovens=3", "--bakery.small", "-128",
			"--bakery.loaves=18446744073709551615", "--bakery.price=2.5", "--bakery.bake_time=36h",
			"--bakery.breads=rye", "--bakery.breads", "spelt", "--bakery.net=10.0.0.0/8", "--bakery.nets=::1/128,10.0.0.0/8",
			"--bakery.level=warn", "--bakery.since=2026-11-22T00:00:00Z", "--database", "sqlite:x.db", "--bakery.key=k", "--bakery.key_net=10.0.0.0/8",
		}), want)
	})
	t.Run("the module's defaults stay as they are", func(t *testing.T) {
		got(t, "", nil, []string{"--bakery.breads=spelt"})
		if !reflect.DeepEqual(defaults.Breads, []string{"rye"}) {
			t.Errorf("the defaults became %v", defaults.Breads)
		}
	})
}

func TestPrecedence(t *testing.T) {
	const file = "[server]\naddr = \"127.0.0.1:1\"\n[bakery]\nbreads = [\"a\"]\n"
	env := []string{"CRUMB_SERVER_ADDR=127.0.0.1:2", "CRUMB_BAKERY_BREADS=b"}
	for _, c := range []struct {
		rule, file      string
		env, args       []string
		addr, source    string
		breads, source2 string
	}{
		{"a default holds where nothing is said", "", nil, nil, "127.0.0.1:8080", "default", "rye", "default"},
		{"the file wins over the default", file, nil, nil, "127.0.0.1:1", "FILE:2", "a", "FILE:4"},
		{"the environment wins over the file", file, env, nil, "127.0.0.1:2", "env CRUMB_SERVER_ADDR", "b", "env CRUMB_BAKERY_BREADS"},
		{"a flag wins over all, and a list in flags replaces the others", file, env,
			[]string{"--addr=127.0.0.1:3", "--bakery.breads=c", "--bakery.breads=d"},
			"127.0.0.1:3", "flag --addr", "c,d", "flag --bakery.breads"},
		{"the last flag wins, short or long", file, env, []string{"--addr", "127.0.0.1:3", "--server.addr", "127.0.0.1:4"},
			"127.0.0.1:4", "flag --server.addr", "b", "env CRUMB_BAKERY_BREADS"},
		{"an empty variable counts as not set", file, []string{"CRUMB_SERVER_ADDR="}, nil, "127.0.0.1:1", "FILE:2", "a", "FILE:4"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			a, path, err := newApp(t, c.file, c.env, c.args)
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range []struct{ table, key, value, source string }{
				{"server", "addr", c.addr, c.source}, {"bakery", "breads", c.breads, c.source2},
			} {
				s := lookUp(a, w.table, w.key)
				if source := strings.ReplaceAll(w.source, "FILE", path); s.Value != w.value || s.Source != source {
					t.Errorf("%s.%s is %q from %s, want %q from %s", w.table, w.key, s.Value, s.Source, w.value, source)
				}
			}
		})
	}

	t.Run("--config names another file", func(t *testing.T) {
		other := filepath.Join(t.TempDir(), "other.toml")
		if err := os.WriteFile(other, []byte("server.addr = '127.0.0.1:9'"), 0o600); err != nil {
			t.Fatal(err)
		}
		a, _, err := newApp(t, file, nil, []string{"--config", other})
		if err != nil {
			t.Fatal(err)
		}
		if s := lookUp(a, "server", "addr"); s.Value != "127.0.0.1:9" || s.Source != other+":1" {
			t.Errorf("got %+v", s)
		}
	})

	t.Run("a file that is not there is fine unless a flag names it", func(t *testing.T) {
		absent := filepath.Join(t.TempDir(), "crumb.toml")
		if _, err := app.New(app.Options{File: absent}); err != nil {
			t.Error(err)
		}
		_, err := app.New(app.Options{Args: []string{"--config=" + absent}})
		wantError(t, err, "flag --config: there is no file "+absent)
	})

	t.Run("tables of other modules are left alone on demand", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "crumb.toml")
		if err := os.WriteFile(path, []byte("[other]\nx = 1\n[server]\naddr = ':1'\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		a, err := app.New(app.Options{File: path, OtherTables: true})
		if err != nil {
			t.Fatal(err)
		}
		if a.Server().Addr != ":1" {
			t.Errorf("addr is %q", a.Server().Addr)
		}
	})
}

func TestOthersAreWhatBelongsToNoModule(t *testing.T) {
	path := filepath.Join(t.TempDir(), "crumb.toml")
	if err := os.WriteFile(path, []byte("[other]\nx = 1\n[servr]\naddr = ':1'\n[server]\naddr = ':1'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{
		"CRUMB_SERVR_ADDR=:2", "CRUMB_OTHER_X=1", "CRUMB_ALONE=1", "CRUMB_EMPTY_X=", "CRUMB_ABC_X=1", "CRUMBS_SERVR_ADDR=:2",
		"CRUMB_SHOP_SERVICE_HOST=10.0.0.1", "CRUMB_SERVER_LOG_FORMAT=text",
	}
	a, err := app.New(app.Options{File: path, Environ: env, OtherTables: true}, &app.Module{Name: "abd"})
	if err != nil {
		t.Fatal(err)
	}
	want := []app.Other{
		{path + ":1", "[other]", ""},
		{path + ":3", "[servr]", "[server]"},
		{"env CRUMB_ABC_X", "CRUMB_ABC_X", ""}, // short names are near to everything
		{"env CRUMB_ALONE", "CRUMB_ALONE", ""},
		{"env CRUMB_OTHER_X", "CRUMB_OTHER_X", ""},
		{"env CRUMB_SERVR_ADDR", "CRUMB_SERVR_ADDR", "CRUMB_SERVER_ADDR"},
	}
	if got := a.Others(); !slices.Equal(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestAMisspeltVariableIsLoggedWhenTheAppRuns(t *testing.T) {
	var log strings.Builder
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	a, err := app.New(app.Options{Logger: slog.New(slog.NewTextHandler(&log, nil)), Args: []string{"--addr=127.0.0.1:0"}, Environ: []string{"CRUMB_SERVR_ADDR=hunter2", "CRUMB_SHOP_X=1"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if got := log.String(); strings.Count(got, "level=WARN") != 1 || !strings.Contains(got, "CRUMB_SERVR_ADDR belongs to no module") ||
		!strings.Contains(got, "near=CRUMB_SERVER_ADDR") || strings.Contains(got, "hunter2") {
		t.Errorf("%s", got)
	}
}

func TestWrongSettings(t *testing.T) {
	for _, c := range []struct {
		rule, file string
		env, args  []string
		want       string // what is printed, @FILE for the path
	}{
		{"an unknown key, with the one that was meant", "# settings\n[bakery]\nbake_tmie = \"3m\"", nil, nil,
			"error: @FILE:3: bakery.bake_tmie: there is no such setting\nhint: did you mean bake_time?"},
		{"an unknown key that belongs elsewhere", "[bakery]\ntrusted_proxies = []", nil, nil,
			"error: @FILE:2: bakery.trusted_proxies: there is no such setting\nhint: trusted_proxies belongs to [server]"},
		{"an unknown key that nothing resembles", "[plain]\nzzzzzzzzzzz = 1", nil, nil,
			"error: @FILE:2: plain.zzzzzzzzzzz: there is no such setting\nhint: [plain] has no settings"},
		{"an unknown table", "\n[bakrey]\n", nil, nil,
			"error: @FILE:2: bakrey: the app has no module of this name\nhint: did you mean bakery?"},
		{"the table of a module that is not part of the app", "[login]\nx=1", nil, nil,
			"error: @FILE:1: login: the app has no module of this name\nhint: name the module login in the app, or remove [login]; there are server, bakery, plain"},
		{"a key outside of tables", "addr = ':80'", nil, nil,
			"error: @FILE:1: addr: every setting is in a table\nhint: write it below a line [server]"},
		{"a table that is none", "server = 3", nil, nil,
			"error: @FILE:1: server: every setting is in a table\nhint: [server] is a table: write [server] on a line, and its settings below"},
		{"a list of tables", "[[server]]\naddr=':80'", nil, nil,
			"error: @FILE:1: server: every setting is in a table\nhint: [server] is a table: write [server] on a line, and its settings below"},
		{"a table in a table", "[server.addr]\nx=1", nil, nil,
			"error: @FILE:1: server.addr = \"map[x:1]\": not a text in quotes"},
		{"a number for a text", "[bakery]\nname = 3", nil, nil, "error: @FILE:2: bakery.name = \"3\": not a text in quotes"},
		{"a text for a number", "[bakery]\novens = '3'", nil, nil, "error: @FILE:2: bakery.ovens = \"3\": not a whole number"},
		{"a number that is too big", "[bakery]\nsmall = 128", nil, nil, "error: @FILE:2: bakery.small = \"128\": not a whole number"},
		{"a negative number", "[bakery]\nloaves = -1", nil, nil, "error: @FILE:2: bakery.loaves = \"-1\": not a whole number from 0 to 18446744073709551615"},
		{"a text for a bool", "[bakery]\nopen = 'yes'", nil, nil, "error: @FILE:2: bakery.open = \"yes\": not true or false"},
		{"a number for a duration", "[bakery]\nbake_time = 30", nil, nil,
			"error: @FILE:2: bakery.bake_time = \"30\": not a duration\nhint: write a number and its unit in quotes, like \"90s\", \"30m\", \"12h\" or \"30d\""},
		{"a duration that is none, in the environment", "", []string{"CRUMB_BAKERY_BAKE_TIME=soon"}, nil,
			"error: env CRUMB_BAKERY_BAKE_TIME: bakery.bake_time = \"soon\": not a duration\nhint: write a number and its unit, like \"90s\", \"30m\", \"12h\" or \"30d\""},
		{"a text for a list", "[bakery]\nbreads = 'rye'", nil, nil,
			"error: @FILE:2: bakery.breads = \"rye\": not a list\nhint: write a list like [\"one\", \"two\"]"},
		{"a list with something else in it", "[bakery]\nbreads = ['rye', 3]", nil, nil,
			"error: @FILE:2: bakery.breads = \"[rye 3]\": an item is not a text in quotes"},
		{"an address range that is none", "[server]\ntrusted_proxies = ['10.0.0.1']", nil, nil,
			"error: @FILE:2: server.trusted_proxies = \"[10.0.0.1]\": an item is not an address range\nhint: write it like \"10.0.0.0/8\", or \"10.0.0.1/32\" for one address"},
		{"an empty address range", "[server]\ntrusted_proxies = ['']", nil, nil,
			"error: @FILE:2: server.trusted_proxies: an address range is empty\nhint: write it like \"10.0.0.0/8\", or \"10.0.0.1/32\" for one address"},
		{"broken TOML", "[server]\naddr = :80\n", nil, nil,
			"error: @FILE:2: not TOML: expected value but found ':' instead\nhint: text is written in quotes"},
		{"one key twice", "[server]\naddr = ':80'\naddr = ':81'\n", nil, nil,
			"error: @FILE:3: not TOML: Key 'server.addr' has already been defined."},
		{"a file that is no text", "a = \"\xff\"", nil, nil, "error: @FILE:1: not TOML: invalid UTF-8 byte: 0xff"},
		{"an unknown variable", "", []string{"CRUMB_SERVER_ADR=:80"}, nil,
			"error: env CRUMB_SERVER_ADR: [server] has no such setting\nhint: did you mean CRUMB_SERVER_ADDR?"},
		{"an unknown variable that nothing resembles", "", []string{"CRUMB_PLAIN_THING=1"}, nil,
			"error: env CRUMB_PLAIN_THING: [plain] has no such setting\nhint: [plain] has no settings"},
		{"an unknown flag", "", nil, []string{"--adr", ":80"}, "error: flag --adr: there is no such flag\nhint: did you mean --addr?"},
		{"a flag with one dash", "", nil, []string{"-addr", ":80"}, "error: unexpected argument \"-addr\"\nhint: did you mean --addr?"},
		{"an argument that is no flag", "", nil, []string{"serve"}, "error: unexpected argument \"serve\"\nhint: --help lists the flags"},
		{"a flag without its value", "", nil, []string{"--addr"}, "error: flag --addr: needs a value\nhint: write --addr=VALUE"},
		{"a flag whose value is a flag", "", nil, []string{"--addr", "--insecure"}, "error: flag --addr: needs a value\nhint: write --addr=VALUE"},
		{"a flag with the wrong type", "", nil, []string{"--insecure=maybe"}, "error: flag --insecure: server.insecure = \"maybe\": not true or false"},
		{"a value that the module refuses", "", nil, []string{"--bakery.ovens=-1"},
			"error: flag --bakery.ovens: bakery.ovens = \"-1\": fewer than none\nhint: buy one"},
		{"settings that the module refuses together", "[bakery]\nname = 'closed'", nil, nil, "error: bakery: the bakery is closed"},
		{"an address without a port", "[server]\naddr = 'localhost'", nil, nil,
			"error: @FILE:2: server.addr = \"localhost\": not an address\nhint: write host and port, like \"127.0.0.1:8080\" or \":8080\""},
		{"a port that is none", "", nil, []string{"--addr=:http"},
			"error: flag --addr: server.addr = \":http\": the port is not a number from 0 to 65535\nhint: write host and port, like \"127.0.0.1:8080\" or \":8080\""},
		{"a certificate without a key", "", nil, []string{"--tls-cert=c.pem"},
			"error: flag --tls-cert: server.tls_cert = \"c.pem\": a certificate needs its key\nhint: add tls_key (--tls-key FILE)"},
		{"a key without a certificate", "", nil, []string{"--tls-key=k.pem"},
			"error: flag --tls-key: server.tls_key = \"k.pem\": a key needs its certificate\nhint: add tls_cert (--tls-cert FILE)"},
		{"a public URL with a path", "", nil, []string{"--public-url=https://example.com/app"},
			"error: flag --public-url: server.public_url = \"https://example.com/app\": not the plain URL of a site\nhint: write scheme and host only, like \"https://example.com\""},
		{"a public URL that is none", "", nil, []string{"--public-url=example.com"},
			"error: flag --public-url: server.public_url = \"example.com\": not the plain URL of a site\nhint: write scheme and host only, like \"https://example.com\""},
		{"a header that is none", "", nil, []string{"--client-ip-header=X Y"},
			"error: flag --client-ip-header: server.client_ip_header = \"X Y\": not the name of a header\nhint: the usual one is \"X-Forwarded-For\""},
		{"an address for operators that is none", "", nil, []string{"--ops-addr=9090"},
			"error: flag --ops-addr: server.ops_addr = \"9090\": not an address\nhint: write host and port, like \"127.0.0.1:9090\""},
		{"a format of logs that is none", "", nil, []string{"--log-format=xml"},
			"error: flag --log-format: server.log_format = \"xml\": there is no such format\nhint: write text or json"},
		{"a secret is not repeated", "[bakery]\nkey = 12345", nil, nil, "error: @FILE:2: bakery.key = \"xxxxx\": not a text in quotes"},
		{"nor by the error of its type", "", []string{"CRUMB_BAKERY_KEY_NET=hunter2"}, nil, "error: env CRUMB_BAKERY_KEY_NET: bakery.key_net = \"xxxxx\": not a valid value\nhint: write it like \"10.0.0.0/8\", or \"10.0.0.1/32\" for one address"},
		{"nor by the parser", "[bakery]\nkey = hunter2", nil, nil, "error: @FILE:2: not TOML: expected value but found this instead\nhint: text is written in quotes"},
		{"nor does a terminal see what a file says to it", "[\"a\\u001b[2J\\u202e\"]", nil, nil,
			"error: @FILE:1: a\\x1b[2J\\u202e: the app has no module of this name\nhint: name the module a\\x1b[2J\\u202e in the app, or remove [a\\x1b[2J\\u202e]; there are server, bakery, plain"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			_, path, err := newApp(t, c.file, c.env, c.args)
			if _, ok := errors.AsType[*app.SettingError](err); !ok {
				t.Fatalf("not a SettingError: %v", err)
			}
			var out strings.Builder
			if code := app.Report(io.Discard, &out, err); code != 2 {
				t.Errorf("exit code %d, want 2", code)
			}
			if got, want := out.String(), strings.ReplaceAll(c.want, "@FILE", path)+"\n"; got != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}

	t.Run("a file that cannot be read", func(t *testing.T) {
		dir := t.TempDir()
		_, err := app.New(app.Options{File: dir})
		wantError(t, err, dir+": cannot be read: is a directory")
	})

	t.Run("a setting refused by Setup says where it comes from and exits with 2", func(t *testing.T) {
		a, err := app.New(app.Options{Logger: quiet, Environ: []string{"CRUMB_BAKERY_URL=oracle://bob:hunter2@h/db"}},
			&app.Module{Name: "bakery", Config: defaults, Setup: func(*app.Env) error {
				return app.Bad("url", "there is no such database", "sqlite:, postgres: or mysql:")
			}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = a.Start(t.Context())
		var out strings.Builder
		if code := app.Report(io.Discard, &out, err); code != 2 {
			t.Errorf("exit code %d, want 2", code)
		}
		want := "error: module bakery: env CRUMB_BAKERY_URL: bakery.url = \"oracle://bob:xxxxx@h/db\": there is no such database\nhint: sqlite:, postgres: or mysql:\n"
		if out.String() != want {
			t.Errorf("got\n%swant\n%s", &out, want)
		}
	})

	t.Run("what Kubernetes adds for a service of a table's name is no setting", func(t *testing.T) {
		_, _, err := newApp(t, "", []string{
			"CRUMB_BAKERY_SERVICE_HOST=10.0.0.1", "CRUMB_BAKERY_SERVICE_PORT=80", "CRUMB_BAKERY_SERVICE_PORT_HTTP=80", "CRUMB_BAKERY_PORT=tcp://10.0.0.1:80",
			"CRUMB_BAKERY_PORT_80_TCP=tcp://10.0.0.1:80", "CRUMB_BAKERY_PORT_80_TCP_PROTO=tcp", "CRUMB_BAKERY_PORT_80_TCP_PORT=80", "CRUMB_BAKERY_PORT_80_TCP_ADDR=10.0.0.1",
		}, nil)
		if err != nil {
			t.Error(err)
		}
		_, _, err = newApp(t, "", []string{"CRUMB_BAKERY_PORT=8080"}, nil)
		wantError(t, err, "CRUMB_BAKERY_PORT")
	})
}

func TestShownSettings(t *testing.T) {
	shown := func(t *testing.T, args ...string) string {
		a, _, err := newApp(t, "", nil, args)
		if err != nil {
			t.Fatal(err)
		}
		return lookUp(a, "bakery", "url").Value
	}
	for in, want := range map[string]string{
		"sqlite:crumb.db":                              "sqlite:crumb.db",
		"postgres://bob@h:5432/db":                     "postgres://bob@h:5432/db",
		"postgres://bob:hunter2@h:5432/db":             "postgres://bob:xxxxx@h:5432/db",
		"postgres://bob:1/2@h/db":                      "postgres://bob:xxxxx@h/db",
		"postgres://bob:p@ss:w@rd@h/db":                "postgres://bob:xxxxx@h/db",
		"postgres://h/db?user=bob&password=hunter2&x=": "postgres://h/db?user=bob&password=xxxxx&x=",
		"host=h password='hunter 2' user=bob":          "host=h password=xxxxx user=bob",
		"redis://:hunter2@h1:6379":                     "redis://:xxxxx@h1:6379",
		"bob:hunter2@tcp(h)/db":                        "bob:xxxxx@tcp(h)/db",
		"mysql:bob:hunter2@tcp(h)/db":                  "mysql:bob:xxxxx@tcp(h)/db",
	} {
		t.Run("the password is not shown in "+want, func(t *testing.T) {
			if got := shown(t, "--database", in); got != want {
				t.Errorf("got %q", got)
			}
		})
	}

	t.Run("a secret is not shown, and is empty if it is", func(t *testing.T) {
		a, _, err := newApp(t, "", nil, []string{"--bakery.key=hunter2"})
		if err != nil {
			t.Fatal(err)
		}
		if s := lookUp(a, "bakery", "key"); s.Value != "xxxxx" || !s.Secret {
			t.Errorf("got %+v", s)
		}
		a, _, _ = newApp(t, "", nil, nil)
		if s := lookUp(a, "bakery", "key"); s.Value != "" {
			t.Errorf("got %+v", s)
		}
	})

	t.Run("durations are shown as people write them", func(t *testing.T) {
		for in, want := range map[string]string{"0": "0s", "90s": "1m30s", "30m": "30m", "60m": "1h", "1440m": "24h", "720h": "30d", "1d12h": "36h", "1h0m1s": "1h0m1s", "10m": "10m", "20h": "20h"} {
			a, _, err := newApp(t, "", nil, []string{"--bakery.bake_time=" + in})
			if err != nil {
				t.Fatal(err)
			}
			if got := lookUp(a, "bakery", "bake_time").Value; got != want {
				t.Errorf("%s is shown as %s, want %s", in, got, want)
			}
		}
	})

	t.Run("help lists flags, variables and defaults, and exits with 0", func(t *testing.T) {
		for _, flag := range []string{"-h", "--help"} {
			_, _, err := newApp(t, "broken", nil, []string{"--insecure", flag, "--nonsense"})
			var out, errors strings.Builder
			if code := app.Report(&out, &errors, err); code != 0 || errors.Len() > 0 {
				t.Errorf("exit code %d, %s", code, &errors)
			}
			for _, want := range []string{
				"Usage: bake [flags]", "--config FILE", "[server]", "--addr TEXT", "CRUMB_SERVER_ADDR", "(default 127.0.0.1:8080)",
				"--insecure ", "--trusted-proxy CIDR,…", "[bakery]", "--database TEXT", "--bakery.ovens NUMBER", "how many ovens (default 2)", "(default 45m)",
			} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("%q is not in\n%s", want, &out)
				}
			}
		}
	})
}

// FuzzSettings holds that no file, variable or argument makes New panic, and that
// all it refuses is a SettingError of one printed line.
func FuzzSettings(f *testing.F) {
	for _, s := range []string{
		"[server]\naddr = ':80'", "[bakery]\nbake_time = '1d'\nbreads = ['a']", "server.addr = 1", "[[bakery]]", "bakery = {name = 'x'}",
		"[bakery]\nname = \"\"\"\nx\n\"\"\"", "[bakery.name]\na.b.c = 1", "\"\" = 1", "[\"\"]\nx=1", "[bakery]\nprice = nan\nsince = 07:32:00", "a=[[", "[bakery]\nkey = hunter2",
	} {
		f.Add(s, "CRUMB_BAKERY_BAKE_TIME=1d", "--bakery.ovens=3")
	}
	f.Add("", "CRUMB_SERVER_=", "--=")
	f.Add("", "CRUMB_BAKERY_BREADS=,,", "--config")
	f.Add("", "CRUMB_BAKERY_BAKE_TIME=-9e99d", "-")
	f.Add("", "CRUMB_BAKERY_BAKE_TIME=nand", "--bakery.net=1")
	path := filepath.Join(f.TempDir(), "crumb.toml")
	module := &app.Module{Name: "bakery", Config: defaults}
	f.Fuzz(func(t *testing.T, toml, variable, arg string) {
		if strings.HasPrefix(arg, "--config") {
			return
		}
		if err := os.WriteFile(path, []byte(toml), 0o600); err != nil {
			t.Fatal(err)
		}
		a, err := app.New(app.Options{File: path, Environ: []string{variable}, Args: []string{arg}, Logger: quiet}, module)
		if err == nil {
			a.Settings()
			return
		}
		var help *app.HelpError
		if errors.As(err, &help) {
			return
		}
		if _, ok := errors.AsType[*app.SettingError](err); !ok {
			t.Fatalf("not a SettingError: %v", err)
		}
		var out strings.Builder
		app.Report(io.Discard, &out, err)
		if n := strings.Count(out.String(), "\n"); n < 1 || n > 2 {
			t.Fatalf("%d lines: %q", n, &out)
		}
	})
}
