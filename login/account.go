package login

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/crumb-go/crumb/session"
)

// notice is what the next page says, once.
var notice = session.NewKey[string]("login.notice")

func (l *Login) showAccount(w http.ResponseWriter, r *http.Request) {
	l.show(w, r, http.StatusOK, "account", Page{Title: "Your account"})
}

func (l *Login) showRegister(w http.ResponseWriter, r *http.Request) {
	l.show(w, r, http.StatusOK, "register", Page{Title: "Make an account", Next: local(r.URL.Query().Get("next"))})
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
	if err := l.enter(r.Context(), r, u, false); err != nil {
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
	if err := l.confirm(r, u, r.PostFormValue("current")); err != nil {
		l.failed(r, AuditPasswordChange, u, u.Name, err)
		if !l.throttledOrDown(w, r, err) {
			again("current", "That is not your current password.")
		}
		return
	}
	password := r.PostFormValue("password")
	changed, err := l.setPassword(r.Context(), u, password)
	if rule := (*PasswordError)(nil); errors.As(err, &rule) {
		again("password", rule.text())
		return
	}
	if errors.Is(err, ErrChanged) {
		l.changedMeanwhile(w, r, u, password)
		return
	}
	if err != nil {
		l.throttledOrDown(w, r, err)
		return
	}
	ctx, cancel := settled(r)
	defer cancel()
	// First, for until then another request of this browser finds the session over.
	entered := l.enter(ctx, r, changed, false)
	l.tell(r, AuditEntry{Event: AuditPasswordChange, Result: AuditOK, UserID: u.ID, Name: u.Name})
	_, revoked := l.cfg.Sessions.RevokeUser(ctx, u.ID, session.From(r).ID())
	switch {
	case errors.Is(entered, errWrong): // disabled, or changed elsewhere, meanwhile
		http.Redirect(w, r, "/login", http.StatusSeeOther)
	case entered != nil || revoked != nil:
		l.halfDone(w, r, "Your password is changed", errors.Join(entered, revoked))
	default:
		l.passwordChanged(w, r, changed)
	}
}

// settled is the context of what follows once a users row is written: that is done
// to its end, whether or not the client stays.
func settled(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(r.Context()), settleTime)
}

const settleTime = 15 * time.Second

// halfDone answers that a users row is written, and what follows failed. The
// sessions that live on are worth nothing to a route that asks who is signed in.
func (l *Login) halfDone(w http.ResponseWriter, r *http.Request, done string, err error) {
	l.cfg.Logger.ErrorContext(r.Context(), "login: a users row is written, and the sessions of the user could not all be ended or renewed", "path", r.URL.Path, "err", err)
	l.message(w, r, http.StatusServiceUnavailable, Page{
		Title: done, Alert: "That is done. But not all that goes with it could be done right now: you may be asked to sign in again, and other devices may still show that you are signed in.",
	})
}

func (l *Login) passwordChanged(w http.ResponseWriter, r *http.Request, u *User) {
	l.setDevice(w, u) // the old one went with the old password
	notice.Set(session.From(r), "Your password is changed. Wherever else you were signed in, you are signed out.")
	http.Redirect(w, r, "/account", http.StatusSeeOther)
}

// changedMeanwhile answers a change of password that came second. If what it asks
// for is done, as after a double click, it only has to sign this browser in again:
// the answer that did so may be lost. Whoever knows the former password alone is
// out.
func (l *Login) changedMeanwhile(w http.ResponseWriter, r *http.Request, u *User, password string) {
	now, err := l.users.ByID(r.Context(), u.ID)
	if errors.Is(err, ErrNoUser) {
		err = errWrong
	}
	if err == nil {
		err = l.confirm(r, now, password)
	}
	if err == nil {
		err = l.enter(r.Context(), r, now, false)
	}
	if err != nil {
		l.failed(r, AuditPasswordChange, u, u.Name, err)
		if !l.throttledOrDown(w, r, err) {
			http.Redirect(w, r, "/login", http.StatusSeeOther)
		}
		return
	}
	l.passwordChanged(w, r, now)
}

// confirm verifies the password of the user of r.
func (l *Login) confirm(r *http.Request, u *User, password string) error {
	_, err := l.verifyCurrent(r.Context(), u, password, l.device(r), l.addr(r))
	return err
}

// inTurn has one request of a session at a time run next. A second click on a
// button would find the try of the first one counted, and be told to wait.
func (l *Login) inTurn(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, mine := session.From(r).ID(), make(chan struct{})
		for {
			other, busy := l.turns.LoadOrStore(id, mine)
			if !busy {
				break
			}
			select {
			case <-other.(chan struct{}):
			case <-r.Context().Done():
				return
			}
		}
		defer close(mine)
		defer l.turns.Delete(id)
		next(w, r)
	}
}

func (l *Login) showDelete(w http.ResponseWriter, r *http.Request) {
	l.show(w, r, http.StatusOK, "delete", Page{Title: "Delete your account"})
}

// deleteAccount deletes the users row first: it is the authority, and no sign-in
// under way gets past it.
func (l *Login) deleteAccount(w http.ResponseWriter, r *http.Request) {
	v := visitOf(r, "the deletion of an account")
	u, _ := v.who(r) // Require has seen to it
	if err := l.confirm(r, u, r.PostFormValue("current")); err != nil {
		l.failed(r, AuditUserDeleted, u, u.Name, err)
		if !l.throttledOrDown(w, r, err) {
			l.show(w, r, http.StatusUnprocessableEntity, "delete", Page{
				Title: "Delete your account", Alert: "That is not your current password.", Field: "current",
			})
		}
		return
	}
	ctx, cancel := settled(r)
	defer cancel()
	err := l.users.(Deleter).Delete(ctx, u.ID, u.Generation)
	if errors.Is(err, ErrChanged) {
		if _, err = l.users.ByID(ctx, u.ID); err == nil {
			http.Redirect(w, r, "/login", http.StatusSeeOther) // the password is another by now
			return
		}
	}
	if err == nil {
		l.tell(r, AuditEntry{Event: AuditUserDeleted, Result: AuditOK, UserID: u.ID, Name: u.Name})
	}
	if err != nil && !errors.Is(err, ErrNoUser) { // which is by now, as after a double click
		l.unavailable(w, r, err)
		return
	}
	if err := l.endAll(r, u); err != nil {
		l.halfDone(w, r, "Your account is deleted", err)
		return
	}
	w.Header().Set("Clear-Site-Data", `"cache"`)
	l.message(w, r, http.StatusOK, Page{Title: "Your account is deleted", Notice: "You are signed out everywhere. What the account was is gone."})
}
