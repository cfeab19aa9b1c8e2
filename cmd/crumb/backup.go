package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/modules"
	"github.com/crumb-go/crumb/store/sqlite"
)

func backupCommand() *cobra.Command {
	var without bool
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Copy a SQLite database to a new file, while it is in use",
		Long: "Copy a SQLite database to a new file, as it stands at one moment, while it is in use.\n" +
			"The copy is checked, on the disk when the command returns, and readable by its owner alone.\n" +
			"Whoever restores an old copy runs crumb sessions revoke --all: sessions that ended since live in it.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return usageError(errors.New("backup needs the name of one file"), "write crumb backup FILE")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return backup(cmd, args[0], without) },
	}
	settingFlags(cmd)
	cmd.Flags().BoolVar(&without, "without-sessions", false, "leave the sessions out, and keep everything else")
	return cmd
}

// dumps says what copies the databases that are no files.
var dumps = map[string]string{
	"postgres": "pg_dump copies a database while it is in use; --exclude-table-data leaves the sessions out",
	"mysql":    "mysqldump --single-transaction, or mariadb-dump, copies a database while it is in use; --ignore-table leaves the sessions out",
	"redis":    "redis-cli BGSAVE has the server write its dump.rdb; in a Cluster each primary has its own",
}

func backup(cmd *cobra.Command, file string, without bool) error {
	a, err := settings(cmd, modules.Database)
	if err != nil {
		return err
	}
	d, err := databaseOf(a)
	if err != nil {
		return err
	}
	if instead, ok := dumps[d.Engine()]; ok {
		return app.WithHint(fmt.Errorf("crumb backup copies SQLite files, and %s is a server", plain(d.shown)), instead)
	}
	if err := d.mustHaveTables(cmd.Context()); err != nil {
		return err
	}
	if version, err := d.version(cmd.Context()); err != nil {
		return err
	} else if version > d.newest && without {
		return app.WithHint(fmt.Errorf("%s has schema version %d and this crumb knows up to %d", d.shown, version, d.newest), "run the newer crumb")
	}
	copyTo := sqlite.Backup
	if without {
		copyTo = sqlite.BackupWithoutSessions
	}
	err = copyTo(cmd.Context(), d.address, file, sqlite.Config{TablePrefix: d.TablePrefix})
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted; there is no copy")
	case errors.Is(err, fs.ErrExist):
		return app.WithHint(fmt.Errorf("%s exists already", file), "name another file, or remove that one")
	case errors.Is(err, fs.ErrNotExist):
		return app.WithHint(err, "create the folder first")
	case err != nil:
		return err
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "Copied %s to %s: %s, checked.\n", plain(d.shown), plain(file), size(info.Size()))
	return err
}

// size prints a number of bytes in its largest unit.
func size(n int64) string {
	for _, unit := range []struct {
		name  string
		bytes int64
	}{{"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}} {
		if n >= unit.bytes {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(unit.bytes), unit.name)
		}
	}
	return numbered(int(n), "byte")
}
