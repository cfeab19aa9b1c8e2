package login

import (
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/text/unicode/norm"
)

// cherrycake are the users of the documentation, and how they sign in.
var cherrycake = map[string]string{
	"doug@berkeley.edu": "TheMotherOfAllDemos413", "johnny@princeton.org": "lavidaloca", "frank.abagnale@united.com": "catch_me_?_you_can",
	"carl@cosmos.org": "palebluedot34", "ricky@mit.edu": "137",
}

func TestTheUsersOfCherrycakeSignInAndHaveOurHashesAfterwards(t *testing.T) {
	dump, err := os.ReadFile("testdata/cherrycake-users.sql")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(`'([^']+@[^']+)','(sha512:[^']+)'`).FindAllStringSubmatch(string(dump), -1)
	if len(rows) != len(cherrycake) {
		t.Fatalf("%d users in the dump", len(rows))
	}
	b := newBench(t)
	for _, row := range rows {
		name, old := row[1], row[2]
		before := b.add(name, old)
		if err := b.try(name, cherrycake[name]); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		u, err := b.tables.ByID(t.Context(), before.ID)
		if err != nil || !strings.HasPrefix(u.Hash, "$argon2id$v=19$m=19456,t=2,p=1$") || u.Generation != before.Generation {
			t.Fatalf("%s: %+v, %v", name, u, err)
		}
		if hashes := b.hashed(); !slices.Equal(hashes, []cost{{kind: "pbkdf2-sha512", time: 100_000}, ourCost}) {
			t.Errorf("%s: hashed %v", name, hashes)
		}
		if err := b.try(name, cherrycake[name]); err != nil {
			t.Errorf("%s, again: %v", name, err)
		}
		if err := b.try(name, cherrycake[name]+"x"); !errors.Is(err, errWrong) {
			t.Errorf("%s with a wrong password: %v", name, err)
		}
		if hashes := b.hashed(); !slices.Equal(hashes, []cost{ourCost, ourCost}) {
			t.Errorf("%s, again: hashed %v", name, hashes)
		}
	}
}

func TestAWrongPasswordIsWrongForEveryKindOfHash(t *testing.T) {
	b := newBench(t)
	for name, hash := range map[string]string{
		"ours": rightHash(), "bcrypt": bcryptOf(t, rightPassword), "cherrycake": "sha512:1000:bnZnpmVgTD8Asd9x+JJxAHPlfcsCb4Fy:P4TzQV+/dtN+e/GlUZXAkXtrZ9esZy1Z",
	} {
		b.add(name, hash)
		for _, wrong := range []string{"", "x", rightPassword + "x", rightPassword[:len(rightPassword)-1], strings.ToUpper(rightPassword), hash} {
			if err := b.try(name, wrong); !errors.Is(err, errWrong) {
				t.Errorf("%s with %q: %v", name, wrong, err)
			}
			b.time.add(longPause)
		}
	}
}

func bcryptOf(t testing.TB, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(hash)
}

func TestBcryptLooksAt72BytesAndWhatIsLongerIsNotUpgraded(t *testing.T) {
	b := newBench(t)
	p72 := strings.Repeat("0123456789ab", 6)
	u := b.add("ann", strings.Replace(bcryptOf(t, p72), "$2a$", "$2y$", 1)) // as PHP writes it
	check := func(what, password string, ok bool, kept bool) {
		t.Helper()
		err := b.try("ann", password)
		if ok != (err == nil) || !ok && !errors.Is(err, errWrong) {
			t.Errorf("%s: %v", what, err)
		}
		now, err := b.tables.ByID(t.Context(), u.ID)
		if err != nil || (now.Hash == u.Hash) != kept {
			t.Errorf("%s: hash %s, %v", what, now.Hash, err)
		}
		b.time.add(longPause)
	}
	check("another byte 73", p72+"x", true, true)
	check("another byte 73 again", p72+"y, and more", true, true)
	check("another byte 72", p72[:71]+"x", false, true)
	check("71 bytes", p72[:71], false, true)
	check("a zero byte behind", p72[:71]+"\x00", false, true)
	check("all 72 bytes", p72, true, false)
	check("now byte 73 counts", p72+"x", false, false)
}

