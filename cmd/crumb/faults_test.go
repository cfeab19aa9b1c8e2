package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crumb-go/crumb/internal/servers"
)

// An absence is a database server that can be taken away and given back.
type absence struct {
	url              string
	gone, slow, back func(t *testing.T)
}

// absences has one of each engine with a server. Before single servers stands a
// proxy; of a Cluster, whose nodes tell each other's addresses, all processes are
// killed or stopped.
func absences(t *testing.T, f func(t *testing.T, o *absence)) {
	for _, kind := range servers.Kinds {
		raw, ok := servers.URL(kind)
		switch {
		case !ok, kind == servers.RedisCluster && !servers.CanStart(kind):
		case kind == servers.RedisCluster:
			t.Run("on "+servers.Name(kind), func(t *testing.T) { f(t, clusterOutage(t)) })
		default:
			t.Run("on "+servers.Name(kind), func(t *testing.T) { f(t, proxyOutage(t, raw)) })
		}
	}
}

func proxyOutage(t *testing.T, raw string) *absence {
	p, through, err := servers.ProxyFor(raw)
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	return &absence{
		url:  through,
		gone: func(*testing.T) { p.Refuse() },
		slow: func(*testing.T) { p.Hold() },
		back: func(*testing.T) { p.Accept(); p.Release() },
	}
}

func clusterOutage(t *testing.T) *absence {
	s := startDatabase(t, servers.RedisCluster)
	each := func(t *testing.T, f func(*servers.Node) error) {
		for _, n := range s.Nodes {
			must(t, f(n))
		}
	}
	return &absence{
		url:  s.URL,
		gone: func(t *testing.T) { must(t, s.Kill()) },
		slow: func(t *testing.T) { each(t, (*servers.Node).Pause) },
		back: func(t *testing.T) { each(t, (*servers.Node).Resume); must(t, s.Restart(t.Context())) },
	}
}

// startDatabase starts a database server that the test may kill.
func startDatabase(t *testing.T, kind string) *servers.Server {
	t.Helper()
	s, err := servers.Start(t.Context(), kind, filepath.Join(t.TempDir(), kind))
	must(t, err)
	t.Cleanup(func() { must(t, s.Stop()) })
	return s
}

// eventually waits until check returns "", which says what is not right yet.
func eventually(t *testing.T, within time.Duration, check func() string) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(within); ; <-tick.C {
		problem := check()
		if problem == "" {
			return
		}
		if time.Now().After(end) {
			t.Errorf("after %v: %s", within, problem)
			return
		}
	}
}

// A footprint is what a server process holds open.
type footprint struct{ goroutines, sockets int }

func (s *server) footprint(ops string) (f footprint) {
	s.t.Helper()
	s.client.CloseIdleConnections()
	_, values := s.scrape(ops)
	f.goroutines = int(values["go_goroutines{}"])
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", s.cmd.Process.Pid))
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "socket:") {
			f.sockets++
		}
	}
	if f.goroutines == 0 || f.sockets == 0 && runtime.GOOS == "linux" {
		s.t.Errorf("what the server holds is not known: %+v", f)
	}
	return f
}

// atOnce has n clients ask the same at once.
func atOnce(n int, ask func(i int) answer) []answer {
	answers := make([]answer, n)
	var wait sync.WaitGroup
	for i := range n {
		wait.Go(func() { answers[i] = ask(i) })
	}
	wait.Wait()
	return answers
}

