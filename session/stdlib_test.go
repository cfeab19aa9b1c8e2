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
	for _, got := range strings.Fields(string(out)) {
		if !strings.HasPrefix(got, "github.com/crumb-go/crumb/") {
			t.Errorf("package session brings along %q", got)
		}
	}
}
