package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/crumb-go/crumb/login"
	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
)

func TestThePrivatePageIsForUsers(t *testing.T) {
	ctx := context.Background()
	tables, err := login.OpenTables(ctx, "memory:", login.TablesConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer tables.Close()
	hash, err := login.HashPassword("crumbs in every corner", 15)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tables.Add(ctx, "Ann", "ann", hash); err != nil {
		t.Fatal(err)
	}
	sessions, err := session.NewManager(memory.New(), session.Config{Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	accounts, err := newAccounts(filepath.Join(t.TempDir(), "crumb.keys"), sessions, tables)
	if err != nil {
		t.Fatal(err)
	}
	h := routes(sessions, accounts)
	ask := func(method, path, body, cookie string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.Header = http.Header{"Accept": {"text/html"}, "Cookie": {cookie}, "Content-Type": {"application/x-www-form-urlencoded"}}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	if w := ask("GET", "/private", "", ""); w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/login?next=/private" {
		t.Errorf("to anybody it is %d to %q", w.Code, w.Header().Get("Location"))
	}
	in := ask("POST", "/login", "name=ann&password=crumbs+in+every+corner", "")
	for _, c := range in.Result().Cookies() {
		if c.Name == "crumb" {
			if w := ask("GET", "/private", "", "crumb="+c.Value); w.Body.String() != "Hello, Ann\n" {
				t.Errorf("to ann it is %d %s", w.Code, w.Body)
			}
			return
		}
	}
	t.Errorf("the sign-in: %d %s", in.Code, in.Body)
}
