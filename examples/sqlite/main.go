// Sqlite is Crumb with net/http and a SQLite file, started and stopped in the
// right order.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/sqlite"
)

var views = session.NewCounter("hello.views")

func hello(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "You've seen this page %d times\n", views.Add(session.From(r), 1))
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ln, err := net.Listen("tcp", "localhost:8080")
	if err == nil {
		err = run(ctx, ln, "sqlite:crumb.db")
	}
	if err != nil {
		log.Fatal(err)
	}
}

// run serves on ln until ctx is done.
func run(ctx context.Context, ln net.Listener, database string) (err error) {
	store, err := sqlite.Open(ctx, database, sqlite.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }() // 4. last of all

	sessions, err := session.NewManager(store, session.Config{
		Insecure: true, // plain HTTP, on this machine only; leave it out behind TLS
	})
	if err != nil {
		return err
	}
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	finished := make(chan error, 1)
	go func() { finished <- sessions.Run(background) }()
	defer func() {
		stopBackground() // 3. the manager writes what waits
		err = errors.Join(err, <-finished)
	}()

	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", hello)
	server := &http.Server{Handler: sessions.Handler(mux), ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ln) }()
	log.Print("listening on http://", ln.Addr())
	select {
	case err := <-ended:
		return err
	case <-ctx.Done(): // 1. told to stop
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	return server.Shutdown(drain) // 2. requests under way end
}
