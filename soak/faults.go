package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/mysql"
	"github.com/crumb-go/crumb/store/postgres"
	"github.com/crumb-go/crumb/store/redis"
	"github.com/crumb-go/crumb/store/sqlite"
)

// openStore opens the store at raw, a URL or the path of a SQLite file, with its
// tables.
func openStore(ctx context.Context, raw string) (st session.Store, closeStore func() error, err error) {
	switch scheme, _, _ := strings.Cut(raw, ":"); scheme {
	case "postgres":
		if err := postgres.ApplySchema(ctx, raw, postgres.Config{}); err != nil {
			return nil, nil, err
		}
		st, err := postgres.Open(ctx, raw, postgres.Config{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			return nil, nil, err
		}
		return st, st.Close, nil
	case "mysql":
		if err := mysql.ApplySchema(ctx, raw, mysql.Config{}); err != nil {
			return nil, nil, err
		}
		st, err := mysql.Open(ctx, raw, mysql.Config{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			return nil, nil, err
		}
		return st, st.Close, nil
	case "redis", "redis+cluster":
		st, err := redis.Open(ctx, raw, redis.Config{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			return nil, nil, err
		}
		return st, st.Close, nil
	}
	lite, err := sqlite.Open(ctx, raw, sqlite.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, nil, err
	}
	return lite, lite.Close, nil
}

var appCount = session.NewCounter("soak.count")

// childApp is an app on the store at raw. It prints its address, and ends when its
// standard input does.
func childApp(raw string) error {
	ctx := context.Background()
	st, closeStore, err := openStore(ctx, raw)
	if err != nil {
		return err
	}
	// 200 clients may wait for one row while the machine does other things too.
	cfg := session.Config{Insecure: true, Logger: slog.New(slog.DiscardHandler), StoreTimeout: 30 * time.Second}
	m, err := session.NewManager(st, cfg)
	if err != nil {
		return err
	}
	err = serveParent(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := session.From(r)
		switch r.URL.Path {
		case "/count":
			appCount.Add(s, 1)
		case "/look":
			fmt.Fprintln(w, appCount.Get(s), s.User())
		case "/signin":
			s.SignIn("ann")
		case "/signout":
			s.SignOut()
		case "/revoke":
			if err := m.Revoke(r.Context(), session.ID(r.URL.RawQuery)); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
			}
		}
	})))
	return errors.Join(err, closeStore())
}

// An appProcess is childApp.
type appProcess struct {
	cmd *exec.Cmd
	url string
}

func startApp(ctx context.Context, raw string) (*appProcess, error) {
	cmd, err := newChild(ctx, "app", raw)
	if err != nil {
		return nil, err
	}
	_, url, err := startServing(cmd)
	if err != nil {
		return nil, err
	}
	return &appProcess{cmd, url}, nil
}

// kill ends the process as kill -9 does.
func (a *appProcess) kill() {
	a.cmd.Process.Kill()
	a.cmd.Wait()
}

// asking asks the apps. It does not keep connections to those that were killed.
var asking = &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 200}}

// ask returns the body of a page, and the token if the answer sets one. An answer
// other than 200 is an error.
func (a *appProcess) ask(path, token string) (body, newToken string, err error) {
	r, err := http.NewRequest("GET", a.url+path, nil)
	if err != nil {
		return "", "", err
	}
	if token != "" {
		r.Header.Set("Cookie", "crumb="+token)
	}
	resp, err := asking.Do(r)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s is answered %s: %s", path, resp.Status, text)
	}
	for _, c := range resp.Cookies() {
		newToken = c.Value
	}
	return strings.TrimSpace(string(text)), newToken, err
}

// A counting is a session of which it is known how many counts were sent and how
// many of them answered.
type counting struct {
	token          string
	sent, answered atomic.Int64
}

func (c *counting) count(a *appProcess) error {
	c.sent.Add(1)
	_, _, err := a.ask("/count", c.token)
	if err == nil {
		c.answered.Add(1)
	}
	return err
}

