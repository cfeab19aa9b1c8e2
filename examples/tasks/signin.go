package main

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"

	"github.com/crumb-go/crumb/session"
)

// private lets only signed-in users pass.
func private(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if session.From(r).User() == "" {
			http.Redirect(w, r, "/sign-in", http.StatusSeeOther)
			return
		}
		next(w, r)
	}
}

func showSignIn(w http.ResponseWriter, r *http.Request) {
	show(w, r, http.StatusOK, "sign-in", "")
}

func signIn(w http.ResponseWriter, r *http.Request) {
	if !isAnn(r.FormValue("name"), r.FormValue("password")) {
		show(w, r, http.StatusUnauthorized, "sign-in", "Name and password do not match.")
		return
	}
	s := session.From(r)
	s.SignIn("ann")
	if r.FormValue("remember") != "" {
		s.Remember()
	}
	flash.Set(s, "Welcome, ann.")
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func signOut(w http.ResponseWriter, r *http.Request) {
	session.From(r).SignOut()
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// isAnn knows one user, for the example. An app keeps a slow hash of each
// password, such as Argon2id, and limits the guesses.
func isAnn(name, password string) bool {
	got, want := sha256.Sum256([]byte(name+"\x00"+password)), sha256.Sum256([]byte("ann\x00breadcrumbs"))
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1
}
