package main

import (
	"cmp"
	"context"
	"database/sql"
	"errors"

	"github.com/crumb-go/crumb/login"
)

const schema = `CREATE TABLE IF NOT EXISTS people (
	id            INTEGER PRIMARY KEY AUTOINCREMENT,
	email         TEXT NOT NULL UNIQUE, -- as login.Canonical writes it
	password      TEXT NOT NULL,
	password_no   INTEGER NOT NULL,     -- one more with every password, and with every block
	blocked       INTEGER NOT NULL
) STRICT`

// people is the app's own table of users. It is a login.Users.
type people struct{ db *sql.DB }

var _ login.Users = people{}

func (p people) ByName(ctx context.Context, canonical string) (*login.User, error) {
	return p.one(ctx, "email", canonical)
}

func (p people) ByID(ctx context.Context, id string) (*login.User, error) {
	return p.one(ctx, "CAST(id AS TEXT)", id)
}

func (p people) one(ctx context.Context, column, value string) (*login.User, error) {
	u := &login.User{}
	err := p.db.QueryRowContext(ctx, "SELECT id, email, password, password_no, blocked FROM people WHERE "+column+" = ?", value).
		Scan(&u.ID, &u.Name, &u.Hash, &u.Generation, &u.Disabled)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, login.ErrNoUser
	}
	if err != nil {
		return nil, err
	}
	return u, nil
}

// Rehash is called at a sign-in if the hash is of an older kind.
func (p people) Rehash(ctx context.Context, id, old, new string) error {
	_, err := p.db.ExecContext(ctx, "UPDATE people SET password = ? WHERE id = ? AND password = ?", new, id, old)
	return err
}

// SetPassword writes the row only if it is the one that was read.
func (p people) SetPassword(ctx context.Context, id string, generation int64, hash string) (*login.User, error) {
	done, err := p.db.ExecContext(ctx, "UPDATE people SET password = ?, password_no = password_no + 1 WHERE id = ? AND password_no = ?", hash, id, generation)
	if err != nil {
		return nil, err
	}
	if n, err := done.RowsAffected(); err != nil || n == 0 {
		return nil, cmp.Or(err, login.ErrChanged)
	}
	return p.ByID(ctx, id)
}

// block keeps somebody out. Their sessions end with their next request, since the
// row is what counts.
func (p people) block(ctx context.Context, email string) error {
	_, err := p.db.ExecContext(ctx, "UPDATE people SET blocked = 1, password_no = password_no + 1 WHERE email = ?", email)
	return err
}
