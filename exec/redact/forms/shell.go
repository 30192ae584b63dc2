package forms

import (
	"strings"
	"unicode/utf8"
)

// brackets adds text as bash shows it under set -x in [[ x == "$V" ]]: a backslash before each
// character, and in the C locale before each byte. Bash uses \x01 and \x7f as marks of its own,
// and shows none before them.
func (b *builder) brackets(text []byte) {
	for _, characters := range []bool{true, false} {
		if len(text) < minEncoded/2 || !b.room(2*len(text)) {
			return
		}
		from := len(b.arena)
		for rest := text; len(rest) > 0; {
			n := 1
			if characters {
				_, n = utf8.DecodeRune(rest)
			}
			if rest[0] != 1 && rest[0] != 0x7f {
				b.arena = append(b.arena, '\\')
			}
			b.arena, rest = append(b.arena, rest[:n]...), rest[n:]
		}
		b.tail(KindShell, from)
	}
}

// coreutils adds text as ls, cat and the other programs of GNU quote names in errors: in single
// quotes, with characters that cannot be printed in $” of their own. Source: quotearg.c of
// Gnulib, shell_escape_quoting_style. In the C locale no character above ASCII can be printed.
func (b *builder) coreutils(text []byte) {
	for _, printable := range []bool{true, false} {
		if !b.room(len(text)) {
			return
		}
		from := len(b.arena)
		open := false // $'
		for i := 0; i < len(text); {
			r, n := utf8.DecodeRune(text[i:])
			raw := text[i : i+n]
			i += n
			if r < utf8.RuneSelf && r >= ' ' && r != 0x7f || r >= utf8.RuneSelf && printable && visible(r, raw) {
				if r == '\'' {
					b.arena, open = append(b.arena, `'\''`...), false
					continue
				}
				if open {
					b.arena, open = append(b.arena, `''`...), false
				}
				b.arena = append(b.arena, raw...)
				continue
			}
			if !open {
				b.arena, open = append(b.arena, `'$'`...), true
			}
			for _, c := range raw {
				if k := strings.IndexByte("\a\b\t\n\v\f\r", c); k >= 0 {
					b.arena = append(b.arena, '\\', "abtnvfr"[k])
				} else {
					b.arena = appendOctal(b.arena, rune(c))
				}
			}
		}
		b.tail(KindShell, from)
	}
}
