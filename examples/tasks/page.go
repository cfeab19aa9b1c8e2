package main

import (
	"bytes"
	"embed"
	"errors"
	"html/template"
	"log"
	"net/http"

	"github.com/crumb-go/crumb/session"
)

//go:embed static
var files embed.FS

//go:embed page.html
var pageText string

var pages = template.Must(template.New("page").Parse(pageText))

func static(w http.ResponseWriter, r *http.Request) {
	http.FileServerFS(files).ServeHTTP(w, r)
}

// show writes the page called name. html/template escapes what visitors typed.
func show(w http.ResponseWriter, r *http.Request, status int, name string, data any) {
	var body bytes.Buffer
	user := ""
	if s, ok := session.FromContext(r.Context()); ok {
		user = s.User()
	}
	if err := pages.ExecuteTemplate(&body, name, map[string]any{"User": user, "Data": data}); err != nil {
		log.Print(err)
		http.Error(w, "Something went wrong on our side.", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store") // pages are the visitor's own
	h.Set("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(body.Bytes())
}

// tryLater answers when the store does not, or when what was to be kept cannot be:
// that will not be better later.
func tryLater(w http.ResponseWriter, err error) {
	log.Print(err)
	if _, ok := errors.AsType[*session.ValueError](err); ok {
		http.Error(w, "We cannot keep that.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Retry-After", "5")
	http.Error(w, "Please try again in a few seconds.", http.StatusServiceUnavailable)
}
