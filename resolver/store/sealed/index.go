package sealed

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"

	"inject/resolver/secret"
)

const (
	nameSize = 32 // a name is an HMAC-SHA256
	fanOut   = 256
	// leafMax is how many names a leaf holds before it becomes 256 nodes: few
	// enough that a leaf is opened in microseconds, and many enough that a
	// million names are three levels deep.
	leafMax = 128
)

type name [nameSize]byte

// entry is a name in a leaf with the version of its record.
type entry struct {
	name    name
	version uint64
}

// node is one node of the index: a leaf, sorted by name, or inner.
type node struct {
	leaf     []entry
	children []uint64 // versions of the nodes below; nil in a leaf
}

// index reads and writes the tree inside one transaction of the file.
type index struct {
	// load opens the encoded node at prefix that was written as version.
	load func(prefix []byte, version uint64) ([]byte, error)
	// save seals the encoded node n at prefix as version now; a nil n removes the node.
	save func(prefix, n []byte) error
	root uint64 // the version of the root
	now  uint64 // the version of everything that is written
}

// find returns the version of a name's record, 0 when there is none. It searches the nodes as they
// are encoded: a leaf has up to 128 entries, and one is wanted.
func (x *index) find(want name) (uint64, error) {
	version := x.root
	for depth := range nameSize {
		b, err := x.load(want[:depth], version)
		if err != nil {
			return 0, err
		}
		switch {
		case isLeaf(b):
			return searchLeaf(b, want), nil
		case !isInner(b):
			return 0, errMalformed
		}
		if version = binary.BigEndian.Uint64(b[1+8*int(want[depth]):]); version == 0 {
			return 0, nil
		}
	}
	return 0, damaged("the index is too deep")
}

// set writes e, or removes its name when its version is 0, and every node from
// there up to the root.
func (x *index) set(e entry) error {
	return x.setAll([]entry{e})
}

// setAll sets each of entries, which are in the order of their names. A node that
// several are below is written once.
func (x *index) setAll(entries []entry) error {
	n, err := x.loadNode(nil, x.root)
	if err != nil {
		return err
	}
	if err := x.setIn(&n, 0, entries); err != nil {
		return err
	}
	if err := x.save(nil, n.encode()); err != nil {
		return err
	}
	x.root = x.now
	return nil
}

func (x *index) loadNode(prefix []byte, version uint64) (node, error) {
	b, err := x.load(prefix, version)
	if err != nil {
		return node{}, err
	}
	return decodeNode(b)
}

// setIn changes n, which covers the first depth bytes of the names of entries, and
// saves the nodes below it.
func (x *index) setIn(n *node, depth int, entries []entry) error {
	if n.children == nil {
		for _, e := range entries {
			n.setLeaf(e)
		}
		if len(n.leaf) <= leafMax || depth == nameSize-1 {
			return nil
		}
		return x.split(n, depth)
	}
	for len(entries) > 0 {
		end := sameUpTo(entries, depth)
		if err := x.setBelow(n, depth, entries[:end]); err != nil {
			return err
		}
		entries = entries[end:]
	}
	return nil
}

// setBelow changes the one node below n that covers all of entries, and saves it.
func (x *index) setBelow(n *node, depth int, entries []entry) error {
	prefix := entries[0].name[:depth+1]
	version := &n.children[entries[0].name[depth]]
	var child node
	if *version != 0 {
		var err error
		if child, err = x.loadNode(prefix, *version); err != nil {
			return err
		}
	}
	if err := x.setIn(&child, depth+1, entries); err != nil {
		return err
	}
	if child.empty() {
		*version = 0
		return x.save(prefix, nil)
	}
	*version = x.now
	return x.save(prefix, child.encode())
}

// sameUpTo returns how many of entries have the byte at depth that the first one has.
func sameUpTo(entries []entry, depth int) int {
	end := slices.IndexFunc(entries, func(e entry) bool { return e.name[depth] != entries[0].name[depth] })
	if end < 0 {
		return len(entries)
	}
	return end
}

