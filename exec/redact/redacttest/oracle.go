// Package redacttest has what package redact is tested and measured with: the plain rule
// ([Mask]), which shares no code with what it tests; a textbook automaton ([NewPlain]), for
// sets of values that are too large for the rule; and texts to search ([Text]). It is part
// of no binary that is released.
package redacttest

// A Pattern is bytes to mask, and what is to stand in their place.
type Pattern struct {
	Mask   string
	Value  []byte
	Public int // the length in bytes of its beginning that may be shown; see [Live]
	// Numbers says that it is a list of numbers, of which a quarter may be shown.
	Numbers bool
}

// Mask returns text masked by the plain rule: mark every occurrence of every pattern, then
// replace each maximal run of marked bytes by the mask of the pattern that begins it. If
// several begin there, the longest counts, and of equal ones the first. Mask is slow, and
// simple enough to be seen to be right. A value with line breaks inside is found, too: see wrap.go.
func Mask(text []byte, patterns []Pattern) []byte { return MaskUpTo(text, patterns, len(text)) }

// MaskUpTo returns the part of the masked text that stands for text[:decided].
func MaskUpTo(text []byte, patterns []Pattern, decided int) []byte {
	covered := make([]bool, len(text))
	begins := map[int]occurrence{} // the longest that begins at an offset
	mark := func(o occurrence) {
		for i := o.start; i < o.end; i++ {
			covered[i] = true
		}
		if o.end > begins[o.start].end {
			begins[o.start] = o
		}
	}
	for n, p := range patterns {
		each(text, p.Value, func(at int) { mark(occurrence{start: at, end: at + len(p.Value), pattern: n}) })
		wrapped(text, p.Value, func(w pieces) {
			for _, piece := range w.at {
				if !w.more {
					mark(occurrence{start: piece[0], end: piece[1], pattern: n})
				}
			}
		})
	}
	var out []byte
	for i := range decided {
		switch {
		case !covered[i]:
			out = append(out, text[i])
		case i == 0 || !covered[i-1]:
			out = append(out, patterns[begins[i].pattern].Mask...)
		}
	}
	return out
}
