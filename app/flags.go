package app

import (
	"fmt"
	"reflect"
	"strings"
	"text/tabwriter"
)

// A flagValue is one flag as it was given.
type flagValue struct {
	name    string // with its dashes
	text    string
	setting *setting
}

// A commandLine is what the arguments say.
type commandLine struct {
	help   bool
	config string // --config, or ""
	flags  []flagValue
}

// parseFlags reads args, such as --addr :8080, --addr=:8080, --insecure and
// --session.idle_timeout=5m.
func (s *settings) parseFlags(args []string) (commandLine, error) {
	byName := s.flagNames()
	var c commandLine
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		name, text, hasText := strings.Cut(arg, "=")
		if name == "-h" || name == "--help" {
			return commandLine{help: true}, nil
		}
		if !strings.HasPrefix(name, "--") || name == "--" {
			e := &SettingError{Problem: fmt.Sprintf("unexpected argument %q", redact(arg)), Hint: "--help lists the flags"}
			if byName["-"+name] != nil {
				e.Hint = fmt.Sprintf("did you mean -%s?", name)
			}
			return c, e
		}

		v := byName[name]
		if v == nil && name != "--config" {
			names := []string{"--config", "--help"}
			for n := range byName {
				names = append(names, n)
			}
			return c, &SettingError{Source: "flag " + name, Problem: "there is no such flag", Hint: suggest(name, sorted(names), "--help lists the flags")}
		}
		if !hasText && v != nil && isBool(v.value.Type()) {
			text, hasText = "true", true
		}
		if !hasText {
			// A flag is no value: `--addr --insecure` lacks the address.
			if len(args) == 0 || strings.HasPrefix(args[0], "--") {
				return c, &SettingError{Source: "flag " + name, Problem: "needs a value", Hint: fmt.Sprintf("write %s=VALUE", name)}
			}
			text, args = args[0], args[1:]
		}
		if v == nil {
			c.config = text
			if text == "" {
				return c, &SettingError{Source: "flag --config", Problem: "needs the path of a file"}
			}
			continue
		}
		c.flags = append(c.flags, flagValue{name, text, v})
	}
	return c, nil
}

// flagNames returns the settings by their flags.
func (s *settings) flagNames() map[string]*setting {
	m := map[string]*setting{}
	for v := range s.all {
		m["--"+v.name()] = v
		if v.flag != "" {
			m["--"+v.flag] = v
		}
	}
	return m
}

// readFlags sets what the flags say. The last one wins; those of a list add up,
// and replace what file and environment say.
func (s *settings) readFlags(flags []flagValue) error {
	seen := map[*setting]bool{}
	for _, f := range flags {
		v := f.setting
		var before reflect.Value
		if seen[v] && isList(v.value.Type()) {
			before = reflect.ValueOf(v.value.Interface())
		}
		if bad := setText(v.value, f.text); bad != nil {
			return v.refuse("flag "+f.name, f.text, bad)
		}
		if before.IsValid() {
			v.value.Set(reflect.AppendSlice(before, v.value))
		}
		v.source = "flag " + f.name
		seen[v] = true
	}
	return nil
}

// usage lists the flags with their defaults.
func (s *settings) usage(program, file string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: %s [flags]\n", program)
	b.WriteString("\nEvery flag is also a variable of the environment, as the list says, and a line in\nthe settings file. Flags win over the environment, which wins over the file.\n")

	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\n  --config FILE\tthe settings file (default %s)\n", orDefault(file, "none"))
	fmt.Fprint(w, "  -h, --help\tshow this\n")
	w.Flush()
	for _, t := range s.tables {
		if len(t.settings) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n[%s]\n", t.name)
		for _, v := range t.settings {
			name := v.name()
			if v.flag != "" {
				name = v.flag
			}
			fmt.Fprintf(w, "  --%s%s\t%s\t%s\n", name, argument(v.value.Type()), v.envName(), description(v))
		}
		w.Flush()
	}
	return b.String()
}

func description(v *setting) string {
	text := v.show(render(v.value))
	if text == "" || v.value.IsZero() {
		return v.help
	}
	return strings.TrimSpace(v.help + " (default " + text + ")")
}

func argument(t reflect.Type) string {
	switch {
	case isBool(t):
		return ""
	case isList(t):
		return argument(t.Elem()) + ",…"
	case t == durationType:
		return " DURATION"
	case t == prefixType:
		return " CIDR"
	case isText(t), t.Kind() == reflect.String:
		return " TEXT"
	}
	return " NUMBER"
}
