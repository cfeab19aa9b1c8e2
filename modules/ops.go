package modules

import (
	"fmt"
	"net/http"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/internal/ops"
	"github.com/crumb-go/crumb/session"
)

// observe adds GET /metrics and GET /events for operators, if they have a listener
// of their own, and returns the store to use. Without one nothing is counted.
func observe(e *app.Env, store session.Store, cfg *session.Config) session.Store {
	addr := e.Server().OpsAddr
	if addr == "" {
		return store
	}
	m := ops.New(store)
	cfg.OnEvent = m.Event
	e.Provide(m) // for modules that count something of their own
	loopback := app.ServerConfig{Addr: addr}.Loopback()
	for pattern, h := range map[string]http.Handler{"GET /metrics": m, "GET /events": m.Events()} {
		if loopback {
			h = onlyLoopbackHosts(h)
		}
		e.HandleOps(pattern, h)
	}
	return m.Store(store)
}

// onlyLoopbackHosts keeps out web pages that an operator has open and whose name
// was rebound to this machine: they would read what is about others.
func onlyLoopbackHosts(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if loopbackHost(r.Host) {
			next.ServeHTTP(w, r)
			return
		}
		http.Error(w, fmt.Sprintf("This address is for its own machine only, and the Host of the request is %q.\n"+
			"hint: ask for 127.0.0.1 or localhost; for others to reach it set --ops-addr to an address of the network.", r.Host), http.StatusMisdirectedRequest)
	})
}
