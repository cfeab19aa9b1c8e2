package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/keyring"
	"github.com/crumb-go/crumb/login"
	"github.com/crumb-go/crumb/modules"
)

// keepKeys is how many former keys a rotation keeps by default: enough for two
// rotations while a browser is known by its cookie.
const keepKeys = 2

func keysCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "keys", Short: "Replace the secret keys of an app"}
	settingFlags(cmd)
	onlySubcommands(cmd)
	var keep int
	rotate := &cobra.Command{
		Use:   "rotate",
		Short: "Put a new key before the ones in the secret key file",
		Long: "Put a new key before the ones in the secret key file, and keep some of the former ones.\n" +
			"What they made still counts: browsers stay known and failed tries stay counted. With --keep 0 it does not.\n" +
			"Processes that serve follow within a minute. No session ends.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := settings(cmd, modules.Keys, modules.Database)
			if err != nil {
				return err
			}
			file := a.Config(modules.Keys.Name).(modules.KeysConfig).SecretKeyFile
			audit, err := openAudit(cmd) // first: nothing changes that cannot be told
			if err != nil {
				return err
			}
			if audit != nil {
				defer audit.Close()
			}
			if err := keyring.Rotate(file, keep); err != nil {
				if errors.Is(err, fs.ErrNotExist) {
					err = app.WithHint(err, "the first start of an app with login makes it; name another with the setting [keys] secret_key_file")
				}
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s has a new key, and up to %d former ones.\n", plain(file), keep)
			return record(cmd.Context(), audit, login.AuditEntry{Event: login.AuditKeysRotated, Detail: fmt.Sprintf("kept at most %d", keep)})
		},
	}
	rotate.Flags().IntVar(&keep, "keep", keepKeys, "how many former keys to keep, at most 15")
	cmd.AddCommand(rotate)
	return cmd
}
