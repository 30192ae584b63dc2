// Package index is a tree of names in which every node vouches for what is below it, so that a
// lookup proves a hit and a miss alike. Where nodes are kept and how they are protected is the
// caller's: they are handed in and out as bytes, each with its place and its version.
//
// A node covers the names that begin with a prefix and is either a leaf, with each name's version,
// or 256 versions of nodes one byte further down, 0 where there is none. The version of anything is
// the id of the transaction that wrote it. As long as the caller hands out only the node that was
// saved at a prefix as a version, no answer is wrong.
//
// An encoded leaf is a 0 byte and, in the order of names, 32 bytes of name and 8 of version for
// each. An encoded inner node is a 1 byte and 256 versions of 8 bytes. Versions are big-endian.
package index

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"

	"inject/resolver/secret"
)

// NameSize is the length of a name in bytes: that of an HMAC-SHA256.
const NameSize = 32

const (
	fanOut = 256
	// leafMax is how many names a leaf holds before it becomes 256 nodes: few
	// enough that a leaf is opened in microseconds, and many enough that a
	// million names are three levels deep.
	leafMax = 128
)

// Name is the name of a record. Names are hashes, so that they are spread evenly.
type Name [NameSize]byte

// Entry is a name in a leaf with the version of its record.
type Entry struct {
	Name    Name
	Version uint64
}

// node is one node: a leaf, sorted by name, or inner.
type node struct {
	leaf     []Entry
	children []uint64 // versions of the nodes below; nil in a leaf
}

// Tree is the index inside one transaction. It is not safe for concurrent use. Its errors are those
// of Load and Save, and [secret.ErrCorrupt] for a node that is malformed.
type Tree struct {
	// Load returns the encoded node at prefix that was saved as version.
	Load func(prefix []byte, version uint64) ([]byte, error)
	// Save saves the encoded node n at prefix as version Now; a nil n removes the node.
	Save func(prefix, n []byte) error
	Root uint64 // the version of the root, whose prefix is empty
	Now  uint64 // the version of everything that is saved
}

// Empty returns an encoded root without names.
func Empty() []byte { return (&node{}).encode() }

