// Command servers starts and stops the servers that the tests of the stores share.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/crumb-go/crumb/internal/servers"
)

const usage = `usage: go run ./internal/servers/cmd start|stop|status|left-out

start     installs what is missing, as root on Debian, and starts the servers
stop      stops them and deletes their data
status    says where each is
left-out  says in one sentence which are not there, if any
`

func main() {
	if len(os.Args) != 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, command string) error {
	dir, err := servers.Folder()
	if err != nil {
		return err
	}
	switch command {
	case "start":
		if _, err := servers.StartShared(ctx, dir); err != nil {
			return err
		}
		status()
	case "stop":
		return servers.StopShared(dir)
	case "status":
		status()
	case "left-out":
		if missing := servers.Missing(servers.Kinds...); len(missing) > 0 {
			fmt.Println(servers.LeftOut(missing))
		}
	default:
		return fmt.Errorf("unknown command %q\n%s", command, usage)
	}
	return nil
}

func status() {
	for _, kind := range servers.Kinds {
		url, ok := servers.URL(kind)
		if !ok {
			url = "not running"
		}
		fmt.Printf("%-14s %s\n", kind, url)
	}
}
