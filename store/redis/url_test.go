package redis

import (
	"slices"
	"strings"
	"testing"
)

func TestURL(t *testing.T) {
	for url, want := range map[string]struct {
		addrs          []string
		user, password string
		db             int
		tls, cluster   bool
	}{
		"redis://localhost":                   {addrs: []string{"localhost:6379"}},
		"redis://localhost:7000/3":            {addrs: []string{"localhost:7000"}, db: 3},
		"redis://[::1]:7000/":                 {addrs: []string{"[::1]:7000"}},
		"redis://[::1]":                       {addrs: []string{"[::1]:6379"}},
		"valkey://host":                       {addrs: []string{"host:6379"}},
		"rediss://app:p%40ss%3F@host:6380/0":  {addrs: []string{"host:6380"}, user: "app", password: "p@ss?", tls: true},
		"redis://:secret@host":                {addrs: []string{"host:6379"}, password: "secret"},
		"redis+cluster://a,b:7001,[::1]:7002": {addrs: []string{"a:6379", "b:7001", "[::1]:7002"}, cluster: true},
		"rediss+cluster://app:x@a:1,b:2/0":    {addrs: []string{"a:1", "b:2"}, user: "app", password: "x", tls: true, cluster: true},
		"redis://app:a@b@host":                {addrs: []string{"host:6379"}, user: "app", password: "a@b"},
	} {
		opt, err := parseURL(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		if !slices.Equal(opt.InitAddress, want.addrs) || opt.Username != want.user || opt.Password != want.password || opt.SelectDB != want.db ||
			(opt.TLSConfig != nil) != want.tls || opt.ForceSingleClient == want.cluster {
			t.Errorf("%s: %+v", url, opt)
		}
		if !opt.DisableRetry || !opt.DisableCache || opt.SendToReplicas != nil {
			t.Errorf("%s: the client sends again, caches or asks replicas", url)
		}
	}
}

func TestAURLThatCannotBeMeantIsRefusedWithoutItsPassword(t *testing.T) {
	for url, hint := range map[string]string{
		"":                               "no scheme",
		"localhost:6379":                 "no scheme",
		"postgres://secret@host":         "redis://host:6379",
		"redis://":                       "host",
		"redis://:secret@":               "host",
		"redis://host:port":              "host",
		"redis://host:0":                 "host",
		"redis://::1":                    "brackets",
		"redis://a,b":                    "redis+cluster://",
		"redis://host/one":               "number",
		"redis://host/-1":                "number",
		"redis+cluster://a/1":            "Cluster has only",
		"redis://u:secret%@host":         "%25",
		"redis://u:secret@host?db=1":     "parameters",
		"redis://u:secret@host#fragment": "parameters",
	} {
		_, err := parseURL(url)
		if err == nil || !strings.Contains(err.Error(), hint) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want a hint with %q and no password", url, err, hint)
		}
	}
}

func TestAKeyPrefixThatWouldConfuseAClusterIsRefused(t *testing.T) {
	for _, prefix := range []string{"{x}", "a b", "a*", "é", "a\n"} {
		cfg := Config{KeyPrefix: prefix}
		if err := cfg.check(); err == nil {
			t.Errorf("the key prefix %q is taken", prefix)
		}
	}
	cfg := Config{}
	if err := cfg.check(); err != nil || cfg.KeyPrefix != "crumb:" {
		t.Errorf("the prefix is %q by default, %v", cfg.KeyPrefix, err)
	}
}
