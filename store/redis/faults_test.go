package redis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/session"
)

// throughProxy opens a store on the shared Redis whose line can be broken.
func throughProxy(t *testing.T) (*Store, *servers.Proxy) {
	t.Helper()
	url, ok := servers.URL(servers.Redis)
	if !ok {
		url = startServer(t, servers.Redis).URL
	}
	p, through, err := servers.ProxyFor(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	prefix := newPrefix()
	direct := openConfig(t, url, Config{KeyPrefix: prefix})
	s := openConfig(t, through, Config{KeyPrefix: prefix})
	_ = direct // empties the prefix when the proxy is gone already
	return s, p
}

// startServer starts a server that no other test uses.
func startServer(t *testing.T, kind string) *servers.Server {
	t.Helper()
	s, err := servers.Start(t.Context(), kind, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// visitor returns the record of a visitor with a counter.
func visitor(id string) *session.Record {
	now := time.Now().UTC().Truncate(time.Microsecond)
	return &session.Record{
		Info:     session.Info{ID: session.ID(id), Created: now, Seen: now, Expires: now.Add(time.Hour)},
		Secret:   session.Hash{1},
		Idle:     time.Hour,
		Absolute: now.Add(24 * time.Hour),
		Values:   session.Values{{Key: "n.n", JSON: []byte("1")}},
	}
}

func add(n int64) *session.Change {
	return &session.Change{Now: time.Now().UTC().Truncate(time.Microsecond), Ops: []session.Op{{Kind: session.OpAdd, Key: "n.n", Delta: n}}}
}

func mustCreate(t *testing.T, s *Store, recs ...*session.Record) {
	t.Helper()
	for _, rec := range recs {
		if err := s.Create(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
	}
}

func mustLoad(t *testing.T, s *Store, id session.ID) *session.Record {
	t.Helper()
	rec, err := s.Load(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func TestACallWithinTheDeadlineWhateverTheServerDoes(t *testing.T) {
	s, p := throughProxy(t)
	rec := visitor("a")
	mustCreate(t, s, rec)
	before := runtime.NumGoroutine()
	p.Hold()
	// The client by itself would keep some for as long as it takes to find out that
	// the connection is dead, which is four seconds.
	const calls, deadline, slack = 4000, 500 * time.Millisecond, 3 * time.Second
	var wg sync.WaitGroup
	took := make([]time.Duration, calls)
	for i := range calls {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			began := time.Now()
			var err error
			if i%2 == 0 {
				_, err = s.Load(ctx, rec.ID)
			} else {
				_, err = s.Update(ctx, rec, add(1))
			}
			if took[i] = time.Since(began); err == nil || errors.Is(err, session.ErrNotFound) {
				t.Errorf("a server that says nothing was understood: %v", err)
			}
		})
	}
	wg.Wait()
	var longest time.Duration
	for _, d := range took {
		longest = max(longest, d)
	}
	if longest > deadline+slack {
		t.Errorf("a call with %s took %s", deadline, longest)
	}
	p.Release()
	eventually(t, 10*time.Second, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Load(ctx, rec.ID); err != nil {
			return err
		}
		if n := runtime.NumGoroutine(); n > before+10 {
			return fmt.Errorf("%d goroutines, %d before", n, before)
		}
		return nil
	})
}

// eventually waits until check returns no error.
func eventually(t *testing.T, patience time.Duration, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("after %s: %v", patience, err)
		}
	}
}

// An answer that is lost after the change was made is told as such, and neither the
// store nor the client makes the change again.
func TestNothingIsAppliedTwice(t *testing.T) {
	s, p := throughProxy(t)
	now := time.Now().UTC().Truncate(time.Microsecond)
	scripts := func(request []byte) bool { return bytes.Contains(request, []byte("EVALSHA")) }
	for name, c := range map[string]struct {
		call func(rec *session.Record) error
		// done says how often the call took effect, from the record then.
		done func(rec *session.Record) int64
	}{
		"an addition": {
			func(rec *session.Record) error { _, err := s.Update(t.Context(), rec, add(1)); return err },
			func(rec *session.Record) int64 { return int64(rec.Values.Get("n.n")[0] - '1') },
		},
		"an addition to a record that is not known": {
			func(rec *session.Record) error {
				_, err := s.Update(t.Context(), &session.Record{Info: rec.Info}, add(1))
				return err
			},
			func(rec *session.Record) int64 { return int64(rec.Values.Get("n.n")[0] - '1') },
		},
		"an end": {
			func(rec *session.Record) error {
				_, err := s.Update(t.Context(), rec, &session.Change{Now: now, End: true})
				return err
			},
			func(rec *session.Record) int64 {
				if !rec.Ended() {
					return 0
				}
				return rec.Version
			},
		},
		"a touch": {
			func(rec *session.Record) error {
				return s.Touch(t.Context(), []session.Touch{{ID: rec.ID, Seen: rec.Seen.Add(time.Second)}})
			},
			func(rec *session.Record) int64 { return rec.Version },
		},
		"a creation": {
			func(rec *session.Record) error {
				other := visitor(string(rec.ID) + "-other")
				err := s.Create(t.Context(), other)
				if again := s.Create(t.Context(), other); !errors.Is(again, session.ErrExists) {
					t.Errorf("the session was not created: %v", again)
				}
				return err
			},
			func(*session.Record) int64 { return 1 },
		},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range 5 {
				rec := visitor(fmt.Sprintf("%s-%d", strings.ReplaceAll(name, " ", "-"), i))
				mustCreate(t, s, rec)
				lost := p.Lost()
				p.LoseAnswers(1, scripts)
				err := c.call(rec)
				if p.Lost() != lost+1 {
					t.Fatalf("%d answers were lost, not 1", p.Lost()-lost)
				}
				if !errors.Is(err, session.ErrUnknown) {
					t.Fatalf("the error after a lost answer is %v", err)
				}
				if n := c.done(mustLoadSoon(t, s, rec.ID)); n != 1 {
					t.Fatalf("the call took effect %d times", n)
				}
			}
		})
	}
}

