-- Times are whole microseconds since 1970 in UTC. COLLATE "C" compares byte for byte.
CREATE TABLE crumb_users (
	id         text COLLATE "C" NOT NULL PRIMARY KEY,
	name       text   NOT NULL,  -- as typed when the user was added
	canonical  text COLLATE "C" NOT NULL UNIQUE,  -- how it is looked up, RFC 8265
	hash       text COLLATE "C" NOT NULL,  -- of the password, '' for none
	disabled   integer NOT NULL,
	generation bigint NOT NULL,  -- moves with the password, and when disabled
	created    bigint NOT NULL,
	changed    bigint NOT NULL,  -- the password
	signed_in  bigint NOT NULL  -- 0 for never
);

-- Failed tries and wishes for links, under an HMAC of the name, user, device or network.
CREATE TABLE crumb_login_counters (
	id            bytea  NOT NULL PRIMARY KEY,
	failures      bigint NOT NULL,
	blocked_until bigint NOT NULL,
	expires       bigint NOT NULL
);
CREATE INDEX crumb_login_counters_few ON crumb_login_counters (failures, expires);
CREATE INDEX crumb_login_counters_expires ON crumb_login_counters (expires);

-- The link of each user that still works.
CREATE TABLE crumb_login_resets (
	user_id    text COLLATE "C" NOT NULL PRIMARY KEY,
	token      bytea  NOT NULL UNIQUE,  -- SHA-256 of what the link holds
	generation bigint NOT NULL,  -- of the user when it was made
	created    bigint NOT NULL,
	expires    bigint NOT NULL
);

CREATE TABLE crumb_audit (
	id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	at      bigint NOT NULL,
	event   text   NOT NULL,
	result  text   NOT NULL,
	user_id text COLLATE "C" NOT NULL,
	name    text   NOT NULL,  -- of a user, or an HMAC of what nobody is called
	actor   text   NOT NULL,  -- '' for the user
	addr    text   NOT NULL,
	agent   text   NOT NULL,
	session text   NOT NULL,
	detail  text   NOT NULL
);
CREATE INDEX crumb_audit_user ON crumb_audit (user_id, id);
CREATE INDEX crumb_audit_at ON crumb_audit (at);

CREATE TABLE crumb_login_schema (
	version integer NOT NULL
);
INSERT INTO crumb_login_schema VALUES (1);
