package session_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
)

var views = session.NewCounter("hello.views")
var keys [8]session.Key[string]

func init() {
	for i := range keys {
		keys[i] = session.NewKey[string](fmt.Sprintf("bench.k%d", i))
	}
}

type nullWriter struct{ h http.Header }

func (w *nullWriter) Header() http.Header         { return w.h }
func (w *nullWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *nullWriter) WriteHeader(int)             {}

var body = []byte("hello")

func bench(b *testing.B, withCookie bool, f func(s *session.Session)) {
	m, _ := session.NewManager(memory.New(), session.Config{})
	h := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f != nil {
			f(session.From(r))
		}
		w.Write(body)
	}))
	req := httptest.NewRequest("GET", "/", nil)
	if withCookie {
		rec := httptest.NewRecorder()
		m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s := session.From(r)
			for _, k := range keys {
				k.Set(s, "some value here")
			}
			views.Add(s, 1)
		})).ServeHTTP(rec, req)
		req.Header.Set("Cookie", "other=1; "+rec.Result().Cookies()[0].Name+"="+rec.Result().Cookies()[0].Value)
	}
	w := &nullWriter{http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		clear(w.h)
		h.ServeHTTP(w, req)
	}
}

func BenchmarkCounter(b *testing.B) { bench(b, true, func(s *session.Session) { views.Add(s, 1) }) }
func BenchmarkRead(b *testing.B)    { bench(b, true, func(s *session.Session) { keys[3].Get(s) }) }
func BenchmarkIdle(b *testing.B)    { bench(b, true, nil) }
func BenchmarkNone(b *testing.B)    { bench(b, false, nil) }
func BenchmarkNew(b *testing.B)     { bench(b, false, func(s *session.Session) { views.Add(s, 1) }) }
