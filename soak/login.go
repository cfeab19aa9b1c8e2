package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crumb-go/crumb/keyring"
	"github.com/crumb-go/crumb/login"
	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/sqlite"
)

const (
	loginClients  = 8   // that ask for the page
	loginRate     = 200 // of the page, a second
	floodRate     = 400 // tries of names, a second: some twenty times what is hashed
	floodTurn     = 5 * time.Second
	loginPassword = "a password that nobody has guessed"
)

// childLogin is an app with a public page and sign-in, all in one SQLite file. It
// believes what clients say of their address, so that they come from everywhere.
// It prints its address, and ends when its standard input does.
func childLogin(dir string) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	quiet := slog.New(slog.DiscardHandler)
	file := "sqlite:" + filepath.Join(dir, "crumb.db")
	st, err := sqlite.Open(ctx, file, sqlite.Config{Logger: quiet})
	if err != nil {
		return err
	}
	defer st.Close()
	tables, err := login.OpenTables(ctx, file, login.TablesConfig{Logger: quiet})
	if err != nil {
		return err
	}
	defer tables.Close()
	keys, err := keyring.Open(filepath.Join(dir, "keys"))
	if err != nil {
		return err
	}
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	m, err := session.NewManager(st, session.Config{Insecure: true, Logger: quiet, TrustedProxies: loopback})
	if err != nil {
		return err
	}
	accounts, err := login.New(login.Config{Insecure: true, Logger: quiet, Keys: keys, Sessions: m, Tables: tables})
	if err != nil {
		return err
	}
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	running.Go(func() { _ = m.Run(ctx) })
	running.Go(func() { _ = tables.Run(ctx) })
	running.Go(func() { _ = accounts.Run(ctx) })
	mux := http.NewServeMux()
	accounts.Routes(mux.Handle)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, appCount.Add(session.From(r), 1))
	})
	mux.HandleFunc("GET /memory", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, residentBytes()) })
	return serveParent(m.Handler(accounts.Handler(mux)))
}

