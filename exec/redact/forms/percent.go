package forms

import (
	"unicode/utf16"
	"unicode/utf8"
)

// A percent is an encoder for URLs. It leaves the bytes of safe as they are. spaces has the
// first characters of what it writes for a space: "+", "%" for %20, or both if there are
// programs that do the one and programs that do the other.
type percent struct {
	safe   set
	spaces string
	// text says that it writes UTF-8 only, and capital digits only. url says that it drops tabs and
	// line ends, path that it makes a slash of a backslash, as the URL class does.
	text, url, path bool
}

// percents has one line for each way in which a program encodes parts of a URL. The URL class is
// that of https://url.spec.whatwg.org/#percent-encoded-bytes. The first is that of HTML forms, which
// alone write \r\n for a line end: escaped relies on that.
var percents = []percent{
	{safe: safe("*-._"), spaces: "+%"},                // URLSearchParams, Java
	{safe: safe("-._~"), spaces: "+%"},                // RFC 3986: Go's QueryEscape, quote_plus, curl
	{safe: safe("-._"), spaces: "+"},                  // PHP's urlencode
	{safe: safe("-._~/"), spaces: "%"},                // Python's quote
	{safe: safe("-._~!*'()"), spaces: "%"},            // encodeURIComponent
	{safe: safe("-._~!*'();,/?:@&=+$#"), spaces: "%"}, // encodeURI
	{safe: safe("-._~$&+=:@"), spaces: "%"},           // Go's PathEscape
	{safe: safe("-._~$&+=:@,/;"), spaces: "%"},        // the path of Go's URL
	{safe: safe("-._~$&+=,;"), spaces: "%"},           // Go's UserPassword
	{safe: safe("-._~!$%&'()*+,"), spaces: "%"},       // user and password in the URL class

	// The path in the URL class.
	{safe: safe("-._~!$%&'()*+,/:;=@[]^|"), spaces: "%", text: true, url: true, path: true},
	// The same since 2024.
	{safe: safe("-._~!$%&'()*+,/:;=@[]|"), spaces: "%", text: true, url: true, path: true},
	// The query in the URL class.
	{safe: safe("-._~!$%&()*+,/:;=@[]^|\\?`{}"), spaces: "%", text: true, url: true},
	// The fragment in the URL class.
	{safe: safe("-._~!$%&'()*+,/:;=@[]^|\\?#{}"), spaces: "%", text: true, url: true},
	// The path of Java's URI.
	{safe: safe("-._~!*'(),/:;@&=+$"), spaces: "%", text: true},
	// Query and fragment of Java's URI.
	{safe: safe("-._~!*'(),/:;@&=+$?[]"), spaces: "%", text: true},
}

// unicodePercent adds text as the function escape of JavaScript writes it, in which a character of Latin-1
// has one %XX and others are %uXXXX (ECMA-262, B.2.1.1).
func (b *builder) unicodePercent(text []byte) {
	if !utf8.Valid(text) || !b.room(len(text)) {
		return
	}
	left := safe("@*_+-./")
	from := len(b.arena)
	for _, unit := range utf16.Encode([]rune(string(text))) {
		switch {
		case unit < utf8.RuneSelf && left.has(byte(unit)):
			b.arena = append(b.arena, byte(unit))
		case unit <= 0xff:
			b.arena = appendHex(b.arena, "%", rune(unit), 2, upperDigits)
		default:
			b.arena = appendHex(b.arena, "%u", rune(unit), 4, upperDigits)
		}
	}
	b.tail(KindPercent, from)
}

// safe returns letters, digits and marks as a set.
func safe(marks string) set { return setOf(alphanumeric + marks) }

// percent adds text, whose bytes are has, as p writes it, with each spelling of the digits and
// of a space.
func (b *builder) percent(text []byte, has set, p percent) {
	if changed := has.without(p.safe); changed == (set{}) || p.text && !utf8.Valid(text) {
		return
	}
	for _, digits := range []string{upperDigits, lowerDigits} {
		if p.text && digits == lowerDigits {
			return
		}
		for i, space := range []byte(p.spaces) {
			if i > 0 && !has.has(' ') {
				break
			}
			if !b.room(len(text)) {
				return
			}
			from := len(b.arena)
			for _, c := range text {
				switch {
				case p.url && (c == '\t' || c == '\n' || c == '\r'):
				case p.path && c == '\\':
					b.arena = append(b.arena, '/')
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
