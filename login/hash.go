package login

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/text/unicode/norm"
)

// A cost is what a hash takes. That of ours is the first choice of the OWASP
// Password Storage Cheat Sheet.
type cost struct {
	kind    string // "argon2id", "bcrypt" or "pbkdf2-sha512"
	memory  uint32 // KiB, of argon2id
	time    int    // passes, the logarithm of rounds, or iterations
	threads uint8  // of argon2id
}

var ourCost = cost{kind: "argon2id", memory: 19456, time: 2, threads: 1}

const (
	saltSize = 16
	sumSize  = 32
)

// Bounds of what is read from the database: whoever can write a hash there must
// not be able to stop the process with it.
const (
	maxHash       = 512
	maxMemory     = 256 << 10 // KiB
	maxPasses     = 16
	maxThreads    = 16
	maxBcrypt     = 15 // some 2 seconds
	maxIterations = 1_000_000
)

// An encodedHash is a hash as it stands in the database, taken apart.
type encodedHash struct {
	cost
	salt, sum []byte
	bcrypt    []byte // the whole, if it is one
}

var (
	errHash = errors.New("login: not a hash that can be verified")

	raw64 = base64.RawStdEncoding.Strict()
)

// parseHash takes a hash apart: argon2id as a PHC string, bcrypt, or PBKDF2 as
// Cherrycake writes it.
func parseHash(s string) (encodedHash, error) {
	switch {
	case len(s) > maxHash:
		return encodedHash{}, errHash
	case strings.HasPrefix(s, "$argon2id$"):
		return parseArgon2(s)
	case strings.HasPrefix(s, "$2"):
		return parseBcrypt(s)
	case strings.HasPrefix(s, "sha512:"):
		return parseCherrycake(s)
	}
	return encodedHash{}, errHash
}

// parseArgon2 reads $argon2id$v=19$m=19456,t=2,p=1$salt$sum.
func parseArgon2(s string) (h encodedHash, err error) {
	part := strings.Split(s, "$")
	if len(part) != 6 || part[2] != "v=19" {
		return h, errHash
	}
	param := strings.Split(part[3], ",")
	if len(param) != 3 {
		return h, errHash
	}
	h.kind = "argon2id"
	memory, okM := number(param[0], "m=", maxMemory)
	passes, okT := number(param[1], "t=", maxPasses)
	threads, okP := number(param[2], "p=", maxThreads)
	h.memory, h.time, h.threads = uint32(memory), passes, uint8(threads)
	var errSalt, errSum error
	h.salt, errSalt = raw64.DecodeString(part[4])
	h.sum, errSum = raw64.DecodeString(part[5])
	if !okM || !okT || !okP || errSalt != nil || errSum != nil || len(h.salt) < 8 || len(h.salt) > 64 || len(h.sum) < 16 || len(h.sum) > 64 {
		return encodedHash{}, errHash
	}
	return h, nil
}

// number reads a number of 1 to max with a name before it.
func number(s, name string, max int) (int, bool) {
	digits, ok := strings.CutPrefix(s, name)
	n, err := strconv.Atoi(digits)
	return n, ok && err == nil && 1 <= n && n <= max && digits == strconv.Itoa(n)
}

// parseBcrypt reads $2a$10$…; 2b and 2y are the same, 2x is of a broken program.
func parseBcrypt(s string) (encodedHash, error) {
	rounds, err := bcrypt.Cost([]byte(s))
	if err != nil || len(s) != 60 || s[3] != '$' || !strings.Contains("aby", s[2:3]) || rounds > maxBcrypt {
		return encodedHash{}, errHash
	}
	return encodedHash{cost: cost{kind: "bcrypt", time: rounds}, bcrypt: []byte(s)}, nil
}

// parseCherrycake reads sha512:100000:salt:sum. The salt is used as its base64
// text.
func parseCherrycake(s string) (encodedHash, error) {
	part := strings.Split(s, ":")
	if len(part) != 4 {
		return encodedHash{}, errHash
	}
	iterations, ok := number(part[1], "", maxIterations)
	sum, err := base64.StdEncoding.Strict().DecodeString(part[3])
	if !ok || err != nil || len(part[2]) < 8 || len(sum) < 16 || len(sum) > 64 {
		return encodedHash{}, errHash
	}
	return encodedHash{cost: cost{kind: "pbkdf2-sha512", time: iterations}, salt: []byte(part[2]), sum: sum}, nil
}

// matches computes the hash of the password and compares it in constant time.
func (h encodedHash) matches(password string) bool {
	switch h.kind {
	case "argon2id":
		return subtle.ConstantTimeCompare(h.sum, h.argon2(password)) == 1
	case "bcrypt":
		return bcrypt.CompareHashAndPassword(h.bcrypt, []byte(password[:min(len(password), bcryptSize)])) == nil
	}
	sum, err := pbkdf2.Key(sha512.New, password, h.salt, h.time, len(h.sum))
	return err == nil && subtle.ConstantTimeCompare(h.sum, sum) == 1
}

func (h encodedHash) argon2(password string) []byte {
	return argon2.IDKey([]byte(password), h.salt, uint32(h.time), h.memory, h.threads, uint32(len(h.sum)))
}

// bcryptSize is how many bytes of a password bcrypt looks at.
const bcryptSize = 72

// upgrades reports whether the password, which matched, should be hashed anew in
// our way. Of one that is longer than what bcrypt looks at the end was never
// verified, and must not become what is.
func (h encodedHash) upgrades(password string) bool {
	if h.kind == "bcrypt" {
		return len(password) <= bcryptSize
	}
	return h.cost != ourCost || len(h.salt) != saltSize || len(h.sum) != sumSize
}

// hash returns the hash of a password, which is in NFC, as a PHC string.
func (h *hasher) hash(password string) string {
	e := encodedHash{cost: ourCost, salt: make([]byte, saltSize), sum: make([]byte, sumSize)}
	rand.Read(e.salt)
	h.count(e.cost)
	sum := e.argon2(password)
	return fmt.Sprintf("$argon2id$v=19$m=%d,t=%d,p=%d$%s$%s", e.memory, e.time, e.threads, raw64.EncodeToString(e.salt), raw64.EncodeToString(sum))
}

// verify computes one hash, whatever encoded is: of a password that nobody has if
// it is "". better is a hash to keep instead of one that matched.
func (h *hasher) verify(encoded, password string) (ok bool, better string, err error) {
	normal := norm.NFC.String(password)
	e, err := parseHash(encoded)
	if err != nil {
		h.waste(normal)
		if encoded == "" {
			err = nil
		}
		return false, "", err
	}
	// Our own hashes are of the password in NFC. Those of other programs are of
	// what they were sent, which could be either.
	typed := []string{normal}
	if e.kind != "argon2id" && password != normal {
		typed = append(typed, password)
	}
	for _, p := range typed {
		h.count(e.cost)
		if e.matches(p) {
			if e.upgrades(p) {
				better = h.hash(normal)
			}
			return true, better, nil
		}
	}
	return false, "", nil
}

// waste computes a hash that matches nothing, at the cost of ours.
func (h *hasher) waste(password string) {
	h.count(ourCost)
	encodedHash{cost: ourCost, salt: make([]byte, saltSize), sum: make([]byte, sumSize)}.argon2(password)
}
