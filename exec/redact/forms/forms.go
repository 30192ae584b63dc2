package forms

import (
	"bytes"
	"math"
)

// The kinds of forms. They are shown to users.
const (
	KindRaw       = "raw"       // as it is, or with other line ends
	KindLines     = "lines"     // one line of it
	KindCase      = "case"      // hexadecimal digits in the other case
	KindBase64    = "base64"    // RFC 4648, section 4
	KindBase64URL = "base64url" // RFC 4648, section 5
	KindHex       = "hex"       // two digits a byte
	KindPercent   = "percent"   // in a URL or a form
	KindJSON      = "json"      // in a JSON string
	KindGo        = "go"        // in a Go or Rust string
	KindPython    = "python"    // in a Python, JavaScript or Ruby string
	KindShell     = "shell"     // in a word of a shell
	KindXML       = "xml"       // in XML or HTML
	KindQuoted    = "quoted"    // in SQL, CSV, YAML, properties, a regular expression or a connection string
	KindCookie    = "cookie"    // in a quoted cookie
	KindCharset   = "charset"   // in another character set
	KindNumbers   = "numbers"   // its bytes in a list or in a dump
)

const (
	// minEncoded is the length in bytes of the shortest form of the kinds lines, case,
	// base64 and hex. Shorter ones are equal to innocent words: the four base64
	// characters of three bytes occur in every log.
	minEncoded = 8
	// minLine is the length in bytes of the shortest line that is a form, unless the line
	// looks random. Innocent files share shorter lines ("{", "enabled: true").
	minLine = 16
)

// A Form is one way to write a value.
type Form struct {
	Kind  string // one of the constants above
	Bytes []byte // what is written
}

