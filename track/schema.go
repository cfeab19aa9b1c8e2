package track

import (
	"strings"

	"github.com/crumb-go/crumb/internal/sqldb"
)

// SchemaVersion is the version of the tables that this program knows.
const SchemaVersion = 1

// schema is written in words that each engine has its own for: {text N} is text
// of at most N bytes, compared byte for byte, and {json} text without such a bound.
const schema = `
CREATE TABLE crumb_track_schema (
	version BIGINT NOT NULL
);
-- Times are whole microseconds since 1970 in UTC. A slot is a quarter of an hour
-- since 1970. A session is the ID of one, never its token.
CREATE TABLE crumb_track_visitors (
	session    {text 16}  NOT NULL PRIMARY KEY,
	user_id    {text 255} NOT NULL,           -- who signed in last, '' if nobody
	first_seen BIGINT     NOT NULL,
	seen       BIGINT     NOT NULL,
	requests   BIGINT     NOT NULL,
	first_addr {text 64}  NOT NULL,
	last_addr  {text 64}  NOT NULL,
	addr_at    BIGINT     NOT NULL,           -- of the older address that is not cut yet; 0 if both are
	device     {text 64}  NOT NULL,           -- browser/system/kind
	language   {text 35}  NOT NULL,
	bot        SMALLINT   NOT NULL,
	landing    {text 200} NOT NULL,           -- the first page
	referrer   {text 128} NOT NULL,           -- the origin that led there
	page       {text 200} NOT NULL,           -- where the visitor is
	exit_page  {text 200} NOT NULL,           -- the latest page in the trail
	viewed     BIGINT     NOT NULL,           -- when that was
	active     BIGINT     NOT NULL,           -- the latest line of the trail
	slot       BIGINT     NOT NULL,           -- the latest slot
	swept      BIGINT     NOT NULL            -- the latest page view that was too old to stay in the trail, 0 if none was
){rows};
CREATE INDEX crumb_track_visitors_seen ON crumb_track_visitors (seen, session);
CREATE INDEX crumb_track_visitors_addr ON crumb_track_visitors (addr_at);
CREATE INDEX crumb_track_visitors_user ON crumb_track_visitors (user_id, session);
-- What a visitor did in one slot and was written at once: page views and events,
-- [[microseconds after at, method, route, status, microseconds it took, referrer,
-- values of wildcards], [microseconds after at, "", event, 0, 0, "", attributes]].
-- What is empty at the end of an entry is left out.
CREATE TABLE crumb_track_trail (
	session {text 16} NOT NULL,
	at      BIGINT    NOT NULL,               -- of the first entry
	viewed  BIGINT    NOT NULL,               -- of the last page view, 0 if there is none
	entries {json}    NOT NULL,
	PRIMARY KEY (session, at)
){clustered};
CREATE INDEX crumb_track_trail_at ON crumb_track_trail (at);
CREATE TABLE crumb_track_slots (
	session {text 16} NOT NULL,
	slot    BIGINT    NOT NULL,
	prev    BIGINT    NOT NULL,               -- the visitor's slot before, 0 if there is none
	bot     SMALLINT  NOT NULL,
	device  {text 64} NOT NULL,
	PRIMARY KEY (session, slot)
){clustered};
CREATE INDEX crumb_track_slots_slot ON crumb_track_slots (slot, prev, bot, device);
CREATE TABLE crumb_track_counts (
	kind SMALLINT   NOT NULL,                 -- 1 views, 2 events, 3 visits, 4 route, 5 referrer, 6 landing, 7 exit, 8 event
	span SMALLINT   NOT NULL,                 -- 0 a slot, 1 a day of UTC
	slot BIGINT     NOT NULL,                 -- of that span since 1970
	bot  SMALLINT   NOT NULL,
	name {text 200} NOT NULL,
	n    BIGINT     NOT NULL,
	PRIMARY KEY (kind, span, slot, bot, name)
){clustered};
CREATE INDEX crumb_track_counts_slot ON crumb_track_counts (span, slot);
-- SHA-256 of the IDs that were erased: what comes late is not written.
CREATE TABLE crumb_track_erased (
	hash       {text 64} NOT NULL PRIMARY KEY,
	erased_at  BIGINT    NOT NULL
){rows};
CREATE INDEX crumb_track_erased_at ON crumb_track_erased (erased_at);
-- The batches that were written: one whose outcome was unknown is not written
-- twice. The one named '' is locked by who erases.
CREATE TABLE crumb_track_batches (
	id         {text 32} NOT NULL PRIMARY KEY,
	written_at BIGINT    NOT NULL
){rows};
CREATE INDEX crumb_track_batches_at ON crumb_track_batches (written_at);
INSERT INTO crumb_track_batches VALUES ('', 9223372036854775807);
INSERT INTO crumb_track_schema VALUES (1);
`

const defaultPrefix = "crumb_"

// Schema returns the SQL of the tables for a dialect, "sqlite", "postgres" or
// "mysql", their names beginning with prefix; "" means crumb_.
func Schema(dialect, prefix string) string {
	if prefix == "" {
		prefix = defaultPrefix
	}
	text, after, json, rows, clustered := "", "", "TEXT", "", ""
	switch sqldb.Dialect(dialect) {
	case sqldb.Postgres:
		text, after = "VARCHAR(", `) COLLATE "C"`
	case sqldb.MySQL:
		text, after, json = "VARBINARY(", ")", "MEDIUMBLOB"
		rows, clustered = " ENGINE = InnoDB", " ENGINE = InnoDB"
	default:
		clustered = " WITHOUT ROWID"
	}
	var b strings.Builder
	rest := schema
	for {
		before, inner, found := strings.Cut(rest, "{")
		b.WriteString(before)
		if !found {
			break
		}
		inner, rest, _ = strings.Cut(inner, "}")
		switch size, isText := strings.CutPrefix(inner, "text "); {
		case isText && text == "":
			b.WriteString("TEXT")
		case isText:
			b.WriteString(text + size + after)
		case inner == "json":
			b.WriteString(json)
		case inner == "rows":
			b.WriteString(rows)
		default:
			b.WriteString(clustered)
		}
	}
	return strings.TrimLeft(strings.ReplaceAll(b.String(), defaultPrefix, prefix), "\n")
}
