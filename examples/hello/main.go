// Hello is an app of one module, without sessions: the first step of
// docs/session-guide.md.
package main

import (
	"fmt"
	"net/http"

	"github.com/crumb-go/crumb/app"
)

var helloWorld = &app.Module{
	Name: "helloworld",
	Setup: func(e *app.Env) error {
		e.HandleFunc("GET /{$}", show)
		return nil
	},
}

func show(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintln(w, "Hello, world")
}

func main() { app.Main(helloWorld) }
