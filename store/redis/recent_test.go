package redis

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/crumb-go/crumb/internal/servers"
	"github.com/crumb-go/crumb/session"
)

// Whatever another process does to a session, one that remembers it is told.
func TestARememberedRecordIsNeverOlderThanTheServers(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s := openNew(t, url)
		other := openConfig(t, url, Config{KeyPrefix: s.cfg.KeyPrefix})
		update := func(c func(*session.Record) *session.Change) func(*session.Record) error {
			return func(rec *session.Record) error { return second(other.Update(t.Context(), rec, c(rec))) }
		}
		for name, do := range map[string]func(*session.Record) error{
			"a value":    update(func(*session.Record) *session.Change { return add(1) }),
			"a sign-in":  update(func(rec *session.Record) *session.Change { return signIn(rec, "ana") }),
			"a sign-out": update(func(rec *session.Record) *session.Change { return &session.Change{Now: rec.Seen, End: true} }),
			"a touch": func(rec *session.Record) error {
				return other.Touch(t.Context(), []session.Touch{{ID: rec.ID, Seen: rec.Seen.Add(time.Second)}})
			},
			"a deletion": func(rec *session.Record) error { return other.Delete(t.Context(), rec.ID) },
			"one of a stale base": update(func(rec *session.Record) *session.Change {
				if _, err := other.Update(t.Context(), rec, add(1)); err != nil {
					t.Error(err)
				}
				return add(1)
			}),
		} {
			t.Run(name, func(t *testing.T) {
				rec := visitor(strings.ReplaceAll(name, " ", "-"))
				mustCreate(t, s, rec)
				for range 2 { // from the server, and as it is remembered
					rec = mustLoad(t, s, rec.ID)
				}
				if mustLoad(t, s, rec.ID) != rec {
					t.Error("the record is not remembered")
				}
				if err := do(rec); err != nil {
					t.Fatal(err)
				}
				fresh, wantErr := openConfig(t, url, Config{KeyPrefix: s.cfg.KeyPrefix}).Load(t.Context(), rec.ID)
				for range 2 {
					if got, err := s.Load(t.Context(), rec.ID); !same(got, fresh) || !errors.Is(err, wantErr) {
						t.Errorf("loaded is %+v, %v, not %+v, %v", got, err, fresh, wantErr)
					}
				}
			})
		}
	})
}

// A client that mixed up its answers must not hand one visitor another's session,
// remembered or not.
func TestTheAnswerToAnotherLoadIsAnError(t *testing.T) {
	url, ok := servers.URL(servers.Redis)
	if !ok {
		return
	}
	s := openNew(t, url)
	mustCreate(t, s, visitor("a"), visitor("b"))
	mustLoad(t, s, "a")
	if err := s.client().Do(t.Context(), s.client().B().Rename().Key(s.recordKey("b")).Newkey(s.recordKey("a")).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if rec, err := s.Load(t.Context(), "a"); err == nil {
		t.Errorf("the record of b was loaded as that of a: %+v", rec)
	}
	ours := loadScript
	defer func() { loadScript = ours }()
	loadScript = newScript(`return "` + s.recent.get("a").facts + `0"`) // to somebody else's question
	if rec, err := s.Load(t.Context(), "a"); err == nil {
		t.Errorf("the facts of another record stood for %+v", rec)
	}
}

// A load of a remembered record is one command and brings no values, and a change of
// it is one more.
func TestALoadOfARememberedRecordBringsNoValues(t *testing.T) {
	if !needs(t, servers.Redis) {
		return
	}
	s, _ := openAlone(t)
	rec := visitor("a")
	mustCreate(t, s, rec)
	change := func() {
		t.Helper()
		if _, err := s.Update(t.Context(), mustLoad(t, s, rec.ID), add(1)); err != nil {
			t.Fatal(err)
		}
	}
	change() // and the server knows the scripts
	change()
	reset := s.client().B().Arbitrary("CONFIG", "RESETSTAT").Build()
	if err := s.client().Do(t.Context(), reset).Error(); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		change()
	}
	stats, err := s.client().Do(t.Context(), s.client().B().Info().Section("commandstats").Build()).ToString()
	if err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]string{"evalsha": "calls=200,", "hget": "calls=200,", "hset": "calls=100,"} {
		if !strings.Contains(stats, "cmdstat_"+command+":"+want) {
			t.Errorf("%s: not %s in\n%s", command, want, stats)
		}
	}
	if strings.Contains(stats, "hgetall") {
		t.Errorf("a record was sent:\n%s", stats)
	}
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	url, ok := servers.URL(servers.Redis)
	if !ok {
		return
	}
	s := openNew(t, url)
	large := visitor("large")
	large.Values = session.Values{{Key: "o.page", JSON: json.RawMessage(`"` + strings.Repeat("a", recentBytes) + `"`)}}
	mustCreate(t, s, large)
	if mustLoad(t, s, large.ID); s.recent.get(large.ID) != nil {
		t.Error("a large record is remembered")
	}
	for i := range 3 * recentPlaces {
		s.recent.put(new(encoder).known(visitor(fmt.Sprint(i))))
	}
	n := 0
	for i := range 3 * recentPlaces {
		if k := s.recent.get(session.ID(fmt.Sprint(i))); k != nil && k.rec.ID == session.ID(fmt.Sprint(i)) {
			n++
		}
	}
	if n > recentPlaces || n < recentPlaces/2 {
		t.Errorf("%d of %d records are remembered in %d places", n, 3*recentPlaces, recentPlaces)
	}
	mustCreate(t, s, visitor("a"))
	rec := mustLoad(t, s, "a")
	if _, err := s.Update(t.Context(), rec, &session.Change{Now: rec.Seen, End: true}); err != nil || s.recent.get("a") != nil {
		t.Errorf("what an ended session held is remembered (%v)", err)
	}
}
