package storetest

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"time"

	"github.com/crumb-go/crumb/session"
)

// dump writes a record or a change for the reader of a failure: secrets as hex,
// values as text, and no field that is zero.
func dump(v any) string {
	switch v := v.(type) {
	case session.Hash:
		return hex.EncodeToString(v[:])
	case json.RawMessage:
		return fmt.Sprintf("%.60q", []byte(v))
	case time.Time:
		return v.Format(time.RFC3339Nano)
	case time.Duration, netip.Addr, session.Condition, session.OpKind:
		return fmt.Sprint(v)
	}
	rv := reflect.ValueOf(v)
	switch rv.Kind() {
	case reflect.Pointer:
		if rv.IsNil() {
			return "nil"
		}
		return dump(rv.Elem().Interface())
	case reflect.Slice:
		parts := make([]string, rv.Len())
		for i := range parts {
			parts[i] = dump(rv.Index(i).Interface())
		}
		return "[" + strings.Join(parts, " ") + "]"
	case reflect.Struct:
		var parts []string
		for i := range rv.NumField() {
			f := rv.Type().Field(i)
			switch {
			case rv.Field(i).IsZero():
			case f.Anonymous:
				parts = append(parts, strings.Trim(dump(rv.Field(i).Interface()), "{}"))
			default:
				parts = append(parts, f.Name+":"+dump(rv.Field(i).Interface()))
			}
		}
		return "{" + strings.Join(parts, " ") + "}"
	case reflect.String:
		return fmt.Sprintf("%q", v)
	}
	return fmt.Sprint(v)
}
