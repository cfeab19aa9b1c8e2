package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/session"
)

// needs ends the test, with a note, on a machine that cannot start a server of the
// kind: make servers says how.
func needs(t *testing.T, kind string) bool {
	t.Helper()
	if servers.CanStart(kind) {
		return true
	}
	t.Log(servers.LeftOut([]string{kind}))
	return false
}

func configure(t *testing.T, client rueidis.Client, pairs ...string) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if err := client.Do(t.Context(), client.B().ConfigSet().ParameterValue().ParameterValue(pairs[i], pairs[i+1]).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
}

// openAlone opens a store on a Redis that no other test uses.
func openAlone(t *testing.T) (s *Store, url string) {
	t.Helper()
	url = startServer(t, servers.Redis).URL
	s, err := Open(t.Context(), url, Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, url
}

func TestAServerThatDropsSessionsOfItsOwnChoiceIsRefused(t *testing.T) {
	if !needs(t, servers.Redis) {
		return
	}
	s, url := openAlone(t)
	for _, policy := range []string{"allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl"} {
		configure(t, s.client(), "maxmemory-policy", policy)
		_, err := Open(t.Context(), url, Config{})
		if err == nil || !strings.Contains(err.Error(), policy) || !strings.Contains(err.Error(), "noeviction") {
			t.Errorf("Open with maxmemory-policy %s: %v", policy, err)
		}
	}
	configure(t, s.client(), "maxmemory-policy", "noeviction")
	st, err := New(t.Context(), s.client(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Load(t.Context(), "a"); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("after the Close of a store over somebody else's client: %v", err)
	}
}

func TestWithoutMemorySessionsStillEnd(t *testing.T) {
	if !needs(t, servers.Redis) {
		return
	}
	s, _ := openAlone(t)
	rec, other := visitor("a"), visitor("b")
	mustCreate(t, s, rec, other)
	configure(t, s.client(), "maxmemory", "1")
	for name, err := range map[string]error{
		"Create": s.Create(t.Context(), visitor("c")),
		"Update": second(s.Update(t.Context(), rec, add(1))),
		"Touch":  s.Touch(t.Context(), []session.Touch{{ID: rec.ID, Seen: rec.Seen.Add(time.Second)}}),
	} {
		if err == nil || errors.Is(err, session.ErrUnknown) || !strings.Contains(err.Error(), "OOM") {
			t.Errorf("%s without memory: %v", name, err)
		}
	}
	if got := mustLoad(t, s, rec.ID); !same(got, rec) {
		t.Errorf("what was refused changed the record to %+v", got)
	}
	if _, err := s.Update(t.Context(), rec, &session.Change{Now: rec.Seen, End: true}); err != nil {
		t.Errorf("a sign-out without memory: %v", err)
	}
	if err := s.Delete(t.Context(), other.ID); err != nil {
		t.Errorf("Delete without memory: %v", err)
	}
	if got := mustLoad(t, s, rec.ID); !got.Ended() {
		t.Errorf("the session has not ended: %+v", got)
	}
}

// A record that a newer program wrote signs nobody out and is left alone.
func TestARecordInAnotherFormatIsAnError(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s := openNew(t, url)
		rec, other := of("a", "ana"), of("b", "ana")
		mustCreate(t, s, rec, other)
		var e encoder
		newer := "2" + strings.TrimPrefix(e.facts(rec), "1") + " and more"
		if err := s.client().Do(t.Context(), s.client().B().Hset().Key(s.recordKey(rec.ID)).FieldValue().FieldValue(factsField, newer).Build()).Error(); err != nil {
			t.Fatal(err)
		}
		now := rec.Seen.Add(time.Second)
		end := &session.Change{Now: now, End: true}
		for name, err := range map[string]error{
			"Load":                  second(s.Load(t.Context(), rec.ID)),
			"Update":                second(s.Update(t.Context(), rec, add(1))),
			"Update without a base": second(s.Update(t.Context(), &session.Record{Info: rec.Info}, add(1))),
			"an end":                second(s.Update(t.Context(), rec, end)),
			"List":                  second(s.List(t.Context(), session.Query{User: "ana", Limit: 9, Now: now})),
			"List of all":           second(s.List(t.Context(), session.Query{All: true, Limit: 9, Now: now})),
		} {
			if err == nil || errors.Is(err, session.ErrNotFound) || errors.Is(err, session.ErrUnknown) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := s.Touch(t.Context(), []session.Touch{{ID: rec.ID, Seen: now}, {ID: other.ID, Seen: now}}); err != nil {
			t.Errorf("Touch: %v", err)
		}
		live, err := s.Check(t.Context(), now, []session.ID{rec.ID, other.ID})
		if len(live) != 1 || live[other.ID] != 1 || err != nil {
			t.Errorf("Check says %v, %v, not the other one", live, err)
		}
		if n, err := s.Sweep(t.Context(), now.Add(24*time.Hour), 10); n != 1 || err != nil {
			t.Errorf("Sweep: %d, %v; want the other one", n, err)
		}
		facts, err := s.client().Do(t.Context(), s.client().B().Hget().Key(s.recordKey(rec.ID)).Field(factsField).Build()).ToString()
		if err != nil || facts != newer {
			t.Errorf("the record is now %q, %v", facts, err)
		}
	})
}

// A change that was made to a record that then turns out to be broken is not taken for
// one that was not made.
func TestAChangeOfABrokenRecordIsOfUnknownOutcome(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s := openNew(t, url)
		bare := func(rec *session.Record) *session.Record { return &session.Record{Info: session.Info{ID: rec.ID}} }
		for name, test := range map[string]struct {
			change  func(rec *session.Record) *session.Change
			version string // that is stored then
			unknown bool
		}{
			"an addition":         {func(*session.Record) *session.Change { return add(1) }, "1", true},
			"an end":              {func(rec *session.Record) *session.Change { return &session.Change{Now: rec.Seen, End: true} }, "1", true},
			"one that is refused": {func(*session.Record) *session.Change { return &session.Change{Now: time.Now(), Auth: 7} }, "0", false},
		} {
			rec := visitor(strings.ReplaceAll(name, " ", "-"))
			mustCreate(t, s, rec)
			key := s.recordKey(rec.ID)
			if err := s.client().Do(t.Context(), s.client().B().Hset().Key(key).FieldValue().FieldValue(addrField, "nowhere").Build()).Error(); err != nil {
				t.Fatal(err)
			}
			_, err := s.Update(t.Context(), bare(rec), test.change(rec))
			facts, _ := s.client().Do(t.Context(), s.client().B().Hget().Key(key).Field(factsField).Build()).ToString()
			if err == nil || errors.Is(err, session.ErrUnknown) != test.unknown || strings.Split(facts, " ")[1] != test.version {
				t.Errorf("%s: %v, and the facts are %q", name, err, facts)
			}
		}
	})
}

