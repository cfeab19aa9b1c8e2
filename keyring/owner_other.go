//go:build !unix

package keyring

import (
	"io/fs"
	"os"
)

// giveTo does nothing: files belong to whom their folder says.
func giveTo(*os.File, fs.FileInfo) error { return nil }
