package login

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/crumb-go/crumb/internal/sqldb"
)

const (
	tokenSize = 32
	linkLife  = time.Hour
	linkPause = time.Minute // between links for one user: a second click leaves the first link alone
)

var (
	// errBadLink is the answer to a reset link that does not work, or no longer.
	errBadLink = errors.New("login: the link does not work")
	// ErrNoLink is the answer to those who get no link: unknown, disabled, or it
	// is less than a minute since the last one.
	ErrNoLink = errors.New("login: there is no link for this name now")
)

// linkUser returns the user with this name who may have a link, or ErrNoLink.
func (l *Login) linkUser(ctx context.Context, canonical string) (*User, error) {
	u, err := l.users.ByName(ctx, canonical)
	if errors.Is(err, ErrNoUser) || err == nil && u.Disabled {
		return nil, ErrNoLink
	}
	return u, err
}

// newReset returns a token for a link that sets a new password: once, within an
// hour, and only the newest one of a user, unless the credentials change before.
func (l *Login) newReset(ctx context.Context, u *User) (string, error) {
	token := make([]byte, tokenSize)
	rand.Read(token)
	if err := l.tables.addReset(ctx, u, token, l.now()); err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(token), nil
}

// useReset sets a new password in exchange for the token of a link. The failures
// of strangers are forgotten with the old password. Errors: errBadLink,
// *PasswordError, after which the link still works, and *Throttled.
func (l *Login) useReset(ctx context.Context, token, password string, addr netip.Addr) (*User, error) {
	now := l.now()
	res, err := l.tables.reserve(ctx, now, ordered(sourceCounters(l.cfg.Keys, addr, failuresOf)))
	if err != nil {
		return nil, err
	}
	u, err := l.exchange(ctx, token, password, now)
	if errors.Is(err, errBadLink) {
		return nil, err
	}
	after := context.WithoutCancel(ctx)
	l.warn("A right link still counts as a failure.", l.tables.giveBack(after, now, res))
	if err != nil {
		return nil, err
	}
	l.warn("The failures of strangers before a reset could not be forgotten.", l.tables.forgive(after, l.account(u, "")))
	return u, nil
}

func (l *Login) exchange(ctx context.Context, token, password string, now time.Time) (*User, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(raw) != tokenSize {
		return nil, errBadLink
	}
	link, err := l.tables.reset(ctx, raw, now)
	if err != nil {
		return nil, err
	}
	u, err := l.users.ByID(ctx, link.userID)
	switch {
	case errors.Is(err, ErrNoUser):
		return nil, errBadLink
	case err != nil:
		return nil, err
	case u.Disabled || u.Generation != link.generation:
		return nil, errBadLink
	}
	hash, err := l.newHash(ctx, u.Name, password, true)
	if err != nil {
		return nil, err
	}
	// Only now, so that a password that breaks a rule does not cost the link.
	if err := l.tables.spendReset(ctx, raw, now); err != nil {
		return nil, err
	}
	u, err = l.users.SetPassword(context.WithoutCancel(ctx), u.ID, link.generation, hash)
	if errors.Is(err, ErrChanged) {
		return nil, errBadLink
	}
	return u, err
}

// A resetLink is a row of login_resets.
type resetLink struct {
	userID     string
	generation int64
}

func hashToken(token []byte) []byte {
	sum := sha256.Sum256(token)
	return sum[:]
}

// addReset makes token the only one of u that works, or returns ErrNoLink if there
// was one a moment ago.
func (t *Tables) addReset(ctx context.Context, u *User, token []byte, now time.Time) error {
	err := t.db.Tx(ctx, func(tx *sqldb.Tx) error {
		var created time.Time
		var generation int64
		err := tx.Row(ctx, t.sql("SELECT created, generation FROM {}login_resets WHERE user_id = ?")+tx.ForUpdate(), []any{u.ID}, micros{&created}, &generation)
		switch {
		case err != nil && !errors.Is(err, sql.ErrNoRows):
			return err
		case err == nil && generation == u.Generation && now.Before(created.Add(linkPause)):
			return ErrNoLink
		}
		if _, err := tx.Exec(ctx, t.sql("DELETE FROM {}login_resets WHERE user_id = ?"), u.ID); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, t.sql("INSERT INTO {}login_resets (user_id, token, generation, created, expires) VALUES (?, ?, ?, ?, ?)"),
			u.ID, hashToken(token), u.Generation, now.UnixMicro(), now.Add(linkLife).UnixMicro())
		return err
	})
	switch {
	case sqldb.IsUnique(err): // one who asked at the same time was faster
		return ErrNoLink
	case err != nil && !errors.Is(err, ErrNoLink):
		return fmt.Errorf("login: make a reset link: %w", err)
	}
	return err
}

// reset returns the link of a token, or errBadLink.
func (t *Tables) reset(ctx context.Context, token []byte, now time.Time) (link resetLink, err error) {
	err = t.db.Row(ctx, t.sql("SELECT user_id, generation FROM {}login_resets WHERE token = ? AND expires > ?"),
		[]any{hashToken(token), now.UnixMicro()}, &link.userID, &link.generation)
	if errors.Is(err, sql.ErrNoRows) {
		return link, errBadLink
	}
	if err != nil {
		return link, fmt.Errorf("login: load a reset link: %w", err)
	}
	return link, nil
}

// spendReset deletes the link of a token; of several at once one succeeds, the
// others get errBadLink.
func (t *Tables) spendReset(ctx context.Context, token []byte, now time.Time) error {
	n, err := t.db.Exec(ctx, t.sql("DELETE FROM {}login_resets WHERE token = ? AND expires > ?"), hashToken(token), now.UnixMicro())
	switch {
	case err != nil:
		return fmt.Errorf("login: spend a reset link: %w", err)
	case n == 0:
		return errBadLink
	}
	return nil
}
