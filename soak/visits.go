package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/crumb-go/crumb/session"
)

// What a visit does goes through the keys, as in an app.
var (
	visitN      = session.NewCounter("soak.kept.n")
	visitA      = session.NewKey[string]("soak.a")
	visitB      = session.NewKey[string]("soak.b")
	visitTicket = session.NewKey[string]("soak.ticket")
	visitCount  = session.NewKey[int]("soak.count")
)

// A visit is a request of one session's visitor.
type visit struct {
	What  string
	Token string // of its cookie
	Value string // to set
	Add   int64
}

// An outcome is what a visit came back with.
type outcome struct {
	Err    string // "late", errLost, errRefused or none
	Values values // after it
	Token  string // new, or ""
	Other  bool   // the visitor got another session
	Old    int    // of the update that was tried last: what it was to replace
	Apart  bool   // it was sent again, so that Values may be of later
}

// values are those of the session, as far as a visit can see.
type values struct {
	N       int64
	A, B    string
	Ticket  string
	Count   int
	HasUser bool
}

func valuesOf(s *session.Session) values {
	return values{visitN.Get(s), visitA.Get(s), visitB.Get(s), visitTicket.Get(s), visitCount.Get(s), s.User() != ""}
}

// A visited is the state of the session between two visits.
type visited struct {
	Ended        bool
	Token, Older string // those that open it; Older is of before a renewal
	values
}

func (v visited) opens(token string) bool { return !v.Ended && (token == v.Token || token == v.Older) }

// visitModel is a session that its visits reach one after the other.
func visitModel(first visited) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return first },
		Step: func(state, input, output any) (bool, any) {
			st, in, out := state.(visited), input.(*visit), output.(outcome)
			return in.step(st, &out)
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v → %+v", *input.(*visit), output) },
		DescribeState:     func(state any) string { return fmt.Sprintf("%+v", state) },
	}
}

// step reports whether in may come out as out on st, and what it leaves.
func (in *visit) step(st visited, out *outcome) (bool, visited) {
	switch {
	case out.Err == errRefused:
		return true, st
	case out.Err == "late" || out.Other:
		// In the first case nobody gets anything; in the second a sign-in got a
		// session of its own, since the one it came with was not its to have.
		stepUp := in.What == "signin" && st.HasUser && in.Token == st.Older
		return !st.opens(in.Token) || stepUp && out.Other, st
	case in.What == "signout" || in.What == "revoke":
		ended := st.Ended
		st.Ended = true
		return !ended || in.What == "revoke" || out.Err == errLost, st
	case !st.opens(in.Token):
		return out.Err == errLost, st
	}
	after := st
	switch in.What {
	case "add":
		after.N += in.Add
	case "set":
		after.A = in.Value
	case "set both":
		after.A, after.B = in.Value, in.Value
		after.N += in.Add
	case "remove":
		after.B = ""
	case "issue":
		after.Ticket = in.Value
	case "pop":
		if st.A == in.Value { // else what it saw has a successor, which stays
			after.A = ""
		}
	case "take":
		if out.Err == "" && in.Value != st.Ticket {
			return false, st
		}
		after.Ticket = ""
	case "update":
		if out.Err == errLost && st.Count != out.Old {
			return true, st
		}
		after.Count++
	case "renew":
		if out.Err != errLost && out.Token == "" { // nothing to do: one is under way
			return st.Older != "" && (out.Apart || st.values == out.Values), st
		}
		if st.Older != "" {
			return out.Err == errLost, st
		}
		after.Token, after.Older = newToken(in, out), st.Token
	case "signin":
		if st.HasUser && in.Token != st.Token {
			return out.Err == errLost, st
		}
		if !st.HasUser {
			after.values = values{N: st.N}
		}
		after.HasUser, after.Token, after.Older = true, newToken(in, out), ""
	}
	return out.Err == errLost || out.Apart || after.values == out.Values, after
}

// newToken is the token of out, or one that nobody has because it was lost.
func newToken(in *visit, out *outcome) string {
	if out.Token != "" {
		return out.Token
	}
	return "lost by " + in.Value
}

