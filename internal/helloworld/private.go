package helloworld

import (
	_ "embed"
	"html/template"
	"net/http"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/login"
	"github.com/crumb-go/crumb/modules"
	"github.com/crumb-go/crumb/session"
)

// Login is [modules.Login], which crumb serve has off until --login or [login]
// enabled says otherwise.
var Login = func() *app.Module {
	m := *modules.Login
	cfg := m.Config.(modules.LoginConfig)
	cfg.Enabled = false
	m.Config = cfg
	return &m
}()

// Private is a page for signed-in users.
var Private = &app.Module{
	Name:     "private",
	Requires: []*app.Module{Login},
	Setup: func(e *app.Env) error {
		e.HandleFunc("GET /private", showPrivate)
		return nil
	},
}

// Modules returns the modules of crumb serve under these settings. Without login
// its settings are known all the same, and nothing of it is opened.
func Modules(opts app.Options) []*app.Module {
	all := []*app.Module{Module, Private}
	a, err := app.New(opts, all...)
	if err != nil || a.Config(Login.Name).(modules.LoginConfig).Enabled {
		return all // whoever runs them meets the same error
	}
	return []*app.Module{Module, {Name: Login.Name, Config: Login.Config}}
}

var (
	//go:embed private.html
	privateText string
	privatePage = template.Must(template.New("private").Parse(privateText))
)

func showPrivate(w http.ResponseWriter, r *http.Request) {
	in := session.From(r).Info()
	data := map[string]any{
		"User": login.CurrentUser(r), "ID": in.ID, "SignedIn": in.SignedIn.Format("2 January 2006, 15:04 MST"),
		"FormToken": login.FormToken(r), "Style": template.CSS(style),
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", policy)
	h.Set("Referrer-Policy", "same-origin")
	h.Set("X-Content-Type-Options", "nosniff")
	_ = privatePage.Execute(w, data)
}
