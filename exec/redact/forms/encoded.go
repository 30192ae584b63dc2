package forms

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
)

// base64 adds text, and value with the white space around it, in both base64 alphabets.
func (b *builder) base64(value, text []byte) {
	if !b.room(len(text)) {
		return
	}
	// Two zeros in front make the three alignments; echo adds a newline behind.
	padded := append(append(make([]byte, 2, len(text)+3), text...), '\n')
	b.aligned(padded[:len(padded)-1], true)
	b.aligned(padded, false)
	b.wrapped(text)
	b.wrapped(padded[2:])
	if len(value) != len(text) && !bytes.Equal(value, padded[2:]) {
		b.aligned(append(make([]byte, 2, len(value)+2), value...), false)
		b.wrapped(value)
	}
}

// aligned adds the base64 of a value at each of the three alignments, and in the alphabet
// for URLs if that differs. padded is the value behind two zero bytes. Each alignment encodes
// none, one or two of them with the value. If inside is set, it also adds the characters that
// text behind the value does not change. Callers set it for the trimmed value only: with white
// space behind the value, these characters are the same.
func (b *builder) aligned(padded []byte, inside bool) {
	for k := range 3 {
		if !b.room(base64.StdEncoding.EncodedLen(len(padded))) {
			return
		}
		from := len(b.arena)
		b.arena = base64.StdEncoding.AppendEncode(b.arena, padded[2-k:])
		n := len(padded) - 2 + k
		// The characters from first to last hold bits of the value only. Those from last to
		// end are there if the value ends the text; behind them is the padding.
		first, last, end := from+(8*k+5)/6, from+8*n/6, from+(8*n+5)/6
		kind := KindBase64
		for {
			if inside {
				b.add(kind, first, last)
			}
			b.add(kind, first, end)
			b.add(kind, first, len(b.arena))
			text := b.arena[first:]
			if kind == KindBase64URL || !bytes.ContainsAny(text, "+/") {
				break
			}
			first, last, end = len(b.arena), last+len(text), end+len(text)
			b.arena, kind = appendURL(b.arena, text), KindBase64URL
		}
	}
}

// appendURL appends base64 text, converted from the standard alphabet to that for URLs.
func appendURL(dst, text []byte) []byte {
	for _, c := range text {
		switch c {
		case '+':
			c = '-'
		case '/':
			c = '_'
		}
		dst = append(dst, c)
	}
	return dst
}

// wrapped adds value as base64 in lines of 64 characters (PEM, openssl) and 76 (MIME,
// coreutils), whole and line by line.
func (b *builder) wrapped(value []byte) {
	for _, columns := range []int{64, 76} {
		if base64.StdEncoding.EncodedLen(len(value)) <= columns {
			return
		}
		encoded := base64.StdEncoding.AppendEncode(nil, value)
		for _, end := range []string{"\n", "\r\n"} {
			if !b.room(len(encoded)) {
				return
			}
			from := len(b.arena)
			for rest := encoded; len(rest) > 0; {
				n := min(columns, len(rest))
				b.arena, rest = append(append(b.arena, rest[:n]...), end...), rest[n:]
			}
			b.arena = b.arena[:len(b.arena)-len(end)]
			b.add(KindBase64, from, len(b.arena))
			for ; end == "\n" && from+minLine <= len(b.arena); from += columns + 1 {
				b.add(KindBase64, from, min(from+columns, len(b.arena)))
			}
		}
	}
}

// hex adds text as hexadecimal in small letters and in capitals.
func (b *builder) hex(text []byte) {
	if !b.room(2 * len(text)) {
		return
	}
	from := len(b.arena)
	b.arena = hex.AppendEncode(b.arena, text)
	upper := bytes.ToUpper(b.arena[from:])
	b.tail(KindHex, from)
	b.copy(KindHex, upper)
}
