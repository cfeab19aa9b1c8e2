package main

import (
	"net/http"

	"github.com/crumb-go/crumb/session"
)

var (
	flash = session.NewKey[string]("page.flash")
	note  = session.NewKey[string]("page.note")
)

func saveNote(w http.ResponseWriter, r *http.Request) {
	s := session.From(r)
	note.Set(s, r.FormValue("note"))
	flash.Set(s, "Saved.")
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func home(w http.ResponseWriter, r *http.Request) {
	s := session.From(r)
	msg, _ := flash.Pop(s) // read once
	show(w, r, http.StatusOK, "home", map[string]any{
		"Flash": msg, "Note": note.Get(s), "Unavailable": s.Err() != nil,
	})
}
