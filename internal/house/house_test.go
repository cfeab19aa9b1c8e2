package house

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/crumb-go/crumb/"

// The packages and what of the project each may import. Tests may import more.
var packages = map[string][]string{
	"session":             {},
	"session/sessiontest": {"session", "store/memory"},
	"store/memory":        {"session"},
	"store/sqlite":        {"session", "internal/sqlstore"},
	"store/postgres":      {"session", "internal/sqlstore"},
	"store/mysql":         {"session", "internal/sqlstore", "internal/mysqlurl"},
	"store/redis":         {"session"},
	"store/storetest":     {"session"},
	"internal/sqlstore":   {"session"},
	"internal/sqldb":      {"internal/mysqlurl"},
	"internal/mysqlurl":   {},
	"internal/ops":        {"session", "store/sqlite"},
	"keyring":             {},
	"login":               {"session", "keyring", "internal/sqldb", "internal/sqlstore"},
	"track":               {"session", "internal/sqldb"},
	"app":                 {},
	"modules":             {"app", "session", "store/memory", "store/sqlite", "store/postgres", "store/mysql", "store/redis", "internal/ops", "keyring", "login", "track"},
}

func TestAPackageImportsOnlyWhatItMay(t *testing.T) {
	seen := map[string]bool{}
	for _, path := range files(t, ".go") {
		rel, _ := filepath.Rel(root, filepath.Dir(path))
		name := filepath.ToSlash(rel)
		may, known := packages[name]
		if !known || strings.HasSuffix(path, "_test.go") {
			continue
		}
		seen[name] = true
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range f.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			own, inside := strings.CutPrefix(imported, module)
			if inside && !slices.Contains(may, own) {
				t.Errorf("%s imports %s, which package %s may not", path, own, name)
			}
			if first, _, _ := strings.Cut(imported, "/"); name == "session" && strings.Contains(first, ".") {
				t.Errorf("%s imports %s; package session keeps to the standard library", path, imported)
			}
		}
	}
	if len(seen) != len(packages) {
		t.Errorf("%d of %d packages were found", len(seen), len(packages))
	}
}

func TestEveryDirectDependencyHasItsReason(t *testing.T) {
	design := read(t, root+"/docs/design.md")
	for line := range strings.Lines(read(t, root+"/go.mod")) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "require ")
		path, version, ok := strings.Cut(line, " ")
		if !ok || !strings.HasPrefix(version, "v") || strings.HasSuffix(line, "// indirect") {
			continue
		}
		if !strings.Contains(design, "`"+path+"`") {
			t.Errorf("docs/design.md does not say what %s is for", path)
		}
	}
}
