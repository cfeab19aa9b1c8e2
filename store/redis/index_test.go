package redis

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/crumb-go/crumb/session"
)

// of returns the record of a session of a user.
func of(id, user string) *session.Record {
	rec := visitor(id)
	rec.User, rec.SignedIn, rec.Auth = user, rec.Created, 1
	return rec
}

func signIn(rec *session.Record, user string) *session.Change {
	return &session.Change{
		Now:    rec.Seen,
		Auth:   rec.Auth,
		Seen:   rec.Seen,
		SignIn: &session.SignIn{User: user, At: rec.Seen, Idle: 30 * time.Minute, Absolute: rec.Seen.Add(12 * time.Hour)},
		Renew:  &session.Renew{From: rec.Secret, To: session.Hash{2}, OldUntil: rec.Seen},
	}
}

// listed returns the IDs of a list, sorted.
func listed(t *testing.T, s *Store, q session.Query) (ids []string) {
	t.Helper()
	q.Limit = 1000
	if q.Now.IsZero() {
		q.Now = time.Now().UTC()
	}
	infos, err := s.List(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range infos {
		ids = append(ids, string(in.ID))
	}
	slices.Sort(ids)
	return ids
}

func mustList(t *testing.T, s *Store, q session.Query, want ...string) {
	t.Helper()
	if got := listed(t, s, q); !slices.Equal(got, want) {
		t.Fatalf("listed for %+v are %v, not %v", q, got, want)
	}
}

// entries returns how many entries all indexes hold together.
func entries(t *testing.T, s *Store, users ...string) (n int64) {
	t.Helper()
	keys := []string{}
	for shard := range uint32(shards) {
		keys = append(keys, s.allKey(shard), s.dueKey(shard))
	}
	for _, user := range users {
		keys = append(keys, s.userKey(user))
	}
	for _, key := range keys {
		got, err := s.client().Do(t.Context(), s.client().B().Zcard().Key(key).Build()).AsInt64()
		if err != nil {
			t.Fatal(err)
		}
		n += got
	}
	return n
}

// readers are all that may prune an index, long after and long before.
func readers(t *testing.T, s *Store, user string) {
	t.Helper()
	now := time.Now().UTC()
	for _, at := range []time.Time{now.Add(-skew), now, now.Add(skew)} {
		listed(t, s, session.Query{User: user, Now: at})
		listed(t, s, session.Query{All: true, Now: at})
	}
	if _, err := s.Sweep(t.Context(), now.Add(-skew), 1000); err != nil {
		t.Fatal(err)
	}
	other := of("reader", user)
	mustCreate(t, s, other)
	if _, err := s.Update(t.Context(), other, &session.Change{Now: now, End: true}); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), other.ID); err != nil {
		t.Fatal(err)
	}
}

func TestAnIndexEntryOutlivesReadersUntilItsRecordIsWritten(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		t.Run("a new session of a user", func(t *testing.T) {
			s := openNew(t, url)
			rec := of("a", "ana")
			if err := s.enter(t.Context(), rec); err != nil {
				t.Fatal(err)
			}
			readers(t, s, "ana")
			var e encoder
			if _, err := s.run(t.Context(), createScript, s.recordKey(rec.ID), append([]string{e.text(rec.Expires)}, e.encode(rec)...)...); err != nil {
				t.Fatal(err)
			}
			mustList(t, s, session.Query{User: "ana"}, "a")
			mustList(t, s, session.Query{All: true}, "a")
		})
		t.Run("a sign-in", func(t *testing.T) {
			s := openNew(t, url)
			rec := visitor("a")
			mustCreate(t, s, rec)
			c := signIn(rec, "ana")
			if err := s.underUser(t.Context(), "ana", rec.ID, c.SignIn.Absolute, c.Now); err != nil {
				t.Fatal(err)
			}
			readers(t, s, "ana")
			if _, err := s.Update(t.Context(), rec, c); err != nil {
				t.Fatal(err)
			}
			mustList(t, s, session.Query{User: "ana"}, "a")
		})
	})
}

