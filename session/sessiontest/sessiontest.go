// Package sessiontest helps to test handlers that use sessions.
package sessiontest

import (
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
)

// NewRequest is [httptest.NewRequest] with an empty session, kept in memory, on
// which the test may do all that a handler may. Pass it to a handler as it is,
// without the middleware: what the handler changes shows in [session.From] of
// the same request.
func NewRequest(method, target string, body io.Reader) *http.Request {
	m, err := session.NewManager(memory.New(), session.Config{})
	if err != nil {
		panic(err) // the defaults are valid
	}
	return m.Attach(httptest.NewRequest(method, target, body))
}
