package login

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/crumb-go/crumb/session"
)

// maxForm is how long a form may be. Nothing longer is read, let alone hashed.
const maxForm = 64 << 10

// longestTyped is how long a password may be that is looked at, in bytes. None that
// was set here is as long.
const longestTyped = 4096

// form reads the form of a POST before h runs. One that is too long, or holds a
// password that is, costs no look at the database and leaves no entry.
func (l *Login) form(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		err := r.ParseForm()
		switch {
		case errors.As(err, new(*http.MaxBytesError)), len(r.PostForm.Get("password")) > longestTyped, len(r.PostForm.Get("current")) > longestTyped:
			l.message(w, r, http.StatusRequestEntityTooLarge, Page{Title: "That is too long", Alert: "The form holds more than we take. Nothing was changed."})
		case err != nil || len(r.PostForm) == 0 && r.ContentLength != 0:
			l.message(w, r, http.StatusBadRequest, Page{Title: "That is no form", Alert: "The request could not be read. Nothing was changed."})
		default:
			h(w, r)
		}
	}
}

func (l *Login) showSignIn(w http.ResponseWriter, r *http.Request) {
	u, err := visitOf(r, "the sign-in page").who(r)
	if err != nil {
		l.unavailable(w, r, nil)
		return
	}
	l.signInPage(w, r, http.StatusOK, u, local(r.URL.Query().Get("next")), "")
}

// signInPage asks for a name and a password; who is signed in confirms with the
// password alone.
func (l *Login) signInPage(w http.ResponseWriter, r *http.Request, status int, u *User, next, alert string) {
	p := Page{Title: "Sign in", Next: next, Alert: alert, Name: r.PostForm.Get("name")}
	if len(p.Name) > 255 {
		p.Name = ""
	}
	p.Remember = r.PostForm.Get("remember") != ""
	if u != nil {
		p.Title, p.StepUp = "Confirm it is you", true
	}
	l.show(w, r, status, "signin", p)
}

const (
	wrongText  = "Name and password do not match."
	wrongAgain = "That is not the password."
)

func (l *Login) signIn(w http.ResponseWriter, r *http.Request) {
	v := visitOf(r, "the sign-in")
	current, err := v.who(r)
	if err != nil {
		l.unavailable(w, r, nil)
		return
	}
	name, password, next := r.PostFormValue("name"), r.PostFormValue("password"), local(r.PostFormValue("next"))
	event, stepUp := AuditSignIn, current != nil && sameName(current, name)
	var u *User
	if stepUp {
		event = AuditStepUp
		u, err = l.verifyCurrent(r.Context(), current, password, l.device(r), l.addr(r))
	} else {
		current = nil
		u, err = l.verify(r.Context(), attempt{name: name, password: password, device: l.device(r), addr: l.addr(r)})
	}
	if err == nil {
		err = l.enter(r.Context(), r, u, r.PostFormValue("remember") != "")
	}
	if err != nil {
		l.failed(r, event, u, name, err)
		alert := wrongText
		if stepUp {
			alert = wrongAgain
		}
		if !l.throttledOrDown(w, r, err) {
			l.signInPage(w, r, http.StatusUnprocessableEntity, current, next, alert)
		}
		return
	}
	l.welcome(w, r, u, event)
	http.Redirect(w, r, next, http.StatusSeeOther)
}

// sameName reports whether name, as typed, means u. Who is signed in need not type
// it again.
func sameName(u *User, name string) bool {
	if name == "" {
		return true
	}
	typed, err := Canonical(name)
	if err != nil {
		return false
	}
	own, err := Canonical(u.Name)
	return err == nil && own == typed
}

// SignIn signs the user with this ID in to the session of r, as the sign-in page
// does after the password, for apps that know users by other means too, such as
// another site that vouches for them. [ErrNoUser] says that there is none, or that
// they are disabled. It makes the commit of the session: call it before the first
// byte of the answer.
func (l *Login) SignIn(w http.ResponseWriter, r *http.Request, id string, remember bool) error {
	visitOf(r, "SignIn")
	u, err := l.users.ByID(r.Context(), id)
	if err == nil && u.Disabled {
		err = ErrNoUser
	}
	if err == nil {
		err = l.enter(r.Context(), r, u, remember)
	}
	if errors.Is(err, errWrong) {
		err = ErrNoUser
	}
	if err != nil {
		return err
	}
	if users, ok := l.users.(SignInRecorder); ok {
		l.warn("The time of a sign-in could not be noted.", users.SignedIn(r.Context(), u.ID, l.now()))
	}
	l.welcome(w, r, u, AuditSignIn)
	return nil
}

