package sqltest

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crumb-go/crumb/session"
)

func wrongTables(t *testing.T, e *Engine) {
	prefix := e.Prefix(t)
	open := func() error {
		st, err := e.Open(t.Context(), e.URL, prefix, slog.New(slog.DiscardHandler))
		if err == nil {
			return errors.Join(errors.New("it opened"), st.Close())
		}
		return err
	}
	if err := open(); !has(err, prefix, "crumb schema apply") {
		t.Errorf("without tables: %v", err)
	}
	e.apply(t, prefix)
	e.Query(t, "UPDATE "+prefix+"schema SET version = 2")
	if err := open(); !has(err, prefix, "version 2", "newer program") {
		t.Errorf("with tables of a newer program: %v", err)
	}
	if err := e.Apply(t.Context(), e.URL, prefix); !has(err, "version 2", "newer program") {
		t.Errorf("applying the schema over a newer one: %v", err)
	}
}

func applyTogether(t *testing.T, e *Engine) {
	prefix := e.Prefix(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := e.Apply(t.Context(), e.URL, prefix); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if versions := e.Query(t, "SELECT version FROM "+prefix+"schema"); !slices.Equal(versions, []string{"1"}) {
		t.Errorf("the versions are %q", versions)
	}
	e.open(t, e.URL, prefix)
}

func otherFormat(t *testing.T, e *Engine) {
	prefix := e.Prefix(t)
	e.apply(t, prefix)
	st := e.open(t, e.URL, prefix)
	rec, other := visitor(1), visitor(2)
	rec.User, other.User = "ana", "bob"
	create(t, st, rec, other)
	base := load(t, st, 1)
	e.Query(t, "UPDATE "+prefix+"sessions SET format = 2 WHERE id = '"+string(id(1))+"'")
	row := func() []string {
		return e.Query(t, fmt.Sprintf("SELECT concat(format, ' ', version, ' ', seen) FROM %ssessions WHERE id = '%s'", prefix, id(1)))
	}
	before := row()
	ctx := t.Context()
	_, errLoad := st.Load(ctx, id(1))
	_, errUpdate := st.Update(ctx, base, add())
	_, errEnd := st.Update(ctx, base, &session.Change{Now: now(), End: true})
	_, errUser := st.List(ctx, session.Query{User: "ana", Now: now()})
	_, errAll := st.List(ctx, session.Query{All: true, Now: now()})
	for what, err := range map[string]error{"Load": errLoad, "Update": errUpdate, "an end": errEnd, "List of the user": errUser, "List": errAll} {
		if !has(err, "format 2", string(id(1))) || errors.Is(err, session.ErrNotFound) || errors.Is(err, session.ErrUnknown) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := st.Create(ctx, rec); !errors.Is(err, session.ErrExists) {
		t.Errorf("Create: %v", err)
	}
	if err := st.Touch(ctx, []session.Touch{{ID: id(1), Seen: now().Add(time.Minute)}, {ID: id(2), Seen: now().Add(time.Minute)}}); err != nil {
		t.Errorf("Touch: %v", err)
	}
	if live, err := st.Check(ctx, now(), []session.ID{id(1), id(2)}); err != nil || len(live) != 1 {
		t.Errorf("Check: %v, %v", live, err)
	}
	if n, err := st.Sweep(ctx, now().Add(48*time.Hour), 10); n != 1 || err != nil {
		t.Errorf("Sweep deleted %d, %v; want the other row alone", n, err)
	}
	if after := row(); !slices.Equal(before, after) || len(after) != 1 {
		t.Errorf("the row was %q and is %q", before, after)
	}
	if err := st.Delete(ctx, id(1)); err != nil || len(row()) > 0 {
		t.Errorf("Delete: %v, leaves %q", err, row())
	}
}

func anyBytes(t *testing.T, e *Engine) {
	st := e.OpenNew(t)
	users := []string{"ana", "ana\x00", "ana\x00b", "\xff\xfe", "\xff", "aná", "Ana ", "an\\a", "ana' OR '1'='1", "\\", "\xbf\x27"}
	ctx := t.Context()
	for n, user := range users {
		rec := visitor(n)
		rec.User, rec.Agent = user, "agent "+user
		rec.Values = session.Values{{Key: "k." + user, JSON: []byte(`"` + strings.ReplaceAll(strings.ReplaceAll(user, "\x00", `\u0000`), `\`, `\\`) + `"`)}}
		create(t, st, rec)
		got := load(t, st, n)
		if got.User != user || got.Agent != rec.Agent || len(got.Values) != 1 || got.Values[0].Key != rec.Values[0].Key || string(got.Values[0].JSON) != string(rec.Values[0].JSON) {
			t.Errorf("%q came back as %q, %q, %q", user, got.User, got.Agent, got.Values)
		}
	}
	for n, user := range users {
		page, err := st.List(ctx, session.Query{User: user, Now: now()})
		if err != nil || len(page) != 1 || page[0].ID != id(n) || page[0].User != user {
			t.Errorf("the sessions of %q are %v, %v", user, page, err)
		}
	}
}

func longTexts(t *testing.T, e *Engine) {
	st := e.OpenNew(t)
	ctx := t.Context()
	create(t, st, visitor(1))
	user, agent := visitor(2), visitor(3)
	user.User = strings.Repeat("u", 1024)
	create(t, st, user)
	if got := load(t, st, 2); got.User != user.User {
		t.Errorf("a user of %d bytes came back with %d", len(user.User), len(got.User))
	}
	user, agent.Agent = visitor(4), strings.Repeat("a", 1025)
	user.User = strings.Repeat("u", 1025)
	long := visitor(5)
	long.ID = session.ID(strings.Repeat("i", 65))
	sign := &session.Change{
		Now:    now(),
		SignIn: &session.SignIn{User: user.User, At: now(), Idle: time.Hour, Absolute: now().Add(time.Hour)},
		Renew:  &session.Renew{From: visitor(1).Secret, To: visitor(9).Secret, OldUntil: now()},
	}
	_, errSign := st.Update(ctx, load(t, st, 1), sign)
	_, errSignLocked := st.Update(ctx, bare(1), sign)
	for what, err := range map[string]error{
		"a user": st.Create(ctx, user), "an agent": st.Create(ctx, agent), "an ID": st.Create(ctx, long),
		"a sign-in": errSign, "a sign-in that locks": errSignLocked,
	} {
		if !has(err, "bytes; the column holds") || errors.Is(err, session.ErrUnknown) {
			t.Errorf("%s that is too long: %v", what, err)
		}
	}
	if rec := load(t, st, 1); rec.User != "" || rec.Version != 0 {
		t.Errorf("the session is that of %.20q, version %d", rec.User, rec.Version)
	}
}

func erased(t *testing.T, e *Engine) {
	st := e.OpenNew(t)
	ctx := t.Context()
	rec := visitor(1)
	rec.Values = session.Values{{Key: "a.b", JSON: []byte(`"old"`)}}
	create(t, st, rec)
	base := load(t, st, 1)
	if err := st.Delete(ctx, id(1)); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*session.Record){
		"another secret": func(rec *session.Record) { rec.Secret[0]++ },
		"another time":   func(rec *session.Record) { rec.Absolute = rec.Absolute.Add(time.Microsecond) },
	} {
		anew := *rec
		anew.Values = nil
		change(&anew)
		create(t, st, &anew)
		got, err := st.Update(ctx, base, add())
		if err != nil || len(got.Values) != 1 || got.Values.Get("a.b") != nil {
			t.Errorf("%s: an update from before the erasure led to %v, %v", what, got, err)
		}
		if err := st.Delete(ctx, id(1)); err != nil {
			t.Fatal(err)
		}
	}
}

// A failover that loses a change leads to two states of one version: the lost one,
// which a slow request may still know, and the one of the change that came after.
func lostState(t *testing.T, e *Engine) {
	st := e.OpenNew(t)
	ctx := t.Context()
	rec := visitor(1)
	create(t, st, rec)
	change := func(base *session.Record, after time.Duration, key string) *session.Record {
		t.Helper()
		c := add()
		c.Auth, c.Seen, c.Ops[0].Key = base.Auth, rec.Seen.Add(after), key
		out, err := st.Update(ctx, base, c)
		if err != nil {
			t.Error(err)
			return base
		}
		return out
	}
	lost := change(rec, time.Second, "n.lost")
	if err := st.Delete(ctx, rec.ID); err != nil {
		t.Fatal(err)
	}
	create(t, st, rec)
	kept := change(rec, 2*time.Second, "n.kept")
	if lost.Version != kept.Version {
		t.Fatalf("versions %d and %d, not the same", lost.Version, kept.Version)
	}
	// Several at once, which are handed what the one before has made.
	const more = 20
	var wg sync.WaitGroup
	for i := range more {
		wg.Go(func() { change(lost, time.Duration(3+i)*time.Second, "n.n") })
	}
	wg.Wait()
	got := load(t, st, 1)
	if n := string(got.Values.Get("n.n")); n != fmt.Sprint(more) || string(got.Values.Get("n.kept")) != "1" || got.Values.Get("n.lost") != nil || got.Version != kept.Version+more {
		t.Errorf("after %d additions that knew the lost state there is %+v", more, got)
	}
}

func brokenRow(t *testing.T, e *Engine) {
	prefix := e.Prefix(t)
	e.apply(t, prefix)
	st := e.open(t, e.URL, prefix)
	create(t, st, visitor(1), visitor(2))
	for _, broken := range []string{
		"secret = 'short'", "old_secret = 'short'", "addr = 'nowhere'",
		e.Dialect.Quote + "values" + e.Dialect.Quote + ` = '{"a":'`,
	} {
		column, _, _ := strings.Cut(broken, " ")
		e.Query(t, fmt.Sprintf("UPDATE %ssessions SET %s WHERE id = '%s'", prefix, broken, id(1)))
		_, errLoad := st.Load(t.Context(), id(1))
		_, errUpdate := st.Update(t.Context(), bare(1), add())
		for _, err := range []error{errLoad, errUpdate} {
			if !has(err, string(id(1)), strings.Trim(column, e.Dialect.Quote)) || errors.Is(err, session.ErrUnknown) {
				t.Errorf("%s: %v", broken, err)
			}
		}
		load(t, st, 2)
		if err := st.Delete(t.Context(), id(1)); err != nil {
			t.Fatal(err)
		}
		create(t, st, visitor(1))
	}
}

func badPrefix(t *testing.T, e *Engine) {
	for _, prefix := range []string{"1a_", "a b", "a;--", `a"`, "a`", "ä_", strings.Repeat("p", 41)} {
		if _, err := e.Open(t.Context(), e.URL, prefix, nil); !has(err, "table prefix") {
			t.Errorf("%q: %v", prefix, err)
		}
		if err := e.Apply(t.Context(), e.URL, prefix); !has(err, "table prefix") {
			t.Errorf("%q: %v", prefix, err)
		}
	}
}

func closed(t *testing.T, e *Engine) {
	prefix := e.Prefix(t)
	e.apply(t, prefix)
	st := e.open(t, e.URL, prefix)
	create(t, st, visitor(1))
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Load(t.Context(), id(1)); err == nil || errors.Is(err, session.ErrNotFound) {
		t.Errorf("Load: %v", err)
	}
	if err := st.Create(t.Context(), visitor(2)); err == nil || errors.Is(err, session.ErrUnknown) {
		t.Errorf("Create: %v", err)
	}
}

func noTextID(t *testing.T, e *Engine) {
	st := e.OpenNew(t)
	create(t, st, visitor(1))
	ctx := t.Context()
	for _, id := range []session.ID{"\xff", "a\x00b", session.ID("Sqltest__0000001\x00")} {
		_, errLoad := st.Load(ctx, id)
		_, errUpdate := st.Update(ctx, &session.Record{Info: session.Info{ID: id}}, add())
		if !errors.Is(errLoad, session.ErrNotFound) || !errors.Is(errUpdate, session.ErrNotFound) {
			t.Errorf("%q: Load %v, Update %v", id, errLoad, errUpdate)
		}
		live, errCheck := st.Check(ctx, now(), []session.ID{id, visitor(1).ID})
		if errCheck != nil || len(live) != 1 {
			t.Errorf("%q: Check %v, %v", id, live, errCheck)
		}
		seen := now().Add(time.Minute)
		if err := st.Touch(ctx, []session.Touch{{ID: id, Seen: seen}, {ID: visitor(1).ID, Seen: seen}}); err != nil || !load(t, st, 1).Seen.Equal(seen) {
			t.Errorf("%q: Touch %v", id, err)
		}
		if err := st.Delete(ctx, id); err != nil {
			t.Errorf("%q: Delete %v", id, err)
		}
		rec := visitor(2)
		rec.ID = id
		if err := st.Create(ctx, rec); !has(err, "is no text") {
			t.Errorf("%q: Create %v", id, err)
		}
	}
	load(t, st, 1)
}
