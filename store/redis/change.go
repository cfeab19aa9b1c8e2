package redis

import (
	"bytes"
	"strconv"

	"github.com/crumb-go/crumb/session"
)

// maxFields is how many arguments with fields a script can hand on to one command.
const maxFields = 4000

// update returns the arguments of the script that applies c: what becomes of the
// record if it is base, or nothing of that where out is nil, and what to do if not.
func (e *encoder) update(base, out *known, c *session.Change) []string {
	var set, gone []string
	facts, drop := "", int64(0)
	if out != nil {
		set, gone = differences(base.rec, out)
		if len(set) <= maxFields && len(gone) <= maxFields {
			// Not the version alone: when a failover loses a change, the next one makes
			// another state of the same version. Ends, sign-ins and renewals leave
			// other facts each, and so do other changes, by their time of being seen,
			// unless their clock is behind by more than the failover took.
			facts = base.facts
		} else {
			set, gone = nil, nil
		}
		if at := dropAt(out.rec.Expires); at != dropAt(base.rec.Expires) {
			drop = at
		}
	}
	args := make([]string, 0, 5+len(set)+len(gone))
	args = append(args, facts, strconv.FormatInt(drop, 10), strconv.Itoa(len(set)), strconv.Itoa(len(gone)))
	args = append(append(args, set...), gone...)
	return append(args, string(e.words(c)))
}

// differences returns the fields of what becomes of base that are not those of base,
// each behind its name, and the names of those that it has no longer.
func differences(base *session.Record, becomes *known) (set, gone []string) {
	out := becomes.rec
	set = append(make([]string, 0, 8), factsField, becomes.facts)
	if out.Secret != base.Secret {
		set = append(set, secretField, string(out.Secret[:]))
	}
	if out.OldSecret != base.OldSecret {
		set = append(set, oldField, string(out.OldSecret[:]))
	}
	if out.User != base.User {
		set = append(set, userField, out.User)
	}
	if out.Addr != base.Addr {
		set = append(set, addrField, out.Addr.String())
	}
	if out.Agent != base.Agent {
		set = append(set, agentField, out.Agent)
	}
	// Both lists are in the order of their keys.
	old, now := base.Values, out.Values
	for len(old) > 0 || len(now) > 0 {
		switch {
		case len(now) == 0 || len(old) > 0 && old[0].Key < now[0].Key:
			gone = append(gone, "."+old[0].Key)
			old = old[1:]
			continue
		case len(old) == 0 || now[0].Key < old[0].Key:
			set = append(set, "."+now[0].Key, string(now[0].JSON))
		default:
			if !bytes.Equal(old[0].JSON, now[0].JSON) {
				set = append(set, "."+now[0].Key, string(now[0].JSON))
			}
			old = old[1:]
		}
		now = now[1:]
	}
	return set, gone
}

// words are what a change does, for the script to take apart if it must: most often
// it need not, and many arguments cost more than one. Each word stands behind its
// length and a colon.
type words []byte

func (w *words) add(list ...string) {
	for _, word := range list {
		*w = append(append(strconv.AppendInt(*w, int64(len(word)), 10), ':'), word...)
	}
}

// words returns the time and the Auth of c and what to do, five words a step, in the
// order of Change.Apply.
func (e *encoder) words(c *session.Change) words {
	w := make(words, 0, 160)
	w.add(e.text(c.Now), strconv.FormatInt(c.Auth, 10))
	if c.SignIn != nil {
		e.signIn(&w, c.SignIn, c.Renew)
	}
	for i := range c.Ops {
		w.op(&c.Ops[i])
	}
	if c.MaxBytes > 0 && len(c.Ops) > 0 {
		w.add("most", strconv.Itoa(c.MaxBytes), "", "", "")
	}
	if !c.Seen.IsZero() {
		w.add("seen", e.text(c.Seen), "", "", "")
	}
	if c.Idle > 0 {
		w.add("idle", strconv.FormatInt(e.duration(c.Idle), 10), "", "", "")
	}
	if k := c.Came; k != nil {
		w.add("came", string(k.Secret[:]), e.text(k.Until), "", "")
	}
	if re := c.Renew; re != nil {
		w.add("renew", string(re.From[:]), string(re.To[:]), e.text(re.OldUntil), "")
	}
	if c.Addr.IsValid() {
		w.add("addr", c.Addr.String(), "", "", "")
	}
	if c.Agent != "" {
		w.add("agent", c.Agent, "", "", "")
	}
	return w
}

func (e *encoder) signIn(w *words, in *session.SignIn, re *session.Renew) {
	if re == nil {
		w.add("refuse", "", "", "", "")
		return
	}
	w.add("signin", in.User, string(re.From[:]), strconv.Itoa(len(in.Keep)), "")
	for _, prefix := range in.Keep {
		w.add("." + prefix)
	}
	remember := "0"
	if in.Remember {
		remember = "1"
	}
	w.add("limits", e.text(in.At), remember, strconv.FormatInt(e.duration(in.Idle), 10), e.text(in.Absolute))
}

// op adds an operation: what it does, the field, the condition, what the field must
// hold ("=" and the bytes, "" if it must be absent), and what it gets.
func (w *words) op(op *session.Op) {
	if op.Kind == session.OpClear {
		w.add("clear", "."+op.Key, "", "", "")
		return
	}
	kind, value := "set", ""
	switch op.Kind {
	case session.OpDelete:
		kind = "delete"
	case session.OpAdd:
		kind, value = "add", strconv.FormatInt(op.Delta, 10)
	default:
		value = string(op.Value)
	}
	condition, old := "", ""
	if op.If != session.Always {
		condition = "fail"
		if op.If == session.OrSkip {
			condition = "skip"
		}
		if op.Old != nil {
			old = "=" + string(op.Old)
		}
	}
	w.add(kind, "."+op.Key, condition, old, value)
}
