package mysql

import (
	"errors"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/crumb-go/crumb/session"
)

// What a proxy answers that has lost its server may come after the commit.
func TestAnErrorThatMayComeAfterTheCommitIsOfUnknownOutcome(t *testing.T) {
	for number, unknown := range map[uint16]bool{
		1053: true, 1105: true, 1180: true, 1927: true, 2000: true, 2006: true, 2013: true, 2999: true,
		1020: false, 1146: false, 1205: false, 1213: false, 1290: false, 1406: false, 1999: false, 3000: false, 3101: false,
	} {
		err := outcome(&mysql.MySQLError{Number: number})
		if errors.Is(err, session.ErrUnknown) != unknown {
			t.Errorf("%d is %v", number, err)
		}
	}
}
