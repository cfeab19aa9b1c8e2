package main

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/crumb-go/crumb/app"
)

func TestEachVisitorHasACount(t *testing.T) {
	a, err := app.New(app.Options{Args: []string{"--database=memory:"}}, helloWorld)
	if err != nil {
		t.Fatal(err)
	}
	h, err := a.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	visit := func(cookie string) (text, next string) {
		r := httptest.NewRequest("GET", "http://localhost/", nil)
		r.Header.Set("Cookie", cookie)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		next, _, _ = strings.Cut(w.Header().Get("Set-Cookie"), ";")
		return w.Body.String(), next
	}
	first, ann := visit("")
	second, again := visit(ann)
	other, bob := visit("")
	if first != "You've seen this page 1 times\n" || second != "You've seen this page 2 times\n" || other != first {
		t.Errorf("%q, %q; another visitor: %q", first, second, other)
	}
	if ann == "" || again != "" || bob == "" || ann == bob {
		t.Errorf("cookies: %q, then %q; another visitor: %q", ann, again, bob)
	}
	if err := a.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
