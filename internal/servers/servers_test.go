package servers_test

import (
	"bufio"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/crumb-go/crumb/internal/servers"
)

func TestMain(m *testing.M) { servers.Main(m, servers.Kinds...) }

func TestWithoutServersNoTestRunsAndTheOutputSaysSo(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.v")
	cmd.Dir = t.TempDir()
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "CRUMB_TEST_") {
			cmd.Env = append(cmd.Env, entry)
		}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	for _, want := range []string{"testing: warning: no tests to run\n", "PostgreSQL, MariaDB, Redis, Redis Cluster were left out", "make servers starts them"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is not in:\n%s", want, out)
		}
	}
	if strings.Contains(string(out), "--- ") {
		t.Errorf("a test ran:\n%s", out)
	}
}

func start(t *testing.T, kind string) *servers.Server {
	t.Helper()
	s, err := servers.Start(t.Context(), kind, filepath.Join(t.TempDir(), kind))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		if s.Running() {
			t.Error("the server runs after Stop")
		}
		if _, err := os.Stat(s.Dir); !os.IsNotExist(err) {
			t.Errorf("its folder: %v", err)
		}
	})
	return s
}

func TestAServerThatIsKilledComesBackOnItsPortWithItsData(t *testing.T) {
	if !servers.CanStart(servers.Postgres) {
		return
	}
	s := start(t, servers.Postgres)
	connect := func() *pgx.Conn {
		t.Helper()
		c, err := pgx.Connect(t.Context(), s.URL)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close(context.Background()) })
		return c
	}
	c := connect()
	if _, err := c.Exec(t.Context(), "CREATE TABLE kept AS SELECT 7 AS n"); err != nil {
		t.Fatal(err)
	}
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if s.Running() {
		t.Error("it runs after the kill")
	}
	if err := c.Ping(t.Context()); err == nil {
		t.Error("it answers after the kill")
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := connect().QueryRow(t.Context(), "SELECT n FROM kept").Scan(&n); n != 7 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

func TestAnotherNodeHoldsTheKeysOfAPrimaryThatIsKilled(t *testing.T) {
	if !servers.CanStart(servers.RedisCluster) {
		return
	}
	s := start(t, servers.RedisCluster)
	old, err := s.Primary(t.Context(), "some key")
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Kill(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		n, err := s.Primary(ctx, "some key")
		if err == nil && n != old {
			break
		}
		if ctx.Err() != nil {
			t.Fatal("no other node took over within 30 seconds")
		}
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// echo answers each line with itself, and sends what it got to the channel.
func echo(t *testing.T) (addr string, got <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	lines := make(chan string, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for r := bufio.NewScanner(c); r.Scan(); {
					lines <- r.Text()
					if _, err := c.Write([]byte(r.Text() + "\n")); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String(), lines
}

// A client is a connection through the proxy.
type client struct {
	*testing.T
	net.Conn
}

func dial(t *testing.T, p *servers.Proxy) client {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return client{t, c}
}

func (c client) send(line string) {
	c.Helper()
	if _, err := c.Conn.Write([]byte(line + "\n")); err != nil {
		c.Fatal(err)
	}
}

// answer returns the next line, "" if there is none within d or the connection was
// closed.
func (c client) answer(d time.Duration) (line string, closed bool) {
	c.Helper()
	if err := c.SetReadDeadline(time.Now().Add(d)); err != nil {
		c.Fatal(err)
	}
	line, err := bufio.NewReader(c.Conn).ReadString('\n')
	late, ok := err.(net.Error)
	return strings.TrimSpace(line), err != nil && !(ok && late.Timeout())
}

func proxy(t *testing.T, target string) *servers.Proxy {
	t.Helper()
	p, err := servers.NewProxy(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if n := p.Conns(); n != 0 {
			t.Errorf("%d connections are open after Close", n)
		}
	})
	return p
}

func TestAProxyHoldsWhatPassesUntilTheRelease(t *testing.T) {
	addr, got := echo(t)
	p := proxy(t, addr)
	c := dial(t, p)
	c.send("one")
	if line, _ := c.answer(time.Minute); line != "one" {
		t.Fatalf("got %q", line)
	}
	<-got
	p.Hold()
	c.send("two")
	if line, closed := c.answer(100 * time.Millisecond); line != "" || closed || len(got) > 0 {
		t.Errorf("while held: %q, closed %t, %d at the server", line, closed, len(got))
	}
	p.Release()
	if line, _ := c.answer(time.Minute); line != "two" {
		t.Errorf("after the release: %q", line)
	}
}

func TestAProxyThatRefusesIsAServerThatIsGone(t *testing.T) {
	addr, _ := echo(t)
	p := proxy(t, addr)
	before := dial(t, p)
	before.send("one")
	before.answer(time.Minute)
	p.Refuse()
	if _, closed := before.answer(time.Minute); !closed {
		t.Error("the old connection is open")
	}
	if _, closed := dial(t, p).answer(time.Minute); !closed {
		t.Error("a new connection is open")
	}
	p.Accept()
	after := dial(t, p)
	after.send("two")
	if line, _ := after.answer(time.Minute); line != "two" {
		t.Errorf("after Accept: %q", line)
	}
}

func TestALostAnswerWasGivenByTheServerAndReachesNobody(t *testing.T) {
	addr, got := echo(t)
	p := proxy(t, addr)
	c := dial(t, p)
	p.LoseAnswers(1, func(request []byte) bool { return strings.Contains(string(request), "UPDATE") })
	c.send("SELECT")
	if line, _ := c.answer(time.Minute); line != "SELECT" {
		t.Fatalf("another request is answered %q", line)
	}
	c.send("UPDATE")
	if line, closed := c.answer(time.Minute); line != "" || !closed {
		t.Errorf("the client got %q, closed %t", line, closed)
	}
	<-got
	if line := <-got; line != "UPDATE" || p.Lost() != 1 {
		t.Errorf("the server got %q, %d answers lost", line, p.Lost())
	}
	c = dial(t, p)
	c.send("UPDATE")
	if line, _ := c.answer(time.Minute); line != "UPDATE" {
		t.Errorf("the second time it is answered %q", line)
	}
}
