CREATE TABLE crumb_schema (
	version INTEGER NOT NULL
);
INSERT INTO crumb_schema VALUES (1);

-- Times and durations are whole microseconds, times since 1970 in UTC.
CREATE TABLE crumb_sessions (
	id            TEXT    NOT NULL PRIMARY KEY,
	user          TEXT    NOT NULL,  -- '' while nobody is signed in
	created       INTEGER NOT NULL,
	seen          INTEGER NOT NULL,
	expires       INTEGER NOT NULL,  -- min(absolute, seen + idle)
	expires_10min INTEGER NOT NULL,  -- expires / 600000000, what the sweep looks up
	idle          INTEGER NOT NULL,  -- 0 once the session has ended
	absolute      INTEGER NOT NULL,
	signed_in     INTEGER,
	remember      INTEGER NOT NULL,
	addr          TEXT    NOT NULL,
	agent         TEXT    NOT NULL,
	auth          INTEGER NOT NULL,
	secret        BLOB    NOT NULL,  -- SHA-256 of the secret in the cookie
	old_secret    BLOB,              -- of the one before
	old_until     INTEGER,
	format        INTEGER NOT NULL,  -- of the row; others than 1 are left alone
	version       INTEGER NOT NULL,  -- moves with every change
	"values"      TEXT    NOT NULL   -- {"hello.views":3}
);
CREATE INDEX crumb_sessions_expires ON crumb_sessions (expires_10min);
CREATE INDEX crumb_sessions_created ON crumb_sessions (created DESC, id);
CREATE INDEX crumb_sessions_user ON crumb_sessions (user, created DESC, id) WHERE user <> '';
