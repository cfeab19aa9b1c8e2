// Loginown signs in the users of a table that the app has already.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"slices"

	_ "modernc.org/sqlite"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/login"
	"github.com/crumb-go/crumb/modules"
)

var myUsers = &app.Module{
	Name:   "people",
	Config: peopleConfig{File: "people.db"},
	Setup: func(e *app.Env) error {
		db, err := sql.Open("sqlite", app.ConfigOf[peopleConfig](e).File)
		if err != nil {
			return err
		}
		e.OnStop(func(context.Context) error { return db.Close() })
		if _, err := db.ExecContext(e.Context(), schema); err != nil {
			return err
		}
		e.Provide(people{db}) // a login.Users
		return nil
	},
}

type peopleConfig struct {
	File string `toml:"file" help:"SQLite file with the app's own users"`
}

var accounts = func() *app.Module {
	m := *modules.Login
	m.Requires = append(slices.Clone(m.Requires), myUsers)
	return &m
}()

var pages = &app.Module{
	Name:     "pages",
	Requires: []*app.Module{accounts},
	Setup: func(e *app.Env) error {
		e.HandleFunc("GET /{$}", private)
		return nil
	},
}

func private(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "Hello, %s\n", login.CurrentUser(r).Name)
}

func main() { app.Main(pages) }
