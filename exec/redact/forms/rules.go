package forms

import "strconv"

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
