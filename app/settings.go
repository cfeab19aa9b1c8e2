package app

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// A Setting is one value of the app's settings, as config show prints it.
type Setting struct {
	Table string
	Key   string

	// Value is the value as text. A secret, and the password in a URL, is
	// "xxxxx".
	Value string

	// Source says where the value comes from: "default", "crumb.toml:3",
	// "env CRUMB_SERVER_ADDR" or "flag --addr".
	Source string

	Secret bool
}

// An Other is a table of the file, or a CRUMB_ variable of the environment, that
// belongs to no module of the app. It may be another program's, or misspelt.
type Other struct {
	Source string // as in [Setting]
	Name   string // "[sesion]" or "CRUMB_SESION_LIFETIME"
	Near   string // what may have been meant, "[session]" or "CRUMB_SESSION_LIFETIME"; "" if nothing is near
}

// A SettingError is a setting that is wrong. It is found before anything opens,
// and [Main] exits with 2.
type SettingError struct {
	// Source is where the setting was made, as in [Setting]. Empty if nowhere.
	Source string

	// Key is the setting, "server.addr", or the table. Empty if the error is
	// about more than one.
	Key string

	// Value is the refused value, without passwords. Empty if there is none to show.
	Value string

	Problem string // what is wrong
	Hint    string // what to do, or ""
}

func (e *SettingError) Error() string {
	var b strings.Builder
	if e.Source != "" {
		b.WriteString(e.Source + ": ")
	}
	if e.Key != "" {
		b.WriteString(e.Key)
		if e.Value != "" {
			fmt.Fprintf(&b, " = %q", e.Value)
		}
		b.WriteString(": ")
	}
	b.WriteString(e.Problem)
	return b.String()
}

// Bad returns the error by which a module refuses one of its settings, from
// Check or from Setup. The key is that of the setting in the module's table;
// where it was set and its value are added.
func Bad(key, problem, hint string) error {
	return &SettingError{Key: key, Problem: problem, Hint: hint}
}

// sourceDefault is the source of a setting that nobody made.
const sourceDefault = "default"

// A setting is one field of a Config.
type setting struct {
	table, key string
	flag, help string
	secret     bool
	value      reflect.Value // the field, settable
	source     string
}

func (s *setting) name() string    { return s.table + "." + s.key }
func (s *setting) envName() string { return envPrefix(s.table) + strings.ToUpper(s.key) }

func envPrefix(table string) string { return "CRUMB_" + strings.ToUpper(table) + "_" }

// show returns text as it may be shown.
func (s *setting) show(text string) string {
	if s.secret {
		if text == "" {
			return ""
		}
		return redacted
	}
	return redact(text)
}

func (s *setting) refuse(source, text string, bad *mismatch) *SettingError {
	if s.secret && isText(s.value.Type()) {
		bad = &mismatch{"not a valid value", bad.hint} // the error of a type may quote the text
	}
	return &SettingError{Source: source, Key: s.name(), Value: s.show(text), Problem: redact(bad.problem), Hint: bad.hint}
}

// A table is the settings of one module, or of the server.
type table struct {
	name     string
	config   reflect.Value // the struct, settable; invalid if the module has no settings
	settings []*setting
}

func (t *table) setting(key string) *setting {
	for _, s := range t.settings {
		if s.key == key {
			return s
		}
	}
	return nil
}

func (t *table) keys() []string {
	keys := make([]string, len(t.settings))
	for i, s := range t.settings {
		keys[i] = s.key
	}
	return keys
}

