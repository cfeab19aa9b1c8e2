package redis

import (
	"testing"
	"time"

	"github.com/crumb-go/crumb/session"
)

// What decode takes, encode writes again as decode would take it.
func FuzzDecode(f *testing.F) {
	var e encoder
	rec := of("a", "ana")
	rec.Values = session.Values{{Key: "a.b", JSON: []byte("1")}, {Key: "a.c", JSON: []byte(`"x"`)}}
	rec.OldSecret, rec.Agent = session.Hash{7}, "agent"
	fields := e.encode(rec)
	f.Add(fields[1], fields[3], "ana", "192.0.2.1", "a.b", "1")
	f.Add("2 x", "", "", "", "", "")
	f.Add("1 -1 0 -1 0 0 0 0 0 0 0 1 ", "short", "", "fe80::1%eth0", ".", "\x00")
	f.Fuzz(func(t *testing.T, facts, secret, user, addr, key, value string) {
		in := []string{factsField, facts, secretField, secret, userField, user, "." + key, value}
		if addr != "" {
			in = append(in, addrField, addr)
		}
		var id session.ID
		for i := len(facts) - 1; i >= 0; i-- { // the ID is what stands behind the last number
			if facts[i] == ' ' {
				id = session.ID(facts[i+1:])
				break
			}
		}
		rec, err := decode(id, in)
		if err != nil {
			return
		}
		var e encoder
		out := e.encode(rec)
		if e.err != nil { // a time that no program of ours writes
			return
		}
		again, err := decode(id, out)
		if err != nil || !same(again, rec) {
			t.Fatalf("%q became %+v and then %+v, %v", in, rec, again, err)
		}
	})
}

func TestATimeThatTheScriptsCannotCountIsRefused(t *testing.T) {
	for _, at := range []time.Time{time.Date(1969, 12, 31, 23, 59, 59, 0, time.UTC), time.Date(2256, 1, 1, 0, 0, 0, 0, time.UTC)} {
		var e encoder
		rec := visitor("a")
		rec.Absolute = at
		if e.encode(rec); e.err == nil {
			t.Errorf("%s is taken", at)
		}
	}
	var e encoder
	rec := visitor("a")
	rec.Idle = -1
	if e.encode(rec); e.err == nil {
		t.Error("a negative idle time is taken")
	}
}

// Redis drops a record by itself between an hour and an hour and ten minutes after
// it has expired, whatever moved that time.
func TestRedisDropsARecordAnHourAfterItExpired(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s := openNew(t, url)
		rec := visitor("a")
		mustCreate(t, s, rec)
		check := func(what string) {
			t.Helper()
			rec = mustLoad(t, s, rec.ID)
			at, err := s.client().Do(t.Context(), s.client().B().Pexpiretime().Key(s.recordKey(rec.ID)).Build()).AsInt64()
			if stays := time.UnixMilli(at).Sub(rec.Expires); err != nil || stays < time.Hour || stays > time.Hour+10*time.Minute {
				t.Errorf("after %s the record stays for %s after it has expired, %v", what, stays, err)
			}
		}
		check("its creation")
		later := func(d time.Duration) *session.Change {
			return &session.Change{Now: rec.Seen, Auth: rec.Auth, Seen: rec.Seen.Add(d)}
		}
		change := func(what string, base *session.Record, c *session.Change) {
			t.Helper()
			if _, err := s.Update(t.Context(), base, c); err != nil {
				t.Fatal(err)
			}
			check(what)
		}
		for _, d := range []time.Duration{time.Second, 25 * time.Minute} {
			change("an update", rec, later(d))
			change("an update without a base", &session.Record{Info: rec.Info}, later(d))
			if err := s.Touch(t.Context(), []session.Touch{{ID: rec.ID, Seen: rec.Seen.Add(d)}}); err != nil {
				t.Fatal(err)
			}
			check("a touch")
		}
		in := signIn(rec, "ana")
		in.SignIn.Idle = 5 * time.Minute
		change("a sign-in", rec, in)
		change("its end", rec, &session.Change{Now: rec.Seen, End: true})
	})
}
