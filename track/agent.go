package track

import (
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/mileusna/useragent"
)

// A device is what a User-Agent says, in words of a fixed list: what a stranger
// writes there reaches neither the tables nor a screen.
type device struct {
	label string // browser/system/kind, such as Firefox/Linux/desktop
	bot   bool
}

const other = "Other"

var (
	browsers = []string{
		"Chrome", "Edge", "Facebook App", "Firefox", "Headless Chrome", "Instagram App", "Internet Explorer", "Opera",
		"Opera Mini", "Opera Touch", "Safari", "Samsung Browser", "TikTok App", "Vivaldi", "curl",
	}
	systems = []string{"Android", "BlackBerry", "ChromeOS", "FreeBSD", "Harmony", "iOS", "Linux", "macOS", "Windows", "Windows Phone"}
	// robots are parts of names, in lower case, by which programs that nobody sits
	// in front of call themselves.
	robots = []string{"bot", "crawl", "spider", "slurp", "headlesschrome", "facebookexternalhit"}
)

func parseAgent(agent string) device {
	ua := useragent.Parse(agent)
	lower := strings.ToLower(agent)
	bot := ua.Bot || slices.ContainsFunc(robots, func(s string) bool { return strings.Contains(lower, s) })
	kind := "other"
	switch {
	case bot:
		kind = "bot"
	case ua.Tablet:
		kind = "tablet"
	case ua.Mobile:
		kind = "phone"
	case ua.Desktop:
		kind = "desktop"
	}
	return device{known(browsers, ua.Name) + "/" + known(systems, ua.OS) + "/" + kind, bot}
}

func known(list []string, name string) string {
	if slices.Contains(list, name) {
		return name
	}
	return other
}

// agents remembers what agents were parsed to: there are few, and many visitors.
type agents struct {
	mu       sync.Mutex
	now, old map[string]device // guarded by mu
}

const maxAgents = 2048 // in each of the two

func (a *agents) parse(agent string) device {
	a.mu.Lock()
	defer a.mu.Unlock()
	d, ok := a.now[agent]
	if ok {
		return d
	}
	if d, ok = a.old[agent]; !ok {
		d = parseAgent(agent)
	}
	if a.now == nil || len(a.now) >= maxAgents {
		a.old, a.now = a.now, make(map[string]device)
	}
	a.now[agent] = d
	return d
}

// language returns the first language of an Accept-Language header, in lower
// case, or "".
func language(header string) string {
	tag, _, _ := strings.Cut(header, ",")
	tag, _, _ = strings.Cut(tag, ";")
	tag = strings.TrimSpace(tag)
	if len(tag) < 2 || len(tag) > maxLanguage || strings.ContainsFunc(tag, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-')
	}) {
		return ""
	}
	return strings.ToLower(tag)
}

// referrer returns the origin of the page that led here from elsewhere, such as
// https://example.org, or "". Its path may hold what nobody here should know.
func referrer(r *http.Request) string {
	raw := header(r, "Referer")
	if raw == "" || len(raw) > 4096 {
		return ""
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || len(u.Host) > maxReferrer-len("https://") {
		return ""
	}
	host := strings.ToLower(u.Host)
	if strings.EqualFold(host, r.Host) || strings.ContainsFunc(host, func(c rune) bool { return !hostRune(c) }) {
		return ""
	}
	return u.Scheme + "://" + host
}

func hostRune(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.ContainsRune("-._:[]", c)
}

// Addresses lose what tells one visitor from the next: 24 bits of IPv4 and 48 of
// IPv6 stay.
const (
	keptBits4 = 24
	keptBits6 = 48
)

// truncated returns an address as it is kept after [Retention.Addresses], or text
// itself if it is none.
func truncated(text string) string {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return text
	}
	bits := keptBits6
	if addr.Is4() {
		bits = keptBits4
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return text
	}
	return p.String()
}

// cutText returns s cut to n bytes of UTF-8 that every database takes.
func cutText(s string, n int) string {
	if len(s) <= n && utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
		return s
	}
	out := make([]byte, 0, min(n, len(s)))
	for _, c := range s {
		if c == 0 {
			c = utf8.RuneError
		}
		if len(out)+utf8.RuneLen(c) > n {
			break
		}
		out = utf8.AppendRune(out, c)
	}
	return string(out)
}
