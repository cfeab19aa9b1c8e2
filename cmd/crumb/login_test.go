package main

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const userPassword = "crumbs in every corner"

// typed runs the command with this on its standard input.
func typed(t *testing.T, dir, stdin string, args ...string) outcome {
	t.Helper()
	cmd := exec.Command(crumbPath, args...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Env = dir, environ()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	cmd.Run()
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func addUser(t *testing.T, dir, name string) {
	t.Helper()
	if o := typed(t, dir, userPassword+"\n", "users", "add", name); o.code != 0 || o.stdout != "Added "+name+".\n" {
		t.Fatalf("users add: %+v", o)
	}
}

// formPost posts a form with the cookies given, as curl does.
func (s *server) formPost(path, cookies, form string) answer {
	s.t.Helper()
	r, err := http.NewRequest("POST", s.url+path, strings.NewReader(form))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header = http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Cookie": {cookies}, "Accept": {"*/*"}}
	s.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	body.ReadFrom(resp.Body)
	return answer{resp, body.String(), nil}
}

func (s *server) wantPrivate(token, name string) {
	s.t.Helper()
	s.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	a := s.get("/private", token, "Accept", "*/*")
	switch {
	case name == "" && (a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/login?next=/private"):
		s.t.Errorf("/private is %s to %q, want 303 to the sign-in", a.Status, a.Header.Get("Location"))
	case name != "" && (a.StatusCode != http.StatusOK || !strings.Contains(a.body, "Signed in as "+name)):
		s.t.Errorf("/private is %s, want the page of %s:\n%s", a.Status, name, a.body)
	}
}

const signInForm = "name=ann&password=crumbs+in+every+corner&next=/private"

func TestAUserOfTheCommandSignsInAndOut(t *testing.T) {
	dir := t.TempDir()
	addUser(t, dir, "ann")
	one, two := start(t, dir, crumbPath, "--login"), start(t, dir, crumbPath, "--login")
	one.wantPrivate("", "")
	before := one.visitor()
	in := one.formPost("/login", "crumb="+before, signInForm)
	token := in.token()
	if in.StatusCode != http.StatusSeeOther || in.Header.Get("Location") != "/private" || token == "" || token == before {
		t.Fatalf("the sign-in: %s, token %q\n%s", in.Status, token, in.body)
	}
	for _, s := range []*server{one, two} {
		s.wantPrivate(token, "ann")
		s.wantPrivate(before, "")
	}
	if out := two.formPost("/logout", "crumb="+token, ""); out.StatusCode != http.StatusSeeOther {
		t.Errorf("the sign-out: %s", out.Status)
	}
	one.wantPrivate(token, "")

	t.Run("and is out in every process once disabled, until enabled", func(t *testing.T) {
		token := one.formPost("/login", "", signInForm).token()
		two.wantPrivate(token, "ann")
		if got := mustCrumb(t, dir, "users", "disable", "ann"); got != "Disabled ann and ended 1 session.\n" {
			t.Errorf("users disable says %q", got)
		}
		one.wantPrivate(token, "")
		two.wantPrivate(token, "")
		if a := one.formPost("/login", "", signInForm); a.StatusCode != http.StatusUnprocessableEntity {
			t.Errorf("a disabled user signs in: %s", a.Status)
		}
		mustCrumb(t, dir, "users", "enable", "ann")
		mustCrumb(t, dir, "users", "unlock", "ann")
		if a := two.formPost("/login", "", signInForm); a.StatusCode != http.StatusSeeOther {
			t.Errorf("an enabled user is answered %s", a.Status)
		}
	})
	t.Run("and all of it is in the audit log", func(t *testing.T) {
		log := mustCrumb(t, dir, "audit", "--user", "ann", "--json")
		for _, want := range []string{`"user-added"`, `"sign-in"`, `"sign-out"`, `"new-device"`, `"user-disabled"`, `"user-enabled"`, `"user-unlocked"`, `"by": "operator"`, `"addr": "127.0.0.1"`, `"disabled"`} {
			if !strings.Contains(log, want) {
				t.Errorf("the log lacks %s:\n%s", want, log)
			}
		}
	})
}

func TestWrongPasswordsCountInAllProcessesAndAfterARestart(t *testing.T) {
	dir := t.TempDir()
	addUser(t, dir, "ann")
	one, two := start(t, dir, crumbPath, "--login"), start(t, dir, crumbPath, "--login")
	const wrong = "name=ann&password=not+the+password"
	deadline := time.Now().Add(patience)
	for checked := 0; checked < 4; { // then the wait is 8 seconds
		if one.formPost("/login", "", wrong).StatusCode == http.StatusUnprocessableEntity {
			checked++
		}
		if time.Now().After(deadline) {
			t.Fatal("no try is let through")
		}
	}
	if a := two.formPost("/login", "", signInForm); a.StatusCode != http.StatusTooManyRequests || a.Header.Get("Retry-After") == "" {
		t.Errorf("the other process answers %s", a.Status)
	}
	one.kill()
	two.kill()
	three := start(t, dir, crumbPath, "--login")
	if a := three.formPost("/login", "", signInForm); a.StatusCode != http.StatusTooManyRequests {
		t.Errorf("after a restart it answers %s", a.Status)
	}
	mustCrumb(t, dir, "users", "unlock", "ann")
	if a := three.formPost("/login", "", signInForm); a.StatusCode != http.StatusSeeOther {
		t.Errorf("unlocked it answers %s:\n%s", a.Status, a.body)
	}
}

func TestARotationOfTheKeysEndsNothing(t *testing.T) {
	dir := t.TempDir()
	addUser(t, dir, "ann")
	s := start(t, dir, crumbPath, "--login")
	in := s.formPost("/login", "", signInForm)
	var device string
	for _, c := range in.Cookies() {
		if c.Name == "crumb-device" {
			device = c.Name + "=" + c.Value
		}
	}
	if device == "" {
		t.Fatalf("no cookie for the device: %v", in.Header)
	}
	mustCrumb(t, dir, "keys", "rotate")
	s.wantPrivate(in.token(), "ann")
	restarted := start(t, dir, crumbPath, "--login")
	if again := restarted.formPost("/login", device, signInForm); strings.Contains(strings.Join(again.Header["Set-Cookie"], "\n"), "crumb-device") {
		t.Error("the device is no longer known")
	}
}

func TestSessionsThatAnOperatorEndsAreInTheAuditLog(t *testing.T) {
	dir := t.TempDir()
	addUser(t, dir, "ann")
	s := start(t, dir, crumbPath, "--login")
	one, two := s.formPost("/login", "", signInForm).token(), s.formPost("/login", "", signInForm).token()
	mustCrumb(t, dir, "sessions", "revoke", "--yes", one[:16])
	user := selectText(t, filepath.Join(dir, "crumb.db"), "SELECT id FROM crumb_users")
	mustCrumb(t, dir, "sessions", "revoke", "--yes", "--user", user)
	s.wantPrivate(two, "")
	s.formPost("/login", "", signInForm)
	mustCrumb(t, dir, "sessions", "revoke", "--yes", "--all")
	about := strings.Split(mustCrumb(t, dir, "audit", "--user", "ann"), "\n")
	all := mustCrumb(t, dir, "audit")
	for i, want := range map[int]string{3: "all: 1 session", 4: "session " + one[:16]} {
		if line := about[i]; !strings.Contains(line, "session-revoked") || !strings.Contains(line, "operator") || !strings.Contains(line, want) {
			t.Errorf("line %d of ann's is %q, want %q\n%s", i, line, want, strings.Join(about, "\n"))
		}
	}
	if n := strings.Count(all, "session-revoked"); n != 3 {
		t.Errorf("%d entries, want 3:\n%s", n, all)
	}
}

func TestSessionsThatCannotBeEndedKeepNothingOutOfTheAuditLog(t *testing.T) {
	for event, args := range map[string][]string{
		"user-disabled": {"users", "disable", "ann"}, "password-change": {"users", "passwd", "ann"}, "user-deleted": {"users", "delete", "ann", "--yes"},
	} {
		dir := t.TempDir()
		addUser(t, dir, "ann")
		s := start(t, dir, crumbPath, "--login")
		s.formPost("/login", "", signInForm)
		s.kill()
		execSQL(t, filepath.Join(dir, "crumb.db"), "CREATE TRIGGER refuse BEFORE UPDATE ON crumb_sessions BEGIN SELECT RAISE(ABORT, 'refused'); END")
		if o := typed(t, dir, userPassword+" and more\n", args...); o.code != 1 || !strings.Contains(o.stderr, "hint: private routes take them no more") {
			t.Errorf("%v: %+v", args, o)
		}
		if log := mustCrumb(t, dir, "audit", "--limit", "1"); !strings.Contains(log, event) {
			t.Errorf("after %v the audit log says %s", args, log)
		}
	}
}

func TestServeWithoutLoginHasNoPagesForItAndKeysRotateNeedsKeys(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir, crumbPath)
	for _, path := range []string{"/login", "/private", "/account"} {
		if a := s.get(path, ""); a.StatusCode != http.StatusNotFound {
			t.Errorf("%s is %s", path, a.Status)
		}
	}
	if o := crumb(t, t.TempDir(), "keys", "rotate"); o.code != 1 || !strings.Contains(o.stderr, "hint: ") {
		t.Errorf("keys rotate: %+v", o)
	}
}

func TestUsersSignInWhateverTheSessionsAreKeptIn(t *testing.T) {
	onEachEngine(t, func(t *testing.T, dir string) {
		settings, err := os.ReadFile(filepath.Join(dir, settingsFile))
		if err == nil && strings.Contains(string(settings), `"redis`) {
			if o := typed(t, dir, userPassword+"\n", "users", "add", "ann"); o.code != 2 || !strings.Contains(o.stderr, "hint: set [login] url") {
				t.Errorf("without a SQL database: %+v", o)
			}
			must(t, os.WriteFile(filepath.Join(dir, settingsFile), append(settings, "\n[login]\nurl = \"sqlite:users.db\"\n"...), 0o600))
		}
		addUser(t, dir, "ann")
		s := start(t, dir, crumbPath, "--login", "--login.max_sessions=1")
		first := s.formPost("/login", "", signInForm).token()
		s.wantPrivate(first, "ann")
		second := s.formPost("/login", "", signInForm).token()
		s.wantPrivate(first, "")
		s.wantPrivate(second, "ann")
		if out := typed(t, dir, "another set of crumbs\n", "users", "passwd", "ann").stdout; out != "Set the password of ann and ended 1 session.\n" {
			t.Errorf("users passwd says %q", out)
		}
		s.wantPrivate(second, "")
		mustCrumb(t, dir, "users", "delete", "ann", "--yes")
	})
}
