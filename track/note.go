package track

import (
	"encoding/binary"
	"net/http"

	"github.com/crumb-go/crumb/session"
)

// note is what a first-visit cookie holds of a view, besides its time: the status,
// how long it took, and three texts with their lengths before them. Of what is too
// long the values of wildcards go first, then the referrer.
func (e *entry) note() []byte {
	x := e.more()
	for _, texts := range [][]string{
		{e.name, x.referrer, x.detail}, {e.name, x.referrer, ""}, {e.name, "", ""}, {cutText(e.name, 100), "", ""},
	} {
		b := binary.AppendUvarint(make([]byte, 0, 2*session.MaxNote), uint64(e.status))
		b = binary.AppendUvarint(b, uint64(e.took))
		for _, s := range texts {
			b = binary.AppendUvarint(b, uint64(len(s)))
			b = append(b, s...)
		}
		if len(b) <= session.MaxNote {
			return b
		}
	}
	return nil
}

// parseNote is the reverse.
func parseNote(b []byte) (e entry, ok bool) {
	var status, took uint64
	var x extra
	e.kind, e.method = view, methodOf(http.MethodGet)
	ok = next(&b, &status) && next(&b, &took) && status < 1000 && took < 1<<62 &&
		nextText(&b, &e.name) && nextText(&b, &x.referrer) && nextText(&b, &x.detail) && len(b) == 0 && e.name != ""
	e.status, e.took, e.extra = int16(status), int64(took), extraOf(x.referrer, x.detail)
	return e, ok
}

func next(b *[]byte, n *uint64) bool {
	v, size := binary.Uvarint(*b)
	if size <= 0 {
		return false
	}
	*n, *b = v, (*b)[size:]
	return true
}

func nextText(b *[]byte, s *string) bool {
	var n uint64
	if !next(b, &n) || n > uint64(len(*b)) {
		return false
	}
	*s, *b = string((*b)[:n]), (*b)[n:]
	return true
}
