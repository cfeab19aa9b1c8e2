package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
)

// An Env is what a module's Setup adds to the app. What adds to the app is for
// Setup only, and panics afterwards; Logger, Server and [ConfigOf] go on working.
type Env struct {
	module  *Module
	running *running
	ctx     context.Context // of the start
	done    atomic.Bool     // Setup has returned

	routes     []route
	wrappers   []wrapper
	provided   []any
	background []func(context.Context) error
	stops      []func(context.Context) error

	work   context.Context // of the background work
	cancel context.CancelFunc
	wait   sync.WaitGroup

	mu     sync.Mutex
	failed []error // of the background work
}

type route struct {
	Route
	ops     bool
	handler http.Handler
}

type wrapper struct {
	wrap  func(http.Handler, Route) http.Handler
	marks []*Mark
}

func newEnv(ctx context.Context, r *running, m *Module) *Env {
	e := &Env{module: m, running: r, ctx: ctx}
	e.work, e.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return e
}

// A Mark is a word that a module defines for routes, as a package-level
// variable. A mark that none of the modules around a route knows is an error at
// start.
type Mark struct{ Name string }

// AnyBody marks a route whose request bodies may be longer than [MaxBody]. Its
// handler sets a limit of its own, with [http.MaxBytesReader].
var AnyBody = &Mark{"any_body"}

// A Route is what a wrapper sees of the route it wraps.
type Route struct {
	Module  string // the name of the module that registered it
	Pattern string
	Marks   []*Mark
}

// Has says whether the route carries the mark.
func (r Route) Has(m *Mark) bool { return slices.Contains(r.Marks, m) }

// Handle adds a route. Patterns are those of [http.ServeMux]; two modules that
// claim one pattern are an error that names both. Marks tell the modules that
// wrap the route how to treat it.
func (e *Env) Handle(pattern string, h http.Handler, marks ...*Mark) {
	e.mustSetUp("Handle")
	e.routes = append(e.routes, route{Route: Route{e.module.Name, pattern, marks}, handler: h})
}

// HandleFunc is Handle for a function.
func (e *Env) HandleFunc(pattern string, h http.HandlerFunc, marks ...*Mark) {
	e.mustSetUp("HandleFunc")
	e.Handle(pattern, h, marks...)
}

// HandleOps adds a route to the listener for operators, [server] ops_addr, which
// is for metrics and the like: nothing wraps it and nobody signs in. Without an
// ops_addr it is served nowhere.
func (e *Env) HandleOps(pattern string, h http.Handler) {
	e.mustSetUp("HandleOps")
	e.routes = append(e.routes, route{Route: Route{Module: e.module.Name, Pattern: pattern}, ops: true, handler: h})
}

// Wrap puts mw around the routes of every module that requires this one,
// directly or through another, but not around the module's own. It is called
// once for each route, and marks are those it knows. The wrapper of a module that
// is set up earlier is further out; of two of one module, the first.
func (e *Env) Wrap(mw func(next http.Handler, r Route) http.Handler, marks ...*Mark) {
	e.mustSetUp("Wrap")
	e.wrappers = append(e.wrappers, wrapper{mw, marks})
}

// Provide offers v to the modules that require this one, directly or through
// another. They ask by its type, or by an interface it has; see [Get].
func (e *Env) Provide(v any) {
	e.mustSetUp("Provide")
	e.provided = append(e.provided, v)
}

// Go runs f beside the server, from the moment all modules are set up. When the
// module stops, f's context ends and f is waited for. An error or a panic stops
// the app; to return nil earlier is fine.
func (e *Env) Go(f func(ctx context.Context) error) {
	e.mustSetUp("Go")
	e.background = append(e.background, f)
}

// OnStop runs f at the end, last registered first, after requests are drained
// and the module's background work has ended. It also runs if a later part of
// the start fails.
func (e *Env) OnStop(f func(ctx context.Context) error) {
	e.mustSetUp("OnStop")
	e.stops = append(e.stops, f)
}

// OnCheck adds f to GET /readyz, which asks at most once a second and for two
// seconds at most. The error is logged; the answer shows only the module's name.
func (e *Env) OnCheck(f func(ctx context.Context) error) {
	e.mustSetUp("OnCheck")
	e.running.health.add(e.module.Name, f)
}

// Context returns the context of the start: for opening what takes time. Its
// end does not stop the app; see Go for what runs longer.
func (e *Env) Context() context.Context { return e.ctx }

// Logger returns a logger that carries the module's name.
func (e *Env) Logger() *slog.Logger { return e.running.app.log.With("module", e.module.Name) }

// Server returns the table [server].
func (e *Env) Server() ServerConfig { return e.running.app.Server() }

// Get returns what a required module provided: the one value that is a T or, if
// T is an interface, has its methods. A value of a module hides those of the
// modules it requires, so that a module can wrap what it was given.
//
// Get is for Setup. If there is no such value, or no single one, Setup ends there and
// the start fails with an error that says what to do.
func Get[T any](e *Env) T {
	if v, ok := lookup[T](e, "Get"); ok {
		return v
	}
	err := fmt.Errorf("nothing it requires provides a %s", reflect.TypeFor[T]())
	for _, o := range e.running.envs {
		if o != e && slices.ContainsFunc(o.provided, func(v any) bool { _, ok := v.(T); return ok }) {
			panic(failure{WithHint(err, fmt.Sprintf("module %s provides it: add it to Requires of %s", o.module.Name, e.module.Name))})
		}
	}
	panic(failure{WithHint(err, fmt.Sprintf("add the module that provides it to Requires of %s", e.module.Name))})
}

