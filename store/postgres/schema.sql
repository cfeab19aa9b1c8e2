CREATE TABLE crumb_schema (
	version integer NOT NULL
);
INSERT INTO crumb_schema VALUES (1);

-- Times and durations are whole microseconds, times since 1970 in UTC. What
-- visitors send is bytea, which takes any bytes; to read it in psql:
-- SELECT id, convert_from("user", 'UTF8'), convert_from("values", 'UTF8') FROM crumb_sessions;
CREATE TABLE crumb_sessions (
	id            text COLLATE "C" PRIMARY KEY,
	"user"        bytea    NOT NULL,  -- '' while nobody is signed in
	created       bigint   NOT NULL,
	seen          bigint   NOT NULL,
	expires       bigint   NOT NULL,  -- least(absolute, seen + idle)
	expires_10min bigint   NOT NULL,  -- expires / 600000000, what the sweep looks up
	idle          bigint   NOT NULL,  -- 0 once the session has ended
	absolute      bigint   NOT NULL,
	signed_in     bigint,
	remember      boolean  NOT NULL,
	addr          text     NOT NULL,
	agent         bytea    NOT NULL,
	auth          bigint   NOT NULL,
	secret        bytea    NOT NULL,  -- SHA-256 of the secret in the cookie
	old_secret    bytea,              -- of the one before
	old_until     bigint,
	format        smallint NOT NULL,  -- of the row; others than 1 are left alone
	version       bigint   NOT NULL,  -- moves with every change
	"values"      bytea    NOT NULL   -- {"hello.views":3}
) WITH (fillfactor = 80);             -- room on the page, so that a change of no indexed column writes no index
CREATE INDEX crumb_sessions_expires ON crumb_sessions (expires_10min);
CREATE INDEX crumb_sessions_created ON crumb_sessions (created DESC, id);
CREATE INDEX crumb_sessions_user ON crumb_sessions ("user", created DESC, id) WHERE "user" <> '';
