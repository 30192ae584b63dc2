package forms

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"
)

// escaped adds the forms that escape some characters and leave the others as they are.
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
		b.escape(text)
		b.coreutils(text)
	}
	b.eachLine(text, true)
	if lf := unix(text); bytes.IndexByte(lf, '\n') >= 0 {
		b.percent(bytes.ReplaceAll(lf, []byte("\n"), []byte("\r\n")), setOf(lf), percents[0])
	}
}

// escape adds text as percents and rules write it.
func (b *builder) escape(text []byte) {
	has, valid := setOf(text), utf8.Valid(text)
	for _, p := range percents {
		b.percent(text, has, p)
	}
	b.unicodePercent(text)
	for _, e := range escapers() {
		if !has.meets(e.changes) || e.text && !valid || !b.room(len(text)) {
			continue
		}
		from := len(b.arena)
		b.arena = e.append(b.arena, text)
		if e.then != nil && b.room(len(b.arena)-from) {
			b.add(e.kind, from, len(b.arena))
			once := b.arena[from:]
			from = len(b.arena)
			b.arena = e.then.append(b.arena, once)
		}
		b.tail(e.kind, from)
	}
}

// A set is a set of bytes.
type set [4]uint64

// setOf returns the set of the bytes that occur in text.
func setOf[T string | []byte](bytes T) (s set) {
	for i := range len(bytes) {
		s[bytes[i]>>6] |= 1 << (bytes[i] & 63)
	}
	return s
}

func (s *set) has(c byte) bool { return s[c>>6]&(1<<(c&63)) != 0 }

// meets reports whether s and o have a byte in common.
func (s *set) meets(o set) bool {
	return s[0]&o[0]|s[1]&o[1]|s[2]&o[2]|s[3]&o[3] != 0
}

// without returns the bytes of s that are not in o.
func (s *set) without(o set) set {
	return set{s[0] &^ o[0], s[1] &^ o[1], s[2] &^ o[2], s[3] &^ o[3]}
}

const alphanumeric = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

var (
	all     = set{1<<64 - 1, 1<<64 - 1, 1<<64 - 1, 1<<64 - 1}
	special = all.without(setOf(alphanumeric + "-._")) // bytes that many encoders escape
	// quotable has also those that only regular expressions escape.
	quotable = all.without(setOf(alphanumeric + "_"))
)

const (
	lowerDigits = "0123456789abcdef"
	upperDigits = "0123456789ABCDEF"
)

// A wide appends the escaped form of a character r that is not ASCII and whose bytes are
// raw. Where the text is not UTF-8, r is [utf8.RuneError] and raw is one byte.
type wide func(dst []byte, r rune, raw []byte) []byte

// An escaper writes some characters in another way and leaves the others as they are.
type escaper struct {
	kind    string
	changes set                   // the bytes that it may write in another way
	to      [utf8.RuneSelf]string // by ASCII character; "" leaves it
	wide    wide                  // nil leaves characters that are not ASCII
	text    bool                  // for UTF-8 only: the program cannot have other bytes in a text
	then    *escaper              // the escaped text escaped by it is a form, too; may be nil
	tilde   bool                  // a backslash before ~ if : or = precedes it
	hash    bool                  // a backslash before # if {, $ or @ follows
}

// append appends text as e writes it.
func (e *escaper) append(dst, text []byte) []byte {
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c < utf8.RuneSelf && e.to[c] != "":
			dst = append(dst, e.to[c]...)
		case c == '~' && e.tilde && i > 0 && (text[i-1] == ':' || text[i-1] == '='):
			dst = append(dst, `\~`...)
		case c == '#' && e.hash && i+1 < len(text) && strings.IndexByte("{$@", text[i+1]) >= 0:
			dst = append(dst, `\#`...)
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

// A rule is the short form of an escaper, as it stands in rules.
type rule struct {
	kind    string
	marks   string // bytes that are written behind a backslash
	pairs   string // pairs of a byte and how it is written, with spaces between them
	short   string // which of \a \b \t \n \v \f \r \E it writes
	control string // the format of the other control characters; "" leaves them
	wide    wide
	del     bool // control applies to DEL, too
	text    bool // as in escaper
	twice   bool // the escaped text escaped once more is a form, too
	message bool // the escaped text in a message of protobuf's is a form, too
	tilde   bool // as in escaper
	hash    bool // as in escaper
}

// escapers returns the escapers of rules. They are made once, and only when a value has a
// character that is ever escaped: most values do not.
var escapers = sync.OnceValue(func() []*escaper {
	escapers := make([]*escaper, len(rules))
	formatted := map[string]*[utf8.RuneSelf]string{} // by rule.control
	message := textFormat.escaper(formatted)
	for i, r := range rules {
		e := r.escaper(formatted)
		switch {
		case r.twice:
			e.then = e
		case r.message:
			e.then = message
		}
		escapers[i] = e
	}
	return escapers
})

// escaper returns the escaper that r stands for. It keeps what it makes of r.control in formatted.
func (r *rule) escaper(formatted map[string]*[utf8.RuneSelf]string) *escaper {
	control := formatted[r.control]
	if control == nil {
		control = new([utf8.RuneSelf]string)
		for c := range control {
			switch {
			case c >= ' ' && c != '\x7f': // not a control character
			case strings.Contains(r.control, "%"):
				control[c] = fmt.Sprintf(r.control, c)
			default:
				control[c] = r.control
			}
		}
		formatted[r.control] = control
	}

	e := &escaper{
		kind: r.kind, wide: r.wide, text: r.text, tilde: r.tilde, hash: r.hash,
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
		if to != "" || c == '~' && e.tilde || c == '#' && e.hash {
			e.changes[c>>6] |= 1 << (c & 63)
		}
	}
	if e.wide != nil {
		e.changes[2], e.changes[3] = all[2], all[3]
	}
	return e
}