// split makes an inner node of the leaf n at depth.
func (x *index) split(n *node, depth int) error {
	entries := n.leaf
	*n = node{children: make([]uint64, fanOut)}
	for len(entries) > 0 {
		first, end := entries[0].name, sameUpTo(entries, depth)
		child := node{leaf: entries[:end:end]}
		entries = entries[end:]
		if len(child.leaf) > leafMax {
			if err := x.split(&child, depth+1); err != nil {
				return err
			}
		}
		if err := x.save(first[:depth+1], child.encode()); err != nil {
			return err
		}
		n.children[first[depth]] = x.now
	}
	return nil
}

// walk calls yield with every entry whose name is greater than after, in order,
// until yield returns false.
func (x *index) walk(after *name, yield func(entry) (bool, error)) error {
	_, err := x.walkNode(nil, x.root, after, yield)
	return err
}

func (x *index) walkNode(prefix []byte, version uint64, after *name, yield func(entry) (bool, error)) (more bool, err error) {
	n, err := x.loadNode(prefix, version)
	if err != nil {
		return false, err
	}
	for _, e := range n.leaf {
		if after != nil && bytes.Compare(e.name[:], after[:]) <= 0 {
			continue
		}
		if more, err := yield(e); !more || err != nil {
			return false, err
		}
	}
	if len(n.children) > 0 && len(prefix) == nameSize-1 {
		return false, damaged("the index is too deep")
	}
	for b, version := range n.children {
		below := append(slices.Clone(prefix), byte(b))
		if version == 0 || after != nil && bytes.Compare(below, after[:len(below)]) < 0 {
			continue
		}
		if more, err := x.walkNode(below, version, after, yield); !more || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (n *node) search(want name) (int, bool) {
	return slices.BinarySearchFunc(n.leaf, want, func(e entry, want name) int { return bytes.Compare(e.name[:], want[:]) })
}

func (n *node) setLeaf(e entry) {
	i, ok := n.search(e.name)
	switch {
	case ok && e.version == 0:
		n.leaf = slices.Delete(n.leaf, i, i+1)
	case ok:
		n.leaf[i] = e
	case e.version != 0:
		n.leaf = slices.Insert(n.leaf, i, e)
	}
}

func (n *node) empty() bool {
	return len(n.leaf) == 0 && !slices.ContainsFunc(n.children, func(v uint64) bool { return v != 0 })
}

// The first byte of an encoded node.
const (
	kindLeaf  = 0
	kindInner = 1
)

func (n *node) encode() []byte {
	if n.children == nil {
		b := append(make([]byte, 0, 1+len(n.leaf)*(nameSize+8)), kindLeaf)
		for _, e := range n.leaf {
			b = append(b, e.name[:]...)
			b = binary.BigEndian.AppendUint64(b, e.version)
		}
		return b
	}
	b := append(make([]byte, 0, 1+fanOut*8), kindInner)
	for _, version := range n.children {
		b = binary.BigEndian.AppendUint64(b, version)
	}
	return b
}

const entrySize = nameSize + 8

var errMalformed = damaged("a node of the index is malformed")

func isLeaf(b []byte) bool  { return len(b) > 0 && b[0] == kindLeaf && (len(b)-1)%entrySize == 0 }
func isInner(b []byte) bool { return len(b) == 1+fanOut*8 && b[0] == kindInner }

// searchLeaf returns the version of want in the encoded leaf b, 0 if it is not there.
func searchLeaf(b []byte, want name) uint64 {
	entries := b[1:]
	i, ok := sort.Find(len(entries)/entrySize, func(i int) int { return bytes.Compare(want[:], entries[i*entrySize:][:nameSize]) })
	if !ok {
		return 0
	}
	return binary.BigEndian.Uint64(entries[i*entrySize+nameSize:])
}

func decodeNode(b []byte) (node, error) {
	switch {
	case isLeaf(b):
		leaf := make([]entry, 0, (len(b)-1)/entrySize)
		for b = b[1:]; len(b) > 0; b = b[entrySize:] {
			leaf = append(leaf, entry{name(b[:nameSize]), binary.BigEndian.Uint64(b[nameSize:])})
		}
		return node{leaf: leaf}, nil
	case isInner(b):
		children := make([]uint64, fanOut)
		for i := range children {
			children[i] = binary.BigEndian.Uint64(b[1+i*8:])
		}
		return node{children: children}, nil
	}
	return node{}, errMalformed
}

// damaged returns an error that wraps [secret.ErrCorrupt].
func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{secret.ErrCorrupt}, args...)...)
}
