package sqlite

import (
	"testing"

	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) session.Store { return openNew(t) })
}
