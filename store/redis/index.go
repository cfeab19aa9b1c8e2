package redis

import (
	"cmp"
	"context"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/crumb-go/crumb/session"
)

// The indexes. They are sorted sets, in other slots of a Cluster than the records,
// so no step changes both. They are told first of what begins and last of what
// ends: whatever crashes between, an index may hold a session that is none, never
// miss one that lives. Readers look at the records, and so leave the former out.
//
//   - u:USER holds the sessions of a user by their absolute limit, and is pruned by
//     that alone, never because a reader found no record: it may be about to be
//     written.
//   - {N}all holds a share of all sessions, the newest first.
//   - {N}due holds the same, by a time before which each cannot have expired; Sweep
//     looks at them then, and writes down the next such time.

// shards is how many shares of all sessions there are, each in a slot of its own, so
// that the nodes of a Cluster share the work. It cannot change: which share a
// session is in follows from its ID.
const shards = 16

func shardOf(id session.ID) uint32 { return crc32.ChecksumIEEE([]byte(id)) % shards }

func (s *Store) userKey(user string) string { return s.cfg.KeyPrefix + "u:" + user }

func (s *Store) allKey(shard uint32) string {
	return s.cfg.KeyPrefix + "{" + strconv.Itoa(int(shard)) + "}all"
}

func (s *Store) dueKey(shard uint32) string {
	return s.cfg.KeyPrefix + "{" + strconv.Itoa(int(shard)) + "}due"
}

// An entry of all and due is the ID and the time of creation: of two who create one
// session at once each makes its own, and the one that is not the record's is none
// of a session. So all is in the order of the records' own times.
func entryOf(id session.ID, created time.Time) string {
	return string(id) + ":" + strconv.FormatInt(created.UnixMicro(), 36)
}

func parseEntry(entry string) (id session.ID, created time.Time) {
	at := strings.LastIndexByte(entry, ':')
	if at < 0 {
		return session.ID(entry), time.Time{}
	}
	n, err := strconv.ParseInt(entry[at+1:], 36, 64)
	if err != nil {
		return session.ID(entry), time.Time{}
	}
	return session.ID(entry[:at]), decodeTime(n)
}

// skew is by how much clocks may differ, and how long what has expired stays.
const skew = time.Hour

func micros(t time.Time) float64 { return float64(t.UnixMicro()) }

// enter tells the indexes of a record that is about to be created. An entry is due
// before it can be listed, so that none stays for ever.
func (s *Store) enter(ctx context.Context, rec *session.Record) error {
	shard, entry := shardOf(rec.ID), entryOf(rec.ID, rec.Created)
	due, all := s.dueKey(shard), s.allKey(shard)
	calls := []call{
		{cmd: func(b rueidis.Builder) rueidis.Completed {
			return b.Zadd().Key(due).ScoreMember().ScoreMember(micros(rec.Expires), entry).Build()
		}},
		{cmd: func(b rueidis.Builder) rueidis.Completed {
			return b.Zadd().Key(all).ScoreMember().ScoreMember(-micros(rec.Created), entry).Build()
		}},
	}
	if _, err := s.all(ctx, calls); err != nil || rec.User == "" {
		return err
	}
	return s.underUser(ctx, rec.User, rec.ID, rec.Absolute, rec.Seen)
}

// underUser tells the index of a user of a session that is about to be theirs. In a
// Cluster the record may be on another node, and so stay when a failover loses the
// entry: the replicas confirm it first. On a server alone the record follows it.
func (s *Store) underUser(ctx context.Context, user string, id session.ID, absolute, now time.Time) error {
	run := s.run
	if s.client().Mode() == rueidis.ClientModeCluster {
		run = s.runSurely
	}
	var e encoder
	_, err := run(ctx, enterScript, s.userKey(user), string(id), e.text(absolute), e.text(now.Add(-skew)))
	return err
}