func TestACrashBetweenRecordAndIndexLeavesAnEntryThatIsSkippedAndPruned(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		now := time.Now().UTC().Truncate(time.Microsecond)
		t.Run("before the record is created", func(t *testing.T) {
			s := openNew(t, url)
			rec := of("a", "ana")
			rec.Expires, rec.Absolute = now.Add(-2*skew), now.Add(-2*skew)
			if err := s.enter(t.Context(), rec); err != nil {
				t.Fatal(err)
			}
			mustList(t, s, session.Query{User: "ana"})
			mustList(t, s, session.Query{All: true})
			if n, err := s.Sweep(t.Context(), now.Add(-skew), 10); n != 1 || err != nil {
				t.Fatalf("Sweep: %d, %v", n, err)
			}
			mustCreate(t, s, of("b", "ana"))
			if n := entries(t, s, "ana"); n != 3 {
				t.Errorf("the indexes hold %d entries, not the 3 of the other session", n)
			}
		})
		t.Run("after the record has ended", func(t *testing.T) {
			s := openNew(t, url)
			mustCreate(t, s, of("a", "ana"))
			var e encoder
			if _, err := s.runSurely(t.Context(), endScript, s.recordKey("a"), e.text(now)); err != nil {
				t.Fatal(err)
			}
			mustList(t, s, session.Query{User: "ana"})
			mustList(t, s, session.Query{All: true})
			// It stays as long as the record that ended.
			if _, err := s.Sweep(t.Context(), now.Add(30*time.Hour), 10); err != nil {
				t.Fatal(err)
			}
			if n := entries(t, s); n != 0 {
				t.Errorf("the indexes hold %d entries", n)
			}
		})
		t.Run("before a sign-in", func(t *testing.T) {
			s := openNew(t, url)
			rec := visitor("a")
			mustCreate(t, s, rec)
			c := signIn(rec, "ana")
			if err := s.underUser(t.Context(), "ana", rec.ID, c.SignIn.Absolute, c.Now); err != nil {
				t.Fatal(err)
			}
			mustList(t, s, session.Query{User: "ana"})
			mustList(t, s, session.Query{All: true}, "a")
		})
		t.Run("after a sign-in", func(t *testing.T) {
			s := openNew(t, url)
			rec := visitor("a")
			mustCreate(t, s, rec)
			var e encoder
			c := signIn(rec, "ana")
			if _, err := s.run(t.Context(), updateScript, s.recordKey(rec.ID), e.update(nil, nil, c)...); err != nil {
				t.Fatal(err)
			}
			// It is swept when it would have expired without the sign-in.
			if n, err := s.Sweep(t.Context(), rec.Expires, 10); n != 1 || err != nil {
				t.Fatalf("Sweep: %d, %v", n, err)
			}
			if n := entries(t, s); n != 0 {
				t.Errorf("the indexes hold %d entries", n)
			}
		})
	})
}

// Of two who create one session the second fails, whatever order they come in, and
// leaves an entry that is none of a session.
func TestWhoeverCreatesASessionSecondDoesNotMoveIt(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s := openNew(t, url)
		first, second, between := visitor("a"), visitor("a"), visitor("b")
		second.Created = first.Created.Add(-2 * time.Second)
		between.Created = first.Created.Add(-time.Second)
		if err := s.enter(t.Context(), second); err != nil {
			t.Fatal(err)
		}
		mustCreate(t, s, first, between)
		if err := s.Create(t.Context(), second); !errors.Is(err, session.ErrExists) {
			t.Fatalf("Create: %v", err)
		}
		var got []session.ID
		for q := (session.Query{All: true, Limit: 1, Now: first.Created}); ; {
			infos, err := s.List(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			if len(infos) == 0 {
				break
			}
			got = append(got, infos[0].ID)
			q.After = &infos[0]
		}
		if !slices.Equal(got, []session.ID{"a", "b"}) {
			t.Errorf("page by page %v are listed", got)
		}
		if n, err := s.Sweep(t.Context(), first.Expires.Add(time.Hour), 10); n != 3 || err != nil {
			t.Errorf("Sweep: %d, %v", n, err)
		}
		if n := entries(t, s); n != 0 {
			t.Errorf("the indexes hold %d entries", n)
		}
	})
}

