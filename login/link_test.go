package login

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const anotherPassword = "another fine password"

// link returns a link for ann.
func (b *bench) link() string {
	b.t.Helper()
	token, err := b.ask("ann")
	if err != nil {
		b.t.Fatal(err)
	}
	return token
}

// ask returns a link for whoever has this name.
func (b *bench) ask(name string) (string, error) {
	u, err := b.linkUser(b.t.Context(), name)
	if err != nil {
		return "", err
	}
	return b.newReset(b.t.Context(), u)
}

func (b *bench) use(token string) error {
	_, err := b.useReset(b.t.Context(), token, anotherPassword, loopback)
	return err
}

func TestAResetLinkWorksOnceWithinAnHour(t *testing.T) {
	t.Run("once", func(t *testing.T) {
		onEach(t, func(t *testing.T, url string, cfg TablesConfig) {
			b := newBenchOn(t, url, cfg)
			before := b.add("ann", rightHash())
			token := b.link()
			b.time.add(linkLife - time.Microsecond)
			u, err := b.useReset(t.Context(), token, anotherPassword, loopback)
			if err != nil || u.Generation == before.Generation || u.ID != before.ID {
				t.Fatalf("%+v, %v", u, err)
			}
			if err := b.use(token); !errors.Is(err, errBadLink) {
				t.Errorf("a second time: %v", err)
			}
			if err := b.try("ann", rightPassword); !errors.Is(err, errWrong) {
				t.Errorf("the old password: %v", err)
			}
			b.time.add(firstPause)
			if err := b.try("ann", anotherPassword); err != nil {
				t.Errorf("the new password: %v", err)
			}
		})
	})
	t.Run("not twice at once", func(t *testing.T) {
		onEach(t, func(t *testing.T, url string, cfg TablesConfig) {
			b := newBenchOn(t, url, cfg)
			b.add("ann", rightHash())
			token := b.link()
			other := b.open(url, cfg)
			var worked atomic.Int32
			var wg sync.WaitGroup
			for i := range 4 {
				l := b.Login
				if i%2 == 1 {
					l = other
				}
				wg.Go(func() {
					_, err := l.useReset(t.Context(), token, anotherPassword, loopback)
					switch {
					case err == nil:
						worked.Add(1)
					case !errors.Is(err, errBadLink) && !errors.As(err, new(*Throttled)):
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if n := worked.Load(); n != 1 {
				t.Errorf("it worked %d times", n)
			}
		})
	})
	t.Run("not after an hour", func(t *testing.T) {
		b := newBench(t)
		b.add("ann", rightHash())
		token := b.link()
		b.time.add(linkLife)
		if err := b.use(token); !errors.Is(err, errBadLink) {
			t.Error(err)
		}
	})
	t.Run("not if there is a newer one, and none within a minute", func(t *testing.T) {
		b := newBench(t)
		b.add("ann", rightHash())
		old := b.link()
		b.time.add(linkPause - time.Microsecond)
		if token, err := b.ask("ann"); !errors.Is(err, ErrNoLink) || token != "" {
			t.Errorf("within a minute: %q, %v", token, err)
		}
		b.time.add(time.Microsecond)
		newer := b.link()
		if err := b.use(old); !errors.Is(err, errBadLink) {
			t.Errorf("the old one: %v", err)
		}
		if err := b.use(newer); err != nil {
			t.Errorf("the newer one: %v", err)
		}
	})
	t.Run("not after the password changed otherwise, and a new one is to be had at once", func(t *testing.T) {
		b := newBench(t)
		u := b.add("ann", rightHash())
		token := b.link()
		if _, err := b.setPassword(t.Context(), u, anotherPassword); err != nil {
			t.Fatal(err)
		}
		if err := b.use(token); !errors.Is(err, errBadLink) {
			t.Error(err)
		}
		if err := b.use(b.link()); err != nil {
			t.Error(err)
		}
	})
	t.Run("not for a disabled user, a deleted or an unknown one", func(t *testing.T) {
		b := newBench(t)
		u := b.add("ann", rightHash())
		token := b.link()
		if _, err := b.tables.SetDisabled(t.Context(), u.ID, true); err != nil {
			t.Fatal(err)
		}
		if err := b.use(token); !errors.Is(err, errBadLink) {
			t.Errorf("disabled: %v", err)
		}
		b.time.add(linkPause)
		if _, err := b.ask("ann"); !errors.Is(err, ErrNoLink) {
			t.Errorf("a link for a disabled user: %v", err)
		}
		if _, err := b.tables.SetDisabled(t.Context(), u.ID, false); err != nil {
			t.Fatal(err)
		}
		token = b.link()
		if err := b.tables.Delete(t.Context(), u.ID, u.Generation+1); err != nil {
			t.Fatal(err)
		}
		if err := b.use(token); !errors.Is(err, errBadLink) {
			t.Errorf("deleted: %v", err)
		}
		if _, err := b.ask("nobody"); !errors.Is(err, ErrNoLink) {
			t.Errorf("a link for nobody: %v", err)
		}
	})
	t.Run("and still if the password breaks a rule", func(t *testing.T) {
		b := newBench(t)
		b.add("ann", rightHash())
		token := b.link()
		if _, err := b.useReset(t.Context(), token, "short", loopback); !errors.As(err, new(*PasswordError)) {
			t.Fatal(err)
		}
		if err := b.use(token); err != nil {
			t.Error(err)
		}
	})
	t.Run("and nothing but the token is one", func(t *testing.T) {
		b := newBench(t)
		b.add("ann", rightHash())
		token := b.link()
		raw, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil || len(raw) != 32 {
			t.Fatalf("%q: %v", token, err)
		}
		changed := []byte(token)
		changed[20] ^= 1
		for _, bad := range []string{"", "x", token + "=", token + "A", token[:42], string(changed), hex.EncodeToString(raw), strings.Repeat("A", 43), strings.Repeat("A", 1<<20)} {
			if err := b.use(bad); !errors.Is(err, errBadLink) {
				t.Errorf("%.50q: %v", bad, err)
			}
		}
		if dump := b.dump("login_resets"); strings.Contains(dump, string(raw)) || strings.Contains(dump, token) || dump == "" {
			t.Error("the table holds the token")
		}
	})
}
