package main

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/session/sessiontest"
)

func TestHelloCountsOn(t *testing.T) {
	r := sessiontest.NewRequest("GET", "/", nil)
	s := session.From(r)
	views.Set(s, 41)
	w := httptest.NewRecorder()

	hello(w, r)

	if !strings.Contains(w.Body.String(), "42 times") || views.Get(s) != 42 {
		t.Errorf("got %q and %d", w.Body, views.Get(s))
	}
}