// enter makes u the user of the session, with a new token. The users row is read
// once more when that is stored: who disables a user, or sets another password,
// writes the row first and ends the sessions second, so that either they find this
// session or it finds their row. Then it is refused as a wrong password is. If it
// cannot be read nobody is signed in who was not before, and nobody out.
func (l *Login) enter(ctx context.Context, r *http.Request, u *User, remember bool) error {
	s := session.From(r)
	before := s.User()
	s.SignIn(u.ID)
	generation.Set(s, u.Generation)
	if remember {
		s.Remember()
	}
	if err := s.Commit(ctx); err != nil {
		return err
	}
	now, err := l.users.ByID(ctx, u.ID)
	if err == nil && (now.Disabled || now.Generation != u.Generation) || errors.Is(err, ErrNoUser) {
		err = errWrong
	}
	if err == nil {
		err = l.limitSessions(ctx, u.ID)
	}
	visit := visitOf(r, "a sign-in")
	if err != nil && before == u.ID && !errors.Is(err, errWrong) {
		return err
	}
	if err != nil {
		visit.is(nil)
		s.SignOut()
		if ended := s.Commit(context.WithoutCancel(ctx)); ended != nil && !over(ended) {
			return ended
		}
		return err
	}
	visit.is(now)
	return nil
}

// over reports whether err only says that the session had ended already.
func over(err error) bool {
	return errors.Is(err, session.ErrEnded) || errors.Is(err, session.ErrStale)
}

// limitSessions ends the user's sessions beyond the limit, those signed in longest
// ago first. It is called after each sign-in is stored, and goes round until it
// finds no more than may be: of sign-ins at once the last one sees all. They share
// the work, for each ends a few at random and looks again.
func (l *Login) limitSessions(ctx context.Context, user string) error {
	if l.cfg.MaxSessions == 0 {
		return nil
	}
	for {
		list, err := l.sessionsOf(ctx, user)
		if err != nil {
			return fmt.Errorf("login: the sessions of a user cannot be counted: %w", err)
		}
		excess := len(list) - l.cfg.MaxSessions
		if excess <= 0 {
			return nil
		}
		slices.SortFunc(list, func(a, b session.Info) int {
			if c := a.SignedIn.Compare(b.SignedIn); c != 0 {
				return c
			}
			return strings.Compare(string(a.ID), string(b.ID))
		})
		list = list[:excess]
		rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		for _, in := range list[:min(len(list), endsARound)] {
			if err := l.cfg.Sessions.Revoke(ctx, in.ID); err != nil {
				return err
			}
		}
	}
}

// endsARound is how many sessions limitSessions ends before it looks again.
const endsARound = 4

func (l *Login) sessionsOf(ctx context.Context, user string) (list []session.Info, err error) {
	for in, err := range l.cfg.Sessions.List(ctx, session.Query{User: user}) {
		if err != nil {
			return nil, err
		}
		list = append(list, in)
	}
	return list, nil
}

