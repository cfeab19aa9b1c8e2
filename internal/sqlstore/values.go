// Package sqlstore is what the stores on SQL databases share: how the values of a
// record stand in a column, and the store on a server, over what a driver offers.
package sqlstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
	"unsafe"

	"github.com/crumb-go/crumb/session"
)

// AppendValues appends vs to dst as one JSON object, keys in the order given and
// each value byte for byte as it is:
//
//	{"hello.views":3,"ui.theme":"dark"}
//
// It trusts that [CheckValue] passed each value: a value that is no JSON would
// break the object.
func AppendValues(dst []byte, vs session.Values) []byte {
	dst = append(dst, '{')
	for i, v := range vs {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendKey(dst, v.Key)
		dst = append(dst, ':')
		dst = append(dst, v.JSON...)
	}
	return append(dst, '}')
}

// CheckValues returns a [*session.ValueError] if a value is no JSON or the keys
// are not in ascending order, each once.
func CheckValues(vs session.Values) error {
	for i, v := range vs {
		if err := CheckValue(v.Key, v.JSON); err != nil {
			return err
		}
		if i > 0 && vs[i-1].Key >= v.Key {
			return &session.ValueError{Key: v.Key, Err: errors.New("values must be in the order of their keys, each key once")}
		}
	}
	return nil
}

// CheckChange returns a [*session.ValueError] if c sets a value that is no JSON.
func CheckChange(c *session.Change) error {
	for i := range c.Ops {
		if op := &c.Ops[i]; op.Kind == session.OpSet {
			if err := CheckValue(op.Key, op.Value); err != nil {
				return err
			}
		}
	}
	return nil
}

// CheckValue returns a [*session.ValueError] unless raw is exactly one JSON value.
func CheckValue(key string, raw json.RawMessage) error {
	if !json.Valid(raw) {
		return &session.ValueError{Key: key, Err: errors.New("not a JSON value")}
	}
	return nil
}

const hexDigits = "0123456789abcdef"

// appendKey quotes key. Bytes that are no UTF-8 stay as they are, so that any
// string comes back as it was.
func appendKey(dst []byte, key string) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(key); i++ {
		c := key[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, key[from:i]...)
		from = i + 1
		if c < ' ' {
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		} else {
			dst = append(dst, '\\', c)
		}
	}
	dst = append(dst, key[from:]...)
	return append(dst, '"')
}

// ParseValues reads what [AppendValues] wrote. It keeps text, which the caller
// must not change afterwards: keys and values are parts of it.
//
// White space next to a value belongs to the value, since it came with it; around
// keys it is skipped. Keys in another order, as an edit by hand may leave them,
// are sorted. Nothing is kept of a text with a key twice.
func ParseValues(text []byte) (session.Values, error) {
	p := parser{text: text}
	vs, err := p.object()
	if err != nil {
		return nil, fmt.Errorf("values: byte %d: %w", p.at, err)
	}
	byKey := func(a, b session.Value) int { return strings.Compare(a.Key, b.Key) }
	if !slices.IsSortedFunc(vs, byKey) {
		slices.SortFunc(vs, byKey)
	}
	for i := 1; i < len(vs); i++ {
		if vs[i-1].Key == vs[i].Key {
			return nil, fmt.Errorf("values: key %q is there twice", vs[i].Key)
		}
	}
	return vs, nil
}

type parser struct {
	text []byte
	at   int
}

var (
	errEnd   = errors.New("the text ends too early")
	errValue = errors.New("a value is missing or broken")
	errKey   = errors.New("a key is broken")
)

func (p *parser) object() (session.Values, error) {
	if err := p.expect('{'); err != nil {
		return nil, err
	}
	p.space()
	if p.at < len(p.text) && p.text[p.at] == '}' {
		p.at++
		return nil, p.end()
	}
	vs := make(session.Values, 0, p.guess())
	for {
		key, err := p.key()
		if err != nil {
			return nil, err
		}
		if err := p.expect(':'); err != nil {
			return nil, err
		}
		raw, err := p.value()
		if err != nil {
			return nil, err
		}
		vs = append(vs, session.Value{Key: key, JSON: raw})
		if p.text[p.at] == '}' {
			p.at++
			return vs, p.end()
		}
		p.at++
	}
}

