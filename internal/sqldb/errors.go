package sqldb

import (
	"errors"
	"strings"

	"github.com/go-sql-driver/mysql"
)

// IsUnique reports whether a statement would have put a value twice that may be
// there once.
func IsUnique(err error) bool {
	switch c := codeOf(err); c.dialect {
	case Postgres:
		return c.state == "23505" // unique_violation
	case MySQL:
		return c.number == 1062 // ER_DUP_ENTRY
	case SQLite:
		return c.number == 2067 || c.number == 1555 // SQLITE_CONSTRAINT_UNIQUE, _PRIMARYKEY
	}
	return false
}

// IsRetryable reports whether nothing happened because of what others did at the
// same time, and the same once more may succeed.
func IsRetryable(err error) bool {
	switch c := codeOf(err); c.dialect {
	case Postgres:
		return c.state == "40001" || c.state == "40P01" // serialization_failure, deadlock_detected
	case MySQL:
		return c.number == 1213 || c.number == 1205 || c.number == 1020 // deadlock, lock wait timeout, record changed
	case SQLite:
		primary := c.number & 0xff
		return primary == 5 || primary == 6 // SQLITE_BUSY, SQLITE_LOCKED
	}
	return false
}

// A code is what an engine calls an error.
type code struct {
	dialect Dialect
	number  int
	state   string
}

// codeOf asks for methods, not for types, so that an app may bring another driver.
func codeOf(err error) code {
	if e, ok := errors.AsType[*mysql.MySQLError](err); ok {
		return code{dialect: MySQL, number: int(e.Number)}
	}
	if e, ok := errors.AsType[interface {
		error
		SQLState() string
	}](err); ok {
		return code{dialect: Postgres, state: e.SQLState()}
	}
	if e, ok := errors.AsType[interface {
		error
		Code() int
	}](err); ok {
		return code{dialect: SQLite, number: e.Code()}
	}
	// github.com/mattn/go-sqlite3 has fields, which only its type could tell.
	switch s := messageOf(err); {
	case strings.Contains(s, "UNIQUE constraint failed"):
		return code{dialect: SQLite, number: 2067}
	case strings.Contains(s, "database is locked"), strings.Contains(s, "database table is locked"):
		return code{dialect: SQLite, number: 5}
	}
	return code{}
}

func messageOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
