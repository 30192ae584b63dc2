package redact

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math/bits"
	"slices"
	"sync/atomic"
)

// form is one byte string to find.
type form struct {
	bytes []byte
	kind  string
	owner int32 // whose value it is: an index of automaton.names
}

// trie is the automaton of Aho and Corasick (CACM 18, 1975) over all forms: its
// state after some text is the longest end of that text that begins a form.
//
// A state is a node: a prefix of a form. Nodes are numbered in the order of a
// depth-first walk over the sorted forms, so that all that a form does not share
// with the one before it is consecutive, and the only child of a node is the next
// node. That makes a node two bytes, building one a copy, and following a form a
// walk through memory. Links are made when they are first needed: most nodes of a
// long or rare form are never visited, and nobody waits for theirs.
type trie struct {
	// next is, by node, the label of its first child, which is the next node, and
	// what else there is to know: branch, ends, leaf, root.
	next  []uint16
	first [256]int32 // the children of the root, 0 for none
	// A segment is what one form, in sorted order, adds: nodes up to its last
	// byte's. All but the root's and a parent's first child are found in
	// branches, a hash table of segments with open addressing, -1 for a free slot.
	last     []int32
	parents  []edge
	branches []int32

	// links is, by node, where to go on when the text does not follow; see link.
	links []atomic.Uint64
	// outs is, by node with hasOut, the longest form that ends there: an index of
	// lengths and of the automaton's forms.
	outs    []atomic.Int32
	lengths []int32
	ids     []int32 // of the forms, by segment
}

// edge is how a segment's first node is reached.
type edge struct {
	parent int32
	label  byte
}

// What there is to know of a node beside the label of its first child.
const (
	branch uint16 = 1 << (8 + iota) // it has more children than the first
	ends                            // a form ends here, this one or another
	leaf                            // it has no child, and there is no label
	root                            // it is the root, whose children are in first; there is no label
)

// A link is the state of the longest proper end of a node's prefix (31 bits), the
// length of that (31 bits), whether a form ends at the node, and a bit that tells
// a link from none.
const (
	hasLink   = 1 << 63
	hasOut    = 1 << 62
	linkBits  = 31
	linkMask  = 1<<linkBits - 1
	maxNodes  = 1 << linkBits // which maxBytes holds to
	rootLink  = hasLink
	noSegment = -1
)

// newTrie returns the trie of sorted forms, of which there are n with those that
// are equal to another.
func newTrie(sorted []sortable, n int) *trie {
	size := 1
	for i, f := range sorted {
		size += len(f.form.bytes)
		if i > 0 {
			size -= sharedPrefix(sorted[i-1].form.bytes, f.form.bytes)
		}
	}
	t := &trie{
		next:     make([]uint16, 1, size),
		last:     make([]int32, len(sorted)),
		parents:  make([]edge, len(sorted)),
		branches: make([]int32, tableSize(2*len(sorted))),
		links:    make([]atomic.Uint64, size),
		outs:     make([]atomic.Int32, size),
		lengths:  make([]int32, n),
		ids:      make([]int32, len(sorted)),
	}
	for i := range t.branches {
		t.branches[i] = noSegment
	}
	t.next[0] = root
	t.links[0].Store(rootLink)
	// path is the segments that the last form goes through, by their first nodes
	// and those nodes' depths.
	type place struct{ node, depth int32 }
	path := []place{{0, 0}}
	var last []byte
	for k, s := range sorted {
		p := s.form.bytes
		shared := sharedPrefix(last, p)
		for path[len(path)-1].depth > int32(shared) { //nolint:gosec // all lengths are below maxNodes
			path = path[:len(path)-1]
		}
		top := path[len(path)-1]
		node := int32(len(t.next))                     //nolint:gosec // see size
		parent := top.node + int32(shared) - top.depth //nolint:gosec // see size
		t.parents[k] = edge{parent, p[shared]}
		switch parent {
		case 0:
			t.first[p[shared]] = node
		case node - 1:
			t.next[parent] = t.next[parent]&^leaf | uint16(p[shared])
		default:
			t.next[parent] |= branch
			t.insert(int32(k))
		}
		for _, b := range p[shared+1:] {
			t.next = append(t.next, uint16(b))
		}
		t.next = append(t.next, leaf|ends)
		path = append(path, place{node, int32(shared) + 1}) //nolint:gosec // see size
		t.last[k] = int32(len(t.next)) - 1                  //nolint:gosec // see size
		t.ids[k], t.lengths[s.id] = s.id, int32(len(p))     //nolint:gosec // see size
		last = p
	}
	return t
}

// mark marks the nodes at which a form ends that is inside another one. It is
// called once, before the trie is used, and needs the filter of the same forms.
func (t *trie) mark(sorted []sortable, f *filter) {
	shortest := f.stride + pieceLen - 1
	if f.stride == 0 {
		shortest = 1
	}
	var before []byte
	for k, form := range sorted {
		p := form.form.bytes
		shared := sharedPrefix(before, p)
		before = p
		first := t.start(int32(k)) - int32(shared) - 1 //nolint:gosec // below maxNodes
		s := state{}
		for i := 1; i < len(p); {
			if s.node == 0 {
				if i = f.next(p, i); i+shortest >= len(p) {
					break // nothing that begins there ends before p, whose end is marked
				}
			}
			s = t.step(s, p[i])
			i++
			if i > shared && t.link(s.node)&hasOut != 0 {
				t.next[int(first)+i] |= ends
			}
		}
	}
}

