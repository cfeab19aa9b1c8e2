//go:build unix

package sqlite

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestFilesAreTheirOwnersAloneWhateverTheUmask(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	path := filepath.Join(t.TempDir(), "crumb.db")
	s := openAt(t, path)
	must(t, s.Create(t.Context(), record(1)))
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + suffix)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("crumb.db%s: %v, %v, want mode 0600", suffix, info.Mode(), err)
		}
	}
}

func TestReadOnlyFileIsRefusedAtOpen(t *testing.T) {
	// Somebody who is not root, whom the file's mode does not stop.
	bin, user := os.Args[0], (*syscall.Credential)(nil)
	dir := t.TempDir()
	if os.Getuid() == 0 {
		user = &syscall.Credential{Uid: 65534, Gid: 65534}
		bin = filepath.Join(dir, "sqlite.test")
		copyFile(t, os.Args[0], bin)
		for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
			must(t, os.Chmod(d, 0o755))
		}
	}
	path := filepath.Join(dir, "crumb.db")
	s, err := Open(t.Context(), path, Config{})
	must(t, err)
	must(t, s.Create(t.Context(), record(1)))
	must(t, s.Close())
	must(t, os.Chmod(path, 0o444))
	before, err := os.ReadFile(path)
	must(t, err)

	p := newChild(t, bin, "open", path)
	p.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	must(t, p.Start())
	p.start.Close()
	out, err := io.ReadAll(p.out)
	must(t, err)
	if err := p.Wait(); err == nil || !strings.Contains(p.errs.String(), "the file is read-only or unreadable; sessions need it and its directory writable") {
		t.Errorf("the child ended with %v, %s%s", err, out, p.errs)
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
		t.Errorf("the file changed: %v", err)
	}
	must(t, os.Chmod(path, 0o600))
	if _, err := openAt(t, path).Load(t.Context(), testID(1)); err != nil {
		t.Error(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	must(t, err)
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	must(t, err)
	_, err = io.Copy(out, in)
	must(t, err)
	must(t, out.Close())
}
