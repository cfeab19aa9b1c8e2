package login_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crumb-go/crumb/login"
)

// A hookedUsers runs a function once, at the point of a request that a test is
// about.
type hookedUsers struct {
	*login.Tables
	mu          sync.Mutex
	beforeWrite func() // SetPassword and Delete
	afterWrite  func()
	afterByID   func()
	failByID    atomic.Int64 // the how manieth call from now on fails
}

func hook() (*hookedUsers, func(*login.Config)) {
	h := &hookedUsers{}
	return h, func(cfg *login.Config) { h.Tables, cfg.Users = cfg.Tables, h }
}

// hookedSite is a site with the user ann, and a browser that has signed in as her.
func hookedSite(t *testing.T) (h *hookedUsers, s *site, u *login.User, thief *browser) {
	h, users := hook()
	s = serve(t, users)
	u = s.add("ann")
	thief = s.open()
	thief.signIn("ann")
	return h, s, u, thief
}

func (h *hookedUsers) run(f *func()) {
	h.mu.Lock()
	once := *f
	*f = nil
	h.mu.Unlock()
	if once != nil {
		once()
	}
}

func (h *hookedUsers) ByID(ctx context.Context, id string) (*login.User, error) {
	if h.failByID.Add(-1) == 0 {
		return nil, errors.New("the database is on fire")
	}
	u, err := h.Tables.ByID(ctx, id)
	h.run(&h.afterByID)
	return u, err
}

func (h *hookedUsers) SetPassword(ctx context.Context, id string, generation int64, hash string) (*login.User, error) {
	h.run(&h.beforeWrite)
	u, err := h.Tables.SetPassword(ctx, id, generation, hash)
	h.run(&h.afterWrite)
	return u, err
}

func (h *hookedUsers) Delete(ctx context.Context, id string, generation int64) error {
	h.run(&h.beforeWrite)
	err := h.Tables.Delete(ctx, id, generation)
	h.run(&h.afterWrite)
	return err
}

// setPassword does what crumb users passwd does.
func (s *site) setPassword(u *login.User, password string) {
	s.t.Helper()
	hash, err := login.HashPassword(password, 15)
	if err == nil {
		_, err = s.tables.SetPassword(context.Background(), u.ID, u.Generation, hash)
	}
	if err == nil {
		_, err = s.sessions.RevokeUser(context.Background(), u.ID)
	}
	if err != nil {
		s.t.Error(err)
	}
}

func (s *site) disable(u *login.User) {
	s.t.Helper()
	if _, err := s.tables.SetDisabled(context.Background(), u.ID, true); err != nil {
		s.t.Error(err)
	}
}

// A slowBody is a form that takes its time: what happens meanwhile is run when the
// server begins to read it.
type slowBody struct {
	io.Reader
	meanwhile func()
}

func (b *slowBody) Read(p []byte) (int, error) {
	if f := b.meanwhile; f != nil {
		b.meanwhile = nil
		f()
	}
	return b.Reader.Read(p)
}

// postSlowly posts a form from a browser while something else happens.
func (b *browser) postSlowly(s *site, path string, meanwhile func(), fields ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", path, &slowBody{strings.NewReader(form(fields...)), meanwhile})
	r.Header = http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Accept": {"text/html"}, "Cookie": {"crumb=" + b.token()}}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w
}

const thiefsPassword = "the thief has it now"

// wantOnly checks which password of a user signs in, and that others do not.
func (s *site) wantOnly(right string, wrong ...string) {
	s.t.Helper()
	for _, password := range wrong {
		s.clock.add(time.Hour)
		s.open().post("/login", "name", "ann", "password", password).want(s.t, http.StatusUnprocessableEntity)
	}
	s.clock.add(time.Hour)
	s.open().post("/login", "name", "ann", "password", right).wantTo(s.t, "/")
}

