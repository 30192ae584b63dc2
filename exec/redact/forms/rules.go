package forms

import "strconv"

const (
	angles   = `<\u003c >\u003e &\u0026`
	entities = "&&amp; <&lt; >&gt;"
)

// carets returns the pairs of the control characters that cat -v shows with a caret.
func carets() string {
	pairs := []byte("\x7f^?")
	for c := byte(1); c < ' '; c++ {
		if c != '\t' && c != '\n' {
			pairs = append(pairs, ' ', c, '^', c+'@')
		}
	}
	return string(pairs)
}

// textFormat is how str of Python writes a string in a message of protobuf's
// (protobuf/text_format.cc, CEscape).
var textFormat = rule{kind: KindQuoted, marks: `'"\`, short: "tnr", control: `\%03o`, del: true}

// rules has one line for each way in which a program escapes text. A rule that leaves
// one kind of quote as it is stands for text in quotes of the other kind.
var rules = []rule{
	// JavaScript: JSON.stringify.
	{kind: KindJSON, marks: `"\`, short: "btnfr", control: `\u%04x`, twice: true},
	// jq.
	{kind: KindJSON, marks: `"\`, short: "btnfr", control: `\u%04x`, del: true, twice: true},
	// Go: encoding/json.
	{kind: KindJSON, marks: `"\`, pairs: angles, short: "btnfr", control: `\u%04x`, wide: wideGoJSON, twice: true},
	// Go before 1.22: no \b and \f.
	{kind: KindJSON, marks: `"\`, pairs: angles, short: "tnr", control: `\u%04x`, wide: wideGoJSON},
	// Go: SetEscapeHTML(false).
	{kind: KindJSON, marks: `"\`, short: "btnfr", control: `\u%04x`, wide: wideGoJSON},
	// Python: json.dumps.
	{
		kind: KindJSON, marks: `"\`, short: "btnfr",
		control: `\u%04x`, wide: wideUTF16(lowerDigits), del: true, twice: true,
	},
	// PHP: json_encode.
	{kind: KindJSON, marks: `"\/`, short: "btnfr", control: `\u%04x`, wide: wideUTF16(lowerDigits)},
	// PHP: JSON_UNESCAPED_UNICODE.
	{kind: KindJSON, marks: `"\/`, short: "btnfr", control: `\u%04x`},
	// Jackson.
	{kind: KindJSON, marks: `"\`, short: "btnfr", control: `\u%04X`},
	// Jackson: ESCAPE_NON_ASCII.
	{kind: KindJSON, marks: `"\`, short: "btnfr", control: `\u%04X`, wide: wideUTF16(upperDigits)},
	// Gson.
	{
		kind:    KindJSON,
		marks:   `"\`,
		pairs:   angles + ` =\u003d '\u0027`,
		short:   "btnfr",
		control: `\u%04x`,
		wide:    wideGoJSON,
	},
	// The same with \/, as writers of JSON for a script in a page do.
	{
		kind:    KindJSON,
		marks:   `"\/`,
		pairs:   angles + ` =\u003d '\u0027`,
		short:   "btnfr",
		control: `\u%04x`,
		wide:    wideGoJSON,
	},
	// .NET: System.Text.Json.
	{
		kind: KindJSON, marks: `\`, pairs: `"\u0022 &\u0026 '\u0027 +\u002B <\u003C >\u003E ` + "`\\u0060",
		short: "btnfr", control: `\u%04X`, wide: wideUTF16(upperDigits), del: true,
	},

	// %q of package fmt.
	{kind: KindGo, marks: `"\`, short: "abtnvfr", control: `\x%02x`, wide: wideGo(strconv.AppendQuote), del: true},
	// Rust: {:?}.
	{
		kind: KindGo, marks: `"\`, pairs: "\x00\\0", short: "tnr",
		control: `\u{%x}`, wide: wideRust, text: true, del: true,
	},
	// %+q of package fmt.
	{
		kind:    KindGo,
		marks:   `"\`,
		short:   "abtnvfr",
		control: `\x%02x`,
		wide:    wideGo(strconv.AppendQuoteToASCII),
		del:     true,
	},

	// Python: repr of str, in single and in double quotes.
	{kind: KindPython, marks: `'\`, short: "tnr", control: `\x%02x`, wide: widePython(true), del: true, message: true},
	{kind: KindPython, marks: `\`, short: "tnr", control: `\x%02x`, wide: widePython(true), del: true, message: true},
	// Python: ascii, in single and in double quotes.
	{kind: KindPython, marks: `'\`, short: "tnr", control: `\x%02x`, wide: widePython(false), del: true},
	{kind: KindPython, marks: `\`, short: "tnr", control: `\x%02x`, wide: widePython(false), del: true},
	// Python: repr of bytes, in single and in double quotes.
	{kind: KindPython, marks: `'\`, short: "tnr", control: `\x%02x`, wide: wideBytes(lowerDigits), del: true},
	{kind: KindPython, marks: `\`, short: "tnr", control: `\x%02x`, wide: wideBytes(lowerDigits), del: true},
	// Node: util.inspect, in single quotes and in others.
	{kind: KindPython, marks: `'\`, short: "btnfr", control: `\x%02X`, wide: wideNode, del: true},
	{kind: KindPython, marks: `\`, short: "btnfr", control: `\x%02X`, wide: wideNode, del: true},
	// Ruby: inspect, of UTF-8 before and from 3.4, and of binary strings.
	{
		kind: KindPython, marks: `"\`, pairs: "\x1b\\e", short: "abtnvfr", control: `\u%04X`,
		wide: wideRuby, del: true, hash: true,
	},
	{
		kind: KindPython, marks: `"\`, pairs: "\x1b\\e \x7f\\x7F", short: "abtnvfr", control: `\u%04X`,
		wide: wideRuby, hash: true,
	},
	{
		kind: KindPython, marks: `"\`, pairs: "\x1b\\e", short: "abtnvfr", control: `\x%02X`,
		wide: wideBytes(upperDigits), del: true, hash: true,
	},

	// bash and others: set -x.
	{kind: KindShell, pairs: `''\''`},
	// Python: shlex.quote; dash: set -x.
	{kind: KindShell, pairs: `''"'"'`},
	// bash: $'...'.
	{kind: KindShell, marks: `'\`, short: "abtnvfrE", control: `\%03o`, wide: wideShell(true), del: true},
	// bash: $'...' in the C locale.
	{kind: KindShell, marks: `'\`, short: "abtnvfrE", control: `\%03o`, wide: wideShell(false), del: true},
	// bash: printf %q.
	{kind: KindShell, marks: " \t\"'\\|&;()<>!{}*[]?^$`,", tilde: true},
	// zsh: ${(q)name}.
	{kind: KindShell, marks: " \t\"'\\|&;()<>{}*[]?^$`#", pairs: "\n$'\\n'"},

	// bash: set -x of [[ x =~ "$V" ]].
	{kind: KindShell, marks: "\\.[()*+?{|^$"},

	// A word in double quotes.
	{kind: KindShell, marks: "\"\\$`"},
	// A word in double quotes, where ! would recall history.
	{kind: KindShell, marks: "\"\\$`!"},
	// PowerShell: a word in double quotes, with line ends and tabs as they are and escaped.
	{kind: KindShell, pairs: "\"`\" $`$ ```"},
	{kind: KindShell, pairs: "\"`\" $`$ ``` \n`n \r`r \t`t"},

	// The text of an element.
	{kind: KindXML, pairs: entities},
	// An attribute in single quotes.
	{kind: KindXML, pairs: entities + " \n&#10; \r&#13; \t&#9;"},
	// An attribute in double quotes.
	{kind: KindXML, pairs: entities + ` "&quot;`},
	// Python: xml.sax.saxutils.quoteattr.
	{kind: KindXML, pairs: entities + " \"&quot; \n&#10; \r&#13; \t&#9;"},
	// .NET: XmlWriter.
	{kind: KindXML, pairs: entities + " \"&quot; \n&#xA; \r&#xD; \t&#x9;"},
	// Go: html.
	{kind: KindXML, pairs: entities + ` "&#34; '&#39;`},
	// Go: encoding/xml.
	{kind: KindXML, pairs: entities + " \"&#34; '&#39; \n&#xA; \r&#xD; \t&#x9;", control: "\ufffd"},
	// Go: html/template.
	{kind: KindXML, pairs: entities + ` "&#34; '&#39; +&#43;`},
	// lodash; jq: @html.
	{kind: KindXML, pairs: entities + ` "&quot; '&#39;`},
	// Python: html.escape.
	{kind: KindXML, pairs: entities + ` "&quot; '&#x27;`},
	// PHP: htmlspecialchars.
	{kind: KindXML, pairs: entities + ` "&quot; '&#039;`},
	// Java: commons-text.
	{kind: KindXML, pairs: entities + ` "&quot; '&apos;`},
	// mustache.js.
	{kind: KindXML, pairs: entities + ` "&quot; '&#39; /&#x2F; =&#x3D; ` + "`&#x60;"},

	// Python: xmlcharrefreplace, as it is, in the text of an element and in an attribute.
	{kind: KindXML, wide: wideReference, text: true},
	{kind: KindXML, pairs: entities, wide: wideReference, text: true},
	{kind: KindXML, pairs: entities + " \"&quot; \n&#10; \r&#13; \t&#09;", wide: wideReference, text: true},

	// SQL; YAML in single quotes.
	{kind: KindQuoted, pairs: `'''`},
	// CSV (RFC 4180); connection strings of ADO.
	{kind: KindQuoted, pairs: `"""`},
	// Connection strings of ODBC, in braces.
	{kind: KindQuoted, pairs: `}}}`},
	// Connection strings of libpq.
	{kind: KindQuoted, marks: `'\`},
	// MySQL: mysql_real_escape_string.
	{kind: KindQuoted, marks: `'"\`, short: "nr", pairs: "\x00\\0 \x1a\\Z"},
	// protobuf: a message in text format, and with octal numbers for all that is not ASCII.
	textFormat,
	{kind: KindQuoted, marks: `'"\`, short: "tnr", control: `\%03o`, wide: wideShell(false), del: true},
	// YAML in double quotes, as PyYAML writes it, without and with allow_unicode.
	{
		kind: KindQuoted, marks: `"\`, pairs: "\x00\\0 \x1b\\e", short: "abtnvfr", control: `\x%02X`,
		wide: wideYAML(false), text: true, del: true,
	},
	{
		kind: KindQuoted, marks: `"\`, pairs: "\x00\\0 \x1b\\e", short: "abtnvfr", control: `\x%02X`,
		wide: wideYAML(true), text: true, del: true,
	},
	// Java: Properties.store.
	{
		kind: KindQuoted, marks: `\=:#!`, short: "tnfr", control: `\u%04X`,
		wide: wideUTF16(upperDigits), text: true, del: true,
	},
	// Regular expressions: re.escape of Python, QuoteMeta of Go, Regexp.escape of Ruby.
	{kind: KindQuoted, marks: "()[]{}?*+-|^$\\.&~# \t\n\r\v\f"},
	{kind: KindQuoted, marks: `\.+*?()|[]{}^$`},
	{kind: KindQuoted, marks: "[]{}()|-*.\\?+^$# ", short: "tnvfr"},

	// cat -v.
	{kind: KindQuoted, pairs: carets(), wide: wideCaret},

	// Python: http.cookies.
	{kind: KindCookie, marks: `"\`, pairs: `,\054 ;\073`, control: `\%03o`, wide: wideLatin1, del: true},
}
