package redact

import "slices"

// Programs that print to a width, such as those that use Python's rich, put line breaks into a
// long value, and margins and colours around them. What they put in is a gap: blanks, line ends,
// bars, characters from U+2500 to U+257F and SGR codes, with a line end among them, and at most
// maxGap bytes. A form of minWrapped bytes or more is wrapped in a text if the text has its bytes
// in order, with gaps between them, and each piece but the last has minPiece bytes or more. Forms
// that have a byte inside which a gap begins with are not searched for in this way: a gap
// could not be told from it, and their lines and parts are forms of their own.
//
// The first piece of a wrapped form is a prefix of it. So the automaton walks it anyway, and there
// is something to do only where a walk of minPiece bytes or more meets the beginning of a gap:
// there, a fold begins, which follows the form behind the gap.
const (
	minWrapped = 32
	maxWrapped = 64 << 10 // what is held back of a form is at most 34 times as long
	minPiece   = 16
	maxGap     = 512
	maxCode    = 32 // bytes of an SGR code
	// maxFolds is how many folds a text may be in at a time, which bounds the time for a byte. More
	// than a few need a value that repeats itself, and a text that repeats it.
	maxFolds = 256
)

// gapByte says of a byte whether a gap may begin with it.
var gapByte = [256]bool{' ': true, '\t': true, '\r': true, '\n': true, '|': true, 0x1b: true, 0xe2: true}

// wrappable reports whether a form is searched for with gaps inside.
func wrappable(form []byte) bool {
	return len(form) >= minWrapped && len(form) <= maxWrapped &&
		!slices.ContainsFunc(form, func(b byte) bool { return gapByte[b] })
}

// markWrapped sets wraps at a node and those above it, unless it is set there. The segment of the
// node is the last so far.
func (t *trie) markWrapped(node int32, segments []int32) {
	for node != 0 && t.next[node]&wraps == 0 {
		segment, _ := slices.BinarySearch(segments, node)
		first := t.start(int32(segment)) //nolint:gosec // a segment
		for ; node >= first && t.next[node]&wraps == 0; node-- {
			t.next[node] |= wraps
		}
		if node >= first {
			return
		}
		node = t.parents[segment].parent
	}
}

// fold is a prefix of a form that the text has with gaps inside, from begin up to at.
type fold struct {
	s         state
	begin, at int
	gap       int      // where the gap begins that at is in, -1 if there is none
	broken    bool     // that gap has a line end
	piece     int      // where the current piece begins
	pieces    [][2]int // those before it
}

// meet begins folds where the text, whose state before its byte i is s, goes on with a gap.
func (w *Writer) meet(text []byte, i int, s state) {
	for ; s.depth >= minPiece; s = fail(w.a.link(s.node)) {
		if w.a.trie.next[s.node]&wraps == 0 {
			continue
		}
		w.follow(text[:i])
		begin := i - int(s.depth)
		if len(w.folds) == maxFolds || slices.ContainsFunc(w.folds, func(f fold) bool { return f.begin == begin }) {
			return
		}
		n := len(w.folds)
		w.folds = slices.Grow(w.folds, 1)[:n+1]
		pieces := w.folds[n].pieces[:0] // the memory of a fold that is over
		w.folds[n] = fold{s: s, begin: begin, at: i, gap: -1, piece: begin, pieces: pieces}
	}
}

// follow moves the folds to the end of the text, and drops those that are over.
func (w *Writer) follow(text []byte) {
	kept := 0
	for k := range w.folds {
		if w.unfold(&w.folds[k], text) {
			w.folds[kept], w.folds[k] = w.folds[k], w.folds[kept]
			kept++
		}
	}
	w.folds = w.folds[:kept]
}

// unfold moves a fold to the end of the text, or before a part of a gap that may be cut off there.
// It records the pieces of the forms that it finds. It reports whether more may come.
func (w *Writer) unfold(f *fold, text []byte) bool {
	t := w.a.trie
	for f.at < len(text) {
		b := text[f.at]
		if gapByte[b] {
			n := gapPart(text[f.at:])
			switch {
			case f.gap < 0 && f.at-f.piece < minPiece, n == 0:
				return false
			case n < 0:
				return true
			case f.gap < 0:
				f.gap, f.broken = f.at, false
			}
			f.broken = f.broken || b == '\n'
			f.at += n
			if f.at-f.gap > maxGap {
				return false
			}
			continue
		}
		child := t.child(f.s.node, b)
		if child == 0 || t.next[child]&wraps == 0 || f.gap >= 0 && !f.broken {
			return false
		}
		if t.next[child]&stub != 0 {
			w.atStub = true
			return false
		}
		if f.gap >= 0 {
			f.pieces = append(f.pieces, [2]int{f.piece, f.gap})
			f.piece, f.gap = f.at, -1
		}
		f.s = state{child, f.s.depth + 1}
		f.at++
		if t.next[child]&ends != 0 {
			w.unfolded(f)
		}
		if t.next[child]&leaf != 0 {
			return false
		}
	}
	return true
}

// unfolded records the pieces of the form that ends at a fold, if there is one.
func (w *Writer) unfolded(f *fold) {
	segment, whole := slices.BinarySearch(w.a.last, f.s.node)
	if !whole || f.s.depth < minWrapped {
		return
	}
	for _, p := range append(f.pieces, [2]int{f.piece, f.at}) {
		w.cover(run{start: p[0], end: p[1], form: w.a.ids[segment], until: p[1]})
	}
}

// rebase says that the text of the folds begins n bytes later.
func (w *Writer) rebase(n int) {
	for k := range w.folds {
		f := &w.folds[k]
		f.begin, f.at, f.piece = f.begin-n, f.at-n, f.piece-n
		if f.gap >= 0 {
			f.gap -= n
		}
		for i := range f.pieces {
			f.pieces[i][0] -= n
			f.pieces[i][1] -= n
		}
	}
}

// gapPart returns the length of the part of a gap that text begins with: a byte, a character from
// U+2500 to U+257F (E2 94 80 to E2 95 BF in UTF-8), or an SGR code (ECMA-48, 8.3.117: ESC, [,
// digits with separators, m). It is 0 if there is none, and -1 if the text is too short to tell.
func gapPart(text []byte) int {
	switch text[0] {
	default:
		return 1
	case 0xe2:
		switch {
		case len(text) > 1 && text[1]&^1 != 0x94, len(text) > 2 && text[2]&0xc0 != 0x80:
			return 0
		case len(text) < 3:
			return -1
		}
		return 3
	case 0x1b:
		for i := 1; i < maxCode; i++ {
			switch {
			case i == len(text):
				return -1
			case i == 1 && text[1] == '[', i > 1 && text[i] >= '0' && text[i] <= ';':
			case i > 1 && text[i] == 'm':
				return i + 1
			default:
				return 0
			}
		}
		return 0
	}
}
