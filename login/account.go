package login

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/crumb-go/crumb/session"
)

// notice is what the next page says, once.
var notice = session.NewKey[string]("login.notice")

func (l *Login) showAccount(w http.ResponseWriter, r *http.Request) {
	l.show(w, r, http.StatusOK, "account", Page{Title: "Your account"})
}

func (l *Login) showRegister(w http.ResponseWriter, r *http.Request) {
	l.show(w, r, http.StatusOK, "register", Page{Title: "Make an account", Next: local(r.FormValue("next"))})
}

// registerUser adds a user and signs them in: they typed the password just now.
func (l *Login) registerUser(w http.ResponseWriter, r *http.Request) {
	name, next := r.PostFormValue("name"), local(r.PostFormValue("next"))
	again := func(field, alert string) {
		p := Page{Title: "Make an account", Next: next, Alert: alert, Field: field}
		if len(name) <= 255 {
			p.Name = name
		}
		l.show(w, r, http.StatusUnprocessableEntity, "register", p)
	}
	u, err := l.register(r.Context(), name, r.PostFormValue("password"))
	var rule *PasswordError
	switch {
	case err == nil:
	case errors.Is(err, ErrNameTaken):
		again("name", "That name is taken.")
		return
	case errors.Is(err, errBadName):
		again("name", "That name cannot be used. Letters, digits and most marks can; blanks cannot.")
		return
	case errors.As(err, &rule):
		again("password", rule.text())
		return
	default:
		if !l.throttledOrDown(w, r, err) {
			again("name", wrongText)
		}
		return
	}
	l.tell(r, AuditEntry{Event: AuditRegister, Result: AuditOK, UserID: u.ID, Name: u.Name})
	if err := l.enter(w, r, u, false); err != nil {
		if !l.throttledOrDown(w, r, err) {
			http.Redirect(w, r, "/login", http.StatusSeeOther)
		}
		return
	}
	l.tell(r, AuditEntry{Event: AuditSignIn, Result: AuditOK, UserID: u.ID, Name: u.Name})
	l.setDevice(w, u)
	http.Redirect(w, r, next, http.StatusSeeOther)
}

// text says the rule to the person who broke it.
func (e *PasswordError) text() string {
	switch e.Rule {
	case TooShort:
		return fmt.Sprintf("The password needs at least %d characters. A few words in a row make a good one.", e.Limit)
	case TooLong:
		return fmt.Sprintf("The password can have at most %d characters.", e.Limit)
	case Common:
		return "That password is among the first that others try. Choose another."
	case Context:
		return "A password that holds the name is among the first that others try. Choose another."
	}
	return "That password cannot be typed again reliably. Choose another."
}

func (l *Login) showPassword(w http.ResponseWriter, r *http.Request) {
	l.show(w, r, http.StatusOK, "password", Page{Title: "Change your password"})
}

// changePassword ends all sessions of the user but this one, which gets a new
// token.
func (l *Login) changePassword(w http.ResponseWriter, r *http.Request) {
	v := visitOf(r, "the change of a password")
	u, _ := v.who(r) // Require has seen to it
	again := func(field, alert string) {
		l.show(w, r, http.StatusUnprocessableEntity, "password", Page{Title: "Change your password", Alert: alert, Field: field})
	}
	_, err := l.verifyCurrent(r.Context(), u, r.PostFormValue("current"), l.device(r), l.addr(r))
	if err != nil {
		l.failed(r, AuditPasswordChange, u, u.Name, err)
		if !l.throttledOrDown(w, r, err) {
			again("current", "That is not your current password.")
		}
		return
	}
	changed, err := l.setPassword(r.Context(), u, r.PostFormValue("password"))
	if rule := (*PasswordError)(nil); errors.As(err, &rule) {
		again("password", rule.text())
		return
	}
	if err == nil {
		err = l.enter(w, r, changed, false)
	}
	if err == nil {
		_, err = l.cfg.Sessions.RevokeUser(r.Context(), u.ID, session.From(r).ID())
	}
	if err != nil {
		if !l.throttledOrDown(w, r, err) {
			http.Redirect(w, r, "/login", http.StatusSeeOther) // disabled, or changed elsewhere, meanwhile
		}
		return
	}
	l.tell(r, AuditEntry{Event: AuditPasswordChange, Result: AuditOK, UserID: u.ID, Name: u.Name})
	l.setDevice(w, changed) // the old one went with the old password
	notice.Set(session.From(r), "Your password is changed. Wherever else you were signed in, you are signed out.")
	http.Redirect(w, r, "/account", http.StatusSeeOther)
}

func (l *Login) showDelete(w http.ResponseWriter, r *http.Request) {
	l.show(w, r, http.StatusOK, "delete", Page{Title: "Delete your account"})
}

// deleteAccount deletes the users row first: it is the authority, and no sign-in
// under way gets past it.
func (l *Login) deleteAccount(w http.ResponseWriter, r *http.Request) {
	v := visitOf(r, "the deletion of an account")
	u, _ := v.who(r) // Require has seen to it
	if _, err := l.verifyCurrent(r.Context(), u, r.PostFormValue("current"), l.device(r), l.addr(r)); err != nil {
		l.failed(r, AuditUserDeleted, u, u.Name, err)
		if !l.throttledOrDown(w, r, err) {
			l.show(w, r, http.StatusUnprocessableEntity, "delete", Page{
				Title: "Delete your account", Alert: "That is not your current password.", Field: "current",
			})
		}
		return
	}
	id := session.From(r).ID()
	err := l.users.(Deleter).Delete(r.Context(), u.ID)
	if err == nil {
		err = l.endAll(r, u)
	}
	if err != nil {
		l.unavailable(w, r, err)
		return
	}
	l.tell(r, AuditEntry{Event: AuditUserDeleted, Result: AuditOK, UserID: u.ID, Name: u.Name, Session: id})
	w.Header().Set("Clear-Site-Data", `"cache"`)
	l.message(w, r, http.StatusOK, Page{Title: "Your account is deleted", Notice: "You are signed out everywhere. What the account was is gone."})
}
