package redacttest

import "io"

// Plain masks a stream with the automaton of Aho and Corasick (1975) as the books
// have it: a trie, and at each state a link to the longest proper end that is a
// state. It looks at every byte.
type Plain struct {
	patterns []Pattern
	nodes    []node
	first    [256]int32 // the children of the root, 0 for none
}

// node is a state. Node 0 is the root, the state of no prefix at all, which is
// nobody's child, so that 0 also means "none".
type node struct {
	child   int32 // the first one
	sibling int32
	fail    int32 // the state of the longest proper end that begins a pattern
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
	a.nodes = append(a.nodes, node{sibling: a.nodes[parent].child, depth: a.nodes[parent].depth + 1, match: -1, label: b})
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

// link sets fail and inherits matches, breadth first, so that what a node
// points to is ready before the node is.
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

// Writer returns a new stream to dst. Closing it writes what is held back.
func (a *Plain) Writer(dst io.Writer) io.WriteCloser { return &plainWriter{a: a, dst: dst} }

type plainWriter struct {
	a     *Plain
	dst   io.Writer
	state int32
	held  []byte
	runs  []plainRun
	out   []byte
}

// plainRun is covered bytes; shown, if its mask has been written.
type plainRun struct {
	start, end int
	pattern    int32
	shown      bool
}

func (w *plainWriter) Write(p []byte) (int, error) {
	text := p
	from := len(w.held)
	if from > 0 {
		w.held = append(w.held, p...)
		text = w.held
	}
	for i := from; i < len(text); i++ {
		w.state = w.a.next(w.state, text[i])
		if m := w.a.nodes[w.state].match; m >= 0 {
			w.cover(plainRun{start: i + 1 - len(w.a.patterns[m].Value), end: i + 1, pattern: m})
		}
		for w.a.nodes[w.state].child == 0 && w.state != 0 {
			w.state = w.a.nodes[w.state].fail
		}
	}
	decided := len(text) - int(w.a.nodes[w.state].depth)
	if err := w.emit(text, decided); err != nil {
		return 0, err
	}
	w.held = append(w.held[:0], text[decided:]...)
	return len(p), nil
}

func (w *plainWriter) cover(r plainRun) {
	for n := len(w.runs); n > 0 && r.start <= w.runs[n-1].end; n = len(w.runs) {
		last := w.runs[n-1]
		w.runs = w.runs[:n-1]
		if last.shown || last.start < r.start {
			r.start, r.pattern, r.shown = last.start, last.pattern, last.shown
		}
	}
	w.runs = append(w.runs, r)
}

func (w *plainWriter) emit(text []byte, decided int) error {
	out, at, kept := w.out[:0], 0, 0
	for _, r := range w.runs {
		if r.start >= decided && !r.shown {
			r.start, r.end = r.start-decided, r.end-decided
			w.runs[kept] = r
			kept++
			continue
		}
		if r.start > at {
			out = append(out, text[at:r.start]...)
		}
		if !r.shown {
			out = append(out, "[redacted:"+w.a.patterns[r.pattern].Name+"]"...)
		}
		at = min(r.end, decided)
		if r.end >= decided {
			w.runs[kept] = plainRun{0, r.end - decided, r.pattern, true}
			kept++
		}
	}
	w.runs = w.runs[:kept]
	if at == 0 && len(out) == 0 {
		_, err := w.dst.Write(text[:decided])
		return err
	}
	w.out = append(out, text[at:decided]...)
	_, err := w.dst.Write(w.out)
	return err
}

func (w *plainWriter) Close() error {
	err := w.emit(w.held, len(w.held))
	w.held = nil
	return err
}
