package session

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
	"unsafe"
)

// sameText fails unless encode writes what encoding/json writes and decode reads
// back what encoding/json reads.
func sameText[T comparable](t *testing.T, v T) {
	t.Helper()
	want, _ := json.Marshal(v)
	got, err := encode(v)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("encode(%#v) = %s, %v; encoding/json writes %s", v, got, err, want)
	}
	sameValue[T](t, got)
}

// sameValue fails unless decode makes of raw what encoding/json does.
func sameValue[T comparable](t *testing.T, raw []byte) {
	t.Helper()
	var want T
	werr := json.Unmarshal(raw, &want)
	got, err := decode[T](raw)
	if (err == nil) != (werr == nil) || err == nil && got != want {
		t.Errorf("decode[%T](%q) = %#v, %v; encoding/json: %#v, %v", want, raw, got, err, want, werr)
	}
}

func FuzzString(f *testing.F) {
	for _, s := range []string{"", "hello", `"`, `\`, "a\x00b", "<script>&", "\u2028\u2029", "é😀", "\xff", "\xed\xa0\x80", "\x7f", "\x1f", " ", "\t\r\n\b\f", strings.Repeat("x", 5000)} {
		f.Add(s)
	}
	for c := range 256 {
		f.Add("a" + string([]byte{byte(c)}) + "b")
	}
	f.Fuzz(func(t *testing.T, s string) { sameText(t, s) })
}

func FuzzInt(f *testing.F) {
	for _, n := range []int64{0, 1, -1, 10, 1 << 53, 1<<53 + 1, 999_999_999_999_999_999, 1_000_000_000_000_000_000, math.MaxInt64, math.MinInt64, math.MaxInt32, math.MinInt32 - 1} {
		f.Add(n)
	}
	f.Fuzz(func(t *testing.T, n int64) {
		sameText(t, n)
		sameText(t, int(n))
		sameText(t, n%2 == 0)
		type named int64
		sameText(t, named(n))
	})
}

func FuzzDecodeAny(f *testing.F) {
	for _, raw := range []string{
		"", " ", "null", "true", "false", " true ", "tru", "0", "-0", "-", "00", "01", "-01", "+1", "1.0", "1e3", "1E400", "9223372036854775807", "9223372036854775808", "-9223372036854775808",
		"999999999999999999", "1000000000000000000", `""`, `"`, `"a"`, ` "a" `, `"a"b"`, `"\"`, `"\\"`, `"\u0000"`, `"\ud800"`, "\"a\nb\"", "\"a\xffb\"", "\"\x7f\"", `"<"`, "[]", "{}", `{"a":1}`, `[1,2]`, "nul", `'a'`,
	} {
		f.Add([]byte(raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		sameValue[string](t, raw)
		sameValue[int](t, raw)
		sameValue[int64](t, raw)
		sameValue[bool](t, raw)
		sameValue[float64](t, raw)
		sameValue[*int](t, []byte("null"))
		if n := parseInt(raw); n != 0 { // what a store adds to is what Get shows
			if got, err := decode[int64](raw); json.Valid(raw) && (err != nil || got != n) {
				t.Errorf("parseInt(%q) = %d, decode %d, %v", raw, n, got, err)
			}
		}
	})
}

func FuzzToken(f *testing.F) {
	token, _, _ := newToken()
	zero := strings.Repeat("A", tokenChars)
	for _, s := range []string{"", token, zero, zero[1:], zero + "A", zero[1:] + "B", zero[1:] + "C", zero[1:] + "D", zero[1:] + "E", zero[1:] + "=", zero[1:] + "\n", "\r\n" + zero[2:], "\r\n" + zero, zero[1:] + "+", zero[1:] + "/", strings.Repeat("_", 42) + "8", strings.Repeat("-", 43), zero[1:] + "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, secret, ok := parseToken(s)
		// The only other definition: decoded leniently and encoded again it is itself.
		b, err := base64.RawURLEncoding.DecodeString(s)
		canonical := err == nil && len(b) == tokenBytes && base64.RawURLEncoding.EncodeToString(b) == s
		if ok != canonical {
			t.Fatalf("parseToken(%q) = %v, canonical is %v", s, ok, canonical)
		}
		if ok && (string(id) != s[:16] || secret != sha256.Sum256(b[12:])) {
			t.Fatalf("parseToken(%q) = %s, %x", s, id, secret)
		}
		if !ok && (id != "" || secret != Hash{}) {
			t.Fatalf("parseToken(%q) refuses and yet returns %q", s, id)
		}
	})
}

