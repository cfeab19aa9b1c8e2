// Package keyring keeps the secret keys of an app in a file of its own, away
// from the database: whoever reads the database can neither forge what these keys
// authenticate nor read what they seal.
//
// The file is text, one key a line, the newest first. Each key serves many
// purposes: what is used is derived from it with HKDF-SHA256 (RFC 5869), so that
// purposes share nothing.
package keyring

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"
)

// A Ring holds the keys of one file. What a key has made, the ring knows for as
// long as the key stays in the file. It is safe for use by several goroutines.
type Ring struct {
	path string

	mu     sync.Mutex  // guards what follows
	keys   []key       // the newest first, never none
	read   fs.FileInfo // of the file the keys came from
	looked time.Time   // when the file was last looked at
}

// A running process looks for a rotated file so often; and at most so often when
// it meets a key it does not know, since anybody can make up the name of a key.
const (
	lookEvery   = time.Minute
	lookUnknown = time.Second
)

// Open reads the ring at path. If there is no file it makes one with a new key,
// readable by its owner alone; of several processes that start at once one makes
// it and all use it. A file that others than its owner may read is refused.
func Open(path string) (*Ring, error) {
	if path == "" {
		return nil, errors.New("keyring: no file is named; name one outside of what the web server serves, such as crumb.keys")
	}
	keys, info, err := load(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := create(path); err != nil {
			return nil, err
		}
		keys, info, err = load(path)
	}
	if err != nil {
		return nil, err
	}
	return &Ring{path: path, keys: keys, read: info, looked: time.Now()}, nil
}

// MACSize is the length of what [Ring.MAC] returns, in bytes.
const MACSize = idSize + sha256.Size

// MAC returns a message authentication code (HMAC-SHA256) over parts under the
// newest key, with the name of that key before it. A code made for one purpose is
// none for another, and the bounds between parts count.
func (r *Ring) MAC(purpose string, parts ...[]byte) []byte {
	return r.current()[0].mac(purpose, parts)
}

// MACs returns the code over parts under each key, the newest first: what was
// stored under a code before a rotation is found by one of the others.
func (r *Ring) MACs(purpose string, parts ...[]byte) [][]byte {
	keys := r.current()
	macs := make([][]byte, len(keys))
	for i, k := range keys {
		macs[i] = k.mac(purpose, parts)
	}
	return macs
}

// Verify reports whether mac is what MAC returned for this purpose and these parts
// under a key that is still in the ring.
func (r *Ring) Verify(purpose string, mac []byte, parts ...[]byte) bool {
	if len(mac) != MACSize {
		return false
	}
	k, ok := r.find(mac[:idSize])
	return ok && hmac.Equal(mac, k.mac(purpose, parts))
}

// ErrSeal is the error of what was not sealed by this ring, or for something else.
var ErrSeal = errors.New("keyring: not sealed by a key of this ring, or for another purpose")

// Seal encrypts plain under the newest key (AES-256-GCM, random nonce) and binds
// it to extra, which has to be told again to unseal it. The result is 32 bytes
// longer than plain. A key seals some four billion times safely; rotate it before.
func (r *Ring) Seal(purpose string, plain, extra []byte) []byte {
	k := r.current()[0]
	return k.aead(purpose).Seal(k.id[:], nil, plain, extra)
}

// Unseal returns what was sealed for the same purpose and with the same extra, or
// [ErrSeal].
func (r *Ring) Unseal(purpose string, sealed, extra []byte) ([]byte, error) {
	if len(sealed) < idSize {
		return nil, ErrSeal
	}
	k, ok := r.find(sealed[:idSize])
	if !ok {
		return nil, ErrSeal
	}
	plain, err := k.aead(purpose).Open(nil, nil, sealed[idSize:], extra)
	if err != nil {
		return nil, ErrSeal
	}
	return plain, nil
}

// current returns the keys, those of a rotated file within a minute.
func (r *Ring) current() []key {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.look(lookEvery)
	return r.keys
}

// find returns the key called id.
func (r *Ring) find(id []byte) (key, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.look(lookEvery)
	k, ok := named(r.keys, id)
	if !ok {
		r.look(lookUnknown)
		k, ok = named(r.keys, id)
	}
	return k, ok
}

// look reads the file again if it changed, unless that was checked less than
// every ago. A file that cannot be read now leaves the keys as they are.
func (r *Ring) look(every time.Duration) {
	now := time.Now()
	if now.Sub(r.looked) < every {
		return
	}
	r.looked = now
	info, err := os.Stat(r.path)
	if err == nil && os.SameFile(info, r.read) && info.ModTime().Equal(r.read.ModTime()) && info.Size() == r.read.Size() {
		return
	}
	keys, info, err := load(r.path)
	if err != nil {
		slog.Warn("The file of keys cannot be read again; those it held before stay in use.", "error", err)
		return
	}
	r.keys, r.read = keys, info
}

const (
	idSize  = 4
	keySize = 32
)

// A key is one secret of the ring.
type key struct {
	id     [idSize]byte // its name, derived from it
	secret [keySize]byte
}

func newKey(secret []byte) key {
	k := key{secret: [keySize]byte(secret)}
	copy(k.id[:], k.derive("id", idSize))
	return k
}

func named(keys []key, id []byte) (key, bool) {
	for _, k := range keys {
		if k.id == [idSize]byte(id) {
			return k, true
		}
	}
	return key{}, false
}

// derive makes a key of its own for one use. The secret is uniformly random, so
// that there is nothing to extract first (RFC 5869, section 3.3).
func (k *key) derive(use string, size int) []byte {
	out, err := hkdf.Expand(sha256.New, k.secret[:], "crumb "+use, size)
	if err != nil {
		panic(err) // sizes are fixed and far below the limit
	}
	return out
}

// mac writes the length of each part before it, so that "ab","c" is not "a","bc".
func (k *key) mac(purpose string, parts [][]byte) []byte {
	h := hmac.New(sha256.New, k.derive("mac "+purpose, keySize))
	for _, part := range parts {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	return h.Sum(append(make([]byte, 0, MACSize), k.id[:]...))
}

func (k *key) aead(purpose string) cipher.AEAD {
	block, err := aes.NewCipher(k.derive("seal "+purpose, keySize))
	if err != nil {
		panic(err) // the size is right
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // AES has the block size it wants
	}
	return aead
}
