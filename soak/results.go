package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// Figures are what a part found.
type figures struct {
	What    string
	Done    bool
	Date    string
	Command string
	Took    time.Duration
	Machine string
	Rows    []row          // of the table
	Log     string         `json:",omitempty"` // an excerpt, if the part has one
	Count   map[string]int // what a part that goes on later has reached
	Samples any            `json:",omitempty"`
}

// A row is a figure and what it is.
type row struct {
	Name, Value string
}

func (f *figures) add(name, format string, args ...any) {
	f.Rows = append(f.Rows, row{name, fmt.Sprintf(format, args...)})
}

// count adds to what the part has reached.
func (f *figures) count(name string, n int) {
	if f.Count == nil {
		f.Count = map[string]int{}
	}
	f.Count[name] += n
}

// Results are the figures of all parts that ran.
type results struct {
	path  string
	Parts map[string]*figures
}

func readResults(dir string) (*results, error) {
	r := &results{path: filepath.Join(dir, "results.json"), Parts: map[string]*figures{}}
	text, err := os.ReadFile(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(text, r)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w; move it away to begin anew", r.path, err)
	}
	return r, nil
}

// keep writes the figures of a part to the folder. The other parts are read
// again: another run may have finished one.
func (r *results) keep(name string, f *figures) error {
	if now, err := readResults(filepath.Dir(r.path)); err == nil {
		r.Parts = now.Parts
	}
	f.Date = time.Now().UTC().Format("2006-01-02")
	f.Command = "go run . " + strings.Join(os.Args[1:], " ")
	f.Machine = fmt.Sprintf("%d cores, %s, %s/%s", runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	r.Parts[name] = f
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.path+".new", text, 0o644); err != nil {
		return err
	}
	return os.Rename(r.path+".new", r.path)
}

// report writes the table.
func (r *results) report(w io.Writer) error {
	var b strings.Builder
	for _, p := range parts {
		f := r.Parts[p.name]
		if f == nil {
			continue
		}
		state := ""
		if !f.Done {
			state = ", not finished"
		}
		fmt.Fprintf(&b, "\n%s (%s, %v%s; `%s`)\n\n| what | figure |\n|---|---|\n", f.What, f.Date, f.Took, state, f.Command)
		for _, row := range f.Rows {
			fmt.Fprintf(&b, "| %s | %s |\n", row.Name, row.Value)
		}
		if f.Log != "" {
			fmt.Fprintf(&b, "\n```\n%s```\n", f.Log)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
