package redis

import (
	"hash/maphash"
	"sync/atomic"

	"github.com/crumb-go/crumb/session"
)

// A known record is one as the server has or had it.
type known struct {
	rec   *session.Record
	facts string // the field of rec
}

func (e *encoder) known(rec *session.Record) *known { return &known{rec, e.facts(rec)} }

// What a load costs is mostly what it brings: the record comes value by value, is
// taken apart and put together. Visitors ask several times in a row, and so the
// store remembers the records it knew last. A load shows the server the facts of the
// one it remembers, and is sent the record only if they are no longer those. Equal
// facts are the same state, as for a change: see update.
//
// Each session has one of these places, by its ID, and shares it with others:
// nothing is locked, counted or cleaned up.
type recent struct {
	seed   maphash.Seed
	places [recentPlaces]atomic.Pointer[known]
}

// They bound what is remembered to 16 MB of values, and to as much again for what
// records have besides.
const (
	recentPlaces = 4096
	recentBytes  = 4096 // of the values of a record
	valueBytes   = 64   // that a value takes besides itself
)

func (r *recent) place(id session.ID) *atomic.Pointer[known] {
	return &r.places[maphash.String(r.seed, string(id))%recentPlaces]
}

// get returns the record of id as it was last known, or nil.
func (r *recent) get(id session.ID) *known {
	if k := r.place(id).Load(); k != nil && k.rec.ID == id {
		return k
	}
	return nil
}

// put remembers k if it is small, and forgets what had its place.
func (r *recent) put(k *known) {
	place := r.place(k.rec.ID)
	if size(k.rec.Values)+valueBytes*int64(len(k.rec.Values)) > recentBytes {
		k = nil
	}
	place.Store(k)
}

// forget makes no promise: a call that is under way may remember it again.
func (r *recent) forget(id session.ID) {
	if k := r.get(id); k != nil {
		r.place(id).CompareAndSwap(k, nil)
	}
}

// known returns rec with its facts.
func (s *Store) known(e *encoder, rec *session.Record) *known {
	if k := s.recent.get(rec.ID); k != nil && k.rec == rec {
		return k
	}
	return e.known(rec)
}