// sooner tells due that a session may expire before the time written down there. If
// it fails the entry stays for longer than it need.
func (s *Store) sooner(rec *session.Record) call {
	due, entry := s.dueKey(shardOf(rec.ID)), entryOf(rec.ID, rec.Created)
	return call{cmd: func(b rueidis.Builder) rueidis.Completed {
		return b.Zadd().Key(due).Xx().Lt().ScoreMember().ScoreMember(micros(rec.Expires), entry).Build()
	}}
}

// ended tells the indexes of a record that has ended: it is a session no longer, and
// to be swept soon.
func (s *Store) ended(ctx context.Context, rec *session.Record, user string) {
	all, entry := s.allKey(shardOf(rec.ID)), entryOf(rec.ID, rec.Created)
	calls := []call{s.sooner(rec), {cmd: func(b rueidis.Builder) rueidis.Completed {
		return b.Zrem().Key(all).Member(entry).Build()
	}}}
	s.tidy(ctx, append(calls, s.notUnder(user, rec.ID)...))
}

// gone tells the indexes of a record that was deleted.
func (s *Store) gone(ctx context.Context, id session.ID, created time.Time, user string) {
	shard, entry := shardOf(id), entryOf(id, created)
	var calls []call
	for _, key := range []string{s.allKey(shard), s.dueKey(shard)} {
		calls = append(calls, call{cmd: func(b rueidis.Builder) rueidis.Completed { return b.Zrem().Key(key).Member(entry).Build() }})
	}
	s.tidy(ctx, append(calls, s.notUnder(user, id)...))
}

func (s *Store) notUnder(user string, id session.ID) []call {
	if user == "" {
		return nil
	}
	key := s.userKey(user)
	return []call{{cmd: func(b rueidis.Builder) rueidis.Completed { return b.Zrem().Key(key).Member(string(id)).Build() }}}
}

// tidy makes changes that nothing depends on: without them entries stay, which
// readers skip, until they are pruned.
func (s *Store) tidy(ctx context.Context, calls []call) {
	if _, err := s.all(ctx, calls); err != nil {
		s.cfg.Logger.DebugContext(ctx, "redis: entries of an index stay until they are pruned", "err", err)
	}
}

// List implements [session.Lister]. A page of one user costs what that user's
// sessions do. A page of all costs sixteen times its length in entries of the
// indexes and its length in records, and skips what has expired meanwhile.
func (s *Store) List(ctx context.Context, q session.Query) ([]session.Info, error) {
	if err := cmp.Or(ctx.Err(), q.Check()); err != nil {
		return nil, err
	}
	if q.Limit <= 0 {
		return nil, nil
	}
	list := s.listUser
	if q.All {
		list = s.listAll
	}
	infos, err := list(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("redis: list: %w", err)
	}
	return infos, nil
}

// listUser reads the user's index in steps, in no order, and finds all that is in it
// from the first step to the last.
func (s *Store) listUser(ctx context.Context, q session.Query) ([]session.Info, error) {
	key, now := s.userKey(q.User), micros(q.Now)
	var infos []session.Info
	for cursor := uint64(0); ; {
		msg, err := s.do(ctx, func(b rueidis.Builder) rueidis.Completed {
			return b.Zscan().Key(key).Cursor(cursor).Count(1000).Build()
		})
		if err != nil {
			return nil, err
		}
		scan, err := msg.AsScanEntry()
		if err != nil {
			return nil, err
		}
		var ids []session.ID
		for i := 0; i+1 < len(scan.Elements); i += 2 {
			if most, err := strconv.ParseFloat(scan.Elements[i+1], 64); err != nil || most > now {
				ids = append(ids, session.ID(scan.Elements[i]))
			}
		}
		recs, err := s.infos(ctx, ids)
		if err != nil {
			return nil, err
		}
		if err := s.finish(ctx, recs, q.User); err != nil {
			return nil, err
		}
		for _, rec := range recs {
			if rec != nil && rec.User == q.User && rec.Live(q.Now) && q.IsAfter(&rec.Info) {
				infos = append(infos, rec.Info)
			}
		}
		if cursor = scan.Cursor; cursor == 0 {
			break
		}
	}
	slices.SortFunc(infos, newestFirst)
	infos = slices.CompactFunc(infos, func(a, b session.Info) bool { return a.ID == b.ID }) // a scan may repeat
	return infos[:min(len(infos), q.Limit)], nil
}

