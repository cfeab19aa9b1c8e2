package login

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"golang.org/x/text/secure/precis"

	"github.com/crumb-go/crumb/internal/sqldb"
	"github.com/crumb-go/crumb/keyring"
)

// A User is a row of the users table: the authority on who may sign in.
type User struct {
	ID         string // opaque, and never used again; what the session holds
	Name       string // what the user signs in with, as typed when they were added
	Hash       string // of the password; "" for a user without one
	Disabled   bool
	Generation int64 // moves whenever the password changes or the user is disabled
	Created    time.Time
	Changed    time.Time // the password
	SignedIn   time.Time // last; zero if never
}

// Errors of [Users], to be told with [errors.Is].
var (
	ErrNoUser    = errors.New("login: no such user")
	ErrNameTaken = errors.New("login: the name is taken")
	// ErrChanged says that the row is another than the one that was read: the
	// password changed since, or the user was disabled or deleted.
	ErrChanged = errors.New("login: the user is not as they were read any more; read the row again")
)

// Users is what a users table owes. [Tables] is one; an app with a table of its
// own implements it. Several goroutines call it at once.
type Users interface {
	// ByName returns the user with the canonical name (see [Canonical]), or
	// ErrNoUser. It is called once for each sign-in, right or wrong.
	ByName(ctx context.Context, canonical string) (*User, error)
	// ByID returns the user with the ID, or ErrNoUser. It is called at most once
	// for each request that asks who is signed in.
	ByID(ctx context.Context, id string) (*User, error)
	// Rehash replaces the hash by another of the same password, if it is still
	// old; the generation stays. If it is not, Rehash changes nothing and that is
	// no error.
	Rehash(ctx context.Context, id, old, new string) error
	// SetPassword sets the hash and moves the generation, in one step, if the
	// generation is still the one that was read, and returns the user as it then is.
	// If it is not, or there is no such user, nothing changes: ErrChanged.
	SetPassword(ctx context.Context, id string, generation int64, hash string) (*User, error)
}

// A Registrar is [Users] that can add one. Without it there is no registration.
type Registrar interface {
	// Add adds a user, or returns ErrNameTaken. hash may be "".
	Add(ctx context.Context, name, canonical, hash string) (*User, error)
}

// A Deleter is [Users] that can delete one. Without it users cannot delete their
// account.
type Deleter interface {
	// Delete deletes the user if the generation is still the one that was read. If
	// it is not, or there is no such user, nothing changes: ErrChanged.
	Delete(ctx context.Context, id string, generation int64) error
}

// A SignInRecorder is [Users] that keeps when a user last signed in.
type SignInRecorder interface {
	// SignedIn notes a sign-in. The generation stays.
	SignedIn(ctx context.Context, id string, at time.Time) error
}

// maxName is the longest name, in bytes.
const maxName = 255

// Canonical returns the form of a name under which it is looked up and compared:
// UsernameCaseMapped of RFC 8265, 1 to 255 bytes. Letters become lower case, and
// what looks the same is the same. Blanks and what cannot be seen are errors.
func Canonical(name string) (string, error) {
	if len(name) > maxName {
		return "", fmt.Errorf("login: the name has %d bytes; it may have %d", len(name), maxName)
	}
	canonical, err := precis.UsernameCaseMapped.String(name)
	if err != nil || canonical == "" {
		return "", errors.New("login: the name holds blanks or characters that names may not have (RFC 8265); use letters, digits and signs such as . - _ @")
	}
	if len(canonical) > maxName {
		return "", fmt.Errorf("login: the name has %d bytes in its canonical form; it may have %d", len(canonical), maxName)
	}
	return canonical, nil
}

const userColumns = "id, name, hash, disabled, generation, created, changed, signed_in"

func scanUser(u *User) []any {
	return []any{&u.ID, &u.Name, &u.Hash, boolean{&u.Disabled}, &u.Generation, micros{&u.Created}, micros{&u.Changed}, micros{&u.SignedIn}}
}

// user reads a user by the condition, or returns ErrNoUser.
func (t *Tables) user(ctx context.Context, r sqldb.Runner, where string, arg string) (*User, error) {
	u := new(User)
	err := r.Row(ctx, t.sql("SELECT "+userColumns+" FROM {}users WHERE "+where), []any{arg}, scanUser(u)...)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, ErrNoUser
	case err != nil:
		return nil, fmt.Errorf("login: load a user: %w", err)
	}
	return u, nil
}

// ByName implements [Users].
func (t *Tables) ByName(ctx context.Context, canonical string) (*User, error) {
	return t.user(ctx, t.db, "canonical = ?", canonical)
}

// ByID implements [Users].
func (t *Tables) ByID(ctx context.Context, id string) (*User, error) {
	return t.user(ctx, t.db, "id = ?", id)
}

// Rehash implements [Users].
func (t *Tables) Rehash(ctx context.Context, id, old, new string) error {
	_, err := t.db.Exec(ctx, t.sql("UPDATE {}users SET hash = ? WHERE id = ? AND hash = ?"), new, id, old)
	if err != nil {
		return fmt.Errorf("login: rehash: %w", err)
	}
	return nil
}

