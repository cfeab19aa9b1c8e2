// Package session remembers the visitors of a web app.
//
// Five words. A session is what the server remembers about one visitor. A token
// is the cookie that proves it. An [ID] names the session for its whole life, in
// lists, logs and URLs, and proves nothing. A [Record] is a session as a [Store]
// keeps it, and a [Change] is what one request did to it.
//
// [Manager.Handler] loads the session before the handler runs and commits what
// changed before the first byte of the response. Changes are merged in the
// store key by key: requests that run at once never lose each other's writes,
// and a session that was ended never comes back.
//
// Handlers need [From], [NewKey] and [NewCounter]. Authors of stores need
// [Store], [Record] and [Change.Apply], and nothing else.
package session
