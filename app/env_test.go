package app_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crumb-go/crumb/app"
)

var quiet = slog.New(slog.DiscardHandler)

// wrapping returns a module that writes its name around the answers of those
// that require it.
func wrapping(name string, marks []*app.Mark, requires ...*app.Module) *app.Module {
	return &app.Module{Name: name, Requires: requires, Setup: func(e *app.Env) error {
		e.Wrap(func(next http.Handler, r app.Route) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				fmt.Fprint(w, name)
				for _, m := range r.Marks {
					if slices.Contains(marks, m) {
						fmt.Fprintf(w, "(%s)", m.Name)
					}
				}
				fmt.Fprint(w, " ")
				next.ServeHTTP(w, req)
			})
		}, marks...)
		e.HandleFunc("GET /"+name, say("own"))
		return nil
	}}
}

func say(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, text) }
}

func routing(name string, requires []*app.Module, pattern string, marks ...*app.Mark) *app.Module {
	return &app.Module{Name: name, Requires: requires, Setup: func(e *app.Env) error {
		e.HandleFunc(pattern, say(name), marks...)
		return nil
	}}
}

func handler(t *testing.T, modules ...*app.Module) http.Handler {
	t.Helper()
	a, err := app.New(app.Options{Logger: quiet}, modules...)
	if err != nil {
		t.Fatal(err)
	}
	h, err := a.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Stop(context.Background()) })
	return h
}

func get(h http.Handler, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w
}