// newTable reads the fields of config, a struct of defaults. Its errors are
// mistakes of the module's author.
func newTable(name string, config any) (*table, error) {
	t := &table{name: name}
	if config == nil {
		return t, nil
	}
	typ := reflect.TypeOf(config)
	if typ.Kind() != reflect.Struct {
		return nil, fmt.Errorf("app: the Config of module %s is a %s, not a struct", name, typ)
	}
	t.config = reflect.New(typ).Elem()
	t.config.Set(reflect.ValueOf(config))
	for i := range typ.NumField() {
		f := typ.Field(i)
		key := f.Tag.Get("toml")
		if key == "-" || !f.IsExported() {
			continue
		}
		switch {
		case !nameFormat.MatchString(key):
			return nil, fmt.Errorf(`app: field %s of %s needs a tag like toml:"snake_case", or toml:"-"`, f.Name, typ)
		case !settable(f.Type):
			return nil, fmt.Errorf("app: field %s of %s is a %s, which is no setting", f.Name, typ, f.Type)
		case t.setting(key) != nil:
			return nil, fmt.Errorf("app: %s has two fields for %q", typ, key)
		}
		v := t.config.Field(i)
		if f.Type.Kind() == reflect.Slice && !v.IsNil() {
			// The defaults belong to the module, which may be in several apps.
			v.Set(reflect.AppendSlice(reflect.MakeSlice(f.Type, 0, v.Len()), v))
		}
		t.settings = append(t.settings, &setting{
			table: name, key: key,
			flag: f.Tag.Get("flag"), help: f.Tag.Get("help"),
			secret: f.Tag.Get("secret") == "true",
			value:  v, source: sourceDefault,
		})
	}
	return t, nil
}

// complete turns an error of the module itself, such as that of [Bad], into one
// that says where the setting comes from. Other errors are returned as they are.
func (t *table) complete(err error) error {
	bad, ok := errors.AsType[*SettingError](err)
	if !ok || bad.Source != "" {
		return err
	}
	full := *bad
	s := t.setting(bad.Key)
	if s == nil {
		full.Key = strings.TrimSuffix(t.name+"."+bad.Key, ".")
		return &full
	}
	full.Key, full.Source = s.name(), s.source
	if full.Value == "" {
		full.Value = s.show(render(s.value))
	}
	full.Problem = redact(full.Problem)
	return &full
}

// check asks the module itself about its settings.
func (t *table) check() error {
	if !t.config.IsValid() {
		return nil
	}
	c, ok := t.config.Addr().Interface().(interface{ Check() error })
	if !ok {
		return nil
	}
	err := c.Check()
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*SettingError](err); !ok {
		return &SettingError{Key: t.name, Problem: redact(err.Error()), Hint: hintOf(err)}
	}
	return t.complete(err)
}

// settings are all tables of an app, that of the server first.
type settings struct {
	tables []*table
	others bool    // tables of modules that are not part of the app are left alone
	found  []Other // what is left alone
}

func newSettings(server *table, modules []*Module) (*settings, error) {
	s := &settings{tables: []*table{server}}
	for _, m := range modules {
		t, err := newTable(m.Name, m.Config)
		if err != nil {
			return nil, err
		}
		s.tables = append(s.tables, t)
	}

	claimed := map[string]string{"--config": "the app", "--help": "the app"}
	for v := range s.all {
		names := []string{v.envName()}
		if v.flag != "" {
			names = append(names, "--"+v.flag)
		}
		for _, name := range names {
			if by := claimed[name]; by != "" {
				return nil, fmt.Errorf("app: %s would set both %s and %s", name, by, v.name())
			}
			claimed[name] = v.name()
		}
	}
	return s, nil
}

// all yields every setting.
func (s *settings) all(yield func(*setting) bool) {
	for _, t := range s.tables {
		for _, v := range t.settings {
			if !yield(v) {
				return
			}
		}
	}
}

func (s *settings) table(name string) *table {
	for _, t := range s.tables {
		if t.name == name {
			return t
		}
	}
	return nil
}

func (s *settings) names() []string {
	names := make([]string, len(s.tables))
	for i, t := range s.tables {
		names[i] = t.name
	}
	return names
}

// read overlays the defaults with the file, the environment and the flags, and
// lets each module check the outcome.
func (s *settings) read(file string, mustExist bool, environ []string, flags []flagValue) error {
	if file != "" {
		if err := s.readFile(file, mustExist); err != nil {
			return err
		}
	}
	if err := s.readEnviron(environ); err != nil {
		return err
	}
	if err := s.readFlags(flags); err != nil {
		return err
	}
	for _, t := range s.tables {
		if err := t.check(); err != nil {
			return err
		}
	}
	return nil
}

