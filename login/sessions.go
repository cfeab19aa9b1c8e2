package login

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/crumb-go/crumb/session"
)

// A Device is one session of a user, as the page about them shows it.
type Device struct {
	session.Info
	Browser string // such as "Firefox on Linux"
	Ago     string // when it was last seen, such as "5 minutes ago"
	This    bool   // whether it is the one that asks
}

func (l *Login) showSessions(w http.ResponseWriter, r *http.Request) {
	me := session.From(r)
	list, err := l.sessionsOf(r.Context(), me.User())
	if err != nil {
		l.unavailable(w, r, err)
		return
	}
	p := Page{Title: "Where you are signed in"}
	for _, in := range list {
		d := Device{Info: in, Browser: browser(in.Agent), Ago: ago(l.now().Sub(in.Seen)), This: in.ID == me.ID()}
		if d.This {
			p.Devices = append([]Device{d}, p.Devices...)
		} else {
			p.Devices = append(p.Devices, d)
		}
	}
	l.show(w, r, http.StatusOK, "sessions", p)
}

// endSession ends one of the user's own sessions. Another user's ID is as unknown
// as one that never was: IDs are no secret.
func (l *Login) endSession(w http.ResponseWriter, r *http.Request) {
	me := session.From(r)
	id := session.ID(r.PathValue("id"))
	if id == me.ID() {
		l.signOut(w, r)
		return
	}
	in, err := l.cfg.Sessions.Info(r.Context(), id)
	switch {
	case errors.Is(err, session.ErrNotFound), err == nil && in.User != me.User():
		l.message(w, r, http.StatusNotFound, Page{Title: "No such session", Alert: "It is not yours, or it has ended already."})
		return
	case err == nil:
		err = l.cfg.Sessions.Revoke(r.Context(), id)
	}
	if err != nil {
		l.unavailable(w, r, err)
		return
	}
	l.tell(r, AuditEntry{Event: AuditSessionRevoked, Result: AuditOK, UserID: in.User, Name: CurrentUser(r).Name, Detail: "session " + string(id)})
	notice.Set(me, "Signed out there.")
	http.Redirect(w, r, "/account/sessions", http.StatusSeeOther)
}

func (l *Login) endOthers(w http.ResponseWriter, r *http.Request) {
	me := session.From(r)
	if _, err := l.cfg.Sessions.RevokeUser(r.Context(), me.User(), me.ID()); err != nil {
		l.unavailable(w, r, err)
		return
	}
	l.tell(r, AuditEntry{Event: AuditSessionRevoked, Result: AuditOK, UserID: me.User(), Name: CurrentUser(r).Name, Detail: "all others"})
	notice.Set(me, "Signed out everywhere else.")
	http.Redirect(w, r, "/account/sessions", http.StatusSeeOther)
}

// browser says what a User-Agent stands for, as far as a person would know it
// again. The order matters: Edge says that it is Chrome, and Chrome that it is
// Safari.
func browser(agent string) string {
	name := firstOf(agent, [][2]string{
		{"Edg", "Edge"}, {"OPR/", "Opera"}, {"Vivaldi", "Vivaldi"}, {"SamsungBrowser", "Samsung Internet"},
		{"Firefox/", "Firefox"}, {"FxiOS", "Firefox"}, {"CriOS", "Chrome"}, {"Chrome/", "Chrome"}, {"Safari/", "Safari"}, {"curl/", "curl"},
	})
	system := firstOf(agent, [][2]string{
		{"iPhone", "iPhone"}, {"iPad", "iPad"}, {"Android", "Android"}, {"CrOS", "ChromeOS"},
		{"Windows", "Windows"}, {"Mac OS X", "macOS"}, {"Linux", "Linux"},
	})
	switch {
	case name != "" && system != "":
		return name + " on " + system
	case name+system != "":
		return name + system
	}
	return "Unknown browser"
}

func firstOf(s string, words [][2]string) string {
	for _, w := range words {
		if strings.Contains(s, w[0]) {
			return w[1]
		}
	}
	return ""
}

func ago(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return "just now"
	case d < 2*time.Hour:
		return numbered(int(d/time.Minute), "minute") + " ago"
	case d < 48*time.Hour:
		return numbered(int(d/time.Hour), "hour") + " ago"
	}
	return numbered(int(d/(24*time.Hour)), "day") + " ago"
}