func TestAPasswordIsComparedInOneFormAndToItsLastByte(t *testing.T) {
	b := newBench(t)
	nfc := norm.NFC.String("Zoë’s café, naïve 한글") + strings.Repeat("x", 80)
	nfd := norm.NFD.String(nfc)
	if nfc == nfd {
		t.Fatal("the two forms are the same")
	}
	for name, set := range map[string]string{"ann": nfc, "bob": nfd, "zero": "before\x00after", "legacy": ""} {
		hash := ""
		if set != "" {
			var err error
			if hash, err = HashPassword(set, 8); err != nil {
				t.Fatal(err)
			}
		} else {
			hash = bcryptOf(t, norm.NFD.String("café au lait")) // of another program, which hashed what it got
		}
		b.add(name, hash)
	}
	for _, c := range []struct {
		name, password string
		ok             bool
	}{
		{"ann", nfc, true}, {"ann", nfd, true}, {"bob", nfc, true}, {"bob", nfd, true},
		{"ann", nfc + "x", false}, {"ann", nfc[:len(nfc)-1], false}, {"ann", " " + nfc, false}, {"ann", strings.ToLower(nfc), false},
		{"zero", "before\x00after", true}, {"zero", "before", false}, {"zero", "before\x00", false}, {"zero", "before\x00AFTER", false},
		{"legacy", norm.NFD.String("café au lait"), true}, {"legacy", norm.NFC.String("café au lait"), true},
	} {
		if err := b.try(c.name, c.password); (err == nil) != c.ok || !c.ok && !errors.Is(err, errWrong) {
			t.Errorf("%s with %q: %v", c.name, c.password, err)
		}
		b.time.add(longPause)
	}
}

func TestAnotherCostIsReplacedByOurs(t *testing.T) {
	h := newHasher()
	for name, encoded := range map[string]string{
		"fewer passes": "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$", "another salt": "$argon2id$v=19$m=64,t=1,p=2$c2FsdHNhbHQ$",
	} {
		e, err := parseHash(encoded + "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
		if err != nil {
			t.Fatal(name, err)
		}
		ok, better, err := h.verify(encoded+raw64.EncodeToString(e.argon2("a password")), "a password")
		if !ok || err != nil || better == "" {
			t.Errorf("%s: %v, %q, %v", name, ok, better, err)
		}
		if ok, again, err := h.verify(better, "a password"); !ok || err != nil || again != "" {
			t.Errorf("%s: what replaced it: %v, %q, %v", name, ok, again, err)
		}
	}
}

func TestHashesThatCouldStopTheProcessAreRefused(t *testing.T) {
	const salt, sum = "c2FsdHNhbHRzYWx0c2FsdA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	good := "$argon2id$v=19$m=19456,t=2,p=1$" + salt + "$" + sum
	if _, err := parseHash(good); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		"", "plain", "$argon2id$", "$argon2i$v=19$m=19456,t=2,p=1$" + salt + "$" + sum, "$argon2id$v=16$m=19456,t=2,p=1$" + salt + "$" + sum,
		"$argon2id$v=19$m=4294967295,t=2,p=1$" + salt + "$" + sum, "$argon2id$v=19$m=19456,t=4000000000,p=1$" + salt + "$" + sum,
		"$argon2id$v=19$m=19456,t=2,p=0$" + salt + "$" + sum, "$argon2id$v=19$m=0,t=2,p=1$" + salt + "$" + sum, "$argon2id$v=19$m=19456,t=0,p=1$" + salt + "$" + sum,
		"$argon2id$v=19$m=19456,t=2,p=300$" + salt + "$" + sum, "$argon2id$v=19$m=+19456,t=2,p=1$" + salt + "$" + sum, "$argon2id$v=19$m=019456,t=2,p=1$" + salt + "$" + sum,
		"$argon2id$v=19$t=2,m=19456,p=1$" + salt + "$" + sum, "$argon2id$v=19$m=19456,t=2,p=1,x=1$" + salt + "$" + sum, good + "$", good + "=", good[:len(good)-30],
		"$argon2id$v=19$m=19456,t=2,p=1$$" + sum, "$argon2id$v=19$m=19456,t=2,p=1$" + salt + "$", good + strings.Repeat("A", 600),
		"$2a$31$" + strings.Repeat("a", 53), "$2x$10$" + strings.Repeat("a", 53), "$2a$10$short", "$2$10$" + strings.Repeat("a", 54), "$2a$03$" + strings.Repeat("a", 53),
		"sha512:1000001:c2FsdHNhbHQ=:" + sum + "=", "sha512:0:c2FsdHNhbHQ=:" + sum + "=", "sha512:-1:c2FsdHNhbHQ=:" + sum + "=", "sha512:100000::" + sum + "=",
		"sha512:100000:c2FsdHNhbHQ=:", "sha512:100000:c2FsdHNhbHQ=:" + sum + "=:more", "sha256:100000:c2FsdHNhbHQ=:" + sum + "=",
	} {
		if e, err := parseHash(bad); err == nil {
			t.Errorf("%q is taken: %+v", bad, e)
		}
	}
}

