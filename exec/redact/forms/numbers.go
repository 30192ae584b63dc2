package forms

import (
	"slices"
	"unicode/utf8"
)

const (
	// minList is the length in bytes of the shortest text whose bytes in a list are a form: shorter
	// lists of numbers are equal to innocent ones.
	minList = 8
	// bufferBytes is how many bytes Node shows of a Buffer (buffer.INSPECT_MAX_BYTES).
	bufferBytes = 50
)

// numbers adds the bytes of text as lists of numbers.
func (b *builder) numbers(text []byte) {
	if len(text) < minList {
		return
	}
	for _, separator := range []string{", ", " ", ","} { // Python, Java, Rust, Node; Go; JSON
		b.list(text, separator, appendDecimal)
	}
	if slices.ContainsFunc(text, func(c byte) bool { return c >= utf8.RuneSelf }) {
		b.list(text, ", ", appendSigned) // Java
	}
	for _, separator := range []string{" ", ":"} { // Go: % x, Node; fingerprints
		b.list(text, separator, appendLower)
		b.list(text, separator, appendUpper)
	}
	b.list(text, "-", appendUpper) // .NET: BitConverter
	if len(text) > bufferBytes {
		b.list(text[:bufferBytes], " ", appendLower)
	}
	b.list(text, ", ", appendPrefixed) // Go: %#v
}

// list adds text as what write appends for each byte, with separator, of one or two bytes, between them.
func (b *builder) list(text []byte, separator string, write func([]byte, byte) []byte) {
	if !b.room(3 * len(text)) {
		return
	}
	from := len(b.arena)
	arena := b.arena
	for _, c := range text {
		arena = write(arena, c)
		arena = append(arena, separator[0])
		if len(separator) > 1 {
			arena = append(arena, separator[1])
		}
	}
	b.arena = arena[:len(arena)-len(separator)]
	b.tail(KindNumbers, from)
}

// These are written out, because a value becomes a list in about ten ways, and to format each byte
// would be a third of the time in which a value gets ready.

func appendDecimal(dst []byte, c byte) []byte {
	switch {
	case c >= 100:
		return append(dst, '0'+c/100, '0'+c/10%10, '0'+c%10)
	case c >= 10:
		return append(dst, '0'+c/10, '0'+c%10)
	}
	return append(dst, '0'+c)
}

func appendSigned(dst []byte, c byte) []byte {
	if c < utf8.RuneSelf {
		return appendDecimal(dst, c)
	}
	return appendDecimal(append(dst, '-'), -c) // Java's bytes have a sign
}

func appendLower(dst []byte, c byte) []byte { return append(dst, lowerDigits[c>>4], lowerDigits[c&15]) }

func appendUpper(dst []byte, c byte) []byte { return append(dst, upperDigits[c>>4], upperDigits[c&15]) }

func appendPrefixed(dst []byte, c byte) []byte {
	if c < 16 {
		return append(dst, '0', 'x', lowerDigits[c])
	}
	return append(dst, '0', 'x', lowerDigits[c>>4], lowerDigits[c&15])
}
