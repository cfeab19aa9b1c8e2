package servers

import (
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"time"
)

// A Proxy passes TCP connections on to a server, until it is told to hold or to
// lose what comes through. Its methods may be called at any time, by several
// goroutines at once.
type Proxy struct {
	l    net.Listener
	done sync.WaitGroup

	mu      sync.Mutex // guards what follows
	target  string
	conns   map[*line]bool
	closed  bool
	refuses bool
	held    chan struct{} // closed at the release, nil if nothing is held
	match   func(request []byte) bool
	lose    int // how many matching requests are still to lose their answer
	lost    int
}

// A line is one connection of a client and the one to the server behind it.
type line struct {
	client, server net.Conn

	mu   sync.Mutex // guards lose
	lose bool       // the next that the server answers is lost, and the line with it
}

func (l *line) cut() { l.client.Close(); l.server.Close() }

// NewProxy listens on a free port of 127.0.0.1 for connections to target, a host
// and port. The caller calls Close.
func NewProxy(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{target: target, l: l, conns: map[*line]bool{}}
	p.done.Go(p.accept)
	return p, nil
}

// ProxyFor is NewProxy for the server at the URL raw, and returns the URL that goes
// through the proxy.
func ProxyFor(raw string) (p *Proxy, through string, err error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, "", err
	}
	if p, err = NewProxy(u.Host); err != nil {
		return nil, "", err
	}
	u.Host = p.Addr()
	return p, u.String(), nil
}

// Addr is where the proxy listens.
func (p *Proxy) Addr() string { return p.l.Addr().String() }

// Lead passes new connections on to another target. Those that are open stay.
func (p *Proxy) Lead(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// Hold keeps back every byte, either way, until Release: the server is slow, or
// the network lost. Connections are still taken.
func (p *Proxy) Hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held == nil {
		p.held = make(chan struct{})
	}
}

// Release passes on what was held, and all that follows.
func (p *Proxy) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held != nil {
		close(p.held)
		p.held = nil
	}
}

// Cut closes all connections. New ones are taken.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.conns {
		l.cut()
	}
}

// Refuse closes all connections, and new ones at once: the server is gone. Accept
// ends it.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	p.refuses = true
	p.mu.Unlock()
	p.Cut()
}

// Accept ends Refuse.
func (p *Proxy) Accept() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuses = false
}

// LoseAnswers has the next n requests that match arrive at the server, and cuts
// their connection when the server has answered, instead of passing the answer on:
// what was asked for is done, and the client cannot know. A match sees what the
// client sent in one piece, which may be several requests or part of a long one;
// nil matches all. It takes the place of an earlier call.
func (p *Proxy) LoseAnswers(n int, match func(request []byte) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if match == nil {
		match = func([]byte) bool { return true }
	}
	p.lose, p.match = n, match
}

// Lost is how many answers were lost so far.
func (p *Proxy) Lost() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// Conns is how many connections are open.
func (p *Proxy) Conns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// Close closes the listener and all connections, and returns when nothing of the
// proxy runs any more.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	err := p.l.Close()
	p.Release()
	p.Cut()
	p.done.Wait()
	return err
}

func (p *Proxy) accept() {
	for {
		client, err := p.l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		p.done.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	target, ok := p.leads()
	if !ok {
		return
	}
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer server.Close()
	l := &line{client: client, server: server}
	if !p.add(l) {
		return
	}
	defer p.remove(l)
	var wg sync.WaitGroup
	wg.Go(func() { p.pass(l, client, server, p.request) })
	wg.Go(func() { p.pass(l, server, client, p.answer) })
	wg.Wait()
}

// leads returns where connections go, if they are taken.
func (p *Proxy) leads() (target string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.target, !p.refuses
}

func (p *Proxy) add(l *line) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.refuses {
		return false
	}
	p.conns[l] = true
	return true
}

func (p *Proxy) remove(l *line) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, l)
}

// pass copies from one end to the other until either closes or see says to stop,
// and then cuts the line.
func (p *Proxy) pass(l *line, from, to net.Conn, see func(l *line, data []byte) (goOn bool)) {
	defer l.cut()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			p.wait()
			if !see(l, buf[:n]) {
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// wait returns when nothing is held.
func (p *Proxy) wait() {
	for {
		p.mu.Lock()
		held := p.held
		p.mu.Unlock()
		if held == nil {
			return
		}
		<-held
	}
}

func (p *Proxy) request(l *line, data []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lose > 0 && p.match(data) {
		p.lose--
		l.mu.Lock()
		l.lose = true
		l.mu.Unlock()
	}
	return true
}

// quiet is how long a server that answered is given to finish: the answer to what
// was sent before may come first.
const quiet = 50 * time.Millisecond

func (p *Proxy) answer(l *line, _ []byte) bool {
	l.mu.Lock()
	lose := l.lose
	l.mu.Unlock()
	if !lose {
		return true
	}
	for {
		if err := l.server.SetReadDeadline(time.Now().Add(quiet)); err != nil {
			break
		}
		if _, err := io.CopyN(io.Discard, l.server, 1); err != nil {
			break
		}
	}
	p.mu.Lock()
	p.lost++
	p.mu.Unlock()
	return false
}
