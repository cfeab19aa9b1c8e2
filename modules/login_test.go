package modules

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/login"
	"github.com/crumb-go/crumb/session"
)

// guarded has a route of each kind, and one that signs the user u in.
func guarded(users *app.Module) *app.Module {
	accounts := Login
	if users != nil {
		own := *Login
		own.Requires = append([]*app.Module{users}, Login.Requires...)
		accounts = &own
	}
	return &app.Module{
		Name: "guarded", Requires: []*app.Module{accounts},
		Setup: func(e *app.Env) error {
			l := app.Get[*login.Login](e)
			ok := func(w http.ResponseWriter, r *http.Request) {
				if u := login.CurrentUser(r); u != nil {
					w.Header().Set("X-User", u.Name)
				}
			}
			e.HandleFunc("GET /{$}", ok, Public)
			e.HandleFunc("GET /private", ok)
			e.HandleFunc("GET /fresh", ok, Fresh)
			e.HandleFunc("POST /in", func(w http.ResponseWriter, r *http.Request) {
				if err := l.SignIn(w, r, "u", false); err != nil {
					http.Error(w, err.Error(), http.StatusForbidden)
				}
			}, Public)
			return nil
		},
	}
}

// oneUser is a users table with one user, u.
type oneUser struct{ login.Users }

func (oneUser) ByID(_ context.Context, id string) (*login.User, error) {
	if id != "u" {
		return nil, login.ErrNoUser
	}
	return &login.User{ID: "u", Name: "ann", Generation: 7}, nil
}

func TestRoutesOfModulesThatRequireLoginArePrivateUnlessMarked(t *testing.T) {
	users := &app.Module{Name: "users", Setup: func(e *app.Env) error { e.Provide(login.Users(oneUser{})); return nil }}
	h := run(t, guarded(users), "--database=memory:", "--secret-key-file="+filepath.Join(t.TempDir(), "keys"), "--login.fresh=1h")
	cookie := ""
	ask := func(method, path string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "http://localhost"+path, nil)
		r.Header = http.Header{"Accept": {"text/html"}, "Cookie": {cookie}}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	for path, want := range map[string]int{"/": 200, "/private": 303, "/fresh": 303, "/login": 200, "/account": 303, "/register": 404} {
		if w := ask("GET", path); w.Code != want {
			t.Errorf("to anybody %s is %d, want %d", path, w.Code, want)
		}
	}
	in := ask("POST", "/in")
	for _, c := range in.Result().Cookies() {
		cookie = c.Name + "=" + c.Value
	}
	for _, path := range []string{"/", "/private", "/fresh"} {
		if w := ask("GET", path); w.Code != 200 || w.Header().Get("X-User") != "ann" {
			t.Errorf("to a user %s is %d for %q", path, w.Code, w.Header().Get("X-User"))
		}
	}
}

func TestLoginSaysWhatItNeeds(t *testing.T) {
	keys := "--secret-key-file=" + filepath.Join(t.TempDir(), "keys")
	for _, c := range []struct{ args, key, problem string }{
		{"--login=false --database=memory:", "login.enabled", "private routes of this app need it"},
		{"--login.max_sessions=-1", "login.max_sessions", "below 0"},
		{"--login.min_password=7", "login.min_password", "8 to 64"},
		{"--login.fresh=0s", "login.fresh", "more than 0"},
		{"--login.audit_for=1s", "login.audit_for", "less than an hour"},
		{"--login.url=redis://h", "login.url", "SQL database"},
		{"--login.trusted_origins=evil", "login.trusted_origins", "no origin"},
		{"--secret-key-file=", "keys.secret_key_file", "no file"},
	} {
		a, err := app.New(app.Options{Args: append([]string{keys}, strings.Fields(c.args)...)}, guarded(nil))
		if err == nil {
			_, err = a.Start(t.Context())
		}
		bad, ok := errors.AsType[*app.SettingError](err)
		if !ok || bad.Key != c.key || bad.Hint == "" || !strings.Contains(bad.Problem, c.problem) {
			t.Errorf("%s: %v", c.args, err)
		}
	}
}

func TestLinksAreBuiltFromTheSettings(t *testing.T) {
	for _, c := range []struct {
		server app.ServerConfig
		want   string
	}{
		{app.ServerConfig{Addr: "127.0.0.1:8080"}, "http://127.0.0.1:8080"},
		{app.ServerConfig{Addr: "127.0.0.1:8080", TLSCert: "x"}, "https://127.0.0.1:8080"},
		{app.ServerConfig{Addr: ":8080"}, ""},
		{app.ServerConfig{Addr: "127.0.0.1:0"}, ""},
		{app.ServerConfig{Addr: "127.0.0.1:8080", PublicURL: "https://site.example"}, "https://site.example"},
	} {
		if got := (LoginConfig{}).For(c.server).PublicURL; got != c.want {
			t.Errorf("%+v: %q, want %q", c.server, got, c.want)
		}
	}
}

func TestASessionOfBeforeTheLoginWasThereIsNoSignIn(t *testing.T) {
	var sessions *session.Manager
	users := &app.Module{
		Name: "users", Requires: []*app.Module{Session},
		Setup: func(e *app.Env) error {
			sessions = app.Get[*session.Manager](e)
			e.Provide(login.Users(oneUser{}))
			e.HandleFunc("POST /old", func(w http.ResponseWriter, r *http.Request) { session.From(r).SignIn("u") })
			return nil
		},
	}
	h := run(t, guarded(users), "--database=memory:", "--secret-key-file="+filepath.Join(t.TempDir(), "keys"))
	r := httptest.NewRequest("POST", "http://localhost/old", nil)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	r = httptest.NewRequest("GET", "http://localhost/private", nil)
	r.Header.Set("Accept", "text/html")
	for _, c := range w.Result().Cookies() {
		r.AddCookie(c)
	}
	w = httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusSeeOther {
		t.Errorf("/private is %d", w.Code)
	}
	for in, err := range sessions.List(t.Context(), session.Query{User: "u"}) {
		t.Errorf("it lives on: %v %v", in, err)
	}
}
