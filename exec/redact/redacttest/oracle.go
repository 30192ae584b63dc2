// Package redacttest is what package redact is proved against and measured
// with: the plain rule ([Mask]), which shares nothing with what it proves; the
// plain automaton ([NewPlain]), for sets for which the rule is too slow; and texts
// to search ([Text]). Nothing of it is in a product, and it imports the standard
// library only.
package redacttest

import (
	"bytes"
)

// A Pattern is bytes to mask, under a name.
type Pattern struct {
	Name  string
	Value []byte
}

// Mask masks text by the plain rule: mark every occurrence of every pattern, and
// replace each maximal run of marked bytes by the mask of the pattern that begins
// it, the longest of those that begin there, the first of those that are equal.
// It is slow, and plainly right.
func Mask(text []byte, patterns []Pattern) []byte { return MaskUpTo(text, patterns, len(text)) }

// MaskUpTo is what of the masked text is about text[:decided].
func MaskUpTo(text []byte, patterns []Pattern, decided int) []byte {
	covered := make([]bool, len(text))
	begins := map[int]int{} // where → the pattern
	for n, p := range patterns {
		if len(p.Value) == 0 {
			continue
		}
		for at := 0; ; at++ {
			i := bytes.Index(text[at:], p.Value)
			if i < 0 {
				break
			}
			at += i
			for j := range p.Value {
				covered[at+j] = true
			}
			if old, ok := begins[at]; !ok || len(patterns[old].Value) < len(p.Value) {
				begins[at] = n
			}
		}
	}
	var out []byte
	for i := range decided {
		switch {
		case !covered[i]:
			out = append(out, text[i])
		case i == 0 || !covered[i-1]:
			out = append(out, "[redacted:"+patterns[begins[i]].Name+"]"...)
		}
	}
	return out
}
