// Slowapp is crumb serve with routes that the tests of the command need: one
// that ends only when told to, ones that only look, and ones that sign in and end
// sessions.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/modules"
	"github.com/crumb-go/crumb/session"
)

var views = session.NewCounter("hello.views")

var slowApp = &app.Module{
	Name:     "slowapp",
	Requires: []*app.Module{modules.Session},
	Setup: func(e *app.Env) error {
		e.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { count(w, session.From(r)) })
		e.HandleFunc("GET /look", func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%d %s\n", views.Get(session.From(r)), session.From(r).User())
		})
		e.HandleFunc("GET /optional", func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%d %s\n", views.Get(session.From(r)), session.From(r).User())
		}, modules.Optional)
		e.HandleFunc("POST /signin", func(w http.ResponseWriter, r *http.Request) {
			session.From(r).SignIn(r.URL.Query().Get("user"))
		})
		e.HandleFunc("POST /signout", func(w http.ResponseWriter, r *http.Request) {
			s := session.From(r)
			s.SignOut()
			if err := s.Commit(r.Context()); err != nil && !errors.Is(err, session.ErrEnded) {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
			}
		})
		m := app.Get[*session.Manager](e)
		e.HandleFunc("POST /revoke", func(w http.ResponseWriter, r *http.Request) {
			if err := m.Revoke(r.Context(), session.ID(r.URL.Query().Get("id"))); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
			}
		})

		// A slow request says on stdout that it began, and ends at a line on stdin.
		lines := make(chan struct{})
		e.HandleFunc("GET /slow", func(w http.ResponseWriter, r *http.Request) {
			s := session.From(r)
			views.Add(s, 1)
			fmt.Println("begun")
			<-lines
			count(w, s)
		})
		go func() {
			for in := bufio.NewReader(os.Stdin); ; lines <- struct{}{} {
				if _, err := in.ReadString('\n'); err != nil {
					return
				}
			}
		}()
		return nil
	},
}

func count(w io.Writer, s *session.Session) { fmt.Fprintf(w, "%d\n", views.Add(s, 1)) }

func main() { app.Main(slowApp) }
