package storetest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/crumb-go/crumb/session"
)

// users are names that a collation, a trim or a normalization would mix.
var users = []string{"ana", "Ana ", "Ana", "ana ", "aná", "ana\u0301", "ANA", "an_", "an%", "ａｎａ", "straße", "strasse", "0", "00"}

var listChecks = []check{{
	name: "users are compared byte for byte",
	rule: "the sessions of a user are those of exactly this name: no case folding, trimming, normalization or pattern",
	from: "Lister.List; docs/design.md#a-record-a-change-a-store",
	run: func(t *tester) {
		l := t.lister()
		var recs []*session.Record
		for i := range users {
			recs = append(recs, t.visitor(i), t.of(100+i, users[i]))
		}
		recs = append(recs, t.visitor(200))
		t.create(recs...)
		for i, user := range users {
			t.update(bare(i), t.signIn(user, secret(i), secret(1000+i)))
		}
		for i, user := range users {
			t.lists(l, session.Query{User: user}, id(i), id(100+i))
		}
		t.lists(l, session.Query{User: "nobody"})
		t.lists(l, session.Query{User: "an"})
	},
}, {
	name: "a query for neither a user nor all is an error",
	rule: "an anonymous visitor never lists everybody: a Query needs either a User or All",
	from: "session.Query",
	run: func(t *tester) {
		l := t.lister()
		t.create(t.visitor(1), t.of(2, "ana"))
		for _, q := range []session.Query{{}, {All: true, User: "ana"}} {
			q.Limit, q.Now = 10, t.now
			if infos, err := l.List(t.ctx, q); err == nil {
				t.Fatalf("List with All %t and User %q returned no error and %d sessions", q.All, q.User, len(infos))
			}
		}
	},
}, {
	name: "a list says all that is known but values",
	rule: "List returns the Info of each record, every field of it",
	from: "Lister.List",
	run: func(t *tester) {
		l := t.lister()
		rec := t.full(1)
		t.create(rec, t.visitor(2))
		for _, q := range []session.Query{{User: "ana", Limit: 1, Now: t.now}, {All: true, Limit: 9, Now: t.now}} {
			infos, err := l.List(t.ctx, q)
			if err != nil || len(infos) == 0 {
				t.Fatalf("List: %v, %v", infos, err)
			}
			i := slices.IndexFunc(infos, func(in session.Info) bool { return in.ID == rec.ID })
			if i < 0 {
				t.Fatalf("List leaves out %s", rec.ID)
			}
			if d := diffInfo(&infos[i], &rec.Info); len(d) > 0 {
				t.Fatalf("the listed session differs: %s", d)
			}
		}
	},
}, {
	name: "a list leaves out what has ended or expired",
	rule: "List returns records that live at Query.Now: one that expires then does not, nor one that was ended by a process whose clock is ahead",
	from: "Lister.List, Record.Live",
	run: func(t *tester) {
		l := t.lister()
		expired, ending, last := t.of(1, "ana"), t.of(2, "ana"), t.of(3, "ana")
		expired.Seen, expired.Expires = t.now.Add(-time.Hour), t.now
		last.Seen, last.Expires = t.now.Add(-time.Hour+time.Microsecond), t.now.Add(time.Microsecond)
		// Ended ahead of the clock that asks, with the user still in it, as no
		// Update leaves it, so that it is the state that keeps it out.
		ahead := t.of(4, "ana")
		ahead.Idle, ahead.Expires, ahead.Absolute = 0, t.now.Add(time.Minute), t.now.Add(time.Minute)
		t.create(expired, ending, last, ahead)
		t.update(ending, &session.Change{Now: t.now.Add(time.Minute), End: true})
		t.lists(l, session.Query{User: "ana"}, last.ID)
		t.lists(l, session.Query{All: true}, last.ID)
		q := session.Query{User: "ana", Limit: 10, Now: t.now.Add(-time.Microsecond)}
		if infos, err := l.List(t.ctx, q); err != nil || len(infos) != 2 {
			t.Fatalf("a microsecond earlier List: %v, %v, want %s and %s", infos, err, expired.ID, last.ID)
		}
	},
}, {
	name: "a session is under its user from sign-in to end",
	rule: "a signed-in session appears under its user at once and no longer once it has ended or is deleted",
	from: "Lister.List; docs/design.md#a-record-a-change-a-store",
	run: func(t *tester) {
		l := t.lister()
		ana := session.Query{User: "ana"}
		t.create(t.visitor(1), t.visitor(2), t.of(3, "ana"))
		t.lists(l, ana, id(3))
		t.update(bare(1), t.signIn("ana", secret(1), secret(11)))
		t.lists(l, ana, id(1), id(3))
		t.update(bare(2), t.signIn("ana", secret(2), secret(12)))
		t.lists(l, ana, id(1), id(2), id(3))
		stepUp := t.signIn("ana", secret(12), secret(13))
		stepUp.Auth = 1
		t.update(bare(2), stepUp)
		t.lists(l, ana, id(1), id(2), id(3))
		t.update(bare(3), &session.Change{Now: t.now, End: true})
		t.lists(l, ana, id(1), id(2))
		if err := t.store.Delete(t.ctx, id(1)); err != nil {
			t.Fatalf("Delete: %v", err)
		}
		t.lists(l, ana, id(2))
		t.create(t.visitor(1))
		t.lists(l, ana, id(2))
		t.update(bare(2), &session.Change{Now: t.now, End: true})
		t.lists(l, ana)
		t.lists(l, session.Query{All: true}, id(1))
	},
}, {
	name: "pages come newest first and do not overlap",
	rule: "List returns at most Query.Limit records, newest Created first and then by ID, ascending; the next page begins after the last of this one",
	from: "Lister.List, Query.IsAfter",
	run: func(t *tester) {
		l := t.lister()
		recs := t.crowd(47)
		for _, limit := range []int{1, 7, 10, 46, 47, 48, 1000} {
			t.listsInPages(l, session.Query{All: true}, limit, recs)
		}
		ana := slices.DeleteFunc(slices.Clone(recs), func(rec *session.Record) bool { return rec.User != "ana" })
		for _, limit := range []int{1, 7, 1000} {
			t.listsInPages(l, session.Query{User: "ana"}, limit, ana)
		}
	},
}, {
	name: "a list goes on while its sessions are deleted",
	rule: "a caller who ends or deletes the sessions of a page finds the others on the next ones, each once",
	from: "Query.After; docs/design.md#a-record-a-change-a-store",
	run: func(t *tester) {
		l := t.lister()
		recs := t.crowd(40)
		q := session.Query{All: true, Limit: 9, Now: t.now}
		var got []session.ID
		for range len(recs) {
			infos, err := l.List(t.ctx, q)
			if err != nil {
				t.Fatalf("List: %v", err)
			}
			for i, in := range infos {
				got = append(got, in.ID)
				if i%2 == 0 {
					err = t.store.Delete(t.ctx, in.ID)
				} else {
					_, err = t.store.Update(t.ctx, &session.Record{Info: in}, &session.Change{Now: t.now, End: true})
				}
				if err != nil {
					t.Fatalf("deleting or ending a listed session: %v", err)
				}
			}
			if len(infos) < q.Limit {
				break
			}
			q.After = &infos[len(infos)-1]
		}
		if want := ids(recs); !slices.Equal(got, want) {
			t.Fatalf("listed were\n%v, not\n%v", got, want)
		}
		t.lists(l, session.Query{All: true})
	},
}, {
	name: "a list holds up no one who deletes or writes",
	rule: "lists, updates and deletes at once all succeed, and a session that lives all the time is in every list",
	from: "Lister.List; docs/design.md#a-record-a-change-a-store",
	run: func(t *tester) {
		l := t.lister()
		recs := t.crowd(30)
		stays := t.of(1000, "ana")
		stays.Created = t.now.Add(time.Hour)
		t.create(stays)
		const lists, most = 20, 2000
		var listed atomic.Int32
		together(5, func(i int) {
			if i < 2 {
				q := []session.Query{{All: true}, {User: "ana"}}[i]
				q.Limit, q.Now = 5, t.now
				for range lists {
					infos, err := l.List(t.ctx, q)
					if err != nil || len(infos) == 0 || infos[0].ID != stays.ID {
						t.Errorf("List: %v, %v, want %s first", infos, err, stays.ID)
					}
					listed.Add(1)
				}
				return
			}
			for n := i - 2; n < most && listed.Load() < 2*lists; n += 3 {
				rec := recs[n%len(recs)]
				_, err := t.store.Update(t.ctx, rec, &session.Change{Now: t.now, Auth: rec.Auth, Ops: []session.Op{set("a.b", "1")}})
				if err = errors.Join(err, t.store.Delete(t.ctx, rec.ID), t.store.Create(t.ctx, rec)); err != nil {
					t.Errorf("Update, Delete and Create: %v", err)
				}
			}
		})
		t.lists(l, session.Query{All: true}, ids(append([]*session.Record{stays}, recs...))...)
	},
}}