func newestFirst(a, b session.Info) int {
	return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
}

// finish ends once more those of recs that have ended, which were still in an index:
// whoever ended them stopped before the replicas had confirmed it. A list without
// them would tell a revocation that they are gone for good.
func (s *Store) finish(ctx context.Context, recs []*session.Record, user string) error {
	for _, rec := range recs {
		if rec == nil || !rec.Ended() {
			continue
		}
		var e encoder
		if _, err := s.runSurely(ctx, endScript, s.recordKey(rec.ID), e.text(rec.Absolute)); err != nil {
			return fmt.Errorf("session %s has ended: %w", rec.ID, err)
		}
		s.ended(ctx, rec, user)
	}
	return nil
}

// listAll reads the next q.Limit entries of every shard: the first q.Limit of all
// these are the next of all.
func (s *Store) listAll(ctx context.Context, q session.Query) ([]session.Info, error) {
	var infos []session.Info
	for {
		entries, err := s.entries(ctx, q)
		if err != nil {
			return nil, err
		}
		entries = entries[:min(len(entries), q.Limit)]
		ids := make([]session.ID, len(entries))
		for i, in := range entries {
			ids[i] = in.ID
		}
		recs, err := s.infos(ctx, ids)
		if err != nil {
			return nil, err
		}
		if err := s.finish(ctx, recs, ""); err != nil {
			return nil, err
		}
		for i, rec := range recs {
			if rec != nil && rec.Live(q.Now) && rec.Created.Equal(entries[i].Created) {
				infos = append(infos, rec.Info)
			}
		}
		if len(entries) < q.Limit || len(infos) >= q.Limit {
			return infos[:min(len(infos), q.Limit)], nil
		}
		q.After = &entries[len(entries)-1]
	}
}

// entries returns the first entries after q.After in order, at least q.Limit if
// there are so many, with no more than ID and time of creation.
func (s *Store) entries(ctx context.Context, q session.Query) ([]session.Info, error) {
	var calls []call
	for shard := range uint32(shards) {
		key := s.allKey(shard)
		from := "-inf"
		if q.After != nil {
			// Those created in the same microsecond are read all: where the page
			// before ended among them only their IDs tell.
			at := strconv.FormatInt(-q.After.Created.UnixMicro(), 10)
			from = "(" + at
			calls = append(calls, call{cmd: func(b rueidis.Builder) rueidis.Completed {
				return b.Zrangebyscore().Key(key).Min(at).Max(at).Withscores().Build()
			}})
		}
		calls = append(calls, call{cmd: func(b rueidis.Builder) rueidis.Completed {
			return b.Zrangebyscore().Key(key).Min(from).Max("+inf").Withscores().Limit(0, int64(q.Limit)).Build()
		}})
	}
	msgs, err := s.all(ctx, calls)
	if err != nil {
		return nil, err
	}
	var entries []session.Info
	for _, msg := range msgs {
		scores, err := msg.AsZScores()
		if err != nil {
			return nil, err
		}
		for _, z := range scores {
			var in session.Info
			if in.ID, in.Created = parseEntry(z.Member); q.IsAfter(&in) {
				entries = append(entries, in)
			}
		}
	}
	slices.SortFunc(entries, newestFirst)
	return entries, nil
}

