package filestore_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/crumb-go/crumb/examples/filestore"
	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/store/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) session.Store {
		store, err := filestore.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		return store
	})
}

func TestASessionIsThereAfterARestart(t *testing.T) {
	dir := t.TempDir()
	now := time.Now().UTC().Truncate(time.Microsecond)
	rec := &session.Record{
		Info:     session.Info{ID: "a", User: "ana", Created: now, Seen: now, Expires: now.Add(time.Hour)},
		Idle:     time.Hour,
		Absolute: now.Add(24 * time.Hour),
	}
	first, err := filestore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Create(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	// What a process that was killed may leave beside it.
	if err := os.WriteFile(filepath.Join(dir, "61.session.new"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	second, err := filestore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := second.Load(t.Context(), rec.ID); err != nil || got.User != "ana" {
		t.Errorf("%+v, %v", got, err)
	}
	if infos, err := second.List(t.Context(), session.Query{All: true, Limit: 10, Now: now}); len(infos) != 1 || err != nil {
		t.Errorf("%v, %v", infos, err)
	}
}

func TestAFileOfANewerProgramSignsNobodyOut(t *testing.T) {
	dir := t.TempDir()
	store, err := filestore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "61.session"), []byte{2, 7}, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Load(t.Context(), "a"); err == nil || errors.Is(err, session.ErrNotFound) {
		t.Errorf("Load: %v", err)
	}
}
