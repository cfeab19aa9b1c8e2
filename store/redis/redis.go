// Package redis keeps sessions in Redis or Valkey, alone or as a Cluster, version
// 6.2 or newer.
//
// A change to a session is one script on one key: it is applied whole, where the
// record is, whoever else changes the session at that moment. A request costs at
// most one load and one change. Redis drops records by itself, an hour after they
// have expired.
//
// What survives a crash is what the server is configured to keep: with appendonly
// and appendfsync everysec a crash of the machine loses the last second. A failover
// loses what the replica had not received yet; sign-outs, revocations and deletions
// are acknowledged only once all replicas that are connected have them, and a sign-in
// in a Cluster only once they list it. A primary without replicas goes on by itself;
// with min-replicas-to-write it takes no changes.
package redis

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/crumb-go/crumb/session"
)

// Config holds what [Open] and [New] may be told besides the server. The zero
// Config is a good one.
type Config struct {
	// KeyPrefix is what all keys begin with, so that several apps can share a
	// server: ASCII letters, digits, and any of "_-.:/".
	//
	// Defaults to "crumb:".
	KeyPrefix string

	// Logger is told, at debug level, what went wrong beside a call: an index that
	// keeps an entry until it is pruned, connections that could not be renewed.
	//
	// Defaults to [slog.Default].
	Logger *slog.Logger

	// ReplicaWait is how long the end of a session waits for the replicas that are
	// connected. If they do not confirm it in time its outcome is unknown
	// ([session.ErrUnknown]): the session has ended, and a failover now could bring
	// it back. Whoever ends it again is told once they have confirmed.
	//
	// A sign-in in a Cluster waits as long for those of the node that lists the
	// user's sessions, before anything happens.
	//
	// Defaults to 1 s: the manager tries three times, and that fits into the five
	// seconds of [session.Config.StoreTimeout] with room for the calls themselves.
	// Negative waits for none: then a failover may bring back sessions whose end
	// was acknowledged, and in a Cluster hide some from the revocation of a user.
	ReplicaWait time.Duration
}

const defaultPrefix = "crumb:"

