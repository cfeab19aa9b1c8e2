package mysql

import (
	"testing"

	"github.com/crumb-go/crumb/internal/sqlstore/sqltest"
)

func TestEachCallGoesByAnIndex(t *testing.T) { sqltest.Plans(t, engine(t)) }
