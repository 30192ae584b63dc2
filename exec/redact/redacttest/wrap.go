package redacttest

import (
	"bytes"
	"regexp"
)

// A value of 32 bytes to 64 KiB is also found if a program has put gaps into it. A gap is as long
// as it can be, has a line end, and at most 512 bytes. Each piece of the value but the last has 16
// bytes or more. The value itself has no byte that a gap may begin with.
const (
	box                 = "\xe2"
	gapBegins           = " \t\r\n|\x1b" + box // each byte
	wrapLeast, wrapMost = 32, 64 << 10
	pieceLeast, gapMost = 16, 512
)

var (
	gap     = regexp.MustCompile(`\A(?:[ \t\r\n|\x{2500}-\x{257f}]|\x1b\[[0-9;:]{0,29}m)+`)
	cutCode = regexp.MustCompile(`\A\x1b(?:\[[0-9;:]{0,29})?\z`)
)

// pieces is a beginning of a value in a text, with gaps inside.
type pieces struct {
	at   [][2]int // in the text
	n    int      // bytes of the value
	more bool     // the text is over before the value, and may go on with it
}

// wrapped looks for value in text from each place on, and calls do with what it finds.
func wrapped(text, value []byte, do func(p pieces)) {
	if len(value) < wrapLeast || len(value) > wrapMost {
		return
	}
	for _, b := range []byte(gapBegins) {
		if bytes.IndexByte(value, b) >= 0 {
			return
		}
	}
	each(text, value[:pieceLeast], func(begin int) {
		if p, ok := wrappedAt(text, value, begin); ok {
			do(p)
		}
	})
}

func wrappedAt(text, value []byte, at int) (p pieces, ok bool) {
	for {
		begin := at
		for at < len(text) && p.n < len(value) && text[at] == value[p.n] {
			at, p.n = at+1, p.n+1
		}
		p.at = append(p.at, [2]int{begin, at})
		if p.n == len(value) || at == len(text) {
			p.more = p.n < len(value)
			return p, true
		}
		if at-begin < pieceLeast {
			return p, false
		}
		length := len(gap.Find(text[at:min(len(text), at+gapMost+64)]))
		rest := text[at+length:]
		if length <= gapMost && isCut(rest) {
			p.more = true
			return p, true
		}
		if length > gapMost || !bytes.Contains(text[at:at+length], []byte("\n")) || rest[0] != value[p.n] {
			return p, false
		}
		at += length
	}
}

// isCut reports whether rest, which follows a gap, may go on as one.
func isCut(rest []byte) bool {
	return len(rest) == 0 || cutCode.Match(rest) || string(rest) == box ||
		string(rest) == box+"\x94" || string(rest) == box+"\x95"
}

// each calls do with each offset of part in text.
func each(text, part []byte, do func(at int)) {
	for at := 0; len(part) > 0; at++ {
		i := bytes.Index(text[at:], part)
		if i < 0 {
			return
		}
		at += i
		do(at)
	}
}
