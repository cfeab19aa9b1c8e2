package login

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/netip"

	"github.com/crumb-go/crumb/session"
)

// A Page is what the templates get. The files are layout.html, which defines
// "top", "bottom", "alert" and "token" for the others, style.css, and one for each
// page: signin, register, forgot, reset, account, password, sessions, delete and
// message, all .html. A file of this name in [Config.Pages] replaces ours; one that
// has forms writes {{template "token" .}} into each.
type Page struct {
	App, Title string
	Style      template.CSS

	User *User // who is signed in, or nil

	Alert  string // what went wrong, to be read out at once
	Field  string // the name of the input that Alert is about, or ""
	Notice string // what went well

	Name       string // as it was typed
	Next       string // where to go on, a path of this site
	Remember   bool   // as it was chosen
	FormToken  string // for the field form_token, or ""
	ResetToken string // for the field token of the page reset

	StepUp      bool // signin: who is signed in confirms it
	Sent        bool // forgot: a link was asked for
	CanMail     bool // forgot: links are sent
	CanRegister bool
	CanDelete   bool
	MinPassword int

	Devices []Device // sessions: that of the request first
}

//go:embed pages
var ownPages embed.FS

var pageNames = []string{"signin", "register", "forgot", "reset", "account", "password", "sessions", "delete", "message"}

// pages are the templates, each with the layout.
type pages struct {
	templates map[string]*template.Template
	style     template.CSS
	policy    string
}

func newPages(theirs fs.FS) (*pages, error) {
	own, err := fs.Sub(ownPages, "pages")
	if err != nil {
		return nil, err
	}
	read := func(name string) (string, error) {
		if theirs != nil {
			text, err := fs.ReadFile(theirs, name)
			if err == nil || !errors.Is(err, fs.ErrNotExist) {
				return string(text), err
			}
		}
		text, err := fs.ReadFile(own, name)
		return string(text), err
	}
	style, err := read("style.css")
	if err != nil {
		return nil, err
	}
	layout, err := read("layout.html")
	if err != nil {
		return nil, err
	}
	p := &pages{templates: map[string]*template.Template{}, style: template.CSS(style)}
	for _, name := range pageNames {
		text, err := read(name + ".html")
		if err != nil {
			return nil, err
		}
		t, err := template.New(name).Parse(layout)
		if err == nil {
			t, err = t.Parse(text)
		}
		if err != nil {
			return nil, err
		}
		p.templates[name] = t
	}
	// The style is part of each page, and allowed by its hash.
	sum := sha256.Sum256([]byte(style))
	p.policy = "default-src 'self'; object-src 'none'; style-src 'self' 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; img-src 'self' data:; " +
		"frame-ancestors 'none'; form-action 'self'; base-uri 'none'"
	return p, nil
}

// show writes a page, with what all of them need.
func (l *Login) show(w http.ResponseWriter, r *http.Request, status int, name string, p Page) {
	if v, ok := r.Context().Value(contextKey{}).(*visit); ok {
		p.User, _ = v.who(r)
		p.FormToken = FormToken(r)
		if msg, ok := notice.Pop(session.From(r)); ok && p.Notice == "" {
			p.Notice = msg
		}
	}
	l.write(w, r, status, name, p)
}

// message writes a page that only says something. It asks nobody who they are: it
// is for when that cannot be told, too.
func (l *Login) message(w http.ResponseWriter, r *http.Request, status int, p Page) {
	l.write(w, r, status, "message", p)
}

// pageStep is what pages that repeat what was typed are filled up to a multiple
// of, so that their length tells nothing.
const pageStep = 4096

func (l *Login) write(w http.ResponseWriter, r *http.Request, status int, name string, p Page) {
	p.App, p.Style = l.cfg.AppName, l.pages.style
	p.CanRegister, p.CanDelete, p.MinPassword = l.canRegister(), l.canDelete(), l.cfg.MinPassword
	var body bytes.Buffer
	if err := l.pages.templates[name].Execute(&body, p); err != nil {
		l.cfg.Logger.ErrorContext(r.Context(), "login: a page cannot be shown", "page", name, "err", err)
		http.Error(w, "Something went wrong on our side.", http.StatusInternalServerError)
		return
	}
	if status == http.StatusUnprocessableEntity {
		fill := pageStep - body.Len()%pageStep
		body.Write(bytes.Repeat([]byte("\n"), fill))
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", l.pages.policy)
	h.Set("X-Content-Type-Options", "nosniff")
	if h.Get("Referrer-Policy") == "" {
		h.Set("Referrer-Policy", "same-origin")
	}
	if !l.cfg.Insecure {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
	w.WriteHeader(status)
	_, _ = body.WriteTo(w)
}

// addr is the address of the client, as the sessions know it.
func (l *Login) addr(r *http.Request) netip.Addr { return l.cfg.Sessions.Addr(r) }

// numbered returns n of a thing, such as "1 minute" and "2 minutes".
func numbered(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
