package sqldb_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/crumb-go/crumb/internal/sqldb"
)

func TestATransactionThatIsGivenUpAsItBeginsLeavesNoneOpen(t *testing.T) {
	for _, url := range []string{"memory:", "sqlite:" + filepath.Join(t.TempDir(), "test.db")} {
		db, err := sqldb.Open(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Exec(t.Context(), "CREATE TABLE kept (n INTEGER)"); err != nil {
			t.Fatal(err)
		}
		insert := func(tx *sqldb.Tx) error {
			_, err := tx.Exec(t.Context(), "INSERT INTO kept VALUES (1)")
			return err
		}
		nothing := func(*sqldb.Tx) error { return nil }
		for i := range 1000 {
			ctx, cancel := context.WithCancel(t.Context())
			stop := time.AfterFunc(time.Duration(i%100)*time.Microsecond, cancel)
			_ = db.Tx(ctx, nothing) // it may be in time or not
			stop.Stop()
			cancel()
			if err := db.Tx(t.Context(), insert); err != nil {
				t.Fatalf("%s: after %d that were given up: %v", url, i+1, err)
			}
		}
		var n int
		if err := db.Row(t.Context(), "SELECT count(*) FROM kept", nil, &n); err != nil || n != 1000 {
			t.Errorf("%s: %d rows of 1000 are there, %v", url, n, err)
		}
	}
}

func TestOnlyALightTransactionDoesNotWaitForTheDisk(t *testing.T) {
	db, err := sqldb.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	const full, normal = 2, 1
	for range 2 { // neither leaves its mark on the other
		for want, run := range map[int]func(context.Context, func(*sqldb.Tx) error) error{full: db.Tx, normal: db.LightTx} {
			err := run(t.Context(), func(tx *sqldb.Tx) error {
				var got int
				err := tx.Row(t.Context(), "PRAGMA synchronous", nil, &got)
				if got != want {
					t.Errorf("synchronous is %d, want %d", got, want)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}
