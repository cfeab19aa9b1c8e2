package redis

import (
	"strconv"

	"github.com/crumb-go/crumb/session"
)

// steps returns the arguments of the script that applies c: what it must know about
// the record, then what to do, five words a step, in the order of Change.Apply.
func (e *encoder) steps(base *session.Record, c *session.Change) []string {
	args := make([]string, 0, 3+5*(len(c.Ops)+4))
	args = append(args, e.text(c.Now), strconv.FormatInt(c.Auth, 10), "")
	if base.Idle > 0 { // else it may be no more than an ID
		args[2] = e.state(base)
	}
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