// crowd creates n records, many of them created in the same microsecond, every
// third signed in as ana, and returns them in the order of a list.
func (t *tester) crowd(n int) []*session.Record {
	t.Helper()
	var recs []*session.Record
	for i := range n {
		rec := t.visitor(i * 7919 % 1000)
		if i%3 == 0 {
			rec = t.of(i*7919%1000, "ana")
		}
		rec.Created = t.now.Add(-time.Duration(i*31%11) * time.Microsecond)
		recs = append(recs, rec)
	}
	t.create(recs...)
	slices.SortFunc(recs, func(a, b *session.Record) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
	})
	return recs
}

// lists checks that q finds exactly these sessions, all created at once.
func (t *tester) lists(l session.Lister, q session.Query, want ...session.ID) {
	t.Helper()
	q.Limit, q.Now = 1000, t.now
	infos, err := l.List(t.ctx, q)
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	var got []session.ID
	for _, in := range infos {
		got = append(got, in.ID)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("List of %s is %v, not %v", of(q), got, want)
	}
}

func (t *tester) listsInPages(l session.Lister, q session.Query, limit int, want []*session.Record) {
	t.Helper()
	q.Limit, q.Now = limit, t.now
	var got []session.ID
	for {
		infos, err := l.List(t.ctx, q)
		if err != nil {
			t.Fatalf("List: %v", err)
		}
		if len(infos) > limit {
			t.Fatalf("a page of at most %d sessions holds %d", limit, len(infos))
		}
		for _, in := range infos {
			got = append(got, in.ID)
		}
		if len(infos) < limit || len(got) > len(want) {
			break
		}
		q.After = &infos[limit-1]
	}
	if !slices.Equal(got, ids(want)) {
		t.Fatalf("List of %s in pages of %d is\n%v, not\n%v", of(q), limit, got, ids(want))
	}
}

func of(q session.Query) string {
	if q.All {
		return "all"
	}
	return fmt.Sprintf("user %q", q.User)
}

func ids(recs []*session.Record) (ids []session.ID) {
	for _, rec := range recs {
		ids = append(ids, rec.ID)
	}
	return ids
}