func (cfg *Config) check() error {
	if cfg.KeyPrefix == "" {
		cfg.KeyPrefix = defaultPrefix
	}
	for _, c := range []byte(cfg.KeyPrefix) {
		if letter := 'a' <= c|0x20 && c|0x20 <= 'z'; !letter && (c < '0' || c > '9') && !strings.ContainsRune("_-.:/", rune(c)) {
			return fmt.Errorf("redis: key prefix %q: use ASCII letters, digits and any of _-.:/", cfg.KeyPrefix)
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.ReplicaWait == 0 {
		cfg.ReplicaWait = time.Second
	}
	return nil
}

// A Store keeps sessions in Redis. Besides [session.Store] it implements
// [session.Lister], [session.Toucher], [session.Sweeper] and [session.Checker].
// Sweeping keeps the indexes small; records Redis drops by itself.
type Store struct {
	using  atomic.Pointer[rueidis.Client] // see client
	owned  bool                           // Close closes it
	closed atomic.Bool
	done   chan struct{} // closed then
	cfg    Config
	ends   chan struct{} // a slot for each end of a session under way
	sweeps atomic.Uint32 // the shard where Sweep goes on
	recent recent

	waiting   atomic.Int64  // calls under way
	abandoned atomic.Int64  // calls given up since the last answer
	behind    chan struct{} // a slot for each that waits in a goroutine of its own

	opt      *rueidis.ClientOption // to make new connections, nil if that is not ours to do
	renewing atomic.Bool
}

var (
	_ session.Store   = (*Store)(nil)
	_ session.Lister  = (*Store)(nil)
	_ session.Toucher = (*Store)(nil)
	_ session.Sweeper = (*Store)(nil)
	_ session.Checker = (*Store)(nil)
)

var errClosed = errors.New("redis: the store is closed")

// Open connects to the server that url names:
//
//	redis://user:password@host:6379/0
//	rediss://host:6379                          with TLS
//	redis+cluster://host1:6379,host2:6379       a Cluster; some of its nodes suffice
//	rediss+cluster://…
//
// It refuses a server that drops keys of its choice when its memory is full (any
// maxmemory-policy but noeviction), and waits for none that does not answer. ctx
// bounds Open alone.
func Open(ctx context.Context, url string, cfg Config) (*Store, error) {
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
	s, err := New(ctx, client, cfg)
	if err != nil {
		client.Close()
		return nil, err
	}
	s.owned = true
	if client.Mode() == rueidis.ClientModeStandalone {
		s.opt = &opt
	}
	return s, nil
}

// New returns a store over a client that the app already has, with the checks of
// [Open]. The client must not send commands to replicas: they may not know of a
// sign-out yet. Close leaves it open. A store of Open makes new connections when the
// server turns out to be a replica, as after a failover; a client does what it does.
//
// A client whose DisableRetry is false sends loads again by itself when a connection
// breaks, until ctx is done. Changes it never sends twice.
func New(ctx context.Context, client rueidis.Client, cfg Config) (*Store, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	s := newStore(client, cfg)
	if err := s.checkEviction(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

func newStore(client rueidis.Client, cfg Config) *Store {
	s := &Store{cfg: cfg, done: make(chan struct{}), ends: make(chan struct{}, endsAtOnce), behind: make(chan struct{}, waitingBehind)}
	s.recent.seed = maphash.MakeSeed()
	s.using.Store(&client)
	return s
}

// Close ends the connections that Open made. Later calls of the other methods
// return an error.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	close(s.done)
	if s.owned {
		s.client().Close()
	}
	return nil
}

// recordKey is where the record of id is.
func (s *Store) recordKey(id session.ID) string { return s.cfg.KeyPrefix + "s:" + string(id) }

// Create implements [session.Store]. The indexes are told first: a session that
// lives is always in them.
func (s *Store) Create(ctx context.Context, rec *session.Record) error {
	var e encoder
	args := append([]string{e.text(rec.Expires)}, e.encode(rec)...)
	if e.err != nil {
		return e.err
	}
	if err := s.enter(ctx, rec); err != nil {
		return fmt.Errorf("redis: create: index: %w", definite(err))
	}
	msg, err := s.run(ctx, createScript, s.recordKey(rec.ID), args...)
	if err != nil {
		return fmt.Errorf("redis: create: %w", err)
	}
	created, err := msg.AsInt64()
	switch {
	case err != nil:
		return fmt.Errorf("redis: create: %w", &unknownError{err})
	case created == 0:
		return session.ErrExists
	}
	return nil
}

// Load implements [session.Store].
func (s *Store) Load(ctx context.Context, id session.ID) (*session.Record, error) {
	key, last := s.recordKey(id), s.recent.get(id)
	var msg rueidis.RedisMessage
	var err error
	if last != nil {
		msg, err = s.run(ctx, loadScript, key, last.facts)
	} else {
		msg, err = s.do(ctx, func(b rueidis.Builder) rueidis.Completed { return b.Hgetall().Key(key).Build() })
	}
	if err != nil {
		return nil, fmt.Errorf("redis: load: %w", err)
	}
	if last != nil && msg.IsString() {
		if facts, err := msg.ToString(); err == nil && facts == last.facts {
			return last.rec, nil
		}
	}
	rec, err := record(id, msg)
	switch err {
	case nil:
		s.recent.put(new(encoder).known(rec))
	case session.ErrNotFound:
		s.recent.forget(id)
	default:
		err = fmt.Errorf("redis: load: %w", err)
	}
	return rec, err
}

// Update implements [session.Store].
func (s *Store) Update(ctx context.Context, base *session.Record, c *session.Change) (*session.Record, error) {
	if c.End {
		return s.end(ctx, base.ID, c)
	}
	var e encoder
	var was, will *known
	// An error of Apply proves nothing: base may be stale, or no more than an ID.
	if out, err := c.Apply(base); err == nil {
		was, will = s.known(&e, base), e.known(out)
	}
	args := e.update(was, will, c)
	if e.err != nil {
		return nil, e.err
	}
	if in := c.SignIn; in != nil && in.User != "" {
		if err := s.underUser(ctx, in.User, base.ID, in.Absolute, c.Now); err != nil {
			return nil, fmt.Errorf("redis: update: index: %w", definite(err))
		}
	}
	msg, err := s.run(ctx, updateScript, s.recordKey(base.ID), args...)
	if err != nil {
		return nil, fmt.Errorf("redis: update: %w", err)
	}
	switch {
	case msg.IsNil():
		return nil, session.ErrNotFound
	case was == nil || !msg.IsInt64(): // the record was not base
		out, err := updated(base.ID, c, msg)
		if err != nil {
			return out, err
		}
		will = e.known(out)
	}
	s.recent.put(will)
	if c.SignIn != nil {
		s.tidy(ctx, []call{s.sooner(will.rec)})
	}
	return will.rec, nil
}

// updated returns what Apply makes of the record that the script found, which is
// what the script has made of it.
func updated(id session.ID, c *session.Change, msg rueidis.RedisMessage) (*session.Record, error) {
	fields, err := msg.AsStrSlice()
	if err != nil || len(fields) == 0 {
		return nil, fmt.Errorf("redis: update: %w", &unknownError{cmpOr(err, errBroken)})
	}
	last := len(fields) - 1
	changed := fields[last] == "1"
	before, err := decode(id, fields[:last])
	var out *session.Record
	if err == nil {
		if out, err = c.Apply(before); changed == (err == nil) {
			return out, err
		}
		err = fmt.Errorf("session %s: the script and Change.Apply disagree (%t, %w)", id, changed, err)
	}
	if changed {
		err = &unknownError{err}
	}
	return nil, fmt.Errorf("redis: update: %w", err)
}

// Delete implements [session.Store].
func (s *Store) Delete(ctx context.Context, id session.ID) error {
	s.recent.forget(id)
	msg, err := s.runSurely(ctx, deleteScript, s.recordKey(id))
	if err != nil {
		return fmt.Errorf("redis: delete: %w", err)
	}
	if was, err := msg.AsStrSlice(); err == nil && len(was) == 2 {
		created, _ := strconv.ParseInt(was[0], 10, 64)
		s.gone(ctx, id, decodeTime(created), was[1])
	}
	return nil
}

// Touch implements [session.Toucher].
func (s *Store) Touch(ctx context.Context, touches []session.Touch) error {
	var e encoder
	calls := make([]call, len(touches))
	for i, t := range touches {
		calls[i] = touchScript.on(s.recordKey(t.ID), e.text(t.Seen))
	}
	if e.err != nil {
		return e.err
	}
	if _, err := s.all(ctx, calls); err != nil {
		return fmt.Errorf("redis: touch: %w", err)
	}
	return nil
}

// Check implements [session.Checker]. A session in a format this program does not
// know is left out: its streams end, and those of others go on.
func (s *Store) Check(ctx context.Context, now time.Time, ids []session.ID) (map[session.ID]int64, error) {
	calls := make([]call, len(ids))
	for i, id := range ids {
		key := s.recordKey(id)
		calls[i] = call{cmd: func(b rueidis.Builder) rueidis.Completed { return b.Hget().Key(key).Field(factsField).Build() }}
	}
	msgs, err := s.all(ctx, calls)
	if err != nil {
		return nil, fmt.Errorf("redis: check: %w", err)
	}
	live := make(map[session.ID]int64, len(ids))
	for i, msg := range msgs {
		if msg.IsNil() {
			continue
		}
		facts, err := msg.ToString()
		if err != nil {
			return nil, fmt.Errorf("redis: check: %w", err)
		}
		if rec, err := decodeInfo(ids[i], []string{facts}); err == nil && rec.Live(now) {
			live[rec.ID] = rec.Auth
		}
	}
	return live, nil
}

// record returns the record in the reply to HGETALL: a list, or a map to a client
// that speaks the newer protocol.
func record(id session.ID, msg rueidis.RedisMessage) (*session.Record, error) {
	var fields []string
	if msg.IsMap() {
		m, err := msg.AsStrMap()
		if err != nil {
			return nil, err
		}
		fields = make([]string, 0, 2*len(m))
		for name, value := range m {
			fields = append(fields, name, value)
		}
	} else {
		var err error
		if fields, err = msg.AsStrSlice(); err != nil {
			return nil, err
		}
	}
	if len(fields) == 0 {
		return nil, session.ErrNotFound
	}
	return decode(id, fields)
}

// definite returns err as one that says that nothing happened: it came before
// anything that a caller can see was done.
func definite(err error) error {
	if unknown, ok := errors.AsType[*unknownError](err); ok {
		return unknown.err
	}
	return err
}

func cmpOr(err, or error) error {
	if err != nil {
		return err
	}
	return or
}