func TestASignInBesideOneWithAShorterLimitKeepsTheLongerInTheIndex(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s := openNew(t, url)
		rec := visitor("a")
		mustCreate(t, s, rec)
		long, short := signIn(rec, "ana"), signIn(rec, "ana")
		long.SignIn.Absolute, long.SignIn.Idle = rec.Seen.Add(30*24*time.Hour), 30*24*time.Hour
		signed, err := s.Update(t.Context(), rec, long)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Update(t.Context(), rec, short); !errors.Is(err, session.ErrStale) {
			t.Fatalf("a second sign-in: %v", err)
		}
		mustList(t, s, session.Query{User: "ana", Now: rec.Seen.Add(20 * 24 * time.Hour)}, "a")
		if n, err := s.Sweep(t.Context(), rec.Seen.Add(20*24*time.Hour), 10); n != 0 || err != nil {
			t.Fatalf("Sweep: %d, %v", n, err)
		}
		if !same(mustLoad(t, s, rec.ID), signed) {
			t.Error("the session is gone")
		}
	})
}

// The index of a user forgets sessions a hundred at a time, and itself after the
// last of them.
func TestTheIndexOfAUserStaysSmallAndVanishes(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s := openNew(t, url)
		now := time.Now().UTC().Truncate(time.Microsecond)
		old := now.Add(-2 * skew)
		for i := range 250 {
			// Written long ago, so not pruned by each other.
			if err := s.underUser(t.Context(), "ana", session.ID(fmt.Sprint("old", i)), old, old.Add(-24*time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		// Redis drops the whole index by itself, for all in it has expired.
		exists := func() int64 {
			n, err := s.client().Do(t.Context(), s.client().B().Exists().Key(s.userKey("ana")).Build()).AsInt64()
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		if exists() != 0 {
			t.Error("an index of sessions that have all expired is there")
		}
		late := of("late", "ana")
		late.Absolute = now.Add(48 * time.Hour)
		mustCreate(t, s, late)
		for i := range 250 {
			if err := s.underUser(t.Context(), "ana", session.ID(fmt.Sprint("old", i)), old, old.Add(-24*time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		for i, want := range []int64{152, 53, 4, 5} {
			mustCreate(t, s, of(fmt.Sprint("new", i), "ana"))
			n, err := s.client().Do(t.Context(), s.client().B().Zcard().Key(s.userKey("ana")).Build()).AsInt64()
			if err != nil || n != want {
				t.Fatalf("after %d sign-ins the index holds %d entries, not %d (%v)", i+1, n, want, err)
			}
		}
		ttl, err := s.client().Do(t.Context(), s.client().B().Pttl().Key(s.userKey("ana")).Build()).AsInt64()
		if lasts := time.Duration(ttl) * time.Millisecond; err != nil || lasts < 48*time.Hour || lasts > 50*time.Hour {
			t.Errorf("the index lasts %s, its last session 48 hours (%v)", lasts, err)
		}
	})
}

// A revocation of all of a user's sessions beside sign-ins, renewals and other
// revocations: once all have been answered, one more finds and ends what is left,
// and nothing lives that no list knows.
func TestARevocationMissesNobody(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		const rounds, visitors = 5, 12
		s := openNew(t, url)
		m, err := session.NewManager(s, session.Config{Insecure: true})
		if err != nil {
			t.Fatal(err)
		}
		for round := range rounds {
			user := fmt.Sprint("user", round)
			recs := make([]*session.Record, visitors)
			for i := range recs {
				recs[i] = visitor(fmt.Sprintf("%d-%d", round, i))
			}
			mustCreate(t, s, recs...)
			var wg sync.WaitGroup
			for i, rec := range recs {
				wg.Go(func() {
					signed, err := s.Update(t.Context(), rec, signIn(rec, user))
					if err != nil {
						t.Errorf("a sign-in: %v", err)
						return
					}
					if i%2 == 0 {
						renew := &session.Change{Now: rec.Seen, Auth: 1, Renew: &session.Renew{From: signed.Secret, To: session.Hash{3}, OldUntil: signed.Absolute}}
						if _, err := s.Update(t.Context(), signed, renew); err != nil && !errors.Is(err, session.ErrNotFound) {
							t.Errorf("a renewal: %v", err)
						}
					}
				})
				if i%4 == 0 {
					wg.Go(func() {
						if _, err := m.RevokeUser(t.Context(), user); err != nil {
							t.Errorf("RevokeUser: %v", err)
						}
					})
				}
			}
			wg.Wait()
			if _, err := m.RevokeUser(t.Context(), user); err != nil {
				t.Fatal(err)
			}
			for _, rec := range recs {
				if got := mustLoad(t, s, rec.ID); !got.Ended() {
					t.Fatalf("after RevokeUser a session lives: %+v", got)
				}
			}
			mustList(t, s, session.Query{User: user})
		}
	})
}

// A list of all goes on where sessions were created at the same moment in one shard,
// more of them than a page holds.
func TestPagesOfSessionsOfOneMoment(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		const n = 60
		s := openNew(t, url)
		at := time.Now().UTC().Truncate(time.Microsecond)
		var want []session.ID
		for i := 0; len(want) < n; i++ {
			rec := visitor(fmt.Sprintf("%04d", i))
			if rec.Created = at; shardOf(rec.ID) != 3 {
				continue
			}
			mustCreate(t, s, rec)
			want = append(want, rec.ID)
		}
		var got []session.ID
		q := session.Query{All: true, Limit: 7, Now: at}
		for range n {
			infos, err := s.List(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			for _, in := range infos {
				got = append(got, in.ID)
			}
			if len(infos) < q.Limit {
				break
			}
			q.After = &infos[len(infos)-1]
		}
		if !slices.Equal(got, want) {
			t.Errorf("listed were %v, not %v", got, want)
		}
	})
}

// A sweep leaves nothing in the indexes of what Redis has dropped by itself, counts
// it, and leaves those alone who were seen meanwhile.
func TestASweepPrunesWhatRedisDropped(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		const n = 40
		s := openNew(t, url)
		for i := range n {
			mustCreate(t, s, visitor(fmt.Sprint(i)))
		}
		kept := visitor("kept")
		mustCreate(t, s, kept)
		seen := kept.Seen.Add(50 * time.Minute)
		if err := s.Touch(t.Context(), []session.Touch{{ID: kept.ID, Seen: seen}}); err != nil {
			t.Fatal(err)
		}
		for i := range n / 2 { // as if the hour after their expiry had passed
			key := s.recordKey(session.ID(fmt.Sprint(i)))
			if err := s.client().Do(t.Context(), s.client().B().Pexpire().Key(key).Milliseconds(0).Build()).Error(); err != nil {
				t.Fatal(err)
			}
		}
		then := kept.Expires.Add(time.Second)
		if got, err := s.Sweep(t.Context(), then, 1000); got != n || err != nil {
			t.Fatalf("Sweep: %d, %v; want %d", got, err, n)
		}
		if got := entries(t, s); got != 2 {
			t.Errorf("the indexes hold %d entries, not the 2 of the session that was seen", got)
		}
		if got, err := s.Sweep(t.Context(), seen.Add(time.Hour), 1000); got != 1 || err != nil {
			t.Errorf("a sweep when the last session has expired: %d, %v", got, err)
		}
	})
}
