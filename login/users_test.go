package login

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/text/unicode/norm"
)

func TestTheUsersTableKeepsWhatItIsTold(t *testing.T) {
	onEach(t, func(t *testing.T, url string, cfg TablesConfig) {
		b := newBenchOn(t, url, cfg)
		ctx, now := t.Context(), b.now()
		u := b.add("Zoë@Example.org", rightHash())
		if u.ID == "" || u.Name != "Zoë@Example.org" || u.Created != now || u.Changed != now || !u.SignedIn.IsZero() {
			t.Errorf("%+v", u)
		}
		same := func(what string, load func() (*User, error)) {
			t.Helper()
			if got, err := load(); err != nil || *got != *u {
				t.Errorf("%s: %+v, %v; not %+v", what, got, err, u)
			}
		}
		same("by name", func() (*User, error) { return b.tables.ByName(ctx, "zoë@example.org") })
		same("by ID", func() (*User, error) { return b.tables.ByID(ctx, u.ID) })
		for _, other := range []string{"Zoë@Example.org", "zoe@example.org", norm.NFD.String("zoë@example.org"), "zoë@example.org ", "", "zoë"} {
			if got, err := b.tables.ByName(ctx, other); !errors.Is(err, ErrNoUser) {
				t.Errorf("by the name %q: %+v, %v", other, got, err)
			}
		}
		for _, other := range []string{strings.ToUpper(u.ID), u.ID + " ", ""} {
			if got, err := b.tables.ByID(ctx, other); !errors.Is(err, ErrNoUser) {
				t.Errorf("by the ID %q: %+v, %v", other, got, err)
			}
		}

		b.time.add(time.Hour)
		changed, err := b.tables.SetPassword(ctx, u.ID, u.Generation, "")
		if err != nil || changed.Hash != "" || changed.Generation != u.Generation+1 || changed.Changed != b.now() || changed.Created != now {
			t.Errorf("without a password: %+v, %v", changed, err)
		}
		for what, write := range map[string]func() error{
			"SetPassword": func() error { _, err := b.tables.SetPassword(ctx, u.ID, u.Generation, "x"); return err },
			"Delete":      func() error { return b.tables.Delete(ctx, u.ID, u.Generation) },
		} {
			if err := write(); !errors.Is(err, ErrChanged) {
				t.Errorf("%s on a row that was read before the change: %v", what, err)
			}
		}
		u = changed
		same("after writes that came too late", func() (*User, error) { return b.tables.ByID(ctx, u.ID) })
		if err := b.tables.Rehash(ctx, u.ID, "another", "new"); err != nil {
			t.Error(err)
		}
		same("after a rehash of what it was not", func() (*User, error) { return b.tables.ByID(ctx, u.ID) })
		if err := b.tables.Rehash(ctx, u.ID, "", rightHash()); err != nil {
			t.Error(err)
		}
		u.Hash = rightHash()
		same("after a rehash", func() (*User, error) { return b.tables.ByID(ctx, u.ID) })
		for _, at := range []time.Time{b.now(), now} { // the later one counts
			if err := b.tables.SignedIn(ctx, u.ID, at); err != nil {
				t.Error(err)
			}
		}
		u.SignedIn = b.now()
		same("after a sign-in", func() (*User, error) { return b.tables.ByID(ctx, u.ID) })

		u.Disabled, u.Generation = true, u.Generation+1
		same("disabled", func() (*User, error) { return b.tables.SetDisabled(ctx, u.ID, true) })
		u.Disabled = false
		same("enabled", func() (*User, error) { return b.tables.SetDisabled(ctx, u.ID, false) })

		if err := b.tables.Delete(ctx, u.ID, u.Generation); err != nil {
			t.Error(err)
		}
		if err := b.tables.Delete(ctx, u.ID, u.Generation); !errors.Is(err, ErrChanged) {
			t.Errorf("a second deletion: %v", err)
		}
		if got, err := b.tables.SetPassword(ctx, u.ID, u.Generation, "x"); !errors.Is(err, ErrChanged) || got != nil {
			t.Errorf("a password of a deleted user: %+v, %v", got, err)
		}
		for what, load := range map[string]func() (*User, error){
			"ByID":        func() (*User, error) { return b.tables.ByID(ctx, u.ID) },
			"SetDisabled": func() (*User, error) { return b.tables.SetDisabled(ctx, u.ID, true) },
		} {
			if got, err := load(); !errors.Is(err, ErrNoUser) || got != nil {
				t.Errorf("%s of a deleted user: %+v, %v", what, got, err)
			}
		}
		if again := b.add("Zoë@Example.org", ""); again.ID == u.ID {
			t.Error("an ID was used again")
		}
	})
}

