// Package forms tells in which ways programs write a value.
package forms

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash/maphash"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

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

// A builder collects forms in one buffer, so that many cost few allocations.
type builder struct {
	minLength int
	arena     []byte
	spans     []span
	index     []int32 // an open hash table of len(spans) at most half full: 1 + a span's number
}

// A span is a form, arena[from:to].
type span struct {
	kind     string
	from, to int
	hash     uint64
}

var seed = maphash.MakeSeed()

// add makes arena[from:to] a form, unless it is too short or one already.
func (b *builder) add(kind string, from, to int) {
	short := 0
	switch kind {
	case KindLines, KindCase, KindBase64, KindBase64URL, KindHex:
		short = minEncoded
	}
	if to-from < max(b.minLength, short) {
		return
	}
	form := b.arena[from:to]
	hash := maphash.Bytes(seed, form)
	i := b.slot(hash)
	for ; b.index[i] != 0; i = (i + 1) % len(b.index) {
		if s := &b.spans[b.index[i]-1]; s.hash == hash && bytes.Equal(b.arena[s.from:s.to], form) {
			return
		}
	}
	b.spans = append(b.spans, span{kind, from, to, hash})
	b.index[i] = int32(len(b.spans)) //nolint:gosec // a value has fewer lines than that
	if 2*len(b.spans) < len(b.index) {
		return
	}
	b.index = make([]int32, 2*len(b.index))
	for n := range b.spans {
		i := b.slot(b.spans[n].hash)
		for b.index[i] != 0 {
			i = (i + 1) % len(b.index)
		}
		b.index[i] = int32(n + 1)
	}
}

func (b *builder) slot(hash uint64) int { return int(hash % uint64(len(b.index))) } //nolint:gosec // below len(b.index)

// tail makes a form of what was appended to the arena since from. The next one
// goes over what was none.
func (b *builder) tail(kind string, from int) {
	n := len(b.spans)
	if b.add(kind, from, len(b.arena)); len(b.spans) == n {
		b.arena = b.arena[:from]
	}
}

func (b *builder) copy(kind string, form []byte) {
	from := len(b.arena)
	b.arena = append(b.arena, form...)
	b.tail(kind, from)
}

// unix returns text with the line ends of Unix.
func unix(text []byte) []byte {
	if !bytes.Contains(text, []byte("\r\n")) {
		return text
	}
	return bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
}

func (b *builder) raw(text []byte) {
	b.copy(KindRaw, text)
	if text = unix(text); bytes.IndexByte(text, '\n') >= 0 {
		for _, by := range []string{"\n", "\r\n", "", "\n\n"} {
			b.copy(KindRaw, bytes.ReplaceAll(text, []byte("\n"), []byte(by)))
		}
	}
	if bytes.ContainsAny(text, " \t\n") {
		words := bytes.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == '\t' || r == '\n' })
		b.copy(KindRaw, bytes.Join(words, []byte(" ")))
	}
}

func (b *builder) lines(text []byte) {
	begin, end := []byte("-----BEGIN"), []byte("-----END")
	text = unix(text)
	if bytes.Contains(text, begin) {
		text = bytes.ReplaceAll(text, []byte(`\n`), []byte("\n"))
	}
	if bytes.IndexByte(text, '\n') < 0 {
		return
	}
	var body []byte // of the PEM block that the line is in
	block := false
	for line := range bytes.SplitSeq(text, []byte{'\n'}) {
		switch line = bytes.TrimSpace(line); {
		case bytes.Contains(line, begin):
			block, body = true, body[:0]
		case bytes.HasPrefix(line, end):
			b.copy(KindLines, body)
			block, body = false, body[:0]
		case !block:
			if len(line) >= minLine || random(line) {
				b.copy(KindLines, line)
			}
		case !bytes.Contains(line, []byte(": ")): // such as DEK-Info: AES-256-CBC
			b.copy(KindLines, line)
			body = append(body, line...)
		}
	}
}

