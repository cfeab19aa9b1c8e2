package postgres

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/crumb-go/crumb/session"
)

// What a proxy answers that has lost its server, or a server that has lost its disk,
// may come after the commit.
func TestAnErrorThatMayComeAfterTheCommitIsOfUnknownOutcome(t *testing.T) {
	for code, unknown := range map[string]bool{
		"08006": true, "40003": true, "57P01": true, "58000": true, "58030": true, "XX000": true, "XX001": true,
		"22001": false, "23505": false, "25006": false, "40001": false, "40P01": false, "42P01": false, "53100": false, "55P03": false, "57014": false,
	} {
		err := outcome(&pgconn.PgError{Code: code})
		if errors.Is(err, session.ErrUnknown) != unknown {
			t.Errorf("%s is %v", code, err)
		}
	}
}
