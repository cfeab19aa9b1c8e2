// Package rider lets a middleware that stands inside that of sessions keep something
// with each request. It rides on what the session has allocated for the request: a
// context of its own would cost a copy of the request.
package rider

import "context"

// A Rider is what the middleware has of its own, of which this is a part.
type Rider struct{ Value any }

// Key is the key of a session's context under which the place of the rider is, a
// **Rider.
type Key struct{}

// Place returns the place in the request that has ctx, nil outside of a session's
// middleware. Who takes it does so before other goroutines have the request; it is
// not guarded.
func Place(ctx context.Context) **Rider {
	place, _ := ctx.Value(Key{}).(**Rider)
	return place
}
