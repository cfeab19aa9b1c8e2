package servers

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// newRedis adds a node with a log of its commands, as a store of sessions has one.
func newRedis(s *Server, name, user string) (*Node, error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, err
	}
	n, err := s.newNode(name, user)
	if err != nil {
		return nil, err
	}
	n.Program = program
	n.Args = []string{
		"--bind", "127.0.0.1", "--port", n.port(), "--dir", n.Dir,
		"--appendonly", "yes", "--save", "", "--daemonize", "no",
		"--set-proc-title", "no", // the command line is how the process is recognised
	}
	return n, nil
}

func createRedis(_ context.Context, s *Server, user string) error {
	n, err := newRedis(s, "node", user)
	if err != nil {
		return err
	}
	s.URL = "redis://" + n.Addr
	return nil
}

// cli runs one command on the node.
func (n *Node) cli(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "redis-cli", append([]string{"-h", "127.0.0.1", "-p", n.port()}, args...)...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return "", fmt.Errorf("redis-cli: %w: %s", err, text)
	}
	return text, nil
}

func readyRedis(ctx context.Context, s *Server) error {
	for _, n := range s.Nodes {
		if text, err := n.cli(ctx, "PING"); err != nil {
			return err
		} else if text != "PONG" {
			return errors.New(text) // it may be loading
		}
	}
	return nil
}

// The cluster: three primaries, each with one replica.
const (
	primaries = 3
	replicas  = 3
)

func createCluster(_ context.Context, s *Server, user string) error {
	var addrs []string
	for i := range primaries + replicas {
		n, err := newRedis(s, "node"+strconv.Itoa(i+1), user)
		if err != nil {
			return err
		}
		bus, err := n.reserve()
		if err != nil {
			return err
		}
		n.Args = append(n.Args, "--cluster-enabled", "yes", "--cluster-port", bus,
			"--repl-diskless-sync-delay", "0", // seconds to wait for more replicas; 5 by default
			"--cluster-node-timeout", "2000") // milliseconds until a silent node has failed; 15 seconds by default
		addrs = append(addrs, n.Addr)
	}
	s.URL = "redis+cluster://" + strings.Join(addrs, ",")
	return nil
}

// readyCluster joins the nodes if they have not been, and finds out whether every
// node serves and every replica follows.
func readyCluster(ctx context.Context, s *Server) error {
	if err := readyRedis(ctx, s); err != nil {
		return err
	}
	first := s.Nodes[0]
	info, err := first.cli(ctx, "CLUSTER", "INFO")
	if err != nil {
		return err
	}
	if strings.Contains(info, "cluster_known_nodes:1\r") {
		args := []string{"--cluster", "create"}
		for _, n := range s.Nodes {
			args = append(args, n.Addr)
		}
		args = append(args, "--cluster-replicas", strconv.Itoa(replicas/primaries), "--cluster-yes")
		if _, err := first.cli(ctx, args...); err != nil {
			return err
		}
	}
	following := 0
	for _, n := range s.Nodes {
		info, err := n.cli(ctx, "CLUSTER", "INFO")
		if err != nil {
			return err
		}
		if !strings.Contains(info, "cluster_state:ok\r") || !strings.Contains(info, "cluster_known_nodes:6\r") {
			return fmt.Errorf("%s says %q", n.Addr, info)
		}
		info, err = n.cli(ctx, "INFO", "replication")
		if err != nil {
			return err
		}
		if strings.Contains(info, "role:slave\r") {
			if !strings.Contains(info, "master_link_status:up\r") {
				return fmt.Errorf("the replica %s does not follow yet", n.Addr)
			}
			following++
		}
	}
	if following != replicas {
		return fmt.Errorf("%d replicas follow, not %d", following, replicas)
	}
	return nil
}

// Primary returns the node of a cluster that holds key at present, as the nodes
// that run see it.
func (s *Server) Primary(ctx context.Context, key string) (*Node, error) {
	for _, asked := range s.Nodes {
		if !asked.Running() {
			continue
		}
		slot, err := asked.cli(ctx, "CLUSTER", "KEYSLOT", key)
		if err != nil {
			return nil, err
		}
		number, err := strconv.Atoi(slot)
		if err != nil {
			return nil, fmt.Errorf("servers: CLUSTER KEYSLOT answers %q", slot)
		}
		nodes, err := asked.cli(ctx, "CLUSTER", "NODES")
		if err != nil {
			return nil, err
		}
		addr := holder(nodes, number)
		for _, n := range s.Nodes {
			if n.Addr == addr {
				return n, nil
			}
		}
		return nil, fmt.Errorf("servers: no primary holds slot %d:\n%s", number, nodes)
	}
	return nil, errors.New("servers: no node of the cluster runs")
}

// holder finds the primary of slot in what CLUSTER NODES prints: lines such as
// "id 127.0.0.1:20001@20002 myself,master - 0 0 1 connected 0-5460 7000".
func holder(nodes string, slot int) (addr string) {
	for line := range strings.Lines(nodes) {
		f := strings.Fields(line)
		if len(f) < 9 || !strings.Contains(f[2], "master") || strings.Contains(f[2], "fail") {
			continue
		}
		for _, slots := range f[8:] {
			first, last, ranged := strings.Cut(slots, "-")
			if !ranged {
				last = first
			}
			low, err1 := strconv.Atoi(first)
			high, err2 := strconv.Atoi(last)
			if err1 == nil && err2 == nil && low <= slot && slot <= high {
				addr, _, _ = strings.Cut(f[1], "@")
				return addr
			}
		}
	}
	return ""
}
