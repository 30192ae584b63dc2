package redacttest

import (
	"bytes"
	"regexp"
	"slices"
)

// Live is a live stream by the plain rule. At a silence every byte is decided, if of each pattern
// that the text before it may end within, no more than a limit of bytes is there that are not masked.
// A byte that is decided is masked if an occurrence that is complete covers it, and is written as it
// is if none does. At any other time a byte is decided once no pattern that the text may end within
// reaches back to it. Each run of masked bytes is one mask, that of the pattern that begins first
// among those that have been completed since the last byte that a silence has shown, and end behind it.
type Live struct {
	Patterns []Pattern

	text  []byte
	found []occurrence
	fates []fate // of the bytes that are decided
}

// occurrence is text[start:end], which equals a pattern or a piece of one that is wrapped. when is
// the length of the text that had all of the pattern.
type occurrence struct{ start, end, pattern, when int }

// fate is when a byte was decided, whether at a silence, and whether it is masked.
type fate struct {
	when           int
	silent, masked bool
}

// Write adds text to the stream.
func (l *Live) Write(text []byte) {
	for _, b := range text {
		l.text = append(l.text, b)
		for n, p := range l.Patterns {
			if len(p.Value) > 0 && bytes.HasSuffix(l.text, p.Value) {
				l.found = append(l.found, occurrence{len(l.text) - len(p.Value), len(l.text), n, len(l.text)})
			}
			wrapped(l.text, p.Value, func(w pieces) {
				if !w.more && w.at[len(w.at)-1][1] == len(l.text) {
					for _, piece := range w.at {
						l.found = append(l.found, occurrence{piece[0], piece[1], n, len(l.text)})
					}
				}
			})
		}
		l.decide(len(l.text)-l.begun(nil), false)
	}
}

// Silence is a silence of 30 ms, or a long one of a second.
func (l *Live) Silence(long bool) {
	within := true
	l.begun(func(p Pattern, bare int) { within = within && bare <= p.Limit(long) })
	if within {
		l.decide(len(l.text), true)
	}
}

// decide decides text[:until].
func (l *Live) decide(until int, silent bool) {
	for i := len(l.fates); i < until; i++ {
		l.fates = append(l.fates, fate{len(l.text), silent, l.covered(i)})
	}
}

// covered reports whether an occurrence covers a byte.
func (l *Live) covered(i int) bool {
	return slices.ContainsFunc(l.found, func(o occurrence) bool { return o.start <= i && i < o.end })
}

// bare counts the bytes of text[start:end] that are not masked, and would not be if they were decided.
func (l *Live) bare(start, end int) (n int) {
	for i := start; i < end; i++ {
		if i < len(l.fates) && !l.fates[i].masked || i >= len(l.fates) && !l.covered(i) {
			n++
		}
	}
	return n
}

// begun calls do for each beginning of a pattern that the text ends with, with the number of its bytes
// that are not masked, and returns the length of the longest.
func (l *Live) begun(do func(p Pattern, bare int)) (longest int) {
	for _, p := range l.Patterns {
		for n := 0; len(l.text) > 0; {
			i := bytes.IndexByte(p.Value[n:], l.text[len(l.text)-1])
			if n += i + 1; i < 0 || n >= len(p.Value) || n > len(l.text) {
				break
			}
			if bytes.HasSuffix(l.text, p.Value[:n]) {
				longest = max(longest, n)
				if do != nil {
					do(p, l.bare(len(l.text)-n, len(l.text)))
				}
			}
		}
		wrapped(l.text, p.Value, func(w pieces) {
			if !w.more {
				return
			}
			longest = max(longest, len(l.text)-w.at[0][0])
			if do == nil {
				return
			}
			n := 0
			for _, piece := range w.at {
				n += l.bare(piece[0], piece[1])
			}
			do(p, n)
		})
	}
	return longest
}

// Output returns what has been written.
func (l *Live) Output() []byte {
	var out []byte
	for i, f := range l.fates {
		switch {
		case !f.masked:
			out = append(out, l.text[i])
		case i == 0 || !l.fates[i-1].masked:
			after := 0
			if i > 0 && l.fates[i-1].silent && l.fates[i-1].when < f.when {
				after = l.fates[i-1].when
			}
			out = append(out, l.Patterns[l.first(i, after, f.when)].Mask...)
		}
	}
	return out
}

// first returns the pattern that begins first, and is the longest and first of those, in the run around
// byte i of the occurrences that end behind after, and were complete behind after and not behind now.
func (l *Live) first(i, after, now int) int {
	best := occurrence{start: i, end: i, pattern: -1}
	for again := true; again; {
		again = false
		for _, o := range l.found {
			earlier := o.start < best.start || o.start == best.start &&
				(o.end > best.end || o.end == best.end && o.pattern < best.pattern)
			if o.end > after && o.when > after && o.when <= now && o.start <= i && o.end >= best.start && earlier {
				best, again = o, true
			}
		}
	}
	return best.pattern
}

// Limit returns how many bytes of an occurrence of the pattern may be shown at silences.
func (p Pattern) Limit(long bool) int {
	if !long {
		return p.Public + 3
	}
	n := p.Public + max(3, min((len(p.Value)-p.Public)/4, 16))
	if p.Numbers {
		quarter := min(len(number.FindAll(p.Value, -1))/4, 16)
		n = max(n, len(bytes.Join(number.FindAll(p.Value, quarter), nil)))
	}
	return n
}

// number is a number of a list and what stands between it and the next one.
var number = regexp.MustCompile(`-?\w+(?:, ?| |:|-|\z)`)
