-- Times are whole microseconds since 1970 in UTC.
CREATE TABLE crumb_users (
	id         TEXT    NOT NULL PRIMARY KEY,
	name       TEXT    NOT NULL,  -- as typed when the user was added
	canonical  TEXT    NOT NULL UNIQUE,  -- how it is looked up, RFC 8265
	hash       TEXT    NOT NULL,  -- of the password, '' for none
	disabled   INTEGER NOT NULL,
	generation INTEGER NOT NULL,  -- moves with the password, and when disabled
	created    INTEGER NOT NULL,
	changed    INTEGER NOT NULL,  -- the password
	signed_in  INTEGER NOT NULL  -- 0 for never
);

-- Failed tries and wishes for links, under an HMAC of the name, user, device or network.
CREATE TABLE crumb_login_counters (
	id            BLOB    NOT NULL PRIMARY KEY,
	failures      INTEGER NOT NULL,
	blocked_until INTEGER NOT NULL,
	expires       INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX crumb_login_counters_few ON crumb_login_counters (failures, expires);
CREATE INDEX crumb_login_counters_expires ON crumb_login_counters (expires);

-- The link of each user that still works.
CREATE TABLE crumb_login_resets (
	user_id    TEXT    NOT NULL PRIMARY KEY,
	token      BLOB    NOT NULL UNIQUE,  -- SHA-256 of what the link holds
	generation INTEGER NOT NULL,  -- of the user when it was made
	created    INTEGER NOT NULL,
	expires    INTEGER NOT NULL
);

CREATE TABLE crumb_audit (
	id      INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	at      INTEGER NOT NULL,
	event   TEXT    NOT NULL,
	result  TEXT    NOT NULL,
	user_id TEXT    NOT NULL,
	name    TEXT    NOT NULL,  -- of a user, or an HMAC of what nobody is called
	actor   TEXT    NOT NULL,  -- '' for the user
	addr    TEXT    NOT NULL,
	agent   TEXT    NOT NULL,
	session TEXT    NOT NULL,
	detail  TEXT    NOT NULL
);
CREATE INDEX crumb_audit_user ON crumb_audit (user_id, id);
CREATE INDEX crumb_audit_at ON crumb_audit (at);

CREATE TABLE crumb_login_schema (
	version INTEGER NOT NULL
);
INSERT INTO crumb_login_schema VALUES (1);
