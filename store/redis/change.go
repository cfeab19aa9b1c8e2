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
func (e *encoder) update(base, out *session.Record, c *session.Change) []string {
	var set, gone []string
	known, drop := "", int64(0)
	if out != nil {
		set, gone = e.differences(base, out)
		if len(set) <= maxFields && len(gone) <= maxFields {
			// Not the version alone: when a failover loses a change, the next one makes
			// another state of the same version. Ends, sign-ins and renewals leave
			// other facts each, and so do other changes, by their time of being seen,
			// unless their clock is behind by more than the failover took.
			known = e.facts(base)
		} else {
			set, gone = nil, nil
		}
		if at := dropAt(out.Expires); at != dropAt(base.Expires) {
			drop = at
		}
	}
	args := make([]string, 0, 6+len(set)+len(gone)+5*(len(c.Ops)+6))
	args = append(args, known, strconv.FormatInt(drop, 10), strconv.Itoa(len(set)), strconv.Itoa(len(gone)),
		e.text(c.Now), strconv.FormatInt(c.Auth, 10))
	args = append(append(args, set...), gone...)
	return e.steps(args, c)
}

// differences returns the fields of out that are not those of base, each behind its
// name, and the names of those that out has no longer.
func (e *encoder) differences(base, out *session.Record) (set, gone []string) {
	set = append(make([]string, 0, 8), factsField, e.facts(out))
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

// steps appends what to do, five words a step, in the order of Change.Apply.
func (e *encoder) steps(args []string, c *session.Change) []string {
	if in := c.SignIn; in != nil {
		args = e.signIn(args, in, c.Renew)
	}
	for i := range c.Ops {
		args = step(args, &c.Ops[i])
	}
	if c.MaxBytes > 0 && len(c.Ops) > 0 {
		args = append(args, "most", strconv.Itoa(c.MaxBytes), "", "", "")
	}
	if !c.Seen.IsZero() {
		args = append(args, "seen", e.text(c.Seen), "", "", "")
	}
	if c.Idle > 0 {
		args = append(args, "idle", strconv.FormatInt(e.duration(c.Idle), 10), "", "", "")
	}
	if k := c.Came; k != nil {
		args = append(args, "came", string(k.Secret[:]), e.text(k.Until), "", "")
	}
	if re := c.Renew; re != nil {
		args = append(args, "renew", string(re.From[:]), string(re.To[:]), e.text(re.OldUntil), "")
	}
	if c.Addr.IsValid() {
		args = append(args, "addr", c.Addr.String(), "", "", "")
	}
	if c.Agent != "" {
		args = append(args, "agent", c.Agent, "", "", "")
	}
	return args
}

func (e *encoder) signIn(args []string, in *session.SignIn, re *session.Renew) []string {
	if re == nil {
		return append(args, "refuse", "", "", "", "")
	}
	args = append(args, "signin", in.User, string(re.From[:]), strconv.Itoa(len(in.Keep)), "")
	for _, prefix := range in.Keep {
		args = append(args, "."+prefix)
	}
	remember := "0"
	if in.Remember {
		remember = "1"
	}
	return append(args, "limits", e.text(in.At), remember, strconv.FormatInt(e.duration(in.Idle), 10), e.text(in.Absolute))
}

// step appends an operation: what it does, the field, the condition, what the field
// must hold ("=" and the bytes, "" if it must be absent), and what it gets.
func step(args []string, op *session.Op) []string {
	if op.Kind == session.OpClear {
		return append(args, "clear", "."+op.Key, "", "", "")
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
	return append(args, kind, "."+op.Key, condition, old, value)
}
