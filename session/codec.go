package session

import (
	"encoding/json"
	"strconv"
)

// encode returns v as JSON text, the same bytes as encoding/json. The common
// types have a path of their own: most sessions hold little else.
func encode[T any](v T) (json.RawMessage, error) {
	switch p := any(&v).(type) {
	case *string:
		if isPlain(*p) {
			raw := make([]byte, 0, len(*p)+2)
			return append(append(append(raw, '"'), *p...), '"'), nil
		}
	case *int:
		return strconv.AppendInt(nil, int64(*p), 10), nil
	case *int64:
		return strconv.AppendInt(nil, *p, 10), nil
	case *bool:
		return strconv.AppendBool(nil, *p), nil
	}
	return marshal(v)
}

// marshal is a function of its own so that only here v moves to the heap.
func marshal[T any](v T) (json.RawMessage, error) { return json.Marshal(v) }

// decode reads what encode wrote, and any other JSON text.
func decode[T any](raw json.RawMessage) (T, error) {
	var v T
	switch p := any(&v).(type) {
	case *string:
		if n := len(raw); n >= 2 && raw[0] == '"' && raw[n-1] == '"' && isPlain(raw[1:n-1]) {
			*p = string(raw[1 : n-1])
			return v, nil
		}
	case *int:
		if n, ok := decodeInt(raw); ok && int64(int(n)) == n {
			*p = int(n)
			return v, nil
		}
	case *int64:
		if n, ok := decodeInt(raw); ok {
			*p = n
			return v, nil
		}
	case *bool:
		switch string(raw) {
		case "true":
			*p = true
			return v, nil
		case "false":
			return v, nil
		}
	}
	return unmarshal[T](raw)
}

func unmarshal[T any](raw json.RawMessage) (v T, err error) {
	err = json.Unmarshal(raw, &v)
	return v, err
}

// isPlain reports whether s stands for itself in a JSON string as encoding/json
// writes it: ASCII without control characters and those it escapes.
func isPlain[S string | []byte | json.RawMessage](s S) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}

// decodeInt reads a JSON integer of at most 18 digits.
func decodeInt(raw []byte) (n int64, ok bool) {
	digits := raw
	if len(digits) > 0 && digits[0] == '-' {
		digits = digits[1:]
	}
	if len(digits) == 0 || len(digits) > 18 || digits[0] == '0' && len(digits) > 1 {
		return 0, false
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	if len(digits) < len(raw) {
		n = -n
	}
	return n, true
}

// decodeFor decodes a value of s. One that cannot be decoded counts as absent,
// so that a bad value never takes the page down for good.
func decodeFor[T any](s *Session, key string, raw json.RawMessage) (v T, ok bool) {
	if raw == nil {
		return v, false
	}
	v, err := decode[T](raw)
	if err != nil {
		s.m.undecodable(s.ctx, key, err)
		var zero T
		return zero, false
	}
	return v, true
}
