// Package helloworld is the app that crumb serve runs: a page that counts each
// visitor's views, as text and as HTML.
package helloworld

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"strings"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/modules"
	"github.com/crumb-go/crumb/session"
)

var views = session.NewCounter("hello.views")

// Module is the Hello World. It requires the module that tracks visitors, which
// brings sessions and the database along.
var Module = &app.Module{
	Name:     "helloworld",
	Requires: []*app.Module{modules.Track},
	Setup: func(e *app.Env) error {
		server := e.Server()
		https := server.TLS() || strings.HasPrefix(server.PublicURL, "https://")
		e.HandleFunc("GET /{$}", show(https))
		e.HandleFunc("GET /about", about(https))
		return nil
	},
}

var (
	//go:embed page.html
	pageText string
	//go:embed page.css
	style string
	//go:embed about.html
	aboutText string
	page      = template.Must(template.New("page").Parse(pageText))
	aboutPage = template.Must(template.New("about").Parse(aboutText))
	// The style is part of the page and allowed by its hash, so that nothing else is.
	policy = "default-src 'none'; style-src 'sha256-" + hash(style) + "'; img-src data:; " +
		"frame-ancestors 'none'; form-action 'self'; base-uri 'none'"
)

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func show(https bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s := session.From(r)
		n := views.Add(s, 1)
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Vary", "Accept")
		h.Set("X-Content-Type-Options", "nosniff")
		if https {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		if !strings.Contains(r.Header.Get("Accept"), "text/html") {
			h.Set("Content-Type", "text/plain; charset=utf-8")
			fmt.Fprintf(w, "You've seen this page %s\n", times(n))
			return
		}
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", policy)
		h.Set("Referrer-Policy", "same-origin")
		in := s.Info()
		_ = page.Execute(w, map[string]any{
			"N": n, "Times": times(n), "ID": in.ID, "Since": in.Created.Format("2 January 2006, 15:04 MST"), "Known": in.ID != "",
			"Style": template.CSS(style),
		})
	}
}

// about is a page that leaves the session alone: it is tracked all the same.
func about(https bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Vary", "Accept")
		if https {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		if !strings.Contains(r.Header.Get("Accept"), "text/html") {
			h.Set("Content-Type", "text/plain; charset=utf-8")
			fmt.Fprintln(w, "This page writes nothing to your session.")
			return
		}
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", policy)
		h.Set("Referrer-Policy", "same-origin")
		_ = aboutPage.Execute(w, map[string]any{"Style": template.CSS(style)})
	}
}

func times(n int64) string { return fmt.Sprintf("%d times", n) }
