package app

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// A Module is one part of an app. Declare it as a package-level variable: two
// modules that require each other then do not compile, and naming one brings
// along all that it requires. It is a description and holds no state, so one
// program can run it in several apps at once.
type Module struct {
	// Name is its table in the settings file, its prefix in the environment
	// (CRUMB_<NAME>_) and its name in logs: lower-case letters, digits and
	// underscores. Two modules of one name are an error, and "server" is taken.
	Name string

	// Requires lists the modules that are set up before this one and stopped
	// after it.
	Requires []*Module

	// Config is a struct of defaults, overlaid by file, environment and flags
	// before any Setup runs; read it with [ConfigOf]. Each exported field has
	// these tags:
	//
	//	toml:"idle_timeout"  its key; "-" keeps the field out of the settings
	//	secret:"true"        its value is never shown
	//	flag:"idle"          a short flag, besides --<name>.<key>
	//	help:"end after"     what it does, for --help
	//
	// A field is a string, a bool, an integer, a float, a [time.Duration]
	// ("30m", "30d"), anything with [encoding.TextUnmarshaler], such as
	// [net/netip.Prefix], or a slice of these. If the struct has a method
	// Check() error, it is called before anything opens; see [Bad].
	//
	// Nil means no settings.
	Config any

	// Setup builds the module once its requirements are ready. Nil is fine.
	Setup func(e *Env) error
}

var nameFormat = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// resolve returns modules and all they require in the order they are set up:
// depth first, in the order named.
func resolve(modules []*Module) ([]*Module, error) {
	r := resolver{chains: map[*Module]string{}, names: map[string]*Module{}}
	for i, m := range modules {
		if m == nil {
			return nil, fmt.Errorf("app: module %d of the app is nil", i+1)
		}
		if err := r.visit(m, nil); err != nil {
			return nil, err
		}
	}
	return r.order, nil
}

type resolver struct {
	order  []*Module
	chains map[*Module]string // how a module came in, for errors
	names  map[string]*Module
}

func (r *resolver) visit(m *Module, by []*Module) error {
	path := append(slices.Clip(by), m)
	if slices.Contains(by, m) {
		return fmt.Errorf("app: modules require each other in a circle: %s", chain(path))
	}
	if r.chains[m] != "" {
		return nil
	}
	r.chains[m] = chain(path)

	switch {
	case !nameFormat.MatchString(m.Name):
		return fmt.Errorf("app: %q is no name for a module, which has lower-case letters, digits and underscores (%s)", m.Name, chain(path))
	case m.Name == serverTable:
		return fmt.Errorf("app: a module cannot be named %q, the table of the server itself (%s)", m.Name, chain(path))
	case r.names[m.Name] != nil:
		return fmt.Errorf("app: two modules are named %q (%s; %s)", m.Name, r.chains[r.names[m.Name]], chain(path))
	}
	r.names[m.Name] = m

	for i, need := range m.Requires {
		if need == nil {
			return fmt.Errorf("app: %s requires a nil module (number %d of its list)", chain(path), i+1)
		}
		if err := r.visit(need, path); err != nil {
			return err
		}
	}
	r.order = append(r.order, m)
	return nil
}

// chain says how the last module of path came into the app.
func chain(path []*Module) string {
	names := make([]string, len(path))
	for i, m := range path {
		names[i] = m.Name
		if m.Name == "" {
			names[i] = `""`
		}
	}
	return strings.Join(names, " requires ")
}

// A StartError says which module could not be set up or run, and why.
type StartError struct {
	Module string
	Err    error
}

func (e *StartError) Error() string { return "module " + e.Module + ": " + e.Err.Error() }

func (e *StartError) Unwrap() error { return e.Err }

// WithHint adds to err what the reader can do about it. [Report] prints it on a
// line of its own; Error does not contain it.
func WithHint(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &hinted{err, hint}
}

type hinted struct {
	err  error
	hint string
}

func (h *hinted) Error() string { return h.err.Error() }

func (h *hinted) Unwrap() error { return h.err }

// hintOf returns the hint that err carries, or "".
func hintOf(err error) string {
	if s, ok := errors.AsType[*SettingError](err); ok {
		return s.Hint
	}
	if h, ok := errors.AsType[*hinted](err); ok {
		return h.hint
	}
	return ""
}
