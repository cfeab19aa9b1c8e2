package redis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// An Inspection is what [Inspect] finds out about the servers.
type Inspection struct {
	Cluster  bool
	Nodes    []Node // by address; a single server is one
	Sessions int64  // in the indexes; some may have expired since the last sweep
}

// A Node is one server. What it does not tell, since it is forbidden to ask, is "",
// 0 or false.
type Node struct {
	Addr     string
	Err      error  // why nothing else is known
	Version  string // of Redis, or the Redis that a Valkey behaves as
	Primary  bool
	Replicas int // that follow it at present

	// MinReplicas is how many must follow for it to take changes
	// (min-replicas-to-write); with 0 a primary that is cut off takes changes that
	// are lost when it comes back.
	MinReplicas int

	MaxMemory, UsedMemory int64  // bytes; MaxMemory is 0 if there is no limit
	EvictionPolicy        string // maxmemory-policy: what happens at the limit
	AppendOnly            bool   // every change is written to a file
	AppendFsync           string // when that reaches the disk: always, everysec, no
	Save                  string // when a snapshot is taken; "" is never

	// PackedValue is how many bytes a value of a hash may have for Redis to pack the
	// hash (hash-max-listpack-value, before Redis 7 hash-max-ziplist-value). At 64,
	// its default, hardly a session is packed and takes nearly twice the memory that
	// it takes at 512.
	PackedValue int

	Skew time.Duration // how far the server's clock is ahead of this machine's
}

// Inspect asks the servers at url, and of a Cluster each node, how they are
// configured and how far their clocks are from now. It changes nothing.
func Inspect(ctx context.Context, url string, cfg Config, now func() time.Time) (*Inspection, error) {
	opt, err := parseURL(url)
	if err != nil {
		return nil, err
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	client, err := dial(ctx, opt)
	if err != nil {
		return nil, openError(opt, err)
	}
	defer client.Close()
	in := &Inspection{Cluster: client.Mode() == rueidis.ClientModeCluster}
	for addr, c := range client.Nodes() {
		in.Nodes = append(in.Nodes, inspectNode(ctx, addr, c, now))
	}
	slices.SortFunc(in.Nodes, func(a, b Node) int { return strings.Compare(a.Addr, b.Addr) })
	s := newStore(client, cfg)
	for shard := range uint32(shards) {
		key := s.allKey(shard)
		msg, err := s.do(ctx, func(b rueidis.Builder) rueidis.Completed { return b.Zcard().Key(key).Build() })
		if err != nil {
			return in, fmt.Errorf("redis: inspect: %w", err)
		}
		n, err := msg.AsInt64()
		if err != nil {
			return in, fmt.Errorf("redis: inspect: %w", err)
		}
		in.Sessions += n
	}
	return in, nil
}

func inspectNode(ctx context.Context, addr string, c rueidis.Client, now func() time.Time) Node {
	n := Node{Addr: addr}
	info, err := serverInfo(ctx, c)
	if err != nil {
		n.Err = err
		return n
	}
	n.Version, n.Primary, n.EvictionPolicy = info["redis_version"], info["role"] == "master", info["maxmemory_policy"]
	n.AppendOnly = info["aof_enabled"] == "1"
	n.Replicas, _ = strconv.Atoi(info["connected_slaves"])
	n.MaxMemory, _ = strconv.ParseInt(info["maxmemory"], 10, 64)
	n.UsedMemory, _ = strconv.ParseInt(info["used_memory"], 10, 64)
	for name, to := range map[string]*string{"appendfsync": &n.AppendFsync, "save": &n.Save} {
		*to = setting(ctx, c, name)
	}
	n.MinReplicas, _ = strconv.Atoi(setting(ctx, c, "min-replicas-to-write"))
	n.PackedValue, _ = strconv.Atoi(cmp.Or(setting(ctx, c, "hash-max-listpack-value"), setting(ctx, c, "hash-max-ziplist-value")))
	before := now()
	clock, err := c.Do(ctx, c.B().Time().Build()).AsIntSlice()
	after := now()
	if err == nil && len(clock) == 2 {
		n.Skew = time.Unix(clock[0], clock[1]*1000).Sub(before.Add(after.Sub(before) / 2))
	}
	return n
}

// setting returns a setting of the server, or "" if it may not be asked.
func setting(ctx context.Context, c rueidis.Client, name string) string {
	m, err := c.Do(ctx, c.B().ConfigGet().Parameter(name).Build()).AsStrMap()
	if err != nil {
		return ""
	}
	return m[name]
}

// serverInfo returns what INFO says.
func serverInfo(ctx context.Context, c rueidis.Client) (map[string]string, error) {
	text, err := c.Do(ctx, c.B().Info().Build()).ToString()
	if err != nil {
		return nil, err
	}
	info := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[name] = value
		}
	}
	return info, nil
}

// checkEviction refuses servers that would drop keys of their own choice when their
// memory is full: visitors would be signed out at random, the end of a session
// forgotten while requests are under way, and a revocation of a user would miss
// sessions of which the index is gone. All these keys expire, so a volatile-… policy
// drops them too. A node of a Cluster that does not
// answer is left alone if another does.
func (s *Store) checkEviction(ctx context.Context) error {
	var unreachable error
	asked := 0
	for addr, c := range s.client().Nodes() {
		info, err := serverInfo(ctx, c)
		if err != nil {
			unreachable = fmt.Errorf("redis: %s: %w", addr, err)
			continue
		}
		asked++
		if policy := info["maxmemory_policy"]; policy != "" && policy != "noeviction" {
			return fmt.Errorf("redis: %s: its maxmemory-policy is %s, so it would drop sessions, or the lists of users' sessions, of its own choice when its memory is full; "+
				"set maxmemory-policy noeviction, or give sessions a server of their own", addr, policy)
		}
	}
	if asked == 0 && unreachable == nil {
		return errors.New("redis: the client knows no server")
	}
	if asked == 0 {
		return unreachable
	}
	return nil
}