func TestAFormThatTookItsTimeUndoesNothing(t *testing.T) {
	t.Run("neither a change of the password", func(t *testing.T) {
		s := serve(t)
		s.add("ann")
		owner, thief := s.open(), s.open()
		owner.signIn("ann")
		thief.signIn("ann")
		w := thief.postSlowly(s, "/account/password", func() {
			owner.post("/account/password", "current", password, "password", newPassword).wantTo(t, "/account")
		}, "current", password, "password", thiefsPassword)
		if to := w.Header().Get("Location"); w.Code != http.StatusSeeOther || !strings.HasPrefix(to, "/login") {
			t.Errorf("the thief is answered %d to %q", w.Code, to)
		}
		owner.get("/private").want(t, http.StatusOK, "private to ann")
		s.wantOnly(newPassword, thiefsPassword, password)
	})
	t.Run("nor what an operator did", func(t *testing.T) {
		s := serve(t)
		u := s.add("ann")
		thief := s.open()
		thief.signIn("ann")
		thief.postSlowly(s, "/account/password", func() {
			s.setPassword(u, newPassword)
		}, "current", password, "password", thiefsPassword)
		s.wantOnly(newPassword, thiefsPassword, password)
		s.clock.add(time.Hour)
		thief.post("/login", "name", "ann", "password", newPassword).wantTo(t, "/")
		thief.postSlowly(s, "/account/password", func() { s.disable(u) }, "current", newPassword, "password", thiefsPassword)
		if _, err := s.tables.SetDisabled(t.Context(), u.ID, false); err != nil {
			t.Fatal(err)
		}
		s.wantOnly(newPassword, thiefsPassword)
	})
	t.Run("and deletes no account", func(t *testing.T) {
		s := serve(t)
		u := s.add("ann")
		owner, thief := s.open(), s.open()
		owner.signIn("ann")
		thief.signIn("ann")
		thief.postSlowly(s, "/account/delete", func() {
			owner.post("/account/password", "current", password, "password", newPassword).wantTo(t, "/account")
		}, "current", password)
		if _, err := s.tables.ByID(t.Context(), u.ID); err != nil {
			t.Error(err)
		}
		owner.get("/private").want(t, http.StatusOK, "private to ann")
	})
}

func TestAChangeBesideAChangeIsNotUndone(t *testing.T) {
	t.Run("by a change of the password", func(t *testing.T) {
		h, s, u, thief := hookedSite(t)
		h.beforeWrite = func() { s.setPassword(u, newPassword) }
		thief.post("/account/password", "current", password, "password", thiefsPassword).wantTo(t, "/login")
		thief.get("/private").wantTo(t, "/login?next=/private")
		s.wantOnly(newPassword, thiefsPassword, password)
	})
	t.Run("that came when the user was disabled", func(t *testing.T) {
		h, s, u, thief := hookedSite(t)
		h.beforeWrite = func() { s.disable(u) }
		thief.post("/account/password", "current", password, "password", thiefsPassword).wantTo(t, "/login")
		if _, err := s.tables.SetDisabled(t.Context(), u.ID, false); err != nil {
			t.Fatal(err)
		}
		s.wantOnly(password, thiefsPassword)
	})
	t.Run("by a deletion", func(t *testing.T) {
		h, s, u, thief := hookedSite(t)
		h.beforeWrite = func() { s.setPassword(u, newPassword) }
		thief.post("/account/delete", "current", password).wantTo(t, "/login")
		if _, err := s.tables.ByID(t.Context(), u.ID); err != nil {
			t.Error(err)
		}
	})
	t.Run("by a reset link", func(t *testing.T) {
		sent := make(chan string, 1)
		h, users := hook()
		s := serve(t, links(sent), users)
		s.run(t)
		u := s.add("ann")
		thief := s.open()
		thief.post("/forgot", "name", "ann")
		_, token, _ := strings.Cut(<-sent, "token=")
		h.beforeWrite = func() { s.setPassword(u, newPassword) }
		thief.post("/reset", "token", token, "password", thiefsPassword).want(t, http.StatusUnprocessableEntity, "does not work")
		s.wantOnly(newPassword, thiefsPassword, password)
	})
}

func TestADoubleClickOnTheButtons(t *testing.T) {
	t.Run("changes the password once, and both answers leave the browser signed in", func(t *testing.T) {
		for _, last := range []string{"the first answer last", "the second answer last"} {
			h, users := hook()
			s := serve(t, users)
			s.add("ann")
			b := s.open()
			b.signIn("ann")
			second := s.with(b.token())
			var first answer
			h.afterByID = func() { // when the second one is past the guard
				first = b.post("/account/password", "current", password, "password", newPassword).wantTo(t, "/account")
			}
			second.post("/account/password", "current", password, "password", newPassword).wantTo(t, "/account")
			if first.Response == nil {
				t.Fatal("the two did not meet")
			}
			who := map[string]*browser{"the first answer last": b, "the second answer last": second}[last]
			who.get("/account").want(t, http.StatusOK, "Your password is changed.")
			s.wantOnly(newPassword, password)
		}
	})
	t.Run("is never too soon", func(t *testing.T) {
		s := serve(t)
		s.add("ann")
		b := s.open()
		b.signIn("ann")
		old, fresh := password, newPassword
		for range 4 {
			var wait sync.WaitGroup
			for range 2 {
				wait.Go(func() {
					a, err := b.try("POST", "/account/password", form("current", old, "password", fresh))
					if err != nil {
						t.Error(err)
					} else {
						a.want(t, http.StatusSeeOther) // to the account, or to the sign-in if it began late
					}
				})
			}
			wait.Wait()
			b.get("/private").want(t, http.StatusOK, "private to ann")
			old, fresh = fresh, old
		}
	})
	t.Run("deletes the account once, and says so twice", func(t *testing.T) {
		h, users := hook()
		s := serve(t, users)
		s.add("ann")
		b := s.open()
		b.signIn("ann")
		second := s.with(b.token())
		h.afterByID = func() {
			b.post("/account/delete", "current", password).want(t, http.StatusOK, "Your account is deleted")
		}
		second.post("/account/delete", "current", password).want(t, http.StatusOK, "Your account is deleted")
	})
}