func TestTokensRoundTrip(t *testing.T) {
	for range 2000 {
		token, id, secret := newToken()
		gotID, gotSecret, ok := parseToken(token)
		if !ok || gotID != id || gotSecret != secret {
			t.Fatal(token)
		}
		again, secret2 := renewToken(id)
		gotID, gotSecret, ok = parseToken(again)
		if !ok || gotID != id || gotSecret != secret2 || secret2 == secret || again[16:] == token[16:] {
			t.Fatal(token, again)
		}
	}
}

// FuzzCookie holds the finder against net/http's. The differences, all on the
// strict side: a quoted value is not unquoted and so no token; a name with blanks
// behind it is another name; a value that net/http drops as invalid still counts
// as a second value.
func FuzzCookie(f *testing.F) {
	token := strings.Repeat("B", 42) + "A"
	other := strings.Repeat("C", 42) + "A"
	for _, line := range []string{
		"", "n=" + token, "a=b; n=" + token + "; c=d", "n=" + token + "; n=" + token, "n=" + token + "; n=" + other, "N=" + token, "n =" + token, "n= " + token, " n=" + token + " ",
		"\tn=" + token + "\t", `n="` + token + `"`, "n=" + token + ",", "n", "n=", ";;n=" + token, "nn=" + other + ";n=" + token, "n=" + token + "; n=\"bad", "n=" + token + ";n=\x00", "=n;n=" + token, "n=" + token + "=", "n==" + token, "n=" + token + "; n", "$Version=1; n=" + token + "; $Path=/",
	} {
		f.Add(line, "")
		f.Add("x=y", line)
	}
	c := cookie{name: "n"}
	f.Fuzz(func(t *testing.T, one, two string) {
		if strings.ContainsAny(one+two, "\r\n") {
			t.Skip("no server lets these through")
		}
		h := http.Header{"Cookie": {one, two}}
		value, found, ambiguous := c.find(h)
		_, _, isToken := parseToken(value)
		theirs := (&http.Request{Header: h}).CookiesNamed("n")
		if ambiguous && value != "" {
			t.Errorf("%q: ambiguous and yet %q", h, value)
		}
		if found && !ambiguous && isToken {
			seen := false
			for _, ck := range theirs {
				seen = seen || ck.Value == value && !ck.Quoted
			}
			if !seen {
				t.Errorf("%q: %q is found, net/http sees %v", h, value, theirs)
			}
		}
		if found && isToken { // ours would be served: no other value of the very name may be there
			for _, line := range h["Cookie"] {
				for pair := range strings.SplitSeq(line, ";") {
					if v, ok := strings.CutPrefix(strings.Trim(pair, " \t"), "n="); ok && v != value {
						t.Errorf("%q: %q is served beside %q", h, value, v)
					}
				}
			}
		}
		for _, ck := range theirs {
			if _, _, ok := parseToken(ck.Value); !ok || ck.Quoted || !strings.Contains(one+";"+two, "n="+ck.Value) {
				continue
			}
			if !found && !strings.Contains(one+two, " =") && !strings.Contains(one+two, "\t=") {
				t.Errorf("%q: net/http sees %v, nothing is found", h, ck)
			}
		}
	})
}

