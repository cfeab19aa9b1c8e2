package login

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"io"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

//go:embed common/passwords.txt.gz
var commonPasswords []byte

// commonList returns the list in the order of its bytes. It is unpacked when the
// first password is set.
var commonList = sync.OnceValue(func() []string {
	r, err := gzip.NewReader(bytes.NewReader(commonPasswords))
	if err != nil {
		panic(err) // the file is a part of the program
	}
	text, err := io.ReadAll(r)
	if err != nil {
		panic(err)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
})

// isCommon reports whether a password is among the first that are tried: on the
// list, or one of those with letters put for digits, a few characters at the end,
// or the whole said twice.
func isCommon(password string) bool {
	p := strings.ToLower(password)
	if listed(p) || isPattern(p) {
		return true
	}
	base := strings.TrimRightFunc(p, func(c rune) bool { return !unicode.IsLetter(c) })
	if tail := p[len(base):]; len(tail) > 4 && !listed(tail) && !isPattern(tail) {
		base = p
	}
	return listed(base) || unit(base) != base && listed(unit(base))
}

func listed(s string) bool {
	list := commonList()
	if _, ok := slices.BinarySearch(list, s); ok {
		return true
	}
	_, ok := slices.BinarySearch(list, plainLetters.Replace(s))
	return ok
}

// plainLetters undoes what is done to words to make them look like passwords.
var plainLetters = strings.NewReplacer("0", "o", "1", "i", "3", "e", "4", "a", "5", "s", "7", "t", "@", "a", "$", "s", "!", "i")

// isPattern reports whether s is a short text over and over, or a few runs of
// characters that follow each other in the alphabet or on a keyboard: aaaaaaaa,
// abcabcabc, 987654abcdef, qwertyuiop.
func isPattern(s string) bool {
	if short := unit(s); len(short) < 4 && len(short) < len(s) {
		return true
	}
	n := min(runs(s), runs(strings.Map(onKeyboard, s)))
	return s != "" && n < leastPassword && 4*n <= utf8.RuneCountInString(s)
}

// onKeyboard returns numbers that follow each other for keys that do.
func onKeyboard(c rune) rune {
	if i := strings.IndexRune("qwertyuiop  asdfghjkl  zxcvbnm", c); i >= 0 {
		return rune(i)
	}
	return c + 100
}

// unit returns the shortest text that s is repetitions of.
func unit(s string) string {
	for n := 1; n <= len(s)/2; n++ {
		if len(s)%n == 0 && strings.Repeat(s[:n], len(s)/n) == s {
			return s[:n]
		}
	}
	return s
}

// runs counts the stretches of s in which each character is the next one, the one
// before or the same, as the one before it was.
func runs(s string) (n int) {
	var last, step rune = -2, 99
	for _, c := range s {
		d := c - last
		switch {
		case d == step:
		case step == 99 && -1 <= d && d <= 1:
			step = d
		default:
			n, step = n+1, 99
		}
		last = c
	}
	return n
}

// isContext reports whether little is left of a password without the words: less
// than any password may have.
func isContext(password string, words []string) bool {
	p := letters(password)
	rest := p
	slices.SortFunc(words, func(a, b string) int { return len(b) - len(a) }) // the longest first
	for _, word := range words {
		if word = letters(word); len(word) >= 4 {
			rest = strings.ReplaceAll(rest, word, "")
		}
	}
	return rest != p && len([]rune(rest)) < leastPassword
}

// contextWords returns the words that may not make up the password of a user: the
// name of the app, that of the user and its parts.
func contextWords(name, app string) []string {
	parts := strings.FieldsFunc(name, func(c rune) bool { return !unicode.IsLetter(c) && !unicode.IsDigit(c) })
	return append(parts, name, app)
}

// letters returns the letters and digits of s, in lower case.
func letters(s string) string {
	return strings.Map(func(c rune) rune {
		if !unicode.IsLetter(c) && !unicode.IsDigit(c) {
			return -1
		}
		return unicode.ToLower(c)
	}, s)
}
