// Package filestore keeps each session in a file of its own, in one directory that
// belongs to one process, on a POSIX system. It is the store that
// docs/write-a-store.md builds.
package filestore

import (
	"bytes"
	"cmp"
	"context"
	"encoding/gob"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/crumb-go/crumb/session"
)

// A Store keeps sessions in files. Besides [session.Store] it implements
// [session.Lister] and [session.Sweeper], both of which read every file.
type Store struct {
	dir string
	mu  sync.RWMutex // guards the files: written under the lock, read under the read lock
}

var (
	_ session.Store   = (*Store)(nil)
	_ session.Lister  = (*Store)(nil)
	_ session.Sweeper = (*Store)(nil)
)

// Open returns the store in dir, which it creates, readable by its owner alone.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("filestore: %w", err)
	}
	return &Store{dir: dir}, nil
}

// suffix tells the files of sessions from those that are being written.
const suffix = ".session"

// path is where the session of id is. IDs differ in the case of their letters, and
// the names of files may not.
func (s *Store) path(id session.ID) string {
	return filepath.Join(s.dir, hex.EncodeToString([]byte(id))+suffix)
}

// Create implements [session.Store].
func (s *Store) Create(ctx context.Context, rec *session.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.read(ctx, s.path(rec.ID))
	switch {
	case err == nil:
		return session.ErrExists
	case !errors.Is(err, session.ErrNotFound):
		return err
	}
	return s.write(rec, rec.User != "")
}

// Load implements [session.Store].
func (s *Store) Load(ctx context.Context, id session.ID) (*session.Record, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.read(ctx, s.path(id))
}

// Update implements [session.Store].
func (s *Store) Update(ctx context.Context, base *session.Record, c *session.Change) (*session.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec, err := s.read(ctx, s.path(base.ID))
	if err != nil {
		return nil, err
	}
	out, err := c.Apply(rec)
	if err != nil {
		return out, err
	}
	if err := s.write(out, c.End || c.Renew != nil); err != nil {
		return nil, err
	}
	return out, nil
}

// Delete implements [session.Store].
func (s *Store) Delete(ctx context.Context, id session.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.remove(ctx, s.path(id))
}

// List implements [session.Lister].
func (s *Store) List(ctx context.Context, q session.Query) ([]session.Info, error) {
	if err := q.Check(); err != nil {
		return nil, err
	}
	var infos []session.Info
	err := s.each(ctx, func(_ string, rec *session.Record) error {
		if rec.Live(q.Now) && (q.All || rec.User == q.User) && q.IsAfter(&rec.Info) {
			infos = append(infos, rec.Info)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(infos, func(a, b session.Info) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
	})
	return infos[:min(len(infos), q.Limit)], nil
}

// Sweep implements [session.Sweeper].
func (s *Store) Sweep(ctx context.Context, then time.Time, limit int) (n int, err error) {
	var found []string
	err = s.each(ctx, func(path string, rec *session.Record) error {
		if !rec.Expires.After(then) && len(found) < limit {
			found = append(found, path)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for _, path := range found {
		swept, err := s.sweep(ctx, path, then)
		if err != nil {
			return n, err
		}
		if swept {
			n++
		}
	}
	return n, nil
}

// sweep deletes one file, unless its session was seen, or swept, since it was
// found.
func (s *Store) sweep(ctx context.Context, path string, then time.Time) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec, err := s.read(ctx, path)
	switch {
	case errors.Is(err, session.ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	case rec.Expires.After(then):
		return false, nil
	}
	return true, s.remove(ctx, path)
}

// each calls f with every session, one lock after the other, so that nobody waits
// for more than one file.
func (s *Store) each(ctx context.Context, f func(path string, rec *session.Record) error) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("filestore: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		path := filepath.Join(s.dir, e.Name())
		s.mu.RLock()
		rec, err := s.read(ctx, path)
		s.mu.RUnlock()
		if errors.Is(err, session.ErrNotFound) {
			continue
		}
		if err == nil {
			err = f(path, rec)
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// read returns the session in a file. The lock is held.
func (s *Store) read(ctx context.Context, path string) (*session.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, session.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("filestore: %w", err)
	}
	return decode(text)
}

// remove deletes a file. The lock is held.
func (s *Store) remove(ctx context.Context, path string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("filestore: %w", err)
	}
	return s.sync(s.dir)
}

// write puts a session in its file, whole or not at all: it is written beside it
// and renamed. A session that was ended or signed in to must survive a power cut,
// so it is synced to the disk. The lock is held.
func (s *Store) write(rec *session.Record, sure bool) error {
	text, err := encode(rec)
	if err != nil {
		return err
	}
	path := s.path(rec.ID)
	beside := path + ".new"
	if err := os.WriteFile(beside, text, 0o600); err != nil {
		return fmt.Errorf("filestore: %w", err)
	}
	if sure {
		if err := s.sync(beside); err != nil {
			return err
		}
	}
	if err := os.Rename(beside, path); err != nil {
		return fmt.Errorf("filestore: %w", err)
	}
	if sure {
		if err := s.sync(s.dir); err != nil {
			// The file is renamed, but perhaps not for good.
			return fmt.Errorf("%w: %w", session.ErrUnknown, err)
		}
	}
	return nil
}

// sync has the disk keep a file, or the names in a directory.
func (s *Store) sync(path string) error {
	f, err := os.Open(path)
	if err == nil {
		err = errors.Join(f.Sync(), f.Close())
	}
	if err != nil {
		return fmt.Errorf("filestore: sync: %w", err)
	}
	return nil
}

// format is the first byte of a file. Change it with the layout of what follows.
const format = 1

func encode(rec *session.Record) ([]byte, error) {
	b := bytes.NewBuffer([]byte{format})
	if err := gob.NewEncoder(b).Encode(rec); err != nil {
		return nil, fmt.Errorf("filestore: %w", err)
	}
	return b.Bytes(), nil
}

// decode refuses what a newer program wrote. Its error is not ErrNotFound: the
// visitor gets a page that says "try again", and keeps the cookie.
func decode(text []byte) (*session.Record, error) {
	if len(text) == 0 || text[0] != format {
		return nil, errors.New("filestore: the file of a session is in a format that this program does not know")
	}
	rec := new(session.Record)
	if err := gob.NewDecoder(bytes.NewReader(text[1:])).Decode(rec); err != nil {
		return nil, fmt.Errorf("filestore: %w", err)
	}
	return rec, nil
}
