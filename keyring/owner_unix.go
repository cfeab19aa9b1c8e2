//go:build unix

package keyring

import (
	"io/fs"
	"os"
	"syscall"
)

// giveTo makes the owner of the former file that of f: root rotates for an app
// that does not run as root.
func giveTo(f *os.File, former fs.FileInfo) error {
	own, err := f.Stat()
	if err != nil {
		return err
	}
	is, was := own.Sys().(*syscall.Stat_t), former.Sys().(*syscall.Stat_t)
	if is.Uid == was.Uid && is.Gid == was.Gid {
		return nil
	}
	return f.Chown(int(was.Uid), int(was.Gid))
}
