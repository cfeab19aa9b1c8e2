package modules

import (
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/session"
)

func TestDatabaseURL(t *testing.T) {
	for url, problem := range map[string]string{
		"memory:": "", "sqlite:crumb.db": "", "sqlite:/var/x.db": "", "sqlite:///x.db": "",
		"": "no URL", "crumb.db": "no URL", "memory": "no URL", "memory:x": "nothing behind",
		"oracle://u:p@h/d": "unknown scheme oracle:", "SQLite:x": "unknown scheme", ":x": "unknown scheme",
		"sqlite:": "no file", "sqlite://": "no file", "sqlite:///": "no file", "sqlite::memory:": "not supported", "sqlite:x?mode=ro": "no parameters",

		"postgres://u:p@h/d": "", "postgresql://h:5432/d?sslmode=require": "", "postgres:///d?host=/run": "", "postgres://u@[::1]:5432,h/d": "",
		"mysql://u:p%40%2F@h:3306/d": "", "redis://h": "", "rediss://:p@h:1/2": "", "valkey://u:p@[::1]": "",
		"redis+cluster://a:1,b:2,[::1]:3": "", "valkeys+cluster://u:p@a,b": "",
		"postgres:d": "no URL of a server", "postgres://u:p/w@h/d": "no URL of a server", "postgres://u:p@w@h/d": "no URL of a server",
		"mysql://u:p#w@h/d": "no URL of a server", "mysql://u:p?w@h/d": "no URL of a server", "mysql://h:x/d": "no URL of a server",
		"redis://": "names no server", "mysql://u:p@/d": "names no server", "mysql://h": "names no database", "mysql://h/": "names no database",
	} {
		err := DatabaseConfig{URL: url, TablePrefix: "crumb_"}.Check()
		bad, ok := err.(*app.SettingError)
		if (problem == "") != (err == nil) || err != nil && (!ok || bad.Key != "url" || bad.Hint == "" || !strings.Contains(bad.Problem, problem)) {
			t.Errorf("%q: %v, want %q", url, err, problem)
		}
		if ok && strings.Contains(bad.Problem+bad.Hint, "p/w") {
			t.Errorf("%q: the error shows the password: %v", url, bad)
		}
	}
	for prefix, good := range map[string]bool{"crumb_": true, "_": true, "App2": true, "": false, "2a": false, "a-b": false, "a;": false, "é": false, "a\n": false} {
		if err := (DatabaseConfig{URL: "memory:", TablePrefix: prefix}).Check(); (err == nil) != good {
			t.Errorf("prefix %q: %v", prefix, err)
		}
	}
}

func TestThePasswordOfTheDatabaseMayBeInAFile(t *testing.T) {
	const password = "a:b@c/d?e#f%20 g"
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for raw, want := range map[string]string{
		"postgres://ann@h:5432/d?sslmode=require": "postgres://ann:PW@h:5432/d?sslmode=require",
		"mysql://ann@h/d":                         "mysql://ann:PW@h/d",
		"redis://h":                               "redis://:PW@h",
		"redis+cluster://a:1,b:2":                 "redis+cluster://:PW@a:1,b:2",
		"sqlite:crumb.db":                         "sqlite:crumb.db", // which asks for none
	} {
		cfg := DatabaseConfig{URL: raw, TablePrefix: "crumb_", PasswordFile: file}
		if err := cfg.Check(); err != nil {
			t.Errorf("%s: %v", raw, err)
		}
		got, err := cfg.Address()
		if err != nil {
			t.Fatal(err)
		}
		if got != strings.Replace(want, ":PW@", url.UserPassword("", password).String()+"@", 1) {
			t.Errorf("%s with the password is %s", raw, got)
		}
		if u, err := url.Parse(got); err != nil {
			t.Error(err)
		} else if pw, _ := u.User.Password(); u.User != nil && pw != password {
			t.Errorf("the password in %s is %q", got, pw)
		}
	}

	for problem, cfg := range map[string]DatabaseConfig{
		"has a password already": {URL: "mysql://u:p@h/d", PasswordFile: file},
		"it cannot be read":      {URL: "mysql://u@h/d", PasswordFile: file + "s"},
		"the file is empty":      {URL: "mysql://u@h/d", PasswordFile: os.DevNull},
	} {
		cfg.TablePrefix = "crumb_"
		a, err := app.New(app.Options{}, &app.Module{Name: "database", Config: cfg, Setup: Database.Setup})
		if err == nil {
			_, err = a.Start(t.Context())
		}
		bad, ok := errors.AsType[*app.SettingError](err)
		if !ok || bad.Key != "database.password_file" || bad.Hint == "" || !strings.Contains(bad.Problem, problem) {
			t.Errorf("%s: %v", problem, err)
		}
	}
}

func TestTheDatabaseIsClosedWithTheApp(t *testing.T) {
	var st session.Store
	a, err := app.New(app.Options{Args: []string{"--database=sqlite:" + filepath.Join(t.TempDir(), "crumb.db")}}, &app.Module{
		Name: "test", Requires: []*app.Module{Database},
		Setup: func(e *app.Env) error { st = app.Get[session.Store](e); return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Load(t.Context(), "AAAAAAAAAAAAAAAA"); !errors.Is(err, session.ErrNotFound) {
		t.Error(err)
	}
	if err := a.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Load(t.Context(), "AAAAAAAAAAAAAAAA"); err == nil || errors.Is(err, session.ErrNotFound) {
		t.Errorf("after the stop a load returns %v", err)
	}
}
