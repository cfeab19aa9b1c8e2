package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/session/sessiontest"
)

// A browser keeps cookies and follows redirects.
type browser struct {
	t    *testing.T
	base string
	http.Client
}

func serve(t *testing.T) (*session.Manager, func() *browser) {
	sessions, err := newSessions()
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(routes(sessions))
	t.Cleanup(server.Close)
	return sessions, func() *browser {
		jar, err := cookiejar.New(nil)
		if err != nil {
			t.Fatal(err)
		}
		return &browser{t, server.URL, http.Client{Jar: jar}}
	}
}

func (b *browser) read(resp *http.Response, err error) (int, string) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func (b *browser) get(path string) (int, string) {
	b.t.Helper()
	return b.read(b.Get(b.base + path))
}

func (b *browser) post(path string, form ...string) (int, string) {
	b.t.Helper()
	values := url.Values{}
	for i := 0; i < len(form); i += 2 {
		values.Set(form[i], form[i+1])
	}
	return b.read(b.PostForm(b.base+path, values))
}

func (b *browser) signIn() {
	b.t.Helper()
	if code, body := b.post("/sign-in", "name", "ann", "password", "breadcrumbs"); code != 200 || !strings.Contains(body, "Welcome, ann.") {
		b.t.Fatalf("sign-in: %d %s", code, body)
	}
}

func wants(t *testing.T, what, body string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if absent, no := strings.CutPrefix(part, "!"); no == strings.Contains(body, absent) {
			t.Errorf("%s: want %q in\n%s", what, part, body)
		}
	}
}

func TestAFlashMessageIsShownOnce(t *testing.T) {
	_, open := serve(t)
	b := open()
	_, body := b.post("/note", "note", "<b>milk</b>")
	wants(t, "after the redirect", body, "Saved.", "&lt;b&gt;milk&lt;/b&gt;", "!<b>milk")
	_, body = b.get("/")
	wants(t, "reloaded", body, "!Saved.", "milk")
}

func TestACartKeepsWhatTabsAddAtOnceAndOutlivesASignIn(t *testing.T) {
	_, open := serve(t)
	b := open()
	b.post("/cart", "bread", "Walnut")
	var tabs sync.WaitGroup
	for range 10 {
		for _, bread := range breads {
			tabs.Go(func() { b.post("/cart", "bread", bread) })
		}
	}
	tabs.Wait()
	all := []string{"<td>Walnut</td><td>11</td>", "<td>Sourdough</td><td>10</td>", "<td>Rye &amp; caraway</td><td>10</td>"}
	_, body := b.get("/cart")
	wants(t, "30 at once", body, all...)
	b.signIn()
	_, body = b.get("/cart")
	wants(t, "signed in", body, all...)
	_, body = b.post("/cart/empty")
	wants(t, "emptied", body, "It is empty.")
	if code, _ := b.post("/cart", "bread", "Stone"); code != http.StatusBadRequest {
		t.Errorf("an unknown bread: %d, want 400", code)
	}
}

func TestSigningInByForm(t *testing.T) {
	_, open := serve(t)
	b := open()
	b.post("/note", "note", "planted")
	code, body := b.post("/sign-in", "name", "ann", "password", "breadcrumb")
	if code != http.StatusUnauthorized {
		t.Errorf("wrong password: %d, want 401", code)
	}
	wants(t, "wrong password", body, "do not match", "!Sign out")
	b.signIn()
	_, body = b.get("/")
	wants(t, "signed in", body, "Sign out", "!planted")
	_, body = b.post("/sign-out")
	wants(t, "signed out", body, "!Sign out")
	if _, body = b.get("/devices"); !strings.Contains(body, "<h1>Sign in</h1>") {
		t.Errorf("a private page after signing out: %s", body)
	}
}

func TestAPrivatePageIsForSignedInUsers(t *testing.T) {
	r := sessiontest.NewRequest("GET", "/cart", nil)
	session.From(r).SignIn("ann")
	w := httptest.NewRecorder()

	private(showCart)(w, r)

	if w.Code != http.StatusOK {
		t.Errorf("signed in: %d, want 200", w.Code)
	}
	w = httptest.NewRecorder()
	private(showCart)(w, sessiontest.NewRequest("GET", "/cart", nil))
	if w.Code != http.StatusSeeOther {
		t.Errorf("not signed in: %d, want 303", w.Code)
	}
}

func TestAnOAuthStateCountsOnceAndOnlyWhereItBegan(t *testing.T) {
	_, open := serve(t)
	b, thief := open(), open()
	_, body := b.post("/oauth/start")
	state := regexp.MustCompile(`name="state" value="(\w+)"`).FindStringSubmatch(body)
	if state == nil {
		t.Fatalf("the provider's page has no state: %s", body)
	}

	code, body := thief.post("/provider/allow", "state", state[1])
	if code != http.StatusBadRequest {
		t.Errorf("another browser with that state: %d, want 400", code)
	}
	wants(t, "another browser", body, "!Sign out")

	code, body = b.post("/provider/allow", "state", state[1])
	if code != http.StatusOK {
		t.Errorf("the callback: %d, want 200", code)
	}
	wants(t, "the callback", body, "<h1>Devices</h1>", "(this one)", "Sign out")

	code, body = b.post("/provider/allow", "state", state[1])
	if code != http.StatusBadRequest {
		t.Errorf("the state again: %d, want 400", code)
	}
	wants(t, "the state again", body, "begin again")
}

