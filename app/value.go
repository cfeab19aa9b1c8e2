package app

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"
)

var (
	durationType    = reflect.TypeFor[time.Duration]()
	prefixType      = reflect.TypeFor[netip.Prefix]()
	unmarshalerType = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// A mismatch says why a text or TOML value does not fit a setting.
type mismatch struct{ problem, hint string }

// settable says whether a setting can be of type t.
func settable(t reflect.Type) bool {
	if t.Kind() == reflect.Slice && !isText(t) {
		t = t.Elem()
	}
	if isText(t) {
		return true
	}
	switch k := t.Kind(); {
	case k == reflect.String, k == reflect.Bool, isInt(k), isUint(k), isFloat(k):
		return true
	}
	return false
}

func isText(t reflect.Type) bool       { return reflect.PointerTo(t).Implements(unmarshalerType) }
func isList(t reflect.Type) bool       { return t.Kind() == reflect.Slice && !isText(t) }
func isInt(k reflect.Kind) bool        { return k >= reflect.Int && k <= reflect.Int64 }
func isUint(k reflect.Kind) bool       { return k >= reflect.Uint && k <= reflect.Uint64 }
func isFloat(k reflect.Kind) bool      { return k == reflect.Float32 || k == reflect.Float64 }
func isBool(t reflect.Type) bool       { return t.Kind() == reflect.Bool && !isText(t) }
func article(t reflect.Type) *mismatch { return &mismatch{"not " + kindOf(t), hintFor(t)} }

// kindOf names what a value of type t is, for an error.
func kindOf(t reflect.Type) string {
	switch k := t.Kind(); {
	case isList(t):
		return "a list"
	case t == durationType:
		return "a duration"
	case t == prefixType:
		return "an address range"
	case isText(t), k == reflect.String:
		return "a text in quotes"
	case k == reflect.Bool:
		return "true or false"
	case isUint(k):
		return "a whole number from 0 to " + strconv.FormatUint(math.MaxUint64>>(64-t.Bits()), 10)
	case isInt(k):
		return "a whole number"
	}
	return "a number"
}

func hintFor(t reflect.Type) string {
	switch {
	case isList(t) && t.Elem() == prefixType:
		return `write a list like ["10.0.0.0/8", "::1/128"]`
	case isList(t):
		return `write a list like ["one", "two"]`
	case t == durationType:
		return `write a number and its unit in quotes, like "90s", "30m", "12h" or "30d"`
	case t == prefixType:
		return `write it like "10.0.0.0/8", or "10.0.0.1/32" for one address`
	}
	return ""
}

// setText sets v from an environment variable or a flag. In a list the items
// are divided by commas.
func setText(v reflect.Value, text string) *mismatch {
	t := v.Type()
	switch {
	case isList(t):
		list := reflect.MakeSlice(t, 0, 1)
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part == "" {
				continue
			}
			item := reflect.New(t.Elem()).Elem()
			if bad := setText(item, part); bad != nil {
				return bad
			}
			list = reflect.Append(list, item)
		}
		v.Set(list)
		return nil
	case t == durationType:
		d, err := parseDuration(text)
		if err != nil {
			bad := article(t)
			bad.hint = strings.Replace(bad.hint, " in quotes", "", 1)
			return bad
		}
		v.SetInt(int64(d))
		return nil
	case isText(t):
		if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text)); err != nil {
			if t == prefixType {
				return article(t)
			}
			return &mismatch{err.Error(), ""}
		}
		return nil
	}

	var err error
	switch k := t.Kind(); {
	case k == reflect.String:
		v.SetString(text)
	case k == reflect.Bool:
		var b bool
		b, err = strconv.ParseBool(text)
		v.SetBool(b)
	case isInt(k):
		var n int64
		n, err = strconv.ParseInt(text, 10, t.Bits())
		v.SetInt(n)
	case isUint(k):
		var n uint64
		n, err = strconv.ParseUint(text, 10, t.Bits())
		v.SetUint(n)
	default:
		var f float64
		f, err = strconv.ParseFloat(text, t.Bits())
		v.SetFloat(f)
	}
	if err != nil {
		return article(t)
	}
	return nil
}

