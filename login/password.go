package login

import (
	"fmt"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Bounds of a new password, in code points.
const (
	leastPassword   = 8
	defaultPassword = 15 // NIST SP 800-63B-4, section 3.1.1.2: where it is the only factor
	mostPassword    = 128
)

// A PasswordError says which rule a new password breaks.
type PasswordError struct {
	Rule  PasswordRule
	Limit int // of TooShort and TooLong: code points
}

// A PasswordRule is one that a new password has to keep.
type PasswordRule string

// The rules. There is none about the kinds of characters: such rules make
// passwords worse (NIST SP 800-63B-4, section 3.1.1.2).
const (
	TooShort PasswordRule = "too short"
	TooLong  PasswordRule = "too long"
	NotText  PasswordRule = "not text" // not valid UTF-8
	Common   PasswordRule = "common"   // among the first that are tried
	Context  PasswordRule = "context"  // little more than the name of the user or the app
)

func (e *PasswordError) Error() string {
	switch e.Rule {
	case TooShort:
		return fmt.Sprintf("login: the password has fewer than %d characters; take more", e.Limit)
	case TooLong:
		return fmt.Sprintf("login: the password has more than %d characters; take fewer", e.Limit)
	case NotText:
		return "login: the password is not valid UTF-8; type it as text"
	case Common:
		return "login: the password is one of those that are tried first; take one that nobody else has"
	case Context:
		return "login: the password is little more than a name that everybody knows; take another"
	}
	return "login: the password breaks the rule: " + string(e.Rule)
}

// HashPassword returns the hash of a new password as a PHC string, or a
// [*PasswordError]. It must have min code points, 8 at the least, and at most 128;
// a min of 0 is 15. words may not make it up: the names of user and app. It takes some
// 20 ms and 19 MiB.
func HashPassword(password string, min int, words ...string) (string, error) {
	if min == 0 {
		min = defaultPassword
	}
	password, err := checkPassword(password, max(min, leastPassword), words)
	if err != nil {
		return "", err
	}
	return newHasher().hash(password), nil
}

// checkPassword returns the password as it is hashed, or says which rule it
// breaks.
func checkPassword(password string, min int, words []string) (string, error) {
	if !utf8.ValidString(password) {
		return "", &PasswordError{Rule: NotText}
	}
	// The same text in two forms is one password: which of them a keyboard sends
	// differs between systems.
	normal := norm.NFC.String(password)
	n := utf8.RuneCountInString(normal)
	switch {
	case n < min:
		return "", &PasswordError{Rule: TooShort, Limit: min}
	case n > mostPassword:
		return "", &PasswordError{Rule: TooLong, Limit: mostPassword}
	case isCommon(normal):
		return "", &PasswordError{Rule: Common}
	case isContext(normal, words):
		return "", &PasswordError{Rule: Context}
	}
	return normal, nil
}
