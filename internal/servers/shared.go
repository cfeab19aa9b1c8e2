package servers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// shared are the servers of a folder that all tests use. Its file servers.json
// says which, its file urls where they are.
type shared struct {
	dir string

	mu      sync.Mutex // guards what follows, and the two files
	servers []*Server
}

// openShared reads what is known of the servers in dir. The caller calls close.
func openShared(dir string) (_ *shared, close func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, err
	}
	unlock, err := lock(dir)
	if err != nil {
		return nil, nil, err
	}
	s := &shared{dir: dir}
	text, err := os.ReadFile(s.file())
	if err == nil {
		err = json.Unmarshal(text, &s.servers)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		unlock()
		return nil, nil, fmt.Errorf("servers: %s: %w", s.file(), err)
	}
	return s, unlock, nil
}

func (s *shared) file() string { return filepath.Join(s.dir, "servers.json") }

// save writes the files anew.
func (s *shared) save() error {
	slices.SortFunc(s.servers, func(a, b *Server) int { return slices.Index(Kinds, a.Kind) - slices.Index(Kinds, b.Kind) })
	var urls strings.Builder
	for _, server := range s.servers {
		fmt.Fprintf(&urls, "%s %s\n", server.Kind, server.URL)
	}
	text, err := json.MarshalIndent(s.servers, "", "\t")
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(s.file(), text, 0o600),
		os.WriteFile(filepath.Join(s.dir, "urls"), []byte(urls.String()), 0o600))
}

// StartShared starts the shared servers in dir that do not run, at the same time,
// and returns the address of each kind.
func StartShared(ctx context.Context, dir string) (map[string]string, error) {
	s, close, err := openShared(dir)
	if err != nil {
		return nil, err
	}
	defer close()
	var wg sync.WaitGroup
	errs := make([]error, len(Kinds))
	for i, kind := range Kinds {
		wg.Go(func() { errs[i] = s.start(ctx, kind) })
	}
	wg.Wait()
	urls := map[string]string{}
	for _, server := range s.servers {
		urls[server.Kind] = server.URL
	}
	return urls, errors.Join(errs...)
}

// start leaves a server alone that runs. Of one that does not, or not whole, the
// rest is stopped and a new one takes its place: tests bring their own data.
func (s *shared) start(ctx context.Context, kind string) error {
	s.mu.Lock()
	i := slices.IndexFunc(s.servers, func(server *Server) bool { return server.Kind == kind })
	if i >= 0 && s.servers[i].Running() {
		s.mu.Unlock()
		return nil
	}
	var old *Server
	if i >= 0 {
		old = s.servers[i]
		s.servers = slices.Delete(s.servers, i, i+1)
	}
	s.mu.Unlock()
	if old != nil {
		if err := old.Stop(); err != nil {
			return err
		}
	}
	if err := install(ctx, kind); err != nil {
		return fmt.Errorf("servers: install %s: %w", Name(kind), err)
	}
	server, err := Start(ctx, kind, filepath.Join(s.dir, kind))
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.servers = append(s.servers, server)
	return s.save()
}

// StopShared stops the shared servers in dir and deletes dir.
func StopShared(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	s, close, err := openShared(dir)
	if err != nil {
		return err
	}
	defer close()
	var wg sync.WaitGroup
	errs := make([]error, len(s.servers))
	for i, server := range s.servers {
		wg.Go(func() { errs[i] = server.Stop() })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}
