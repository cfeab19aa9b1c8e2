// Login has a page for everybody and pages for signed-in users. It is the app of
// docs/login-guide.md.
package main

import (
	"context"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/login"
	"github.com/crumb-go/crumb/modules"
	"github.com/crumb-go/crumb/session"
)

var views = session.NewCounter("hello.views")

var diary = session.NewKey[string]("diary.text")

var helloWorld = &app.Module{
	Name:     "helloworld",
	Requires: []*app.Module{modules.Login},
	Setup: func(e *app.Env) error {
		e.HandleFunc("GET /{$}", show, modules.Public)
		e.HandleFunc("GET /diary", showDiary)
		e.HandleFunc("POST /diary", saveDiary)
		e.HandleFunc("POST /diary/burn", burnDiary, modules.Fresh)
		return app.Get[*login.Login](e).OnReset(mailLink)
	},
}

func show(w http.ResponseWriter, r *http.Request) {
	if u := login.CurrentUser(r); u != nil {
		fmt.Fprintf(w, "Hello, %s\n", u.Name)
	}
	fmt.Fprintf(w, "You've seen this page %d times\n", views.Add(session.From(r), 1))
}

var page = template.Must(template.New("diary").Parse(`<!doctype html>
<html lang="en">
<title>Diary</title>
<h1>The diary of {{.User.Name}}</h1>
<form method="post" action="/diary">
<label for="text">Today</label> <input id="text" name="text" value="{{.Text}}"> <button>Keep</button>
</form>
<form method="post" action="/diary/burn"><button>Burn it</button></form>
<form method="post" action="/logout"><button>Sign out</button></form>
`))

func showDiary(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	page.Execute(w, map[string]any{"User": login.CurrentUser(r), "Text": diary.Get(session.From(r))})
}

func saveDiary(w http.ResponseWriter, r *http.Request) {
	diary.Set(session.From(r), r.FormValue("text"))
	http.Redirect(w, r, "/diary", http.StatusSeeOther)
}

func burnDiary(w http.ResponseWriter, r *http.Request) {
	diary.Delete(session.From(r))
	http.Redirect(w, r, "/diary", http.StatusSeeOther)
}

// mailLink is where an app sends mail. This one only says whom it would write to:
// a log is no place for the link.
func mailLink(ctx context.Context, u login.User, link string) error {
	slog.InfoContext(ctx, "a link to set a new password is to be sent", "to", u.Name)
	return nil
}

func main() { app.Main(helloWorld) }