// random reports whether line looks like nothing that anybody would write.
func random(line []byte) bool {
	return !bytes.ContainsAny(line, " \t\v\f\r") &&
		bytes.ContainsAny(line, "0123456789") &&
		bytes.ContainsAny(line, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") &&
		bytes.ContainsAny(line, "abcdefghijklmnopqrstuvwxyz")
}

func (b *builder) otherCase(text []byte) {
	uuid := len(text) == 36
	run, pairs := true, len(text)%3 == 2
	for i, c := range text {
		digit := '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f'
		run = run && digit
		pairs = pairs && (digit && i%3 < 2 || c == ':' && i%3 == 2)
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if uuid = uuid && (digit && !dash || c == '-' && dash); !run && !pairs && !uuid {
			return
		}
	}
	for _, text := range [][]byte{bytes.ToLower(text), bytes.ToUpper(text)} {
		b.copy(KindCase, text)
		if uuid {
			b.copy(KindCase, bytes.ReplaceAll(text, []byte("-"), nil))
		}
	}
}

func (b *builder) base64(value, text []byte) {
	// Two unknown bytes before, for the alignments, and perhaps a newline behind.
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

// aligned adds padded, a value behind two zeros, as base64 with none, one and
// two of these before it. inside means that more may follow; whoever has this of
// the value has it of the value and its white space.
func (b *builder) aligned(padded []byte, inside bool) {
	for k := range 3 {
		from := len(b.arena)
		b.arena = base64.StdEncoding.AppendEncode(b.arena, padded[2-k:])
		n := len(padded) - 2 + k
		// Leave out what a byte before, or a byte behind, is part of.
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

// appendURL appends what text, in the standard alphabet, is in that for URLs.
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

// wrapped adds value as base64 in lines, as programs do that write files and
// mail.
func (b *builder) wrapped(value []byte) {
	for _, columns := range []int{64, 76} {
		if base64.StdEncoding.EncodedLen(len(value)) <= columns {
			return
		}
		encoded := base64.StdEncoding.AppendEncode(nil, value)
		for _, end := range []string{"\n", "\r\n"} {
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

func (b *builder) hex(text []byte) {
	from := len(b.arena)
	b.arena = hex.AppendEncode(b.arena, text)
	upper := bytes.ToUpper(b.arena[from:])
	b.tail(KindHex, from)
	b.copy(KindHex, upper)
}

// escaped adds the forms that leave most bytes as they are.
func (b *builder) escaped(text []byte) {
	texts := [][]byte{text}
	if lf := unix(text); len(lf) < len(text) {
		texts = append(texts, lf)
	}
	if !utf8.Valid(text) {
		valid := []byte(string([]rune(string(text))))
		b.copy(KindRaw, valid)
		texts = append(texts, valid)
	}
	for _, text := range texts {
		has := setOf(text)
		for _, p := range percents {
			b.percent(text, p)
		}
		for _, e := range escapers() {
			if !has.meets(e.changes) {
				continue
			}
			from := len(b.arena)
			b.arena = e.append(b.arena, text)
			if e.twice {
				b.add(e.kind, from, len(b.arena))
				once := b.arena[from:]
				from = len(b.arena)
				b.arena = e.append(b.arena, once)
			}
			b.tail(e.kind, from)
		}
	}
	if lf := unix(text); bytes.IndexByte(lf, '\n') >= 0 {
		b.percent(bytes.ReplaceAll(lf, []byte("\n"), []byte("\r\n")), percents[0])
	}
}

// A set is a set of bytes.
type set [4]uint64

func setOf[T string | []byte](bytes T) (s set) {
	for i := range len(bytes) {
		s[bytes[i]>>6] |= 1 << (bytes[i] & 63)
	}
	return s
}

func (s *set) has(c byte) bool { return s[c>>6]&(1<<(c&63)) != 0 }

func (s *set) meets(o set) bool {
	return s[0]&o[0]|s[1]&o[1]|s[2]&o[2]|s[3]&o[3] != 0
}

func (s *set) without(o set) set {
	return set{s[0] &^ o[0], s[1] &^ o[1], s[2] &^ o[2], s[3] &^ o[3]}
}

const alphanumeric = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

var (
	all     = set{1<<64 - 1, 1<<64 - 1, 1<<64 - 1, 1<<64 - 1}
	special = all.without(setOf(alphanumeric + "-._")) // what anybody escapes
)

// A percent is an encoder for URLs: what it leaves as it is, and whether a space
// becomes +, %20, or one of them here and the other there.
type percent struct {
	safe   set
	spaces string
}

// percents begins with that of forms, which alone make \r\n of line ends.
var percents = []percent{
	{safe("*-._"), "+%"},                // URLSearchParams, Java
	{safe("-._~"), "+%"},                // RFC 3986: Go's QueryEscape, Python's quote_plus, curl
	{safe("-._"), "+"},                  // PHP's urlencode
	{safe("-._~/"), "%"},                // Python's quote
	{safe("-._~!*'()"), "%"},            // encodeURIComponent
	{safe("-._~!*'();,/?:@&=+$#"), "%"}, // encodeURI
	{safe("-._~$&+=:@"), "%"},           // Go's PathEscape
	{safe("-._~$&+=:@,/;"), "%"},        // the path of Go's URL
	{safe("-._~$&+=,;"), "%"},           // Go's UserPassword
	{safe("-._~!$%&'()*+,"), "%"},       // user and password in the URL of a browser
}

func safe(marks string) set { return setOf(alphanumeric + marks) }

func (b *builder) percent(text []byte, p percent) {
	has := setOf(text)
	if changed := has.without(p.safe); changed == (set{}) {
		return
	}
	for _, digits := range []string{upperDigits, lowerDigits} {
		for i, space := range []byte(p.spaces) {
			if i > 0 && !has.has(' ') {
				break
			}
			from := len(b.arena)
			for _, c := range text {
				switch {
				case p.safe.has(c):
					b.arena = append(b.arena, c)
				case c == ' ' && space == '+':
					b.arena = append(b.arena, '+')
				default:
					b.arena = append(b.arena, '%', digits[c>>4], digits[c&15])
				}
			}
			b.tail(KindPercent, from)
		}
	}
}

const (
	lowerDigits = "0123456789abcdef"
	upperDigits = "0123456789ABCDEF"
)

// A wide appends a character that is not ASCII, which came as raw. r is
// [utf8.RuneError] and raw one byte where the text is not UTF-8.
type wide func(dst []byte, r rune, raw []byte) []byte

// An escaper writes some characters in another way and leaves the others.
type escaper struct {
	kind    string
	changes set
	to      [utf8.RuneSelf]string // "": as it is
	wide    wide                  // nil: as it is
	twice   bool                  // what is escaped may be escaped again
	tilde   bool                  // a backslash before ~, only behind : and =
}

func (e *escaper) append(dst, text []byte) []byte {
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c < utf8.RuneSelf && e.to[c] != "":
			dst = append(dst, e.to[c]...)
		case c == '~' && e.tilde && i > 0 && (text[i-1] == ':' || text[i-1] == '='):
			dst = append(dst, `\~`...)
		case c >= utf8.RuneSelf && e.wide != nil:
			r, n := utf8.DecodeRune(text[i:])
			dst = e.wide(dst, r, text[i:i+n])
			i += n - 1
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// A rule is an escaper in short.
type rule struct {
	kind    string
	marks   string // bytes that are written behind a backslash
	pairs   string // a byte and how it is written, with spaces between the pairs
	short   string // which of \a \b \t \n \v \f \r \E it has
	control string // the format of the other control characters; "": as they are
	wide    wide
	del     bool // control is for DEL, too
	twice   bool // as in escaper
	tilde   bool // as in escaper
}

const (
	angles   = `<\u003c >\u003e &\u0026`
	entities = "&&amp; <&lt; >&gt;"
)

// rules is who writes what. Where a quote stays as it is, the text stands in the
// other one.
var rules = []rule{
	{kind: KindJSON, marks: `"\`, short: "btnfr", control: `\u%04x`, twice: true},                                          // JSON.stringify
	{kind: KindJSON, marks: `"\`, short: "btnfr", control: `\u%04x`, del: true},                                            // jq
	{kind: KindJSON, marks: `"\`, pairs: angles, short: "btnfr", control: `\u%04x`, wide: wideGoJSON, twice: true},         // Go
	{kind: KindJSON, marks: `"\`, pairs: angles, short: "tnr", control: `\u%04x`, wide: wideGoJSON},                        // Go before 1.22
	{kind: KindJSON, marks: `"\`, short: "btnfr", control: `\u%04x`, wide: wideGoJSON},                                     // Go, SetEscapeHTML(false)
	{kind: KindJSON, marks: `"\`, short: "btnfr", control: `\u%04x`, wide: wideUTF16(lowerDigits), del: true},              // Python
	{kind: KindJSON, marks: `"\/`, short: "btnfr", control: `\u%04x`, wide: wideUTF16(lowerDigits)},                        // PHP
	{kind: KindJSON, marks: `"\/`, short: "btnfr", control: `\u%04x`},                                                      // PHP, unescaped Unicode
	{kind: KindJSON, marks: `"\`, short: "btnfr", control: `\u%04X`},                                                       // Jackson
	{kind: KindJSON, marks: `"\`, short: "btnfr", control: `\u%04X`, wide: wideUTF16(upperDigits)},                         // Jackson, ASCII
	{kind: KindJSON, marks: `"\`, pairs: angles + ` =\u003d '\u0027`, short: "btnfr", control: `\u%04x`, wide: wideGoJSON}, // Gson
	{
		kind: KindJSON, marks: `\`, pairs: `"\u0022 &\u0026 '\u0027 +\u002B <\u003C >\u003E ` + "`\\u0060", // .NET
		short: "btnfr", control: `\u%04X`, wide: wideUTF16(upperDigits), del: true,
	},

	{kind: KindGo, marks: `"\`, short: "abtnvfr", control: `\x%02x`, wide: wideGo(strconv.AppendQuote), del: true},        // %q
	{kind: KindGo, marks: `"\`, short: "abtnvfr", control: `\x%02x`, wide: wideGo(strconv.AppendQuoteToASCII), del: true}, // %+q

	{kind: KindPython, marks: `'\`, short: "tnr", control: `\x%02x`, wide: widePython(true), del: true}, // repr
	{kind: KindPython, marks: `\`, short: "tnr", control: `\x%02x`, wide: widePython(true), del: true},
	{kind: KindPython, marks: `'\`, short: "tnr", control: `\x%02x`, wide: widePython(false), del: true}, // ascii
	{kind: KindPython, marks: `\`, short: "tnr", control: `\x%02x`, wide: widePython(false), del: true},
	{kind: KindPython, marks: `'\`, short: "tnr", control: `\x%02x`, wide: wideBytes, del: true}, // repr of bytes
	{kind: KindPython, marks: `\`, short: "tnr", control: `\x%02x`, wide: wideBytes, del: true},
	{kind: KindPython, marks: `'\`, short: "btnfr", control: `\x%02X`, wide: wideNode, del: true}, // util.inspect
	{kind: KindPython, marks: `\`, short: "btnfr", control: `\x%02X`, wide: wideNode, del: true},

	{kind: KindShell, pairs: `''\''`},  // set -x
	{kind: KindShell, pairs: `''"'"'`}, // shlex.quote, dash
	{kind: KindShell, marks: `'\`, short: "abtnvfrE", control: `\%03o`, wide: wideShell(true), del: true},  // $''
	{kind: KindShell, marks: `'\`, short: "abtnvfrE", control: `\%03o`, wide: wideShell(false), del: true}, // $'' in the C locale
	{kind: KindShell, marks: " \t\"'\\|&;()<>!{}*[]?^$`,", tilde: true},                                    // printf %q
	{kind: KindShell, marks: " \t\"'\\|&;()<>{}*[]?^$`#", pairs: "\n$'\\n'"},                               // zsh

	{kind: KindShell, marks: "\"\\$`"},  // in double quotes
	{kind: KindShell, marks: "\"\\$`!"}, // as above, with history

	{kind: KindXML, pairs: entities},                                                                // text
	{kind: KindXML, pairs: entities + " \n&#10; \r&#13; \t&#9;"},                                    // attribute in single quotes
	{kind: KindXML, pairs: entities + ` "&quot;`},                                                   // attribute
	{kind: KindXML, pairs: entities + " \"&quot; \n&#10; \r&#13; \t&#9;"},                           // quoteattr
	{kind: KindXML, pairs: entities + " \"&quot; \n&#xA; \r&#xD; \t&#x9;"},                          // .NET
	{kind: KindXML, pairs: entities + ` "&#34; '&#39;`},                                             // Go's html
	{kind: KindXML, pairs: entities + " \"&#34; '&#39; \n&#xA; \r&#xD; \t&#x9;", control: "\ufffd"}, // Go's encoding/xml
	{kind: KindXML, pairs: entities + ` "&#34; '&#39; +&#43;`},                                      // Go's html/template
	{kind: KindXML, pairs: entities + ` "&quot; '&#39;`},                                            // lodash, jq
	{kind: KindXML, pairs: entities + ` "&quot; '&#x27;`},                                           // Python
	{kind: KindXML, pairs: entities + ` "&quot; '&#039;`},                                           // PHP
	{kind: KindXML, pairs: entities + ` "&quot; '&apos;`},                                           // Java
	{kind: KindXML, pairs: entities + ` "&quot; '&#39; /&#x2F; =&#x3D; ` + "`&#x60;"},               // mustache

	{kind: KindQuoted, pairs: `'''`},                                        // SQL, YAML
	{kind: KindQuoted, pairs: `"""`},                                        // CSV, ADO
	{kind: KindQuoted, pairs: `}}}`},                                        // ODBC
	{kind: KindQuoted, marks: `'\`},                                         // libpq
	{kind: KindQuoted, marks: `'"\`, short: "nr", pairs: "\x00\\0 \x1a\\Z"}, // MySQL

	{kind: KindCookie, marks: `"\`, pairs: `,\054 ;\073`, control: `\%03o`, wide: wideLatin1, del: true}, // http.cookies
}

// escapers is rules spelt out, which most values do not need.
var escapers = sync.OnceValue(func() []*escaper {
	escapers := make([]*escaper, len(rules))
	formatted := map[string]*[utf8.RuneSelf]string{} // by format
	for i, r := range rules {
		control := formatted[r.control]
		if control == nil {
			control = new([utf8.RuneSelf]string)
			for c := range control {
				switch {
				case c >= ' ' && c != '\x7f': // no control character
				case strings.Contains(r.control, "%"):
					control[c] = fmt.Sprintf(r.control, c)
				default:
					control[c] = r.control
				}
			}
			formatted[r.control] = control
		}
		e := &escaper{
			kind: r.kind, wide: r.wide, twice: r.twice, tilde: r.tilde,
		}
		copy(e.to[:' '], control[:])
		if r.del {
			e.to['\x7f'] = control['\x7f']
		}
		for i, c := range []byte("\a\b\t\n\v\f\r\x1b") {
			if letter := "abtnvfrE"[i : i+1]; strings.Contains(r.short, letter) {
				e.to[c] = `\` + letter
			}
		}
		for _, c := range []byte(r.marks) {
			e.to[c] = `\` + string(rune(c))
		}
		if r.pairs != "" {
			for pair := range strings.SplitSeq(r.pairs, " ") {
				e.to[pair[0]] = pair[1:]
			}
		}
		for c, to := range e.to {
			if to != "" || c == '~' && e.tilde {
				e.changes[c>>6] |= 1 << (c & 63)
			}
		}
		if e.wide != nil {
			e.changes[2], e.changes[3] = all[2], all[3]
		}
		escapers[i] = e
	}
	return escapers
})

// invalid reports whether raw is a byte that is not UTF-8.
func invalid(r rune, raw []byte) bool { return r == utf8.RuneError && len(raw) == 1 }

// appendHex appends prefix and the last n digits of r.
func appendHex(dst []byte, prefix string, r rune, n int, digits string) []byte {
	dst = append(dst, prefix...)
	for n--; n >= 0; n-- {
		dst = append(dst, digits[r>>(4*n)&15])
	}
	return dst
}

func appendOctal(dst []byte, r rune) []byte {
	return append(dst, '\\', '0'+byte(r>>6&7), '0'+byte(r>>3&7), '0'+byte(r&7))
}

// wideUTF16 leaves no character. What is not UTF-8 is written as Python reads
// it, as the second half of a pair.
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

func wideGoJSON(dst []byte, r rune, raw []byte) []byte {
	if r == '\u2028' || r == '\u2029' || invalid(r, raw) {
		return appendHex(dst, `\u`, r, 4, lowerDigits)
	}
	return append(dst, raw...)
}

// wideGo takes the quotes off what quote writes.
func wideGo(quote func([]byte, string) []byte) wide {
	return func(dst []byte, _ rune, raw []byte) []byte {
		from := len(dst)
		dst = quote(dst, string(raw))
		return append(dst[:from], dst[from+1:len(dst)-1]...)
	}
}

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

func wideBytes(dst []byte, _ rune, raw []byte) []byte {
	for _, c := range raw {
		dst = appendHex(dst, `\x`, rune(c), 2, lowerDigits)
	}
	return dst
}

func wideNode(dst []byte, r rune, raw []byte) []byte {
	if r < 0xa0 {
		return appendHex(dst, `\x`, r, 2, upperDigits)
	}
	return append(dst, raw...)
}

func wideShell(printable bool) wide {
	return func(dst []byte, r rune, raw []byte) []byte {
		if printable && !invalid(r, raw) && (strconv.IsGraphic(r) || unicode.Is(unicode.Cf, r)) {
			return append(dst, raw...)
		}
		for _, c := range raw {
			dst = appendOctal(dst, rune(c))
		}
		return dst
	}
}

func wideLatin1(dst []byte, r rune, raw []byte) []byte {
	if r < 0x100 {
		return appendOctal(dst, r)
	}
	return append(dst, raw...)
}
