package main

import (
	"bufio"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/sqlite"
)

// childEnv names what a child process of this program does.
const childEnv = "CRUMB_SOAK_CHILD"

func runChild(role string, args []string) error {
	switch role {
	case "load":
		round, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		return childLoad(args[0], round, session.ID(args[2]))
	case "serve":
		return childServe(args[0])
	case "app":
		return childApp(args[0])
	case "login":
		return childLogin(args[0])
	case "about":
		return childAbout(args[0])
	}
	return fmt.Errorf("no child does %q", role)
}

// newChild returns this program as a child.
func newChild(ctx context.Context, role string, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), childEnv+"="+role)
	cmd.Stderr = os.Stderr
	return cmd, nil
}

// startServing starts a child that prints the address it serves on, and ends when
// its standard input does.
func startServing(child *exec.Cmd) (in io.Closer, url string, err error) {
	in, err = child.StdinPipe()
	if err != nil {
		return nil, "", err
	}
	out, err := child.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	if err := child.Start(); err != nil {
		return nil, "", err
	}
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("%s did not start: %w", child.Path, err), child.Wait())
	}
	return in, "http://" + strings.TrimSpace(addr), nil
}

// serveParent serves h on an address that it prints, until the standard input ends.
func serveParent(h http.Handler) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	server := &http.Server{Handler: h}
	go server.Serve(l)
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, server.Close())
}

// clients of a child that is to be killed.
const loadClients = 12

// childLoad calls a store on the file at path until it is killed, and says of
// every call on its standard output when it begins and what came back. A line
// that was written is kept by the pipe, so the order of what the parent reads is
// the order of what happened.
func childLoad(path string, round int, shared session.ID) error {
	ctx := context.Background()
	st, err := sqlite.Open(ctx, path, sqlite.Config{})
	if err != nil {
		return err
	}
	out := gob.NewEncoder(os.Stdout)
	rec := &recorder{to: func(e event) error { return out.Encode(e) }}
	errs := make(chan error)
	for i := range loadClients {
		go func() { errs <- loadForEver(ctx, st, rec, round, i, shared) }()
	}
	return <-errs
}

// loadForEver calls the store on the session that all share, and on one of its
// own after the other.
func loadForEver(ctx context.Context, st session.Store, rec *recorder, round, client int, shared session.ID) error {
	rng := rand.New(rand.NewPCG(uint64(round), uint64(client)))
	ours := &caller{n: (round*2+0)*loadClients + client, store: st, rec: rec, rng: rng, id: shared}
	if _, err := ours.do(ctx, &call{What: "create", Rec: oneRecord(shared)}); err != nil {
		return err
	}
	mine := &caller{n: (round*2+1)*loadClients + client, store: st, rec: rec, rng: rng, ends: 20}
	for life := 0; ; life++ {
		mine.id, mine.seen = session.ID(fmt.Sprintf("%06d%02d%08d", round, client, life)), nil
		if _, err := mine.do(ctx, &call{What: "create", Rec: oneRecord(mine.id)}); err != nil {
			return err
		}
		for range 10 + rng.IntN(20) {
			c := mine
			if rng.IntN(4) == 0 {
				c = ours
			}
			if err := c.next(ctx); err != nil {
				return err
			}
		}
	}
}

// readEvents hands on what a child says, until it ends.
func readEvents(from io.Reader, to func(event)) {
	in := gob.NewDecoder(from)
	for {
		var e event
		if in.Decode(&e) != nil { // at the end, or in the middle of a message
			return
		}
		to(e)
	}
}
