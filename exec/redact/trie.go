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
	bytes  []byte
	kind   string
	owner  int32 // the value it belongs to: an index of automaton.names
	public int32 // the length of the beginning that is no secret; see publicPart
}

// trie is the automaton of Aho and Corasick (CACM 18, 1975) over all forms. Its state after
// some text is the longest suffix of the text that is a prefix of a form.
//
// A state is a node, and a node is a prefix of a form. Nodes are numbered in the order of a
// depth-first walk over the sorted forms. So the nodes that a form does not share with the
// form before it are consecutive, and the first child of a node is the next node. A node
// takes two bytes, building it is a copy, and following a form is a walk through memory.
//
// The links of a node are made when they are first needed, because most nodes are never
// visited. Making all of them at once takes 1.3 times as long to get ready with one value,
// 1.8 times with 100, and 2.3 times with 10000; with one value of 64 KiB it takes 80 ms more.
type trie struct {
	// next has, by node, the label of its first child, which is the next node, and the
	// flags branch, ends, leaf, root, gaps and wraps.
	next  []uint16
	first [256]int32 // the children of the root, 0 for none
	// A segment is the nodes that one form adds, up to that of its last byte. last and
	// parents have, by segment, its last node and the edge to its first. The children of
	// the root are found by first, first children by next, and all others by branches: an
	// open hash table of segments, noSegment where it is free.
	last     []int32
	parents  []edge
	branches []int32

	// links has, by node, the link to follow if the next byte of the text is no label of a
	// child; 0 if it has not been made. See hasLink.
	links []atomic.Uint64
	// outs has, by node with hasOut, the longest form that ends there: an index of lengths
	// and of automaton.forms.
	outs    []atomic.Int32
	lengths []int32
	ids     []int32 // of the forms, by segment
}

// edge is the edge to the first node of a segment.
type edge struct {
	parent int32
	label  byte
}

// The flags of a node, in next above the label of its first child.
const (
	branch uint16 = 1 << (8 + iota) // it has more than one child
	ends                            // a form ends here: the whole prefix, or a suffix of it
	leaf                            // it has no child, so there is no label
	root                            // it is the root, whose children are in first, so there is no label
	gaps                            // its first child has a label that a gap may begin with; see wrap.go
	wraps                           // a form that may be wrapped goes through it
)

// A link of a node is the state of the longest proper suffix of its prefix: the node (31
// bits), its depth (31 bits), a bit that says whether a form ends at the linking node, and a
// bit that is set in every link that has been made.
const (
	hasLink   = 1 << 63
	hasOut    = 1 << 62
	linkBits  = 31
	linkMask  = 1<<linkBits - 1
	maxNodes  = 1 << linkBits // maxBytes keeps the nodes below it
	rootLink  = hasLink
	noSegment = -1
)

// newTrie returns the trie of sorted forms, whose ids are below n.
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

	// path has the segments that the last form goes through, by the node and the depth of
	// their first nodes.
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
			t.next[parent] = t.next[parent]&^leaf | edgeTo(p[shared])
		default:
			t.next[parent] |= branch
			t.insert(int32(k))
		}

		for _, b := range p[shared+1:] {
			t.next = append(t.next, edgeTo(b))
		}
		t.next = append(t.next, leaf|ends)
		path = append(path, place{node, int32(shared) + 1}) //nolint:gosec // see size
		t.last[k] = int32(len(t.next)) - 1                  //nolint:gosec // see size
		t.ids[k], t.lengths[s.id] = s.id, int32(len(p))     //nolint:gosec // see size
		last = p
		if wrappable(p) {
			t.markWrapped(k)
		}
	}
	return t
}

// edgeTo returns what next has of a first child with the label b.
func edgeTo(b byte) uint16 {
	if gapByte[b] {
		return uint16(b) | gaps
	}
	return uint16(b)
}

// mark sets ends at the nodes where a form ends inside another one. It is called once,
// before the trie is used. f is the filter of the same forms: it skips what holds none.
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

// sortable is a form with its first bytes as a number, which decides nearly all comparisons.
type sortable struct {
	prefix uint64
	id     int32
	form   *form
}

// sortForms returns the forms in the order of their bytes. It keeps the first of equal forms.
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

// sharedPrefix returns the length of the longest common prefix of a and b.
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

// tableSize returns the least power of two that is at least n.
func tableSize(n int) int { return 1 << bits.Len(uint(max(n, 1)-1)) }

// slot returns where the search for the child of parent with label begins in branches.
func (t *trie) slot(parent int32, label byte) int {
	h := (uint64(uint32(parent))<<8 | uint64(label)) * 0x9E3779B97F4A7C15 //nolint:gosec // only the bits matter
	return int(h>>32) & (len(t.branches) - 1)
}

// insert adds a segment to branches.
func (t *trie) insert(segment int32) {
	e := t.parents[segment]
	i := t.slot(e.parent, e.label)
	for t.branches[i] != noSegment {
		i = (i + 1) & (len(t.branches) - 1)
	}
	t.branches[i] = segment
}

// child returns the child of node with the label b, 0 if there is none.
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

// state is a node and its depth, which is the length of its prefix.
type state struct{ node, depth int32 }

// fail returns the state that a link leads to.
func fail(link uint64) state {
	return state{int32(link & linkMask), int32(link >> linkBits & linkMask)}
}

// step returns the state that follows s after the byte b.
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

// link returns the link of node. Several goroutines may call it at once: all of them make
// the same link.
func (t *trie) link(node int32) uint64 {
	if l := t.links[node].Load(); l != 0 {
		return l
	}
	return t.makeLink(node)
}

// makeLink makes the links of node and of its ancestors that have none. It may need links of
// other paths and call itself for them. Those belong to shorter prefixes, which bounds the
// depth of the recursion.
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
