package forms

import (
	"fmt"
	"strconv"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// invalid reports whether r stands for a byte that is not UTF-8.
func invalid(r rune, raw []byte) bool { return r == utf8.RuneError && len(raw) == 1 }

// appendHex appends prefix and the last n hexadecimal digits of r.
func appendHex(dst []byte, prefix string, r rune, n int, digits string) []byte {
	dst = append(dst, prefix...)
	for n--; n >= 0; n-- {
		dst = append(dst, digits[r>>(4*n)&15])
	}
	return dst
}

// appendOctal appends a backslash and the three octal digits of r.
func appendOctal(dst []byte, r rune) []byte {
	return append(dst, '\\', '0'+byte(r>>6&7), '0'+byte(r>>3&7), '0'+byte(r&7))
}

// wideUTF16 escapes every character that is not ASCII, as UTF-16. A byte that is not UTF-8
// becomes the lone surrogate that Python's surrogateescape reads it as.
func wideUTF16(digits string) wide {
	return func(dst []byte, r rune, raw []byte) []byte {
		if invalid(r, raw) {
			r = 0xdc00 | rune(raw[0])
		}
		if r < 0x10000 {
			return appendHex(dst, `\u`, r, 4, digits)
		}
		high, low := utf16.EncodeRune(r)
		return appendHex(appendHex(dst, `\u`, high, 4, digits), `\u`, low, 4, digits)
	}
}

// wideGoJSON escapes line separators, which JavaScript once refused in strings, and bytes
// that are not UTF-8, as encoding/json does.
func wideGoJSON(dst []byte, r rune, raw []byte) []byte {
	if r == '\u2028' || r == '\u2029' || invalid(r, raw) {
		return appendHex(dst, `\u`, r, 4, lowerDigits)
	}
	return append(dst, raw...)
}

// wideGo escapes as quote does, without the quotes that quote adds.
func wideGo(quote func([]byte, string) []byte) wide {
	return func(dst []byte, _ rune, raw []byte) []byte {
		from := len(dst)
		dst = quote(dst, string(raw))
		return append(dst[:from], dst[from+1:len(dst)-1]...)
	}
}

// widePython escapes as repr does if printable is set, else as ascii does.
func widePython(printable bool) wide {
	return func(dst []byte, r rune, raw []byte) []byte {
		switch {
		case invalid(r, raw):
			return appendHex(dst, `\u`, 0xdc00|rune(raw[0]), 4, lowerDigits)
		case printable && strconv.IsPrint(r):
			return append(dst, raw...)
		case r < 0x100:
			return appendHex(dst, `\x`, r, 2, lowerDigits)
		case r < 0x10000:
			return appendHex(dst, `\u`, r, 4, lowerDigits)
		}
		return appendHex(dst, `\U`, r, 8, lowerDigits)
	}
}

// wideBytes escapes each byte, as repr of bytes does.
func wideBytes(digits string) wide {
	return func(dst []byte, _ rune, raw []byte) []byte {
		for _, c := range raw {
			dst = appendHex(dst, `\x`, rune(c), 2, digits)
		}
		return dst
	}
}

// wideNode escapes the control characters above ASCII, as util.inspect does.
func wideNode(dst []byte, r rune, raw []byte) []byte {
	if r < 0xa0 {
		return appendHex(dst, `\x`, r, 2, upperDigits)
	}
	return append(dst, raw...)
}

// visible reports whether a C library calls the character printable.
func visible(r rune, raw []byte) bool {
	return !invalid(r, raw) && (strconv.IsGraphic(r) || unicode.Is(unicode.Cf, r))
}

// wideRuby escapes as inspect does.
func wideRuby(dst []byte, r rune, raw []byte) []byte {
	switch {
	case invalid(r, raw):
		return appendHex(dst, `\x`, rune(raw[0]), 2, upperDigits)
	case visible(r, raw), r == 0x85:
		return append(dst, raw...)
	case r < 0x10000:
		return appendHex(dst, `\u`, r, 4, upperDigits)
	}
	return fmt.Appendf(dst, `\u{%X}`, r)
}

// wideRust escapes what cannot be printed and what is drawn over the character before it.
func wideRust(dst []byte, r rune, raw []byte) []byte {
	if strconv.IsPrint(r) && !unicode.Is(unicode.M, r) {
		return append(dst, raw...)
	}
	return fmt.Appendf(dst, `\u{%x}`, r)
}

// wideYAML escapes as PyYAML does in double quotes. It leaves printable characters if unicode
// is set.
func wideYAML(unicode bool) wide {
	return func(dst []byte, r rune, raw []byte) []byte {
		switch {
		case r == 0x85:
			return append(dst, `\N`...)
		case r == 0xa0:
			return append(dst, `\_`...)
		case r == 0x2028:
			return append(dst, `\L`...)
		case r == 0x2029:
			return append(dst, `\P`...)
		case unicode && r > 0xa0 && r != '\ufeff':
			return append(dst, raw...)
		case r < 0x100:
			return appendHex(dst, `\x`, r, 2, upperDigits)
		case r < 0x10000:
			return appendHex(dst, `\u`, r, 4, upperDigits)
		}
		return appendHex(dst, `\U`, r, 8, upperDigits)
	}
}

// wideCaret escapes each byte as cat -v does: M- and what it writes for the byte without its first bit.
func wideCaret(dst []byte, _ rune, raw []byte) []byte {
	for _, c := range raw {
		dst = append(dst, "M-"...)
		switch c &= 0x7f; {
		case c < ' ':
			dst = append(dst, '^', c+'@')
		case c == 0x7f:
			dst = append(dst, "^?"...)
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// wideReference writes the number of each character.
func wideReference(dst []byte, r rune, _ []byte) []byte { return fmt.Appendf(dst, "&#%d;", r) }

// wideShell escapes as $'...' does: all bytes, or with printable set only those that are
// not part of a printable character.
func wideShell(printable bool) wide {
	return func(dst []byte, r rune, raw []byte) []byte {
		if printable && visible(r, raw) {
			return append(dst, raw...)
		}
		for _, c := range raw {
			dst = appendOctal(dst, rune(c))
		}
		return dst
	}
}

// wideLatin1 escapes the characters of Latin-1, as http.cookies does, which leaves others.
func wideLatin1(dst []byte, r rune, raw []byte) []byte {
	if r < 0x100 {
		return appendOctal(dst, r)
	}
	return append(dst, raw...)
}
