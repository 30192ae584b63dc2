// Package forms tells in which ways programs write a value.
package forms

import "bytes"

// The kinds of forms.
const (
	KindRaw       = "raw"       // as it is, or with other line ends
	KindLines     = "lines"     // one line of it
	KindCase      = "case"      // hexadecimal digits in the other case
	KindBase64    = "base64"    // RFC 4648, section 4
	KindBase64URL = "base64url" // RFC 4648, section 5
	KindHex       = "hex"       // two digits a byte
	KindPercent   = "percent"   // in a URL or a form
	KindJSON      = "json"      // in a JSON string
	KindGo        = "go"        // in a Go string
	KindPython    = "python"    // in a Python or JavaScript string
	KindShell     = "shell"     // in a shell's word
	KindXML       = "xml"       // in XML or HTML
	KindQuoted    = "quoted"    // in SQL, CSV, YAML or a connection string
	KindCookie    = "cookie"    // in a quoted cookie
)

const (
	// minEncoded is the length of the shortest form that is a line, hex or base64, of
	// which it is 48 bits. Shorter ones are equal to innocent words; the four
	// characters that three bytes become are in every log.
	minEncoded = 8
	// minLine is the length of the shortest line that is a form only because it is
	// a line. Shorter ones are shared with innocent files ("{", "enabled: true"),
	// unless they look random.
	minLine = 16
	// maxEscaped is the length of the longest value that is looked for escaped.
	// There are some fifty ways to escape, and a longer value would cost hundreds of
	// megabytes in the automaton. Its lines, base64 and hexadecimal are found.
	maxEscaped = 64 << 10
)

// A Form is one way in which a value may be written.
type Form struct {
	Kind  string // one of the constants above
	Bytes []byte
}

// Of returns the byte strings by which value is recognized in a text: the
// plain one first, and no two equal. It returns none if value is blank or has
// fewer than minLength bytes. The forms share no memory with value.
//
// The plain form is value without the white space around it, which is lost as
// soon as it is printed; a final newline in the form would have to be held back
// at each line end. Only if what is left is too short the white space stays.
//
// # What is covered
//
//   - raw: with \n, \r\n, two \n or nothing between lines; with one space for each
//     run of white space, as echo $K prints it; with U+FFFD for each byte that is
//     not UTF-8, up to 64 KiB.
//   - lines: each line of a value of several lines, without the space around it,
//     if it has 16 bytes, or 8 that look random: no white space, and a capital, a
//     small letter and a digit among them. Between the BEGIN and END lines of a PEM
//     block it is each line of 8 bytes that is no header, and all of them joined;
//     there a \n of two characters ends a line too, as in a key inside JSON.
//   - case: runs of hexadecimal digits, pairs of them with colons between, and
//     UUIDs, all in small letters and all in capitals; UUIDs without dashes also.
//   - base64, base64url: anywhere in the encoded text, as in HTTP Basic, so at each
//     of the three alignments. If text goes on behind the value, a character that
//     holds bits of both stays, likewise before; if the value ends it, nothing
//     does, padded or not. The same with one newline behind the value and with the
//     white space that came with it. From the beginning of the text on also in
//     lines of 64 and 76 characters, whole and each line of 16 characters.
//   - hex: in small letters and in capitals.
//   - percent: as Go, Python, JavaScript, PHP, Java and curl write the parts of a
//     URL, and as forms are sent: with + or %20, %0A or %0D%0A, %2F or %2f.
//   - json: as JavaScript, Go, Python, PHP, Jackson, Gson and .NET write it, so
//     with \/, \u003c, \u00e9 or \u00E9 where they do; and, as JavaScript and Go
//     write it, in a JSON string inside a JSON string.
//   - go: as %q and %+q.
//   - python: repr of str and bytes, ascii; and util.inspect of Node.
//   - shell: as set -x, printf %q, shlex.quote and zsh quote words, and in double
//     quotes.
//   - xml: with the entities &amp; &lt; &gt; and those of both quotes, by name,
//     decimal or hexadecimal, line ends in attributes, and what html/template and
//     mustache add.
//   - quoted: ', " or } doubled; ' or both quotes behind a backslash.
//   - cookie: as Python's http.cookies quotes; others use percent.
//
// # What is not
//
//   - Forms of fewer than minLength bytes, and lines, case, base64 and hex of fewer than 8.
//   - Escaped forms (percent, json and below) of values above 64 KiB.
//   - Half of a value, but for lines; a value with anything inside, such as a colour
//     code, a margin, or a line break where it had none (fold, xxd, util.inspect of
//     a long one); its bytes in groups or backwards; in another case but for "case".
//   - Encodings of encodings, but for JSON in JSON: base64 with %2B, with \/ or in
//     base64 again; base64 in lines that does not begin with the value.
//   - Other encodings: UTF-16, base32, base85, ASCII85, quoted-printable, entities
//     such as &eacute;, octal dumps.
//   - Compressed, encrypted or hashed values.
func Of(value []byte, minLength int) []Form {
	minLength = max(minLength, 1)
	text := bytes.TrimSpace(value)
	switch {
	case len(text) == 0:
		return nil
	case len(text) >= minLength:
	case len(value) >= minLength:
		text = value
	default:
		return nil
	}
	// About what is needed, and much less without special bytes.
	times, spans := 24, 32
	has := setOf(text)
	escaped := has.meets(special) && len(text) <= maxEscaped
	if escaped {
		times, spans = 100, 96 // some fifty escapers, of which many write the same
	}
	b := &builder{
		minLength: minLength,
		arena:     make([]byte, 0, times*len(text)+64),
		spans:     make([]span, 0, spans),
		index:     make([]int32, 4*spans),
	}
	b.raw(text)
	b.lines(text)
	b.otherCase(text)
	b.base64(value, text)
	b.hex(text)
	if escaped {
		b.escaped(text)
	}
	forms := make([]Form, len(b.spans))
	for i, s := range b.spans {
		forms[i] = Form{s.kind, b.arena[s.from:s.to:s.to]}
	}
	return forms
}
