package redacttest

import (
	"cmp"
	"io"
	"slices"
)

// Plain masks streams with the automaton of Aho and Corasick (CACM 18, 1975) as textbooks
// describe it: a trie in which each state has a link to its longest proper suffix that is a
// state. It looks at every byte.
type Plain struct {
	patterns []Pattern
	nodes    []node
	first    [256]int32 // the children of the root, 0 for none
}

// node is a state. Node 0 is the root, the state of the empty prefix. It is not a child of
// any node, so 0 also means "none".
type node struct {
	child   int32 // the first child
	sibling int32
	fail    int32 // the longest proper suffix that is a state
	depth   int32 // the length of the prefix
	match   int32 // the longest pattern that ends here, -1 for none
	label   byte  // the last byte of the prefix
}

// NewPlain returns the automaton of patterns.
func NewPlain(patterns []Pattern) *Plain {
	a := &Plain{patterns: patterns, nodes: []node{{match: -1}}}
	for i, p := range patterns {
		state := int32(0)
		for _, b := range p.Value {
			next := a.childOf(state, b)
			if next == 0 {
				next = a.addChild(state, b)
			}
			state = next
		}
		if len(p.Value) > 0 && a.nodes[state].match < 0 {
			a.nodes[state].match = int32(i)
		}
	}
	a.link()
	return a
}

func (a *Plain) addChild(parent int32, b byte) int32 {
	next := int32(len(a.nodes)) //nolint:gosec // fewer than 2^31 bytes of patterns
	p := a.nodes[parent]
	a.nodes = append(a.nodes, node{sibling: p.child, depth: p.depth + 1, match: -1, label: b})
	a.nodes[parent].child = next
	if parent == 0 {
		a.first[b] = next
	}
	return next
}

func (a *Plain) childOf(state int32, b byte) int32 {
	if state == 0 {
		return a.first[b]
	}
	c := a.nodes[state].child
	for c != 0 && a.nodes[c].label != b {
		c = a.nodes[c].sibling
	}
	return c
}

// link sets fail and match of all nodes, breadth first, so that a node's fail is complete
// before the node itself.
func (a *Plain) link() {
	queue := []int32{0}
	for len(queue) > 0 {
		state := queue[0]
		queue = queue[1:]
		for c := a.nodes[state].child; c != 0; c = a.nodes[c].sibling {
			if state != 0 {
				a.nodes[c].fail = a.next(a.nodes[state].fail, a.nodes[c].label)
			}
			// The node's own pattern is longer than any that ends in its fail state.
			if a.nodes[c].match < 0 {
				a.nodes[c].match = a.nodes[a.nodes[c].fail].match
			}
			queue = append(queue, c)
		}
	}
}

func (a *Plain) next(state int32, b byte) int32 {
	for {
		if c := a.childOf(state, b); c != 0 || state == 0 {
			return c
		}
		state = a.nodes[state].fail
	}
}

// Writer returns a new stream to dst. Close writes what is held back.
func (a *Plain) Writer(dst io.Writer) io.WriteCloser { return &plainWriter{a: a, dst: dst} }

type plainWriter struct {
	a     *Plain
	dst   io.Writer
	state int32
	held  []byte
	begin int     // the offset of held in the stream
	found []match // not yet masked
	until int     // the offset of the end of the run whose mask was written last
	out   []byte
}

// match is an occurrence of a pattern, with its offsets in the stream.
type match struct {
	start, end int
	pattern    int32
}

func (w *plainWriter) Write(p []byte) (int, error) {
	from := len(w.held)
	w.held = append(w.held, p...)
	for i := from; i < len(w.held); i++ {
		w.state = w.a.next(w.state, w.held[i])
		if m := w.a.nodes[w.state].match; m >= 0 {
			end := w.begin + i + 1
			w.found = append(w.found, match{end - len(w.a.patterns[m].Value), end, m})
		}
		for w.a.nodes[w.state].child == 0 && w.state != 0 {
			w.state = w.a.nodes[w.state].fail
		}
	}
	return len(p), w.emit(len(w.held) - int(w.a.nodes[w.state].depth))
}

// emit writes the first decided bytes of held, masked. It goes through the matches by where
// they begin, the longest first. Each begins a run or extends the current one.
func (w *plainWriter) emit(decided int) error {
	slices.SortFunc(w.found, func(a, b match) int { return cmp.Or(a.start-b.start, b.end-a.end) })
	at, limit := w.begin, w.begin+decided
	copyTo := func(end int) {
		if at = max(at, w.until); at < end {
			w.out = append(w.out, w.held[at-w.begin:end-w.begin]...)
			at = end
		}
	}
	w.out = w.out[:0]
	later := w.found[:0]
	for _, m := range w.found {
		switch {
		case m.start <= w.until && w.until > 0:
			w.until = max(w.until, m.end)
		case m.start >= limit:
			later = append(later, m)
		default:
			copyTo(m.start)
			w.out = append(w.out, w.a.patterns[m.pattern].Mask...)
			w.until = m.end
		}
	}
	copyTo(limit)
	w.found, w.begin = later, limit
	w.held = w.held[:copy(w.held, w.held[decided:])]
	_, err := w.dst.Write(w.out)
	return err
}

func (w *plainWriter) Close() error { return w.emit(len(w.held)) }
