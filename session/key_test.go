package session_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/crumb-go/crumb/session"
)

func TestKeyNames(t *testing.T) {
	for _, name := range []string{"", "x", "x.", ".x", "x..y", "X.y", "x-y.z", "x y.z", "session.x", "session.x.y", "é.x", "x.y\n", "x/y.z", strings.Repeat("a", 127) + ".b"} {
		func() {
			defer func() {
				if v := fmt.Sprint(recover()); !strings.Contains(v, "<package>.<noun>") || !strings.Contains(v, fmt.Sprintf("%q", name)) {
					t.Errorf("%q: %s", name, v)
				}
			}()
			session.NewKey[int](name)
		}()
	}
	for _, name := range []string{"a.b", "a.b.c", "0.1", "_._", "sessions.x", "a.session", strings.Repeat("a", 126) + ".b"} {
		if k := session.NewKey[int](name); k.String() != name {
			t.Error(k)
		}
		if c := session.NewCounter(name); c.String() != name {
			t.Error(c)
		}
	}
}

func TestAtHashesWhatIsNoName(t *testing.T) {
	k := session.NewKey[int]("x.y")
	for part, hashed := range map[string]bool{
		"a": false, "abc_123": false, strings.Repeat("a", 32): false, "0": false, "_": false,
		"": true, "a.b": true, "A": true, "a b": true, "é": true, strings.Repeat("a", 33): true, "../x": true, "\x00": true, "a\nb": true, strings.Repeat("x", 1<<20): true,
		strings.Repeat("0123456789abcdef", 4): true, // what reads like a hash is hashed too
	} {
		got := k.At(part).String()
		rest, ok := strings.CutPrefix(got, "x.y.")
		switch {
		case !ok, strings.Contains(rest, "."):
			t.Errorf("%.40q: %s", part, got)
		case !hashed && rest != part, hashed && (rest == part || len(rest) != 64):
			t.Errorf("%.40q: %s", part, got)
		}
		if again := k.At(rest).String(); hashed && again == got {
			t.Errorf("%.40q: the hash itself, as a part, reads the same value", part)
		}
		if c := session.NewCounter("x.y").At(part).String(); c != got {
			t.Errorf("%.40q: a Counter calls it %s, a Key %s", part, c, got)
		}
	}
}

