package login

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/crumb-go/crumb/session"
)

// generation is that of the user's credentials when they signed in. A session that
// holds another is over: a password was changed, or somebody disabled the user.
var generation = session.NewKey[int64]("login.generation")

// formToken is what [Config.FormTokens] has forms carry.
var formToken = session.NewKey[string]("login.form")

// A visit is what is known about the user of one request.
type visit struct {
	l *Login

	mu   sync.Mutex // guards what follows; held while the users row is read
	read bool
	user *User // nil if nobody is signed in
	err  error
}

type contextKey struct{}

func visitOf(r *http.Request, what string) *visit {
	v, ok := r.Context().Value(contextKey{}).(*visit)
	if !ok {
		panic("login: " + what + " in the request to " + r.URL.Path + ", which did not come through Login.Handler; wrap the mux in sessions.Handler(accounts.Handler(mux))")
	}
	return v
}

// Handler gives the requests to next a user: [User], [Require] and [RequireFresh]
// work below it. It goes inside [session.Manager.Handler]. It refuses unsafe
// requests, and those that ask for an upgrade, from pages of other sites, with 403.
func (l *Login) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if v, ok := r.Context().Value(contextKey{}).(*visit); ok && v.l == l {
			next.ServeHTTP(w, r)
			return
		}
		s := session.From(r) // panics outside of the sessions: a mistake that the first request shows
		if l.foreign(r) || l.cfg.FormTokens && unsafe(r) && !tokenCame(s, w, r) {
			l.refuse(w, r)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), contextKey{}, &visit{l: l})))
	})
}

// foreign reports whether a page of another site sent the request. A request for
// an upgrade is a GET that opens a channel to write through, and browsers send
// cookies with it from any page: it is judged like a POST.
func (l *Login) foreign(r *http.Request) bool {
	if r.Header.Get("Upgrade") != "" && !unsafe(r) {
		post := *r
		post.Method = http.MethodPost
		r = &post
	}
	return l.origins.Check(r) != nil
}

func unsafe(r *http.Request) bool {
	return r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodOptions
}

// maxTokenForm is how long a form may be whose token stands in a field.
const maxTokenForm = 1 << 20

func tokenCame(s *session.Session, w http.ResponseWriter, r *http.Request) bool {
	want := formToken.Get(s)
	got := r.Header.Get("X-Form-Token")
	if got == "" && want != "" {
		r.Body = http.MaxBytesReader(w, r.Body, maxTokenForm)
		got = r.PostFormValue("form_token")
	}
	return want != "" && subtle.ConstantTimeCompare([]byte(want), []byte(got)) == 1
}

// FormToken returns what a form of the app carries in its hidden field form_token
// where [Config.FormTokens] is set, and "" where it is not.
func FormToken(r *http.Request) string {
	v := visitOf(r, "FormToken")
	if !v.l.cfg.FormTokens {
		return ""
	}
	s := session.From(r)
	token, ok := formToken.Lookup(s)
	if !ok {
		token = rand.Text()
		formToken.Set(s, token)
	}
	return token
}

// CurrentUser returns who is signed in, or nil. The users row is read by the first
// call of a request, and what it says counts: a session whose user is gone,
// disabled, or has other credentials since is ended, and nobody is signed in. If
// the row cannot be read nobody is either, which is logged; behind [Require] that
// cannot happen.
func CurrentUser(r *http.Request) *User {
	u, err := visitOf(r, "CurrentUser").who(r)
	if err != nil {
		return nil
	}
	return u
}

// who reads the users row, at most once a request.
func (v *visit) who(r *http.Request) (*User, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.read {
		v.read = true
		if v.user, v.err = v.l.load(r); v.err != nil && r.Context().Err() == nil {
			v.l.cfg.Logger.ErrorContext(r.Context(), "login: who is signed in cannot be told", "err", v.err)
		}
	}
	return v.user, v.err
}

// is makes u the user of the rest of the request, after a sign-in or sign-out.
func (v *visit) is(u *User) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.read, v.user, v.err = true, u, nil
}

