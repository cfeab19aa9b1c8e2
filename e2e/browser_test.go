package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// A browser is one tab of a Chromium of its own, with a profile of its own.
type browser struct {
	t    *testing.T
	ctx  context.Context
	base string
}

func open(t *testing.T, base string) *browser {
	t.Helper()
	path := os.Getenv("CHROMIUM")
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil && path == "" {
			path = found
		}
	}
	if path == "" {
		t.Fatal("there is no Chromium; install it, or name one in the variable CHROMIUM")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	alloc, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	tab, cancelTab := chromedp.NewContext(alloc)
	t.Cleanup(cancelTab)
	b := &browser{t: t, ctx: tab, base: base}
	// The first use starts the browser, whose life is that of its context: no
	// time limit before it.
	b.must(chromedp.Do(tab, chromedp.EmulateViewport(1280, 800)))
	_, err := chromedp.Call(tab, emulation.SetFocusEmulationEnabled, emulation.SetFocusEmulationEnabledParams{Enabled: true})
	b.must(err)
	limited, cancelLimit := context.WithTimeout(tab, 2*time.Minute)
	t.Cleanup(cancelLimit)
	b.ctx = limited
	return b
}

func (b *browser) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	b.must(chromedp.Do(b.ctx, steps...))
}

func (b *browser) goTo(path string) {
	b.t.Helper()
	b.do(chromedp.Navigate(b.base + path))
}

// keys types into the field that the page puts the focus on. Tab is a key, too.
func (b *browser) keys(text string) {
	b.t.Helper()
	_, err := chromedp.Run(b.ctx, chromedp.Poll[bool](`document.activeElement instanceof HTMLInputElement`))
	b.must(err)
	b.do(chromedp.KeyEvent(text))
}

// send types keys that load a page, and waits for it.
func (b *browser) send(text string) {
	b.t.Helper()
	_, err := chromedp.RunResponse(b.ctx, chromedp.KeyEvent(text))
	b.must(err)
}

// at returns the path and query of the page.
func (b *browser) at() string {
	b.t.Helper()
	url, err := chromedp.Run(b.ctx, chromedp.Location())
	b.must(err)
	return strings.TrimPrefix(url, b.base)
}

func (b *browser) eval(expression string) string {
	b.t.Helper()
	text, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](expression))
	b.must(err)
	return text
}

// tabTo presses Tab until what has the focus carries this text, or this name.
func (b *browser) tabTo(text string) {
	b.t.Helper()
	for range 30 {
		if b.eval(`((e) => e.innerText || e.name || "")(document.activeElement)`) == text {
			return
		}
		b.do(chromedp.KeyEvent(kb.Tab))
	}
	b.t.Fatalf("Tab does not reach %q on %s", text, b.at())
}

func (b *browser) wantAt(path string) {
	b.t.Helper()
	if got := b.at(); got != path {
		b.t.Fatalf("the browser is at %s, want %s:\n%s", got, path, b.eval(`document.body.innerText`))
	}
}

func (b *browser) wantText(text string) {
	b.t.Helper()
	if got := b.eval(`document.body.innerText`); !strings.Contains(got, text) {
		b.t.Fatalf("%s does not say %q:\n%s", b.at(), text, got)
	}
}

func TestSigningInAndOutWithTheKeyboardAlone(t *testing.T) {
	url, _ := serve(t)
	b := open(t, url)
	b.goTo("/private")
	b.wantAt("/login?next=/private")

	b.keys("ann" + kb.Tab + "not the password")
	b.send(kb.Enter)
	b.wantText("Name and password do not match.")
	if got := b.eval(`document.activeElement.name`); got != "password" {
		t.Errorf("after a wrong password the focus is on %q", got)
	}

	b.waitOut()
	b.keys(password)
	b.send(kb.Enter)
	b.wantAt("/private")
	b.wantText("Signed in as ann")

	b.tabTo("Sign out")
	b.send(kb.Enter)
	b.wantAt("/")
	b.goTo("/private")
	b.wantAt("/login?next=/private")
	// The way back to the private page, two pages ago, does not show it either.
	_, err := chromedp.RunResponse(b.ctx, chromedp.Evaluate[chromedp.Void](`history.go(-2)`))
	b.must(err)
	b.wantAt("/login?next=/private")
}

// waitOut waits until the account takes another try: a second after a wrong one.
func (b *browser) waitOut() {
	b.t.Helper()
	_, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool](`new Promise(r => setTimeout(r, 1100, true))`, chromedp.EvalAwaitPromise))
	b.must(err)
}

// signIn signs ann in and leaves the browser at path.
func (b *browser) signIn(path string) {
	b.t.Helper()
	b.goTo("/login?next=" + path)
	b.keys("ann" + kb.Tab + password)
	b.send(kb.Enter)
	b.wantAt(path)
}

func TestAccountPagesWithTheKeyboardAlone(t *testing.T) {
	url, _ := serve(t)
	phone, laptop := open(t, url), open(t, url)
	phone.signIn("/account")
	laptop.signIn("/account")

	laptop.tabTo("Where you are signed in")
	laptop.send(kb.Enter)
	laptop.wantAt("/account/sessions")
	laptop.wantText("This device")
	laptop.tabTo("Sign out everywhere else")
	laptop.send(kb.Enter)
	laptop.wantText("Signed out everywhere else.")
	phone.goTo("/account")
	phone.wantAt("/login?next=/account")

	phone.signIn("/account")
	laptop.goTo("/account/password")
	const another = "another set of crumbs"
	laptop.keys(password + kb.Tab + another)
	laptop.send(kb.Enter)
	laptop.wantAt("/account")
	laptop.wantText("Your password is changed.")
	phone.goTo("/account")
	phone.wantAt("/login?next=/account")

	laptop.goTo("/account/delete")
	laptop.keys(another)
	laptop.send(kb.Enter)
	laptop.wantText("Your account is deleted")
	laptop.goTo("/account")
	laptop.wantAt("/login?next=/account")
}

