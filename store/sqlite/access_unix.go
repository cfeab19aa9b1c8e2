//go:build unix

package sqlite

import "golang.org/x/sys/unix"

// access returns an error unless this user may read and write the file. It asks
// and does not try: see creating.
func access(path string) error { return unix.Access(path, unix.R_OK|unix.W_OK) }
