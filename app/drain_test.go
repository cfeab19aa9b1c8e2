package app

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// A pipe is a listener that accepts one connection, in memory, so that time can
// be fake.
type pipe struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipe) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipe) Close() error   { close(p.done); return nil }
func (p *pipe) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func TestDrain(t *testing.T) {
	// take serves one request with h, drains, and returns how long that took.
	take := func(t *testing.T, h http.HandlerFunc) time.Duration {
		t.Helper()
		var took time.Duration
		synctest.Test(t, func(t *testing.T) {
			a, err := New(Options{Logger: slog.New(slog.DiscardHandler)}, &Module{Name: "slow", Setup: func(e *Env) error {
				e.HandleFunc("GET /", h)
				return nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			handler, err := a.Start(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			base, cancel := context.WithCancel(t.Context())
			s := newServer(base, a.log, handler)
			ln := &pipe{make(chan net.Conn, 1), make(chan struct{})}
			go s.Serve(ln)
			client, server := net.Pipe()
			ln.conns <- server
			go io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			go io.Copy(io.Discard, bufio.NewReader(client))
			synctest.Wait()

			began := time.Now()
			a.drain(s, a.running, cancel)
			took = time.Since(began)
			client.Close()
			a.Stop(t.Context())
			<-time.After(time.Hour) // the slowest handler has ended too
		})
		return took
	}
	near := func(t *testing.T, took, want time.Duration) {
		t.Helper()
		if took < want || took > want+time.Second {
			t.Errorf("it took %v, want %v", took, want)
		}
	}

	t.Run("a request that ends by itself is waited for", func(t *testing.T) {
		near(t, take(t, func(w http.ResponseWriter, r *http.Request) {
			<-time.After(10 * time.Second)
			if r.Context().Err() != nil {
				t.Error("its context has ended")
			}
		}), 10*time.Second)
	})
	t.Run("one that streams for ever ends by its context after 15 seconds", func(t *testing.T) {
		near(t, take(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), drainTimeout)
	})
	t.Run("one that heeds nothing is given up 2 seconds later", func(t *testing.T) {
		near(t, take(t, func(w http.ResponseWriter, r *http.Request) { <-time.After(time.Minute) }), drainTimeout+cancelTimeout)
	})
}