func TestAWrongStateSpendsNoCode(t *testing.T) {
	_, open := serve(t)
	b := open()
	_, body := b.post("/oauth/start")
	state := regexp.MustCompile(`name="state" value="(\w+)"`).FindStringSubmatch(body)
	if state == nil {
		t.Fatalf("the provider's page has no state: %s", body)
	}
	theProvider.mu.Lock()
	theProvider.codes["the-code"] = "ann"
	theProvider.mu.Unlock()
	callback := func(state string) (int, string) {
		return b.get("/oauth/callback?" + url.Values{"code": {"the-code"}, "state": {state}}.Encode())
	}
	for _, wrong := range []string{"", "wrong", strings.ToLower(state[1])} {
		if code, body := callback(wrong); code != http.StatusBadRequest {
			t.Errorf("state %q: %d %s, want 400", wrong, code, body)
		}
	}
	code, body := callback(state[1])
	if code != http.StatusOK {
		t.Errorf("the code after wrong states: %d, want 200", code)
	}
	wants(t, "the code after wrong states", body, "<h1>Devices</h1>", "Sign out")
}

func TestWhatCannotBeKeptIsNotWorthARetry(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
	}{{fmt.Errorf("session: %w", &session.ValueError{Key: "cart.lines"}), 500}, {session.ErrUnknown, 503}} {
		w := httptest.NewRecorder()
		tryLater(w, c.err)
		if w.Code != c.code || (w.Header().Get("Retry-After") != "") != (c.code == 503) {
			t.Errorf("%v: %d, Retry-After %q", c.err, w.Code, w.Header().Get("Retry-After"))
		}
	}
}

func TestADeviceEndsAnotherOfTheSameUserAndItsStream(t *testing.T) {
	sessions, open := serve(t)
	phone, laptop, visitor := open(), open(), open()
	phone.signIn()
	laptop.signIn()
	visitor.post("/note", "note", "mine")

	stream, err := laptop.Get(laptop.base + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	events := bufio.NewReader(stream.Body)
	if line, err := events.ReadString('\n'); err != nil || !strings.HasPrefix(line, "data: ") {
		t.Fatalf("the stream began with %q, %v", line, err)
	}

	other := otherDevices(t, phone)
	if len(other) != 1 {
		t.Fatalf("%d other devices, want 1", len(other))
	}
	phone.post(other[0])
	rest, err := io.ReadAll(events)
	if err != nil || !strings.Contains(string(rest), "event: ended") {
		t.Errorf("the stream ended with %q, %v; want an event that says so", rest, err)
	}
	_, body := laptop.get("/")
	wants(t, "the ended device", body, "!Sign out")
	_, body = phone.get("/")
	wants(t, "the device that ended it", body, "Sign out")

	for in, err := range sessions.List(t.Context(), session.Query{All: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if in.User != "" {
			continue
		}
		if code, _ := phone.post("/devices/" + string(in.ID) + "/end"); code != http.StatusNotFound {
			t.Errorf("ending somebody else's session: %d, want 404", code)
		}
	}
	_, body = visitor.get("/")
	wants(t, "somebody else", body, "mine")

	if len(otherDevices(t, phone)) != 0 {
		t.Error("the ended device is still listed")
	}
	_, body = phone.get("/devices")
	own := regexp.MustCompile(`/devices/[\w-]+/end"`).FindString(body)
	_, body = phone.post(strings.TrimSuffix(own, `"`))
	wants(t, "ending its own session", body, "!Sign out")
}

func TestADeviceEndsAllOthers(t *testing.T) {
	_, open := serve(t)
	phone, laptop, desk := open(), open(), open()
	for _, b := range []*browser{phone, laptop, desk} {
		b.signIn()
	}
	phone.post("/devices/end-others")
	for _, b := range []*browser{laptop, desk} {
		_, body := b.get("/")
		wants(t, "an ended device", body, "!Sign out")
	}
	_, body := phone.get("/devices")
	wants(t, "the device that ended them", body, "(this one)")
	if len(otherDevices(t, phone)) != 0 {
		t.Error("an ended device is still listed")
	}
}

// otherDevices returns the paths that end the user's other sessions.
func otherDevices(t *testing.T, b *browser) (paths []string) {
	t.Helper()
	_, body := b.get("/devices")
	for row := range strings.SplitSeq(body, "</tr>") {
		if path := regexp.MustCompile(`/devices/[\w-]+/end"`).FindString(row); path != "" && !strings.Contains(row, "(this one)") {
			paths = append(paths, strings.TrimSuffix(path, `"`))
		}
	}
	return paths
}

func TestPagesOfOtherSitesCannotPost(t *testing.T) {
	_, open := serve(t)
	b := open()
	req, err := http.NewRequest("POST", b.base+"/note", strings.NewReader("note=x"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	if code, _ := b.read(b.Do(req)); code != http.StatusForbidden {
		t.Errorf("got %d, want 403", code)
	}
	if code, _ := b.get("/static/tasks.css"); code != http.StatusOK {
		t.Errorf("the style sheet: %d", code)
	}
}
