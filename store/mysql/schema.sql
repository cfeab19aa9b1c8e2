-- Times and durations are whole microseconds, times since 1970 in UTC. Texts are
-- binary, which takes any bytes and compares them as they are. To read them:
-- SELECT id, CONVERT(`user` USING utf8mb4), CONVERT(`values` USING utf8mb4) FROM crumb_sessions
CREATE TABLE IF NOT EXISTS crumb_sessions (
	id            VARBINARY(64)   NOT NULL PRIMARY KEY,
	`user`        VARBINARY(1024) NOT NULL,  -- '' while nobody is signed in
	created       BIGINT          NOT NULL,
	seen          BIGINT          NOT NULL,
	expires       BIGINT          NOT NULL,  -- least(absolute, seen + idle)
	expires_10min BIGINT          NOT NULL,  -- expires / 600000000, what the sweep looks up
	idle          BIGINT          NOT NULL,  -- 0 once the session has ended
	absolute      BIGINT          NOT NULL,
	signed_in     BIGINT,
	remember      BOOLEAN         NOT NULL,
	addr          VARBINARY(255)  NOT NULL,
	agent         VARBINARY(1024) NOT NULL,
	auth          BIGINT          NOT NULL,
	secret        VARBINARY(32)   NOT NULL,  -- SHA-256 of the secret in the cookie
	old_secret    VARBINARY(32),             -- of the one before
	old_until     BIGINT,
	format        SMALLINT        NOT NULL,  -- of the row, others than 1 are left alone
	version       BIGINT          NOT NULL,  -- moves with every change
	`values`      LONGBLOB        NOT NULL,  -- {"hello.views":3}
	INDEX crumb_sessions_expires (expires_10min),
	INDEX crumb_sessions_created (created DESC, id),
	INDEX crumb_sessions_user (`user`, created DESC, id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- Last, since it says that the rest is there.
CREATE TABLE IF NOT EXISTS crumb_schema (
	version INT NOT NULL
) ENGINE = InnoDB;
INSERT INTO crumb_schema VALUES (1);
