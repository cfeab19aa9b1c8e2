package sqlstore

import (
	"context"
	"fmt"
	"time"
)

// SchemaVersion is the version of the tables that a [Store] reads and writes.
const SchemaVersion = 1

// DefaultPrefix is what the names of the tables begin with if nobody says.
const DefaultPrefix = "crumb_"

// CheckVersion returns an error that says what to run, unless the tables with
// this prefix are there, in the version that this program knows. 0 says that they
// are not there.
func CheckVersion(version int, dialect, prefix string) error {
	switch {
	case version == 0:
		return fmt.Errorf("there are no tables %s* yet; crumb schema apply creates them, crumb schema print %s shows how", prefix, dialect)
	case version < SchemaVersion:
		return fmt.Errorf("the tables %s* have schema version %d and this program needs %d; crumb schema apply brings them there", prefix, version, SchemaVersion)
	}
	return CheckNewer(version, prefix)
}

// CheckNewer returns an error if the tables are those of a newer program.
func CheckNewer(version int, prefix string) error {
	if version > SchemaVersion {
		return fmt.Errorf("the tables %s* have schema version %d and this program knows up to %d; run the newer program", prefix, version, SchemaVersion)
	}
	return nil
}

// A Survey is what can be counted in the tables.
type Survey struct {
	Sessions int64         // sessions that live now
	Overdue  int64         // rows that expired more than a day ago and nobody swept
	Future   int64         // rows created more than a minute from now
	Ahead    time.Duration // how far from now the last of those was created
}

// Survey reads every row.
func (s *Store) Survey(ctx context.Context, now time.Time) (out Survey, err error) {
	var last int64
	st := Statement{s.sql.survey, []any{now.UnixMicro(), now.Add(-24 * time.Hour).UnixMicro(), now.Add(time.Minute).UnixMicro()}}
	err = s.db.Query(ctx, st, func(scan Scan) error { return scan(&out.Sessions, &out.Overdue, &out.Future, &last) })
	if out.Future > 0 {
		out.Ahead = microTime(last).Sub(now)
	}
	return out, err
}
