package keyring_test

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crumb-go/crumb/keyring"
)

func open(t *testing.T, path string) *keyring.Ring {
	t.Helper()
	r, err := keyring.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func rotate(t *testing.T, path string, keep int) {
	t.Helper()
	if err := keyring.Rotate(path, keep); err != nil {
		t.Fatal(err)
	}
}

func newPath(t *testing.T) string { return filepath.Join(t.TempDir(), "crumb.keys") }

func TestTheFirstStartMakesAFileOfItsOwnersAlone(t *testing.T) {
	path := newPath(t)
	mac := open(t, path).MAC("p", []byte("x"))
	info, err := os.Stat(path)
	if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	if again := open(t, path).MAC("p", []byte("x")); !bytes.Equal(again, mac) {
		t.Errorf("a second start has other keys: %x, then %x", mac, again)
	}
	if other := open(t, newPath(t)).MAC("p", []byte("x")); bytes.Equal(other, mac) {
		t.Error("two files hold the same key")
	}
}

func TestManyThatStartAtOnceUseOneKey(t *testing.T) {
	for range 20 {
		path := newPath(t)
		macs := make([][]byte, 16)
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i := range macs {
			wg.Go(func() {
				<-start
				if r, err := keyring.Open(path); err != nil {
					t.Error(err)
				} else {
					macs[i] = r.MAC("p")
				}
			})
		}
		close(start)
		wg.Wait()
		for _, mac := range macs {
			if !bytes.Equal(mac, macs[0]) {
				t.Fatalf("two keys are in use: %x and %x", mac, macs[0])
			}
		}
		if files, err := os.ReadDir(filepath.Dir(path)); err != nil || len(files) != 1 {
			t.Fatalf("files left: %v, %v", files, err)
		}
	}
}

func TestAFileThatOthersCanReadIsRefused(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // has no such modes
	}
	path := newPath(t)
	open(t, path)
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o610} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := keyring.Open(path); err == nil || !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("mode %#o: %v", mode, err)
		}
		if err := keyring.Rotate(path, 1); err == nil {
			t.Errorf("mode %#o: rotated", mode)
		}
	}
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	open(t, path)
}

func TestAFileThatIsNoRingIsRefusedWithoutShowingIt(t *testing.T) {
	key := strings.Repeat("A", 43)
	for name, text := range map[string]string{
		"empty": "", "only a comment": "# nothing\n", "without the word": key + "\n", "short": "key1:" + key[:40] + "\n",
		"not canonical": "key1:" + key[:42] + "B\n", "of a later format": "key2:" + key + "\n",
		"with a broken line": "key1:" + key + "\nkey1:secret-but-broken\n", "too many": strings.Repeat("key1:"+key+"\n", 17),
	} {
		path := newPath(t)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := keyring.Open(path)
		if err == nil {
			t.Errorf("%s: opened", name)
			continue
		}
		if s := err.Error(); !strings.Contains(s, path) || strings.Contains(s, key[:40]) || strings.Contains(s, "secret") {
			t.Errorf("%s: the error says %q", name, s)
		}
	}
	if _, err := keyring.Open(t.TempDir()); err == nil {
		t.Error("a directory was opened")
	}
	if _, err := keyring.Open(filepath.Join(t.TempDir(), "none", "crumb.keys")); err == nil || !strings.Contains(err.Error(), "create it first") {
		t.Errorf("in a directory that is not there: %v", err)
	}
	if _, err := keyring.Open(""); err == nil {
		t.Error("no path was opened")
	}
}

func TestACodeHoldsForItsPurposeAndPartsAlone(t *testing.T) {
	r := open(t, newPath(t))
	mac := r.MAC("a", []byte("ab"), []byte("c"))
	if len(mac) != keyring.MACSize || !r.Verify("a", mac, []byte("ab"), []byte("c")) {
		t.Fatalf("%x does not verify", mac)
	}
	for name, ok := range map[string]bool{
		"another purpose":      r.Verify("b", mac, []byte("ab"), []byte("c")),
		"other bounds":         r.Verify("a", mac, []byte("a"), []byte("bc")),
		"joined":               r.Verify("a", mac, []byte("abc")),
		"one more, empty":      r.Verify("a", mac, []byte("ab"), []byte("c"), nil),
		"cut":                  r.Verify("a", mac[:len(mac)-1], []byte("ab"), []byte("c")),
		"none":                 r.Verify("a", nil, []byte("ab"), []byte("c")),
		"one of another ring":  open(t, newPath(t)).Verify("a", mac, []byte("ab"), []byte("c")),
		"the purpose of seals": bytes.Equal(r.MAC("seal a"), r.MAC("a")),
	} {
		if ok {
			t.Errorf("%s passes", name)
		}
	}
	for i := range mac {
		mac[i] ^= 1
		if r.Verify("a", mac, []byte("ab"), []byte("c")) {
			t.Errorf("byte %d may change", i)
		}
		mac[i] ^= 1
	}
}

