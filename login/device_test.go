package login

import (
	"testing"
	"time"
)

func TestADeviceIsKnownToItsUserForHalfAYearAndUntilTheCredentialsChange(t *testing.T) {
	b := newBench(t)
	ann, bob := b.add("ann", rightHash()), b.add("bob", rightHash())
	cookie := b.newDevice(ann)
	if cookie == b.newDevice(ann) {
		t.Error("two devices are the same")
	}
	if !b.knowsDevice(ann, cookie) {
		t.Fatal("it is not known")
	}
	if b.knowsDevice(bob, cookie) {
		t.Error("it is known to another user")
	}
	if b.knowsDevice(nil, cookie) {
		t.Error("it is known to nobody")
	}
	for i := range []byte(cookie) {
		changed := []byte(cookie)
		changed[i] ^= 1
		if b.knowsDevice(ann, string(changed)) {
			t.Errorf("character %d may be another", i)
		}
	}
	for _, other := range []string{"", cookie + "A", cookie[:len(cookie)-1], cookie + "=", " " + cookie} {
		if b.knowsDevice(ann, other) {
			t.Errorf("%q is known", other)
		}
	}
	if other := newBench(t); other.knowsDevice(ann, cookie) {
		t.Error("it is known under other keys")
	}
	b.time.add(deviceLife - time.Second)
	if !b.knowsDevice(ann, cookie) {
		t.Error("it is not known a second before its time is over")
	}
	b.time.add(time.Second)
	if b.knowsDevice(ann, cookie) {
		t.Error("it is known after its time")
	}

	cookie = b.newDevice(ann)
	changed, err := b.tables.SetPassword(t.Context(), ann.ID, ann.Generation, rightHash())
	if err != nil || b.knowsDevice(changed, cookie) {
		t.Errorf("it is known after the password changed, %v", err)
	}
	cookie = b.newDevice(changed)
	if disabled, err := b.tables.SetDisabled(t.Context(), ann.ID, true); err != nil || b.knowsDevice(disabled, cookie) {
		t.Errorf("it is known after the user was disabled, %v", err)
	}
	enabled, err := b.tables.SetDisabled(t.Context(), ann.ID, false)
	if err != nil || b.knowsDevice(enabled, cookie) {
		t.Errorf("it is known when the user is enabled again, %v", err)
	}
}

func FuzzADeviceIsReadAsItWasWrittenAndNoneIsMadeUp(f *testing.F) {
	b := newBench(f)
	u := b.add("ann", "")
	genuine := b.newDevice(u)
	f.Add(genuine)
	f.Add("")
	f.Add(genuine[:74] + "_")
	f.Fuzz(func(t *testing.T, cookie string) {
		d, ok := parseDevice(cookie)
		if ok && d.String() != cookie {
			t.Errorf("%q is read as %q", cookie, d)
		}
		if b.knowsDevice(u, cookie) != (cookie == genuine) {
			t.Errorf("%q is known", cookie)
		}
	})
}
