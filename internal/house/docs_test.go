// Package house keeps what the project says about itself true: the code, the
// links, the settings, the names of tests and the commands in its documents.
package house

import (
	"bytes"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/modules"
)

var update = flag.Bool("update", false, "write the tables in docs that come from the code anew")

const root = "../.."

// files returns the paths of the project's files that end in suffix.
func files(t *testing.T, suffix string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (d.Name() == ".git" || d.Name() == ".servers" || d.Name() == "testdata"):
			return filepath.SkipDir
		case !d.IsDir() && strings.HasSuffix(path, suffix):
			paths = append(paths, path)
		}
		return nil
	})
	if err != nil || len(paths) == 0 {
		t.Fatalf("no %s files: %v", suffix, err)
	}
	return paths
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var fence = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")

// blocks returns the code blocks of text in the language lang.
func blocks(text, lang string) (list []string) {
	for _, m := range fence.FindAllStringSubmatch(text, -1) {
		if m[1] == lang {
			list = append(list, m[2])
		}
	}
	return list
}

func TestTheProgramInTheReadmeIsExamplesPlain(t *testing.T) {
	list := blocks(read(t, root+"/README.md"), "go")
	if len(list) == 0 || list[0] != read(t, root+"/examples/plain/main.go") {
		t.Error("the first Go block of README.md is not examples/plain/main.go, byte for byte")
	}
}

func TestGoInDocumentsStandsInAFileThatCompiles(t *testing.T) {
	var code []string
	for _, path := range files(t, ".go") {
		code = append(code, "\n"+read(t, path))
	}
	n := 0
	for _, path := range files(t, ".md") {
		for _, block := range blocks(read(t, path), "go") {
			n++
			if !slices.ContainsFunc(code, func(file string) bool { return strings.Contains(file, "\n"+block) }) {
				t.Errorf("%s: no Go file holds this block:\n%s", path, block)
			}
		}
	}
	if n < 5 {
		t.Errorf("%d blocks were found; did their fences change?", n)
	}
}

func TestSettingsInDocumentsAreTaken(t *testing.T) {
	for _, path := range files(t, ".md") {
		for _, block := range blocks(read(t, path), "toml") {
			file := filepath.Join(t.TempDir(), "crumb.toml")
			if err := os.WriteFile(file, []byte(block), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := app.New(app.Options{File: file}, modules.Login, modules.Track); err != nil {
				t.Errorf("%s: %v in\n%s", path, err, block)
			}
		}
	}
}

var lostRow = regexp.MustCompile(`(?m)^\| ([^|]*?) +\| (\d+) / (\d+) / (\d+) +\|.*$`)

// TestTheReadmeTellsTheUpdatesKeptOfTheRun holds the table in README.md against
// the run in docs/performance.md.
func TestTheReadmeTellsTheUpdatesKeptOfTheRun(t *testing.T) {
	var want []string
	for _, m := range lostRow.FindAllStringSubmatch(read(t, root+"/docs/performance.md"), -1) {
		var kept []int
		for _, text := range m[2:] {
			n, err := strconv.Atoi(text)
			if err != nil {
				t.Fatal(err)
			}
			kept = append(kept, n)
		}
		low, high := slices.Min(kept), slices.Max(kept)
		cell := strconv.Itoa(low)
		if high > low {
			cell += "–" + strconv.Itoa(high)
		}
		want = append(want, cell)
	}
	if len(want) != 9 {
		t.Fatalf("the runs have %d rows of updates kept, want 9", len(want))
	}
	if row := "\n| " + strings.Join(want, " | ") + " |\n"; !strings.Contains(read(t, root+"/README.md"), row) {
		t.Errorf("README.md has no row%s", row)
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
)

// anchors returns the anchors of the headings of a document, as GitHub makes
// them.
func anchors(text string) (list []string) {
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		list = append(list, strings.Map(func(c rune) rune {
			switch {
			case c == ' ':
				return '-'
			case unicode.IsLetter(c), unicode.IsDigit(c), c == '-', c == '_':
				return unicode.ToLower(c)
			}
			return -1
		}, m[1]))
	}
	return list
}

func TestLinksLeadSomewhere(t *testing.T) {
	for _, path := range files(t, ".md") {
		text := fence.ReplaceAllString(read(t, path), "")
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			to := path
			if target != "" {
				to = filepath.Join(filepath.Dir(path), filepath.FromSlash(target))
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s links to %s, which is not there", path, m[1])
			} else if anchor != "" && !slices.Contains(anchors(read(t, to)), anchor) {
				t.Errorf("%s links to %s; %s has no such heading", path, m[1], to)
			}
		}
	}
}

var placeInDocs = regexp.MustCompile(`docs/(\w+\.md)#([\w-]+)`)

