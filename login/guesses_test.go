package login_test

import (
	"fmt"
	"net/http"
	"strconv"
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
	for i := range 100 {
		if w := s.send("POST", "/reset", "203.0.113.5:1", "token", fmt.Sprintf("guess%d", i), "password", password); w.Code != http.StatusUnprocessableEntity {
			t.Fatalf("guess %d of a link is answered %d", i, w.Code)
		}
	}
	if w := s.send("POST", "/reset", "203.0.113.5:1", "token", "guess", "password", password); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
		t.Errorf("the next guess is answered %d", w.Code)
	}
	if w := s.send("POST", "/login", "203.0.113.5:2", "name", "ann", "password", password); w.Code != http.StatusTooManyRequests {
		t.Errorf("a sign-in from there is answered %d", w.Code)
	}
	if w := s.send("POST", "/login", "203.0.113.6:1", "name", "ann", "password", password); w.Code != http.StatusSeeOther {
		t.Errorf("a sign-in from elsewhere is answered %d", w.Code)
	}
	s.clock.add(time.Hour)
	if w := s.send("POST", "/login", "203.0.113.5:1", "name", "ann", "password", password); w.Code != http.StatusSeeOther {
		t.Errorf("an hour later a sign-in from there is answered %d", w.Code)
	}
}
