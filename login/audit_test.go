package login

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestTheAuditLogHoldsNoNameThatNobodyHasAndNoToken(t *testing.T) {
	b := newBench(t)
	u := b.add("ann", rightHash())
	for _, name := range []string{"hunter2-my-password", "hunter2 with blanks"} {
		b.audit(t.Context(), AuditEntry{Event: AuditSignIn, Result: "wrong", Name: name, Addr: loopback, Agent: "Browser/1"})
		if err := b.tables.Record(t.Context(), AuditEntry{Event: AuditSignIn, Result: "wrong", Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	token := b.link()
	b.audit(t.Context(), AuditEntry{Event: AuditResetAsked, Result: AuditOK, UserID: u.ID, Name: u.Name})
	if err := b.use(token); err != nil {
		t.Fatal(err)
	}
	for where, text := range map[string]string{"the table": b.dump("audit"), "the log": b.log.String()} {
		if strings.Contains(text, "hunter2") || strings.Contains(text, token) || strings.Contains(text, anotherPassword) {
			t.Errorf("%s holds %s", where, text)
		}
		if !strings.Contains(text, "hmac:") || !strings.Contains(text, u.ID) {
			t.Errorf("%s does not tell what happened: %s", where, text)
		}
	}
	list, err := b.tables.Audit(t.Context(), AuditQuery{})
	if err != nil || len(list) != 5 {
		t.Fatalf("%v, %v", list, err)
	}
	if one, two := list[4].Name, list[2].Name; one == two || list[3].Name != "" || list[1].Name != "" {
		t.Errorf("names: %+v", list)
	}
	again := hidden(b.cfg.Keys, "Hunter2-My-Password")
	if again != list[4].Name {
		t.Errorf("the same name is %s, then %s", list[4].Name, again)
	}
}

func TestTheAuditLogIsReadNewestFirstInPages(t *testing.T) {
	onEach(t, func(t *testing.T, url string, cfg TablesConfig) {
		b := newBenchOn(t, url, cfg)
		for n := range 25 {
			e := AuditEntry{Event: AuditSignIn, Result: AuditOK, UserID: fmt.Sprint("user", n%2), Name: "ann", Addr: loopback, Detail: fmt.Sprint(n)}
			if err := b.tables.Record(t.Context(), e); err != nil {
				t.Fatal(err)
			}
			b.time.add(time.Second)
		}
		read := func(q AuditQuery) (details []string) {
			for {
				list, err := b.tables.Audit(t.Context(), q)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range list {
					details = append(details, e.Detail)
					q.Before = e.ID
				}
				if len(list) == 0 {
					return details
				}
			}
		}
		for _, limit := range []int{0, 1, 7, 25, 1 << 30} {
			if details := read(AuditQuery{Limit: limit}); len(details) != 25 || details[0] != "24" || details[24] != "0" {
				t.Errorf("in pages of %d: %v", limit, details)
			}
		}
		if details := read(AuditQuery{UserID: "user1", Limit: 5}); len(details) != 12 || details[0] != "23" || details[11] != "1" {
			t.Errorf("of one user: %v", details)
		}
		if details := read(AuditQuery{UserID: "nobody"}); len(details) != 0 {
			t.Errorf("of nobody: %v", details)
		}
	})
}

func TestAnEntryComesBackAsItWasWhateverTheBrowserSent(t *testing.T) {
	onEach(t, func(t *testing.T, url string, cfg TablesConfig) {
		b := newBenchOn(t, url, cfg)
		e := AuditEntry{
			Time: b.now(), Event: AuditSignIn, Result: AuditOK, UserID: "u", Name: "Zoë 🍒", Actor: "operator", Addr: loopback,
			Agent: "Niño \U0001F352\r\n\x00\xff " + strings.Repeat("ö", 300), Session: "0123456789abcdef", Detail: strings.Repeat("ö", 2000),
		}
		if err := b.tables.Record(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		list, err := b.tables.Audit(t.Context(), AuditQuery{})
		if err != nil || len(list) != 1 {
			t.Fatalf("%v, %v", list, err)
		}
		got := list[0]
		if !strings.HasPrefix(got.Agent, "Niño \U0001F352\r\n\uFFFD\uFFFD ö") || len(got.Agent) > 256 || len(got.Detail) != 1024 {
			t.Errorf("agent %q, detail of %d bytes", got.Agent, len(got.Detail))
		}
		e.ID, e.Agent, e.Detail = got.ID, got.Agent, got.Detail
		if got != e {
			t.Errorf("%+v became %+v", e, got)
		}
		if n := strings.Count(b.log.String(), "\n"); n != 1 {
			t.Errorf("the log has %d lines for one entry", n)
		}
	})
}

func TestAFloodOfRefusedTriesDoesNotFillTheAuditLog(t *testing.T) {
	for _, result := range []string{AuditThrottled, AuditUnavailable} {
		b := newBench(t)
		for range 1000 {
			b.audit(t.Context(), AuditEntry{Event: AuditSignIn, Result: result, Name: "ann"})
		}
		list, err := b.tables.Audit(t.Context(), AuditQuery{Limit: 1000})
		if err != nil || len(list) < 60 || len(list) > 100 {
			t.Errorf("%s: %d entries, %v", result, len(list), err)
		}
	}
}

func TestASweepKeepsWhatIsNotOldEnough(t *testing.T) {
	onEach(t, func(t *testing.T, url string, cfg TablesConfig) {
		b := newBenchOn(t, url, cfg)
		b.add("ann", rightHash())
		entry := func(detail string) {
			t.Helper()
			if err := b.tables.Record(t.Context(), AuditEntry{Event: AuditSignIn, UserID: "u", Detail: detail}); err != nil {
				t.Fatal(err)
			}
		}
		entry("old")
		b.time.add(time.Microsecond)
		entry("new")
		b.time.add(365*24*time.Hour - 2*time.Microsecond)
		token := b.link()
		if err := b.try("nobody", "guess"); !errors.Is(err, errWrong) {
			t.Fatal(err)
		}
		sweep := func(want int) {
			t.Helper()
			if n, err := b.tables.Sweep(t.Context(), b.now()); n != want || err != nil {
				t.Errorf("%d rows were removed, %v", n, err)
			}
		}
		sweep(0)
		b.time.add(time.Microsecond)
		sweep(1)
		list, err := b.tables.Audit(t.Context(), AuditQuery{})
		if err != nil || len(list) != 1 || list[0].Detail != "new" {
			t.Errorf("%+v, %v", list, err)
		}
		if err := b.use(token); err != nil {
			t.Errorf("the link after a sweep: %v", err)
		}
		sweep(0)
		b.link()
		b.time.add(forgetAfter + firstPause + keepExpired - 2*time.Microsecond)
		sweep(2) // the entry and the link, but not the failure: another clock may lag
		b.time.add(time.Microsecond)
		sweep(1)
	})
}

func TestASweepWorksInBatches(t *testing.T) {
	b := newBench(t)
	for range 2*sweepBatch + 1 {
		_, err := b.tables.db.Exec(t.Context(), b.tables.sql("INSERT INTO {}audit ("+auditColumns+") VALUES (1, '', '', '', '', '', '', '', '', '')"))
		if err != nil {
			t.Fatal(err)
		}
	}
	if n, err := b.tables.Sweep(t.Context(), b.now()); n != 2*sweepBatch+1 || err != nil {
		t.Errorf("%d rows were removed, %v", n, err)
	}
}