// kubernetesName matches the variables that Kubernetes sets in every pod for a
// service called crumb-<table>, which nobody meant as settings.
var kubernetesName = regexp.MustCompile(`_(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)

// readEnviron reads the variables CRUMB_<TABLE>_<KEY>. An empty one counts as
// not set: that is what `X=${Y}` makes of a missing Y.
func (s *settings) readEnviron(environ []string) error {
	byName := map[string]*setting{}
	for v := range s.all {
		byName[v.envName()] = v
	}
	for _, e := range slices.Sorted(slices.Values(environ)) {
		name, text, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, "CRUMB_") || text == "" {
			continue
		}
		source := "env " + name
		if v := byName[name]; v != nil {
			if bad := setText(v.value, text); bad != nil {
				return v.refuse(source, text, bad)
			}
			v.source = source
			continue
		}
		if kubernetesName.MatchString(name) || strings.HasSuffix(name, "_PORT") && strings.Contains(text, "://") {
			continue
		}
		if t := s.tableOf(name); t != nil {
			var names []string
			for _, v := range t.settings {
				names = append(names, v.envName())
			}
			return &SettingError{
				Source:  source,
				Problem: fmt.Sprintf("[%s] has no such setting", t.name),
				Hint:    suggest(name, names, fmt.Sprintf("[%s] has %s", t.name, orNone(t.keys()))),
			}
		}
		s.found = append(s.found, Other{source, name, s.nearEnv(name)})
	}
	return nil
}

// tableOf returns the table that an environment variable means.
func (s *settings) tableOf(env string) *table {
	var best *table
	for _, t := range s.tables {
		if strings.HasPrefix(env, envPrefix(t.name)) && (best == nil || len(t.name) > len(best.name)) {
			best = t
		}
	}
	return best
}

// unknownKey is the error for a key that t does not have.
func (s *settings) unknownKey(source string, t *table, key string) *SettingError {
	otherwise := fmt.Sprintf("[%s] has %s", t.name, orNone(t.keys()))
	for _, o := range s.tables {
		if o.setting(key) != nil {
			otherwise = fmt.Sprintf("%s belongs to [%s]", key, o.name)
		}
	}
	return &SettingError{
		Source: source, Key: t.name + "." + key,
		Problem: "there is no such setting",
		Hint:    suggest(key, t.keys(), otherwise),
	}
}

// unknownTable is the error for a table that no module of the app has.
func (s *settings) unknownTable(source, name string) *SettingError {
	names := s.names()
	return &SettingError{
		Source: source, Key: name,
		Problem: "the app has no module of this name",
		Hint:    suggest(name, names, fmt.Sprintf("name the module %s in the app, or remove [%s]; there are %s", name, name, orNone(names))),
	}
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "no settings"
	}
	return strings.Join(names, ", ")
}

// nearTable returns "[table]" of the table whose name is nearest to name, or "".
// Short names are near to everything.
func (s *settings) nearTable(name string) string {
	if near := nearest(name, s.names()); near != "" && len(name) > 3 {
		return "[" + near + "]"
	}
	return ""
}

// nearEnv returns what a variable of no table may have meant. Its table alone is
// compared: others may have keys like ours.
func (s *settings) nearEnv(name string) string {
	rest := strings.TrimPrefix(name, "CRUMB_")
	for i, r := range rest {
		if r != '_' {
			continue
		}
		if near := s.nearTable(strings.ToLower(rest[:i])); near != "" {
			return envPrefix(strings.Trim(near, "[]")) + rest[i+1:]
		}
	}
	return ""
}

// suggest asks whether one of names was meant, if one is near enough.
func suggest(name string, names []string, otherwise string) string {
	if best := nearest(name, names); best != "" {
		return fmt.Sprintf("did you mean %s?", best)
	}
	return otherwise
}

// nearest returns the one of names that is nearest to name, or "".
func nearest(name string, names []string) string {
	best, least := "", max(2, len(name)/4)+1
	for _, n := range names {
		if d := distance(name, n, least); d < least {
			best, least = n, d
		}
	}
	return best
}

// distance counts the letters to insert, remove, change or swap to get from a
// to b. It gives up at limit.
func distance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	rows := [3][]int{}
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	before, last, next := rows[2], rows[0], rows[1]
	for i := range len(a) {
		next[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next[j+1] = min(last[j+1]+1, next[j]+1, last[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, last, next = last, next, before
	}
	return last[len(b)]
}
