package session_test

import (
	"os/exec"
	"strings"
	"testing"
)

func TestTheLibraryNeedsNothingButTheStandardLibrary(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "github.com/crumb-go/crumb/session").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(string(out)); len(got) != 1 || got[0] != "github.com/crumb-go/crumb/session" {
		t.Errorf("package session brings along %q", got)
	}
}
