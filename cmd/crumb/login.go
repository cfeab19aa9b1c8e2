package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/crumb-go/crumb/login"
	"github.com/crumb-go/crumb/modules"
)

// andLogin has schema apply create the tables of users too, where they are on a
// server. In a file, serve and users add create them.
func andLogin(run func(*cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a, err := settings(cmd, modules.Login)
		if err != nil {
			return err
		}
		db, _ := a.Config(modules.Database.Name).(modules.DatabaseConfig)
		cfg, _ := a.Config(modules.Login.Name).(modules.LoginConfig)
		db = cfg.Database(db)
		if engine := db.Engine(); engine == "postgres" || engine == "mysql" {
			url, err := db.Address()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), modules.OpenTimeout)
			defer cancel()
			if err := login.ApplySchema(ctx, url, login.TablesConfig{TablePrefix: db.TablePrefix}); err != nil {
				return err
			}
		}
		return run(cmd, args)
	}
}
