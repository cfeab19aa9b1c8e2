package postgres

import (
	"testing"

	"github.com/crumb-go/crumb/internal/sqlstore/sqltest"
)

func BenchmarkStore(b *testing.B) { sqltest.Bench(b, engine(b)) }