// sortable is a form with the first bytes of it in a number, by which nearly all
// comparisons are decided.
type sortable struct {
	prefix uint64
	id     int32
	form   *form
}

// sortForms sorts forms, and leaves out those that are equal to an earlier one.
func sortForms(forms []form) []sortable {
	sorted := make([]sortable, len(forms))
	for i := range forms {
		var b [8]byte
		copy(b[:], forms[i].bytes)
		sorted[i] = sortable{binary.BigEndian.Uint64(b[:]), int32(i), &forms[i]}
	}
	slices.SortFunc(sorted, func(a, b sortable) int {
		if c := cmp.Compare(a.prefix, b.prefix); c != 0 {
			return c
		}
		if c := bytes.Compare(a.form.bytes, b.form.bytes); c != 0 {
			return c
		}
		return cmp.Compare(a.id, b.id)
	})
	return slices.CompactFunc(sorted, func(a, b sortable) bool {
		return a.prefix == b.prefix && bytes.Equal(a.form.bytes, b.form.bytes)
	})
}

// sharedPrefix returns how many first bytes a and b have in common.
func sharedPrefix(a, b []byte) int {
	n := 0
	for ; n+8 <= len(a) && n+8 <= len(b); n += 8 {
		if x := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:]); x != 0 {
			return n + bits.TrailingZeros64(x)/8
		}
	}
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// tableSize returns the power of two that is at least n, and 1.
func tableSize(n int) int { return 1 << bits.Len(uint(max(n, 1)-1)) }

func (t *trie) slot(parent int32, label byte) int {
	h := (uint64(uint32(parent))<<8 | uint64(label)) * 0x9E3779B97F4A7C15 //nolint:gosec // a number is a number
	return int(h>>32) & (len(t.branches) - 1)
}

func (t *trie) insert(segment int32) {
	e := t.parents[segment]
	i := t.slot(e.parent, e.label)
	for t.branches[i] != noSegment {
		i = (i + 1) & (len(t.branches) - 1)
	}
	t.branches[i] = segment
}

// child returns the child of node by b, 0 for none.
func (t *trie) child(node int32, b byte) int32 {
	if node == 0 {
		return t.first[b]
	}
	next := t.next[node]
	switch {
	case next&leaf != 0:
		return 0
	case byte(next&0xff) == b:
		return node + 1
	case next&branch == 0:
		return 0
	}
	for i := t.slot(node, b); ; i = (i + 1) & (len(t.branches) - 1) {
		segment := t.branches[i]
		if segment == noSegment {
			return 0
		}
		if t.parents[segment] == (edge{node, b}) {
			return t.start(segment)
		}
	}
}

// start returns the first node of a segment.
func (t *trie) start(segment int32) int32 {
	if segment == 0 {
		return 1
	}
	return t.last[segment-1] + 1
}

// state is a node and the length of its prefix.
type state struct{ node, depth int32 }

// fail returns the state of the longest proper end of a link's prefix.
func fail(link uint64) state {
	return state{int32(link & linkMask), int32(link >> linkBits & linkMask)}
}

// step returns the state after b.
func (t *trie) step(s state, b byte) state {
	for {
		if c := t.child(s.node, b); c != 0 {
			return state{c, s.depth + 1}
		}
		if s.node == 0 {
			return s
		}
		s = fail(t.link(s.node))
	}
}

// link returns the link of node. It may be called by several goroutines: they
// would make the same one.
func (t *trie) link(node int32) uint64 {
	if l := t.links[node].Load(); l != 0 {
		return l
	}
	return t.makeLink(node)
}

// makeLink makes the links of node and of all before it on its path. That links
// of other paths may be needed for it, which are of shorter prefixes, bounds how
// deep it calls itself.
func (t *trie) makeLink(node int32) uint64 {
	type visit struct {
		node, segment, parent int32
		label                 byte
	}
	var missing []visit
	for n := node; t.links[n].Load() == 0; {
		i, _ := slices.BinarySearch(t.last, n)
		v := visit{node: n, segment: int32(i), parent: n - 1} //nolint:gosec // a segment
		if t.start(v.segment) == n {
			v.parent, v.label = t.parents[i].parent, t.parents[i].label
		} else {
			v.label = byte(t.next[n-1] & 0xff)
		}
		missing = append(missing, v)
		n = v.parent
	}
	link := uint64(0)
	for _, v := range slices.Backward(missing) {
		to := state{}
		if v.parent != 0 {
			to = t.step(fail(t.link(v.parent)), v.label)
		}
		link = hasLink | uint64(to.depth)<<linkBits | uint64(to.node) //nolint:gosec // both below maxNodes
		switch {
		case t.last[v.segment] == v.node:
			t.outs[v.node].Store(t.ids[v.segment])
			link |= hasOut
		case t.link(to.node)&hasOut != 0:
			t.outs[v.node].Store(t.outs[to.node].Load())
			link |= hasOut
		}
		t.links[v.node].Store(link)
	}
	return link
}