// infos returns the records of ids, without secrets and values, nil for those that
// are not there.
func (s *Store) infos(ctx context.Context, ids []session.ID) ([]*session.Record, error) {
	calls := make([]call, len(ids))
	for i, id := range ids {
		key := s.recordKey(id)
		calls[i] = call{cmd: func(b rueidis.Builder) rueidis.Completed { return b.Hmget().Key(key).Field(infoFields...).Build() }}
	}
	msgs, err := s.all(ctx, calls)
	if err != nil {
		return nil, err
	}
	recs := make([]*session.Record, len(ids))
	for i, msg := range msgs {
		contents, err := msg.AsStrSlice()
		if err != nil {
			return nil, err
		}
		if contents[0] == "" {
			continue
		}
		if recs[i], err = decodeInfo(ids[i], contents); err != nil {
			return nil, err
		}
	}
	return recs, nil
}

// Sweep implements [session.Sweeper]. It counts the sessions that it takes out of the
// indexes, most of which Redis has dropped by itself.
func (s *Store) Sweep(ctx context.Context, then time.Time, limit int) (n int, err error) {
	first := s.sweeps.Load()
	for i := uint32(0); i < shards && n < limit; i++ {
		shard := (first + i) % shards
		swept, err := s.sweep(ctx, shard, then, limit-n)
		if n += swept; err != nil {
			return n, fmt.Errorf("redis: sweep: %w", err)
		}
		s.sweeps.Store(shard) // which may have more
	}
	return n, nil
}

// sweep sweeps a shard until limit sessions are gone or none is due.
func (s *Store) sweep(ctx context.Context, shard uint32, then time.Time, limit int) (n int, err error) {
	due, all := s.dueKey(shard), s.allKey(shard)
	until := strconv.FormatInt(then.UnixMicro(), 10)
	for n < limit {
		msg, err := s.do(ctx, func(b rueidis.Builder) rueidis.Completed {
			return b.Zrangebyscore().Key(due).Min("-inf").Max(until).Limit(0, int64(limit-n)).Build()
		})
		if err != nil {
			return n, err
		}
		entries, err := msg.AsStrSlice()
		if err != nil || len(entries) == 0 {
			return n, err
		}
		gone, later, err := s.expired(ctx, entries, until)
		if err != nil {
			return n, err
		}
		var calls []call
		for entry, at := range later {
			calls = append(calls, call{cmd: func(b rueidis.Builder) rueidis.Completed {
				return b.Zadd().Key(due).Xx().ScoreMember().ScoreMember(at, entry).Build()
			}})
		}
		if len(gone) > 0 {
			calls = append(calls,
				call{cmd: func(b rueidis.Builder) rueidis.Completed { return b.Zrem().Key(all).Member(gone...).Build() }},
				call{cmd: func(b rueidis.Builder) rueidis.Completed { return b.Zrem().Key(due).Member(gone...).Build() }})
		}
		msgs, err := s.all(ctx, calls)
		if err != nil {
			return n, err
		}
		if len(gone) > 0 { // two sweepers count a session once: who took it out
			took, err := msgs[len(msgs)-1].AsInt64()
			if err != nil {
				return n, err
			}
			n += int(took)
		}
	}
	return n, nil
}

// expired deletes the records of entries that expired by until. It returns the
// entries of those that are gone, and when the others expire.
func (s *Store) expired(ctx context.Context, entries []string, until string) (gone []string, later map[string]float64, err error) {
	calls := make([]call, len(entries))
	for i, entry := range entries {
		id, created := parseEntry(entry)
		calls[i] = sweepScript.on(s.recordKey(id), until, strconv.FormatInt(created.UnixMicro(), 10))
	}
	msgs, err := s.all(ctx, calls)
	if err != nil {
		return nil, nil, err
	}
	later = map[string]float64{}
	for i, msg := range msgs {
		if msg.IsNil() {
			gone = append(gone, entries[i])
			continue
		}
		text, err := msg.ToString()
		if err != nil {
			return nil, nil, err
		}
		if later[entries[i]], err = strconv.ParseFloat(text, 64); err != nil {
			return nil, nil, err
		}
	}
	return gone, later, nil
}