func TestAResetLinkInTheBrowser(t *testing.T) {
	url, dir := serve(t)
	b := open(t, url)
	link := strings.TrimSpace(run(t, dir, "", "users", "reset", "ann"))
	_, token, _ := strings.Cut(link, "/reset")
	b.goTo("/reset" + token)
	b.keys("short")
	b.send(kb.Enter)
	b.wantText("at least 15 characters")
	const another = "another set of crumbs"
	b.keys(another)
	b.send(kb.Enter)
	b.wantAt("/login")
	b.wantText("Your new password is set.")
	b.keys("ann" + kb.Tab + another)
	b.send(kb.Enter)
	b.wantAt("/")
	b.goTo("/reset" + token)
	b.keys("one more set of crumbs")
	b.send(kb.Enter)
	b.wantText("That link does not work")
}

// looks are the ways a page is looked at.
var looks = []struct {
	name          string
	width, height int64
	scheme        string
}{
	{"desktop-light", 1280, 800, "light"}, {"desktop-dark", 1280, 800, "dark"},
	{"phone-light", 390, 844, "light"}, {"phone-dark", 390, 844, "dark"},
}

func TestEveryPageIsAccessibleAtAA(t *testing.T) {
	url, dir := serve(t, "--register")
	axe, err := os.ReadFile("testdata/axe-core/axe.min.js")
	if err != nil {
		t.Fatal(err)
	}
	b := open(t, url)
	check := func(name string) {
		t.Helper()
		for _, look := range looks {
			b.look(look.width, look.height, look.scheme)
			if wide := b.eval(`String(document.documentElement.scrollWidth > document.documentElement.clientWidth)`); wide == "true" {
				t.Errorf("%s, %s: the page is wider than the window", name, look.name)
			}
			for _, v := range b.violations(string(axe)) {
				t.Errorf("%s, %s: %s", name, look.name, v)
			}
			b.picture(name + "-" + look.name)
		}
	}

	for name, path := range map[string]string{"hello": "/", "sign-in": "/login?next=/private", "register": "/register", "forgot": "/forgot", "forgot-sent": "/forgot?sent"} {
		b.goTo(path)
		check(name)
	}
	b.goTo("/register")
	b.keys("ann" + kb.Tab + password)
	b.send(kb.Enter)
	b.wantText("That name is taken.")
	check("register-taken")
	b.goTo("/register")
	b.keys("carla" + kb.Tab + "short")
	b.send(kb.Enter)
	check("register-short")
	b.goTo("/login")
	b.keys("bob" + kb.Tab + "not the password")
	b.send(kb.Enter)
	check("sign-in-wrong")
	post(t, url+"/login", "name=bob&password=again+not+the+password")
	b.keys("not the password")
	b.send(kb.Enter)
	b.wantText("Please wait")
	check("throttled")
	b.goTo("/reset?token=x")
	check("reset")
	b.keys(password + " anew")
	b.send(kb.Enter)
	b.wantText("That link does not work")
	check("reset-bad")

	other := open(t, url)
	other.signIn("/private")
	b.signIn("/private")
	check("private")
	for name, path := range map[string]string{"account": "/account", "password": "/account/password", "sessions": "/account/sessions", "delete": "/account/delete", "confirm": "/login?next=/account"} {
		b.goTo(path)
		check(name)
	}
	b.goTo("/account/password")
	b.keys("not the password" + kb.Tab + password + " anew")
	b.send(kb.Enter)
	check("password-wrong")
	b.waitOut()
	b.goTo("/account/password")
	b.keys(password + kb.Tab + password + " anew")
	b.send(kb.Enter)
	b.wantText("Your password is changed.")
	check("account-notice")
	run(t, dir, "", "users", "disable", "ann")
	b.goTo("/account")
	b.wantAt("/login?next=/account")
}

// look sets the window and the colour scheme.
func (b *browser) look(width, height int64, scheme string) {
	b.t.Helper()
	b.do(chromedp.EmulateViewport(width, height))
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
	b.must(err)
}

// violations returns what axe finds against WCAG 2.2 at levels A and AA.
func (b *browser) violations(axe string) []string {
	b.t.Helper()
	b.do(chromedp.Evaluate[chromedp.Void](`if (!window.axe) {` + axe + `} undefined`))
	list, err := chromedp.Run(b.ctx, chromedp.Evaluate[[]string](`axe.run(document, {
		runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
	}).then(out => out.violations.flatMap(v => v.nodes.map(n => v.id + ": " + v.help + ": " + n.html + " " + (n.failureSummary || ""))))`,
		chromedp.EvalAwaitPromise))
	b.must(err)
	return list
}

// picture keeps a picture of the whole page, if the variable PICTURES names a
// folder.
func (b *browser) picture(name string) {
	b.t.Helper()
	dir := os.Getenv("PICTURES")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	b.must(err)
	b.must(os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644))
}
