package login

import (
	"context"
	"errors"
	"net/netip"
)

// An attempt is one try to sign in.
type attempt struct {
	name, password string
	device         string // value of the known-device cookie
	addr           netip.Addr
}

var (
	// errWrong is the answer to all that is wrong: unknown, wrong password,
	// disabled, no password.
	errWrong = errors.New("login: name and password do not match")
	// errBadName is the answer of register to a name that cannot be used.
	errBadName = errors.New("login: the name cannot be used")
)

func (l *Login) setUp() error {
	l.hasher = newHasher()
	return nil
}

// verify checks a name and a password. If the name is known the user comes with
// errWrong too, for the audit log and never for the answer. Errors: errWrong,
// *Throttled, or that of a database that does not answer.
func (l *Login) verify(ctx context.Context, a attempt) (*User, error) {
	// In a flood most are told so; the database need not hear of them.
	if a.device == "" && l.hasher.isFull() {
		return nil, errBusy
	}
	u, err := l.lookUp(ctx, a.name)
	if err != nil {
		return nil, err
	}
	u, err = l.check(ctx, u, a)
	if err != nil {
		return u, err
	}
	if users, ok := l.users.(SignInRecorder); ok {
		l.warn("The time of a sign-in could not be noted.", users.SignedIn(context.WithoutCancel(ctx), u.ID, l.now()))
	}
	return u, nil
}

// verifyCurrent checks the password of a user who is signed in, as verify does.
func (l *Login) verifyCurrent(ctx context.Context, u *User, password, device string, addr netip.Addr) (*User, error) {
	return l.check(ctx, u, attempt{name: u.Name, password: password, device: device, addr: addr})
}

// lookUp returns the user with this name, nil if there is none.
func (l *Login) lookUp(ctx context.Context, name string) (*User, error) {
	canonical, err := Canonical(name)
	if err != nil {
		return nil, nil
	}
	u, err := l.users.ByName(ctx, canonical)
	if errors.Is(err, ErrNoUser) {
		return nil, nil
	}
	return u, err
}

// check is the same work for everybody: a look at the counters, a place to hash,
// a failure counted in advance, one hash, and only then the difference.
func (l *Login) check(ctx context.Context, u *User, a attempt) (*User, error) {
	counters, known, err := l.counters(ctx, u, a)
	if err != nil {
		return u, err
	}
	if err := l.tables.peek(ctx, l.now(), counters); err != nil {
		return u, err
	}
	release, err := l.hasher.acquire(ctx, known)
	if err != nil {
		return u, err
	}
	defer release()
	res, err := l.tables.reserve(ctx, l.now(), counters)
	if err != nil {
		return u, err
	}
	hash := ""
	if u != nil && !u.Disabled {
		hash = u.Hash
	}
	ok, better, err := l.hasher.verify(hash, a.password)
	if err != nil {
		l.cfg.Logger.Error("The hash of a user's password cannot be read; set a new password.", "user", u.ID)
	}
	if !ok {
		return u, errWrong
	}
	return l.passed(context.WithoutCancel(ctx), u, known, res, better), nil
}

// passed undoes what the right password did not deserve. Nothing of it keeps the
// user out: what cannot be undone runs out by itself.
func (l *Login) passed(ctx context.Context, u *User, known bool, res reservation, better string) *User {
	if known {
		l.warn("The failures of a known device could not be forgotten.", l.tables.forgive(ctx, res.counters...))
		l.warn("Strangers could not be let in again.", l.tables.reopen(ctx, l.now(), l.account(u, "")))
	} else {
		l.warn("A right password still counts as a failure.", l.tables.giveBack(ctx, l.now(), res))
	}
	if better == "" {
		return u
	}
	if err := l.users.Rehash(ctx, u.ID, u.Hash, better); err != nil {
		l.warn("A hash could not be replaced by a better one.", err)
		return u
	}
	rehashed := *u
	rehashed.Hash = better
	return &rehashed
}

// counters returns what an attempt counts in. A known device counts for itself
// alone: neither strangers nor who shares its network keep its owner out.
func (l *Login) counters(ctx context.Context, u *User, a attempt) (list []counter, known bool, err error) {
	if d, ok := l.knownDevice(u, a.device); ok {
		list = []counter{deviceCounter(l.cfg.Keys, u.ID, d.id[:])}
		tallies, _, err := l.tables.tallies(ctx, l.tables.db, l.now(), list, "")
		if err != nil {
			return nil, false, err
		}
		// One that failed so often may not be the owner's any more.
		if tallies[0].failures < maxFailures {
			return list, true, nil
		}
	}
	sources := sourceCounters(l.cfg.Keys, a.addr, failuresOf)
	if len(sources) == 0 {
		l.tables.warnedOnce.Do(func() {
			l.cfg.Logger.Warn("Tries to sign in come from a private address and are not limited by network. Behind a proxy, trust it: set its address in the trusted proxies.", "addr", a.addr)
		})
	}
	return ordered(append(sources, l.account(u, a.name))), false, nil
}

// account returns the counter of strangers on the account of u, or, if u is nil, on
// the one that there would be if name were known.
func (l *Login) account(u *User, name string) counter {
	otherwise := name
	if u != nil {
		name, otherwise = u.Name, u.ID
	}
	canonical, err := Canonical(name)
	if err != nil {
		canonical = "\x00" + otherwise // no canonical name begins like that
	}
	return accountCounter(l.cfg.Keys, canonical)
}

func (l *Login) warn(message string, err error) {
	if err != nil {
		l.cfg.Logger.Warn(message, "error", err)
	}
}

// newHash returns the hash of a new password that keeps the rules. known is for
// those who have shown that they are no stranger.
func (l *Login) newHash(ctx context.Context, name, password string, known bool) (string, error) {
	normal, err := checkPassword(password, l.cfg.MinPassword, contextWords(name, l.cfg.AppName))
	if err != nil {
		return "", err
	}
	release, err := l.hasher.acquire(ctx, known)
	if err != nil {
		return "", err
	}
	defer release()
	return l.hasher.hash(normal), nil
}

// setPassword sets a new password that keeps the rules; else a *PasswordError, or
// ErrChanged if u is not as it was read any more. Known devices and reset links of
// the user end with it.
func (l *Login) setPassword(ctx context.Context, u *User, password string) (*User, error) {
	hash, err := l.newHash(ctx, u.Name, password, true)
	if err != nil {
		return nil, err
	}
	return l.users.SetPassword(context.WithoutCancel(ctx), u.ID, u.Generation, hash)
}

// register adds a user. Errors: errBadName, ErrNameTaken, *PasswordError,
// *Throttled.
func (l *Login) register(ctx context.Context, name, password string) (*User, error) {
	users, ok := l.users.(Registrar)
	if !ok {
		return nil, errors.New("login: Users is no Registrar; nobody can register")
	}
	canonical, err := Canonical(name)
	if err != nil {
		return nil, errors.Join(errBadName, err)
	}
	hash, err := l.newHash(ctx, name, password, false)
	if err != nil {
		return nil, err
	}
	return users.Add(ctx, name, canonical, hash)
}
