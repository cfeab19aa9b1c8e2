package login

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/text/unicode/norm"
)

func TestANewPasswordKeepsTheRules(t *testing.T) {
	const min = 15
	words := contextWords("doug.engelbart@berkeley.edu", "Cherry Orchard")
	varied := func(n int) string { return strings.Repeat("pale blue dot, 34 ", n/18+1)[:n] }
	accented := func(n int) string { return strings.Repeat("à", n/2) + varied(n-n/2) }
	for _, c := range []struct {
		what, password string
		rule           PasswordRule // "" if it is taken
	}{
		{"14 characters", varied(14), TooShort}, {"15", varied(15), ""}, {"64", varied(64), ""}, {"65", varied(65), ""}, {"73 bytes", varied(73), ""},
		{"128", varied(128), ""}, {"129", varied(129), TooLong}, {"a megabyte", strings.Repeat(varied(100), 10_000), TooLong},
		{"128 of two bytes each", accented(128), ""}, {"129 of two bytes each", accented(129), TooLong},
		{"128 in NFC, more in NFD", norm.NFD.String(accented(128)), ""},
		{"none", "", TooShort}, {"a zero byte", "before\x00after the fact", ""}, {"no UTF-8", "pale blue dot\xff\xfe 34", NotText},
		{"only small letters", "correct horse battery staple", ""}, {"only digits, in no order", "830571946208357", ""}, {"blanks around", "  a dot, blue & pale ", ""},
		{"on the list", "1qaz2wsx3edc4rfv", Common}, {"on the keyboard", "qwertyuiopasdfgh", Common}, {"twice what is on it", "passwordpassword", Common}, {"a word with its letters changed", "P@$$w0rdP@$$w0rd", Common},
		{"a word, and digits in order", "password123456789", Common}, {"a word, and what is usual", "Internationales!1", ""},
		{"one character", strings.Repeat("a", 20), Common}, {"a short text over and over", "abcabcabcabcabcabc", Common}, {"digits in order", "1234567890123456", Common},
		{"runs", "abcdefgh87654321", Common},
		{"the name", "doug.engelbart@berkeley.edu", Context}, {"a part of the name", "Engelbart 1968!", Context}, {"the app", "cherry orchard 2026", Context},
		{"a name inside of more", "Engelbart walked home in the rain", ""},
	} {
		_, err := checkPassword(c.password, min, words)
		var broken *PasswordError
		errors.As(err, &broken)
		switch {
		case c.rule == "" && err != nil:
			t.Errorf("%s: %v", c.what, err)
		case c.rule != "" && (broken == nil || broken.Rule != c.rule):
			t.Errorf("%s: %v, not %s", c.what, err, c.rule)
		case broken != nil && len(c.password) > 0 && strings.Contains(err.Error(), c.password):
			t.Errorf("%s: the error repeats it: %v", c.what, err)
		}
	}
}

func TestEightCharactersAreEnoughWhereTheAppSaysSo(t *testing.T) {
	for password, ok := range map[string]bool{"palblu34": true, "pablu34": false, "password": false, "p4ssw0rd": false, "dragon12": false, "iloveyou": false, "asdfghjk": false, "12341234": false} {
		if _, err := checkPassword(password, 8, nil); (err == nil) != ok {
			t.Errorf("%s: %v", password, err)
		}
	}
}

func TestTheListIsInTheOrderThatIsSearched(t *testing.T) {
	list := commonList()
	if len(list) < 10_000 {
		t.Fatalf("%d passwords", len(list))
	}
	for i := 1; i < len(list); i++ {
		if list[i-1] >= list[i] {
			t.Fatalf("%q stands before %q", list[i-1], list[i])
		}
	}
}

func TestANameHasOneForm(t *testing.T) {
	for name, canonical := range map[string]string{
		"Ann": "ann", "ann": "ann", "ANN@Example.ORG": "ann@example.org", "Ａｎｎ": "ann", norm.NFD.String("Zoë"): "zoë",
		"": "", " ann": "", "an n": "", "ann\n": "", "ann\x00": "", "a\u200bnn": "", "a\u202enn": "", "ann\xff": "", "①": "",
		strings.Repeat("a", 255): strings.Repeat("a", 255), strings.Repeat("a", 256): "", strings.Repeat("a", 1<<20): "",
	} {
		got, err := Canonical(name)
		if got != canonical || (err == nil) != (canonical != "") {
			t.Errorf("%.20q: %.20q, %v", name, got, err)
		}
		if err != nil && len(name) > 3 && strings.Contains(err.Error(), name) {
			t.Errorf("the error repeats what may be a password: %v", err)
		}
		if again, err := Canonical(canonical); canonical != "" && (again != canonical || err != nil) {
			t.Errorf("%.20q is no canonical form of itself: %.20q, %v", canonical, again, err)
		}
	}
}
