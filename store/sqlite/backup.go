package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	zs "zombiezen.com/go/sqlite"
)

// Backup copies the database at url, as it stands at one moment, to a new file
// that only its owner can read, and checks the copy. Programs that use the
// database go on reading and writing; until Backup returns their write-ahead log
// grows. The file appears under its name when it is whole and on the disk; one
// that exists already is an error that wraps [fs.ErrExist].
func Backup(ctx context.Context, url, file string, cfg Config) error {
	return backup(ctx, url, file, cfg, nil)
}

// BackupWithoutSessions is Backup for a copy that opens no session and says
// nothing about visitors: the tables under cfg.TablePrefix are empty in it, and
// whatever else is in the database is there.
func BackupWithoutSessions(ctx context.Context, url, file string, cfg Config) error {
	return backup(ctx, url, file, cfg, func(c *zs.Conn, prefix string) error {
		// VACUUM, because deleted rows stay readable in the file.
		return errors.Join(exec(c, "DELETE FROM "+prefix+"sessions"), exec(c, "VACUUM"))
	})
}

func backup(ctx context.Context, url, file string, cfg Config, change func(c *zs.Conn, prefix string) error) error {
	path, err := parseURL(url)
	if err != nil {
		return err
	}
	if err := cfg.check(); err != nil {
		return err
	}
	if file, err = filepath.Abs(file); err != nil {
		return fmt.Errorf("sqlite: backup: %w", err)
	}
	dir, name := filepath.Split(file)
	if err := refuseExisting(file); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+name+".*.partial") // of mode 0600
	if err != nil {
		return fmt.Errorf("sqlite: backup: %w", err)
	}
	partial := f.Name()
	defer os.Remove(partial)
	err = f.Close()
	if err == nil {
		err = copyTo(ctx, path, partial)
	}
	if err == nil {
		err = complete(ctx, partial, func(c *zs.Conn) error {
			if change == nil {
				return nil
			}
			return change(c, cfg.TablePrefix)
		})
	}
	if err == nil {
		err = appear(partial, file)
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	switch {
	case err == nil || errors.Is(err, fs.ErrExist):
		return err
	case zs.ErrCode(err) != zs.ResultError:
		err = plain(err)
	}
	return fmt.Errorf("sqlite: backup %s: %w", path, err)
}

// copyTo writes the database to the empty file partial. Not the backup API, which
// starts again whenever another process writes: under load it would never end.
func copyTo(ctx context.Context, path, partial string) error {
	c, err := openConn(path, zs.OpenReadOnly)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetInterrupt(ctx.Done())
	return whileBusy(ctx, func() error {
		return exec(c, "VACUUM INTO '"+strings.ReplaceAll(partial, "'", "''")+"'")
	})
}

// complete changes the copy, checks it and brings it to the disk.
func complete(ctx context.Context, partial string, change func(*zs.Conn) error) error {
	c, err := openConn(partial, zs.OpenReadWrite)
	if err != nil {
		return err
	}
	c.SetInterrupt(ctx.Done())
	err = change(c)
	var problems []string
	if err == nil {
		problems, err = quickCheck(c)
	}
	if len(problems) > 0 {
		err = fmt.Errorf("the copy is damaged, and so may be what it was made of: %s", problems[0])
	}
	if err := errors.Join(err, c.Close()); err != nil {
		return err
	}
	f, err := os.OpenFile(partial, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// appear gives the copy its name, unless something has it meanwhile.
func appear(partial, file string) error {
	err := os.Link(partial, file)
	if err != nil && !errors.Is(err, fs.ErrExist) { // no hard links on this file system
		if err = refuseExisting(file); err == nil {
			err = os.Rename(partial, file)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return existsError(file)
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(file))
}

func refuseExisting(file string) error {
	if _, err := os.Lstat(file); err == nil {
		return existsError(file)
	}
	return nil
}

func existsError(file string) error { return fmt.Errorf("sqlite: backup: %s: %w", file, fs.ErrExist) }
