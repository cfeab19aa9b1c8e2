package session

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"time"
)

// A token is what the cookie holds: 12 bytes of ID and 20 of secret, in
// base64url. One form of it is valid, so that nothing but the token opens the
// session.
const (
	idChars     = 16
	tokenChars  = 43
	tokenBytes  = 32
	idBytes     = 12
	secretBytes = tokenBytes - idBytes
)

var base64url = base64.RawURLEncoding.Strict()

// newToken returns a fresh token and what the store needs of it. crypto/rand
// never fails: it stops the program where the system has no randomness.
func newToken() (token string, id ID, secret Hash) {
	var b [tokenBytes]byte
	rand.Read(b[:])
	token = base64url.EncodeToString(b[:])
	// A copy, so that who keeps the ID does not keep the token in memory.
	return token, ID(strings.Clone(token[:idChars])), hashSecret(b[:])
}

// renewToken returns a token with a new secret for the session called id.
func renewToken(id ID) (token string, secret Hash) {
	var b [tokenBytes]byte
	rand.Read(b[idBytes:])
	return string(id) + base64url.EncodeToString(b[idBytes:]), hashSecret(b[:])
}

// parseToken returns the ID and the hash of the secret of a well-formed token.
func parseToken(token string) (id ID, secret Hash, ok bool) {
	if len(token) != tokenChars {
		return "", Hash{}, false
	}
	var text [tokenChars]byte
	var b [tokenBytes + 1]byte
	copy(text[:], token)
	// The decoder skips line breaks: then fewer bytes come out.
	if n, err := base64url.Decode(b[:], text[:]); err != nil || n != tokenBytes {
		return "", Hash{}, false
	}
	return ID(token[:idChars]), hashSecret(b[:tokenBytes]), true
}

// hashSecret hashes the secret of a token's bytes. A plain hash is enough: 160
// random bits cannot be guessed, so there is nothing to slow down.
func hashSecret(token []byte) Hash { return sha256.Sum256(token[idBytes:tokenBytes]) }

func (h *Hash) equal(other *Hash) bool { return subtle.ConstantTimeCompare(h[:], other[:]) == 1 }

// A cookie knows how the token travels: RFC 6265bis.
type cookie struct {
	name  string
	attrs string // all but Max-Age
}

func newCookie(cfg *Config) cookie {
	c := http.Cookie{Name: "n", Value: "v", Path: cfg.CookiePath, Domain: cfg.CookieDomain,
		HttpOnly: true, Secure: !cfg.Insecure, SameSite: cfg.SameSite}
	return cookie{cfg.CookieName, strings.TrimPrefix(c.String(), "n=v")}
}

// set returns the Set-Cookie line for token. A zero maxAge lets the browser drop
// it when it closes.
func (c *cookie) set(token string, maxAge time.Duration) string {
	if maxAge <= 0 {
		return c.name + "=" + token + c.attrs
	}
	seconds := int64((maxAge + time.Second - 1) / time.Second)
	return c.name + "=" + token + c.attrs + "; Max-Age=" + strconv.FormatInt(seconds, 10)
}

// clear returns the Set-Cookie line that makes the browser forget the token.
func (c *cookie) clear() string { return c.name + "=" + c.attrs + "; Max-Age=0" }

// find returns the value of the cookie in h, and whether another of the same
// name holds another value. Then neither counts: either may have been planted by
// a sibling host or a longer path.
func (c *cookie) find(h http.Header) (value string, found, ambiguous bool) {
	for _, line := range h["Cookie"] {
		for line != "" {
			var pair string
			pair, line, _ = strings.Cut(line, ";")
			pair = textproto.TrimString(pair)
			if len(pair) <= len(c.name) || pair[len(c.name)] != '=' || pair[:len(c.name)] != c.name {
				continue
			}
			v := pair[len(c.name)+1:]
			if found && v != value {
				return "", true, true
			}
			value, found = v, true
		}
	}
	return value, found, false
}
