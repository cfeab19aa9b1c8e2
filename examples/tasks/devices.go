package main

import (
	"errors"
	"net/http"

	"github.com/crumb-go/crumb/session"
)

type device struct {
	session.Info
	This bool
}

func listDevices(m *session.Manager) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		me := session.From(r)
		var list []device
		for in, err := range m.List(r.Context(), session.Query{User: me.User()}) {
			if err != nil {
				tryLater(w, err)
				return
			}
			list = append(list, device{in, in.ID == me.ID()})
		}
		show(w, r, http.StatusOK, "devices", list)
	}
}

// endDevice ends one of the user's own sessions. Another user's ID is as unknown
// as one that never was.
func endDevice(m *session.Manager) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		me := session.From(r)
		id := session.ID(r.PathValue("id"))
		if id == me.ID() {
			signOut(w, r)
			return
		}
		in, err := m.Info(r.Context(), id)
		switch {
		case errors.Is(err, session.ErrNotFound), err == nil && in.User != me.User():
			http.NotFound(w, r)
			return
		case err == nil:
			err = m.Revoke(r.Context(), id)
		}
		if err != nil {
			tryLater(w, err)
			return
		}
		http.Redirect(w, r, "/devices", http.StatusSeeOther)
	}
}

// endOthers ends the user's other sessions. A change of password does the same,
// and calls SignIn again, so that this session gets a new token.
func endOthers(m *session.Manager) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		me := session.From(r)
		if _, err := m.RevokeUser(r.Context(), me.User(), me.ID()); err != nil {
			tryLater(w, err)
			return
		}
		http.Redirect(w, r, "/devices", http.StatusSeeOther)
	}
}
