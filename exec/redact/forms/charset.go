package forms

import (
	"bytes"
	"encoding/binary"
	"slices"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// windows has the characters of Windows-1252 from 0x80 on, up to 0x9f; 0 where it has none.
// From 0xa0 on it is equal to Latin-1. Source: unicode.org, Public/MAPPINGS, CP1252.TXT.
var windows = [32]rune{
	'€', 0, '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', 0, 'Ž', 0,
	0, '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', 0, 'ž', 'Ÿ',
}

// minKept is how many characters of a text must be left if others are replaced by question marks.
// They must be half of all, too.
const minKept = 6

// charsets adds text in other character sets than UTF-8.
func (b *builder) charsets(text []byte) {
	if !slices.ContainsFunc(text, func(c byte) bool { return c >= utf8.RuneSelf }) {
		b.interleaved(text) // it is the same in all others
		return
	}
	if !utf8.Valid(text) {
		return
	}
	b.utf16(text)
	runes := []rune(string(text))
	for _, form := range []norm.Form{norm.NFC, norm.NFD} {
		if b.room(len(text)) {
			b.copy(KindCharset, form.Bytes(text))
		}
	}

	b.single(runes, func(r rune) byte {
		if r <= 0xff {
			return byte(r) //nolint:gosec // at most 0xff
		}
		return 0
	})
	b.single(runes, func(r rune) byte {
		if i := slices.Index(windows[:], r); i >= 0 {
			return 0x80 + byte(i) //nolint:gosec // below 32
		}
		if r >= 0xa0 && r <= 0xff {
			return byte(r)
		}
		return 0
	})
	b.twice(text, func(c byte) rune { return rune(c) })
	b.twice(text, func(c byte) rune {
		if c < 0xa0 && windows[c-0x80] != 0 {
			return windows[c-0x80]
		}
		return rune(c)
	})

	// Programs that know only ASCII write a mark for each character or for each byte, or leave them
	// out. A text of which too little is left would be equal to innocent text.
	kept := 0
	for _, r := range runes {
		if r < utf8.RuneSelf {
			kept++
		}
	}
	if kept < minKept || 2*kept < len(runes) {
		return
	}
	marks := []string{"?", "\ufffd"}
	// What is left of a text with such characters at its ends only may be an innocent word.
	inner := bytes.TrimFunc(text, func(r rune) bool { return r >= utf8.RuneSelf })
	if utf8.RuneCount(inner) < len(inner) {
		marks = append(marks, "")
	}
	for _, mark := range marks {
		for _, bytes := range []bool{false, true} {
			if !b.room(3 * len(text)) {
				return
			}
			from := len(b.arena)
			for _, r := range runes {
				n := 1
				if bytes {
					n = utf8.RuneLen(r)
				}
				if r < utf8.RuneSelf {
					b.arena = append(b.arena, byte(r))
					continue
				}
				for range n {
					b.arena = append(b.arena, mark...)
				}
			}
			b.tail(KindCharset, from)
		}
	}
}

// single adds a text of which each character is one byte, which encode returns for those that
// are not ASCII; 0 if the character set has none. Where it has none, programs write a question
// mark, so at most a part of the characters may be missing.
func (b *builder) single(runes []rune, encode func(rune) byte) {
	if !b.room(len(runes)) {
		return
	}
	from := len(b.arena)
	missing := 0
	for _, r := range runes {
		c := byte(r) //nolint:gosec // replaced below if it is not ASCII
		if r >= utf8.RuneSelf {
			if c = encode(r); c == 0 {
				c = '?'
				missing++
			}
		}
		b.arena = append(b.arena, c)
	}
	if kept := len(runes) - missing; missing > 0 && (kept < minKept || kept < missing) {
		b.arena = b.arena[:from]
		return
	}
	b.tail(KindCharset, from)
}

// twice adds text whose bytes were taken for characters of one byte, as decode does, and
// written in UTF-8 once more.
func (b *builder) twice(text []byte, decode func(byte) rune) {
	if !b.room(2 * len(text)) {
		return
	}
	from := len(b.arena)
	for _, c := range text {
		if c < utf8.RuneSelf {
			b.arena = append(b.arena, c)
		} else {
			b.arena = utf8.AppendRune(b.arena, decode(c))
		}
	}
	b.tail(KindCharset, from)
}

// interleaved adds ASCII text in UTF-16. What both byte orders have in common is one form: the bytes
// without the zero that is the first of the one and the last of the other.
func (b *builder) interleaved(text []byte) {
	if !b.room(2 * len(text)) {
		return
	}
	from := len(b.arena)
	for _, c := range text {
		b.arena = append(b.arena, c, 0)
	}
	b.arena = append(b.arena[:from], bytes.Trim(b.arena[from:], "\x00")...)
	b.tail(KindCharset, from)
}

// utf16 adds text in UTF-16, in both byte orders, without zeros at the ends.
func (b *builder) utf16(text []byte) {
	units := utf16.Encode([]rune(string(text)))
	for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
		if !b.room(2 * len(units)) {
			return
		}
		from := len(b.arena)
		for _, u := range units {
			b.arena = order.AppendUint16(b.arena, u)
		}
		b.arena = append(b.arena[:from], bytes.Trim(b.arena[from:], "\x00")...)
		b.tail(KindCharset, from)
	}
}