// Lookup is [Get] for what a module can do without: ok is false if nothing that it
// requires provides a T.
func Lookup[T any](e *Env) (v T, ok bool) { return lookup[T](e, "Lookup") }

func lookup[T any](e *Env, method string) (v T, ok bool) {
	e.mustSetUp(method)
	needs := e.running.app.requires[e.module]
	var found []T
	var by []*Module
	for _, m := range needs {
		for _, v := range e.running.env(m).provided {
			if t, ok := v.(T); ok {
				found, by = append(found, t), append(by, m)
			}
		}
	}
	visible := -1
	for i, m := range by {
		hidden := slices.ContainsFunc(by, func(o *Module) bool {
			return slices.Contains(e.running.app.requires[o], m)
		})
		switch {
		case hidden:
		case visible >= 0:
			panic(failure{fmt.Errorf("%s is provided twice, by module %s and module %s", reflect.TypeFor[T](), by[visible].Name, m.Name)})
		default:
			visible = i
		}
	}
	if visible < 0 {
		return v, false
	}
	return found[visible], true
}

// ConfigOf returns the module's own settings; T is the type of its Config.
func ConfigOf[T any](e *Env) T {
	t := e.running.app.settings.table(e.module.Name)
	if t.config.IsValid() {
		if c, ok := t.config.Interface().(T); ok {
			return c
		}
	}
	panic(failure{fmt.Errorf("ConfigOf[%s]: its Config is a %T", reflect.TypeFor[T](), e.module.Config)})
}

// A failure is what Get and ConfigOf panic with, to end Setup.
type failure struct{ err error }

func (f failure) String() string { return f.err.Error() }

func (e *Env) mustSetUp(method string) {
	if e.done.Load() {
		panic("app: " + method + " of module " + e.module.Name + " was called after its Setup")
	}
}

// protect runs f and turns its panic into an error.
func protect(f func() error) (err error) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case failure:
			err = v.err
		default:
			err = &panicError{v, debug.Stack()}
		}
	}()
	return f()
}

// A panicError keeps the stack out of the one line that Error returns.
type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string { return fmt.Sprintf("panic: %v", p.value) }

func (p *panicError) Unwrap() error {
	err, _ := p.value.(error)
	return err
}

// install wraps and registers the module's routes.
func (e *Env) install() error {
	r := e.running
	for _, rt := range e.routes {
		if rt.handler == nil || isNilFunc(rt.handler) {
			return fmt.Errorf("route %q has no handler", rt.Pattern)
		}
		mux, h := r.ops, rt.handler
		if !rt.ops {
			mux = r.mux
			var err error
			if h, err = e.wrapped(rt); err != nil {
				return err
			}
		}
		if err := r.claim(mux, e.module.Name, rt.Pattern, h); err != nil {
			return err
		}
	}
	return nil
}

func isNilFunc(h http.Handler) bool {
	f, ok := h.(http.HandlerFunc)
	return ok && f == nil
}

// wrapped returns the handler of rt inside the wrappers of all that the module
// requires.
func (e *Env) wrapped(rt route) (http.Handler, error) {
	var around []wrapper
	known := []*Mark{AnyBody}
	for _, m := range e.running.app.requires[e.module] {
		for _, w := range e.running.env(m).wrappers {
			around = append(around, w)
			known = append(known, w.marks...)
		}
	}
	for _, mark := range rt.Marks {
		if mark == nil {
			return nil, fmt.Errorf("route %q has a nil mark", rt.Pattern)
		}
		if !slices.Contains(known, mark) {
			return nil, WithHint(
				fmt.Errorf("route %q is marked %q, which no module around it knows", rt.Pattern, mark.Name),
				fmt.Sprintf("add the module that defines the mark to Requires of %s", e.module.Name))
		}
	}
	h := rt.handler
	for _, w := range slices.Backward(around) {
		if h = w.wrap(h, rt.Route); h == nil {
			return nil, fmt.Errorf("a wrapper of route %q returned nil", rt.Pattern)
		}
	}
	if rt.Has(AnyBody) {
		h = unlimited(h)
	}
	return h, nil
}

// fail records the error of background work, and the first one stops the app.
func (e *Env) fail(err error) {
	if e.work.Err() != nil && errors.Is(err, context.Canceled) {
		return
	}
	e.mu.Lock()
	e.failed = append(e.failed, err)
	e.mu.Unlock()
	select {
	case e.running.failed <- &StartError{e.module.Name, err}:
	default:
	}
}

// stop ends the background work, waits for it and runs what was given to OnStop.
func (e *Env) stop(ctx context.Context) error {
	e.cancel()
	ended := make(chan struct{})
	go func() { e.wait.Wait(); close(ended) }()
	var errs []error
	select {
	case <-ended:
	case <-ctx.Done():
		errs = append(errs, errors.New("background work did not end in time"))
	}
	e.mu.Lock()
	errs = append(errs, e.failed...)
	e.mu.Unlock()
	for _, f := range slices.Backward(e.stops) {
		if err := protect(func() error { return f(ctx) }); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
