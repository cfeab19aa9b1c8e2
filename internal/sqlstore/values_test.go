package sqlstore

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/crumb-go/crumb/session"
)

func values(pairs ...string) (vs session.Values) {
	for i := 0; i < len(pairs); i += 2 {
		vs = append(vs, session.Value{Key: pairs[i], JSON: json.RawMessage(pairs[i+1])})
	}
	return vs
}

func same(a, b session.Values) bool {
	return slices.EqualFunc(a, b, func(a, b session.Value) bool { return a.Key == b.Key && bytes.Equal(a.JSON, b.JSON) })
}

func TestValues(t *testing.T) {
	t.Run("values come back byte for byte", func(t *testing.T) {
		for _, vs := range []session.Values{
			nil,
			values("hello.views", "3", "ui.theme", `"dark"`),
			values("a", ` { "x" : [ 1 , "}" , ",\"" ] } `, "b", "\t1e400\n"),
			values("", "null", "\x00", `"\u0000"`, "\"quoted\\", "[]", "k\xff\xfe", `"`+"\xff"+`"`, "é", "9223372036854775807"),
			values("a", "-0", "b", "9007199254740993", "c", `"\ud800"`, "d", `{"b":1,"a":2,"b":3}`),
			values("a", strings.Repeat("[", 1000)+strings.Repeat("]", 1000)),
		} {
			if err := CheckValues(vs); err != nil {
				t.Fatalf("CheckValues(%q): %v", vs, err)
			}
			text := AppendValues(nil, vs)
			got, err := ParseValues(text)
			if err != nil || !same(got, vs) {
				t.Errorf("%s came back as %q, %v", text, got, err)
			}
		}
	})
	t.Run("the text is one JSON object that people can read", func(t *testing.T) {
		got := string(AppendValues(nil, values("hello.views", "3", "ui\ntheme", `"dark"`)))
		if want := `{"hello.views":3,"ui\u000atheme":"dark"}`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
	t.Run("what is not exactly one JSON value is refused", func(t *testing.T) {
		for _, raw := range []string{"", " ", "1,2", "1}", `{"a":1},"b":2`, "{", `"`, "NaN", "01", "tru", "1 2", `"a`, "\x00"} {
			var bad *session.ValueError
			if err := CheckValue("app.key", json.RawMessage(raw)); !errors.As(err, &bad) || bad.Key != "app.key" {
				t.Errorf("CheckValue(%q) = %v, want a *ValueError for app.key", raw, err)
			}
		}
	})
	t.Run("keys out of order or twice are refused", func(t *testing.T) {
		for _, vs := range []session.Values{values("b", "1", "a", "2"), values("a", "1", "a", "2")} {
			if CheckValues(vs) == nil {
				t.Errorf("CheckValues(%q) passed", vs)
			}
		}
	})
	t.Run("a change that sets no JSON is refused", func(t *testing.T) {
		c := &session.Change{Ops: []session.Op{{Kind: session.OpAdd, Key: "n", Delta: 1}, {Kind: session.OpSet, Key: "x", Value: json.RawMessage("1,")}}}
		if CheckChange(c) == nil {
			t.Error("it passed")
		}
		c.Ops[1].Value = json.RawMessage("1")
		if err := CheckChange(c); err != nil {
			t.Error(err)
		}
	})
	t.Run("a text edited by hand is read, sorted and unescaped", func(t *testing.T) {
		got, err := ParseValues([]byte("\n{ \"b\\u0041\\ud83c\\udf6a\\n\" :1 , \"a\":2}\n"))
		if want := values("a", "2", "bA🍪\n", "1 "); err != nil || !same(got, want) {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	})
	t.Run("a broken text is an error", func(t *testing.T) {
		for _, text := range []string{"", "{", "[]", "null", `{"a"}`, `{"a":}`, `{"a":1`, `{"a":1,}`, `{"a":1}x`, `{"a":"1}`, `{"a":[1}`,
			`{a:1}`, `{"a":1 ]}`, `{"\x":1}`, `{"\u00g0":1}`, `{"\u00`, `{"a\`, `{"a":"\`, `{"a":1,"a":2}`, "{\"a\n\":1}", `{"a":1,"b"`} {
			if vs, err := ParseValues([]byte(text)); err == nil {
				t.Errorf("ParseValues(%q) = %q", text, vs)
			}
		}
	})
	t.Run("a value cannot be appended into its neighbour", func(t *testing.T) {
		vs, err := ParseValues([]byte(`{"a":1,"b":2}`))
		if err != nil {
			t.Fatal(err)
		}
		_ = append(vs[0].JSON, "more"...)
		if !same(vs, values("a", "1", "b", "2")) {
			t.Errorf("got %q", vs)
		}
	})
}

func FuzzParseValues(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1,"b":[{"c":"}"}]}`, `{ "\u0000\ud83c\udf6a" : "x\"" , "b":2 }`, `{"a":"\`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		vs, err := ParseValues(bytes.Clone(text))
		if err != nil {
			return
		}
		if json.Valid(text) && CheckValues(vs) != nil {
			t.Fatalf("%q is JSON, its values %q are not", text, vs)
		}
		if CheckValues(vs) != nil {
			return
		}
		again, err := ParseValues(AppendValues(nil, vs))
		if err != nil || !same(again, vs) {
			t.Fatalf("%q: %q came back as %q, %v", text, vs, again, err)
		}
	})
}

func FuzzRoundTrip(f *testing.F) {
	f.Add("a", []byte("1"), "b", []byte(` {"x":[1,"}"]} `))
	f.Add("\xff\"\\", []byte(`"\u0000"`), "", []byte("null"))
	f.Fuzz(func(t *testing.T, k1 string, v1 []byte, k2 string, v2 []byte) {
		vs := session.Values{{Key: k1, JSON: v1}, {Key: k2, JSON: v2}}
		if CheckValues(vs) != nil {
			return
		}
		text := AppendValues(nil, vs)
		if !json.Valid(text) {
			t.Fatalf("%q is no JSON", text)
		}
		got, err := ParseValues(text)
		if err != nil || !same(got, vs) {
			t.Fatalf("%q came back as %q, %v", text, got, err)
		}
	})
}

func BenchmarkParseValues(b *testing.B) {
	text := AppendValues(nil, values("a.views", "3", "b.theme", `"dark"`, "c.user", `{"name":"Ann","roles":["x","y"]}`,
		"d.last", `"2026-11-22T00:00:00Z"`, "e.n", "1", "f.n", "2", "g.n", "3", "h.text", `"`+strings.Repeat("x", 100)+`"`))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseValues(text); err != nil {
			b.Fatal(err)
		}
	}
}