// mustLoadSoon is mustLoad while the client connects again.
func mustLoadSoon(t *testing.T, s *Store, id session.ID) (rec *session.Record) {
	t.Helper()
	eventually(t, 10*time.Second, func() (err error) {
		rec, err = s.Load(t.Context(), id)
		return err
	})
	return rec
}

func TestAServerThatIsGoneMeansThatNothingHappened(t *testing.T) {
	kind := servers.Redis
	if !servers.CanStart(kind) {
		kind = servers.RedisCluster
	}
	server := startServer(t, kind)
	s, err := Open(t.Context(), server.URL, Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, node := range s.client().Nodes() {
		configure(t, node, "appendfsync", "always") // the record is to survive
	}
	rec := visitor("a")
	mustCreate(t, s, rec)
	for _, n := range server.Nodes {
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	// The first calls may meet connections that break under them.
	eventually(t, 10*time.Second, func() error {
		if _, err := s.Update(t.Context(), rec, add(1)); errors.Is(err, session.ErrUnknown) {
			return err
		}
		return nil
	})
	for name, err := range map[string]error{
		"Create": s.Create(t.Context(), visitor("b")),
		"Load":   second(s.Load(t.Context(), rec.ID)),
		"Update": second(s.Update(t.Context(), rec, add(1))),
		"an end": second(s.Update(t.Context(), rec, &session.Change{Now: rec.Seen, End: true})),
		"Delete": s.Delete(t.Context(), rec.ID),
		"Touch":  s.Touch(t.Context(), []session.Touch{{ID: rec.ID, Seen: rec.Seen}}),
		"Check":  second(s.Check(t.Context(), rec.Seen, []session.ID{rec.ID})),
		"List":   second(s.List(t.Context(), session.Query{All: true, Limit: 1, Now: rec.Seen})),
		"Sweep":  second(s.Sweep(t.Context(), rec.Seen, 10)),
	} {
		if err == nil || errors.Is(err, session.ErrUnknown) || errors.Is(err, session.ErrNotFound) {
			t.Errorf("%s without a server: %v", name, err)
		}
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := mustLoadSoon(t, s, rec.ID); !same(got, rec) {
		t.Errorf("after the restart the record is %+v, not %+v", got, rec)
	}
}

func second[T any](_ T, err error) error { return err }

// A call that is given up never hands its answer to another: every record that
// comes back is the one that was asked for.
func TestACancelledCallKeepsItsAnswer(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		const sessions, workers, each = 20, 16, 300
		s := openNew(t, url)
		for i := range sessions {
			mustCreate(t, s, visitor(fmt.Sprint(i)))
		}
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				for range each {
					id := session.ID(fmt.Sprint(rand.IntN(sessions)))
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(2000))*time.Microsecond)
					rec, err := s.Load(ctx, id)
					cancel()
					switch {
					case err == nil && rec.ID != id:
						t.Errorf("asked for %s, got %s", id, rec.ID)
					case err != nil && !errors.Is(err, context.DeadlineExceeded):
						t.Errorf("Load: %v", err)
					}
				}
			})
		}
		wg.Wait()
	})
}

