package main

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/crumb-go/crumb/session"
)

// A call is one call of a store. All calls of a history concern one session.
type call struct {
	What   string // create, load, update, touch or delete
	ID     session.ID
	Rec    *session.Record // of create
	Change *session.Change // of update
	Touch  session.Touch
}

// An answer is what a call came back with.
type answer struct {
	Err string // a word of errWord, or "" for none
	Rec *session.Record
}

const (
	errLost    = "lost"    // may have happened
	errRefused = "refused" // did not happen
)

// errWord names the errors that a history tells apart.
func errWord(err error) string {
	value := (*session.ValueError)(nil)
	switch {
	case err == nil:
		return ""
	case errors.Is(err, session.ErrUnknown):
		return errLost
	case errors.Is(err, session.ErrNotFound):
		return "not found"
	case errors.Is(err, session.ErrExists):
		return "exists"
	case errors.Is(err, session.ErrConflict):
		return "conflict"
	case errors.Is(err, session.ErrStale):
		return "stale"
	case errors.As(err, &value):
		return "value"
	}
	return errRefused
}

// do is the definition of every call: what it answers on st, nil if there is no
// record, and what it leaves.
func (c *call) do(st *session.Record) (a answer, after *session.Record) {
	switch {
	case c.What == "create" && st != nil:
		return answer{Err: "exists"}, st
	case c.What == "create":
		return answer{}, c.Rec
	case c.What == "delete":
		return answer{}, nil
	case c.What == "touch" && st != nil:
		after, _ = c.Touch.Apply(st)
		return answer{}, after
	case c.What == "touch":
		return answer{}, nil
	case st == nil:
		return answer{Err: "not found"}, nil
	case c.What == "load":
		return answer{Rec: st}, st
	}
	out, err := c.Change.Apply(st)
	switch word := errWord(err); word {
	case "":
		return answer{Rec: out}, out
	case "conflict", "stale":
		return answer{word, st}, st
	default:
		return answer{Err: word}, st
	}
}

// callModel is a record on which calls happen one after the other, none at first.
var callModel = callModelFrom(nil)

func callModelFrom(first *session.Record) porcupine.Model {
	model := callSteps
	model.Init = func() any { return first }
	return model
}

var callSteps = porcupine.Model{
	Step: func(state, input, output any) (bool, any) {
		st, c, got := state.(*session.Record), input.(*call), output.(answer)
		if got.Err == errRefused {
			return true, st
		}
		want, after := c.do(st)
		ok := got.Err == errLost || got.Err == want.Err && (want.Rec == nil || sameRecord(want.Rec, got.Rec))
		return ok, after
	},
	Equal: func(a, b any) bool { return sameRecord(a.(*session.Record), b.(*session.Record)) },
	Hash: func(state any) uint64 {
		if st := state.(*session.Record); st != nil {
			return uint64(st.Version)<<8 ^ uint64(len(st.Values)) ^ uint64(st.Auth)<<32 ^ 1
		}
		return 0
	},
	DescribeOperation: func(input, output any) string {
		c, a := input.(*call), output.(answer)
		return fmt.Sprintf("%s → %s", describeCall(c), describeAnswer(a))
	},
	DescribeState: func(state any) string { return describeRecord(state.(*session.Record)) },
}

func describeCall(c *call) string {
	switch {
	case c.What != "update":
		return c.What
	case c.Change.End:
		return "end"
	}
	s := "update"
	if c.Change.SignIn != nil {
		s += " signin"
	}
	if c.Change.Renew != nil {
		s += " renew"
	}
	for _, op := range c.Change.Ops {
		s += fmt.Sprintf(" %s(%s %s%+d if %d:%s)", [...]string{"", "set", "delete", "add", "clear"}[op.Kind], op.Key, op.Value, op.Delta, op.If, op.Old)
	}
	return s
}

func describeAnswer(a answer) string {
	if a.Err != "" {
		return a.Err
	}
	return describeRecord(a.Rec)
}

func describeRecord(r *session.Record) string {
	if r == nil {
		return "none"
	}
	s := fmt.Sprintf("v%d auth %d ended %v", r.Version, r.Auth, r.Ended())
	for _, v := range r.Values {
		s += fmt.Sprintf(" %s=%s", v.Key, v.JSON)
	}
	return s
}

