// Helloworld counts each visitor's views. It is the app of docs/session-guide.md.
package main

import (
	"fmt"
	"net/http"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/modules"
	"github.com/crumb-go/crumb/session"
)

var views = session.NewCounter("hello.views")

var helloWorld = &app.Module{
	Name:     "helloworld",
	Requires: []*app.Module{modules.Session},
	Setup: func(e *app.Env) error {
		e.HandleFunc("GET /{$}", show)
		return nil
	},
}

func show(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "You've seen this page %d times\n", views.Add(session.From(r), 1))
}

func main() { app.Main(helloWorld) }