// guess is how many values there may be: exact for a text whose values hold no
// colon, so that the usual record costs one allocation of the right size.
func (p *parser) guess() int {
	n := 0
	for _, c := range p.text[p.at:] {
		if c == ':' {
			n++
		}
	}
	return min(n, 64)
}

func (p *parser) space() {
	for p.at < len(p.text) {
		switch p.text[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

func (p *parser) expect(c byte) error {
	p.space()
	if p.at == len(p.text) {
		return errEnd
	}
	if p.text[p.at] != c {
		return fmt.Errorf("%q where %q should be", p.text[p.at], c)
	}
	p.at++
	return nil
}

func (p *parser) end() error {
	p.space()
	if p.at < len(p.text) {
		return errors.New("something follows the object")
	}
	return nil
}

func (p *parser) key() (string, error) {
	if err := p.expect('"'); err != nil {
		return "", err
	}
	from := p.at
	for ; p.at < len(p.text); p.at++ {
		switch c := p.text[p.at]; {
		case c == '"':
			raw := p.text[from:p.at]
			p.at++
			// The bytes belong to the record from here on and nobody changes those.
			return unsafe.String(unsafe.SliceData(raw), len(raw)), nil
		case c == '\\':
			return p.escapedKey(from)
		case c < ' ':
			return "", errKey
		}
	}
	return "", errEnd
}

// escapedKey reads on from the first escape of a key that began at from.
func (p *parser) escapedKey(from int) (string, error) {
	key := append([]byte(nil), p.text[from:p.at]...)
	for p.at < len(p.text) {
		c := p.text[p.at]
		p.at++
		switch {
		case c == '"':
			return string(key), nil
		case c < ' ':
			return "", errKey
		case c != '\\':
			key = append(key, c)
			continue
		}
		if p.at == len(p.text) {
			return "", errEnd
		}
		c = p.text[p.at]
		p.at++
		switch c {
		case '"', '\\', '/':
			key = append(key, c)
		case 'b':
			key = append(key, '\b')
		case 'f':
			key = append(key, '\f')
		case 'n':
			key = append(key, '\n')
		case 'r':
			key = append(key, '\r')
		case 't':
			key = append(key, '\t')
		case 'u':
			r, err := p.hex()
			if err != nil {
				return "", err
			}
			if utf16.IsSurrogate(r) && p.at+1 < len(p.text) && p.text[p.at] == '\\' && p.text[p.at+1] == 'u' {
				p.at += 2
				low, err := p.hex()
				if err != nil {
					return "", err
				}
				r = utf16.DecodeRune(r, low)
			}
			key = utf8.AppendRune(key, r)
		default:
			return "", errKey
		}
	}
	return "", errEnd
}

func (p *parser) hex() (rune, error) {
	if p.at+4 > len(p.text) {
		return 0, errEnd
	}
	n, err := strconv.ParseUint(string(p.text[p.at:p.at+4]), 16, 16)
	if err != nil {
		return 0, errKey
	}
	p.at += 4
	return rune(n), nil
}

// value finds where a value ends: at the comma or brace outside of any string,
// array or object. It does not check the value further; what a store wrote was
// checked then, and what a hand broke fails when it is decoded.
func (p *parser) value() (json.RawMessage, error) {
	from, depth, something := p.at, 0, false
	for p.at < len(p.text) {
		switch c := p.text[p.at]; c {
		case '"':
			if err := p.skipString(); err != nil {
				return nil, err
			}
			something = true
			continue
		case '{', '[':
			depth++
			something = true
		case ',', '}', ']':
			if depth > 0 {
				if c != ',' {
					depth--
				}
				break
			}
			if c == ']' || !something {
				return nil, errValue
			}
			return p.text[from:p.at:p.at], nil
		case ' ', '\t', '\n', '\r':
		default:
			something = true
		}
		p.at++
	}
	return nil, errEnd
}

func (p *parser) skipString() error {
	for p.at++; p.at < len(p.text); p.at++ {
		switch p.text[p.at] {
		case '\\':
			p.at++
		case '"':
			p.at++
			return nil
		}
	}
	p.at = len(p.text)
	return errEnd
}