func (l *Login) load(r *http.Request) (*User, error) {
	s := session.From(r)
	if err := s.Err(); err != nil {
		return nil, err
	}
	id := s.User()
	if id == "" {
		return nil, nil
	}
	u, err := l.users.ByID(r.Context(), id)
	switch {
	case err == nil && valid(u, s):
		return u, nil
	case err != nil && !errors.Is(err, ErrNoUser):
		return nil, err
	}
	// A request of this browser may have changed the password since the session was
	// loaded: then the session as it is now goes with the row as it is now.
	switch cerr := s.Commit(r.Context()); {
	case errors.Is(cerr, session.ErrEnded), errors.Is(cerr, session.ErrStale):
		return nil, nil
	case cerr != nil && !errors.Is(cerr, session.ErrAnswered):
		return nil, cerr
	case err == nil && s.User() == u.ID && valid(u, s):
		return u, nil
	}
	s.SignOut()
	if err := s.Commit(r.Context()); err != nil && !errors.Is(err, session.ErrEnded) && !errors.Is(err, session.ErrStale) {
		return nil, err
	}
	return nil, nil
}

// valid reports whether the session goes with the users row.
func valid(u *User, s *session.Session) bool {
	g, ok := generation.Lookup(s)
	return ok && !u.Disabled && g == u.Generation
}

// Require lets only signed-in users pass. Browsers are sent to sign in and back;
// other clients get 401 as JSON. If the store or the users cannot be read the
// answer is 503, and the cookie stays. Answers are marked no-store.
func Require(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if visitOf(r, "Require").passes(w, r, 0) {
			next.ServeHTTP(w, r)
		}
	})
}

// RequireFresh is [Require] for what matters more: users must have proved who they
// are, with their password, at most age ago. However busy they are since does not
// count. It panics if age is not more than 0.
func RequireFresh(age time.Duration, next http.Handler) http.Handler {
	if age <= 0 {
		panic("login: RequireFresh needs an age of more than 0")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if visitOf(r, "RequireFresh").passes(w, r, age) {
			next.ServeHTTP(w, r)
		}
	})
}

// passes reports whether the request may go on, and answers it if not. An age of 0
// asks for no fresh sign-in.
func (v *visit) passes(w http.ResponseWriter, r *http.Request, age time.Duration) bool {
	w.Header().Set("Cache-Control", "no-store")
	u, err := v.who(r)
	switch {
	case err != nil:
		v.l.unavailable(w, r, nil)
	case u == nil:
		v.l.challenge(w, r, "sign in first")
	case age > 0 && v.l.now().Sub(session.From(r).Info().SignedIn) > age:
		v.l.challenge(w, r, "sign in again first")
	default:
		return true
	}
	return false
}

// challenge sends people to sign in, and tells programs that they have to.
func (l *Login) challenge(w http.ResponseWriter, r *http.Request, problem string) {
	w.Header().Add("Vary", "Accept, Sec-Fetch-Mode")
	if forPeople(r) {
		target := "/login"
		if next := local(whereTo(r)); next != "/" {
			target += "?next=" + queryEscape(next)
		}
		http.Redirect(w, r, target, http.StatusSeeOther)
		return
	}
	h := w.Header()
	h.Set("WWW-Authenticate", `Cookie realm="login"`) // RFC 9110, section 11.6.1: a 401 names a scheme
	writeJSON(w, http.StatusUnauthorized, problem)
}

func writeJSON(w http.ResponseWriter, status int, problem string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": problem, "login": "/login"})
}

// forPeople reports whether whoever asks would rather see a page than JSON: a
// browser that follows a link or sends a form, and curl. A script of a page says
// with Sec-Fetch-Mode that it is one.
func forPeople(r *http.Request) bool {
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" && mode != "navigate" {
		return false
	}
	if r.Header.Get("Upgrade") != "" {
		return false
	}
	accept := strings.ToLower(r.Header.Get("Accept"))
	if unsafe(r) {
		return strings.Contains(accept, "text/html")
	}
	return strings.Contains(accept, "text/html") || strings.Contains(accept, "*/*") && !strings.Contains(accept, "json")
}

// whereTo returns where to go on after the sign-in: the page itself, or, for a
// form, the page it stood on.
func whereTo(r *http.Request) string {
	if !unsafe(r) {
		return r.URL.RequestURI()
	}
	u, err := url.Parse(r.Referer())
	if err != nil || u.Host != r.Host {
		return "/"
	}
	return u.RequestURI()
}

// local returns next if every browser takes it for a path of this site, and "/" if
// not. Browsers read \ as / and drop tabs and line ends (WHATWG URL, section 4.4),
// so that //evil can hide in many ways.
func local(next string) string {
	if len(next) > 2000 || !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") ||
		strings.ContainsFunc(next, func(c rune) bool { return c <= ' ' || c == '\\' || c == 0x7f }) {
		return "/"
	}
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || u.Path == "/login" || u.Path == "/logout" {
		return "/"
	}
	return next
}

// queryEscape leaves slashes alone, which a query may hold (RFC 3986, section 3.4)
// and people like to read.
func queryEscape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "%2F", "/") }
