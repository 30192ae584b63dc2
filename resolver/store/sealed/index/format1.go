package index

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sort"
)

// NameSize1 is the length of a name in a store of format 1: that of an HMAC-SHA256.
const NameSize1 = 32

// Name1 is the name of a record in a store of format 1.
type Name1 [NameSize1]byte

// Entry1 is a name in a leaf with the version of its record.
type Entry1 struct {
	Name    Name1
	Version uint64
}

// Tree1 is the index of a store of format 1, as [Tree] is that of a newer one. It can only be read.
//
// An encoded leaf is a 0 byte and, in the order of names, 32 bytes of name and 8 of version for
// each. An encoded inner node is a 1 byte and 256 versions of 8 bytes, 0 where there is no node.
// Versions are big-endian.
type Tree1 struct {
	// Load returns the encoded node at prefix that was saved as version.
	Load func(prefix []byte, version uint64) ([]byte, error)
	Root uint64 // the version of the root, whose prefix is empty
}

// node1 is one node: a leaf, sorted by name, or inner.
type node1 struct {
	leaf     []Entry1
	children []uint64 // versions of the nodes below; nil in a leaf
}

// Find returns the version of a name's record, 0 if there is none. It searches the nodes as they
// are encoded: a leaf has up to 128 entries, and one is wanted.
func (t *Tree1) Find(want Name1) (uint64, error) {
	version := t.Root
	for depth := range NameSize1 {
		b, err := t.Load(want[:depth], version)
		if err != nil {
			return 0, err
		}
		switch {
		case isLeaf1(b):
			return searchLeaf1(b, want), nil
		case !isInner1(b):
			return 0, errMalformed
		}
		if version = binary.BigEndian.Uint64(b[1+8*int(want[depth]):]); version == 0 {
			return 0, nil
		}
	}
	return 0, errTooDeep
}

func (t *Tree1) loadNode(prefix []byte, version uint64) (node1, error) {
	b, err := t.Load(prefix, version)
	if err != nil {
		return node1{}, err
	}
	return decode1(b)
}

// Walk calls yield with every entry whose name is greater than after, all if after is nil, in
// order, until yield returns false.
func (t *Tree1) Walk(after *Name1, yield func(Entry1) (bool, error)) error {
	_, err := t.walk(nil, t.Root, after, yield)
	return err
}

func (t *Tree1) walk(
	prefix []byte, version uint64, after *Name1, yield func(Entry1) (bool, error),
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
	if len(n.children) > 0 && len(prefix) == NameSize1-1 {
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
func (t *Tree1) Visit(visit func(prefix []byte, entries []Entry1, err error) error) error {
	return t.visit(nil, t.Root, visit)
}

func (t *Tree1) visit(
	prefix []byte, version uint64, visit func(prefix []byte, entries []Entry1, err error) error,
) error {
	n, err := t.loadNode(prefix, version)
	if err == nil && n.children != nil && len(prefix) == NameSize1-1 {
		n, err = node1{}, errTooDeep
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

const entrySize1 = NameSize1 + 8

func isLeaf1(b []byte) bool  { return len(b) > 0 && b[0] == kindLeaf && (len(b)-1)%entrySize1 == 0 }
func isInner1(b []byte) bool { return len(b) == 1+fanOut*8 && b[0] == kindInner }

// searchLeaf1 returns the version of want in the encoded leaf b, 0 if it is not there.
func searchLeaf1(b []byte, want Name1) uint64 {
	entries := b[1:]
	i, ok := sort.Find(len(entries)/entrySize1, func(i int) int {
		return bytes.Compare(want[:], entries[i*entrySize1:][:NameSize1])
	})
	if !ok {
		return 0
	}
	return binary.BigEndian.Uint64(entries[i*entrySize1+NameSize1:])
}

func decode1(b []byte) (node1, error) {
	switch {
	case isLeaf1(b):
		leaf := make([]Entry1, 0, (len(b)-1)/entrySize1)
		for b = b[1:]; len(b) > 0; b = b[entrySize1:] {
			leaf = append(leaf, Entry1{Name1(b[:NameSize1]), binary.BigEndian.Uint64(b[NameSize1:])})
		}
		return node1{leaf: leaf}, nil
	case isInner1(b):
		children := make([]uint64, fanOut)
		for i := range children {
			children[i] = binary.BigEndian.Uint64(b[1+i*8:])
		}
		return node1{children: children}, nil
	}
	return node1{}, errMalformed
}
