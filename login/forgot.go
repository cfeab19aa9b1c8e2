package login

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"time"

	"github.com/crumb-go/crumb/session"
)

// A forgotten is a wish for a link, as it waits for Run.
type forgotten struct {
	canonical string
	addr      netip.Addr
	agent     string
}

// maxForgotten bounds the wishes that wait.
const maxForgotten = 100

func (l *Login) showForgot(w http.ResponseWriter, r *http.Request) {
	p := Page{Title: "Forgot your password?", CanMail: l.onReset.Load() != nil, Sent: r.URL.Query().Has("sent")}
	if p.Sent {
		p.Title = "Look into your mail"
	}
	l.show(w, r, http.StatusOK, "forgot", p)
}

// askReset answers alike, and as fast, whoever is asked about: all else happens
// off the request.
func (l *Login) askReset(w http.ResponseWriter, r *http.Request) {
	canonical, err := Canonical(r.PostFormValue("name"))
	if err == nil && l.onReset.Load() != nil {
		select {
		case l.forgot <- forgotten{canonical, l.addr(r), r.UserAgent()}:
		default:
			l.throttledOrDown(w, r, &Throttled{After: time.Minute})
			return
		}
	}
	http.Redirect(w, r, "/forgot?sent", http.StatusSeeOther)
}

func (l *Login) sendReset(ctx context.Context, f forgotten) {
	e := AuditEntry{Event: AuditResetAsked, Time: l.now(), Name: f.canonical, Addr: f.addr, Agent: f.agent, Result: AuditOK}
	u, token, err := l.newReset(ctx, f.canonical)
	if errors.Is(err, ErrNoLink) {
		return // and nothing is written: anybody can ask, as often as they like
	}
	if err == nil {
		e.UserID, e.Name = u.ID, u.Name
		err = (*l.onReset.Load())(ctx, *u, l.resetLink(token))
	}
	if err != nil {
		e.Result = "not sent"
		l.cfg.Logger.ErrorContext(ctx, "login: a link to set a new password was not sent", "user", e.UserID, "err", err)
	}
	l.audit(ctx, e)
	l.cfg.OnEvent(ctx, e)
}

func (l *Login) resetLink(token string) string { return l.cfg.PublicURL + "/reset?token=" + token }

// NewReset returns a link to set a new password for the user with this name, for an
// operator to hand over: the only one that works, once, for an hour. It returns
// [ErrNoLink] if there is none to be had.
func (l *Login) NewReset(ctx context.Context, name string) (link string, err error) {
	canonical, err := Canonical(name)
	if err != nil {
		return "", err
	}
	if l.cfg.PublicURL == "" {
		return "", errors.New("login: a link needs PublicURL, such as https://example.com")
	}
	u, token, err := l.newReset(ctx, canonical)
	if err != nil {
		return "", err
	}
	l.audit(ctx, AuditEntry{Event: AuditResetAsked, Result: AuditOK, Actor: "operator", UserID: u.ID, Name: u.Name, Time: l.now()})
	return l.resetLink(token), nil
}

// showReset asks for the new password. Looking does not spend the link: programs
// that check mail open what they find.
func (l *Login) showReset(w http.ResponseWriter, r *http.Request) {
	l.resetPage(w, r, http.StatusOK, r.URL.Query().Get("token"), "")
}

func (l *Login) resetPage(w http.ResponseWriter, r *http.Request, status int, token, alert string) {
	// The token is in the address of this page: it goes nowhere.
	w.Header().Set("Referrer-Policy", "no-referrer")
	l.show(w, r, status, "reset", Page{Title: "Set a new password", ResetToken: token, Alert: alert, Field: "password"})
}

// reset sets the password, ends all sessions of the user and signs nobody in:
// whoever reads somebody's mail should need the password too.
func (l *Login) reset(w http.ResponseWriter, r *http.Request) {
	token := r.PostFormValue("token")
	u, err := l.useReset(r.Context(), token, r.PostFormValue("password"), l.addr(r))
	var rule *PasswordError
	switch {
	case errors.As(err, &rule):
		l.resetPage(w, r, http.StatusUnprocessableEntity, token, rule.text())
		return
	case errors.Is(err, errBadLink):
		l.tell(r, AuditEntry{Event: AuditReset, Result: "bad link"})
		l.message(w, r, http.StatusUnprocessableEntity, Page{
			Title: "That link does not work", Alert: "Each link works once, for an hour, and only the newest one. Ask for another.",
		})
		return
	case err == nil:
		err = l.endAll(r, u)
	}
	if err != nil {
		l.throttledOrDown(w, r, err)
		return
	}
	l.tell(r, AuditEntry{Event: AuditReset, Result: AuditOK, UserID: u.ID, Name: u.Name})
	notice.Set(session.From(r), "Your new password is set. Sign in with it.")
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// endAll ends the sessions of u, first that of the request if it is one of them: what
// is kept from here on is a new visitor's.
func (l *Login) endAll(r *http.Request, u *User) error {
	ctx, s := context.WithoutCancel(r.Context()), session.From(r)
	if s.User() == u.ID {
		s.SignOut()
		if err := s.Commit(ctx); err != nil && !over(err) {
			return err
		}
		visitOf(r, "the end of all sessions").is(nil)
	}
	_, err := l.cfg.Sessions.RevokeUser(ctx, u.ID)
	return err
}
