package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

const form = "write redis://host:6379 or redis+cluster://host1:6379,host2:6379, with rediss for TLS"

// parseURL returns the options of the client for raw. Errors never show what may be
// a password.
func parseURL(raw string) (rueidis.ClientOption, error) {
	opt := rueidis.ClientOption{
		// What the client would send again by itself after a connection broke, the
		// manager asks for again, which knows how long there is time.
		DisableRetry: true,
		// Caching would need a second connection's say on every read.
		DisableCache: true,
		AlwaysRESP2:  true, // a record is a list of strings then, not a map
		// One connection carries the calls of all requests: the more of them share a
		// write and a read, the less each costs, here and at the server.
		PipelineMultiplex: -1,
		DialCtxFn:         dialYielding,
		// A connection on which nothing has come for so long is dead. Meanwhile calls
		// end when their context does.
		ConnWriteTimeout:    3 * time.Second,
		Dialer:              net.Dialer{Timeout: time.Second},
		BlockingPoolCleanup: time.Minute, // of the connections for ends
		// Half a megabyte each by default, and there may be 64 of those connections.
		ReadBufferEachConn:  32 << 10,
		WriteBufferEachConn: 32 << 10,
	}
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return opt, errors.New("redis: the URL has no scheme; " + form)
	}
	var cluster bool
	switch scheme {
	case "redis", "valkey":
		opt.ForceSingleClient = true
	case "rediss", "valkeys":
		opt.ForceSingleClient, opt.TLSConfig = true, &tls.Config{MinVersion: tls.VersionTLS12}
	case "redis+cluster", "valkey+cluster":
		cluster = true
	case "rediss+cluster", "valkeys+cluster":
		cluster, opt.TLSConfig = true, &tls.Config{MinVersion: tls.VersionTLS12}
	default:
		return opt, fmt.Errorf("redis: the URL begins with %s:, which is not this store's; %s", scheme, form)
	}
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		user, password, _ := strings.Cut(rest[:at], ":")
		var err1, err2 error
		opt.Username, err1 = url.PathUnescape(user)
		opt.Password, err2 = url.PathUnescape(password)
		if err1 != nil || err2 != nil {
			return opt, errors.New("redis: the user or password in the URL is not escaped; write %25 for a percent sign")
		}
		rest = rest[at+1:]
	}
	if strings.ContainsAny(rest, "?#") {
		return opt, errors.New("redis: the URL takes no parameters; remove what begins with ? or #, and in a password write %3F and %23")
	}
	hosts, db, _ := strings.Cut(rest, "/")
	for host := range strings.SplitSeq(hosts, ",") {
		addr, err := hostPort(host)
		if err != nil {
			return opt, err
		}
		opt.InitAddress = append(opt.InitAddress, addr)
	}
	if !cluster && len(opt.InitAddress) > 1 {
		return opt, fmt.Errorf("redis: the URL names several hosts; for a Cluster write %s+cluster://", scheme)
	}
	if db != "" {
		n, err := strconv.Atoi(db)
		if err != nil || n < 0 || cluster && n != 0 {
			return opt, fmt.Errorf("redis: database %q: write a number, such as /0; a Cluster has only that one", db)
		}
		opt.SelectDB = n
	}
	return opt, nil
}

// hostPort returns host with its port, 6379 if it has none.
func hostPort(host string) (string, error) {
	name, port, err := net.SplitHostPort(host)
	if err != nil { // no port, or nonsense
		name, port = strings.Trim(host, "[]"), "6379"
		if strings.Contains(name, ":") && !strings.HasPrefix(host, "[") {
			return "", fmt.Errorf("redis: host %q: write an IPv6 address in brackets", host)
		}
	}
	if n, err := strconv.Atoi(port); name == "" || err != nil || n <= 0 || n > 65535 {
		return "", fmt.Errorf("redis: host %q: %s", host, form)
	}
	return net.JoinHostPort(name, port), nil
}

// dial connects, and gives up when ctx is done.
func dial(ctx context.Context, opt rueidis.ClientOption) (rueidis.Client, error) {
	type result struct {
		client rueidis.Client
		err    error
	}
	done := make(chan result, 1)
	go func() {
		client, err := rueidis.NewClient(opt)
		if err != nil && client != nil {
			client.Close()
		}
		done <- result{client, err}
	}()
	select {
	case r := <-done:
		return r.client, r.err
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				r.client.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// openError says what could not be opened.
func openError(opt rueidis.ClientOption, err error) error {
	return fmt.Errorf("redis: %s: %w", strings.Join(opt.InitAddress, ","), err)
}

// dialYielding makes a connection as the client does by itself.
func dialYielding(ctx context.Context, addr string, dialer *net.Dialer, secure *tls.Config) (conn net.Conn, err error) {
	if secure == nil {
		conn, err = dialer.DialContext(ctx, "tcp", addr)
	} else {
		conn, err = (&tls.Dialer{NetDialer: dialer, Config: secure}).DialContext(ctx, "tcp", addr)
	}
	if err != nil {
		return nil, err
	}
	return yielding{conn}, nil
}

// A yielding connection lets the goroutines that are ready to run do so before each
// write. The client writes what is in its queue as soon as there is something, and so
// little at a time; now what other requests have to send meanwhile goes out together,
// with the next write. Where nothing else is ready it costs nothing.
type yielding struct{ net.Conn }

func (c yielding) Write(p []byte) (int, error) {
	runtime.Gosched()
	return c.Conn.Write(p)
}
