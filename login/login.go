// Package login signs users in with a name and a password, keeps private pages
// private, and lets users see and end their sessions. It is plain net/http on
// package session:
//
//	accounts, err := login.New(login.Config{Keys: keys, Sessions: sessions, Tables: tables})
//	…
//	accounts.Routes(mux.Handle) // /login, /logout, /account and so on
//	mux.Handle("GET /private", login.Require(http.HandlerFunc(private)))
//	handler := sessions.Handler(accounts.Handler(mux))
//
// The users row is the authority: it is read when a request asks who is signed in,
// at most once, and a session whose user is gone, disabled or has other
// credentials since is ended there and then. Rights are never kept in a session.
package login

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/crumb-go/crumb/keyring"
	"github.com/crumb-go/crumb/session"
)

// A Config holds the settings of a [Login]. Keys, Sessions and Tables must be
// set; the zero value of the others is safe.
type Config struct {
	// AppName stands on the pages, and is no part of a password. Defaults to
	// "This site".
	AppName string

	// Clock defaults to time.Now.
	Clock func() time.Time

	// FormTokens has every form carry a token of its session, which unsafe
	// requests must bring back in the field form_token or, if they are longer than
	// 1 MB, in the header X-Form-Token; see [FormToken]. Defaults to false: that a request comes from
	// a page of this site is known from what browsers say with it. With it, whoever
	// looks at the sign-in page has a session.
	FormTokens bool

	// Fresh is how long ago users may have proved who they are before they end
	// sessions of theirs. Defaults to 15 minutes.
	Fresh time.Duration

	// Insecure allows the cookie of known devices over plain HTTP, for
	// development. It goes with [session.Config.Insecure].
	Insecure bool

	// Keys authenticate what is handed out and hide names in counters and logs.
	Keys *keyring.Ring

	// Logger defaults to slog.Default. Passwords, links and names that nobody has
	// are never logged.
	Logger *slog.Logger

	// MaxSessions is how many sessions a user may have at once; another sign-in
	// ends the one whose sign-in is longest ago. 0, the default, is no limit.
	MaxSessions int

	// MinPassword is how many characters a new password needs at least: 8 to 64.
	// Defaults to 15, what NIST SP 800-63B-4 asks of a password that stands alone.
	MinPassword int

	// OnEvent is called after an event, such as a sign-in or one from a device
	// not seen before, on the request's goroutine: be quick.
	OnEvent func(ctx context.Context, e AuditEntry)

	// OnReset sends the user a link to set a new password, by mail as a rule. It
	// is called by [Login.Run], one at a time, has 30 seconds, and needs PublicURL.
	// A user gets at most 3 links an hour, the last of which works. Without it
	// /forgot says that whoever runs the site gives out links: crumb users reset.
	OnReset func(ctx context.Context, u User, link string) error

	// Pages replaces pages, one by one: a file signin.html in it is used instead of
	// ours. See [Page] for what it gets and for the names.
	Pages fs.FS

	// PublicURL is where visitors find the site, such as https://example.com. Links
	// are built from it and from nothing in a request.
	PublicURL string

	// Register lets anybody make an account at /register. Defaults to false. That
	// page says which names are taken.
	Register bool

	// Sessions are the sessions to sign in to.
	Sessions *session.Manager

	// Tables keep failed tries, links and the audit log, and users if Users is nil.
	Tables *Tables

	// TrustedOrigins are other origins whose pages may send unsafe requests, such
	// as https://admin.example.com. Defaults to none but that of PublicURL.
	TrustedOrigins []string

	// Users are the app's own users. Defaults to Tables.
	Users Users
}

// A Login signs users in. It is safe for use by several goroutines.
type Login struct {
	cfg     Config
	users   Users
	tables  *Tables
	hasher  *hasher
	pages   *pages
	origins *http.CrossOriginProtection
	forgot  chan forgotten
	mails   chan mail
	drops   atomic.Int64 // wishes that came to nothing
	dropLog rate.Sometimes
	turns   sync.Map // of inTurn: from session.ID to a channel that is closed at the end
	onReset atomic.Pointer[func(ctx context.Context, u User, link string) error]
}

