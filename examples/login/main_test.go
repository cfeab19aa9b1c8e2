package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/crumb-go/crumb/app"
)

const password = "crumbs in every corner"

// serve starts the app and returns a function that sends requests as one browser.
func serve(t *testing.T) func(method, path string, form url.Values) *http.Response {
	dir := t.TempDir()
	a, err := app.New(app.Options{Args: []string{
		"--database=sqlite:" + filepath.Join(dir, "crumb.db"), "--secret-key-file=" + filepath.Join(dir, "crumb.keys"), "--register",
	}}, helloWorld)
	if err != nil {
		t.Fatal(err)
	}
	h, err := a.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	cookies := map[string]string{}
	return func(method, path string, form url.Values) *http.Response {
		r := httptest.NewRequest(method, "http://localhost"+path, strings.NewReader(form.Encode()))
		r.Header.Set("Accept", "text/html")
		if form != nil {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		for name, value := range cookies {
			r.AddCookie(&http.Cookie{Name: name, Value: value})
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		for _, c := range w.Result().Cookies() {
			cookies[c.Name] = c.Value
		}
		return w.Result()
	}
}

func body(t *testing.T, resp *http.Response) string {
	t.Helper()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestTheDiaryIsPrivateAndTheFrontPageIsNot(t *testing.T) {
	ask := serve(t)
	if got := body(t, ask("GET", "/", nil)); got != "You've seen this page 1 times\n" {
		t.Errorf("the front page says %q", got)
	}
	if resp := ask("GET", "/diary", nil); resp.StatusCode != 303 || resp.Header.Get("Location") != "/login?next=/diary" {
		t.Errorf("the diary is %s", resp.Status)
	}
	if resp := ask("POST", "/register", url.Values{"name": {"ann"}, "password": {password}, "next": {"/diary"}}); resp.StatusCode != 303 || resp.Header.Get("Location") != "/diary" {
		t.Fatalf("registering: %s", resp.Status)
	}
	if got := body(t, ask("GET", "/", nil)); !strings.HasPrefix(got, "Hello, ann\n") {
		t.Errorf("the front page says %q", got)
	}
	ask("POST", "/diary", url.Values{"text": {"ate a <crumb>"}})
	if got := body(t, ask("GET", "/diary", nil)); !strings.Contains(got, "The diary of ann") || !strings.Contains(got, "ate a &lt;crumb&gt;") {
		t.Errorf("the diary says %s", got)
	}
	ask("POST", "/diary/burn", url.Values{})
	if got := body(t, ask("GET", "/diary", nil)); strings.Contains(got, "crumb&gt;") {
		t.Error("the diary does not burn")
	}
	ask("POST", "/logout", url.Values{})
	if resp := ask("GET", "/diary", nil); resp.StatusCode != 303 {
		t.Errorf("after the sign-out the diary is %s", resp.Status)
	}
	if resp := ask("POST", "/forgot", url.Values{"name": {"ann"}}); resp.StatusCode != 303 {
		t.Errorf("asking for a link: %s", resp.Status)
	}
}
