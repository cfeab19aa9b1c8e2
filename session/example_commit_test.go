package session_test

import (
	"fmt"
	"net/http"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/session/sessiontest"
)

var tickets = session.NewCounter("example.tickets")

func ExampleSession_Commit() {
	page := func(w http.ResponseWriter, r *http.Request) {
		s := session.From(r)
		tickets.Add(s, 1)
		if err := s.Commit(r.Context()); err != nil {
			http.Error(w, "Please try again.", http.StatusServiceUnavailable)
			return
		}
		fmt.Println(tickets.Get(s)) // exact, whoever else added meanwhile
	}
	page(nil, sessiontest.NewRequest("GET", "/", nil))
	// Output: 1
}
