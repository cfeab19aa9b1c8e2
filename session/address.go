package session

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"
)

// Addr returns the address of the visitor who sent r, under [Config.TrustedProxies]:
// the one that [Info] keeps. It is not valid if r has none.
func (m *Manager) Addr(r *http.Request) netip.Addr { return m.addr(r) }

// addr returns the visitor's address: RemoteAddr, or what the nearest proxy that
// is not trusted passed on. The header is read from the right, because everything
// to the left of the first trusted entry may be the visitor's invention.
func (m *Manager) addr(r *http.Request) netip.Addr {
	addr := parseAddr(r.RemoteAddr)
	if !m.trusted(addr) {
		return addr
	}
	lines := r.Header[m.cfg.AddrHeader]
	for _, line := range slices.Backward(lines) {
		for more := true; more; {
			var last string
			if i := strings.LastIndexByte(line, ','); i >= 0 {
				line, last = line[:i], line[i+1:]
			} else {
				last, more = line, false
			}
			next := parseAddr(strings.TrimSpace(last))
			if !next.IsValid() {
				return addr
			}
			if addr = next; !m.trusted(addr) {
				return addr
			}
		}
	}
	return addr
}

// isAddr reports whether addr plainly is the visitor's address, for less than it
// takes to parse that; false says nothing.
func (m *Manager) isAddr(r *http.Request, addr netip.Addr) bool {
	if !addr.Is4() || m.trusted(addr) {
		return false
	}
	var b [len("255.255.255.255:")]byte
	text := append(addr.AppendTo(b[:0]), ':')
	return len(r.RemoteAddr) > len(text) && r.RemoteAddr[:len(text)] == string(text)
}

func (m *Manager) trusted(addr netip.Addr) bool {
	return addr.IsValid() && slices.ContainsFunc(m.cfg.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// parseAddr reads an address with or without a port; invalid is the zero Addr.
func parseAddr(s string) netip.Addr {
	ap, err := netip.ParseAddrPort(s)
	if err == nil {
		return ap.Addr().Unmap().WithZone("")
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap().WithZone("")
}

// sameNet reports whether a and b belong to one visitor as far as one can tell:
// IPv6 hosts change the lower 64 bits at will (RFC 8981).
func sameNet(a, b netip.Addr) bool {
	if a.Is6() && b.Is6() {
		p, _ := a.Prefix(64)
		return p.Contains(b)
	}
	return a == b
}

// maxAgent is how many bytes of a User-Agent are kept.
const maxAgent = 256

// userAgent is r.UserAgent without a look at how the name is written.
func userAgent(r *http.Request) string {
	if lines := r.Header["User-Agent"]; len(lines) > 0 {
		return lines[0]
	}
	return ""
}

// agent returns the User-Agent, cut and mended so that every store takes it.
func agent(r *http.Request) string {
	s := userAgent(r)
	if len(s) <= maxAgent && utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
		return s
	}
	s = strings.ReplaceAll(strings.ToValidUTF8(s[:min(len(s), maxAgent+utf8.UTFMax)], "\uFFFD"), "\x00", "\uFFFD")
	for len(s) > maxAgent {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}