func FuzzKeyName(f *testing.F) {
	for _, s := range []string{"", "a", "a.b", "a..b", ".a", "a.", "a.b.c", "A.b", "a-b.c", "a_1.b_2", "session.x", "session", "sessions.x", "a.session", "é.x", "a b.c", "a.\x00", strings.Repeat("a", 126) + ".b", strings.Repeat("a", 127) + ".b"} {
		f.Add(s)
	}
	one := regexp.MustCompile(`\A[a-z0-9_]+(\.[a-z0-9_]+)*\z`)
	f.Fuzz(func(t *testing.T, s string) {
		if want := len(s) <= 128 && one.MatchString(s); validName(s) != want {
			t.Errorf("validName(%q) is %v", s, !want)
		}
		want := len(s) <= 128 && one.MatchString(s) && strings.Contains(s, ".") && !strings.HasPrefix(s, "session.")
		defer func() {
			if v := recover(); (v == nil) != want {
				t.Errorf("NewKey(%q): %v", s, v)
			} else if v != nil && !strings.Contains(fmt.Sprint(v), "<package>.<noun>") {
				t.Errorf("NewKey(%q) does not say what to do: %v", s, v)
			}
		}()
		NewKey[int](s)
	})
}

func FuzzPart(f *testing.F) {
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte("a.b")))
	for _, p := range [][2]string{{"", "a"}, {"a", "A"}, {"a.b", sum}, {"a b", "a_b"}, {"é", "e"}, {strings.Repeat("a", 32), strings.Repeat("a", 33)}, {sum, sum[:32]}, {"\x00", ""}, {"a", "a.b"}} {
		f.Add(p[0], p[1])
	}
	key := NewKey[int]("x.y")
	name := regexp.MustCompile(`\Ax\.y\.[a-z0-9_]{1,64}\z`)
	f.Fuzz(func(t *testing.T, a, b string) {
		ka, kb := key.At(a).String(), key.At(b).String()
		if (ka == kb) != (a == b) {
			t.Errorf("At(%q) is %s, At(%q) is %s", a, ka, b, kb)
		}
		if !name.MatchString(ka) || !under(ka, "x.y") || !under(ka, "x") {
			t.Errorf("At(%q) is %s", a, ka)
		}
	})
}

func FuzzAgentAndAddr(f *testing.F) {
	for _, s := range []string{"", "Mozilla/5.0", strings.Repeat("\xff\x00é", 300), "192.0.2.1", "[::1]:80", "::ffff:1.2.3.4", "fe80::1%eth0", "[::1", "1.2.3.4:99999", ", ,", "1.1.1.1, 10.0.0.1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got := agent(&http.Request{Header: http.Header{"User-Agent": {s}}}); len(got) > maxAgent || !utf8.ValidString(got) || strings.Contains(got, "\x00") {
			t.Errorf("agent(%q) = %q", s, got)
		} else if len(s) <= maxAgent && utf8.ValidString(s) && !strings.Contains(s, "\x00") && got != s {
			t.Errorf("agent(%q) = %q", s, got)
		}
		if a := parseAddr(s); a.IsValid() && (a.Zone() != "" || a.Is4In6()) {
			t.Errorf("parseAddr(%q) = %v", s, a)
		}
	})
}

func TestUndecodableKeysAreBounded(t *testing.T) {
	m, err := NewManager(struct{ Store }{}, Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxBadKeys {
		m.undecodable(t.Context(), fmt.Sprint("k.", i), ErrNotFound)
	}
	if n := len(m.bad); n != maxBadKeys {
		t.Errorf("%d keys are remembered", n)
	}
}

// A substring would keep the whole token in memory for as long as a store in
// memory keeps the record.
func TestTheIDOfANewTokenIsACopy(t *testing.T) {
	token, id, _ := newToken()
	if string(id) != token[:idChars] {
		t.Fatalf("the ID of %q is %q", token, id)
	}
	if unsafe.StringData(string(id)) == unsafe.StringData(token) {
		t.Error("the ID shares the token's memory")
	}
}

func TestARequestCostsOneAllocationOfTheSizeSaid(t *testing.T) {
	if size := unsafe.Sizeof(requestState{}); size > 512 {
		t.Errorf("%d bytes: the next size that the runtime has is 576", size)
	}
}
