package modules

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"time"

	"net/http"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/internal/ops"
	"github.com/crumb-go/crumb/keyring"
	"github.com/crumb-go/crumb/session"
	"github.com/crumb-go/crumb/track"
)

// Untracked marks a route of a module that requires [Track] as one of which
// nothing is noted.
var Untracked = &app.Mark{Name: "untracked"}

// Track notes who is here and what each visitor does on the routes of the modules
// that require it, and provides the [*track.Tracker] and the [*track.Tables].
//
// The tables are in the database of the sessions or, where that is a SQLite file,
// in one beside it: page views then never hold up a sign-in. [track] url names
// another. If the sessions are in a Redis and there is no url, only who is here now
// is known, by each process for itself, and no Tables are provided.
//
// The keys of [Keys] seal the cookies of first visits; all processes of the app need
// the same file.
var Track = &app.Module{
	Name:     "track",
	Requires: []*app.Module{Session, Database, Keys},
	Config:   defaultTrackConfig(),
	Setup: func(e *app.Env) error {
		cfg := app.ConfigOf[TrackConfig](e)
		if !cfg.Enabled {
			e.Wrap(func(next http.Handler, _ app.Route) http.Handler { return next }, Untracked)
			return nil
		}
		all := cfg.config()
		all.Logger, all.Sessions, all.Keys = e.Logger(), app.Get[*session.Manager](e), app.Get[*keyring.Ring](e)
		database, _ := app.Lookup[DatabaseConfig](e)
		if cfg.url(database) == "" {
			e.Logger().Warn("only who is here now is known, by each process for itself; for all else set [track] url to a SQL database")
		} else {
			ctx, cancel := context.WithTimeout(e.Context(), OpenTimeout)
			defer cancel()
			tables, err := cfg.OpenTables(ctx, database)
			if err != nil {
				return err
			}
			e.OnStop(func(context.Context) error { return tables.Close() })
			e.Provide(tables)
			all.Tables = tables
		}
		tracker, err := track.New(all)
		if err != nil {
			return badTrack(err)
		}
		e.Provide(tracker)
		e.Wrap(func(next http.Handler, r app.Route) http.Handler {
			if r.Has(Untracked) {
				return next
			}
			return tracker.Handler(next)
		}, Untracked)
		e.Go(tracker.Run)
		e.OnStop(tracker.Close)
		if m, ok := app.Lookup[*ops.Metrics](e); ok {
			countTracking(m, tracker)
		}
		return nil
	},
}

// countTracking adds what the queue does to the metrics.
func countTracking(m *ops.Metrics, t *track.Tracker) {
	for _, c := range []struct {
		name, kind, help string
		value            func(st track.Stats) float64
	}{
		{"crumb_track_queue_entries", "gauge", "Views and events that wait to be written.", func(st track.Stats) float64 { return float64(st.Depth) }},
		{"crumb_track_queue_bytes", "gauge", "About what they take in memory.", func(st track.Stats) float64 { return float64(st.Bytes) }},
		{"crumb_track_written_total", "counter", "Views and events written.", func(st track.Stats) float64 { return float64(st.Written) }},
		{"crumb_track_dropped_total", "counter", "Views and events dropped, for the queue was full or the tables refused them too long.", func(st track.Stats) float64 { return float64(st.Dropped) }},
		{"crumb_track_capped_total", "counter", "Views and events beyond what is kept of one session.", func(st track.Stats) float64 { return float64(st.Capped) }},
		{"crumb_track_batches_total", "counter", "Batches written.", func(st track.Stats) float64 { return float64(st.Batches) }},
		{"crumb_track_failures_total", "counter", "Tries to write a batch that failed.", func(st track.Stats) float64 { return float64(st.Failed) }},
	} {
		m.Add(ops.Metric{Name: c.name, Kind: c.kind, Help: c.help, Value: func() float64 { return c.value(t.Stats()) }})
	}
}

// TrackConfig is the table [track]: what of [track.Config] a file can hold.
type TrackConfig struct {
	Enabled       bool          `toml:"enabled" help:"note who is here and what visitors do"`
	Ignore        []string      `toml:"ignore" help:"patterns of routes of which nothing is noted, such as GET /healthz or /static/*"`
	IgnoreGPC     bool          `toml:"ignore_gpc" help:"track visitors too whose browser sends Sec-GPC: 1"`
	Interval      time.Duration `toml:"interval" help:"how often what was noted is written"`
	KeepAddresses time.Duration `toml:"keep_addresses" help:"how long addresses are kept whole; then a /24 or /48 stays"`
	KeepCounts    time.Duration `toml:"keep_counts" help:"how long numbers are kept, which name no visitor"`
	KeepTrail     time.Duration `toml:"keep_trail" help:"how long page views and events are kept"`
	KeepVisitors  time.Duration `toml:"keep_visitors" help:"how long a visitor is kept who does not come again"`
	MaxQueue      int           `toml:"max_queue" help:"views and events that wait at most; more are dropped and counted"`
	PerSession    int           `toml:"per_session" help:"views and events kept of one session in an hour, by each process"`
	Sample        float64       `toml:"sample" help:"part of the sessions whose views and events are kept, up to 1"`

	// URL is the SQL database of the tables, where it is not that of the sessions,
	// or the file beside theirs: a sqlite:, postgres: or mysql: URL, or memory:.
	URL string `toml:"url" help:"SQL database of the tables, by default that of the sessions, or a SQLite file beside theirs"`

	Values []string `toml:"values" help:"wildcards of patterns whose values are noted, such as id"`

	Visitors track.Visitors `toml:"visitors" help:"when visitors get a session: on return, on arrival, or when a page writes (write)"`
}

