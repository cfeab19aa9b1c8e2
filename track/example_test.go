package track_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/modules"
	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
	"github.com/crumb-go/crumb/track"
)

var shop = &app.Module{
	Name:     "shop",
	Requires: []*app.Module{modules.Track},
	Setup: func(e *app.Env) error {
		e.HandleFunc("GET /products/{id}", product)
		e.HandleFunc("POST /checkout", checkout)
		e.HandleFunc("GET /healthz", healthz, modules.Untracked)
		return nil
	},
}

func checkout(w http.ResponseWriter, r *http.Request) {
	if err := track.Event(r, "checkout", map[string]any{"items": 3}); err != nil {
		log.Print(err)
	}
	fmt.Fprintln(w, "Thank you")
}

var inCart = session.NewCounter("cart.items")

func product(w http.ResponseWriter, r *http.Request) {
	inCart.Add(session.From(r), 1)
	fmt.Fprintln(w, "In your cart")
}

func healthz(w http.ResponseWriter, r *http.Request) {}

func Example_module() {
	a, err := app.New(app.Options{Args: []string{"--database=memory:"}}, shop)
	if err != nil {
		log.Fatal(err)
	}
	h, err := a.Start(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("POST", "http://localhost/checkout", nil))
	fmt.Print(w.Body)
	if err := a.Stop(context.Background()); err != nil {
		log.Fatal(err)
	}
	// Output: Thank you
}

// Without modules a tracker stands between the sessions and the routes.
func Example() {
	ctx, stop := context.WithCancel(context.Background())
	tables, err := track.OpenTables(ctx, "memory:", track.TablesConfig{})
	if err != nil {
		log.Fatal(err)
	}
	sessions, err := session.NewManager(memory.New(), session.Config{Insecure: true})
	if err != nil {
		log.Fatal(err)
	}
	tracker, err := track.New(track.Config{Tables: tables, Values: []string{"id"}})
	if err != nil {
		log.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- tracker.Run(ctx) }()

	mux := http.NewServeMux()
	mux.HandleFunc("GET /products/{id}", product)
	h := sessions.Handler(tracker.Handler(mux))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/products/7", nil))

	// At the end, when no request is under way any more:
	stop()
	<-done
	if err := tracker.Close(context.Background()); err != nil {
		log.Print(err)
	}

	span := track.Day(time.Now(), time.Local)
	routes, err := tables.Top(context.Background(), span, track.Routes, 10, 0)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(routes)
	if err := tables.Close(); err != nil {
		log.Fatal(err)
	}
	// Output: [{/products/{id} 1}]
}
