// Loginplain is a private page in plain net/http, without modules.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/crumb-go/crumb/keyring"
	"github.com/crumb-go/crumb/login"
	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/sqlite"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	store, err := sqlite.Open(ctx, "sqlite:crumb.db", sqlite.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	tables, err := login.OpenTables(ctx, "sqlite:crumb.db", login.TablesConfig{})
	if err != nil {
		log.Fatal(err)
	}
	defer tables.Close()
	sessions, err := session.NewManager(store, session.Config{Insecure: true}) // plain HTTP, on this machine only
	if err != nil {
		log.Fatal(err)
	}
	accounts, err := newAccounts("crumb.keys", sessions, tables)
	if err != nil {
		log.Fatal(err)
	}
	go sessions.Run(ctx)
	go tables.Run(ctx)
	go accounts.Run(ctx)

	server := &http.Server{Addr: "localhost:8080", Handler: routes(sessions, accounts), ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { server.Close() })
	log.Print("listening on http://localhost:8080")
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
}

func newAccounts(keyFile string, sessions *session.Manager, tables *login.Tables) (*login.Login, error) {
	keys, err := keyring.Open(keyFile)
	if err != nil {
		return nil, err
	}
	return login.New(login.Config{
		AppName: "My app", Insecure: true,
		Keys: keys, Sessions: sessions, Tables: tables,
	})
}

func routes(sessions *session.Manager, accounts *login.Login) http.Handler {
	mux := http.NewServeMux()
	accounts.Routes(mux.Handle) // /login, /logout, /account and so on
	mux.Handle("GET /private", login.Require(http.HandlerFunc(private)))
	return sessions.Handler(accounts.Handler(mux))
}

func private(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "Hello, %s\n", login.CurrentUser(r).Name)
}
