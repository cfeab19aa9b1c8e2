package session_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/memory"
)

// visitor returns a function that asks h for a path and prints the answer, with
// the cookies of one browser.
func visitor(h http.Handler) func(method, path string) {
	cookies := map[string]*http.Cookie{}
	return func(method, path string) {
		r := httptest.NewRequest(method, path, nil)
		for _, c := range cookies {
			r.AddCookie(c)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		for _, c := range w.Result().Cookies() {
			cookies[c.Name] = c
		}
		fmt.Print(w.Body)
	}
}

var pageViews = session.NewCounter("example.views")

// A counter: no view is lost, however many requests come at once.
func Example() {
	sessions, err := session.NewManager(memory.New(), session.Config{})
	if err != nil {
		log.Fatal(err)
	}
	hello := sessions.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := session.From(r)
		fmt.Fprintf(w, "You've seen this page %d times\n", pageViews.Add(s, 1))
	}))

	visit := visitor(hello)
	visit("GET", "/")
	visit("GET", "/")
	// Output:
	// You've seen this page 1 times
	// You've seen this page 2 times
}

var flash = session.NewKey[string]("example.flash")

// A flash message: set before a redirect, shown once on the next page.
func ExampleKey_Pop() {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /save", func(w http.ResponseWriter, r *http.Request) {
		flash.Set(session.From(r), "Saved.")
		w.Header().Set("Location", "/")
		w.WriteHeader(http.StatusSeeOther)
	})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		if message, ok := flash.Pop(session.From(r)); ok {
			fmt.Fprintln(w, message)
			return
		}
		fmt.Fprintln(w, "Nothing new.")
	})
	sessions, _ := session.NewManager(memory.New(), session.Config{})

	visit := visitor(sessions.Handler(mux))
	visit("POST", "/save")
	visit("GET", "/")
	visit("GET", "/")
	// Output:
	// Saved.
	// Nothing new.
}

var cart = session.NewKey[[]string]("cart.items")

// A cart: Update is exact, two clicks at once are two items.
func ExampleKey_Update() {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /cart/{item}", func(w http.ResponseWriter, r *http.Request) {
		items, err := cart.Update(r.Context(), session.From(r), func(items []string) ([]string, error) {
			return append(items, r.PathValue("item")), nil
		})
		if err != nil {
			http.Error(w, "Please try again.", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, items)
	})
	mux.HandleFunc("POST /order", func(w http.ResponseWriter, r *http.Request) {
		s := session.From(r)
		fmt.Fprintf(w, "%d items ordered\n", len(cart.Get(s)))
		s.Clear("cart")
	})
	sessions, _ := session.NewManager(memory.New(), session.Config{})

	visit := visitor(sessions.Handler(mux))
	visit("POST", "/cart/tea")
	visit("POST", "/cart/cup")
	visit("POST", "/order")
	// Output:
	// [tea]
	// [tea cup]
	// 2 items ordered
}

// An Attempt is one sign-in at another site that is under way.
type Attempt struct{ Verifier, ReturnTo string }

var attempts = session.NewKey[Attempt]("oauth.attempts")

// OAuth state: Take gives each attempt to one request only, and At keeps several
// of them, one in each tab.
func ExampleKey_Take() {
	mux := http.NewServeMux()
	var state string
	mux.HandleFunc("GET /login", func(w http.ResponseWriter, r *http.Request) {
		state = rand.Text()
		attempts.At(state).Set(session.From(r), Attempt{Verifier: rand.Text(), ReturnTo: "/account"})
		// Now send the browser to the other site with state in the URL.
	})
	mux.HandleFunc("GET /callback", func(w http.ResponseWriter, r *http.Request) {
		s := session.From(r)
		attempt, ok, err := attempts.At(r.FormValue("state")).Take(r.Context(), s)
		switch {
		case err != nil:
			http.Error(w, "Please try again.", http.StatusServiceUnavailable)
		case !ok:
			http.Error(w, "This link has been used or is not yours.", http.StatusBadRequest)
		default:
			s.SignIn("ann") // once the other site has confirmed who it is
			fmt.Fprintln(w, "On to", attempt.ReturnTo)
		}
	})
	sessions, _ := session.NewManager(memory.New(), session.Config{})

	visit := visitor(sessions.Handler(mux))
	visit("GET", "/login")
	visit("GET", "/callback?state="+state)
	visit("GET", "/callback?state="+state)
	// Output:
	// On to /account
	// This link has been used or is not yours.
}

// Sign-in and sign-out. SignIn always replaces the token, SignOut ends the
// session everywhere.
func ExampleSession_SignIn() {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		s := session.From(r)
		s.SignIn("ann") // once the password was right
		if r.FormValue("remember") != "" {
			s.Remember()
		}
	})
	mux.HandleFunc("POST /logout", func(w http.ResponseWriter, r *http.Request) {
		session.From(r).SignOut()
	})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		if user := session.From(r).User(); user != "" {
			fmt.Fprintf(w, "Hello, %s.\n", user)
			return
		}
		fmt.Fprintln(w, "Please sign in.")
	})
	sessions, _ := session.NewManager(memory.New(), session.Config{})

	visit := visitor(sessions.Handler(mux))
	visit("GET", "/")
	visit("POST", "/login?remember=1")
	visit("GET", "/")
	visit("POST", "/logout")
	visit("GET", "/")
	// Output:
	// Please sign in.
	// Hello, ann.
	// Please sign in.
}

// "Your devices": a user sees where they are signed in and ends the others.
func ExampleManager_List() {
	sessions, _ := session.NewManager(memory.New(), session.Config{})
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) { session.From(r).SignIn("ann") })
	mux.HandleFunc("GET /devices", func(w http.ResponseWriter, r *http.Request) {
		s := session.From(r)
		var lines []string
		for in, err := range sessions.List(r.Context(), session.Query{User: s.User()}) {
			if err != nil {
				http.Error(w, "Please try again.", http.StatusServiceUnavailable)
				return
			}
			this := ""
			if in.ID == s.ID() {
				this = " (this one)"
			}
			lines = append(lines, in.Addr.String()+this)
		}
		slices.Sort(lines)
		fmt.Fprintln(w, lines)
	})
	mux.HandleFunc("POST /devices/end-others", func(w http.ResponseWriter, r *http.Request) {
		s := session.From(r)
		n, err := sessions.RevokeUser(r.Context(), s.User(), s.ID())
		if err != nil {
			http.Error(w, "Please try again.", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ended:", n)
	})
	h := sessions.Handler(mux)

	laptop, phone := visitor(h), visitor(h)
	laptop("POST", "/login")
	phone("POST", "/login")
	laptop("GET", "/devices")
	laptop("POST", "/devices/end-others")
	laptop("GET", "/devices")
	// Output:
	// [192.0.2.1 192.0.2.1 (this one)]
	// ended: 1
	// [192.0.2.1 (this one)]
}

// An event stream that ends with the session, wherever that ends.
func ExampleSession_Watch() {
	sessions, _ := session.NewManager(memory.New(), session.Config{})
	h := sessions.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := session.From(r)
		s.SignIn("ann")
		if err := s.Commit(r.Context()); err != nil {
			return
		}
		ctx, stop := s.Watch(r.Context())
		defer stop()
		fmt.Fprintln(w, "streaming")
		_ = sessions.Revoke(r.Context(), s.ID()) // an operator, on any process
		<-ctx.Done()
		fmt.Fprintln(w, context.Cause(ctx))
	}))

	visitor(h)("GET", "/")
	// Output:
	// streaming
	// session: the session has ended
}
