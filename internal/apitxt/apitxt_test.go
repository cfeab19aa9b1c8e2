// Package apitxt keeps api.txt, the public surface of the project, true: every
// change of it shows in review.
package apitxt

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/build"
	"go/format"
	"go/parser"
	"go/printer"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write api.txt anew")

const (
	root   = "../.."
	golden = root + "/api.txt"
	module = "github.com/crumb-go/crumb"
)

func TestAPI(t *testing.T) {
	got, err := surface(root)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(got, want) {
		return
	}
	for _, l := range missing(got, want) {
		t.Errorf("new:  %s", l)
	}
	for _, l := range missing(want, got) {
		t.Errorf("gone: %s", l)
	}
	t.Fatal("the public surface is not the one in api.txt; if that is meant, run make api and commit it with the change")
}

// missing returns the lines of a that b does not have.
func missing(a, b []byte) (lines []string) {
	known := map[string]bool{}
	for l := range strings.Lines(string(b)) {
		known[l] = true
	}
	for l := range strings.Lines(string(a)) {
		if !known[l] {
			lines = append(lines, strings.TrimRight(l, "\n"))
		}
	}
	return lines
}

// surface returns the exported declarations of all packages that users can
// import, without comments.
func surface(root string) ([]byte, error) {
	var out bytes.Buffer
	fmt.Fprintf(&out, "The public surface of %s. Made by make api; do not edit.\n", module)
	// Any system gives the same text.
	system := build.Default
	system.GOOS, system.GOARCH, system.CgoEnabled = "linux", "amd64", false
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		name := d.Name()
		if rel != "." && (strings.HasPrefix(name, ".") || name == "internal" || name == "testdata" || name == "examples") {
			return filepath.SkipDir
		}
		if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil && rel != "." {
			return filepath.SkipDir
		}
		pkg, err := system.ImportDir(path, 0)
		if _, none := err.(*build.NoGoError); none || err == nil && pkg.Name == "main" {
			return nil
		}
		if err != nil {
			return err
		}
		return writePackage(&out, path, filepath.ToSlash(rel), pkg.GoFiles)
	})
	return out.Bytes(), err
}

func writePackage(out *bytes.Buffer, dir, rel string, files []string) error {
	fset := token.NewFileSet()
	var texts []string
	for _, name := range files {
		f, err := parser.ParseFile(fset, filepath.Join(dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		nameEmbedded(f)
		if !ast.FileExports(f) {
			continue
		}
		for _, decl := range f.Decls {
			if !belongs(decl) {
				continue
			}
			var b bytes.Buffer
			if err := printer.Fprint(&b, fset, decl); err != nil {
				return err
			}
			// Blank lines stand where comments and unexported fields stood.
			var lines []string
			for l := range strings.Lines(b.String()) {
				if l = strings.TrimRight(l, " \t\n"); l != "" {
					lines = append(lines, l)
				}
			}
			text, err := format.Source([]byte(strings.Join(lines, "\n")))
			if err != nil {
				return err
			}
			texts = append(texts, string(text))
		}
	}
	slices.SortFunc(texts, func(a, b string) int { return strings.Compare(sortKey(a), sortKey(b)) })
	fmt.Fprintf(out, "\npackage %s/%s\n\n%s\n", module, rel, strings.Join(texts, "\n"))
	return nil
}

// sortKey puts constants and variables before types before functions.
func sortKey(text string) string {
	kind, _, _ := strings.Cut(text, " ")
	return map[string]string{"const": "1", "var": "2", "type": "3", "func": "4"}[kind] + text
}

// belongs strips decl of what is no part of the surface and reports whether
// anything is left.
func belongs(decl ast.Decl) bool {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		d.Body, d.Doc = nil, nil
		return d.Recv == nil || ast.IsExported(receiver(d.Recv.List[0].Type))
	case *ast.GenDecl:
		d.Doc = nil
		if d.Tok == token.IMPORT {
			return false
		}
		for _, spec := range d.Specs {
			if v, ok := spec.(*ast.ValueSpec); ok && d.Tok == token.VAR {
				for i := range v.Values {
					v.Values[i] = short(v.Values[i])
				}
			}
		}
		return len(d.Specs) > 0
	}
	return false
}

// short leaves of a variable's value what tells its type.
func short(e ast.Expr) ast.Expr {
	switch x := e.(type) {
	case *ast.UnaryExpr:
		x.X = short(x.X)
	case *ast.CompositeLit:
		x.Elts, x.Incomplete = nil, true
		x.Rbrace = x.Lbrace
	case *ast.FuncLit:
		return x.Type
	}
	return e
}

// nameEmbedded gives embedded generic types, such as Key[int64], a form that
// FileExports does not take for unexported.
func nameEmbedded(f *ast.File) {
	ast.Inspect(f, func(n ast.Node) bool {
		if field, ok := n.(*ast.Field); ok && len(field.Names) == 0 {
			if x, ok := field.Type.(*ast.IndexExpr); ok {
				field.Type = &ast.Ident{NamePos: x.Pos(), Name: types.ExprString(x)}
			}
		}
		return true
	})
}

func receiver(e ast.Expr) string {
	switch x := e.(type) {
	case *ast.StarExpr:
		return receiver(x.X)
	case *ast.IndexExpr:
		return receiver(x.X)
	case *ast.IndexListExpr:
		return receiver(x.X)
	case *ast.Ident:
		return x.Name
	}
	return ""
}
