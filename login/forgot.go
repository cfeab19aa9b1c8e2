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

// A mail is a link that waits to be sent.
type mail struct {
	to    User
	link  string
	entry AuditEntry
}

const (
	maxForgotten = 100              // wishes that wait, and mails
	mailTimeout  = 30 * time.Second // for each call of OnReset
)

func (l *Login) showForgot(w http.ResponseWriter, r *http.Request) {
	p := Page{Title: "Forgot your password?", CanMail: l.onReset.Load() != nil, Sent: r.URL.Query().Has("sent")}
	if p.Sent {
		p.Title = "Look into your mail"
	}
	l.show(w, r, http.StatusOK, "forgot", p)
}

// askReset answers alike, and as fast, whoever is asked about: all that depends on
// the name happens off the request.
func (l *Login) askReset(w http.ResponseWriter, r *http.Request) {
	if l.onReset.Load() != nil {
		if _, err := l.tables.reserve(r.Context(), l.now(), ordered(sourceCounters(l.cfg.Keys, l.addr(r), wishesOf))); err != nil {
			l.throttledOrDown(w, r, err)
			return
		}
		if canonical, err := Canonical(r.PostFormValue("name")); err == nil {
			select {
			case l.forgot <- forgotten{canonical, l.addr(r), r.UserAgent()}:
			default:
				l.dropped()
			}
		}
	}
	http.Redirect(w, r, "/forgot?sent", http.StatusSeeOther)
}

// dropped logs that a wish came to nothing, with how many did so far.
func (l *Login) dropped() {
	n := l.drops.Add(1)
	l.dropLog.Do(func() {
		l.cfg.Logger.Warn("Links to set a new password were asked for faster than they can be sent, and wishes are dropped. See how long OnReset takes, and from where they come.", "dropped", n)
	})
}

// grant makes the link that somebody wishes for and hands it to sendMails. It waits
// for no mail: whether others are served would tell if the last one was known.
func (l *Login) grant(ctx context.Context, f forgotten) {
	m := mail{entry: AuditEntry{Event: AuditResetAsked, Time: l.now(), Name: f.canonical, Addr: f.addr, Agent: f.agent}}
	u, err := l.linkUser(ctx, f.canonical)
	if err == nil {
		m.to, m.entry.UserID, m.entry.Name = *u, u.ID, u.Name
		if len(l.mails) == cap(l.mails) {
			l.dropped() // before a link is made, which would be the only one that works
			return
		}
		m.link, err = l.mailedLink(ctx, u)
	}
	switch {
	case errors.Is(err, ErrNoLink): // and nothing is written: anybody can ask, as often as they like
	case err != nil:
		l.sent(ctx, m, err)
	default:
		select {
		case l.mails <- m:
		case <-ctx.Done():
		}
	}
}

// mailedLink returns a link for u, or ErrNoLink if there were enough of late.
func (l *Login) mailedLink(ctx context.Context, u *User) (string, error) {
	now, links := l.now(), []counter{linkCounter(l.cfg.Keys, u)}
	err := l.tables.peek(ctx, now, links)
	if errors.As(err, new(*Throttled)) {
		return "", ErrNoLink
	}
	if err != nil {
		return "", err
	}
	token, err := l.newReset(ctx, u)
	if err != nil {
		return "", err
	}
	_, err = l.tables.reserve(ctx, now, links)
	return l.resetLink(token), err
}

func (l *Login) sendMails(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-l.mails:
			inTime, cancel := context.WithTimeout(ctx, mailTimeout)
			err := (*l.onReset.Load())(inTime, m.to, m.link)
			cancel()
			l.sent(ctx, m, err)
		}
	}
}

// sent records that a mail was sent, or why not.
func (l *Login) sent(ctx context.Context, m mail, err error) {
	m.entry.Result = AuditOK
	if err != nil {
		m.entry.Result = "not sent"
		l.cfg.Logger.ErrorContext(ctx, "login: a link to set a new password was not sent", "user", m.entry.UserID, "err", err)
	}
	l.audit(ctx, m.entry)
	l.cfg.OnEvent(ctx, m.entry)
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
	u, err := l.linkUser(ctx, canonical)
	if err != nil {
		return "", err
	}
	token, err := l.newReset(ctx, u)
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
	// The token is in the address of this page: it goes nowhere. With no-referrer the
	// form would come with Origin: null, and older browsers, which do not send
	// Sec-Fetch-Site, would be refused.
	w.Header().Set("Referrer-Policy", "strict-origin")
	l.show(w, r, status, "reset", Page{Title: "Set a new password", ResetToken: token, Alert: alert, Field: "password"})
}

// reset sets the password, ends all sessions of the user and signs nobody in:
// whoever reads somebody's mail should need the password too. The browser is one
// that the user is known by from then on.
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
	case err != nil:
		l.throttledOrDown(w, r, err)
		return
	}
	l.tell(r, AuditEntry{Event: AuditReset, Result: AuditOK, UserID: u.ID, Name: u.Name})
	l.setDevice(w, u) // who forgot a password is the one whom strangers must not keep out
	if err := l.endAll(r, u); err != nil {
		l.halfDone(w, r, "Your new password is set", err)
		return
	}
	notice.Set(session.From(r), "Your new password is set. Sign in with it.")
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// endAll ends the sessions of u, first that of the request if it is one of them: what
// is kept from here on is a new visitor's.
func (l *Login) endAll(r *http.Request, u *User) (ended error) {
	ctx, cancel := settled(r)
	defer cancel()
	s := session.From(r)
	if s.User() == u.ID {
		s.SignOut()
		if err := s.Commit(ctx); err != nil && !over(err) {
			ended = err
		}
		visitOf(r, "the end of all sessions").is(nil)
	}
	_, err := l.cfg.Sessions.RevokeUser(ctx, u.ID)
	return errors.Join(ended, err)
}
