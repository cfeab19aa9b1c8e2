package storetest

import (
	"strings"
	"testing"
	"time"

	"github.com/crumb-go/crumb/session"
)

func TestDumpsAreForPeople(t *testing.T) {
	at := time.Date(2026, 11, 22, 12, 0, 0, 1000, time.UTC)
	zeros := strings.Repeat("00", 31)
	for _, c := range []struct {
		v    any
		want string
	}{
		{(*session.Record)(nil), "nil"},
		{&session.Record{Info: session.Info{ID: "AAAAAAAAAAAAAAAA", Seen: at}, Secret: session.Hash{0xab}, Idle: time.Minute,
			Values: session.Values{{Key: "a", JSON: []byte(`"x"`)}}},
			`{ID:"AAAAAAAAAAAAAAAA" Seen:2026-11-22T12:00:00.000001Z Secret:ab` + zeros + ` Idle:1m0s Values:[{Key:"a" JSON:"\"x\""}]}`},
		{&session.Change{Renew: &session.Renew{To: session.Hash{1}}, Ops: []session.Op{{Key: "n", Delta: 2}}},
			`{Ops:[{Key:"n" Delta:2}] Renew:{To:01` + zeros + `}}`},
	} {
		if got := dump(c.v); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}