// New returns a Login, or an error that says which setting is wrong.
func New(cfg Config) (*Login, error) {
	switch {
	case cfg.Keys == nil:
		return nil, errors.New("login: Keys is nil; keyring.Open makes them")
	case cfg.Sessions == nil:
		return nil, errors.New("login: Sessions is nil; session.NewManager makes it")
	case cfg.Tables == nil:
		return nil, errors.New("login: Tables is nil; OpenTables makes them")
	case cfg.MaxSessions < 0:
		return nil, fmt.Errorf("login: MaxSessions is %d; 0 is no limit", cfg.MaxSessions)
	case cfg.MinPassword != 0 && (cfg.MinPassword < 8 || cfg.MinPassword > 64):
		return nil, fmt.Errorf("login: MinPassword is %d; it must be 8 to 64", cfg.MinPassword)
	case cfg.Fresh < 0:
		return nil, fmt.Errorf("login: Fresh is %v; it must be more than 0", cfg.Fresh)
	case cfg.OnReset != nil && cfg.PublicURL == "":
		return nil, errors.New("login: OnReset needs PublicURL, such as https://example.com, to build links from")
	}
	if cfg.AppName == "" {
		cfg.AppName = "This site"
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Fresh == 0 {
		cfg.Fresh = 15 * time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.MinPassword == 0 {
		cfg.MinPassword = 15
	}
	if cfg.Users == nil {
		cfg.Users = cfg.Tables
	}
	if cfg.OnEvent == nil {
		cfg.OnEvent = func(context.Context, AuditEntry) {}
	}
	l := &Login{cfg: cfg, users: cfg.Users, tables: cfg.Tables, forgot: make(chan forgotten, maxForgotten), mails: make(chan mail, maxForgotten),
		dropLog: rate.Sometimes{First: 1, Interval: time.Minute}}
	if err := l.setUp(); err != nil {
		return nil, err
	}
	var err error
	if l.origins, err = crossOrigin(cfg); err != nil {
		return nil, err
	}
	if l.pages, err = newPages(cfg.Pages); err != nil {
		return nil, fmt.Errorf("login: Pages: %w", err)
	}
	if cfg.OnReset != nil {
		l.onReset.Store(&cfg.OnReset)
	}
	return l, nil
}

// OnReset sets [Config.OnReset], for those who get a Login that is made already.
func (l *Login) OnReset(send func(ctx context.Context, u User, link string) error) error {
	if l.cfg.PublicURL == "" {
		return errors.New("login: OnReset needs PublicURL, such as https://example.com, to build links from")
	}
	l.onReset.Store(&send)
	return nil
}

// crossOrigin refuses unsafe requests from pages of other sites, and of other
// hosts of this one.
func crossOrigin(cfg Config) (*http.CrossOriginProtection, error) {
	p := http.NewCrossOriginProtection()
	if cfg.PublicURL != "" {
		u, err := url.Parse(cfg.PublicURL)
		if err != nil || u.Host == "" || cfg.PublicURL != u.Scheme+"://"+u.Host || u.Scheme != "https" && u.Scheme != "http" {
			return nil, fmt.Errorf("login: PublicURL is %q; write scheme and host only, such as https://example.com", cfg.PublicURL)
		}
		// A proxy may hand on another Host than the browser's.
		if err := p.AddTrustedOrigin(cfg.PublicURL); err != nil {
			return nil, fmt.Errorf("login: PublicURL: %w", err)
		}
	}
	for _, origin := range cfg.TrustedOrigins {
		if err := p.AddTrustedOrigin(origin); err != nil {
			return nil, fmt.Errorf("login: TrustedOrigins holds %q; write it like https://admin.example.com: %w", origin, err)
		}
	}
	return p, nil
}

// now is the time, as stores keep it.
func (l *Login) now() time.Time { return l.cfg.Clock().UTC().Truncate(time.Microsecond) }

// Run sends the links that were asked for, until ctx is done: go accounts.Run(ctx).
// Without it nobody gets any.
func (l *Login) Run(ctx context.Context) error {
	var mailing sync.WaitGroup
	mailing.Go(func() { l.sendMails(ctx) })
	defer mailing.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case f := <-l.forgot:
			l.grant(ctx, f)
		}
	}
}

// Routes hands the pages to handle, which is that of a mux: [http.ServeMux.Handle].
// They belong inside [Login.Handler], with [session.Manager.Handler] around it.
//
//	/login /logout /register /forgot /reset
//	/account /account/password /account/sessions /account/delete
func (l *Login) Routes(handle func(pattern string, h http.Handler)) {
	private := func(pattern string, h http.HandlerFunc) { handle(pattern, Require(h)) }
	// The form is read before the users row: a body can take hours to come, and what
	// the row says would be out of date by then.
	privateForm := func(pattern string, h http.HandlerFunc) { handle(pattern, l.form(Require(l.inTurn(h)).ServeHTTP)) }
	fresh := func(pattern string, h http.HandlerFunc) { handle(pattern, RequireFresh(l.cfg.Fresh, h)) }
	open := func(pattern string, h http.HandlerFunc) { handle(pattern, h) }

	open("GET /login", l.showSignIn)
	open("POST /login", l.form(l.signIn))
	open("POST /logout", l.signOut)
	open("GET /forgot", l.showForgot)
	open("POST /forgot", l.form(l.askReset))
	open("GET /reset", l.showReset)
	open("POST /reset", l.form(l.reset))
	if l.canRegister() {
		open("GET /register", l.showRegister)
		open("POST /register", l.form(l.registerUser))
	}
	private("GET /account", l.showAccount)
	private("GET /account/password", l.showPassword)
	privateForm("POST /account/password", l.changePassword)
	private("GET /account/sessions", l.showSessions)
	fresh("POST /account/sessions/{id}/end", l.endSession)
	fresh("POST /account/sessions/end-others", l.endOthers)
	if l.canDelete() {
		private("GET /account/delete", l.showDelete)
		privateForm("POST /account/delete", l.deleteAccount)
	}
}

func (l *Login) canRegister() bool {
	_, ok := l.users.(Registrar)
	return ok && l.cfg.Register
}

func (l *Login) canDelete() bool {
	_, ok := l.users.(Deleter)
	return ok
}

// Check returns an error if users cannot be read: for a check of health.
func (l *Login) Check(ctx context.Context) error {
	if _, err := l.users.ByID(ctx, "check"); !errors.Is(err, ErrNoUser) {
		return err
	}
	return nil
}
