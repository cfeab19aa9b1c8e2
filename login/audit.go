package login

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/crumb-go/crumb/internal/sqldb"
	"github.com/crumb-go/crumb/keyring"
	"github.com/crumb-go/crumb/session"
)

// An AuditEntry says who did what, when, from where, and how it ended.
type AuditEntry struct {
	ID      int64      // counts up; set by the log
	Time    time.Time  // the log sets it if it is zero
	Event   string     // one of the Audit words, or an app's own; up to 64 bytes
	Result  string     // AuditOK, or why not: "wrong", "disabled" and so on; up to 64 bytes
	UserID  string     // whom it is about; "" if there is no such user
	Name    string     // of that user; without a UserID what was typed, of which only an HMAC is kept
	Actor   string     // "" for the user, "operator" for the command
	Addr    netip.Addr // of the client
	Agent   string     // its User-Agent
	Session session.ID // in which it happened
	Detail  string     // for people; never a secret
}

// Words for AuditEntry.Event.
const (
	AuditSignIn         = "sign-in"
	AuditSignOut        = "sign-out"
	AuditStepUp         = "step-up"
	AuditNewDevice      = "new-device"
	AuditRegister       = "register"
	AuditPasswordChange = "password-change"
	AuditResetAsked     = "reset-asked"
	AuditReset          = "reset"
	AuditSessionRevoked = "session-revoked"
	AuditUserAdded      = "user-added"
	AuditUserDeleted    = "user-deleted"
	AuditUserDisabled   = "user-disabled"
	AuditUserEnabled    = "user-enabled"
	AuditUserUnlocked   = "user-unlocked"
	AuditKeysRotated    = "keys-rotated"
)

// Words for AuditEntry.Result.
const (
	AuditOK        = "ok"
	AuditThrottled = "throttled"
	// AuditUnavailable says that the database did not answer.
	AuditUnavailable = "unavailable"
)

// An AuditQuery says which entries to return.
type AuditQuery struct {
	UserID string // about this user; "" for all
	Before int64  // with smaller IDs; 0 begins with the newest
	Limit  int    // at most so many, up to 1000; defaults to 100
}

const auditColumns = "at, event, result, user_id, name, actor, addr, agent, session, detail"

// Audit returns entries, the newest first. The ID of the last one is the Before of
// the next page.
func (t *Tables) Audit(ctx context.Context, q AuditQuery) (list []AuditEntry, err error) {
	if q.Limit <= 0 {
		q.Limit = 100
	}
	where, args := []string{"1 = 1"}, []any{}
	if q.UserID != "" {
		where, args = append(where, "user_id = ?"), append(args, q.UserID)
	}
	if q.Before > 0 {
		where, args = append(where, "id < ?"), append(args, q.Before)
	}
	query := t.sql("SELECT id, " + auditColumns + " FROM {}audit WHERE " + strings.Join(where, " AND ") + " ORDER BY id DESC LIMIT ?")
	err = t.db.Rows(ctx, query, append(args, min(q.Limit, 1000)), func(scan sqldb.Scan) error {
		var e AuditEntry
		var addr, id string
		if err := scan(&e.ID, micros{&e.Time}, &e.Event, &e.Result, &e.UserID, &e.Name, &e.Actor, &addr, &e.Agent, &id, &e.Detail); err != nil {
			return err
		}
		e.Addr, _ = netip.ParseAddr(addr) // the zero Addr was written as ""
		e.Session = session.ID(id)
		list = append(list, e)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("login: read the audit log: %w", err)
	}
	return list, nil
}

// Record adds an entry to the audit log and logs it. A Name without a UserID is
// left out: people type passwords there. Of tries that were refused without a look,
// or could not be looked at, after the first 60 one a second is added at most, or a
// flood would fill the disk.
func (t *Tables) Record(ctx context.Context, e AuditEntry) error {
	return t.record(ctx, nil, e)
}

// record is Record with the keys to hide names under.
func (t *Tables) record(ctx context.Context, keys *keyring.Ring, e AuditEntry) error {
	if (e.Result == AuditThrottled || e.Result == AuditUnavailable) && !t.refused.Allow() {
		return nil
	}
	if e.Time.IsZero() {
		e.Time = t.now()
	}
	if e.UserID == "" {
		e.Name = hidden(keys, e.Name)
	}
	addr := ""
	if e.Addr.IsValid() {
		addr = e.Addr.String()
	}
	values := []any{
		e.Time.UnixMicro(), clean(e.Event, 64), clean(e.Result, 64), clean(e.UserID, 255), clean(e.Name, maxName), clean(e.Actor, 255),
		addr, clean(e.Agent, 256), clean(string(e.Session), 64), clean(e.Detail, 1024),
	}
	t.cfg.Logger.LogAttrs(ctx, slog.LevelInfo, "Audit.", slog.Any("event", values[1]), slog.Any("result", values[2]), slog.Any("user", values[3]),
		slog.Any("name", values[4]), slog.Any("actor", values[5]), slog.Any("addr", addr), slog.Any("session", values[8]), slog.Any("detail", values[9]))
	_, err := t.db.Exec(ctx, t.sql("INSERT INTO {}audit ("+auditColumns+") VALUES "+marks(len(values))), values...)
	if err != nil {
		return fmt.Errorf("login: write the audit log: %w", err)
	}
	return nil
}

// hidden tells two unknown names apart, and nothing else about them.
func hidden(keys *keyring.Ring, name string) string {
	if keys == nil || name == "" {
		return ""
	}
	if canonical, err := Canonical(name); err == nil {
		name = canonical
	}
	const shown = 12
	mac := keys.MAC("login.audit", []byte(name))
	return "hmac:" + base64.RawURLEncoding.EncodeToString(mac[len(mac)-shown:])
}

// clean cuts text to max bytes and mends it so that every database takes it.
func clean(s string, max int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	for len(s) > max {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}

// audit adds an entry to the audit log. A log that cannot be written holds nobody
// up: the entry is in the other log, with the error behind it.
func (l *Login) audit(ctx context.Context, e AuditEntry) {
	l.warn("The audit log could not be written.", l.tables.record(ctx, l.cfg.Keys, e))
}