func TestWrap(t *testing.T) {
	public := &app.Mark{Name: "public"}
	session := wrapping("session", nil)
	login := wrapping("login", []*app.Mark{public}, session)
	gzip := wrapping("gzip", nil)
	h := handler(t,
		routing("shop", []*app.Module{login}, "GET /shop", public),
		routing("blog", []*app.Module{gzip, session}, "GET /blog"),
		routing("plain", nil, "GET /plain"),
	)
	for _, c := range []struct{ rule, path, want string }{
		{"a wrapper is around the routes of those that require it through another module, the earlier one outermost", "/shop", "session login(public) shop"},
		{"the order is that of setup, not of Requires", "/blog", "session gzip blog"},
		{"a module that requires nothing is not wrapped", "/plain", "plain"},
		{"a module does not wrap its own routes", "/session", "own"},
		{"but is wrapped in what it requires", "/login", "session own"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			if got := get(h, c.path).Body.String(); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestStartErrors(t *testing.T) {
	type store interface{ Open() }
	provider := &app.Module{Name: "database", Setup: func(e *app.Env) error { e.Provide(opener{"database"}); return nil }}
	asks := func(requires ...*app.Module) *app.Module {
		return &app.Module{Name: "hello", Requires: requires, Setup: func(e *app.Env) error { app.Get[store](e); return nil }}
	}
	setup := func(f func(e *app.Env)) []*app.Module {
		return []*app.Module{{Name: "hello", Setup: func(e *app.Env) error { f(e); return nil }}}
	}
	noop := http.NotFoundHandler()

	for _, c := range []struct {
		rule    string
		modules []*app.Module
		want    []string // in what Report prints
	}{
		{"an error of Setup names the module",
			[]*app.Module{{Name: "hello", Setup: func(*app.Env) error { return errors.New("no flour") }}},
			[]string{"error: module hello: no flour\n"}},
		{"a panic in Setup is an error with its stack",
			setup(func(*app.Env) { panic("no water") }),
			[]string{"error: module hello: panic: no water\n", "env_test.go"}},
		{"a mark that nobody knows names pattern, mark and module",
			[]*app.Module{routing("hello", nil, "GET /x", &app.Mark{Name: "public"})},
			[]string{`module hello: route "GET /x" is marked "public"`, "hint: "}},
		{"one pattern of two modules names both",
			[]*app.Module{routing("one", nil, "GET /x"), routing("two", nil, "GET /x")},
			[]string{`module two: its pattern "GET /x" conflicts with "GET /x" of module one`}},
		{"so do patterns that conflict without being equal",
			[]*app.Module{routing("one", nil, "/x/{id}"), routing("two", nil, "/{name}/y")},
			[]string{`"/{name}/y" conflicts with "/x/{id}" of module one`}},
		{"the app's own routes are taken",
			[]*app.Module{routing("one", nil, "GET /livez")},
			[]string{`module one: its pattern "GET /livez" is a route of the app itself`}},
		{"for every method and host",
			[]*app.Module{routing("one", nil, "example.com/readyz")},
			[]string{`module one: its pattern "example.com/readyz" is a route of the app itself`}},
		{"a pattern that is none is an error",
			[]*app.Module{routing("one", nil, "GET x y")},
			[]string{"module one: pattern"}},
		{"a route without a handler is an error",
			setup(func(e *app.Env) { e.HandleFunc("/", nil) }),
			[]string{`module hello: route "/" has no handler`}},
		{"one pattern twice on the operators' listener is an error too",
			setup(func(e *app.Env) { e.HandleOps("/metrics", noop); e.HandleOps("/metrics", noop) }),
			[]string{`"/metrics" conflicts with "/metrics" of module hello`}},
		{"what nobody provides is an error",
			[]*app.Module{asks()},
			[]string{"module hello: nothing it requires provides a app_test.store", "hint: add the module that provides it to Requires of hello"}},
		{"what a module provides that is not required is an error that names it",
			[]*app.Module{provider, asks()},
			[]string{"hint: module database provides it: add it to Requires of hello"}},
		{"what two modules provide is an error that names both",
			[]*app.Module{asks(provider, &app.Module{Name: "other", Setup: provider.Setup})},
			[]string{"provided twice, by module database and module other"}},
		{"settings of another type are an error",
			setup(func(e *app.Env) { app.ConfigOf[int](e) }),
			[]string{"module hello: ConfigOf[int]: its Config is a <nil>"}},
		{"a module's own hint is printed",
			[]*app.Module{{Name: "hello", Setup: func(*app.Env) error {
				return app.WithHint(errors.New("no tables"), "crumb schema apply")
			}}},
			[]string{"error: module hello: no tables\nhint: crumb schema apply\n"}},
	} {
		t.Run(c.rule, func(t *testing.T) {
			var d diary
			_, err := start(t, append([]*app.Module{d.module("before")}, c.modules...)...)
			if err == nil {
				t.Fatal("no error")
			}
			var out strings.Builder
			if code := app.Report(io.Discard, &out, err); code != 1 {
				t.Errorf("exit code %d, want 1", code)
			}
			for _, want := range c.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("%q is not in:\n%s", want, out.String())
				}
			}
			if got := strings.Join(d.lines, ", "); got != "start before, stop before" {
				t.Errorf("the module before it was not stopped: %s", got)
			}
		})
	}

	t.Run("a start that is given up stops what was started", func(t *testing.T) {
		var d diary
		ctx, cancel := context.WithCancel(t.Context())
		a, err := app.New(app.Options{Logger: quiet}, d.module("one"),
			&app.Module{Name: "two", Setup: func(*app.Env) error { cancel(); return nil }}, d.module("three"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Start(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("the error is %v", err)
		}
		if got := strings.Join(d.lines, ", "); got != "start one, stop one" {
			t.Errorf("got %s", got)
		}
	})

	t.Run("an Env adds nothing after Setup", func(t *testing.T) {
		var kept *app.Env
		if _, err := start(t, &app.Module{Name: "hello", Setup: func(e *app.Env) error { kept = e; return nil }}); err != nil {
			t.Fatal(err)
		}
		kept.Logger()
		kept.Server()
		defer func() {
			if v := fmt.Sprint(recover()); !strings.Contains(v, "Handle of module hello") {
				t.Errorf("recovered %v", v)
			}
		}()
		kept.Handle("/late", noop)
	})
}

type opener struct{ by string }

func (opener) Open() {}

func TestGet(t *testing.T) {
	t.Run("a value is found by its type and by an interface, through other modules", func(t *testing.T) {
		database := &app.Module{Name: "database", Setup: func(e *app.Env) error { e.Provide(opener{"database"}); return nil }}
		session := &app.Module{Name: "session", Requires: []*app.Module{database}}
		var a, b any
		if _, err := start(t, &app.Module{Name: "hello", Requires: []*app.Module{session}, Setup: func(e *app.Env) error {
			a, b = app.Get[opener](e), app.Get[interface{ Open() }](e)
			return nil
		}}); err != nil {
			t.Fatal(err)
		}
		if a != (opener{"database"}) || b != a {
			t.Errorf("got %v and %v", a, b)
		}
	})

	t.Run("what nobody provides is looked up in vain, and that is no error", func(t *testing.T) {
		database := &app.Module{Name: "database", Setup: func(e *app.Env) error { e.Provide(opener{"database"}); return nil }}
		var got opener
		var found, missing bool
		if _, err := start(t, &app.Module{Name: "hello", Requires: []*app.Module{database}, Setup: func(e *app.Env) error {
			got, found = app.Lookup[opener](e)
			_, missing = app.Lookup[error](e)
			return nil
		}}); err != nil {
			t.Fatal(err)
		}
		if got.by != "database" || !found || missing {
			t.Errorf("got %v, found %t; what is not there found %t", got, found, missing)
		}
	})

	t.Run("a module that wraps what it was given hides it", func(t *testing.T) {
		database := &app.Module{Name: "database", Setup: func(e *app.Env) error { e.Provide(opener{"database"}); return nil }}
		cache := &app.Module{Name: "cache", Requires: []*app.Module{database}, Setup: func(e *app.Env) error {
			e.Provide(opener{"cache of " + app.Get[opener](e).by})
			return nil
		}}
		var got opener
		if _, err := start(t, &app.Module{Name: "hello", Requires: []*app.Module{database, cache}, Setup: func(e *app.Env) error {
			got = app.Get[opener](e)
			return nil
		}}); err != nil {
			t.Fatal(err)
		}
		if got.by != "cache of database" {
			t.Errorf("got %q", got.by)
		}
	})
}

func TestHealth(t *testing.T) {
	checking := func(name string, f func(context.Context) error) *app.Module {
		return &app.Module{Name: name, Setup: func(e *app.Env) error { e.OnCheck(f); return nil }}
	}
	want := func(t *testing.T, h http.Handler, path string, code int, body string) {
		t.Helper()
		w := get(h, path)
		if w.Code != code || w.Body.String() != body {
			t.Errorf("GET %s is %d %q, want %d %q", path, w.Code, w.Body, code, body)
		}
	}

	t.Run("livez asks nobody; readyz names the module that fails, and says no more", func(t *testing.T) {
		asked := 0
		h := handler(t,
			checking("database", func(context.Context) error { asked++; return errors.New("password wrong") }),
			checking("mail", func(context.Context) error { return nil }),
			checking("search", func(context.Context) error { panic("oh") }))
		want(t, h, "/livez", 200, "ok\n")
		if asked != 0 {
			t.Error("livez asked the module")
		}
		want(t, h, "/readyz", 503, "not ready: database, search\n")
	})

	t.Run("readyz asks once a second, however often it is asked", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			asked := 0
			var err error
			h := handler(t, checking("database", func(context.Context) error { asked++; return err }))
			for range 100 {
				want(t, h, "/readyz", 200, "ok\n")
			}
			err = errors.New("down")
			synctest.Wait()
			want(t, h, "/readyz", 200, "ok\n")
			<-time.After(time.Second)
			for range 100 {
				want(t, h, "/readyz", 503, "not ready: database\n")
			}
			if asked != 2 {
				t.Errorf("asked %d times, want 2", asked)
			}
		})
	})

	t.Run("all who ask during a round share it, and a check that hangs is a failure and never runs twice", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var asked atomic.Int32
			free := make(chan struct{})
			h := handler(t, checking("database", func(context.Context) error { asked.Add(1); <-free; return nil }))
			began := time.Now()
			for range 3 {
				answers := make(chan *httptest.ResponseRecorder)
				for range 10 {
					go func() { answers <- get(h, "/readyz") }()
				}
				for range 10 {
					if w := <-answers; w.Code != 503 {
						t.Errorf("a check that hangs: %d", w.Code)
					}
				}
				<-time.After(time.Second)
			}
			if n := asked.Load(); n != 1 {
				t.Errorf("asked %d times, want 1", n)
			}
			if took := time.Since(began); took > 6*time.Second {
				t.Errorf("three rounds took %v", took)
			}
			close(free)
			synctest.Wait()
			want(t, h, "/readyz", 200, "ok\n")
		})
	})

	t.Run("a stopped app is not ready, and alive", func(t *testing.T) {
		a, err := app.New(app.Options{Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		h, err := a.Start(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want(t, h, "/readyz", 200, "ok\n")
		a.Stop(t.Context())
		want(t, h, "/readyz", 503, "stopping\n")
		want(t, h, "/livez", 200, "ok\n")
	})

	t.Run("a pattern with a host does not hide them, and only GET and HEAD are answered", func(t *testing.T) {
		h := handler(t, routing("site", nil, "example.com/"))
		want(t, h, "http://example.com/livez", 200, "ok\n")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", "/livez", nil))
		if w.Code != 405 || w.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("POST is %d, Allow %q", w.Code, w.Header().Get("Allow"))
		}
	})
}
