package modules_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/modules"
	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
)

var views = session.NewCounter("hello.views")

func hello(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "You've seen this page %d times\n", views.Add(session.From(r), 1))
}

// A store of one's own: a module that provides it, and a copy of Session that
// requires this module in place of Database.
func ExampleSession_store() {
	myStore := &app.Module{
		Name: "mystore",
		Setup: func(e *app.Env) error {
			var st session.Store = memory.New() // your own
			e.Provide(st)
			return nil
		},
	}
	sessions := *modules.Session
	sessions.Requires = []*app.Module{myStore}
	pages := &app.Module{
		Name:     "pages",
		Requires: []*app.Module{&sessions},
		Setup: func(e *app.Env) error {
			e.HandleFunc("GET /{$}", hello)
			return nil
		},
	}

	a, err := app.New(app.Options{}, pages)
	if err != nil {
		panic(err)
	}
	h, err := a.Start(context.Background())
	if err != nil {
		panic(err)
	}
	defer a.Stop(context.Background())
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "http://localhost/", nil))
	fmt.Print(w.Body)
	// Output: You've seen this page 1 times
}