// A visitHistory has visitors visit one session at once.
type visitHistory struct {
	manager *session.Manager
	handler http.Handler
	lossy   *lossy // nil if no answer is lost
	clock   atomic.Int64
	token   atomic.Value // the newest
	id      session.ID

	mu     sync.Mutex // guards what follows
	ops    []porcupine.Operation
	ghosts []*visiting
}

// A visiting is a visit under way, in the context of its request.
type visiting struct {
	*visit
	called int64
	served bool
	again  bool // an answer was lost although the change took effect; guarded by the history's mu
	out    outcome
}

type visitKey struct{}

func newVisitHistory(st session.Store, l *lossy) (*visitHistory, error) {
	h := &visitHistory{lossy: l}
	var ticks atomic.Int64
	began := time.Now().Truncate(time.Microsecond)
	m, err := session.NewManager(st, session.Config{
		KeepOnSignIn: []string{"soak.kept"},
		Logger:       slog.New(slog.NewTextHandler(io.Discard, nil)),
		// Each call a microsecond, so that histories take place in less than the minute
		// in which a former token is late, however slow the machine.
		Now: func() time.Time { return began.Add(time.Duration(ticks.Add(1)) * time.Microsecond) },
	})
	if err != nil {
		return nil, err
	}
	h.manager = m
	h.handler = m.Handler(http.HandlerFunc(serveVisit))
	return h, nil
}

// serveVisit is the app of a history.
func serveVisit(w http.ResponseWriter, r *http.Request) {
	v := r.Context().Value(visitKey{}).(*visiting)
	s, ctx, out := session.From(r), r.Context(), &v.out
	v.served = true
	err := error(nil)
	committed := false
	switch v.What {
	case "add":
		visitN.Add(s, v.Add)
	case "set":
		visitA.Set(s, v.Value)
	case "set both":
		visitA.Set(s, v.Value)
		visitB.Set(s, v.Value)
		visitN.Add(s, v.Add)
	case "remove":
		if _, ok := visitB.Lookup(s); ok {
			visitB.Delete(s)
		} else {
			v.What = "look" // there is nothing to do
		}
	case "issue":
		visitTicket.Set(s, v.Value)
	case "pop":
		popped, ok := visitA.Pop(s)
		if v.Value = popped; !ok {
			v.What = "look"
		}
	case "take":
		taken, ok, terr := visitTicket.Take(ctx, s)
		if err, committed = terr, ok || terr != nil; !ok && terr == nil {
			v.What = "look"
		}
		v.Value = taken
	case "update":
		_, err = visitCount.Update(ctx, s, func(n int) (int, error) {
			out.Old = n
			return n + 1, nil
		})
		committed = true
	case "renew":
		s.Renew()
	case "signin":
		s.SignIn("ann")
	case "signout":
		s.SignOut()
	}
	before := s.ID()
	if !committed {
		err = s.Commit(ctx)
	}
	switch {
	case errors.Is(err, session.ErrEnded), errors.Is(err, session.ErrStale):
		out.Err = "late"
	case errors.Is(err, session.ErrUnknown):
		out.Err = errLost
	case err != nil:
		panic(err) // the stores of these histories know no other
	case s.ID() == "" && v.What != "signout":
		out.Err = "late"
	}
	out.Values, out.Other = valuesOf(s), before != s.ID() && v.What == "signin"
	w.WriteHeader(http.StatusNoContent)
}

