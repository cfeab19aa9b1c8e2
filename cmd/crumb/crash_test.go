package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A counted session is one of which the test knows how many views were sent and
// how many of them answered.
type counted struct {
	token          string
	sent, answered atomic.Int64
}

func (c *counted) view(s *server) bool {
	c.sent.Add(1)
	if a := s.try("GET", "/", c.token); a.err != nil || a.StatusCode != 200 {
		return false // killed
	}
	c.answered.Add(1)
	return true
}

// TestKilledUnderLoad kills the server over and over while visitors count their
// views, sign in and out, and an operator ends sessions. What was answered is
// there afterwards, and what was ended stays ended.
func TestKilledUnderLoad(t *testing.T) {
	t.Parallel()
	onEachEngine(t, func(t *testing.T, dir string) {
		rounds := 4
		if strings.HasSuffix(t.Name(), "SQLite") { // where more of the crash is ours
			rounds = 15
		}
		killUnderLoad(t, dir, rounds)
	})
}

func killUnderLoad(t *testing.T, dir string, rounds int) {
	const visitors, viewsPerRound = 8, 60
	s := start(t, dir, slowAppPath)

	var all []*counted // the last is everybody's
	for range visitors + 1 {
		c := &counted{token: s.get("/", "").token()}
		c.sent.Store(1)
		c.answered.Store(1)
		all = append(all, c)
	}
	shared := all[visitors]
	var ended []string // tokens

	for round := range rounds {
		toRevoke, toSignOut := s.get("/", "").token(), s.post("/signin?user=alice", "").token()
		var viewed atomic.Int64
		enough := make(chan struct{})
		var wait sync.WaitGroup
		for i, c := range all[:visitors] {
			wait.Go(func() {
				for n := 0; c.view(s) && shared.view(s); n++ {
					if n%4 == i%4 { // others are created in the same batches
						s.try("POST", "/signin?user=bob", "")
					}
					if viewed.Add(1) == viewsPerRound {
						close(enough)
					}
				}
			})
		}
		select {
		case <-enough:
		case <-time.After(patience):
			t.Fatal("too few views were answered")
		}
		if round%3 == 0 {
			mustCrumb(t, dir, "sessions", "revoke", "--yes", id(toRevoke))
			ended = append(ended, toRevoke)
		} else {
			if a := s.post("/signout", toSignOut); a.StatusCode != 200 {
				t.Errorf("the sign-out was answered %s", a.Status)
			}
			ended = append(ended, toSignOut)
		}
		s.kill() // right after what ends a session was acknowledged, amid the views
		wait.Wait()

		s = start(t, dir, slowAppPath)
		for _, c := range all {
			var stored int64
			a := s.get("/look", c.token)
			if _, err := fmt.Sscan(a.body, &stored); err != nil || stored < c.answered.Load() || stored > c.sent.Load() {
				t.Errorf("round %d: %d views were sent and %d answered, the session holds %q", round, c.sent.Load(), c.answered.Load(), a.body)
			}
			c.sent.Store(stored) // those without an answer may have been committed
			c.answered.Store(stored)
		}
		for _, token := range ended {
			if a := s.get("/look", token); a.body != "0 \n" || a.token() != "" {
				t.Errorf("round %d: a session that was ended is back: %q", round, a.body)
			}
		}
	}
	live := sessions(t, dir)
	for _, token := range ended {
		if slices.ContainsFunc(live, func(in sessionJSON) bool { return string(in.ID) == id(token) }) {
			t.Errorf("session %s was ended and is listed", id(token))
		}
	}
}