func TestValuesOfOneRequest(t *testing.T) {
	w := newWorld(t, session.Config{})
	// each step is a request; want is what theme, note and hits hold then, within
	// the request and in the next.
	state := func(s *session.Session) string {
		th, ok1 := theme.Lookup(s)
		no, ok2 := note.Lookup(s)
		n, ok3 := hits.Lookup(s)
		return fmt.Sprintf("%q %v, %q %v, %d %v", th, ok1, no, ok2, n, ok3)
	}
	const empty = `"" false, "" false, 0 false`
	for _, start := range []string{"", "stored"} {
		for _, c := range []struct {
			name  string
			f     func(s *session.Session)
			fresh string // if nothing was stored
			kept  string // if "old", "memo" and 5 were
		}{
			{"nothing", func(*session.Session) {}, empty, `"old" true, "memo" true, 5 true`},
			{"set", func(s *session.Session) { theme.Set(s, "new") }, `"new" true, "" false, 0 false`, `"new" true, "memo" true, 5 true`},
			{"set to the zero value", func(s *session.Session) { theme.Set(s, "") }, `"" true, "" false, 0 false`, `"" true, "memo" true, 5 true`},
			{"set twice", func(s *session.Session) { theme.Set(s, "a"); theme.Set(s, "b") }, `"b" true, "" false, 0 false`, `"b" true, "memo" true, 5 true`},
			{"set and back", func(s *session.Session) { theme.Set(s, "a"); theme.Set(s, "old") }, `"old" true, "" false, 0 false`, `"old" true, "memo" true, 5 true`},
			{"delete", func(s *session.Session) { theme.Delete(s) }, empty, `"" false, "memo" true, 5 true`},
			{"delete and set", func(s *session.Session) { theme.Delete(s); theme.Set(s, "old") }, `"old" true, "" false, 0 false`, `"old" true, "memo" true, 5 true`},
			{"set and delete", func(s *session.Session) { theme.Set(s, "a"); theme.Delete(s) }, empty, `"" false, "memo" true, 5 true`},
			{"add", func(s *session.Session) { hits.Add(s, 2); hits.Add(s, -3) }, `"" false, "" false, -1 true`, `"old" true, "memo" true, 4 true`},
			{"set and add", func(s *session.Session) { hits.Set(s, 10); hits.Add(s, 1) }, `"" false, "" false, 11 true`, `"old" true, "memo" true, 11 true`},
			{"add and set", func(s *session.Session) { hits.Add(s, 1); hits.Set(s, 10) }, `"" false, "" false, 10 true`, `"old" true, "memo" true, 10 true`},
			{"delete and add", func(s *session.Session) { hits.Delete(s); hits.Add(s, 1) }, `"" false, "" false, 1 true`, `"old" true, "memo" true, 1 true`},
			{"add and delete", func(s *session.Session) { hits.Add(s, 1); hits.Delete(s) }, empty, `"old" true, "memo" true, 0 false`},
			{"pop and add", func(s *session.Session) { hits.Pop(s); hits.Add(s, 1) }, `"" false, "" false, 1 true`, `"old" true, "memo" true, 1 true`},
			{"pop, add and delete", func(s *session.Session) { hits.Pop(s); hits.Add(s, 1); hits.Delete(s) }, empty, `"old" true, "memo" true, 0 false`},
			{"pop twice", func(s *session.Session) { note.Pop(s); note.Pop(s) }, empty, `"old" true, "" false, 5 true`},
			{"pop and set", func(s *session.Session) { note.Pop(s); note.Set(s, "x") }, `"" false, "x" true, 0 false`, `"old" true, "x" true, 5 true`},
			{"set and pop", func(s *session.Session) { note.Set(s, "x"); note.Pop(s) }, empty, `"old" true, "" false, 5 true`},
			{"clear", func(s *session.Session) { s.Clear("test") }, empty, empty},
			{"clear another group", func(s *session.Session) { s.Clear("tes"); s.Clear("test.themes"); s.Clear("test.theme"); s.Clear("") }, empty, `"old" true, "memo" true, 5 true`},
			{"clear and set", func(s *session.Session) { s.Clear("test"); theme.Set(s, "a") }, `"a" true, "" false, 0 false`, `"a" true, "" false, 0 false`},
			{"set and clear", func(s *session.Session) { theme.Set(s, "a"); s.Clear("test") }, empty, empty},
			{"clear and add", func(s *session.Session) { s.Clear("test"); hits.Add(s, 1); s.Clear("other") }, `"" false, "" false, 1 true`, `"" false, "" false, 1 true`},
			{"clear, set, clear, set", func(s *session.Session) {
				s.Clear("test")
				theme.Set(s, "a")
				note.Set(s, "b")
				s.Clear("test")
				note.Set(s, "c")
			}, `"" false, "c" true, 0 false`, `"" false, "c" true, 0 false`},
		} {
			want := c.fresh
			b := w.browser()
			if start != "" {
				want = c.kept
				b.visit(func(s *session.Session) { theme.Set(s, "old"); note.Set(s, "memo"); hits.Add(s, 5) })
			}
			b.visit(func(s *session.Session) {
				c.f(s)
				if got := state(s); got != want {
					t.Errorf("%s%s: the request sees %s, want %s", c.name, start, got, want)
				}
			})
			b.visit(func(s *session.Session) {
				if got := state(s); got != want {
					t.Errorf("%s%s: the next sees %s, want %s", c.name, start, got, want)
				}
			})
		}
	}
	t.Run("keys that share a beginning are not one group", func(t *testing.T) {
		cart, cartoon, deep := session.NewKey[int]("cart.items"), session.NewKey[int]("cartoon.seen"), session.NewKey[int]("cart.items.old")
		b := w.browser()
		b.visit(func(s *session.Session) { cart.Set(s, 1); cartoon.Set(s, 2); deep.Set(s, 3) })
		b.visit(func(s *session.Session) { s.Clear("cart.items") })
		b.visit(func(s *session.Session) {
			if cart.Get(s) != 1 || cartoon.Get(s) != 2 || deep.Get(s) != 0 {
				t.Error(cart.Get(s), cartoon.Get(s), deep.Get(s))
			}
			s.Clear("cart")
		})
		b.visit(func(s *session.Session) {
			if cart.Get(s) != 0 || cartoon.Get(s) != 2 {
				t.Error(cart.Get(s), cartoon.Get(s))
			}
		})
	})
	t.Run("Update and Take send what is pending with them", func(t *testing.T) {
		b := w.browser()
		b.visit(func(s *session.Session) { note.Set(s, "memo") })
		w.store.forget()
		b.get(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			hits.Add(s, 1)
			if v, err := theme.Update(r.Context(), s, func(v string) (string, error) { return v + "x" + fmt.Sprint(hits.Get(s)), nil }); v != "x1" || err != nil {
				t.Error(v, err)
			}
			hits.Add(s, 1)
			if v, ok, err := note.Take(r.Context(), s); v != "memo" || !ok || err != nil {
				t.Error(v, ok, err)
			}
			if v, ok, err := note.Take(r.Context(), s); v != "" || ok || err != nil {
				t.Error("a second Take:", v, ok, err)
			}
		})
		if n := w.store.writes(); n != 2 {
			t.Error(n, "writes")
		}
		b.visit(func(s *session.Session) {
			if got := state(s); got != `"x1" true, "" false, 2 true` {
				t.Error(got)
			}
		})
	})
	t.Run("Update makes the session of a visitor who has none", func(t *testing.T) {
		b := w.browser()
		a := b.get(func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
			if v, err := hits.Update(r.Context(), s, func(n int64) (int64, error) { return n + 7, nil }); v != 7 || err != nil {
				t.Error(v, err)
			}
			if s.ID() == "" {
				t.Error("no ID")
			}
		})
		if wantCookie(t, a); read(b, hits.Key) != 7 {
			t.Error(read(b, hits.Key))
		}
	})
}