func TestWhatIsSealedOpensForItsPurposeAndExtraAlone(t *testing.T) {
	r := open(t, newPath(t))
	sealed := r.Seal("a", []byte("plain"), []byte("extra"))
	if len(sealed) != len("plain")+32 || bytes.Contains(sealed, []byte("plain")) {
		t.Errorf("sealed: %x", sealed)
	}
	if plain, err := r.Unseal("a", sealed, []byte("extra")); err != nil || string(plain) != "plain" {
		t.Fatalf("%q, %v", plain, err)
	}
	if bytes.Equal(sealed, r.Seal("a", []byte("plain"), []byte("extra"))) {
		t.Error("two seals of one text are the same")
	}
	if _, err := r.Unseal("b", sealed, []byte("extra")); err != keyring.ErrSeal {
		t.Errorf("another purpose: %v", err)
	}
	if _, err := r.Unseal("a", sealed, nil); err != keyring.ErrSeal {
		t.Errorf("no extra: %v", err)
	}
	for i := range sealed {
		if _, err := r.Unseal("a", sealed[:i], []byte("extra")); err != keyring.ErrSeal {
			t.Errorf("cut to %d: %v", i, err)
		}
		changed := bytes.Clone(sealed)
		changed[i] ^= 0x80
		if _, err := r.Unseal("a", changed, []byte("extra")); err != keyring.ErrSeal {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
}

func TestARotationKeepsSoManyFormerKeys(t *testing.T) {
	path := newPath(t)
	first := open(t, path)
	mac, sealed := first.MAC("p", []byte("x")), first.Seal("p", []byte("x"), nil)
	rotate(t, path, 1)

	second := open(t, path)
	if bytes.Equal(second.MAC("p", []byte("x")), mac) {
		t.Error("the new key is not in use")
	}
	if macs := second.MACs("p", []byte("x")); len(macs) != 2 || !bytes.Equal(macs[0], second.MAC("p", []byte("x"))) || !bytes.Equal(macs[1], mac) {
		t.Errorf("codes under both keys: %x", macs)
	}
	if !second.Verify("p", mac, []byte("x")) {
		t.Error("a code from before does not verify")
	}
	if plain, err := second.Unseal("p", sealed, nil); err != nil || string(plain) != "x" {
		t.Errorf("what was sealed before: %q, %v", plain, err)
	}

	rotate(t, path, 1)
	third := open(t, path)
	if third.Verify("p", mac, []byte("x")) || len(third.MACs("p")) != 2 {
		t.Error("a key that was not kept still verifies")
	}
	rotate(t, path, 0)
	if n := len(open(t, path).MACs("p")); n != 1 {
		t.Errorf("%d keys after keeping none", n)
	}
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v after rotations, %v", info.Mode(), err)
	}
	for _, keep := range []int{-1, 16} {
		if err := keyring.Rotate(path, keep); err == nil {
			t.Errorf("kept %d", keep)
		}
	}
}

func TestARunningProcessFollowsARotation(t *testing.T) {
	t.Run("within a minute by itself", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			path := newPath(t)
			r := open(t, path)
			before := r.MAC("p")
			rotate(t, path, 1)
			if !bytes.Equal(r.MAC("p"), before) {
				t.Error("the file is read at every use")
			}
			time.Sleep(time.Minute)
			if bytes.Equal(r.MAC("p"), before) {
				t.Error("the new key is not in use after a minute")
			}
		})
	})
	t.Run("at once when it meets the new key, at most once a second", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			path := newPath(t)
			r := open(t, path)
			rotate(t, path, 1)
			other := open(t, path)
			if r.Verify("p", other.MAC("p")) {
				t.Error("made-up keys make it read the file at every use")
			}
			time.Sleep(time.Second)
			if !r.Verify("p", other.MAC("p")) {
				t.Error("a code under the new key does not verify")
			}
			if _, err := r.Unseal("p", other.Seal("p", nil, nil), nil); err != nil {
				t.Errorf("what the new key sealed: %v", err)
			}
		})
	})
	t.Run("and keeps its keys while the file is gone or broken", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			path := newPath(t)
			r := open(t, path)
			before := r.MAC("p")
			if err := os.WriteFile(path, []byte("broken"), 0o600); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if !bytes.Equal(r.MAC("p"), before) {
				t.Error("a broken file took the keys")
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if !bytes.Equal(r.MAC("p"), before) {
				t.Error("the file that is gone took the keys")
			}
		})
	})
}

func TestRotationsAtOnceLoseNoKey(t *testing.T) {
	path := newPath(t)
	macs := [][]byte{open(t, path).MAC("p")}
	var wg sync.WaitGroup
	var mu sync.Mutex
	done := 0
	for range 8 {
		wg.Go(func() {
			err := keyring.Rotate(path, 15)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				done++
			} else if !strings.Contains(err.Error(), "another rotation is under way") {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	r := open(t, path)
	if n := len(r.MACs("p")); done == 0 || n != done+1 {
		t.Errorf("%d rotations left %d keys", done, n)
	}
	if !r.Verify("p", macs[0]) {
		t.Error("the first key is gone")
	}
}

func FuzzAFileOfAnyTextOpensOrIsRefused(f *testing.F) {
	f.Add("key1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n")
	f.Add("# comment\n\nkey1:")
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "keys")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if r, err := keyring.Open(path); err == nil && !r.Verify("p", r.MAC("p")) {
			t.Error("it opened and does not know its own code")
		}
	})
}
