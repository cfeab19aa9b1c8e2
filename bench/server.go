package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
)

// serveEnv makes this program a server: its value is the peer, the directory for
// files and the file for a CPU profile.
const serveEnv = "CRUMB_BENCH_SERVE"

// serve is the whole life of a server's process. It ends when its input does, so
// that no server outlives the program that started it.
func serve(spec string) error {
	parts := strings.SplitN(spec, "\n", 3)
	if len(parts) != 3 || peerByName(parts[0]) == nil {
		return fmt.Errorf("%s is for the program itself", serveEnv)
	}
	dir, profile := parts[1], parts[2]
	a, err := peerByName(parts[0]).open(dir)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	for name, h := range a.handlers {
		mux.Handle("GET /"+name, h)
	}
	mux.HandleFunc("GET /cpu", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, strconv.FormatInt(cpuTime().Microseconds(), 10))
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if profile != "" {
		stop, err := startProfile(profile)
		if err != nil {
			return err
		}
		defer stop()
	}
	fmt.Println(l.Addr())
	srv := &http.Server{Handler: mux}
	go srv.Serve(l)
	io.Copy(io.Discard, os.Stdin)
	srv.Close()
	return a.close()
}

func startProfile(file string) (stop func(), err error) {
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		f.Close()
	}, nil
}

// A server is a peer in a process of its own.
type server struct {
	peer  *peer
	addr  string
	input io.Closer
	cmd   *exec.Cmd
}

func startServer(b *bench, p *peer) (*server, error) {
	dir, err := os.MkdirTemp(b.dir, p.short)
	if err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	profile := ""
	if b.profiles != "" {
		profile = filepath.Join(b.profiles, "server-"+p.short+".pprof")
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), serveEnv+"="+strings.Join([]string{p.short, dir, profile}, "\n"))
	cmd.Stderr = os.Stderr
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &server{peer: p, input: input, cmd: cmd}
	line, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("the server of %s did not start: %w", p.name, err)
	}
	s.addr = strings.TrimSpace(line)
	return s, nil
}

func (s *server) stop() error {
	s.input.Close()
	return s.cmd.Wait()
}

// cpu returns what the server's process has used so far, in microseconds, or 0
// where the system cannot tell.
func (s *server) cpu() (float64, error) {
	c, err := dial(s.addr)
	if err != nil {
		return 0, err
	}
	defer c.close()
	a, err := c.do(get("cpu", ""))
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(string(a.body), 64)
}

const connections = 32

// A serverCase is one thing that is measured over the network.
type serverCase struct {
	peer, op string
	shared   bool // one session for all connections
}

func (c serverCase) name() string {
	if c.shared {
		return c.op + "-shared"
	}
	return c.op
}

// plainCase is what the others are compared with.
var plainCase = serverCase{"none", opIdle, false}

var serverCases = []serverCase{
	{"crumb-memory", opCounter, false},
	{"crumb-memory", opRead, false},
	{"crumb-memory", opCounter, true},
	{"scs-memory", opCounter, false},
	{"scs-memory", opRead, false},
	{"scs-memory", opCounter, true},
	{"crumb-sqlite", opCounter, false},
	{"crumb-sqlite", opRead, false},
	{"crumb-sqlite", opCounter, true},
	{"crumb-sqlite-tracked", opCounter, false},
	{"crumb-sqlite-tracked", opRead, false},
	{"scs-sqlite", opCounter, false},
	{"scs-sqlite", opRead, false},
	{"scs-sqlite", opCounter, true},
	{"gorilla-cookie", opCounter, false},
	{"crumb-redis", opCounter, false},
	{"crumb-redis", opRead, false},
	{"crumb-redis", opCounter, true},
	{"scs-redis", opCounter, false},
	{"scs-redis", opRead, false},
	{"scs-redis", opCounter, true},
	{"crumb-postgres", opCounter, false},
	{"crumb-postgres", opRead, false},
	{"crumb-postgres", opCounter, true},
	{"scs-postgres", opCounter, false},
	{"scs-postgres", opRead, false},
	{"scs-postgres", opCounter, true},
}

// A fleet is one server of each peer that the run needs.
type fleet struct {
	servers map[string]*server
	cookies map[string][]string
}

func startFleet(b *bench) (*fleet, error) {
	f := &fleet{map[string]*server{}, map[string][]string{}}
	for i := range peers {
		p := &peers[i]
		needed := b.wants("lost", p.short, opCounter) && p.short != "none"
		for _, c := range append(serverCases, plainCase) {
			needed = needed || c.peer == p.short && b.wantsCase(c)
		}
		if !needed {
			continue
		}
		s, err := startServer(b, p)
		if err != nil {
			f.stop()
			return nil, err
		}
		f.servers[p.short] = s
		if f.cookies[p.short], err = newSessions(s.addr, connections); err != nil {
			f.stop()
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return f, nil
}

func (f *fleet) stop() (err error) {
	for _, s := range f.servers {
		if e := s.stop(); e != nil && err == nil {
			err = fmt.Errorf("the server of %s: %w", s.peer.name, e)
		}
	}
	return err
}

// measure puts load on one server.
func (f *fleet) measure(b *bench, c serverCase) (loadResult, error) {
	s := f.servers[c.peer]
	requests := make([][]byte, connections)
	for i := range requests {
		cookie := f.cookies[c.peer][i]
		if c.shared {
			cookie = f.cookies[c.peer][0]
		}
		requests[i] = get(c.op, cookie)
	}
	if _, err := load(s.addr, requests, b.time/10); err != nil { // warm
		return loadResult{}, err
	}
	before, err := s.cpu()
	if err != nil {
		return loadResult{}, err
	}
	r, err := load(s.addr, requests, b.time)
	if err != nil {
		return r, err
	}
	after, err := s.cpu()
	if r.Requests > 0 {
		r.CPU = (after - before) / float64(r.Requests)
	}
	b.progress("server     %-15s %-14s %7.0f requests/s, p99 %6.2f ms, %5.1f µs of CPU, %d failed",
		c.peer, c.name(), r.PerSecond, r.P99, r.CPU, r.Failed)
	return r, err
}

// measureServers makes one round. The plain server is measured before and after
// the others, and the mean of both is the round's.
func measureServers(b *bench, f *fleet, round int) error {
	run := func(c serverCase) error {
		if f.servers[c.peer] == nil || !b.wantsCase(c) {
			return nil
		}
		r, err := f.measure(b, c)
		if err != nil {
			return fmt.Errorf("%s %s: %w", c.peer, c.name(), err)
		}
		b.res.addLoad(c.peer, c.name(), round, r)
		return nil
	}
	if err := run(plainCase); err != nil {
		return err
	}
	for i := range serverCases {
		if err := run(serverCases[(i+5*round)%len(serverCases)]); err != nil {
			return err
		}
	}
	return run(plainCase)
}

const (
	lostClients = 200
	lostTimes   = 5
	lostRounds  = 3
)

func measureLost(b *bench, f *fleet) error {
	for range lostRounds {
		for i := range peers {
			s := f.servers[peers[i].short]
			if s == nil || peers[i].short == "none" || !b.wants("lost", peers[i].short, opCounter) {
				continue
			}
			r, err := loseUpdates(s.addr, lostClients, lostTimes)
			if err != nil {
				return fmt.Errorf("%s: %w", peers[i].name, err)
			}
			b.res.addLost(peers[i].short, r)
			b.progress("lost       %-15s kept %4d of %d, %d answers failed", peers[i].short, r.Kept, r.Sent, r.Failed)
		}
	}
	return nil
}
