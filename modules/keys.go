package modules

import (
	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/keyring"
)

// Keys provides the [*keyring.Ring] of the app: secret keys in a file of their own,
// made on the first start, which neither the database nor its backups hold.
var Keys = &app.Module{
	Name:   "keys",
	Config: KeysConfig{SecretKeyFile: "crumb.keys"},
	Setup: func(e *app.Env) error {
		ring, err := keyring.Open(app.ConfigOf[KeysConfig](e).SecretKeyFile)
		if err != nil {
			return app.WithHint(err, "--secret-key-file names another file; all processes of the app need the same one")
		}
		e.Provide(ring)
		return nil
	},
}

// KeysConfig is the table [keys].
type KeysConfig struct {
	// SecretKeyFile holds the keys, the newest first. Only its owner may be able
	// to read it. Defaults to crumb.keys in the working directory.
	SecretKeyFile string `toml:"secret_key_file" flag:"secret-key-file" help:"file of the secret keys, made on the first start"`
}

// Check refuses what is no file.
func (c KeysConfig) Check() error {
	if c.SecretKeyFile == "" {
		return app.Bad("secret_key_file", "it names no file", `write a path, such as "crumb.keys"`)
	}
	return nil
}
