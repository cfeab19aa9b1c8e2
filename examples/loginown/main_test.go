package main

import (
	"context"
	"database/sql"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/login"
)

func TestPeopleOfTheAppsOwnTableSignInUntilTheyAreBlocked(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "people.db")
	a, err := app.New(app.Options{Args: []string{
		"--database=memory:", "--secret-key-file=" + filepath.Join(dir, "crumb.keys"), "--people.file=" + file,
	}}, pages)
	if err != nil {
		t.Fatal(err)
	}
	h, err := a.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Stop(context.Background())

	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	hash, err := login.HashPassword("crumbs in every corner", 15)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("INSERT INTO people (email, password, password_no, blocked) VALUES ('ann@example.org', ?, 1, 0)", hash); err != nil {
		t.Fatal(err)
	}

	cookie := ""
	ask := func(method, path string, form url.Values) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "http://localhost"+path, strings.NewReader(form.Encode()))
		r.Header = http.Header{"Accept": {"text/html"}, "Cookie": {cookie}, "Content-Type": {"application/x-www-form-urlencoded"}}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		for _, c := range w.Result().Cookies() {
			if c.Name == "crumb" {
				cookie = "crumb=" + c.Value
			}
		}
		return w
	}
	if w := ask("POST", "/login", url.Values{"name": {"Ann@Example.org"}, "password": {"crumbs in every corner"}}); w.Code != http.StatusSeeOther {
		t.Fatalf("the sign-in: %d %s", w.Code, w.Body)
	}
	if w := ask("GET", "/", nil); w.Body.String() != "Hello, ann@example.org\n" {
		t.Errorf("the page: %d %s", w.Code, w.Body)
	}
	if w := ask("POST", "/account/password", url.Values{"current": {"crumbs in every corner"}, "password": {"another set of crumbs"}}); w.Code != http.StatusSeeOther {
		t.Errorf("the change of password: %d %s", w.Code, w.Body)
	}
	if w := ask("GET", "/", nil); w.Code != http.StatusOK {
		t.Errorf("after it the page is %d", w.Code)
	}
	if err := (people{db}).block(t.Context(), "ann@example.org"); err != nil {
		t.Fatal(err)
	}
	if w := ask("GET", "/", nil); w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/login" {
		t.Errorf("blocked, the page is %d to %q", w.Code, w.Header().Get("Location"))
	}
}

func TestAHashOfAnotherKindIsReplaced(t *testing.T) {
	db, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "people.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(schema + "; INSERT INTO people VALUES (7, 'ann@example.org', 'old', 1, 0)"); err != nil {
		t.Fatal(err)
	}
	p := people{db}
	for _, c := range []struct{ old, new, want string }{{"other", "new", "old"}, {"old", "new", "new"}} {
		if err := p.Rehash(t.Context(), "7", c.old, c.new); err != nil {
			t.Fatal(err)
		}
		if u, err := p.ByID(t.Context(), "7"); err != nil || u.Hash != c.want || u.Generation != 1 {
			t.Errorf("from %s to %s: %+v, %v", c.old, c.new, u, err)
		}
	}
}

func TestAPasswordIsSetOnlyOnTheRowThatWasRead(t *testing.T) {
	db, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "people.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(schema + "; INSERT INTO people VALUES (7, 'ann@example.org', 'first', 1, 0)"); err != nil {
		t.Fatal(err)
	}
	p := people{db}
	if u, err := p.SetPassword(t.Context(), "7", 1, "second"); err != nil || u.Hash != "second" || u.Generation != 2 {
		t.Errorf("the first change: %+v, %v", u, err)
	}
	for what, id := range map[string]string{"a row read before the change": "7", "nobody": "8"} {
		if _, err := p.SetPassword(t.Context(), id, 1, "third"); err != login.ErrChanged {
			t.Errorf("a password for %s: %v", what, err)
		}
	}
	if err := p.block(t.Context(), "ann@example.org"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.SetPassword(t.Context(), "7", 2, "third"); err != login.ErrChanged {
		t.Errorf("a password for who was blocked: %v", err)
	}
}