func TestAHashThatCannotBeReadIsWrongAndTold(t *testing.T) {
	b := newBench(t)
	u := b.add("ann", rightHash())
	if _, err := b.tables.db.Exec(t.Context(), b.tables.sql("UPDATE {}users SET hash = 'broken'")); err != nil {
		t.Fatal(err)
	}
	if err := b.try("ann", rightPassword); !errors.Is(err, errWrong) {
		t.Error(err)
	}
	if hashes := b.hashed(); !slices.Equal(hashes, []cost{ourCost}) {
		t.Errorf("hashed %v", hashes)
	}
	if log := b.log.String(); !strings.Contains(log, u.ID) || strings.Contains(log, "broken") {
		t.Errorf("the log says %s", log)
	}
	if _, err := b.tables.Add(t.Context(), "bob", "bob", "broken"); err == nil {
		t.Error("a user was added with it")
	}
}

func FuzzAnyTextIsAHashWithinTheBoundsOrNone(f *testing.F) {
	f.Add("$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Add("$2y$10$" + strings.Repeat("a", 53))
	f.Add("sha512:100000:+IWHhrngEBLl0BMu+19sZZLFBKnT99O1:Pm7SsGpfs/2Oghd4vrKPhOrzqR7lbYAW")
	f.Fuzz(func(t *testing.T, s string) {
		e, err := parseHash(s)
		if err != nil {
			return
		}
		switch e.kind {
		case "argon2id":
			if e.memory < 1 || e.memory > maxMemory || e.time < 1 || e.time > maxPasses || e.threads < 1 || e.threads > maxThreads || len(e.salt) > 64 || len(e.sum) < 16 || len(e.sum) > 64 {
				t.Errorf("%q: %+v", s, e)
			}
		case "bcrypt":
			if e.time < bcrypt.MinCost || e.time > maxBcrypt {
				t.Errorf("%q: %+v", s, e)
			}
		case "pbkdf2-sha512":
			if e.time < 1 || e.time > maxIterations || len(e.sum) < 16 || len(e.sum) > 64 {
				t.Errorf("%q: %+v", s, e)
			}
		default:
			t.Errorf("%q is of kind %q", s, e.kind)
		}
		// What is cheap is computed too: it must not panic, nor match by chance.
		if e.memory <= 64 && (e.kind == "argon2id" && e.time == 1 || e.kind == "bcrypt" && e.time == bcrypt.MinCost || e.kind == "pbkdf2-sha512" && e.time < 10) {
			if e.matches("a password of which this is hardly the hash") {
				t.Errorf("%q matches", s)
			}
		}
	})
}