// Of returns the forms of value: the byte strings by which it is recognized in a text.
// The plain form is the first, and no two have the same bytes. Of returns nil if value is
// blank or has fewer than minLength bytes; no form is shorter than minLength. The forms
// share no memory with value.
//
// The plain form is value without the white space around it, because programs trim it. A
// form with a final newline would hold back every line end of a text. The white space
// stays only if the rest is shorter than minLength.
//
// # What is covered
//
//   - raw: with \n, \r\n, two \n or nothing between lines; with one space for each run of
//     white space, as echo $K prints it; with U+FFFD for each byte that is not UTF-8, up
//     to 64 KiB.
//   - lines: each line of a value with several lines, without the space around it, if it
//     has 16 bytes, or 8 that look random: no white space, and a capital, a small letter
//     and a digit among them; also escaped in the ways below. Between the BEGIN and END lines
//     of a PEM block each line of 8 bytes counts that is not a header; all lines joined, and
//     lines of 64, 70 and 76 characters, also escaped. The two characters \n end a line there,
//     too, as in a key inside JSON.
//   - case: runs of hexadecimal digits, pairs of digits with colons between them, and
//     UUIDs, each in small letters and in capitals; UUIDs without dashes, too.
//   - hex: in small letters and in capitals.
//   - base64, base64url: anywhere in the encoded text, as in HTTP Basic, so at each of the
//     three alignments. A character that holds bits of the value and of the text before
//     or behind it is not covered. If the value ends the text, its last character and the
//     padding are covered. The same with one newline behind the value, and with the white
//     space around it. If the value begins the text, also in lines of 64 and 76
//     characters: whole, and each line of at least 16 characters.
//   - percent: as Go, Python, JavaScript, PHP, Java and curl write the parts of a URL, and
//     as forms are sent: with + or %20, %0A or %0D%0A, %2F or %2f; path, query and fragment
//     as the URL class of browsers and Node writes them, which drops tabs and line ends; as
//     escape of JavaScript.
//   - json: as JavaScript, Go, Python, PHP, Jackson, Gson and .NET write it, with \/,
//     \u003c, \u00e9 or \u00E9 where they do so; and, as JavaScript, Go, Python and jq
//     write it, in a JSON string inside a JSON string.
//   - go: as %q and %+q write it, and {:?} of Rust.
//   - python: repr of str and bytes, and ascii; repr of str in a message of protobuf's, as Flyte's
//     runtime logs an exception; util.inspect of Node; inspect of Ruby.
//   - shell: as set -x, printf %q, shlex.quote and zsh quote words, and in double quotes, of
//     PowerShell, too; as set -x shows patterns, with a backslash before each character, if the
//     value has 4 bytes or more, and regular expressions; as ls and cat of coreutils quote names in errors.
//   - xml: with the entities &amp; &lt; &gt; and those of both quotes, by name, decimal or
//     hexadecimal; line ends in attributes; what html/template and mustache add; the decimal
//     number of each character that is not ASCII.
//   - quoted: with ', " or } doubled; with ' or both quotes behind a backslash; as PyYAML writes
//     double quotes and Java properties; in a message of protobuf's in text format; as cat -v; what
//     re.escape, QuoteMeta and Regexp.escape return.
//   - cookie: as http.cookies of Python quotes it; other programs use percent.
//   - charset: in UTF-16 of both byte orders; if it is not ASCII, also in NFC and NFD, Latin-1,
//     Windows-1252, UTF-8 of UTF-8, with ? or U+FFFD for each byte or character that is not
//     ASCII, and without those, if 6 characters and half of all are left.
//   - numbers: its bytes, if there are 8 or more, in decimal numbers with a comma, a space or both
//     between them, also from -128 to 127; in pairs of digits with a space, a colon or a dash
//     between them, also the first 50, which is what Node shows; as 0x70, 0x61.
//
// # What is not
//
//   - Forms of fewer than minLength bytes, lines, case, base64 and hex of fewer than 8, and
//     numbers of fewer than 8 bytes.
//   - Parts of a value, except lines, and what it decodes to: package parts finds them.
//   - A value with anything inside, such as a colour code, a margin, or a line break where
//     it had none (fold, util.inspect of a long value, a list of numbers in columns). Package
//     redact finds a long form that a program has wrapped.
//   - Dumps of xxd, hexdump and od, which break a value at each 16 bytes and have words of two
//     bytes, octal numbers and text beside them: each layout would take four bytes for each of
//     the value, and only a dump that begins with the value would be found.
//   - The bytes of a value in reverse; in another case, except "case".
//   - Encodings of encodings, except JSON in JSON and repr in protobuf: base64 with %2B, with \/ or in base64
//     again; base64 in lines that does not begin with the value.
//   - Other encodings: UTF-32, base32, base85, Ascii85, quoted-printable, entities such as &eacute;.
//   - Compressed, encrypted or hashed values.
func Of(value []byte, minLength int) []Form {
	all, _ := Within(value, minLength, math.MaxInt)
	return all
}

// Within is Of, but it stops when the forms have more than maxBytes bytes together. The plain
// form is always there. Those that are left out are the last of the list above, and whole is
// false then.
func Within(value []byte, minLength, maxBytes int) (all []Form, whole bool) {
	minLength = max(minLength, 1)
	text := bytes.TrimSpace(value)
	switch {
	case len(text) == 0:
		return nil, true
	case len(text) >= minLength:
	case len(value) >= minLength:
		text = value
	default:
		return nil, true
	}

	// The buffer in multiples of the value's length, as most values need it. It grows if that is
	// too little.
	times := 60
	has := setOf(text)
	if has.meets(special) {
		times = 140 // about fifty escapers; many of them write the same
	}
	b := builders.Get().(*builder) //nolint:errcheck // it has no others
	defer builders.Put(b)
	b.minLength, b.maxBytes, b.full = minLength, max(maxBytes, len(text)), false
	b.arena = make([]byte, 0, min(times*len(text)+64, b.maxBytes))
	b.spans = b.spans[:0]
	clear(b.index)

	b.raw(text)
	b.lines(text)
	b.otherCase(text)
	b.hex(text)
	b.base64(value, text)
	b.brackets(text)
	if has.meets(quotable) {
		b.escaped(text)
	}
	b.charsets(text)
	b.numbers(text)
	forms := make([]Form, len(b.spans))
	for i, s := range b.spans {
		forms[i] = Form{s.kind, b.arena[s.from:s.to:s.to]}
	}
	b.arena = nil // the forms have it
	return forms, !b.full
}
