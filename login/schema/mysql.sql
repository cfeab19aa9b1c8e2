-- Times are whole microseconds since 1970 in UTC. VARBINARY compares byte for byte.
-- A statement that creates a table commits: if this is cut off, it is run again.
CREATE TABLE IF NOT EXISTS crumb_users (
	id         VARBINARY(255) NOT NULL PRIMARY KEY,
	name       VARCHAR(255)   NOT NULL,  -- as typed when the user was added
	canonical  VARBINARY(255) NOT NULL UNIQUE,  -- how it is looked up, RFC 8265
	hash       VARBINARY(512) NOT NULL,  -- of the password, '' for none
	disabled   TINYINT        NOT NULL,
	generation BIGINT         NOT NULL,  -- moves with the password, and when disabled
	created    BIGINT         NOT NULL,
	changed    BIGINT         NOT NULL,  -- the password
	signed_in  BIGINT         NOT NULL  -- 0 for never
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4;

-- Failed tries and wishes for links, under an HMAC of the name, user, device or network.
CREATE TABLE IF NOT EXISTS crumb_login_counters (
	id            VARBINARY(36) NOT NULL PRIMARY KEY,
	failures      BIGINT        NOT NULL,
	blocked_until BIGINT        NOT NULL,
	expires       BIGINT        NOT NULL,
	INDEX few (failures, expires),
	INDEX expires (expires)
) ENGINE = InnoDB;

-- The link of each user that still works.
CREATE TABLE IF NOT EXISTS crumb_login_resets (
	user_id    VARBINARY(255) NOT NULL PRIMARY KEY,
	token      VARBINARY(32)  NOT NULL UNIQUE,  -- SHA-256 of what the link holds
	generation BIGINT         NOT NULL,  -- of the user when it was made
	created    BIGINT         NOT NULL,
	expires    BIGINT         NOT NULL
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS crumb_audit (
	id      BIGINT         NOT NULL AUTO_INCREMENT PRIMARY KEY,
	at      BIGINT         NOT NULL,
	event   VARCHAR(64)    NOT NULL,
	result  VARCHAR(64)    NOT NULL,
	user_id VARBINARY(255) NOT NULL,
	name    VARCHAR(255)   NOT NULL,  -- of a user, or an HMAC of what nobody is called
	actor   VARCHAR(255)   NOT NULL,  -- '' for the user
	addr    VARCHAR(64)    NOT NULL,
	agent   VARCHAR(256)   NOT NULL,
	session VARCHAR(64)    NOT NULL,
	detail  VARCHAR(1024)  NOT NULL,
	INDEX of_user (user_id, id),
	INDEX at (at)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4;

CREATE TABLE IF NOT EXISTS crumb_login_schema (
	version INTEGER NOT NULL
) ENGINE = InnoDB;
INSERT INTO crumb_login_schema VALUES (1);
