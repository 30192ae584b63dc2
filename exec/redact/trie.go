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
	most   int32 // how many bytes may be shown at a long silence; see silence.go
	wraps  bool  // it may be wrapped; see wrap.go
	ofPart int8  // 1 if it is a form of a part of the value, else 0
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
//
// Most texts have not even the beginning of a value. So the first trie has only the first limit bytes
// of each form. It is exact as long as the text has all of these of no longer form: then no state
// is at a stub, which are the nodes at that depth. When one is reached, the trie of all bytes is made,
// and the text is searched again from the first byte that is held back.
type trie struct {
	limit int32 // of the length of a prefix
	// next has, by node, the label of its first child, which is the next node, and the
	// flags branch, ends, leaf, root, gaps, wraps and stub.
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
	stub                            // a form that is longer than limit goes on here
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
	unlimited = maxNodes - 1
	rootLink  = hasLink
	noSegment = -1
)

// newTrie returns the trie of the first limit bytes of sorted forms, whose ids are below n.
func newTrie(sorted []sortable, n, limit int) *trie {
	size := 1
	for _, s := range sorted {
		p, shared := s.head(limit)
		size += len(p) - shared
	}

	t := &trie{
		limit:    int32(limit), //nolint:gosec // at most unlimited
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
	for k, s := range sorted {
		p, shared := s.head(limit)
		t.ids[k], t.lengths[s.id] = s.id, int32(len(s.form.bytes)) //nolint:gosec // see size
		if shared < len(p) {
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
				t.next[parent] = t.next[parent]&^leaf | edgeTo[p[shared]]
			default:
				t.next[parent] |= branch
				t.insert(int32(k))
			}
			for _, b := range p[shared+1:] {
				t.next = append(t.next, edgeTo[b])
			}
			t.next = append(t.next, leaf|ends)
			path = append(path, place{node, int32(shared) + 1}) //nolint:gosec // see size
		}
		end := int32(len(t.next)) - 1 //nolint:gosec // see size
		t.last[k] = end
		if len(p) < len(s.form.bytes) {
			t.next[end] |= stub
		}
		if s.form.wraps {
			t.markWrapped(end, t.last[:k+1])
		}
	}
	return t
}

// head returns the first limit bytes of a form, and how many of them the form before it has.
func (s *sortable) head(limit int) ([]byte, int) {
	return s.form.bytes[:min(len(s.form.bytes), limit)], min(int(s.shared), limit)
}

// edgeTo has what next has of a first child, by its label.
var edgeTo = func() (by [256]uint16) {
	for b := range by {
		if by[b] = uint16(b); gapByte[b] {
			by[b] |= gaps
		}
	}
	return by
}()

// mark sets ends at the nodes where a form ends inside another one. It is called once,
// before the trie is used. f is the filter of the same forms.
//
// It walks down the trie from each place inside a form where the filter does not rule out that
// another one begins. Most such walks are over at once, and make no links. A form that repeats
// itself would take quadratic time, so it is searched by the automaton instead.
func (t *trie) mark(sorted []sortable, f *filter) {
	for k, s := range sorted {
		p, shared := s.head(int(t.limit))
		first := int(t.start(int32(k))) - shared - 1
		if shared == len(p) {
			continue // the form before has the same stub
		}
		for i, work := 1, 0; i < len(p); i++ {
			if i = f.next(p, i); i+f.shortest() >= len(p) {
				break // nothing that begins there ends before p, whose end is marked
			}
			n := t.markFrom(p, i, shared, first)
			if work += n; work > maxWork*len(p) {
				t.markAll(p, shared, first)
				break
			}
		}
	}
}

// maxWork is how many bytes mark compares for each byte of a form before the automaton is faster.
const maxWork = 4

// markFrom sets ends at the nodes of p where a form ends that begins at p[i], and that the form
// before p does not have. The node of p[:n] is first+n if n is more than shared. It returns how
// many bytes a form has there.
func (t *trie) markFrom(p []byte, i, shared, first int) int {
	node := t.first[p[i]]
	if node == 0 {
		return 0
	}
	n := i + 1
	for {
		next := t.next[node]
		if next&ends != 0 && n > shared {
			t.next[first+n] |= ends
		}
		if n == len(p) {
			return n - i
		}
		if next&leaf == 0 && byte(next&0xff) == p[n] {
			node++
		} else if node = t.child(node, p[n]); node == 0 {
			return n - i
		}
		n++
	}
}

// markAll does for all places in p, in linear time, what markFrom does for one.
func (t *trie) markAll(p []byte, shared, first int) {
	s := state{}
	for i := 1; i < len(p); {
		s = t.step(s, p[i])
		i++
		if i > shared && t.link(s.node)&hasOut != 0 {
			t.next[first+i] |= ends
		}
	}
}

// sortable is a form in the order of all, and how many of its first bytes the form before it has.
type sortable struct {
	form   *form
	id     int32
	shared int32
}

// sortForms returns the forms in the order of their bytes. It keeps the first of equal forms.
func sortForms(forms []form) []sortable {
	// A key has the first bytes as a number, which decides nearly all comparisons. It has no pointer:
	// so to move it is quick.
	type key struct {
		prefix uint64
		id     int32
	}
	keys := make([]key, len(forms))
	for i := range forms {
		var b [8]byte
		copy(b[:], forms[i].bytes)
		keys[i] = key{binary.BigEndian.Uint64(b[:]), int32(i)}
	}
	slices.SortFunc(keys, func(a, b key) int {
		switch {
		case a.prefix < b.prefix:
			return -1
		case a.prefix > b.prefix:
			return 1
		}
		return cmp.Or(bytes.Compare(forms[a.id].bytes, forms[b.id].bytes), int(a.id-b.id))
	})
	sorted := make([]sortable, 0, len(keys))
	var before []byte
	for _, k := range keys {
		f := &forms[k.id]
		shared := sharedPrefix(before, f.bytes)
		if shared < len(f.bytes) || len(sorted) == 0 {
			sorted = append(sorted, sortable{f, k.id, int32(shared)}) //nolint:gosec // below maxNodes
			before = f.bytes
		}
	}
	return sorted
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
	for _, v := range slices.Backward(missing) {
		to := state{}
		if v.parent != 0 {
			to = t.step(fail(t.link(v.parent)), v.label)
		}
		link := hasLink | uint64(to.depth)<<linkBits | uint64(to.node) //nolint:gosec // both below maxNodes
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
	return t.links[node].Load() // another goroutine may have made it since the caller looked
}
