package servers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"sync"
)

var packages = map[string]string{Postgres: "postgresql", MySQL: "mariadb-server", Redis: "redis-server", RedisCluster: "redis-server"}

// installing is held while packages are installed.
var installing sync.Mutex

// install has Debian's packages of the kind put onto the machine if its program is
// missing.
func install(ctx context.Context, kind string) error {
	installing.Lock()
	defer installing.Unlock()
	if _, err := program(kind); err == nil {
		return nil
	}
	apt, err := exec.LookPath("apt-get")
	if err != nil || os.Geteuid() != 0 {
		return fmt.Errorf("it is not installed; as root on Debian this does it: apt-get install --no-install-recommends %s; "+
			"a server elsewhere is named by %s", packages[kind], Variable(kind))
	}
	if err := keepDown(func() error {
		return errors.Join(
			aptGet(ctx, apt, "update", "-qq"),
			aptGet(ctx, apt, "install", "-qq", "-y", "--no-install-recommends", packages[kind]))
	}); err != nil {
		return err
	}
	_, err = program(kind)
	return err
}

func program(kind string) (string, error) {
	switch kind {
	case Postgres:
		return postgresPrograms()
	case MySQL:
		return mysqlProgram()
	default:
		return exec.LookPath("redis-server")
	}
}

func aptGet(ctx context.Context, apt string, args ...string) error {
	cmd := exec.CommandContext(ctx, apt, args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w:\n%s", args[0], err, out)
	}
	return nil
}

// keepDown calls fn while packages may not start the services they bring, which is
// what the exit code 101 of this program tells them.
func keepDown(fn func() error) (err error) {
	const policy = "/usr/sbin/policy-rc.d"
	f, err := os.OpenFile(policy, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return fn() // the machine has a policy of its own
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(policy)) }()
	_, err = f.WriteString("#!/bin/sh\nexit 101\n")
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return fn()
}