func TestOfTwoWhoRegisterOneNameOneGetsIt(t *testing.T) {
	onEach(t, func(t *testing.T, url string, cfg TablesConfig) {
		b := newBenchOn(t, url, cfg)
		var got, taken atomic.Int32
		var wg sync.WaitGroup
		for n := range 8 {
			wg.Go(func() {
				name := "ann"
				if n%2 == 1 {
					name = "ＡＮＮ"
				}
				canonical, err := Canonical(name)
				if err == nil {
					_, err = b.tables.Add(t.Context(), name, canonical, rightHash())
				}
				switch {
				case err == nil:
					got.Add(1)
				case errors.Is(err, ErrNameTaken):
					taken.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got.Load() != 1 || taken.Load() != 7 {
			t.Errorf("%d got it, %d were told that it is taken", got.Load(), taken.Load())
		}
		if err := b.try("Ann", rightPassword); err != nil {
			t.Error(err)
		}
		if u, err := b.register(t.Context(), "Carl", rightPassword); err != nil || u.Name != "Carl" || b.try("carl", rightPassword) != nil {
			t.Errorf("%+v, %v", u, err)
		}
		if _, err := b.register(t.Context(), "CARL", rightPassword); !errors.Is(err, ErrNameTaken) {
			t.Errorf("a second Carl: %v", err)
		}
		for name, password := range map[string]string{"a b": rightPassword, "": rightPassword, "bob": "short", "crumbs.in.every.corner": rightPassword} {
			_, err := b.register(t.Context(), name, password)
			if badName := errors.Is(err, errBadName); err == nil || badName != (name == "" || name == "a b") || badName == errors.As(err, new(*PasswordError)) {
				t.Errorf("%q: %v", name, err)
			}
		}
	})
}

func TestUsersAreListedInTheOrderOfTheirNames(t *testing.T) {
	onEach(t, func(t *testing.T, url string, cfg TablesConfig) {
		b := newBenchOn(t, url, cfg)
		for _, name := range []string{"zoë", "Bob", "ann", "zoe", "a-z", "_x"} {
			b.add(name, "")
		}
		var names []string
		for after := ""; ; {
			list, err := b.tables.List(t.Context(), after, 2)
			if err != nil {
				t.Fatal(err)
			}
			if len(list) == 0 {
				break
			}
			for _, u := range list {
				names = append(names, u.Name)
				after, _ = Canonical(u.Name)
			}
		}
		if got := strings.Join(names, " "); got != "_x a-z ann Bob zoe zoë" {
			t.Errorf("the order is %s", got)
		}
	})
}

func TestASignInIsNotedAndADisableBetweenIsSeen(t *testing.T) {
	b := newBench(t)
	u := b.add("ann", rightHash())
	if err := b.try("ann", rightPassword); err != nil {
		t.Fatal(err)
	}
	now, err := b.tables.ByID(t.Context(), u.ID)
	if err != nil || now.SignedIn != b.now() || now.Generation != u.Generation {
		t.Errorf("%+v, %v", now, err)
	}
	if _, err := b.tables.SetDisabled(t.Context(), u.ID, true); err != nil {
		t.Fatal(err)
	}
	if got, err := b.verify(t.Context(), attempt{name: "ann", password: rightPassword}); !errors.Is(err, errWrong) || got == nil || !got.Disabled {
		t.Errorf("disabled: %+v, %v", got, err)
	}
}

func TestTablesThatAreNotThereOnAServerSayWhatToRun(t *testing.T) {
	onEach(t, func(t *testing.T, url string, cfg TablesConfig) {
		if strings.HasPrefix(url, "sqlite:") {
			return // which creates them
		}
		_, err := OpenTables(t.Context(), url, cfg)
		if err == nil || !strings.Contains(err.Error(), "crumb schema apply") || !strings.Contains(err.Error(), cfg.TablePrefix) {
			t.Errorf("the error is %v", err)
		}
		if v, err := Status(t.Context(), url, cfg); v != 0 || err != nil {
			t.Errorf("version %d, %v", v, err)
		}
		for range 2 {
			if err := ApplySchema(t.Context(), url, cfg); err != nil {
				t.Fatal(err)
			}
		}
		if v, err := Status(t.Context(), url, cfg); v != SchemaVersion || err != nil {
			t.Errorf("version %d, %v", v, err)
		}
	})
	for _, d := range []Dialect{SQLite, Postgres, MySQL} {
		if text := Schema(d, "x_"); strings.Count(text, "x_users") == 0 || strings.Contains(text, "crumb_") || !strings.Contains(text, fmt.Sprintf("VALUES (%d)", SchemaVersion)) {
			t.Errorf("%s: %s", d, text)
		}
	}
	if text := Schema("oracle", ""); text != "" {
		t.Error(text)
	}
}

func TestTablesStandInADatabaseOfTheApps(t *testing.T) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "app.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tables, err := NewTables(t.Context(), db, SQLite, TablesConfig{TablePrefix: "shop_"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tables.Add(t.Context(), "ann", "ann", ""); err != nil {
		t.Fatal(err)
	}
	if err := tables.Close(); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := db.QueryRow("SELECT count(*) FROM shop_users").Scan(&n); n != 1 || err != nil {
		t.Errorf("%d users, %v", n, err)
	}
	for _, bad := range []TablesConfig{{TablePrefix: "a b"}, {AuditFor: -1}, {MaxCounters: -1}} {
		if _, err := NewTables(t.Context(), db, SQLite, bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	if _, err := NewTables(t.Context(), db, "oracle", TablesConfig{}); err == nil {
		t.Error("a dialect that there is not was taken")
	}
}

// ownUsers are users of an app, in a table of its own.
type ownUsers struct {
	Users
	err error
}

func (o *ownUsers) ByName(ctx context.Context, canonical string) (*User, error) {
	if o.err != nil {
		return nil, o.err
	}
	return o.Users.ByName(ctx, canonical)
}

func TestADatabaseThatDoesNotAnswerIsNeitherWrongNorThrottled(t *testing.T) {
	b := newBench(t)
	b.add("ann", rightHash())
	own := &ownUsers{Users: b.users, err: errors.New("no answer")}
	b.users = own
	if err := b.try("ann", rightPassword); !errors.Is(err, own.err) {
		t.Errorf("the users: %v", err)
	}
	own.err = nil
	if err := b.try("ann", rightPassword); err != nil {
		t.Errorf("users who are no SignInRecorder: %v", err)
	}
	if _, err := b.register(t.Context(), "bob", rightPassword); err == nil || errors.As(err, new(*PasswordError)) {
		t.Errorf("users who are no Registrar: %v", err)
	}
	if err := b.tables.Close(); err != nil {
		t.Fatal(err)
	}
	own.Users = &stillUsers{hash: rightHash()}
	b.hashed()
	if err := b.try("ann", rightPassword); err == nil || errors.Is(err, errWrong) || errors.As(err, new(*Throttled)) {
		t.Errorf("the counters: %v", err)
	}
	if hashes := b.hashed(); len(hashes) != 0 {
		t.Errorf("without counters %d passwords were looked at", len(hashes))
	}
}

func TestUsersOfAnAppThatHaveNoUsableNamesAreCountedApart(t *testing.T) {
	b := newBench(t)
	ann, bob := &User{ID: "1", Name: "Ann of the App"}, &User{ID: "2"}
	for _, u := range []*User{ann, bob} {
		if _, err := b.verifyCurrent(t.Context(), u, "guess", "", loopback); !errors.Is(err, errWrong) {
			t.Errorf("%+v: %v", u, err)
		}
	}
	if _, err := b.verifyCurrent(t.Context(), ann, "guess", "", loopback); after(t, err) != firstPause {
		t.Error(err)
	}
}

// stillUsers is one user, in memory.
type stillUsers struct {
	Users
	hash string
}

func (s *stillUsers) ByName(context.Context, string) (*User, error) {
	return &User{ID: "1", Name: "ann", Hash: s.hash}, nil
}