// visit makes a visit and records it.
func (h *visitHistory) visit(client int, in visit) outcome {
	v := &visiting{visit: &in, called: h.clock.Add(1)}
	ctx := context.WithValue(context.Background(), visitKey{}, v)
	ctx = context.WithValue(ctx, lostKey{}, func(what string) { h.haunt(v, what) })
	if in.What == "revoke" {
		if err := h.manager.Revoke(ctx, h.id); err != nil {
			v.out.Err = errLost
		}
	} else {
		r := httptest.NewRequestWithContext(ctx, "POST", "https://app.example/", nil)
		if in.Token != "" {
			r.AddCookie(&http.Cookie{Name: "__Host-crumb", Value: in.Token})
		}
		w := httptest.NewRecorder()
		h.handler.ServeHTTP(w, r)
		if !v.served {
			v.out.Err = errRefused // it was not even loaded
		}
		for _, c := range w.Result().Cookies() {
			v.out.Token = c.Value
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	v.out.Apart = v.again && (in.What == "renew" || in.What == "signin")
	op := porcupine.Operation{ClientId: client, Input: v.visit, Call: v.called, Output: v.out, Return: h.clock.Add(1)}
	if v.out.Err == errLost {
		op.Return = never
	}
	h.ops = append(h.ops, op)
	return v.out
}

// haunt notes that an update took effect whose answer was lost.
func (h *visitHistory) haunt(v *visiting, what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch what {
	case "set", "remove", "sign-in", "renew":
		h.ghosts = append(h.ghosts, v)
		v.again = true
	}
}

// history returns the operations, and for some of the updates whose answers were
// lost one more each. The manager sends an unconditional set or delete again, and
// then each of the calls counts: the last one wins, as documented. A sign-in or a
// renewal may take effect, and the session be ended before it is sent again; then
// it comes back as late, or with another session. What must happen once has no such
// ghost: it could not be told from a second time.
func (h *visitHistory) history() []porcupine.Operation {
	ops := h.ops
	for _, v := range h.ghosts {
		if once := v.What == "signin" || v.What == "renew"; !once || v.out.Err != "" || v.out.Other {
			ops = append(ops, porcupine.Operation{Input: v.visit, Call: v.called, Output: outcome{Err: errLost}, Return: never})
		}
	}
	return ops
}

// begin makes the session and returns it as it is then.
func (h *visitHistory) begin() (visited, error) {
	for range 20 {
		if out := h.visit(0, visit{What: "set", Value: "first"}); out.Err == "" {
			h.token.Store(out.Token)
			h.id = session.ID(out.Token[:16])
			h.ops, h.ghosts = nil, nil
			return visited{Token: out.Token, values: out.Values}, nil
		}
	}
	return visited{}, errors.New("no session could be made")
}

// visitAtOnce has clients make visits each, all to one session, and checks that
// there is an order that explains what they came back with.
func visitAtOnce(st session.Store, loses bool, clients, visits int, seed uint64, page string) (ops int, lost map[string]int, err error) {
	var l *lossy
	if loses {
		l = newLossy(st, seed)
		st = l
	}
	h, err := newVisitHistory(st, l)
	if err != nil {
		return 0, nil, err
	}
	first, err := h.begin()
	if err != nil {
		return 0, nil, err
	}
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(i)+2))
			token := first.Token
			for n := range visits {
				if rng.IntN(4) > 0 {
					token = h.token.Load().(string)
				}
				in := visit{What: pick(rng), Token: token, Value: strconv.Itoa(i) + "." + strconv.Itoa(n), Add: 1 + rng.Int64N(9)}
				out := h.visit(i, in)
				if out.Token != "" && !out.Other && strings.HasPrefix(out.Token, string(h.id)) {
					h.token.Store(out.Token)
				}
			}
		})
	}
	all.Wait()
	if l != nil {
		l.settle()
		lost = l.lost
	}
	h.visit(clients, visit{What: "look", Token: h.token.Load().(string)})
	return len(h.ops), lost, check(visitModel(first), h.history(), page)
}

// pick returns what the next visit does.
func pick(rng *rand.Rand) string {
	usual := []string{"add", "add", "set", "set both", "remove", "issue", "pop", "take", "take", "update", "update", "look"}
	switch rng.IntN(250) {
	case 0, 1, 2, 3, 4, 5, 6, 7:
		return "renew"
	case 8, 9, 10, 11, 12:
		return "signin"
	case 13:
		return "signout"
	case 14:
		return "revoke"
	}
	return usual[rng.IntN(len(usual))]
}
