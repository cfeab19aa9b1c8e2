package app_test

import (
	"context"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/crumb-go/crumb/app"
)

// diary collects what modules do.
type diary struct{ lines []string }

func (d *diary) write(s string) { d.lines = append(d.lines, s) }

// module returns a module that writes its start and its stop into d.
func (d *diary) module(name string, requires ...*app.Module) *app.Module {
	return &app.Module{Name: name, Requires: requires, Setup: func(e *app.Env) error {
		d.write("start " + name)
		e.OnStop(func(context.Context) error { d.write("stop " + name); return nil })
		return nil
	}}
}

func start(t *testing.T, modules ...*app.Module) (*app.App, error) {
	t.Helper()
	a, err := app.New(app.Options{Logger: quiet}, modules...)
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.Start(t.Context())
	t.Cleanup(func() { a.Stop(context.Background()) })
	return a, err
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("the error does not say %q: %v", p, err)
		}
	}
}

func TestOrder(t *testing.T) {
	t.Run("requirements start first, depth first in the order named, each once, and stop in reverse", func(t *testing.T) {
		var d diary
		database := d.module("database")
		mail := d.module("mail")
		session := d.module("session", database)
		login := d.module("login", mail, session)
		a, err := start(t, d.module("shop", session, login), d.module("blog", session))
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := "start database, start session, start mail, start login, start shop, start blog, " +
			"stop blog, stop shop, stop login, stop mail, stop session, stop database"
		if got := strings.Join(d.lines, ", "); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		var names []string
		for _, m := range a.Modules() {
			names = append(names, m.Name)
		}
		if want := []string{"database", "session", "mail", "login", "shop", "blog"}; !slices.Equal(names, want) {
			t.Errorf("Modules is %v, want %v", names, want)
		}
	})

	t.Run("what a module gave to OnStop runs last registered first", func(t *testing.T) {
		var d diary
		a, err := start(t, &app.Module{Name: "one", Setup: func(e *app.Env) error {
			for _, s := range []string{"a", "b", "c"} {
				e.OnStop(func(context.Context) error { d.write(s); return nil })
			}
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		a.Stop(t.Context())
		if got := strings.Join(d.lines, ""); got != "cba" {
			t.Errorf("got %s", got)
		}
	})

	t.Run("background work of a module ends before what it requires stops", func(t *testing.T) {
		var d diary
		database := d.module("database")
		a, err := start(t, &app.Module{Name: "writer", Requires: []*app.Module{database}, Setup: func(e *app.Env) error {
			e.Go(func(ctx context.Context) error {
				<-ctx.Done()
				d.write("flush")
				return nil
			})
			e.OnStop(func(context.Context) error { d.write("stop writer"); return nil })
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		a.Stop(t.Context())
		if got, want := strings.Join(d.lines, ", "), "start database, flush, stop writer, stop database"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})

	t.Run("every module is stopped although others fail to, and all errors come back", func(t *testing.T) {
		var d diary
		bad := func(name string, requires ...*app.Module) *app.Module {
			return &app.Module{Name: name, Requires: requires, Setup: func(e *app.Env) error {
				e.OnStop(func(context.Context) error { return errors.New("cannot close " + name) })
				return nil
			}}
		}
		one := bad("one")
		two := d.module("two", one)
		a, err := start(t, bad("three", two))
		if err != nil {
			t.Fatal(err)
		}
		wantError(t, a.Stop(t.Context()), "module one: cannot close one", "module three: cannot close three")
		if !slices.Contains(d.lines, "stop two") {
			t.Error("two was not stopped")
		}
		if err := a.Stop(t.Context()); err != nil {
			t.Errorf("the second Stop did something: %v", err)
		}
	})

	t.Run("an app starts once", func(t *testing.T) {
		a, err := start(t)
		if err != nil {
			t.Fatal(err)
		}
		_, err = a.Start(t.Context())
		wantError(t, err, "starts once")
	})
}

func TestWrongModules(t *testing.T) {
	circle := &app.Module{Name: "egg"}
	circle.Requires = []*app.Module{{Name: "hen", Requires: []*app.Module{circle}}}
	self := &app.Module{Name: "narcissus"}
	self.Requires = []*app.Module{self}

	for name, c := range map[string]struct {
		modules []*app.Module
		want    []string
	}{
		"a circle made at run time is an error": {[]*app.Module{circle}, []string{"circle", "egg requires hen requires egg"}},
		"a module that requires itself":         {[]*app.Module{self}, []string{"narcissus requires narcissus"}},
		"a nil module":                          {[]*app.Module{nil}, []string{"module 1 of the app is nil"}},
		"a nil requirement":                     {[]*app.Module{{Name: "hello", Requires: []*app.Module{{Name: "session", Requires: []*app.Module{nil}}}}}, []string{"hello requires session requires a nil module"}},
		"two modules of one name":               {[]*app.Module{{Name: "a", Requires: []*app.Module{{Name: "x"}}}, {Name: "x"}}, []string{`two modules are named "x"`, "a requires x; x"}},
		"the reserved name":                     {[]*app.Module{{Name: "hello", Requires: []*app.Module{{Name: "server"}}}}, []string{`cannot be named "server"`, "hello requires server"}},
		"a name with a dash":                    {[]*app.Module{{Name: "hello", Requires: []*app.Module{{Name: "hello-world"}}}}, []string{`"hello-world"`, "hello requires hello-world"}},
		"no name":                               {[]*app.Module{{}}, []string{`"" is no name`}},
		"settings that are no struct":           {[]*app.Module{{Name: "a", Config: 3}}, []string{"module a", "not a struct"}},
		"a setting without a tag":               {[]*app.Module{{Name: "a", Config: struct{ Size int }{}}}, []string{"Size", "tag"}},
		"a setting of a type that has no text": {[]*app.Module{{Name: "a", Config: struct {
			F func() `toml:"f"`
		}{}}}, []string{"F", "func()"}},
		"two settings with one variable": {[]*app.Module{
			{Name: "a", Config: struct {
				X int `toml:"b_c"`
			}{}},
			{Name: "a_b", Config: struct {
				X int `toml:"c"`
			}{}},
		}, []string{"CRUMB_A_B_C", "a.b_c", "a_b.c"}},
		"two settings with one flag": {[]*app.Module{{Name: "a", Config: struct {
			X int `toml:"x" flag:"addr"`
		}{}}}, []string{"--addr", "server.addr", "a.x"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := app.New(app.Options{}, c.modules...)
			wantError(t, err, c.want...)
		})
	}
}

func TestTheCompilerFindsMissingAndCircularModules(t *testing.T) {
	for _, c := range []struct{ name, dir, want string }{
		{"modules that are there compile", "fine", ""},
		{"a module that is missing does not compile", "missing", "undefined: flour"},
		{"modules in a circle do not compile", "circle", "initialization cycle"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), "go", "vet", "./testdata/"+c.dir).CombinedOutput()
			if (err != nil) != (c.want != "") || !strings.Contains(string(out), c.want) {
				t.Errorf("go vet: %v\n%s", err, out)
			}
		})
	}
}
