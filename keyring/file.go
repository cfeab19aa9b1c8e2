package keyring

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// maxKeys bounds what is read: each lookup computes a code per key.
const maxKeys = 16

const header = "# Secret keys, the newest first. Keep this file out of backups of the database.\n"

// linePrefix says what a line is and how it is written.
const linePrefix = "key1:"

// Rotate puts a new key before those in the file at path and keeps so many of the
// former ones, at most 15. What the others made is worth nothing from then on.
// Running processes follow within a minute.
func Rotate(path string, keep int) error {
	if keep < 0 || keep >= maxKeys {
		return fmt.Errorf("keyring: %d former keys cannot be kept; 0 to %d can", keep, maxKeys-1)
	}
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("keyring: rotate: %w", err)
	}
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("keyring: %s exists: another rotation is under way; if none is, it was cut off: remove that file", tmp)
	}
	if err != nil {
		return fmt.Errorf("keyring: rotate: %w", err)
	}
	// From here to the rename the file stands in for a lock.
	keys, info, err := load(path)
	if err == nil {
		keys = append([]key{randomKey()}, keys[:min(keep, len(keys))]...)
		err = errors.Join(write(f, keys), giveTo(f, info))
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return syncDir(filepath.Dir(path))
}

// create makes the file with one new key, unless another process is faster.
func create(path string) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".keys-*") // mode 0600
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("keyring: %s: the directory %s does not exist; create it first", path, dir)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("keyring: %s: the directory %s is not writable; create the file as a user who may: %w", path, dir, err)
	case err != nil:
		return fmt.Errorf("keyring: create %s: %w", path, err)
	}
	err = errors.Join(write(f, []key{randomKey()}), f.Close())
	if err == nil {
		// A link appears whole or not at all, and never over another file.
		if err = os.Link(f.Name(), path); errors.Is(err, fs.ErrExist) {
			err = nil
		}
	}
	err = errors.Join(err, os.Remove(f.Name()))
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("keyring: create %s: %w", path, err)
	}
	return nil
}

func randomKey() key {
	secret := make([]byte, keySize)
	rand.Read(secret)
	return newKey(secret)
}

// write writes the lines of a file, to the disk and not only to the system.
func write(f *os.File, keys []key) error {
	var text bytes.Buffer
	text.WriteString(header)
	for _, k := range keys {
		text.WriteString(linePrefix + base64.RawURLEncoding.EncodeToString(k.secret[:]) + "\n")
	}
	_, err := f.Write(text.Bytes())
	return errors.Join(err, f.Sync())
}

// load reads the file at path and checks that it is its owner's alone.
func load(path string) ([]key, fs.FileInfo, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil, fmt.Errorf("keyring: %s is not readable by this user; chown it: %w", path, err)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("keyring: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, fmt.Errorf("keyring: %w", err)
	}
	if mode := info.Mode(); !mode.IsRegular() {
		return nil, nil, fmt.Errorf("keyring: %s is no regular file; name a file", path)
	} else if mode.Perm()&0o077 != 0 && runtime.GOOS != "windows" {
		return nil, nil, fmt.Errorf("keyring: %s has mode %#o, so that others than its owner can use the keys; run chmod 600 %s, and crumb keys rotate if somebody may have read it", path, mode.Perm(), path)
	}
	const most = 64 << 10
	text, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return nil, nil, fmt.Errorf("keyring: %w", err)
	}
	keys, err := parse(string(text))
	if err != nil {
		return nil, nil, fmt.Errorf("keyring: %s: %w", path, err)
	}
	return keys, info, nil
}

// parse never repeats what a line holds: it may be a key, misspelt.
func parse(text string) (keys []key, err error) {
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		encoded, ok := strings.CutPrefix(line, linePrefix)
		secret, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
		if !ok || err != nil || len(secret) != keySize {
			return nil, fmt.Errorf("line %d is no key; a key is %s and 43 characters", n, linePrefix)
		}
		keys = append(keys, newKey(secret))
	}
	switch {
	case len(keys) == 0:
		return nil, errors.New("there is no key in it; remove the file to have a new one made")
	case len(keys) > maxKeys:
		return nil, fmt.Errorf("there are %d keys in it; at most %d are of use, remove the last ones", len(keys), maxKeys)
	}
	return keys, nil
}

// syncDir makes the name of a new file survive a power cut.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // has no such call
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
