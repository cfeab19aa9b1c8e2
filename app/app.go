// Package app runs modules: parts of an app that name what they require.
//
//	var hello = &app.Module{
//		Name: "hello",
//		Setup: func(e *app.Env) error {
//			e.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
//				fmt.Fprintln(w, "Hello")
//			})
//			return nil
//		},
//	}
//
//	func main() { app.Main(hello) }
//
// A module that requires others is set up after them and stopped before them;
// it gets what they provide by type, and its routes are wrapped in their
// middleware. Every module has a table of settings, read from flags, the
// environment (CRUMB_<TABLE>_<KEY>) and crumb.toml, in this order of rank, before
// anything opens. The app itself has the table [server], see [ServerConfig], and
// answers GET /livez and GET /readyz.
package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options are the parts of [Main] that a program or a test may choose itself.
// The zero value reads nothing from outside.
type Options struct {
	// Args are the flags, such as os.Args[1:].
	Args []string

	// Environ are the variables of the environment, as [os.Environ] returns
	// them. An empty variable counts as not set.
	Environ []string

	// File is the path of the settings file, which need not exist. A flag
	// --config names another, which must. Empty for none.
	File string

	// Logger defaults to [slog.Default], or to what the setting log_format says
	// if that is not text.
	Logger *slog.Logger

	// OtherTables lets the file hold tables of modules that are not part of
	// this app, which [App.Others] lists: for a command that reads the file of
	// another program. By default they are errors, since they may be misspelt.
	OtherTables bool

	// Program is the name that --help shows. Defaults to that of the process.
	Program string
}

// An App is a set of modules in the order they start. It starts once.
type App struct {
	modules  []*Module
	requires map[*Module][]*Module // all that a module requires, through others too, in order
	settings *settings
	server   ServerConfig
	log      *slog.Logger

	addr, opsAddr *address

	mu      sync.Mutex
	started bool
	running *running // nil before Start and after Stop
}

// New resolves modules and reads their settings. It opens nothing. A wrong
// setting is a [*SettingError]; with --help among the arguments the error is a
// [*HelpError].
func New(opts Options, modules ...*Module) (*App, error) {
	order, err := resolve(modules)
	if err != nil {
		return nil, err
	}
	server, err := newTable(serverTable, defaultServer)
	if err != nil {
		return nil, err
	}
	a := &App{modules: order, log: opts.Logger, addr: newAddress(), opsAddr: newAddress()}
	if a.log == nil {
		a.log = slog.Default()
	}
	if a.settings, err = newSettings(server, order); err != nil {
		return nil, err
	}
	a.settings.others = opts.OtherTables

	line, err := a.settings.parseFlags(opts.Args)
	if err != nil {
		return nil, err
	}
	if line.help {
		return nil, &HelpError{a.settings.usage(orDefault(opts.Program, filepath.Base(os.Args[0])), opts.File)}
	}
	if err := a.settings.read(orDefault(line.config, opts.File), line.config != "", opts.Environ, line.flags); err != nil {
		return nil, err
	}
	a.server = server.config.Interface().(ServerConfig)
	if opts.Logger == nil && a.server.LogFormat == "json" {
		a.log = slog.New(slog.NewJSONHandler(os.Stderr, nil))
	}

	a.requires = map[*Module][]*Module{}
	for _, m := range order {
		a.requires[m] = a.closure(m)
	}
	return a, nil
}

