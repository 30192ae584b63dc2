// Package printable shows text that someone else wrote, such as a path or a server's error,
// so that it stays on its line and cannot steer a terminal.
package printable

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Is reports whether every character of s can be printed and none is white space other than
// a space.
func Is(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) })
}

// Name returns s, such as a path, quoted as a Go string if it has a character that cannot be
// printed, a quote or a backslash. So two names never look the same.
func Name(s string) string {
	if quoted := strconv.Quote(s); quoted != `"`+s+`"` {
		return quoted
	}
	return s
}

// Text returns s with each character that cannot be printed as its Go escape, cut after
// limit bytes of s.
func Text(s string, limit int) string {
	cut := len(s) > limit
	if cut {
		s = s[:limit]
	}
	var b strings.Builder
	for _, r := range strings.ToValidUTF8(s, "\ufffd") {
		if strconv.IsPrint(r) {
			b.WriteRune(r)
		} else {
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
	}
	if cut {
		b.WriteString("…")
	}
	return b.String()
}
