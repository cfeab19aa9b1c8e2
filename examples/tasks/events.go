package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/crumb-go/crumb/session"
)

// events is a stream that ends when the session does, wherever that happened.
func events(w http.ResponseWriter, r *http.Request) {
	ctx, stop := session.From(r).Watch(r.Context())
	defer stop()
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		fmt.Fprintf(w, "data: %s\n\n", time.Now().UTC().Format(time.RFC3339))
		if out.Flush() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), session.ErrEnded) {
				fmt.Fprint(w, "event: ended\ndata: sign in again\n\n")
			}
			return
		}
	}
}
