package track

import (
	"reflect"
	"strings"
	"testing"

	"github.com/crumb-go/crumb/session"
)

func TestANoteIsReadAsItWasWritten(t *testing.T) {
	whole := entry{method: methodOf("GET"), name: "/products/{id}", extra: &extra{"https://search.example", "id=7"}, status: 200, took: 1234567}
	longDetail, longReferrer, longName := whole, whole, whole
	longDetail.extra = &extra{whole.extra.referrer, strings.Repeat("d", maxDetail)}
	longReferrer.extra = &extra{"https://" + strings.Repeat("r", 110), "id=7"}
	longName.name = "/" + strings.Repeat("\u00e9", 90)
	for _, c := range []struct {
		name string
		in   entry
		want entry
	}{
		{"whole", whole, whole},
		{"values of wildcards are too long", longDetail, entry{method: methodOf("GET"), name: whole.name, extra: &extra{whole.extra.referrer, ""}, status: 200, took: whole.took}},
		{"the referrer is too long", longReferrer, entry{method: methodOf("GET"), name: whole.name, status: 200, took: whole.took}},
		{"the route is too long", longName, entry{method: methodOf("GET"), name: longName.name[:99], status: 200, took: whole.took}},
	} {
		note := c.in.note()
		if got, ok := parseNote(note); !ok || !reflect.DeepEqual(got, c.want) || len(note) > session.MaxNote {
			t.Errorf("%s: %d bytes, %v %+v, want %+v", c.name, len(note), ok, got, c.want)
		}
	}
}

func FuzzNote(f *testing.F) {
	whole := entry{name: "/products/{id}", extra: &extra{"https://search.example", "id=7"}, status: 200, took: 1234567}
	good := whole.note()
	for _, seed := range [][]byte{good, good[:len(good)-1], nil, {200, 1, 0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1}} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, ok := parseNote(b)
		if !ok {
			return
		}
		if again, ok := parseNote(e.note()); !ok || len(b) <= session.MaxNote && !reflect.DeepEqual(again, e) {
			t.Errorf("%x is %+v, and then %+v", b, e, again)
		}
	})
}
