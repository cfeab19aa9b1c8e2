package sessiontest_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/session/sessiontest"
)

var views = session.NewCounter("hello.views")

func hello(w http.ResponseWriter, r *http.Request) {
	s := session.From(r)
	fmt.Fprintf(w, "Hello %s, you've seen this page %d times\n", s.User(), views.Add(s, 1))
}

func Example() {
	r := sessiontest.NewRequest("GET", "/", nil)
	s := session.From(r)
	s.SignIn("doug")
	views.Set(s, 41)
	w := httptest.NewRecorder()

	hello(w, r)

	fmt.Print(w.Body)
	fmt.Println(views.Get(s))
	// Output:
	// Hello doug, you've seen this page 42 times
	// 42
}

func TestASessionForTestsDoesAllThatAHandlersDoes(t *testing.T) {
	r := sessiontest.NewRequest("POST", "/", nil)
	s := session.From(r)
	views.Add(s, 2)
	if err := s.Commit(t.Context()); err != nil || s.ID() == "" {
		t.Fatalf("Commit: %v, ID %q; want it stored", err, s.ID())
	}
	if v, err := views.Update(t.Context(), s, func(n int64) (int64, error) { return n * 21, nil }); err != nil || v != 42 {
		t.Fatalf("Update = %d, %v; want 42", v, err)
	}
	if v, ok, err := views.Take(t.Context(), s); err != nil || !ok || v != 42 {
		t.Fatalf("Take = %d, %v, %v; want 42", v, ok, err)
	}
	s.SignIn("doug")
	if err := s.Commit(t.Context()); err != nil || s.Info().User != "doug" || s.Info().SignedIn.IsZero() {
		t.Fatalf("SignIn: %v, %+v", err, s.Info())
	}
	s.SignOut()
	if err := s.Commit(t.Context()); err != nil || s.User() != "" || s.ID() != "" {
		t.Fatalf("SignOut: %v, %+v; want an empty session", err, s.Info())
	}
}
