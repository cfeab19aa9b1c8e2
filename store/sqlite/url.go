package sqlite

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
)

// parseURL returns the absolute path of the file that raw names: "sqlite:x.db",
// "sqlite:/x.db", "sqlite:///x.db" or a plain path.
func parseURL(raw string) (string, error) {
	rest, isURL := strings.CutPrefix(raw, "sqlite:")
	if !isURL {
		if scheme, _, ok := strings.Cut(raw, "://"); ok {
			return "", fmt.Errorf("sqlite: the URL begins with %s:, which is not this store's; write sqlite:crumb.db", scheme)
		}
		return absolute(raw)
	}
	rest, query, ok := strings.Cut(rest, "?")
	if ok {
		name, _, _ := strings.Cut(query, "=")
		return "", fmt.Errorf("sqlite: %s: unknown parameter %q; a SQLite URL takes none", "sqlite:"+rest, name)
	}
	// sqlite://name.db means the file name.db here: SQLite has no hosts.
	rest = strings.TrimPrefix(rest, "//")
	path, err := url.PathUnescape(rest)
	if err != nil {
		return "", fmt.Errorf("sqlite: %s: %w; write %%25 for a percent sign", raw, err)
	}
	return absolute(path)
}

func absolute(path string) (string, error) {
	switch {
	case path == "":
		return "", errors.New("sqlite: the URL names no file; write sqlite:crumb.db")
	case path == ":memory:":
		return "", errors.New("sqlite: :memory: is not supported; use the memory store for sessions that end with the process")
	case strings.Contains(path, "\x00"):
		return "", fmt.Errorf("sqlite: the path %q holds a zero byte", path)
	}
	// Absolute, so that a later change of the working directory does not part the
	// file from its -wal, and so that no name is special to SQLite.
	return filepath.Abs(path)
}