func defaultTrackConfig() TrackConfig {
	cfg, err := track.Config{}.WithDefaults()
	if err != nil {
		panic(err) // the zero Config is valid
	}
	return TrackConfig{
		Enabled: true, Interval: cfg.Interval, MaxQueue: cfg.MaxQueue, PerSession: cfg.PerSession, Sample: cfg.Sample,
		Visitors:      track.OnReturn,
		KeepAddresses: cfg.Retention.Addresses, KeepCounts: cfg.Retention.Counts, KeepTrail: cfg.Retention.Trail, KeepVisitors: cfg.Retention.Visitors,
	}
}

func (c TrackConfig) config() track.Config {
	return track.Config{
		Ignore: c.Ignore, IgnoreGPC: c.IgnoreGPC, Interval: c.Interval, MaxQueue: c.MaxQueue, PerSession: c.PerSession,
		Retention: track.Retention{Addresses: c.KeepAddresses, Counts: c.KeepCounts, Trail: c.KeepTrail, Visitors: c.KeepVisitors},
		Sample:    c.Sample, Values: c.Values, Visitors: c.Visitors,
	}
}

// Check refuses what [track.New] would, before anything opens.
func (c TrackConfig) Check() error {
	for _, d := range []struct {
		key string
		d   time.Duration
	}{
		{"interval", c.Interval}, {"keep_addresses", c.KeepAddresses}, {"keep_counts", c.KeepCounts},
		{"keep_trail", c.KeepTrail}, {"keep_visitors", c.KeepVisitors},
	} {
		if d.d == 0 {
			return app.Bad(d.key, "it must be more than 0", "write a time such as 1s, 24h or 90d")
		}
	}
	if c.Visitors == "" {
		return app.Bad("visitors", "it is empty", "write return, arrival or write")
	}
	if c.Sample == 0 || c.PerSession == 0 || c.MaxQueue == 0 {
		return app.Bad("", "sample, per_session and max_queue must be more than 0", "to track nobody set enabled = false")
	}
	if _, err := c.config().WithDefaults(); err != nil {
		return badTrack(err)
	}
	if c.URL != "" && c.URL != "memory:" {
		db := DatabaseConfig{URL: c.URL, TablePrefix: "crumb_"}
		if err := db.Check(); err != nil {
			return err
		}
		if db.Engine() == "redis" {
			return app.Bad("url", "the tables are in a SQL database", "write a sqlite:, postgres: or mysql: URL")
		}
	}
	return nil
}

// badTrack says an error of package track about its Config as one about the
// setting.
func badTrack(err error) error {
	problem := strings.TrimPrefix(err.Error(), "track: ")
	name, _, _ := strings.Cut(problem, " ")
	key := trackKeys[name]
	if f, ok := reflect.TypeFor[TrackConfig]().FieldByName(name); ok {
		key = f.Tag.Get("toml")
	}
	if key == "" {
		return err
	}
	_, problem, _ = strings.Cut(problem, "; ")
	for name, key := range trackKeys {
		problem = strings.ReplaceAll(problem, name, key)
	}
	return app.Bad(key, problem, "")
}

var trackKeys = map[string]string{
	"Retention.Addresses": "keep_addresses", "Retention.Counts": "keep_counts",
	"Retention.Trail": "keep_trail", "Retention.Visitors": "keep_visitors",
}

// url returns where the tables are, or "" if there is no SQL database for them. It
// has no password if that is in a file.
func (c TrackConfig) url(db DatabaseConfig) string {
	switch engine := db.Engine(); {
	case c.URL != "":
		return c.URL
	case engine == "sqlite":
		return strings.TrimSuffix(db.URL, ".db") + "-track.db"
	case engine == "" || engine == "redis":
		return ""
	}
	return db.URL
}

// ErrNoTables says that sessions in a Redis have no tables beside them.
var ErrNoTables = errors.New("the sessions are in no SQL database, so what visitors did is written nowhere")

// Address returns the URL of the tables, beside a database of sessions. Nobody
// should see it. The error wraps [ErrNoTables] if there are none.
func (c TrackConfig) Address(db DatabaseConfig) (string, error) {
	url := c.url(db)
	switch {
	case url == "":
		return "", app.WithHint(ErrNoTables, "set [track] url to a sqlite:, postgres: or mysql: URL")
	case c.URL == "" && url == db.URL:
		return db.Address()
	}
	return url, nil
}

// OpenTables opens the tables in the database of the sessions, in the file beside
// theirs, or in the database that the settings name.
func (c TrackConfig) OpenTables(ctx context.Context, db DatabaseConfig) (*track.Tables, error) {
	url, err := c.Address(db)
	if err != nil {
		return nil, err
	}
	tables, err := track.OpenTables(ctx, url, track.TablesConfig{TablePrefix: db.TablePrefix})
	if err != nil {
		hint := "\"crumb schema apply\" creates the tables; [track] url names another database"
		if strings.HasPrefix(url, "sqlite:") {
			hint = "the file and its directory must be writable by this user; [track] url names another database"
		}
		return nil, app.WithHint(err, hint)
	}
	return tables, nil
}
