package login_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func Test500GuessesAtOnceGetOneTryAndLeaveTheOwnerTheirWay(t *testing.T) {
	s := serve(t)
	s.add("ann")
	owner := s.open()
	owner.signIn("ann") // a known device from here on
	owner.post("/logout")

	var checked, refused atomic.Int64
	var wait sync.WaitGroup
	wait.Go(func() {
		atOnce(500, 100, func() {
			a, err := s.open().try("POST", "/login", form("name", "ann", "password", "not the password"))
			switch {
			case err != nil:
				t.Error(err)
			case a.StatusCode == http.StatusUnprocessableEntity:
				checked.Add(1)
			case a.StatusCode == http.StatusTooManyRequests && a.Header.Get("Retry-After") != "":
				refused.Add(1)
			default:
				t.Errorf("a guess is answered %s", a.Status)
			}
		})
	})
	owner.signIn("ann")
	owner.get("/private").want(t, http.StatusOK)
	wait.Wait()
	// The clock stands still: the first guess makes the others wait.
	if checked.Load() != 1 || refused.Load() != 499 {
		t.Errorf("%d guesses were checked and %d refused, want 1 and 499", checked.Load(), refused.Load())
	}
	s.open().post("/login", "name", "ann", "password", password).want(t, http.StatusTooManyRequests)
}

func TestTheWaitDoublesAndIsSaid(t *testing.T) {
	s := serve(t)
	s.add("ann")
	stranger := s.open()
	for i, want := range []int{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900} {
		stranger.post("/login", "name", "ann", "password", "not the password").want(t, http.StatusUnprocessableEntity)
		a := stranger.post("/login", "name", "ann", "password", password).want(t, http.StatusTooManyRequests, "Try again in")
		if got := a.Header.Get("Retry-After"); got != strconv.Itoa(want) {
			t.Errorf("after %d wrong ones Retry-After is %s, want %d", i+1, got, want)
		}
		s.clock.add(time.Duration(want) * time.Second)
	}
	stranger.signIn("ann")
}

func TestAfter100WrongOnesStrangersAreRefusedUntilTheOwnerComes(t *testing.T) {
	s := serve(t)
	s.add("ann")
	owner, stranger := s.open(), s.open()
	owner.signIn("ann")
	for range 100 {
		s.clock.add(15 * time.Minute)
		stranger.post("/login", "name", "ann", "password", "not the password").want(t, http.StatusUnprocessableEntity)
	}
	s.clock.add(24 * time.Hour)
	stranger.post("/login", "name", "ann", "password", password).want(t, http.StatusTooManyRequests)
	owner.signIn("ann")
	stranger.post("/login", "name", "ann", "password", password).wantTo(t, "/")
}

func TestEveryPlaceThatAsksForThePasswordCountsTries(t *testing.T) {
	for _, c := range []struct{ path, field string }{{"/login", "password"}, {"/account/password", "current"}, {"/account/delete", "current"}} {
		s := serve(t)
		s.add("ann")
		b := s.open()
		b.signIn("ann")
		waits := 0
		for range 30 {
			if a := b.post(c.path, c.field, "not the password"); a.StatusCode == http.StatusTooManyRequests {
				waits++
			}
		}
		if waits < 15 {
			t.Errorf("%s: %d of 30 tries had to wait", c.path, waits)
		}
	}
}

func TestOneAddressHas100FailuresAnHourAtWhateverItTries(t *testing.T) {
	s := serve(t)
	s.add("ann")
	from := func(addr, path string, fields ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("POST", path, strings.NewReader(form(fields...)))
		r.Header = http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Accept": {"text/html"}}
		r.RemoteAddr = addr
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		return w
	}
	for i := range 100 {
		if w := from("203.0.113.5:1", "/reset", "token", fmt.Sprintf("guess%d", i), "password", password); w.Code != http.StatusUnprocessableEntity {
			t.Fatalf("guess %d of a link is answered %d", i, w.Code)
		}
	}
	if w := from("203.0.113.5:1", "/reset", "token", "guess", "password", password); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
		t.Errorf("the next guess is answered %d", w.Code)
	}
	if w := from("203.0.113.5:2", "/login", "name", "ann", "password", password); w.Code != http.StatusTooManyRequests {
		t.Errorf("a sign-in from there is answered %d", w.Code)
	}
	if w := from("203.0.113.6:1", "/login", "name", "ann", "password", password); w.Code != http.StatusSeeOther {
		t.Errorf("a sign-in from elsewhere is answered %d", w.Code)
	}
	s.clock.add(time.Hour)
	if w := from("203.0.113.5:1", "/login", "name", "ann", "password", password); w.Code != http.StatusSeeOther {
		t.Errorf("an hour later a sign-in from there is answered %d", w.Code)
	}
}
