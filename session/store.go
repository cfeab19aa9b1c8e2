package session

import (
	"context"
	"errors"
	"time"
)

// What a [Store], a [Manager] and a [Session] report about a session.
var (
	ErrConflict = errors.New("session: another request changed the value first")
	ErrEnded    = errors.New("session: the session has ended")
	ErrExists   = errors.New("session: the ID is taken")
	ErrNotFound = errors.New("session: no such session")
	ErrStale    = errors.New("session: somebody signed in while the request was under way")

	// ErrAnswered reports a sign-in, a renewal or a first value that came after
	// the first byte of the response: its cookie can no longer be sent.
	ErrAnswered = errors.New("session: the response has begun, so its cookie can no longer be set")

	// ErrUnknown is wrapped by the error of a store call that may or may not have
	// taken effect: the answer was lost, or replicas have not confirmed it and a
	// failover may undo it. Every other error means that nothing happened.
	ErrUnknown = errors.New("session: outcome unknown")
)

// A ValueError reports a value that cannot be kept.
type ValueError struct {
	Key string
	Err error
}

func (e *ValueError) Error() string { return "session: value of " + e.Key + ": " + e.Err.Error() }
func (e *ValueError) Unwrap() error { return e.Err }

// A Store keeps records. Its methods may be called by many goroutines at once.
// It has no clock: every time it needs is an argument. A [Record] is immutable
// once handed over, in either direction; a [Change] is the caller's again when
// Update returns, unless the outcome is unknown. A context that is done makes a
// call fail, with nothing done, and is not looked at after the call. Errors other
// than those named here are the driver's own; one that leaves open whether the
// call took effect wraps [ErrUnknown].
//
// Package storetest checks all that is said here.
type Store interface {
	// Create stores rec, or returns [ErrExists] if its ID is taken.
	Create(ctx context.Context, rec *Record) error

	// Load returns the record, expired or not, or [ErrNotFound].
	Load(ctx context.Context, id ID) (*Record, error)

	// Update applies c to the record under base.ID in one atomic step, as
	// [Change.Apply] does, and returns the record as it then stands. base is what
	// the caller last saw, for a store that can try that first; it may be stale.
	// Update never creates: a session that was ended while a request was under
	// way stays ended. If Apply would fail on the record as it stands nothing
	// changes and its error is returned, beside the record with [ErrConflict] and
	// [ErrStale]. base is never nil; an error of Apply on base proves nothing.
	Update(ctx context.Context, base *Record, c *Change) (*Record, error)

	// Delete removes the record, for erasing. An absent one is fine. To end a
	// session is an Update.
	Delete(ctx context.Context, id ID) error
}

// A Lister is a [Store] that can list. Without it [Manager.List],
// [Manager.RevokeUser] and [Manager.RevokeAll] return [errors.ErrUnsupported].
type Lister interface {
	// List returns at most q.Limit records that live at q.Now, without their
	// values, newest Created first and then by ID, ascending. A q with neither
	// User nor All is an error. Users are compared byte for byte.
	List(ctx context.Context, q Query) ([]Info, error)
}

// A Toucher is a [Store] that writes many seen-times in one go. Without it each
// is an Update.
type Toucher interface {
	// Touch does what [Touch.Apply] says to each of the records, an ID at most
	// once. Absent ones are skipped.
	Touch(ctx context.Context, touches []Touch) error
}

// A Sweeper is a [Store] that must be told to drop what expired. Without it the
// store is taken to do so itself.
type Sweeper interface {
	// Sweep deletes at most limit records that expired at or before then and
	// returns how many. It is called again until it returns less than limit.
	Sweep(ctx context.Context, then time.Time, limit int) (int, error)
}

// A Checker is a [Store] that can ask after many sessions at once, for
// [Session.Watch]. Without it each is a Load.
type Checker interface {
	// Check returns the Auth of those of ids that live at now.
	Check(ctx context.Context, now time.Time, ids []ID) (map[ID]int64, error)
}

// A Query selects sessions: of one user, or all. A Query with neither is an
// error, so that an anonymous visitor never lists everybody.
type Query struct {
	User  string
	All   bool
	After *Info     // only those after this one, the last of the page before
	Limit int       // of a page, more than 0; Manager.List defaults to 100
	Now   time.Time // set by the Manager
}

// Check returns an error if q selects neither a user nor all, or both.
func (q *Query) Check() error {
	if q.All == (q.User != "") {
		return errors.New("session: a Query needs either a User or All")
	}
	return nil
}

// IsAfter reports whether in stands after q.After in the order of [Lister].
func (q *Query) IsAfter(in *Info) bool {
	return q.After == nil || in.Created.Before(q.After.Created) ||
		in.Created.Equal(q.After.Created) && in.ID > q.After.ID
}