// closure returns all that m requires, in the order of setup. Those of its
// requirements are known already.
func (a *App) closure(m *Module) []*Module {
	in := map[*Module]bool{}
	for _, need := range m.Requires {
		in[need] = true
		for _, n := range a.requires[need] {
			in[n] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(a.modules), func(n *Module) bool { return !in[n] })
}

// A HelpError is what [New] returns when the arguments ask for help.
type HelpError struct{ Usage string }

func (e *HelpError) Error() string { return e.Usage }

// Modules returns the modules in the order they start.
func (a *App) Modules() []*Module { return slices.Clone(a.modules) }

// Server returns the table [server].
func (a *App) Server() ServerConfig { return a.server.clone() }

// Config returns the settings of the module called name as they hold, a struct of
// the type of its Config, or nil if there is none. It is for commands that work
// with the settings of an app without starting it; [App.Settings] is for showing
// them.
func (a *App) Config(name string) any {
	if t := a.settings.table(name); t != nil && t.config.IsValid() {
		return t.config.Interface()
	}
	return nil
}

// Settings returns every setting with its value and where it comes from: the
// server's first, then those of the modules in the order they start. Passwords
// and secrets are not shown.
func (a *App) Settings() []Setting {
	var list []Setting
	for v := range a.settings.all {
		list = append(list, Setting{
			Table: v.table, Key: v.key,
			Value:  v.show(render(v.value)),
			Source: v.source, Secret: v.secret,
		})
	}
	return list
}

// Others returns the tables of the file, if [Options.OtherTables] lets it have
// them, and the CRUMB_ variables of the environment that belong to no module of
// the app.
func (a *App) Others() []Other { return slices.Clone(a.settings.found) }

// Start sets the modules up, starts their background work and returns the app's
// handler, for tests and for servers of your own. If a module cannot be set up,
// those before it are stopped again and the error is a [*StartError] that names
// it. Values in ctx reach the modules; its end only gives up the start.
func (a *App) Start(ctx context.Context) (http.Handler, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.started {
		return nil, errors.New("app: started before; an App starts once")
	}
	a.started = true

	r := newRunning(a, ctx)
	for _, m := range a.modules {
		if err := r.setUp(ctx, m); err != nil {
			stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
			defer cancel()
			if failed := r.stop(stopCtx); failed != nil {
				a.log.Error("stopping after a failed start", "err", failed)
			}
			return nil, err
		}
	}
	r.launch()
	a.running = r
	return r.handler(), nil
}

// Stop undoes Start. In reverse order it ends each module's background work,
// waits for it, and calls what the module gave to OnStop. Its error joins
// theirs; ctx bounds the waiting. Without a Start before it, it does nothing.
//
// A server of your own shuts down first, so that no handler outlives its module.
func (a *App) Stop(ctx context.Context) error {
	a.mu.Lock()
	r := a.running
	a.running = nil
	a.mu.Unlock()
	if r == nil {
		return nil
	}
	return r.stop(ctx)
}

// stopTimeout bounds a stop that nobody else bounds.
const stopTimeout = 10 * time.Second

// running is an app between Start and Stop.
type running struct {
	app      *App
	envs     []*Env // in the order of setup
	mux, ops *http.ServeMux
	owners   []owner
	health   *health
	failed   chan error // the first error of background work; buffered
	inflight inflight
}

// An owner is a pattern and the module that claimed it.
type owner struct {
	mux     *http.ServeMux
	pattern string
	module  string
}

func newRunning(a *App, ctx context.Context) *running {
	return &running{
		app: a,
		mux: http.NewServeMux(), ops: http.NewServeMux(),
		health: newHealth(a.log),
		failed: make(chan error, 1),
	}
}

func (r *running) setUp(ctx context.Context, m *Module) error {
	if err := ctx.Err(); err != nil {
		return &StartError{m.Name, err}
	}
	e := newEnv(ctx, r, m)
	// Even a Setup that fails may have left something to stop.
	r.envs = append(r.envs, e)
	if m.Setup == nil {
		return nil
	}
	err := protect(func() error { return m.Setup(e) })
	e.done.Store(true)
	if err == nil {
		err = protect(e.install)
	}
	if err == nil {
		return nil
	}
	return &StartError{m.Name, r.app.settings.table(m.Name).complete(err)}
}

func (r *running) env(m *Module) *Env {
	i := slices.IndexFunc(r.envs, func(e *Env) bool { return e.module == m })
	return r.envs[i]
}

// launch starts the background work, once all modules are set up.
func (r *running) launch() {
	for _, e := range r.envs {
		for _, f := range e.background {
			e.wait.Go(func() {
				if err := protect(func() error { return f(e.work) }); err != nil {
					e.fail(err)
				}
			})
		}
	}
}

// stop ends the modules that were set up, the last first.
func (r *running) stop(ctx context.Context) error {
	r.health.drain()
	var errs []error
	for _, e := range slices.Backward(r.envs) {
		e.done.Store(true)
		if err := e.stop(ctx); err != nil {
			errs = append(errs, &StartError{e.module.Name, err})
		}
	}
	return errors.Join(errs...)
}

// claim registers a route and turns what net/http panics with into an error that
// names both modules.
func (r *running) claim(mux *http.ServeMux, module, pattern string, h http.Handler) error {
	if i := strings.IndexByte(pattern, '/'); i >= 0 && ownPath(pattern[i:]) {
		return fmt.Errorf("its pattern %q is a route of the app itself", pattern)
	}
	err := register(mux, pattern, h)
	if err == nil {
		r.owners = append(r.owners, owner{mux, pattern, module})
		return nil
	}
	if register(http.NewServeMux(), pattern, h) != nil {
		return err // it is none, by itself
	}
	for _, o := range r.owners {
		pair := http.NewServeMux()
		if o.mux == mux && register(pair, o.pattern, h) == nil && register(pair, pattern, h) != nil {
			return fmt.Errorf("its pattern %q conflicts with %q of module %s", pattern, o.pattern, o.module)
		}
	}
	return err
}

func register(mux *http.ServeMux, pattern string, h http.Handler) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("pattern %q: %v", pattern, v)
		}
	}()
	mux.Handle(pattern, h)
	return nil
}

func orDefault(s, otherwise string) string { return cmp.Or(s, otherwise) }

func sorted(names []string) []string {
	slices.Sort(names)
	return names
}