func TestScriptsAreFlushedAtAnyTime(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s := openNew(t, url)
		rec := visitor("a")
		mustCreate(t, s, rec)
		flush := func() {
			for _, node := range s.client().Nodes() {
				if err := node.Do(t.Context(), node.B().ScriptFlush().Build()).Error(); err != nil {
					t.Error(err)
				}
			}
		}
		const workers, each = 4, 50
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				for i := range each {
					flush()
					if _, err := s.Update(t.Context(), rec, add(1)); err != nil {
						t.Errorf("Update: %v", err)
					}
					other := visitor(fmt.Sprintf("%d-%d", w, i))
					err := errors.Join(s.Create(t.Context(), other),
						s.Touch(t.Context(), []session.Touch{{ID: rec.ID, Seen: rec.Seen}, {ID: other.ID, Seen: other.Seen}}),
						second(s.Update(t.Context(), other, &session.Change{Now: other.Seen, End: true})),
						s.Delete(t.Context(), other.ID))
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if n := string(mustLoad(t, s, rec.ID).Values.Get("n.n")); n != fmt.Sprint(1+workers*each) {
			t.Errorf("1 and %d additions of 1 are %s", workers*each, n)
		}
	})
}

// A failover that loses a change leads to two states of one version: the lost one,
// which a slow request may still know, and the one of the change that came after.
func TestAChangeOfAStateThatAFailoverLostUndoesNothing(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s := openNew(t, url)
		now := time.Now().UTC().Truncate(time.Microsecond).Add(time.Second)
		for name, after := range map[string]struct {
			change func(rec *session.Record) *session.Change
			want   error
		}{
			"an end":    {func(*session.Record) *session.Change { return &session.Change{Now: now, End: true} }, session.ErrNotFound},
			"a sign-in": {func(rec *session.Record) *session.Change { return signIn(rec, "ana") }, session.ErrStale},
			"a renewal": {func(rec *session.Record) *session.Change {
				return &session.Change{Now: now, Auth: rec.Auth, Seen: now, Renew: &session.Renew{From: rec.Secret, To: session.Hash{9}, OldUntil: now}}
			}, nil},
		} {
			t.Run(name, func(t *testing.T) {
				rec := visitor(strings.ReplaceAll(name, " ", "-"))
				mustCreate(t, s, rec)
				goBack := snapshot(t, s, rec.ID)
				lost, err := s.Update(t.Context(), rec, add(1))
				if err != nil {
					t.Fatal(err)
				}
				goBack()
				if _, err := s.Update(t.Context(), rec, after.change(rec)); err != nil {
					t.Fatal(err)
				}
				want := mustLoad(t, s, rec.ID)
				if want.Version != lost.Version {
					t.Fatalf("versions %d and %d, not the same", want.Version, lost.Version)
				}
				_, err = s.Update(t.Context(), lost, &session.Change{Now: now, Auth: lost.Auth, Seen: now})
				if !errors.Is(err, after.want) {
					t.Errorf("a change of the lost state returns %v, not %v", err, after.want)
				}
				got := mustLoad(t, s, rec.ID)
				if got.Ended() != want.Ended() || got.User != want.User || got.Auth != want.Auth || got.Secret != want.Secret || !got.OldUntil.Equal(want.OldUntil) {
					t.Errorf("it made of %+v\n%+v", want, got)
				}
			})
		}
	})
}

// snapshot returns a function that takes a record back to what it is now.
func snapshot(t *testing.T, s *Store, id session.ID) (goBack func()) {
	t.Helper()
	key := s.recordKey(id)
	dump, err := s.client().Do(t.Context(), s.client().B().Dump().Key(key).Build()).ToString()
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := s.client().Do(t.Context(), s.client().B().Restore().Key(key).Ttl(0).SerializedValue(dump).Replace().Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
}