// TestPlacesInDocumentsThatCodeNamesExist looks for names such as
// docs/guide.md#settings in Go files: what storetest prints when a check fails.
func TestPlacesInDocumentsThatCodeNamesExist(t *testing.T) {
	n := 0
	for _, path := range files(t, ".go") {
		for _, m := range placeInDocs.FindAllStringSubmatch(read(t, path), -1) {
			if strings.HasSuffix(path, "house/docs_test.go") {
				continue
			}
			n++
			if !slices.Contains(anchors(read(t, root+"/docs/"+m[1])), m[2]) {
				t.Errorf("%s names %s, which is not there", path, m[0])
			}
		}
	}
	if n < 20 {
		t.Errorf("%d places were found; did their form change?", n)
	}
}

var makeTarget = regexp.MustCompile("(?:`|\n)make ([a-z ]+)(?:`|\n)")

func TestMakeTargetsInDocumentsExist(t *testing.T) {
	makefile := read(t, root+"/Makefile")
	for _, path := range files(t, ".md") {
		for _, m := range makeTarget.FindAllStringSubmatch(read(t, path), -1) {
			for target := range strings.FieldsSeq(m[1]) {
				if !strings.Contains(makefile, "\n"+target+":") {
					t.Errorf("%s names make %s, which the Makefile does not have", path, target)
				}
			}
		}
	}
}

// The tables of settings in the guide stand between two of these.
var tableMarks = regexp.MustCompile(`(?s)(<!-- settings of (\w+) -->\n)(.*?)(<!-- end -->)`)

func TestTheSettingsInTheGuideAreThoseOfTheCode(t *testing.T) {
	a, err := app.New(app.Options{}, modules.Login, modules.Track)
	if err != nil {
		t.Fatal(err)
	}
	structs := map[string]any{
		"server": app.ServerConfig{}, "database": modules.DatabaseConfig{}, "session": modules.SessionConfig{},
		"keys": modules.KeysConfig{}, "login": modules.LoginConfig{}, "track": modules.TrackConfig{},
	}
	for _, guide := range []string{"session-guide.md", "login-guide.md", "tracking-guide.md"} {
		path := root + "/docs/" + guide
		text := read(t, path)
		tables := 0
		want := tableMarks.ReplaceAllStringFunc(text, func(old string) string {
			m := tableMarks.FindStringSubmatch(old)
			tables++
			return m[1] + settingsTable(a, m[2], structs[m[2]]) + m[4]
		})
		if tables == 0 {
			t.Fatalf("%s has no table of settings", guide)
		}
		if *update {
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if text != want {
			t.Errorf("the settings in docs/%s are not those of the code; run make docs", guide)
		}
	}
}

func settingsTable(a *app.App, table string, config any) string {
	help := map[string]string{}
	typ := reflect.TypeOf(config)
	for i := range typ.NumField() {
		tag := typ.Field(i).Tag
		help[tag.Get("toml")] = tag.Get("help")
	}
	var b bytes.Buffer
	b.WriteString("| setting | default | what it does |\n|---|---|---|\n")
	for _, s := range a.Settings() {
		if s.Table != table {
			continue
		}
		value := "derived"
		if s.Value != "" && s.Value != "[]" && s.Value != "0s" && s.Value != "0" {
			value = "`" + s.Value + "`"
		} else if !strings.Contains(help[s.Key], "0 is") && !strings.Contains(help[s.Key], "by default") {
			value = "none"
		}
		b.WriteString("| `" + s.Key + "` | " + value + " | " + help[s.Key] + " |\n")
	}
	return b.String()
}

var testName = regexp.MustCompile("`([a-z/]+)\\.((?:Test|Fuzz|Example)\\w*)(?:/([^`]+))?`")

// TestTestsNamedInTheSecurityTableExist looks for names such as
// `session.TestSignOut/a sentence` or, for a case of the conformance suite,
// `store/storetest.Test/a sentence`.
func TestTestsNamedInTheSecurityTableExist(t *testing.T) {
	tests, strs := map[string]bool{}, map[string]map[string]bool{}
	for _, path := range files(t, ".go") {
		rel, _ := filepath.Rel(root, filepath.Dir(path))
		dir := filepath.ToSlash(rel)
		if !strings.HasSuffix(path, "_test.go") && dir != "store/storetest" {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if strs[dir] == nil {
			strs[dir] = map[string]bool{}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				tests[dir+"."+n.Name.Name] = true
			case *ast.BasicLit:
				if s, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
					strs[dir][s] = true
				}
			}
			return true
		})
	}
	tests["store/storetest.TestStore"] = true // what each store's test of the suite is called
	n := 0
	for _, m := range testName.FindAllStringSubmatch(read(t, root+"/docs/security.md"), -1) {
		n++
		if !tests[m[1]+"."+m[2]] || m[3] != "" && !strs[m[1]][m[3]] {
			t.Errorf("docs/security.md names %s, and there is no such test", m[0])
		}
	}
	if n < 20 {
		t.Errorf("%d names of tests were found; did their form change?", n)
	}
}
