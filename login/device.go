package login

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/crumb-go/crumb/keyring"
)

// A device is what the cookie says by which a browser is known as one that a user
// has signed in with. It signs nobody in: it has tries of its own, so that
// strangers who guess cannot keep the owner out.
type device struct {
	id      [deviceID]byte
	expires int64 // seconds since 1970
	mac     [keyring.MACSize]byte
}

const (
	deviceID   = 12
	deviceSize = deviceID + 8 + keyring.MACSize
)

// newDevice returns the value of the cookie for a browser that u has just signed in
// with. It counts for 180 days, and until the credentials of u change.
func (l *Login) newDevice(u *User) string {
	d := device{expires: l.now().Add(deviceLife).Unix()}
	rand.Read(d.id[:])
	copy(d.mac[:], l.cfg.Keys.MAC(devicePurpose, d.parts(u)...))
	return d.String()
}

const devicePurpose = "login.device"

// parts are what the code is over.
func (d device) parts(u *User) [][]byte {
	return [][]byte{[]byte(u.ID), binary.BigEndian.AppendUint64(nil, uint64(u.Generation)), d.id[:], binary.BigEndian.AppendUint64(nil, uint64(d.expires))}
}

func (d device) String() string {
	b := binary.BigEndian.AppendUint64(d.id[:], uint64(d.expires))
	return base64.RawURLEncoding.EncodeToString(append(b, d.mac[:]...))
}

// parseDevice reads the value of a cookie. Whether it is genuine is not known yet.
func parseDevice(value string) (d device, ok bool) {
	if len(value) != base64.RawURLEncoding.EncodedLen(deviceSize) {
		return d, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(value)
	if err != nil {
		return d, false
	}
	copy(d.id[:], b)
	d.expires = int64(binary.BigEndian.Uint64(b[deviceID:]))
	copy(d.mac[:], b[deviceID+8:])
	return d, true
}

// knownDevice returns the device that the cookie proves, if it is one of u.
func (l *Login) knownDevice(u *User, cookie string) (device, bool) {
	d, ok := parseDevice(cookie)
	if !ok || u == nil || !l.now().Before(time.Unix(d.expires, 0)) || !l.cfg.Keys.Verify(devicePurpose, d.mac[:], d.parts(u)...) {
		return device{}, false
	}
	return d, true
}

// knowsDevice reports whether the cookie is that of a browser that u has signed in
// with.
func (l *Login) knowsDevice(u *User, cookie string) bool {
	_, ok := l.knownDevice(u, cookie)
	return ok
}
