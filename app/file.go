package app

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// readFile overlays the defaults with the TOML file at path. The first wrong
// line is the error.
func (s *settings) readFile(path string, mustExist bool) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if mustExist {
			return &SettingError{Source: "flag --config", Problem: "there is no file " + path}
		}
		return nil
	}
	if err != nil {
		return &SettingError{Source: path, Problem: "cannot be read: " + reason(err)}
	}
	return s.readTOML(path, string(data))
}

// reason returns what err says without the operation and path around it.
func reason(err error) string {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err.Error()
	}
	return err.Error()
}

// quoted matches what the parser's errors repeat of the file, which may be a
// password.
var quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

func (s *settings) readTOML(path, text string) error {
	var doc document
	var top map[string]toml.Primitive
	var err error
	if doc.meta, err = toml.Decode(text, &top); err != nil {
		e := &SettingError{Source: path, Problem: "not TOML: " + err.Error()}
		if p, ok := errors.AsType[toml.ParseError](err); ok {
			e.Source = fmt.Sprintf("%s:%d", path, p.Position.Line)
			e.Problem = "not TOML: " + quoted.ReplaceAllString(p.Message, "this")
			if strings.HasPrefix(p.Message, "expected value") {
				e.Hint = "text is written in quotes"
			}
		}
		return e
	}

	for _, t := range doc.entries(top) {
		source := fmt.Sprintf("%s:%d", path, t.line)
		if !t.table {
			return s.misplaced(source, t.key)
		}
		tab := s.table(t.key)
		if tab == nil {
			if s.others {
				s.found = append(s.found, Other{source, "[" + t.key + "]", s.nearTable(t.key)})
				continue
			}
			return s.unknownTable(source, t.key)
		}
		var keys map[string]toml.Primitive
		if err := doc.meta.PrimitiveDecode(t.value, &keys); err != nil {
			return &SettingError{Source: source, Key: t.key, Problem: "cannot be read"}
		}
		for _, k := range doc.entries(keys) {
			source := fmt.Sprintf("%s:%d", path, k.line)
			v := tab.setting(k.key)
			if v == nil {
				return s.unknownKey(source, tab, k.key)
			}
			var value any
			if err := doc.meta.PrimitiveDecode(k.value, &value); err != nil {
				return &SettingError{Source: source, Key: v.name(), Problem: "cannot be read"}
			}
			if bad := setTOML(v.value, value); bad != nil {
				return v.refuse(source, fmt.Sprint(value), bad)
			}
			v.source = source
		}
	}
	return nil
}

// misplaced is the error for what is no table where one belongs.
func (s *settings) misplaced(source, key string) *SettingError {
	e := &SettingError{Source: source, Key: key, Problem: "every setting is in a table"}
	if s.table(key) != nil {
		e.Hint = fmt.Sprintf("[%s] is a table: write [%s] on a line, and its settings below", key, key)
		return e
	}
	for _, t := range s.tables {
		if t.setting(key) != nil {
			e.Hint = fmt.Sprintf("write it below a line [%s]", t.name)
			return e
		}
	}
	return e
}

// A document is a parsed file that knows the lines of its keys.
type document struct{ meta toml.MetaData }

type entry struct {
	key   string
	line  int
	table bool
	value toml.Primitive
}

// entries returns the keys of a table in the order of their lines.
func (d *document) entries(m map[string]toml.Primitive) []entry {
	list := make([]entry, 0, len(m))
	for key, p := range m {
		line, table := d.look(p)
		list = append(list, entry{key, line, table, p})
	}
	slices.SortFunc(list, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.key, b.key))
	})
	return list
}

// look returns the line of a value, which the toml package tells only in the
// errors of a decoder, and whether it is a table. One that dotted keys alone
// make has no line, so it gets that of its first key.
func (d *document) look(p toml.Primitive) (line int, table bool) {
	var probe probe
	err := d.meta.PrimitiveDecode(p, &probe)
	if e, ok := errors.AsType[toml.ParseError](err); ok {
		line = e.Position.Line
	}
	var keys map[string]toml.Primitive
	if line == 0 && probe.table && d.meta.PrimitiveDecode(p, &keys) == nil {
		if list := d.entries(keys); len(list) > 0 {
			line = list[0].line
		}
	}
	return line, probe.table
}

type probe struct{ table bool }

func (p *probe) UnmarshalTOML(v any) error {
	_, p.table = v.(map[string]any)
	return errors.New("looked at")
}
