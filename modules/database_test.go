package modules

import (
	"context"
	"errors"
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
		"postgres://u:p@h/d": "unknown scheme postgres:", "SQLite:x": "unknown scheme", ":x": "unknown scheme",
		"sqlite:": "no file", "sqlite://": "no file", "sqlite:///": "no file", "sqlite::memory:": "not supported", "sqlite:x?mode=ro": "no parameters",
	} {
		err := DatabaseConfig{url, "crumb_"}.Check()
		if bad, ok := err.(*app.SettingError); (problem == "") != (err == nil) || err != nil && (!ok || bad.Key != "url" || bad.Hint == "" || !strings.Contains(bad.Problem, problem)) {
			t.Errorf("%q: %v, want %q", url, err, problem)
		}
	}
	for prefix, good := range map[string]bool{"crumb_": true, "_": true, "App2": true, "": false, "2a": false, "a-b": false, "a;": false, "é": false, "a\n": false} {
		if err := (DatabaseConfig{"memory:", prefix}).Check(); (err == nil) != good {
			t.Errorf("prefix %q: %v", prefix, err)
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
