package postgres

import "github.com/crumb-go/crumb/internal/sqlstore"

// dialect keeps to what CockroachDB and YugabyteDB have, too.
var dialect = &sqlstore.Dialect{
	Name:     "postgres",
	Quote:    `"`,
	Numbered: true,
	Arrays:   true,
	Insert:   "ON CONFLICT (id) DO NOTHING",

	// The rows are picked once, and each as it stands when its lock is there: the
	// delete repeats the condition for those that moved in between. A row that
	// somebody has locked is in use, or another sweeper's.
	Sweep: `WITH old AS (
	SELECT id FROM {sessions} WHERE expires_10min <= $1 AND expires <= $2 AND format = 1
	ORDER BY expires_10min LIMIT $3 FOR UPDATE SKIP LOCKED
)
DELETE FROM {sessions} WHERE id IN (SELECT id FROM old) AND expires <= $2 AND format = 1`,

	In: func(int) string { return "= ANY (?)" },

	Touch: func(int) string { return touch },
}

// The conditions stand twice: in the first place they keep locks off rows that
// stay as they are, in the second they are judged on the row as it was locked.
const touch = `WITH touched AS (
	SELECT s.id, t.seen FROM unnest($1::text[], $2::bigint[]) AS t (id, seen) JOIN {sessions} AS s ON s.id = t.id
	WHERE s.idle <> 0 AND s.expires > t.seen AND s.seen < t.seen AND s.format = 1
	ORDER BY s.id FOR UPDATE OF s
)
UPDATE {sessions} AS s SET seen = t.seen, expires = least(s.absolute, t.seen + s.idle),
	expires_10min = least(s.absolute, t.seen + s.idle) / 600000000, version = s.version + 1
FROM touched AS t
WHERE s.id = t.id AND s.idle <> 0 AND s.expires > t.seen AND s.seen < t.seen AND s.format = 1`