// Find returns the version of a name's record, 0 if there is none. It searches the nodes as they
// are encoded: a leaf has up to 128 entries, and one is wanted.
func (t *Tree) Find(want Name) (uint64, error) {
	version := t.Root
	for depth := range NameSize {
		b, err := t.Load(want[:depth], version)
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
	return 0, errTooDeep
}

// Set saves e, or removes its name if its version is 0, and every node from there up to the root.
func (t *Tree) Set(e Entry) error { return t.SetAll([]Entry{e}) }

// SetAll sets each of entries, which are in the order of their names. A node above several of them
// is saved once. Without entries it saves the root as version Now.
func (t *Tree) SetAll(entries []Entry) error {
	n, err := t.loadNode(nil, t.Root)
	if err != nil {
		return err
	}
	if err := t.setIn(&n, 0, entries); err != nil {
		return err
	}
	if err := t.Save(nil, n.encode()); err != nil {
		return err
	}
	t.Root = t.Now
	return nil
}

func (t *Tree) loadNode(prefix []byte, version uint64) (node, error) {
	b, err := t.Load(prefix, version)
	if err != nil {
		return node{}, err
	}
	return decode(b)
}

// setIn changes n, which covers the first depth bytes of the names of entries, and
// saves the nodes below it.
func (t *Tree) setIn(n *node, depth int, entries []Entry) error {
	if n.children == nil {
		for _, e := range entries {
			n.setLeaf(e)
		}
		if len(n.leaf) <= leafMax || depth == NameSize-1 {
			return nil
		}
		return t.split(n, depth)
	}
	if len(entries) > 0 && depth == NameSize-1 {
		return errTooDeep
	}
	for len(entries) > 0 {
		end := sameUpTo(entries, depth)
		if err := t.setBelow(n, depth, entries[:end]); err != nil {
			return err
		}
		entries = entries[end:]
	}
	return nil
}

// setBelow changes the one node below n that covers all of entries, and saves it.
func (t *Tree) setBelow(n *node, depth int, entries []Entry) error {
	prefix := entries[0].Name[:depth+1]
	version := &n.children[entries[0].Name[depth]]
	var child node
	if *version != 0 {
		var err error
		if child, err = t.loadNode(prefix, *version); err != nil {
			return err
		}
	}
	if err := t.setIn(&child, depth+1, entries); err != nil {
		return err
	}
	if child.empty() {
		*version = 0
		return t.Save(prefix, nil)
	}
	*version = t.Now
	return t.Save(prefix, child.encode())
}

// sameUpTo returns how many of entries have the byte at depth that the first one has.
func sameUpTo(entries []Entry, depth int) int {
	end := slices.IndexFunc(entries, func(e Entry) bool { return e.Name[depth] != entries[0].Name[depth] })
	if end < 0 {
		return len(entries)
	}
	return end
}

// split makes an inner node of the leaf n at depth.
func (t *Tree) split(n *node, depth int) error {
	entries := n.leaf
	*n = node{children: make([]uint64, fanOut)}
	for len(entries) > 0 {
		first, end := entries[0].Name, sameUpTo(entries, depth)
		child := node{leaf: entries[:end:end]}
		entries = entries[end:]
		if len(child.leaf) > leafMax {
			if err := t.split(&child, depth+1); err != nil {
				return err
			}
		}
		if err := t.Save(first[:depth+1], child.encode()); err != nil {
			return err
		}
		n.children[first[depth]] = t.Now
	}
	return nil
}

// Walk calls yield with every entry whose name is greater than after, all if after is nil, in
// order, until yield returns false.
func (t *Tree) Walk(after *Name, yield func(Entry) (bool, error)) error {
	_, err := t.walk(nil, t.Root, after, yield)
	return err
}

func (t *Tree) walk(
	prefix []byte, version uint64, after *Name, yield func(Entry) (bool, error),
) (more bool, err error) {
	n, err := t.loadNode(prefix, version)
	if err != nil {
		return false, err
	}
	for _, e := range n.leaf {
		if after != nil && bytes.Compare(e.Name[:], after[:]) <= 0 {
			continue
		}
		if more, err := yield(e); !more || err != nil {
			return false, err
		}
	}
	if len(n.children) > 0 && len(prefix) == NameSize-1 {
		return false, errTooDeep
	}
	for b, version := range n.children {
		below := append(slices.Clone(prefix), byte(b))
		if version == 0 || after != nil && bytes.Compare(below, after[:len(below)]) < 0 {
			continue
		}
		if more, err := t.walk(below, version, after, yield); !more || err != nil {
			return false, err
		}
	}
	return true, nil
}

// Visit calls visit with every node: with its prefix, and its entries if it is a leaf; or with err
// if the node could not be loaded, whereupon nothing below it is visited. It returns the first
// error of visit, after which it visits no more.
func (t *Tree) Visit(visit func(prefix []byte, entries []Entry, err error) error) error {
	return t.visit(nil, t.Root, visit)
}

func (t *Tree) visit(
	prefix []byte, version uint64, visit func(prefix []byte, entries []Entry, err error) error,
) error {
	n, err := t.loadNode(prefix, version)
	if err == nil && n.children != nil && len(prefix) == NameSize-1 {
		n, err = node{}, errTooDeep
	}
	if err := visit(prefix, n.leaf, err); err != nil {
		return err
	}
	for b, version := range n.children {
		if version == 0 {
			continue
		}
		if err := t.visit(append(slices.Clone(prefix), byte(b)), version, visit); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) setLeaf(e Entry) {
	i, ok := slices.BinarySearchFunc(n.leaf, e.Name, func(e Entry, want Name) int {
		return bytes.Compare(e.Name[:], want[:])
	})
	switch {
	case ok && e.Version == 0:
		n.leaf = slices.Delete(n.leaf, i, i+1)
	case ok:
		n.leaf[i] = e
	case e.Version != 0:
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
		b := append(make([]byte, 0, 1+len(n.leaf)*entrySize), kindLeaf)
		for _, e := range n.leaf {
			b = append(b, e.Name[:]...)
			b = binary.BigEndian.AppendUint64(b, e.Version)
		}
		return b
	}
	b := append(make([]byte, 0, 1+fanOut*8), kindInner)
	for _, version := range n.children {
		b = binary.BigEndian.AppendUint64(b, version)
	}
	return b
}

const entrySize = NameSize + 8

var (
	errMalformed = fmt.Errorf("%w: a node of the index is malformed", secret.ErrCorrupt)
	errTooDeep   = fmt.Errorf("%w: the index is too deep", secret.ErrCorrupt)
)

func isLeaf(b []byte) bool  { return len(b) > 0 && b[0] == kindLeaf && (len(b)-1)%entrySize == 0 }
func isInner(b []byte) bool { return len(b) == 1+fanOut*8 && b[0] == kindInner }

// searchLeaf returns the version of want in the encoded leaf b, 0 if it is not there.
func searchLeaf(b []byte, want Name) uint64 {
	entries := b[1:]
	i, ok := sort.Find(len(entries)/entrySize, func(i int) int {
		return bytes.Compare(want[:], entries[i*entrySize:][:NameSize])
	})
	if !ok {
		return 0
	}
	return binary.BigEndian.Uint64(entries[i*entrySize+NameSize:])
}

func decode(b []byte) (node, error) {
	switch {
	case isLeaf(b):
		leaf := make([]Entry, 0, (len(b)-1)/entrySize)
		for b = b[1:]; len(b) > 0; b = b[entrySize:] {
			leaf = append(leaf, Entry{Name(b[:NameSize]), binary.BigEndian.Uint64(b[NameSize:])})
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
