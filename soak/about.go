package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crumb-go/crumb/keyring"
	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/sqlite"
	"github.com/crumb-go/crumb/track"
)

// childAbout is an app that tracks as crumb serve does, with a page that writes
// nothing. It prints its address, and ends when its standard input does.
func childAbout(dir string) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	st, err := sqlite.Open(ctx, "sqlite:"+filepath.Join(dir, "crumb.db"), sqlite.Config{})
	if err != nil {
		return err
	}
	defer st.Close()
	m, err := session.NewManager(st, session.Config{Insecure: true})
	if err != nil {
		return err
	}
	keys, err := keyring.Open(filepath.Join(dir, "keys"))
	if err != nil {
		return err
	}
	tables, err := track.OpenTables(ctx, "sqlite:"+filepath.Join(dir, "track.db"), track.TablesConfig{})
	if err != nil {
		return err
	}
	defer tables.Close()
	tracker, err := track.New(track.Config{Sessions: m, Keys: keys, Tables: tables})
	if err != nil {
		return err
	}
	var running sync.WaitGroup
	running.Go(func() { _ = m.Run(ctx) })
	running.Go(func() { _ = tracker.Run(ctx) })
	mux := http.NewServeMux()
	mux.HandleFunc("GET /about", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "a page") })
	mux.HandleFunc("GET /memory", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, residentBytes()) })
	err = serveParent(m.Handler(tracker.Handler(mux)))
	stop()
	running.Wait()
	return errors.Join(err, tracker.Close(context.Background()))
}

// runAbout opens the page over and over as a browser would that keeps no cookie.
func runAbout(ctx context.Context, r *run, f *figures) (*figures, error) {
	dir := filepath.Join(r.dir, "about")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return nil, err
	}
	cmd, err := newChild(ctx, "about", dir)
	if err != nil {
		return nil, err
	}
	in, url, err := startServing(cmd)
	if err != nil {
		return nil, err
	}
	stop := sync.OnceValue(func() error {
		in.Close()
		return cmd.Wait()
	})
	defer stop()
	get := func(path string) (text string, cookies int, err error) {
		q, err := http.NewRequestWithContext(ctx, "GET", url+path, nil)
		if err != nil {
			return "", 0, err
		}
		q.Header.Set("Accept", "text/html")
		q.Header.Set("Sec-Fetch-Mode", "navigate")
		q.Header.Set("Sec-Fetch-Dest", "document")
		resp, err := loginClient.Do(q)
		if err != nil {
			return "", 0, err
		}
		body, err := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s is answered %s", path, resp.Status)
		}
		return strings.TrimSpace(string(body)), len(resp.Cookies()), errors.Join(err, resp.Body.Close())
	}
	memory := func() (float64, error) {
		text, _, err := get("/memory")
		if err != nil {
			return 0, err
		}
		n, err := strconv.ParseFloat(text, 64)
		return n / 1e6, err
	}
	// The memory after each tenth.
	var took []float64
	var sealed atomic.Int64
	began := time.Now()
	for tenth := range 10 {
		var clients sync.WaitGroup
		errs := make([]error, 16)
		for c := range errs {
			clients.Go(func() {
				for i := range r.Views / 10 / len(errs) {
					r.bar.at(tenth*r.Views/10+i*len(errs), r.Views, "requests")
					_, cookies, err := get("/about")
					if err != nil {
						errs[c] = err
						return
					}
					sealed.Add(int64(cookies))
				}
			})
		}
		clients.Wait()
		now, err := memory()
		if err := errors.Join(append(errs, err)...); err != nil {
			return nil, err
		}
		took = append(took, now)
	}
	rate := float64(r.Views) / time.Since(began).Seconds()
	if err := stop(); err != nil {
		return nil, err
	}
	sessions, visitors, err := rowsOf(ctx, dir)
	if err != nil {
		return nil, err
	}
	f.Rows = nil
	f.add("requests for /about without a cookie, and how many answers brought a sealed one", "%d, %d", r.Views/10/16*16*10, sealed.Load())
	f.add("requests/s", "%.0f", rate)
	f.add("rows of sessions, of visitors", "%d, %d", sessions, visitors)
	f.add("memory of the process after each tenth, MB", "%s", strings.Trim(fmt.Sprintf("%.0f", took), "[]"))
	// Flat: the second half needs no more than a tenth beyond the first.
	first, second := slices.Max(took[:5]), slices.Max(took[5:])
	if sessions+visitors > 0 || second > 1.1*first {
		return f, fmt.Errorf("%d sessions and %d visitors were written; the memory went from %.0f to %.0f MB", sessions, visitors, first, second)
	}
	return f, nil
}

// rowsOf counts what childAbout has written.
func rowsOf(ctx context.Context, dir string) (sessions, visitors int, err error) {
	st, err := sqlite.Open(ctx, "sqlite:"+filepath.Join(dir, "crumb.db"), sqlite.Config{})
	if err != nil {
		return 0, 0, err
	}
	defer st.Close()
	m, err := session.NewManager(st, session.Config{Insecure: true})
	if err != nil {
		return 0, 0, err
	}
	for _, err := range m.List(ctx, session.Query{All: true}) {
		if err != nil {
			return 0, 0, err
		}
		sessions++
	}
	tables, err := track.OpenTables(ctx, "sqlite:"+filepath.Join(dir, "track.db"), track.TablesConfig{})
	if err != nil {
		return 0, 0, err
	}
	defer tables.Close()
	totals, err := tables.Totals(ctx, track.Span{From: time.Now().Add(-24 * time.Hour).Truncate(time.Hour), To: time.Now().Add(time.Hour).Truncate(time.Hour), Bots: true})
	return sessions, int(totals.Visitors), err
}