// TestTheDatabaseIsGoneOrSlow takes the database away from a server that visitors
// use, and gives it back.
func TestTheDatabaseIsGoneOrSlow(t *testing.T) {
	t.Parallel()
	const clients, timeout = 50, time.Second
	absences(t, func(t *testing.T, o *absence) {
		t.Parallel()
		dir := folderFor(t, o.url, "[session]", `store_timeout = "1s"`)
		applySchema(t, dir, o.url)
		s, ops := startOps(t, dir, slowAppPath)
		tokens := make([]string, clients)
		for i, a := range atOnce(clients, func(int) answer { return s.try("POST", "/signin?user=alice", "") }) {
			tokens[i] = a.token()
		}
		view := func(i int) answer { return s.try("GET", "/", tokens[i]) }
		sent, answered := make([]int, clients), make([]int, clients)
		views := func() (list []answer) {
			list = atOnce(clients, view)
			for i, a := range list {
				sent[i]++
				if a.err == nil && a.StatusCode == 200 {
					answered[i]++
				}
			}
			return list
		}
		views()
		must(t, s.post("/revoke?id="+id(s.visitor()), "").err)
		before := s.footprint(ops)

		for _, fault := range []struct {
			name  string
			begin func(*testing.T)
		}{{"gone", o.gone}, {"slow", o.slow}} {
			name := fault.name
			fault.begin(t)
			for _, a := range views() {
				unavailable(t, "a view", a)
			}
			began := time.Now()
			unavailable(t, "a view", view(0))
			sent[0]++
			took := time.Since(began)
			if took > timeout+2*time.Second { // and what the busy machine takes
				t.Errorf("%s: the answer took %v", name, took)
			}
			unavailable(t, "a first visit", s.try("GET", "/", ""))
			unavailable(t, "a sign-out", s.try("POST", "/signout", tokens[1]))
			if a := s.try("GET", "/optional", tokens[2]); a.err != nil || a.StatusCode != 200 || a.body != "0 \n" || a.token() != "" {
				t.Errorf("%s: a page that can do without a session is answered %+v", name, a)
			}

			o.back(t)
			began = time.Now()
			eventually(t, 10*time.Second, func() string {
				for i := range clients {
					if a := s.try("GET", "/look", tokens[i]); a.err != nil || a.StatusCode != 200 {
						return fmt.Sprintf("%s: after the return a look is answered %+v", name, a)
					}
				}
				return ""
			})
			served := time.Since(began)
			for i, token := range tokens {
				n, user := 0, ""
				a := s.get("/look", token)
				if i == 1 && a.body == "0 \n" {
					continue // the sign-out came through, which nobody could know
				}
				if _, err := fmt.Sscan(a.body, &n, &user); err != nil || user != "alice" || n < answered[i] || n > sent[i] {
					t.Errorf("%s: %d views were sent and %d answered, the session holds %q", name, sent[i], answered[i], a.body)
				}
			}
			var now footprint
			eventually(t, 10*time.Second, func() string {
				if now = s.footprint(ops); now.goroutines > before.goroutines+3 || now.sockets > before.sockets+3 {
					return fmt.Sprintf("%s: the server holds %+v, before it was %+v", name, now, before)
				}
				return ""
			})
			t.Logf("%s: answered after %v, served %v after the return; held before %+v, %v after the return %+v",
				name, took, served, before, time.Since(began), now)
		}
	})
}

// unavailable wants an answer that says to come back, and leaves the cookie.
func unavailable(t *testing.T, what string, a answer) {
	t.Helper()
	if a.err != nil {
		t.Errorf("%s: %v", what, a.err)
	} else if a.StatusCode != 503 || a.Header.Get("Retry-After") == "" || a.Header.Get("Set-Cookie") != "" {
		t.Errorf("%s is answered %s with %v: %q", what, a.Status, a.Header, a.body)
	}
}

// A pressure is visitors who view pages until it is released, whatever happens.
type pressure struct {
	all      []*counted
	answered atomic.Int64
	end      chan struct{}
	done     sync.WaitGroup
}

