package session

// An Event is something an operator may want to know.
type Event struct {
	Kind   EventKind
	Info   Info   // of the session, as far as it is known
	Reason string // of EventEnded and EventRejected
	Err    error  // of EventLate: [ErrEnded] or [ErrStale]
}

// An EventKind says what happened.
type EventKind string

const (
	EventCreated  EventKind = "created"
	EventEnded    EventKind = "ended"    // Reason: "signed out", "revoked", "replaced"
	EventLate     EventKind = "late"     // a change came after an end or a sign-in and was refused
	EventRejected EventKind = "rejected" // a cookie opened nothing; Reason: "malformed", "ambiguous", "unknown", "expired", "ended", "erased"
	EventRenewed  EventKind = "renewed"  // a new token
	EventRetried  EventKind = "retried"  // an Update ran again after a conflict
	EventReused   EventKind = "reused"   // an old token came back: perhaps stolen
	EventSignedIn EventKind = "signedin" // a user proved who they are
)