// events are those of the audit log, the newest first.
func (s *site) events() (list []string) {
	s.t.Helper()
	entries, err := s.tables.Audit(context.Background(), login.AuditQuery{})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, e.Event+" "+e.Result)
	}
	return list
}

// postAndLeave posts a form from a browser that is gone once the row is written.
func (b *browser) postAndLeave(s *site, h *hookedUsers, path string, fields ...string) {
	r := httptest.NewRequest("POST", path, strings.NewReader(form(fields...)))
	r.Header = http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Accept": {"text/html"}, "Cookie": {"crumb=" + b.token()}}
	ctx, leave := context.WithCancel(r.Context())
	h.afterWrite = leave
	s.handler.ServeHTTP(httptest.NewRecorder(), r.WithContext(ctx))
	if ctx.Err() == nil {
		b.t.Error("nothing was written")
	}
	leave()
}

func TestWhatIsWrittenIsSettledThoughTheClientLeaves(t *testing.T) {
	for path, c := range map[string]struct {
		fields []string
		event  string
		live   int
	}{
		"/account/password": {[]string{"current", password, "password", newPassword}, "password-change ok", 1},
		"/account/delete":   {[]string{"current", password}, "user-deleted ok", 0},
	} {
		h, users := hook()
		s := serve(t, users)
		u := s.add("ann")
		here, there := s.open(), s.open()
		here.signIn("ann")
		there.signIn("ann")
		here.postAndLeave(s, h, path, c.fields...)
		if n := len(s.live(u.ID)); n != c.live {
			t.Errorf("%s: %d sessions live, want %d", path, n, c.live)
		}
		if list := s.events(); list[0] != c.event {
			t.Errorf("%s: the audit log says %v", path, list)
		}
	}
	t.Run("by a reset link too", func(t *testing.T) {
		sent := make(chan string, 1)
		h, users := hook()
		s := serve(t, links(sent), users)
		s.run(t)
		u := s.add("ann")
		b := s.open()
		b.signIn("ann")
		b.post("/forgot", "name", "ann")
		_, token, _ := strings.Cut(<-sent, "token=")
		b.postAndLeave(s, h, "/reset", "token", token, "password", newPassword)
		if n := len(s.live(u.ID)); n != 0 || s.events()[0] != "reset ok" {
			t.Errorf("%d sessions live, and the audit log says %v", n, s.events())
		}
	})
}

func TestWhileUsersCannotBeReadOnce(t *testing.T) {
	t.Run("a change of the password is told, ends the others, and stays", func(t *testing.T) {
		h, users := hook()
		s := serve(t, users)
		u := s.add("ann")
		here, there := s.open(), s.open()
		here.signIn("ann")
		there.signIn("ann")
		h.failByID.Store(2) // after the guard
		here.post("/account/password", "current", password, "password", newPassword).want(t, http.StatusServiceUnavailable, "Your password is changed")
		if n := len(s.live(u.ID)); n != 1 || s.events()[0] != "password-change ok" {
			t.Errorf("%d sessions live, and the audit log says %v", n, s.events())
		}
		here.get("/private").want(t, http.StatusOK)
		there.get("/private").wantTo(t, "/login?next=/private")
		s.wantOnly(newPassword, password)
	})
	t.Run("nobody is signed out who confirms who they are", func(t *testing.T) {
		h, users := hook()
		s := serve(t, users)
		s.add("ann")
		b := s.open()
		b.signIn("ann")
		h.failByID.Store(2)
		b.post("/login", "password", password).want(t, http.StatusServiceUnavailable)
		b.get("/private").want(t, http.StatusOK)
	})
	t.Run("and nobody is signed in", func(t *testing.T) {
		h, users := hook()
		s := serve(t, users)
		s.add("ann")
		b := s.open()
		h.failByID.Store(1)
		b.post("/login", "name", "ann", "password", password).want(t, http.StatusServiceUnavailable)
		b.get("/private").wantTo(t, "/login?next=/private")
	})
}