// press has n visitors view pages of the servers by turns.
func press(t *testing.T, n int, list ...*server) *pressure {
	t.Helper()
	p := &pressure{end: make(chan struct{})}
	for i := range n {
		c := &counted{token: list[0].get("/", "").token()}
		c.sent.Store(1)
		c.answered.Store(1)
		p.all = append(p.all, c)
		p.done.Go(func() {
			for turn := i; ; turn++ {
				select {
				case <-p.end:
					return
				default:
				}
				if c.view(list[turn%len(list)]) {
					p.answered.Add(1)
				}
			}
		})
	}
	return p
}

// more waits until n more views have been answered.
func (p *pressure) more(t *testing.T, n int64) {
	t.Helper()
	from := p.answered.Load()
	eventually(t, patience, func() string {
		if got := p.answered.Load() - from; got < n {
			return fmt.Sprintf("%d of %d views were answered", got, n)
		}
		return ""
	})
}

func (p *pressure) release() {
	close(p.end)
	p.done.Wait()
}

// lost counts the answered views that the sessions do not hold.
func (p *pressure) lost(t *testing.T, s *server) (lost int64) {
	t.Helper()
	for _, c := range p.all {
		var stored int64
		a := s.get("/look", c.token)
		if _, err := fmt.Sscan(a.body, &stored); err != nil || stored > c.sent.Load() {
			t.Errorf("%d views were sent, the session holds %q", c.sent.Load(), a.body)
		}
		lost += max(0, c.answered.Load()-stored)
	}
	return lost
}

// ends ends a session of each kind, through one server after the other, and returns
// the tokens of those whose end was acknowledged.
func ends(t *testing.T, list []*server) (tokens []string) {
	t.Helper()
	for i, path := range []string{"/signout", "/revoke"} {
		s := list[i%len(list)]
		token := s.try("POST", "/signin?user=alice", "").token()
		if token == "" {
			continue // the database is away
		}
		if a := s.try("POST", path+"?id="+id(token), token); a.err == nil && a.StatusCode == 200 {
			tokens = append(tokens, token)
		}
	}
	return tokens
}

func allEnded(t *testing.T, s *server, tokens []string) {
	t.Helper()
	for _, token := range tokens {
		if a := s.get("/look", token); a.body != "0 \n" || a.token() != "" {
			t.Errorf("a session that was ended is back: %q", a.body)
		}
	}
}

// TestTheDatabaseKilledUnderLoad kills the database server over and over while
// visitors count their views and sessions end, and starts it again.
func TestTheDatabaseKilledUnderLoad(t *testing.T) {
	t.Parallel()
	const rounds, visitors = 3, 8
	for _, kind := range []string{servers.Postgres, servers.MySQL} {
		if !servers.CanStart(kind) {
			continue
		}
		t.Run(servers.Name(kind), func(t *testing.T) {
			t.Parallel()
			db := startDatabase(t, kind)
			dir := folderFor(t, db.URL)
			applySchema(t, dir, db.URL)
			list := startAll(t, dir, slowAppPath, 2)
			p := press(t, visitors, list...)
			var ended []string
			for range rounds {
				p.more(t, 100)
				tokens := ends(t, list)
				must(t, db.Kill()) // right after the ends were acknowledged, amid the views
				if len(tokens) != 2 {
					t.Errorf("%d of 2 ends were acknowledged", len(tokens))
				}
				ended = append(ended, tokens...)
				must(t, db.Restart(t.Context()))
			}
			p.more(t, 100)
			p.release()
			if lost := p.lost(t, list[0]); lost > 0 {
				t.Errorf("%d of %d answered views were lost", lost, p.answered.Load())
			}
			allEnded(t, list[1], ended)
		})
	}
}

