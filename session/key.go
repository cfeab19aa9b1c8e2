package session

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
)

// A Key is the name and type of one value in a session. Make keys once, as
// package-level variables; the name is "<package>.<noun>". Values are kept as
// JSON. To change the type of a key, change its name.
type Key[T any] struct{ name string }

// NewKey returns the key called name. It panics if name is not two or more
// dot-separated parts of a-z, 0-9 and _, is longer than 128 bytes, or begins
// with "session.".
func NewKey[T any](name string) Key[T] {
	if !validName(name) || !strings.Contains(name, ".") || under(name, "session") {
		panic(fmt.Sprintf("session: key %q: a name is \"<package>.<noun>\", parts of a-z, 0-9 and _ with dots between; \"session.\" is taken", name))
	}
	return Key[T]{name}
}

// maxPart is shorter than a hash in hex, so that no part reads like another's
// hash.
const maxPart = 32

// At returns the key of one part, such as one of several OAuth states under way:
// NewKey[T]("oauth.pending").At(state). A part that is not a-z, 0-9 and _, or
// longer than 32 bytes, is hashed: it may come from the visitor.
func (k Key[T]) At(part string) Key[T] {
	if !validName(part) || strings.Contains(part, ".") || len(part) > maxPart {
		sum := sha256.Sum256([]byte(part))
		part = hex.EncodeToString(sum[:])
	}
	return Key[T]{k.name + "." + part}
}

// String returns the name of the key.
func (k Key[T]) String() string { return k.name }

// Get returns the value, or the zero T if there is none or it cannot be decoded.
// The value is the caller's own copy: changing a map or slice in it changes
// nothing in the session until Set.
func (k Key[T]) Get(s *Session) T {
	v, _ := k.Lookup(s)
	return v
}

// Lookup is Get that says whether there is a value.
func (k Key[T]) Lookup(s *Session) (v T, ok bool) { return decodeFor[T](s, k.name, s.get(k.name)) }

// Set sets the value. If two requests set one key at once, the later commit
// wins; with Update none is lost. A value that is too big or that JSON cannot hold
// fails the commit with a [*ValueError], before any I/O.
func (k Key[T]) Set(s *Session, v T) {
	raw, err := encode(v)
	s.set(k.name, raw, err)
}

// Update replaces the value by f(value) in the store, now, together with all that
// the request changed so far, and returns it. If another request changed it
// meanwhile f is called again with the newer value, until ctx is done; f must do
// nothing else. If f returns an error nothing changes and Update returns it. The
// other errors are those of [Session.Commit]. No update is lost.
func (k Key[T]) Update(ctx context.Context, s *Session, f func(T) (T, error)) (T, error) {
	var v T
	err := s.exchange(ctx, k.name, func(old json.RawMessage) (json.RawMessage, error) {
		current, _ := decodeFor[T](s, k.name, old)
		var err error
		if v, err = f(current); err != nil {
			return nil, err
		}
		raw, err := encode(v)
		if err != nil {
			return nil, &ValueError{k.name, err}
		}
		return raw, nil
	})
	if err != nil {
		var zero T
		return zero, err
	}
	return v, nil
}

// Take removes the value from the store, now, together with all that the request
// changed so far, and returns it. Of requests that take the same value at once
// exactly one gets it: for OAuth state, nonces, step-up grants. A value that was
// not there when the request loaded is not there, without asking the store. The
// errors are those of [Session.Commit]; with one the value must not be used.
func (k Key[T]) Take(ctx context.Context, s *Session) (v T, ok bool, err error) {
	var taken json.RawMessage
	err = s.exchange(ctx, k.name, func(old json.RawMessage) (json.RawMessage, error) {
		taken = old
		return nil, nil
	})
	if err != nil || taken == nil {
		return v, false, err
	}
	v, ok = decodeFor[T](s, k.name, taken)
	return v, ok, nil
}

// Pop returns the value and deletes it with the commit: for messages shown once.
// Two requests at once may both show it; a newer message is left alone.
func (k Key[T]) Pop(s *Session) (v T, ok bool) { return decodeFor[T](s, k.name, s.pop(k.name)) }

// Delete deletes the value.
func (k Key[T]) Delete(s *Session) { s.delete(k.name) }

// A Counter is a key for a number that requests add to. No addition is lost.
type Counter struct{ Key[int64] }

// NewCounter is [NewKey] for a [Counter].
func NewCounter(name string) Counter { return Counter{NewKey[int64](name)} }

// At is [Key.At] for a Counter.
func (c Counter) At(part string) Counter { return Counter{c.Key.At(part)} }

// Add adds n and returns the sum as this request sees it; after
// [Session.Commit] Get returns the exact one. A sum out of the range of int64
// fails the commit with a [*ValueError].
func (c Counter) Add(s *Session, n int64) int64 { return s.add(c.name, n) }

// validName reports whether s is parts of a-z, 0-9 and _ with dots between.
func validName(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	dot := true
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '.' && !dot:
			dot = true
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '_':
			dot = false
		default:
			return false
		}
	}
	return !dot
}
