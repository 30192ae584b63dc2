package redact

// automaton is Aho and Corasick's, over all patterns: its state after some text
// is the longest end of that text that begins a pattern.
type automaton struct {
	patterns []Pattern
	masks    []string // by pattern
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

func newAutomaton(patterns []Pattern) *automaton {
	a := &automaton{patterns: patterns, nodes: []node{{match: -1}}}
	for i, p := range patterns {
		a.masks = append(a.masks, "[redacted:"+p.Name+"]")
		state := int32(0)
		for _, b := range p.Value {
			next := a.childOf(state, b)
			if next == 0 {
				next = a.addChild(state, b)
			}
			state = next
		}
		if a.nodes[state].match < 0 {
			a.nodes[state].match = int32(i) // fewer than 2^31 patterns
		}
	}
	a.link()
	return a
}

func (a *automaton) addChild(parent int32, b byte) int32 {
	next := int32(len(a.nodes)) //nolint:gosec // fewer than 2^31 bytes of patterns
	a.nodes = append(a.nodes, node{sibling: a.nodes[parent].child, depth: a.nodes[parent].depth + 1, match: -1, label: b})
	a.nodes[parent].child = next
	if parent == 0 {
		a.first[b] = next
	}
	return next
}

func (a *automaton) childOf(state int32, b byte) int32 {
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
func (a *automaton) link() {
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

// next returns the state after b.
func (a *automaton) next(state int32, b byte) int32 {
	for {
		if c := a.childOf(state, b); c != 0 || state == 0 {
			return c
		}
		state = a.nodes[state].fail
	}
}