// TestAPrimaryKilledUnderLoad kills a primary of a Cluster while visitors count
// their views and sessions end. A replica takes over. It may lack the last views;
// an end it has, since every replica confirmed it.
func TestAPrimaryKilledUnderLoad(t *testing.T) {
	t.Parallel()
	const rounds, visitors = 2, 16
	if !servers.CanStart(servers.RedisCluster) {
		return
	}
	db := startDatabase(t, servers.RedisCluster)
	list := startAll(t, folderFor(t, db.URL), slowAppPath, 2)
	p := press(t, visitors, list...)
	stop, stopped := make(chan struct{}), make(chan []string)
	go func() {
		var ended []string
		for {
			select {
			case <-stop:
				stopped <- ended
				return
			default:
				ended = append(ended, ends(t, list)...)
			}
		}
	}()
	for range rounds {
		p.more(t, 200)
		primary, err := db.Primary(t.Context(), "{any}")
		must(t, err)
		must(t, primary.Kill())
		eventually(t, patience, func() string {
			for _, c := range p.all {
				if !c.view(list[0]) {
					return "a view is not answered yet"
				}
				p.answered.Add(1)
			}
			return ""
		})
		must(t, db.Restart(t.Context())) // the next to be killed may be its replica
	}
	close(stop)
	ended := <-stopped
	p.release()
	lost := p.lost(t, list[0])
	t.Logf("%d of %d answered views were lost with %d primaries; %d ends were acknowledged", lost, p.answered.Load(), rounds, len(ended))
	if lost > p.answered.Load()/10 {
		t.Errorf("%d of %d answered views were lost", lost, p.answered.Load())
	}
	if len(ended) < rounds {
		t.Errorf("only %d ends were acknowledged", len(ended))
	}
	allEnded(t, list[1], ended)
}

// TestAnAnswerLostAfterTheCommit loses what the database says to a change, which
// it has made. Nothing is done twice; what is the same done twice as once succeeds.
func TestAnAnswerLostAfterTheCommit(t *testing.T) {
	const times = 10
	for _, kind := range []string{servers.Postgres, servers.MySQL, servers.Redis} {
		raw, ok := servers.URL(kind)
		if !ok {
			continue
		}
		t.Run(servers.Name(kind), func(t *testing.T) {
			p, through, err := servers.ProxyFor(raw)
			must(t, err)
			t.Cleanup(func() { must(t, p.Close()) })
			dir := folderFor(t, through)
			applySchema(t, dir, through)
			s := start(t, dir, slowAppPath)
			losing := func(part string, ask func() answer) answer {
				t.Helper()
				lost := p.Lost()
				p.LoseAnswers(1, func(request []byte) bool { return strings.Contains(string(request), part) })
				a := ask()
				if got := p.Lost() - lost; got != 1 || a.err != nil {
					t.Errorf("%d answers were lost, want 1: %v", got, a.err)
				}
				return a
			}

			var tokens []string
			for range times {
				a := losing("hello.views", func() answer { return s.try("GET", "/", "") })
				if a.StatusCode != 200 || a.token() == "" {
					t.Errorf("a first visit is answered %s, %q", a.Status, a.body)
				}
				tokens = append(tokens, a.token())
			}
			if list := sessions(t, dir); len(list) != times {
				t.Errorf("%d first visits made %d sessions", times, len(list))
			}

			for range times {
				unavailable(t, "a view", losing("hello.views", func() answer { return s.try("GET", "/", tokens[0]) }))
			}
			if a := s.get("/look", tokens[0]); a.body != fmt.Sprintf("%d \n", 1+times) {
				t.Errorf("after %d views the session holds %q", 1+times, a.body)
			}

			part := "alice"
			if kind == servers.Redis {
				part = "signin" // of the record, and not the index of its user
			}
			a := losing(part, func() answer { return s.try("POST", "/signin?user=alice", tokens[1]) })
			if a.StatusCode != 200 || a.token() == "" {
				t.Fatalf("a sign-in is answered %s, %q", a.Status, a.body)
			}
			if a := s.get("/look", a.token()); a.body != "0 alice\n" {
				t.Errorf("after the sign-in the session holds %q", a.body)
			}
			if a := s.get("/look", tokens[1]); a.body != "0 \n" {
				t.Errorf("the token from before the sign-in opens %q", a.body)
			}
		})
	}
}