// A faulty is one engine and the apps on it, of which one or the other is killed.
type faulty struct {
	name string
	raw  string
	db   *servers.Server // nil for SQLite
	apps []*appProcess   // which of them runs at an index changes

	mu    sync.Mutex // guards apps and ended
	all   []*counting
	ended []string // tokens of sessions whose end was acknowledged
	done  chan struct{}
	wait  sync.WaitGroup
}

const faultApps = 3

func newFaulty(ctx context.Context, kind, dir string) (*faulty, error) {
	fy := &faulty{name: servers.Name(kind), raw: filepath.Join(dir, "crumb.db")}
	if kind == "sqlite" {
		fy.name = "SQLite"
	} else {
		var err error
		if fy.db, err = servers.Start(ctx, kind, filepath.Join(dir, kind)); err != nil {
			return nil, err
		}
		fy.raw = fy.db.URL
	}
	for range faultApps {
		a, err := startApp(ctx, fy.raw)
		if err != nil {
			return nil, errors.Join(err, fy.stop())
		}
		fy.apps = append(fy.apps, a)
	}
	return fy, nil
}

func (fy *faulty) stop() error {
	for _, a := range fy.apps {
		a.kill()
	}
	if fy.db != nil {
		return fy.db.Stop()
	}
	return nil
}

func (fy *faulty) app(i int) *appProcess {
	fy.mu.Lock()
	defer fy.mu.Unlock()
	return fy.apps[i%len(fy.apps)]
}

// exactly has 200 clients count 5 times each, through all apps.
func (fy *faulty) exactly() error {
	const clients, each = 200, 5
	_, token, err := fy.app(0).ask("/count", "")
	if err != nil {
		return err
	}
	c := &counting{token: token}
	errs := make([]error, clients)
	var wait sync.WaitGroup
	for i := range clients {
		wait.Go(func() {
			for n := 0; n < each && errs[i] == nil; n++ {
				errs[i] = c.count(fy.app(i))
			}
		})
	}
	wait.Wait()
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		return errs[i]
	}
	body, _, err := fy.app(1).ask("/look", token)
	if want := fmt.Sprint(1 + clients*each); err == nil && body != want {
		err = fmt.Errorf("%s counts were kept of %s", body, want)
	}
	return err
}

