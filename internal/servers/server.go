package servers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// startTimeout bounds the start of one server, its recovery after a kill included.
const startTimeout = time.Minute

// A Server is a running database server, or the nodes of a cluster. Its methods
// are for one goroutine at a time.
type Server struct {
	Kind  string
	URL   string
	Nodes []*Node // one, but six of a cluster
	Dir   string  // holds the folders of the nodes
}

// A Node is one server process.
type Node struct {
	Addr string // host:port on 127.0.0.1
	Dir  string // its data and its log; named on its command line

	PID     int
	Program string
	Args    []string
	As      string // the user it runs as, "" for the one who started it

	reserved []net.Listener // keep others off its ports until it starts
}

// CanStart reports whether a test may start a server of the kind for itself: tests
// on this kind are not left out, and its programs are on this machine.
func CanStart(kind string) bool {
	_, ok := URL(kind)
	_, err := program(kind)
	return ok && err == nil
}

// Start starts a server of the kind that nobody else uses, with its data in dir,
// and returns when it answers. If the user the server runs as cannot reach dir, the
// data is in a new temporary folder. The caller stops it. The programs must be
// there: see [CanStart].
func Start(ctx context.Context, kind, dir string) (*Server, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	s := &Server{Kind: kind, Dir: dir}
	err := s.create(ctx)
	if err == nil {
		err = s.Restart(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func (s *Server) create(ctx context.Context) error {
	user := serverUser(s.Kind)
	dir, err := reachable(s.Dir, user)
	if err != nil {
		return fmt.Errorf("servers: %s: %w", Name(s.Kind), err)
	}
	s.Dir = dir
	create := map[string]func(context.Context, *Server, string) error{
		Postgres: createPostgres, MySQL: createMySQL, Redis: createRedis, RedisCluster: createCluster,
	}[s.Kind]
	if create == nil {
		return fmt.Errorf("servers: there is no kind %q", s.Kind)
	}
	if err := create(ctx, s, user); err != nil {
		return fmt.Errorf("servers: create %s in %s: %w", Name(s.Kind), s.Dir, err)
	}
	return nil
}

// newNode makes the folder of one more node.
func (s *Server) newNode(name, user string) (*Node, error) {
	n := &Node{Dir: filepath.Join(s.Dir, name), As: user}
	if err := os.MkdirAll(n.Dir, 0o700); err != nil {
		return nil, err
	}
	if err := giveTo(n.Dir, user); err != nil {
		return nil, err
	}
	s.Nodes = append(s.Nodes, n)
	port, err := n.reserve()
	n.Addr = "127.0.0.1:" + port
	return n, err
}

// reserve returns a port that nobody else takes before the node starts.
func (n *Node) reserve() (port string, err error) {
	l, err := listenAnywhere()
	if err != nil {
		return "", err
	}
	n.reserved = append(n.reserved, l)
	_, port, err = net.SplitHostPort(l.Addr().String())
	return port, err
}

func (n *Node) yieldPorts() {
	for _, l := range n.reserved {
		l.Close()
	}
	n.reserved = nil
}

// awaitPort waits until nobody else listens where the node did, which may happen
// while it is down.
func (n *Node) awaitPort(ctx context.Context) error {
	err := waitFor(ctx, func() error {
		l, err := net.Listen("tcp", n.Addr)
		if err == nil {
			err = l.Close()
		}
		return err
	}, func() error { return nil })
	if err != nil {
		return fmt.Errorf("servers: the port of %s: %w", n.Program, err)
	}
	return nil
}

// listenAnywhere listens on a port below those that kernels give to outgoing
// connections, so that it is still free when the server is started again.
func listenAnywhere() (net.Listener, error) {
	var err error
	for range 100 {
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(12000))); err == nil {
			return l, nil
		}
	}
	return nil, fmt.Errorf("none of 100 ports tried is free: %w", err)
}

// Kill ends all processes of the server at once, as a power cut would but that the
// kernel keeps what was written, and returns when they are gone.
func (s *Server) Kill() error {
	var errs []error
	for _, n := range s.Nodes {
		errs = append(errs, n.Kill())
	}
	return errors.Join(errs...)
}

// Restart starts the nodes that do not run, on their ports and data, and returns
// when the server answers.
func (s *Server) Restart(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for _, n := range s.Nodes {
		if n.Running() {
			continue
		}
		n.yieldPorts()
		if err := n.awaitPort(ctx); err != nil {
			return err
		}
		if err := n.start(); err != nil {
			return fmt.Errorf("servers: start %s: %w", n.Program, err)
		}
	}
	ready := map[string]func(context.Context, *Server) error{
		Postgres: readyPostgres, MySQL: readyMySQL, Redis: readyRedis, RedisCluster: readyCluster,
	}[s.Kind]
	err := waitFor(ctx, func() error { return ready(ctx, s) }, func() error {
		for _, n := range s.Nodes {
			if !n.Running() {
				return fmt.Errorf("%s ended:\n%s", n.Program, n.lastOfLog())
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("servers: %s at %s does not answer: %w", Name(s.Kind), s.Nodes[0].Addr, err)
	}
	return nil
}

// Stop has the server end in order, or kills it after 10 seconds, and deletes its
// data.
func (s *Server) Stop() error {
	var errs []error
	for _, n := range s.Nodes {
		n.yieldPorts()
		errs = append(errs, n.signal(stopSignal(s.Kind)))
	}
	for _, n := range s.Nodes {
		if !within(10*time.Second, func() bool { return !n.Running() }) {
			errs = append(errs, n.Kill())
		}
	}
	return errors.Join(append(errs, os.RemoveAll(s.Dir))...)
}

// Running reports whether the server's nodes all run.
func (s *Server) Running() bool {
	for _, n := range s.Nodes {
		if !n.Running() {
			return false
		}
	}
	return len(s.Nodes) > 0
}

// Running reports whether the node's process is there and is the node's.
func (n *Node) Running() bool { return n.PID != 0 && commandHolds(n.PID, n.Dir) }

// Kill ends the node's process and those it started with SIGKILL, and returns when
// they are gone. A node that does not run is left alone.
func (n *Node) Kill() error {
	if !n.Running() {
		return nil
	}
	// A process that is stopped starts no others.
	if err := n.Pause(); err != nil {
		return fmt.Errorf("servers: stop %s, process %d: %w", n.Program, n.PID, err)
	}
	pids := append([]int{n.PID}, children(n.PID)...)
	for _, pid := range pids {
		if err := kill(pid); err != nil {
			return fmt.Errorf("servers: kill %s, process %d: %w", n.Program, pid, err)
		}
	}
	if !within(10*time.Second, func() bool { return !slices.ContainsFunc(pids, alive) }) {
		return fmt.Errorf("servers: of %s, processes %d, some are there 10 seconds after SIGKILL", n.Program, pids)
	}
	return nil
}

// within reports whether cond came true before d was over.
func within(d time.Duration, cond func() bool) bool {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	not := errors.New("not yet")
	return waitFor(ctx, func() error {
		if cond() {
			return nil
		}
		return not
	}, func() error { return nil }) == nil
}

func (n *Node) port() string { return n.Addr[len("127.0.0.1:"):] }

func (n *Node) lastOfLog() string {
	text, _ := os.ReadFile(n.log())
	return string(text[max(0, len(text)-2000):])
}

func (n *Node) log() string { return filepath.Join(n.Dir, "log") }