// addLoginUsers adds users with one password: one of each kind that must not be
// told apart.
func addLoginUsers(ctx context.Context, dir string, times int) error {
	tables, err := login.OpenTables(ctx, "sqlite:"+filepath.Join(dir, "crumb.db"), login.TablesConfig{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer tables.Close()
	hash, err := login.HashPassword(loginPassword, 15)
	if err != nil {
		return err
	}
	for n := range times {
		for _, kind := range []string{"wrong", "disabled", "empty"} {
			name, own := kind+strconv.Itoa(n), hash
			if kind == "empty" {
				own = ""
			}
			u, err := tables.Add(ctx, name, name, own)
			if err == nil && kind == "disabled" {
				_, err = tables.SetDisabled(ctx, u.ID, true)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// A loginApp is childLogin.
type loginApp struct {
	url  string
	stop func() error
}

func startLogin(ctx context.Context, dir string, users int) (*loginApp, error) {
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return nil, err
	}
	if err := addLoginUsers(ctx, dir, users); err != nil {
		return nil, err
	}
	cmd, err := newChild(ctx, "login", dir)
	if err != nil {
		return nil, err
	}
	in, url, err := startServing(cmd)
	if err != nil {
		return nil, err
	}
	return &loginApp{url, sync.OnceValue(func() error {
		in.Close()
		return cmd.Wait()
	})}, nil
}

// loginClient does not follow redirects: that a try was answered is what counts.
var loginClient = &http.Client{
	Timeout:       time.Minute,
	Transport:     &http.Transport{MaxIdleConnsPerHost: floodRate},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// try signs in from an address that nobody else has.
func (a *loginApp) try(ctx context.Context, name, password string, from uint32) (status int, took time.Duration, err error) {
	form := url.Values{"name": {name}, "password": {password}}
	r, err := http.NewRequestWithContext(ctx, "POST", a.url+"/login", strings.NewReader(form.Encode()))
	if err != nil {
		return 0, 0, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	// 11.0.0.0/8: public, and nobody's whom this could reach.
	r.Header.Set("X-Forwarded-For", netip.AddrFrom4([4]byte{11, byte(from >> 16), byte(from >> 8), byte(from)}).String())
	began := time.Now()
	resp, err := loginClient.Do(r)
	if err != nil {
		return 0, 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	took = time.Since(began)
	return resp.StatusCode, took, errors.Join(err, resp.Body.Close())
}

func (a *loginApp) get(ctx context.Context, path, cookie string) (body string, r *http.Response, err error) {
	q, err := http.NewRequestWithContext(ctx, "GET", a.url+path, nil)
	if err != nil {
		return "", nil, err
	}
	if cookie != "" {
		q.Header.Set("Cookie", "crumb="+cookie)
	}
	if r, err = loginClient.Do(q); err != nil {
		return "", nil, err
	}
	text, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s is answered %s", path, r.Status)
	}
	return strings.TrimSpace(string(text)), r, errors.Join(err, r.Body.Close())
}

// runFlood asks for a page at a steady rate, in turns with and without a flood of
// sign-ins over ever new names from ever new addresses.
func runFlood(ctx context.Context, r *run, f *figures) (*figures, error) {
	app, err := startLogin(ctx, filepath.Join(r.dir, "flood"), 1)
	if err != nil {
		return nil, err
	}
	defer app.stop()
	var cookies []string
	for range loginClients {
		_, resp, err := app.get(ctx, "/", "")
		if err != nil {
			return nil, err
		}
		for _, c := range resp.Cookies() {
			cookies = append(cookies, c.Value)
		}
	}
	var names, tried, refused atomic.Int64
	var with99, without99, with50, without50 []float64
	memory := func() (n float64, err error) {
		text, _, err := app.get(ctx, "/memory", "")
		if err == nil {
			n, err = strconv.ParseFloat(text, 64)
		}
		return n / 1e6, err
	}
	before, err := memory()
	if err != nil {
		return nil, err
	}
	most := before
	for turn := range r.Floods {
		r.bar.at(turn, r.Floods, "turns")
		rest, err := app.look(ctx, cookies, floodTurn)
		if err != nil {
			return nil, err
		}
		flooding, stop := context.WithCancel(ctx)
		var flood sync.WaitGroup
		flood.Go(func() {
			pace := time.NewTicker(time.Second / floodRate)
			defer pace.Stop()
			for flooding.Err() == nil {
				<-pace.C
				n := names.Add(1)
				flood.Go(func() {
					status, _, err := app.try(flooding, fmt.Sprintf("somebody%d", n), "a guess of a password", uint32(n))
					if err == nil {
						tried.Add(1)
					}
					if status == http.StatusTooManyRequests {
						refused.Add(1)
					}
				})
			}
		})
		busy, err := app.look(ctx, cookies, floodTurn)
		now, merr := memory()
		stop()
		flood.Wait()
		if err := errors.Join(err, merr); err != nil {
			return nil, err
		}
		most = max(most, now)
		without50, without99 = append(without50, float64(quantile(rest, 0.5))), append(without99, float64(quantile(rest, 0.99)))
		with50, with99 = append(with50, float64(quantile(busy, 0.5))), append(with99, float64(quantile(busy, 0.99)))
	}
	ratio := median(with99) / median(without99)
	f.Rows = nil
	f.add(fmt.Sprintf("sign-ins that were answered, %d/s, of them 429", floodRate), "%d, %d", tried.Load(), refused.Load())
	f.add(fmt.Sprintf("/ without them, p50, p99 (medians of %d turns of %v, %d requests/s)", len(with99), floodTurn, loginRate), "%v, %v", roundish(median(without50)), roundish(median(without99)))
	f.add("/ beside them", "%v, %v", roundish(median(with50)), roundish(median(with99)))
	f.add("p99 beside them, as a multiple of without", "%.2f×", ratio)
	f.add("memory of the process before, and at most, MB", "%.0f, %.0f", before, most)
	if ratio > 2 {
		return f, fmt.Errorf("the p99 of / is %.2f times what it is without the flood", ratio)
	}
	return f, app.stop()
}

// look asks for the page at a steady rate, and returns how long each answer took
// from when it was due.
func (a *loginApp) look(ctx context.Context, cookies []string, d time.Duration) (took []time.Duration, err error) {
	var all sync.WaitGroup
	var mu sync.Mutex
	pause := time.Second * time.Duration(len(cookies)) / loginRate
	for i, cookie := range cookies {
		all.Go(func() {
			due := time.Now().Add(pause * time.Duration(i) / time.Duration(len(cookies)))
			for end := due.Add(d); due.Before(end) && ctx.Err() == nil; due = due.Add(pause) {
				time.Sleep(time.Until(due))
				_, _, e := a.get(ctx, "/", cookie)
				mu.Lock()
				took, err = append(took, time.Since(due)), errors.Join(err, e)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return took, err
}

// runTiming signs in as nobody, with a wrong password, as somebody disabled, and
// as somebody without a password, by turns at random, and compares the times.
func runTiming(ctx context.Context, r *run, f *figures) (*figures, error) {
	app, err := startLogin(ctx, filepath.Join(r.dir, "timing"), r.Tries)
	if err != nil {
		return nil, err
	}
	defer app.stop()
	kinds := []string{"unknown", "wrong", "disabled", "empty"}
	took := map[string][]time.Duration{}
	for n := range r.Tries {
		r.bar.at(n, r.Tries, "tries of each kind")
		for _, i := range rand.Perm(len(kinds)) {
			kind, password := kinds[i], loginPassword
			if kind == "wrong" {
				password = "another password that is no shorter"
			}
			status, d, err := app.try(ctx, kind+strconv.Itoa(n), password, uint32(4*n+i))
			if err != nil {
				return nil, err
			}
			if status != http.StatusUnprocessableEntity {
				return nil, fmt.Errorf("a try as %s was answered %d", kind, status)
			}
			took[kind] = append(took[kind], d)
		}
	}
	f.Rows = nil
	var medians []time.Duration
	for _, kind := range kinds {
		slices.Sort(took[kind])
		m := took[kind][len(took[kind])/2]
		medians = append(medians, m)
		f.add(map[string]string{
			"unknown": "no such name", "wrong": "wrong password", "disabled": "disabled, right password", "empty": "no password is set",
		}[kind]+fmt.Sprintf(": median of %d", len(took[kind])), "%v", m.Round(10*time.Microsecond))
	}
	spread := float64(slices.Max(medians))/float64(slices.Min(medians)) - 1
	f.add("the longest over the shortest median", "%.2f %%", 100*spread)
	if spread > 0.05 {
		return f, fmt.Errorf("the medians are %.1f %% apart", 100*spread)
	}
	return f, app.stop()
}
