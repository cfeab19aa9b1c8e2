// Tasks shows common tasks with sessions: a message shown once, a cart, signing
// in, an OAuth state, a list of devices and a stream of events. Nothing in its
// handlers names a cookie, a store or a token.
//
// Run it, open http://localhost:8080 and sign in as ann with the password
// breadcrumbs, in two browsers if you like.
package main

import (
	"context"
	"errors"
	"log"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	sessions, err := newSessions()
	if err != nil {
		log.Fatal(err)
	}
	go sessions.Run(ctx)

	server := &http.Server{
		Addr:              "localhost:8080",
		Handler:           routes(sessions),
		ReadHeaderTimeout: 5 * time.Second,
	}
	context.AfterFunc(ctx, func() { server.Close() })
	log.Print("listening on http://localhost:8080")
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
}

func newSessions() (*session.Manager, error) {
	return session.NewManager(memory.New(), session.Config{
		Insecure:     true,             // plain HTTP, on this machine only
		KeepOnSignIn: []string{"cart"}, // a visitor's cart becomes the user's
	})
}

func routes(sessions *session.Manager) http.Handler {
	app := http.NewServeMux()
	app.HandleFunc("POST /note", saveNote)
	app.HandleFunc("GET /cart", showCart)
	app.HandleFunc("POST /cart", addToCart)
	app.HandleFunc("POST /cart/empty", emptyCart)
	app.HandleFunc("GET /sign-in", showSignIn)
	app.HandleFunc("POST /sign-in", signIn)
	app.HandleFunc("POST /sign-out", signOut)
	app.HandleFunc("POST /oauth/start", oauthStart)
	app.HandleFunc("GET /oauth/callback", oauthCallback)
	app.HandleFunc("GET /devices", private(listDevices(sessions)))
	app.HandleFunc("POST /devices/{id}/end", private(endDevice(sessions)))
	app.HandleFunc("POST /devices/end-others", private(endOthers(sessions)))
	app.HandleFunc("GET /events", private(events))

	mux := http.NewServeMux()
	mux.Handle("/", sessions.Handler(app))                            // needs its session
	mux.Handle("GET /{$}", sessions.Optional(http.HandlerFunc(home))) // can do without
	mux.HandleFunc("GET /static/{file}", static)                      // has none
	mux.HandleFunc("GET /provider/authorize", theProvider.ask)        // another site,
	mux.HandleFunc("POST /provider/allow", theProvider.allow)         // in real life
	return http.MaxBytesHandler(http.NewCrossOriginProtection().Handler(mux), 64<<10)
}