// sameRecord compares everything that a store has to keep.
func sameRecord(a, b *session.Record) bool {
	if a == b || a == nil || b == nil {
		return a == b
	}
	sameTimes := func(times ...time.Time) bool {
		for i := 0; i < len(times); i += 2 {
			if !times[i].Equal(times[i+1]) {
				return false
			}
		}
		return true
	}
	return a.Version == b.Version && a.ID == b.ID && a.User == b.User && a.Remember == b.Remember &&
		a.Addr == b.Addr && a.Agent == b.Agent && a.Auth == b.Auth && a.Secret == b.Secret &&
		a.OldSecret == b.OldSecret && a.Idle == b.Idle &&
		sameTimes(a.Created, b.Created, a.Seen, b.Seen, a.Expires, b.Expires, a.SignedIn, b.SignedIn,
			a.OldUntil, b.OldUntil, a.Absolute, b.Absolute) &&
		slices.EqualFunc(a.Values, b.Values, func(x, y session.Value) bool {
			return x.Key == y.Key && bytes.Equal(x.JSON, y.JSON)
		})
}

// An event is the beginning or the end of a call. The order of events is their
// time: one that is recorded before another began before it.
type event struct {
	Client, N int // N numbers the calls of a client
	Call      *call
	Answer    *answer
}

// A recorder hands events on in the order in which they happen.
type recorder struct {
	mu sync.Mutex
	to func(event) error
}

func (r *recorder) add(e event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.to(e)
}

// never is when a call returns whose answer nobody got.
const never = math.MaxInt64

// operations pairs the beginnings of calls with their ends, by session. A call
// without an end, or whose answer was lost, may take effect whenever it likes.
func operations(events []event) map[session.ID][]porcupine.Operation {
	type key struct{ client, n int }
	open := map[key]*porcupine.Operation{}
	all := make([]*porcupine.Operation, 0, len(events)/2)
	for i, e := range events {
		k := key{e.Client, e.N}
		if e.Call != nil {
			op := &porcupine.Operation{ClientId: e.Client, Input: e.Call, Call: int64(i), Output: answer{Err: errLost}, Return: never}
			open[k] = op
			all = append(all, op)
			continue
		}
		op := open[k]
		op.Output = *e.Answer
		if e.Answer.Err != errLost {
			op.Return = int64(i)
		}
	}
	byID := map[session.ID][]porcupine.Operation{}
	for _, op := range all {
		id := op.Input.(*call).ID
		byID[id] = append(byID[id], *op)
	}
	return byID
}

// checkTime bounds the search of an order for one history.
const checkTime = time.Minute

// check returns an error if the history has no order in which each operation
// answers what it answered. page, if not empty, is where it is then drawn.
func check(model porcupine.Model, history []porcupine.Operation, page string) error {
	switch result := porcupine.CheckOperationsTimeout(model, history, checkTime); result {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("a history of %d operations could not be judged in %v", len(history), checkTime)
	}
	_, info := porcupine.CheckOperationsVerbose(model, history, checkTime)
	err := fmt.Errorf("no order explains a history of %d operations; the longest that explains most ends\n%s", len(history), explain(model, history, info))
	if page == "" {
		return err
	}
	if derr := porcupine.VisualizePath(model, info, page); derr != nil {
		return errors.Join(err, derr)
	}
	return fmt.Errorf("%w\nit is drawn in %s", err, page)
}

// explain describes the longest order that was found, and what does not fit.
func explain(model porcupine.Model, history []porcupine.Operation, info porcupine.LinearizationInfo) string {
	longest := []porcupine.Operation{}
	for _, partial := range info.PartialLinearizationsOperations() {
		for _, ops := range partial {
			if len(ops) > len(longest) {
				longest = ops
			}
		}
	}
	var b strings.Builder
	state := model.Init()
	for i, op := range longest {
		_, state = model.Step(state, op.Input, op.Output)
		if i < len(longest)-10 {
			continue
		}
		fmt.Fprintf(&b, "%d..%d %s\n\tleaves %s\n", op.Call, op.Return, model.DescribeOperation(op.Input, op.Output), model.DescribeState(state))
	}
	fits := func(op porcupine.Operation) bool {
		return slices.ContainsFunc(longest, func(o porcupine.Operation) bool { return o.Call == op.Call && o.Return == op.Return })
	}
	fmt.Fprintln(&b, "what does not fit, or came later:")
	left := 15
	for _, op := range history {
		if left > 0 && !fits(op) {
			left--
			fmt.Fprintf(&b, "%d..%d %s\n", op.Call, op.Return, model.DescribeOperation(op.Input, op.Output))
		}
	}
	return b.String()
}