// SetPassword implements [Users]. hash may be "", for a user who has none.
func (t *Tables) SetPassword(ctx context.Context, id string, generation int64, hash string) (*User, error) {
	u, n, err := t.updateUser(ctx, id, "hash = ?, changed = ?, generation = generation + 1 WHERE id = ? AND generation = ?", hash, t.now().UnixMicro(), id, generation)
	if errors.Is(err, ErrNoUser) || err == nil && n == 0 {
		return nil, ErrChanged
	}
	return u, err
}

// SetDisabled disables or enables a user and returns it as it then is, or
// ErrNoUser. Disabling moves the generation, so that no session of before counts
// when the user is enabled again.
func (t *Tables) SetDisabled(ctx context.Context, id string, disabled bool) (*User, error) {
	set := "disabled = 0"
	if disabled {
		set = "disabled = 1, generation = generation + 1"
	}
	u, _, err := t.updateUser(ctx, id, set+" WHERE id = ?", id)
	return u, err
}

// updateUser updates a user and reads it back in one transaction. n is 0 if no row
// met the condition.
func (t *Tables) updateUser(ctx context.Context, id, set string, args ...any) (u *User, n int64, err error) {
	err = t.db.Tx(ctx, func(tx *sqldb.Tx) error {
		if n, err = tx.Exec(ctx, t.sql("UPDATE {}users SET "+set), args...); err != nil {
			return fmt.Errorf("login: update a user: %w", err)
		}
		u, err = t.user(ctx, tx, "id = ?", id)
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	return u, n, nil
}

// Add implements [Registrar]. hash may be one of another program that this one
// verifies: bcrypt, argon2id, or Cherrycake's.
func (t *Tables) Add(ctx context.Context, name, canonical, hash string) (*User, error) {
	if hash != "" {
		if _, err := parseHash(hash); err != nil {
			return nil, fmt.Errorf("login: add a user: %w; use argon2id, bcrypt or sha512:iterations:salt:hash", err)
		}
	}
	now := t.now()
	id := make([]byte, 16)
	rand.Read(id)
	u := &User{ID: base64.RawURLEncoding.EncodeToString(id), Name: clean(name, maxName), Hash: hash, Created: now, Changed: now}
	_, err := t.db.Exec(ctx, t.sql("INSERT INTO {}users (id, name, canonical, hash, disabled, generation, created, changed, signed_in) VALUES (?, ?, ?, ?, 0, 0, ?, ?, 0)"),
		u.ID, u.Name, canonical, u.Hash, now.UnixMicro(), now.UnixMicro())
	switch {
	case sqldb.IsUnique(err):
		return nil, ErrNameTaken
	case err != nil:
		return nil, fmt.Errorf("login: add a user: %w", err)
	}
	return u, nil
}

// Delete implements [Deleter]. Reset links of the user end with it; the audit log
// keeps what it did.
func (t *Tables) Delete(ctx context.Context, id string, generation int64) error {
	err := t.db.Tx(ctx, func(tx *sqldb.Tx) error {
		n, err := tx.Exec(ctx, t.sql("DELETE FROM {}users WHERE id = ? AND generation = ?"), id, generation)
		switch {
		case err != nil:
			return err
		case n == 0:
			return ErrChanged
		}
		_, err = tx.Exec(ctx, t.sql("DELETE FROM {}login_resets WHERE user_id = ?"), id)
		return err
	})
	if err != nil && !errors.Is(err, ErrChanged) {
		return fmt.Errorf("login: delete a user: %w", err)
	}
	return err
}

// SignedIn implements [SignInRecorder]. An earlier time than the one noted changes
// nothing.
func (t *Tables) SignedIn(ctx context.Context, id string, at time.Time) error {
	_, err := t.db.Exec(ctx, t.sql("UPDATE {}users SET signed_in = ? WHERE id = ? AND signed_in < ?"), at.UnixMicro(), id, at.UnixMicro())
	if err != nil {
		return fmt.Errorf("login: note a sign-in: %w", err)
	}
	return nil
}

// List returns up to n users in the order of their canonical names, those behind
// the canonical name after; "" begins.
func (t *Tables) List(ctx context.Context, after string, n int) (users []*User, err error) {
	err = t.db.Rows(ctx, t.sql("SELECT "+userColumns+" FROM {}users WHERE canonical > ? ORDER BY canonical LIMIT ?"), []any{after, n}, func(scan sqldb.Scan) error {
		u := new(User)
		users = append(users, u)
		return scan(scanUser(u)...)
	})
	if err != nil {
		return nil, fmt.Errorf("login: list users: %w", err)
	}
	return users, nil
}

// Unlock forgets the failed tries of strangers on the account with this name, so
// that its owner can sign in again at once.
func (t *Tables) Unlock(ctx context.Context, keys *keyring.Ring, canonical string) error {
	return t.forgive(ctx, accountCounter(keys, canonical))
}

// micros scans a time that is kept as microseconds; 0 is the zero time.
type micros struct{ t *time.Time }

func (m micros) Scan(v any) error {
	var n sql.NullInt64
	if err := n.Scan(v); err != nil {
		return err
	}
	*m.t = time.Time{}
	if n.Int64 != 0 {
		*m.t = time.UnixMicro(n.Int64).UTC()
	}
	return nil
}

// boolean scans a 0 or 1.
type boolean struct{ b *bool }

func (b boolean) Scan(v any) error {
	var n sql.NullInt64
	err := n.Scan(v)
	*b.b = n.Int64 != 0
	return err
}