// replicaOf returns the node of the cluster that follows primary.
func replicaOf(t *testing.T, cluster *servers.Server, primary *servers.Node) *servers.Node {
	t.Helper()
	_, port, err := net.SplitHostPort(primary.Addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range cluster.Nodes {
		info, err := serverInfo(t.Context(), connect(t, n))
		if err != nil {
			t.Fatal(err)
		}
		if info["role"] == "slave" && info["master_port"] == port {
			return n
		}
	}
	t.Fatalf("nobody follows %s", primary.Addr)
	return nil
}

// connect returns a client of one node alone.
func connect(t *testing.T, n *servers.Node) rueidis.Client {
	t.Helper()
	opt, err := parseURL("redis://" + n.Addr)
	if err != nil {
		t.Fatal(err)
	}
	client, err := rueidis.NewClient(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// Once an end is acknowledged the replica has it: if it takes over that moment the
// session stays ended.
func TestAnAcknowledgedEndIsOnTheReplica(t *testing.T) {
	if !needs(t, servers.RedisCluster) {
		return
	}
	cluster := startServer(t, servers.RedisCluster)
	s, err := Open(t.Context(), cluster.URL, Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const n = 100
	for i := range n {
		rec := of(fmt.Sprint(i), "ana")
		mustCreate(t, s, rec)
	}
	primary, err := cluster.Primary(t.Context(), s.recordKey("0"))
	if err != nil {
		t.Fatal(err)
	}
	replica := connect(t, replicaOf(t, cluster, primary))
	for i := range n {
		id := session.ID(fmt.Sprint(i))
		gone := i%2 == 1
		var err error
		if gone {
			err = s.Delete(t.Context(), id)
		} else {
			_, err = s.Update(t.Context(), &session.Record{Info: session.Info{ID: id}}, &session.Change{Now: time.Now().UTC(), End: true})
		}
		if err != nil {
			t.Fatal(err)
		}
		res := replica.DoMulti(t.Context(), replica.B().Readonly().Build(), replica.B().Hget().Key(s.recordKey(id)).Field(factsField).Build())
		facts, err := res[1].ToString()
		if re, ok := rueidis.IsRedisErr(err); ok && strings.HasPrefix(re.Error(), "MOVED") {
			continue // another replica has it
		}
		switch {
		case rueidis.IsRedisNil(err):
			if !gone {
				t.Fatalf("the replica does not have session %s", id)
			}
		case err != nil:
			t.Fatal(err)
		case gone || strings.Split(facts, " ")[5] != "0":
			t.Fatalf("on the replica session %s lives: %s", id, facts)
		}
	}
}

// An end that a replica does not confirm holds on the primary and is not
// acknowledged, nor is one that finds it made; once the replica goes on it is.
func TestAnEndThatAReplicaDoesNotConfirmIsNotAcknowledged(t *testing.T) {
	if !needs(t, servers.RedisCluster) {
		return
	}
	cluster := startServer(t, servers.RedisCluster)
	const wait = 100 * time.Millisecond
	open := func() (*Store, *session.Manager) {
		s := openConfig(t, cluster.URL, Config{ReplicaWait: wait})
		m, err := session.NewManager(s, session.Config{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return s, m
	}
	s, m := open()
	// All in one slot, and so on one primary.
	signedOut, deleted, revoked, others := of("{x}out", "ana"), of("{x}gone", "ben"), of("{x}one", "cem"), of("{x}all", "dan")
	mustCreate(t, s, signedOut, deleted, revoked, others)
	primary, err := cluster.Primary(t.Context(), s.recordKey(signedOut.ID))
	if err != nil {
		t.Fatal(err)
	}
	replica := replicaOf(t, cluster, primary)
	ends := map[string]func(s *Store, m *session.Manager) error{
		"an end": func(s *Store, _ *session.Manager) error {
			_, err := s.Update(t.Context(), signedOut, &session.Change{Now: signedOut.Seen, End: true})
			return err
		},
		"a deletion":   func(s *Store, _ *session.Manager) error { return s.Delete(t.Context(), deleted.ID) },
		"a revocation": func(_ *Store, m *session.Manager) error { return m.Revoke(t.Context(), revoked.ID) },
		"a revocation of all of a user": func(_ *Store, m *session.Manager) error {
			_, err := m.RevokeUser(t.Context(), "dan")
			return err
		},
	}
	if err := replica.Pause(); err != nil {
		t.Fatal(err)
	}
	paused := true
	defer func() {
		if paused {
			replica.Resume()
		}
	}()
	for _, when := range []string{"at first", "once more"} {
		for name, end := range ends {
			before := writes(t, primary)
			began := time.Now()
			err := end(s, m)
			if took := time.Since(began); !errors.Is(err, session.ErrUnknown) || !strings.Contains(err.Error(), "0 of 1 replicas") || took < wait {
				t.Errorf("%s %s, with a replica that is stopped, returns %v after %s", name, when, err, took)
			}
			// Newer servers have WAIT wait for writes alone.
			if writes(t, primary) == before {
				t.Errorf("%s %s writes nothing that a replica could confirm", name, when)
			}
		}
		s, m = open() // whoever tries again may be another process
	}
	for _, rec := range []*session.Record{signedOut, revoked, others} {
		if got := mustLoad(t, s, rec.ID); !got.Ended() {
			t.Errorf("on the primary session %s has not ended: %+v", rec.ID, got)
		}
	}
	if _, err := m.RevokeAll(t.Context()); !errors.Is(err, session.ErrUnknown) {
		t.Errorf("a revocation of all, with ends that are not confirmed, returns %v", err)
	}
	paused = false
	if err := replica.Resume(); err != nil {
		t.Fatal(err)
	}
	for name, end := range ends {
		eventually(t, 10*time.Second, func() error {
			if err := end(s, m); err != nil && !errors.Is(err, session.ErrNotFound) {
				return fmt.Errorf("%s, with the replica back: %w", name, err)
			}
			return nil
		})
	}
	follower := connect(t, replica)
	for _, rec := range []*session.Record{signedOut, deleted, revoked, others} {
		res := follower.DoMulti(t.Context(), follower.B().Readonly().Build(), follower.B().Hget().Key(s.recordKey(rec.ID)).Field(factsField).Build())
		if facts, err := res[1].ToString(); err == nil && strings.Split(facts, " ")[5] != "0" || err != nil && !rueidis.IsRedisNil(err) {
			t.Errorf("on the replica session %s is %q, %v", rec.ID, facts, err)
		}
	}
	if _, err := m.RevokeAll(t.Context()); err != nil {
		t.Errorf("a revocation of all once the ends are confirmed returns %v", err)
	}
}

// A session is signed in, in a Cluster, only once the replicas list it under its user:
// the record may be on another node, and live on where a failover loses the list.
func TestASignInWaitsForTheReplicasOfTheList(t *testing.T) {
	if !needs(t, servers.RedisCluster) {
		return
	}
	cluster := startServer(t, servers.RedisCluster)
	s := openConfig(t, cluster.URL, Config{ReplicaWait: 100 * time.Millisecond})
	key := s.userKey("ana")
	primary, err := cluster.Primary(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	// Records on other nodes.
	var ids []session.ID
	for i := 0; len(ids) < 2; i++ {
		id := session.ID(fmt.Sprint(i))
		if n, err := cluster.Primary(t.Context(), s.recordKey(id)); err != nil {
			t.Fatal(err)
		} else if n != primary {
			ids = append(ids, id)
		}
	}
	stays, signed := visitor(string(ids[0])), of(string(ids[1]), "ana")
	mustCreate(t, s, stays)
	create := func() error { return s.Create(t.Context(), signed) }
	in := func() error { return second(s.Update(t.Context(), stays, signIn(stays, "ana"))) }
	replica := replicaOf(t, cluster, primary)
	if err := replica.Pause(); err != nil {
		t.Fatal(err)
	}
	resume := sync.OnceValue(replica.Resume)
	defer resume()
	for name, call := range map[string]func() error{"Create": create, "a sign-in": in} {
		if err := call(); err == nil || errors.Is(err, session.ErrUnknown) || !strings.Contains(err.Error(), "0 of 1 replicas") {
			t.Errorf("%s that the replica does not list: %v", name, err)
		}
	}
	if _, err := s.Load(t.Context(), signed.ID); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("the session that was not created: %v", err)
	}
	if got := mustLoad(t, s, stays.ID); !same(got, stays) {
		t.Errorf("the session that was not signed in is %+v", got)
	}
	if err := resume(); err != nil {
		t.Fatal(err)
	}
	for _, call := range []func() error{create, in} {
		eventually(t, 10*time.Second, call)
	}
	follower := connect(t, replica)
	for _, id := range ids {
		res := follower.DoMulti(t.Context(), follower.B().Readonly().Build(), follower.B().Zscore().Key(key).Member(string(id)).Build())
		if score, err := res[1].ToString(); err != nil || score == "" {
			t.Errorf("the replica does not list session %s: %q, %v", id, score, err)
		}
	}
}

// writes returns how many changes a node has made.
func writes(t *testing.T, n *servers.Node) string {
	t.Helper()
	info, err := serverInfo(t.Context(), connect(t, n))
	if err != nil {
		t.Fatal(err)
	}
	return info["rdb_changes_since_last_save"]
}

// A primary is killed under load and its replica takes over. No end that was
// acknowledged is lost, and the store finds its way to the new primary.
func TestAFailoverLosesNoAcknowledgedEnd(t *testing.T) {
	if !needs(t, servers.RedisCluster) {
		return
	}
	cluster := startServer(t, servers.RedisCluster)
	s, err := Open(t.Context(), cluster.URL, Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const n, workers, before = 3000, 8, 300
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				if err := s.Create(t.Context(), visitor(fmt.Sprint(i))); err != nil {
					t.Errorf("Create: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	primary, err := cluster.Primary(t.Context(), s.recordKey("0"))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	ended := map[session.ID]bool{}
	enough := make(chan struct{})
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				id := session.ID(fmt.Sprint(i))
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				_, err := s.Update(ctx, &session.Record{Info: session.Info{ID: id}}, &session.Change{Now: time.Now().UTC(), End: true})
				cancel()
				if err != nil {
					continue
				}
				mu.Lock()
				if ended[id] = true; len(ended) == before {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	<-enough
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	eventually(t, 30*time.Second, func() error {
		_, err := s.Load(t.Context(), "0")
		return err
	})
	lost := 0
	for id := range ended {
		eventually(t, 10*time.Second, func() error {
			rec, err := s.Load(t.Context(), id)
			if errors.Is(err, session.ErrNotFound) || err == nil && !rec.Ended() {
				lost++
				return nil
			}
			return err
		})
	}
	t.Logf("%d ends were acknowledged, %d of them lost in the failover", len(ended), lost)
	if lost > 0 {
		t.Errorf("%d of %d acknowledged ends are lost", lost, len(ended))
	}
	// And on the new primary sessions end too.
	rec := visitor("0-after")
	eventually(t, 10*time.Second, func() error {
		if err := s.Create(t.Context(), rec); err != nil && !errors.Is(err, session.ErrExists) {
			return err
		}
		_, err := s.Update(t.Context(), rec, &session.Change{Now: rec.Seen, End: true})
		return err
	})
}

// While a slot moves to another node every call finds its record.
func TestASlotOnItsWayToAnotherNode(t *testing.T) {
	if !needs(t, servers.RedisCluster) {
		return
	}
	cluster := startServer(t, servers.RedisCluster)
	s, err := Open(t.Context(), cluster.URL, Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	rec, other := visitor("a"), visitor("b")
	mustCreate(t, s, rec, other)
	for _, moving := range []*session.Record{rec, other} {
		key := s.recordKey(moving.ID)
		source, err := cluster.Primary(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		// A key of another primary tells which node that is.
		target := source
		for i := 0; target == source; i++ {
			if target, err = cluster.Primary(t.Context(), fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
		from, to := connect(t, source), connect(t, target)
		slot, err := from.Do(t.Context(), from.B().ClusterKeyslot().Key(key).Build()).AsInt64()
		if err != nil {
			t.Fatal(err)
		}
		name := func(c rueidis.Client) string {
			id, err := c.Do(t.Context(), c.B().Arbitrary("CLUSTER", "MYID").Build()).ToString()
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
		host, port, _ := net.SplitHostPort(target.Addr)
		for _, step := range []error{
			to.Do(t.Context(), to.B().Arbitrary("CLUSTER", "SETSLOT", fmt.Sprint(slot), "IMPORTING", name(from)).Build()).Error(),
			from.Do(t.Context(), from.B().Arbitrary("CLUSTER", "SETSLOT", fmt.Sprint(slot), "MIGRATING", name(to)).Build()).Error(),
			from.Do(t.Context(), from.B().Arbitrary("MIGRATE", host, port, key, "0", "5000").Build()).Error(),
		} {
			if step != nil {
				t.Fatal(step)
			}
		}
	}
	if got := mustLoad(t, s, rec.ID); !same(got, rec) {
		t.Errorf("loaded is %+v, not %+v", got, rec)
	}
	if _, err := s.Update(t.Context(), rec, add(1)); err != nil {
		t.Errorf("Update: %v", err)
	}
	if err := s.Touch(t.Context(), []session.Touch{{ID: rec.ID, Seen: rec.Seen.Add(time.Second)}}); err != nil {
		t.Errorf("Touch: %v", err)
	}
	if _, err := s.Update(t.Context(), rec, &session.Change{Now: rec.Seen, End: true}); err != nil {
		t.Errorf("an end: %v", err)
	}
	if got := mustLoad(t, s, rec.ID); !got.Ended() || got.Version != 3 {
		t.Errorf("after an addition, a touch and an end the session is %+v", got)
	}
	if err := s.Delete(t.Context(), other.ID); err != nil {
		t.Errorf("Delete: %v", err)
	}
	if _, err := s.Load(t.Context(), other.ID); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("the deleted session: %v", err)
	}
}

func TestInspect(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		prefix := newPrefix()
		s := openConfig(t, url, Config{KeyPrefix: prefix})
		mustCreate(t, s, visitor("a"), visitor("b"), visitor("c"))
		const ahead = time.Hour
		in, err := Inspect(t.Context(), url, Config{KeyPrefix: prefix}, func() time.Time { return time.Now().Add(-ahead) })
		if err != nil {
			t.Fatal(err)
		}
		if in.Sessions != 3 || in.Cluster != (s.client().Mode() == rueidis.ClientModeCluster) || len(in.Nodes) != len(s.client().Nodes()) {
			t.Errorf("%+v", in)
		}
		primaries := 0
		for _, n := range in.Nodes {
			if n.Primary {
				primaries++
			}
			if n.Err != nil || n.Version == "" || n.EvictionPolicy != "noeviction" || !n.AppendOnly || n.AppendFsync != "everysec" || n.Save != "" ||
				n.UsedMemory == 0 || n.PackedValue != 64 || n.Replicas == 0 == (in.Cluster && n.Primary) {
				t.Errorf("%+v", n)
			}
			if n.Skew < ahead-time.Minute || n.Skew > ahead+time.Minute {
				t.Errorf("a clock an hour ahead is %s ahead", n.Skew)
			}
		}
		if in.Cluster != (primaries > 1) {
			t.Errorf("%d primaries", primaries)
		}
	})
}
