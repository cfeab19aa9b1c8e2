package mysql

import (
	"strings"

	"github.com/crumb-go/crumb/internal/sqlstore"
)

// dialect keeps to what MySQL 8 and MariaDB 10.6 and later share.
var dialect = &sqlstore.Dialect{
	Name:  "mysql",
	Quote: "`",

	// The engine judges each row as it stands when it has its lock.
	Sweep: "DELETE FROM {sessions} WHERE expires_10min <= ? AND expires <= ? AND format = 1 ORDER BY expires_10min LIMIT ?",

	In: func(n int) string { return "IN (" + list("?", n, ", ") + ")" },

	// STRAIGHT_JOIN: row by row in the order given, which is that of the locks. No
	// assignment reads what another one sets, since the engine may do them in any
	// order.
	Touch: func(n int) string {
		return "UPDATE (SELECT CAST(? AS CHAR(64)) AS id, CAST(? AS SIGNED) AS seen" +
			strings.Repeat(" UNION ALL SELECT CAST(? AS CHAR(64)), CAST(? AS SIGNED)", n-1) +
			") AS t STRAIGHT_JOIN {sessions} AS s ON s.id = t.id" +
			" SET s.seen = t.seen, s.expires = least(s.absolute, t.seen + s.idle)," +
			" s.expires_10min = least(s.absolute, t.seen + s.idle) DIV 600000000, s.version = s.version + 1" +
			" WHERE s.idle <> 0 AND s.expires > t.seen AND s.seen < t.seen AND s.format = 1"
	},
}

func list(item string, n int, sep string) string {
	return strings.TrimSuffix(strings.Repeat(item+sep, n), sep)
}
