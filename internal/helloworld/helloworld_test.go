package helloworld

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/crumb-go/crumb/app"
)

func TestViewsAreCounted(t *testing.T) {
	for args, secure := range map[string]bool{"": false, "--public-url=http://localhost": false, "--public-url=https://shop.example": true} {
		a, err := app.New(app.Options{Args: append([]string{"--database=memory:", "--secret-key-file=" + filepath.Join(t.TempDir(), "keys")}, strings.Fields(args)...)}, Module)
		if err != nil {
			t.Fatal(err)
		}
		h, err := a.Start(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var cookie []string
		for i, c := range []struct{ accept, want string }{
			{"*/*", "You've seen this page 1 times\n"},
			{"text/html", "<strong>2 times</strong>"},
			{"", "You've seen this page 3 times\n"},
		} {
			r := httptest.NewRequest("GET", "http://localhost/", nil)
			r.Header = http.Header{"Accept": {c.accept}, "Cookie": cookie}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != 200 || !strings.Contains(w.Body.String(), c.want) {
				t.Errorf("view %d: %d %s", i+1, w.Code, w.Body)
			}
			if got := w.Header().Get("Strict-Transport-Security") != ""; got != secure {
				t.Errorf("with %q HSTS is %t", args, got)
			}
			if i == 0 {
				line, _, _ := strings.Cut(w.Header().Get("Set-Cookie"), ";")
				cookie = []string{line}
			}
		}
		if err := a.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