// signOut ends the session. That of a request that finds it ended is as good.
func (l *Login) signOut(w http.ResponseWriter, r *http.Request) {
	s, v := session.From(r), visitOf(r, "the sign-out")
	u, _ := v.who(r)
	id := s.ID()
	s.SignOut()
	if err := s.Commit(r.Context()); err != nil && !over(err) {
		l.unavailable(w, r, err)
		return
	}
	v.is(nil)
	if u != nil {
		l.tell(r, AuditEntry{Event: AuditSignOut, Result: AuditOK, UserID: u.ID, Name: u.Name, Session: id})
	}
	// "cookies" would also clear the cookie by which this browser is known.
	w.Header().Set("Clear-Site-Data", `"cache"`)
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// throttledOrDown answers what is no fault of the name and the password, and
// reports whether it did.
func (l *Login) throttledOrDown(w http.ResponseWriter, r *http.Request, err error) bool {
	var slow *Throttled
	switch {
	case errors.As(err, &slow):
		after := int64(max(1, math.Ceil(slow.After.Seconds())))
		w.Header().Set("Retry-After", strconv.FormatInt(after, 10))
		l.message(w, r, http.StatusTooManyRequests, Page{
			Title: "Please wait", Alert: "There were too many tries. Try again in " + waitText(after) + ".",
		})
	case errors.Is(err, errWrong):
		return false
	default:
		l.unavailable(w, r, err)
	}
	return true
}

// unavailable answers that the store or the users cannot be reached. A nil err was
// logged already.
func (l *Login) unavailable(w http.ResponseWriter, r *http.Request, err error) {
	if err != nil && r.Context().Err() == nil {
		l.cfg.Logger.ErrorContext(r.Context(), "login: a request could not be served", "path", r.URL.Path, "err", err)
	}
	w.Header().Set("Retry-After", "5")
	if !forPeople(r) {
		writeJSON(w, http.StatusServiceUnavailable, "try again in a few seconds")
		return
	}
	l.message(w, r, http.StatusServiceUnavailable, Page{
		Title: "Please try again", Alert: "We cannot tell right now who is signed in. Try again in a few seconds.",
	})
}

// refuse answers a request from a page of another site.
func (l *Login) refuse(w http.ResponseWriter, r *http.Request) {
	if !forPeople(r) {
		writeJSON(w, http.StatusForbidden, "the request came from another site")
		return
	}
	l.message(w, r, http.StatusForbidden, Page{
		Title: "That did not come from here", Alert: "The request came from another site, or from a page that is too old. Go back, load the page again and try once more.",
	})
}

func waitText(seconds int64) string {
	switch {
	case seconds == 1:
		return "a second"
	case seconds < 120:
		return fmt.Sprintf("%d seconds", seconds)
	}
	return fmt.Sprintf("%d minutes", (seconds+59)/60)
}

// failed records a sign-in that did not come about. u is whom it was about, if it
// is known. Who left before anything was found out leaves no entry.
func (l *Login) failed(r *http.Request, event string, u *User, name string, err error) {
	e := AuditEntry{Event: event, Name: name, Result: AuditUnavailable}
	switch {
	case errors.As(err, new(*Throttled)):
		e.Result = "throttled"
	case errors.Is(err, errWrong) && u != nil && u.Disabled:
		e.Result = "disabled"
	case errors.Is(err, errWrong):
		e.Result = "wrong"
	case r.Context().Err() != nil:
		return
	}
	if u != nil {
		e.UserID, e.Name = u.ID, u.Name
	}
	l.tell(r, e)
}

// tell records e with where the request came from.
func (l *Login) tell(r *http.Request, e AuditEntry) {
	e.Time, e.Addr, e.Agent = l.now(), l.addr(r), r.UserAgent()
	if e.Session == "" {
		e.Session = session.From(r).ID()
	}
	ctx := context.WithoutCancel(r.Context())
	l.audit(ctx, e)
	l.cfg.OnEvent(ctx, e)
}

// The cookie of a known device.
const deviceLife = 180 * 24 * time.Hour

func (l *Login) deviceCookie() string {
	if l.cfg.Insecure {
		return "crumb-device"
	}
	return "__Host-crumb-device"
}

// device returns the value of the known-device cookie, or "".
func (l *Login) device(r *http.Request) string {
	if c, err := r.Cookie(l.deviceCookie()); err == nil && len(c.Value) <= 512 {
		return c.Value
	}
	return ""
}

// welcome tells that u has signed in, makes the browser one that u is known by, and
// tells if it was none before.
func (l *Login) welcome(w http.ResponseWriter, r *http.Request, u *User, event string) {
	l.tell(r, AuditEntry{Event: event, Result: AuditOK, UserID: u.ID, Name: u.Name})
	if l.knowsDevice(u, l.device(r)) {
		return
	}
	l.tell(r, AuditEntry{Event: AuditNewDevice, Result: AuditOK, UserID: u.ID, Name: u.Name})
	l.setDevice(w, u)
}

func (l *Login) setDevice(w http.ResponseWriter, u *User) {
	http.SetCookie(w, &http.Cookie{
		Name: l.deviceCookie(), Value: l.newDevice(u), Path: "/", MaxAge: int(deviceLife / time.Second),
		Secure: !l.cfg.Insecure, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
}
