package redis

import (
	"context"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// client is the connections that are in use.
func (s *Store) client() rueidis.Client { return *s.using.Load() }

const (
	renewEvery  = time.Second      // at most
	retireAfter = 10 * time.Second // calls that are under way have ended by then
)

// renewAfter has new connections made, which take the place of those in use, after a
// refusal that says that the server is a replica. After a failover a name may lead to
// another server, while the old primary keeps the connections that it has and would
// go on answering with what it knows. The refusal stays one: nothing happened.
//
// Of a Cluster the client asks by itself who is primary, and a client of the app's
// own is not ours to replace.
func (s *Store) renewAfter(err error) {
	if s.opt == nil || !isReplica(err) || s.renewing.Swap(true) {
		return
	}
	go s.renew()
}

func isReplica(err error) bool {
	re, ok := rueidis.IsRedisErr(err)
	// Before Redis 7 a script's own error stands around that of its command.
	return ok && (strings.Contains(re.Error(), "READONLY You can't write") || strings.HasPrefix(re.Error(), "MASTERDOWN "))
}

func (s *Store) renew() {
	var old rueidis.Client
	if client, err := dial(context.Background(), *s.opt); err == nil {
		old = *s.using.Swap(&client)
	} else {
		s.cfg.Logger.Debug("redis: the server is a replica, and there is no new connection", "err", err)
	}
	s.pause(renewEvery)
	s.renewing.Store(false)
	if old != nil {
		s.pause(retireAfter)
		old.Close()
	}
	if s.closed.Load() { // perhaps before the new connections were in use
		s.client().Close()
	}
}

// pause waits, but not for longer than the store is open.
func (s *Store) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.done:
	}
}
