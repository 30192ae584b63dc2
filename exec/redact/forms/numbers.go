package forms

import "strconv"

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
	b.list(text, ", ", appendSigned)               // Java
	for _, separator := range []string{" ", ":"} { // Go: % x, Node; fingerprints
		b.list(text, separator, appendPair(lowerDigits))
		b.list(text, separator, appendPair(upperDigits))
	}
	b.list(text, "-", appendPair(upperDigits)) // .NET: BitConverter
	if len(text) > bufferBytes {
		b.list(text[:bufferBytes], " ", appendPair(lowerDigits))
	}
	b.list(text, ", ", func(dst []byte, c byte) []byte { // Go: %#v
		return strconv.AppendUint(append(dst, "0x"...), uint64(c), 16)
	})
}

// list adds text as what write appends for each byte, with separator between them.
func (b *builder) list(text []byte, separator string, write func([]byte, byte) []byte) {
	if !b.room(3 * len(text)) {
		return
	}
	from := len(b.arena)
	for i, c := range text {
		if i > 0 {
			b.arena = append(b.arena, separator...)
		}
		b.arena = write(b.arena, c)
	}
	b.tail(KindNumbers, from)
}

func appendDecimal(dst []byte, c byte) []byte { return strconv.AppendUint(dst, uint64(c), 10) }

func appendSigned(dst []byte, c byte) []byte {
	return strconv.AppendInt(dst, int64(int8(c)), 10) //nolint:gosec // Java's bytes have a sign
}

func appendPair(digits string) func([]byte, byte) []byte {
	return func(dst []byte, c byte) []byte { return append(dst, digits[c>>4], digits[c&15]) }
}