// revoked ends tries sessions through one app and asks the two others at once.
func (fy *faulty) revoked(tries int) error {
	const clients = 10
	errs := make([]error, clients)
	var wait sync.WaitGroup
	for i := range clients {
		wait.Go(func() {
			for n := i; n < tries && errs[i] == nil; n += clients {
				errs[i] = fy.revokeOne(n)
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}

func (fy *faulty) revokeOne(n int) error {
	_, token, err := fy.app(n).ask("/signin", "")
	if err != nil {
		return err
	}
	for i := range 2 {
		if body, _, err := fy.app(n+i).ask("/look", token); err != nil || body != "0 ann" {
			return fmt.Errorf("before the end: %q, %w", body, err)
		}
	}
	if _, _, err := fy.app(n+2).ask("/revoke?"+token[:16], ""); err != nil {
		return err
	}
	for i := range 2 {
		if body, _, err := fy.app(n+i).ask("/look", token); err != nil || body != "0" {
			return fmt.Errorf("after the end: %q, %w", body, err)
		}
	}
	return nil
}

// press has clients count and end sessions until release, whatever happens to the
// servers.
func (fy *faulty) press(clients int) error {
	fy.done = make(chan struct{})
	for i := range clients {
		_, token, err := fy.app(i).ask("/count", "")
		if err != nil {
			return err
		}
		c := &counting{token: token}
		c.sent.Store(1)
		c.answered.Store(1)
		fy.all = append(fy.all, c)
		fy.wait.Go(func() {
			for n := i; !fy.over(); n++ {
				_ = c.count(fy.app(n)) // nobody answers while it is down
			}
		})
	}
	for i, path := range []string{"/signout", "/revoke?"} {
		fy.wait.Go(func() {
			for n := i; !fy.over(); n++ {
				fy.endOne(n, path)
			}
		})
	}
	return nil
}

func (fy *faulty) over() bool {
	select {
	case <-fy.done:
		return true
	default:
		return false
	}
}

func (fy *faulty) release() {
	close(fy.done)
	fy.wait.Wait()
}

func (fy *faulty) endOne(n int, path string) {
	_, token, err := fy.app(n).ask("/signin", "")
	if err != nil || token == "" {
		return
	}
	if strings.HasSuffix(path, "?") {
		path += token[:16]
	}
	if _, _, err := fy.app(n+1).ask(path, token); err == nil {
		fy.mu.Lock()
		defer fy.mu.Unlock()
		fy.ended = append(fy.ended, token)
	}
}

func (fy *faulty) answered() (n int64) {
	for _, c := range fy.all {
		n += c.answered.Load()
	}
	return n
}

// more waits until n more counts are answered, and every client was.
func (fy *faulty) more(ctx context.Context, n int64) error {
	from, each := fy.answered(), make([]int64, len(fy.all))
	for i, c := range fy.all {
		each[i] = c.answered.Load()
	}
	served := func() bool {
		for i, c := range fy.all {
			if c.answered.Load() == each[i] {
				return false
			}
		}
		return fy.answered() >= from+n
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !served() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d counts were answered, or none of some session: %w", fy.answered()-from, n, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// look counts the answered counts that are not there, and the ended sessions that
// are. A count that was never sent is an error.
func (fy *faulty) look() (lost, back int64, err error) {
	for _, c := range fy.all {
		body, _, err := fy.app(0).ask("/look", c.token)
		if err != nil {
			return lost, back, err
		}
		var stored int64
		if _, err := fmt.Sscan(body, &stored); err != nil || stored > c.sent.Load() {
			return lost, back, fmt.Errorf("%d counts were sent and %d answered, the session holds %q", c.sent.Load(), c.answered.Load(), body)
		}
		lost += max(0, c.answered.Load()-stored)
	}
	for _, token := range fy.ended {
		body, _, err := fy.app(1).ask("/look", token)
		if err != nil {
			return lost, back, err
		}
		if body != "0" {
			back++
		}
	}
	return lost, back, nil
}

// killApp kills one app after the other amid the load, and starts another.
func (fy *faulty) killApp(ctx context.Context, round int) error {
	fy.app(round).kill()
	a, err := startApp(ctx, fy.raw)
	if err != nil {
		return err
	}
	fy.mu.Lock()
	defer fy.mu.Unlock()
	fy.apps[round%len(fy.apps)] = a
	return nil
}

// killDatabase kills the server amid the load, of a Cluster one primary, and starts
// it again, of a Cluster once a replica has taken over.
func (fy *faulty) killDatabase(ctx context.Context, round int) error {
	if fy.db.Kind != servers.RedisCluster {
		return errors.Join(fy.db.Kill(), fy.db.Restart(ctx))
	}
	primary, err := fy.db.Primary(ctx, fmt.Sprint("any ", round))
	if err != nil {
		return err
	}
	if err := primary.Kill(); err != nil {
		return err
	}
	if err := fy.more(ctx, 1); err != nil {
		return err
	}
	return fy.db.Restart(ctx)
}

// A fault is one that is made over and over.
type fault struct {
	what   string
	kill   func(fy *faulty, ctx context.Context, round int) error
	rounds int
	before func(fy *faulty, ctx context.Context) error // nil for none
	loses  bool                                        // the engine does not promise that answered counts survive it
	undoes bool                                        // nor that ends do
}

// runFault makes a fault amid the load, and puts what came of it into f.
func (fy *faulty) runFault(ctx context.Context, b *bar, ft fault, f *figures) error {
	if ft.before != nil {
		if err := ft.before(fy, ctx); err != nil {
			return err
		}
	}
	if err := fy.press(16); err != nil {
		return err
	}
	for n := range ft.rounds {
		b.at(n, ft.rounds, fy.name+": "+ft.what)
		err := fy.more(ctx, 200)
		if err == nil {
			err = ft.kill(fy, ctx, n)
		}
		if err != nil {
			fy.release()
			return fmt.Errorf("%s: %s: round %d: %w", fy.name, ft.what, n, err)
		}
	}
	err := fy.more(ctx, 200)
	fy.release()
	if err != nil {
		return err
	}
	lost, back, err := fy.look()
	if err != nil {
		return err
	}
	f.add(fy.name+": "+ft.what+": rounds; counts answered, of these lost; ends acknowledged, of these undone",
		"%d; %d, %d; %d, %d", ft.rounds, fy.answered(), lost, len(fy.ended), back)
	if lost > 0 && !ft.loses || back > 0 && !ft.undoes {
		return fmt.Errorf("%s: %s: %d of %d answered counts were lost, %d of %d ends undone", fy.name, ft.what, lost, fy.answered(), back, len(fy.ended))
	}
	fy.all, fy.ended = nil, nil
	return nil
}

// runFaults looks at every engine whose programs are there, and goes on with those
// that it has not finished.
func runFaults(ctx context.Context, r *run, f *figures) (*figures, error) {
	dir := filepath.Join(r.dir, "faults")
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	f.Rows = slices.DeleteFunc(f.Rows, func(r row) bool { return r.Value == leftOut })
	began, earlier := time.Now(), f.Took
	for _, kind := range append([]string{"sqlite"}, servers.Kinds...) {
		if f.Count[kind] > 0 || r.Engine != "" && r.Engine != kind {
			continue
		}
		if kind != "sqlite" && !servers.CanStart(kind) {
			f.add(servers.Name(kind), leftOut)
			continue
		}
		one := &figures{}
		if err := faultsOf(ctx, r, one, kind, dir); err != nil {
			return f, err
		}
		f.Rows = append(f.Rows, one.Rows...)
		f.count(kind, 1)
		f.Took = earlier + time.Since(began).Round(time.Second)
		if err := r.results.keep("faults", f); err != nil {
			return nil, err
		}
	}
	return f, nil
}

const leftOut = "left out: make servers starts one"

func faultsOf(ctx context.Context, r *run, f *figures, kind, dir string) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	fy, err := newFaulty(ctx, kind, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fy.stop()) }()
	times, tries := max(1, r.Faults/10), r.Faults*10
	for n := range times {
		r.bar.at(n, times, fy.name+": counts")
		if err := fy.exactly(); err != nil {
			return fmt.Errorf("%s: counts through %d apps: %w", fy.name, faultApps, err)
		}
	}
	f.add(fy.name+": 200 × 5 counts of one session through three apps: times; kept each time", "%d; 1000 of 1000", times)
	r.bar.at(0, 1, fy.name+": ends")
	if err := fy.revoked(tries); err != nil {
		return fmt.Errorf("%s: ends: %w", fy.name, err)
	}
	f.add(fy.name+": sessions ended through one app and asked for at once at two others; served", "%d; 0", tries)
	faults := []fault{{what: "kill -9 of an app", kill: (*faulty).killApp, rounds: r.Faults}}
	server := fault{what: "kill -9 of the server", kill: (*faulty).killDatabase, rounds: max(1, r.Faults/2)}
	switch kind {
	case "sqlite":
	case servers.Postgres, servers.MySQL:
		faults = append(faults, server)
	case servers.Redis:
		// By default it answers before it has written, if the disk is slow.
		careful := server
		server.loses, server.undoes = true, true
		careful.what += " with appendfsync always"
		careful.before = func(fy *faulty, ctx context.Context) error {
			n := fy.db.Nodes[0]
			n.Args = append(n.Args, "--appendfsync", "always")
			return fy.killDatabase(ctx, 0)
		}
		faults = append(faults, server, careful)
	case servers.RedisCluster:
		// A replica may lack the last changes, but it has confirmed the ends.
		faults = append(faults, fault{what: "kill -9 of a primary", kill: (*faulty).killDatabase, rounds: max(1, r.Faults/5), loses: true})
	}
	for _, ft := range faults {
		if err := fy.runFault(ctx, r.bar, ft, f); err != nil {
			return err
		}
	}
	return nil
}
