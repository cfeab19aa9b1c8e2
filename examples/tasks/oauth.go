package main

import (
	"crypto/rand"
	"net/http"
	"net/url"
	"sync"

	"github.com/crumb-go/crumb/session"
)

type pending struct{ Next string }

var oauth = session.NewKey[pending]("oauth.pending")

// oauthStart keeps one state for each sign-in under way: two tabs may have one
// each.
func oauthStart(w http.ResponseWriter, r *http.Request) {
	state := rand.Text()
	oauth.At(state).Set(session.From(r), pending{Next: "/devices"})
	http.Redirect(w, r, "/provider/authorize?state="+state, http.StatusSeeOther)
}

// oauthCallback takes the state: it counts once, and only in the browser that
// began.
func oauthCallback(w http.ResponseWriter, r *http.Request) {
	s := session.From(r)
	p, ok, err := oauth.At(r.FormValue("state")).Take(r.Context(), s)
	if err != nil {
		tryLater(w, err)
		return
	}
	if !ok {
		beginAgain(w, r) // and the code stays unspent: it may be somebody else's
		return
	}
	user := theProvider.redeem(r.FormValue("code"))
	if user == "" {
		beginAgain(w, r)
		return
	}
	s.SignIn(user)
	http.Redirect(w, r, p.Next, http.StatusSeeOther)
}

func beginAgain(w http.ResponseWriter, r *http.Request) {
	show(w, r, http.StatusBadRequest, "sign-in", "That sign-in has expired. Please begin again.")
}

// A provider stands for the other site. It vouches for everybody as ann.
type provider struct {
	mu    sync.Mutex
	codes map[string]string // user by code; guarded by mu
}

var theProvider = &provider{codes: map[string]string{}}

func (p *provider) ask(w http.ResponseWriter, r *http.Request) {
	show(w, r, http.StatusOK, "provider", r.FormValue("state"))
}

func (p *provider) allow(w http.ResponseWriter, r *http.Request) {
	code := rand.Text()
	p.mu.Lock()
	p.codes[code] = "ann"
	p.mu.Unlock()
	q := url.Values{"code": {code}, "state": {r.FormValue("state")}}
	http.Redirect(w, r, "/oauth/callback?"+q.Encode(), http.StatusSeeOther)
}

// redeem returns whom the code is for, once.
func (p *provider) redeem(code string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	user := p.codes[code]
	delete(p.codes, code)
	return user
}