// setTOML sets v from what the TOML parser made of a value. Types are not bent:
// a number in quotes is a text.
func setTOML(v reflect.Value, value any) *mismatch {
	t := v.Type()
	if isList(t) {
		items, ok := value.([]any)
		if !ok {
			return article(t)
		}
		list := reflect.MakeSlice(t, 0, len(items))
		for _, x := range items {
			item := reflect.New(t.Elem()).Elem()
			if bad := setTOML(item, x); bad != nil {
				return &mismatch{"an item is " + bad.problem, bad.hint}
			}
			list = reflect.Append(list, item)
		}
		v.Set(list)
		return nil
	}

	switch x := value.(type) {
	case string:
		if t == durationType || isText(t) || t.Kind() == reflect.String {
			bad := setText(v, x)
			if bad != nil && t == durationType {
				return article(t)
			}
			return bad
		}
	case bool:
		if isBool(t) {
			v.SetBool(x)
			return nil
		}
	case int64:
		switch k := t.Kind(); {
		case t == durationType || isText(t):
		case isInt(k) && !v.OverflowInt(x):
			v.SetInt(x)
			return nil
		case isUint(k) && x >= 0 && !v.OverflowUint(uint64(x)):
			v.SetUint(uint64(x))
			return nil
		case isFloat(k):
			v.SetFloat(float64(x))
			return nil
		}
	case float64:
		if isFloat(t.Kind()) && !isText(t) {
			v.SetFloat(x)
			return nil
		}
	case time.Time:
		if t == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(x))
			return nil
		}
	}
	return article(t)
}

// parseDuration is [time.ParseDuration] with days, which must come first: "30d",
// "1d12h". A day is 24 hours.
func parseDuration(s string) (time.Duration, error) {
	number, rest, ok := strings.Cut(s, "d")
	if !ok {
		return time.ParseDuration(s)
	}
	days, err := strconv.ParseFloat(number, 64)
	const day = 24 * time.Hour
	if err != nil || !(math.Abs(days) < float64(math.MaxInt64/day)) {
		return 0, errors.New("not a number of days")
	}
	d := time.Duration(days * float64(day))
	if rest == "" {
		return d, nil
	}
	more, err := time.ParseDuration(rest)
	if err != nil || d < 0 || more < 0 || d+more < d {
		return 0, errors.New("not a duration")
	}
	return d + more, nil
}

func formatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	if d > day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// render writes v as a person would in the environment.
func render(v reflect.Value) string {
	t := v.Type()
	if isList(t) {
		items := make([]string, v.Len())
		for i := range items {
			items[i] = render(v.Index(i))
		}
		return strings.Join(items, ",")
	}
	if t == durationType {
		return formatDuration(time.Duration(v.Int()))
	}
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		if text, err := m.MarshalText(); err == nil {
			return string(text)
		}
	}
	return fmt.Sprint(v.Interface())
}

var (
	urlPassword   = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://[^:/?#@\s]*):\S+@`)
	plainPassword = regexp.MustCompile(`^((?:[a-zA-Z][a-zA-Z0-9+.-]*:)?[^:/?#@\s]*):\S+@`)
	namedPassword = regexp.MustCompile(`(?i)((?:password|passwd|pwd|secret|token)\w*\s*=\s*)('[^']*'|[^\s&#]*)`)
)

const redacted = "xxxxx"

// redact hides the passwords in a URL or connection string. It would rather
// hide too much: url.Parse reads postgres://u:1/2@h as a host and a path, and
// would show the password.
func redact(s string) string {
	if strings.Contains(s, "://") {
		s = urlPassword.ReplaceAllString(s, "${1}:"+redacted+"@")
	} else {
		s = plainPassword.ReplaceAllString(s, "${1}:"+redacted+"@")
	}
	return namedPassword.ReplaceAllString(s, "${1}"+redacted)
}
