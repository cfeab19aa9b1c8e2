// Package session remembers the visitors of a web app.
//
// A few words. A session is what the server remembers about one visitor. An [ID]
// names it for its whole life, in lists, logs and URLs, and opens nothing. A token
// is what the cookie holds: the ID and a secret. A [Record] is a session as a
// [Store] keeps it, a [Change] is what one request did to it, and a [Key] is the
// typed name of one value in it.
//
// [Manager.Handler] loads the session before the handler runs and commits what
// changed before the first byte of the response. Changes are merged in the
// store key by key: requests that run at once never lose each other's writes,
// and a session that was ended never comes back.
//
// Handlers need [From], [NewKey] and [NewCounter]. Authors of stores need
// [Store], [Record] and [Change.Apply], and nothing else.
package session
