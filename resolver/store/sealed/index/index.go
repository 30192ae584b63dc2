// Package index is a tree of names in which every node vouches for what is below it, so that a
// lookup proves a hit and a miss alike. Where nodes are kept and how they are protected is the
// caller's: they are handed in and out as bytes, each with its place and its version.
//
// A node covers the names that begin with a prefix and is either a leaf, with an entry for each
// name, or an inner node: a text that all of its names have after the prefix, and 256 children one
// byte further down, those that are absent with version 0. The version of anything is the id of the
// transaction that wrote it. As long as the caller hands out only the node that was saved at a
// prefix as a version, no answer is wrong.
//
// Names are in order, so a caller that gives the names of one kind a common beginning can walk
// them alone, and learn their number without walking them: every inner node has the weight of each
// of its children.
//
// # Encoding
//
// A leaf is a 0 byte, three bytes of widths and, for each entry in the order of names, the name
// without the prefix, the version, the number of secrets and the number of bytes. An inner node is
// a 1 byte, the length of the common text in one byte and the text, three bytes of widths, and for
// each of the 256 children its version, number of secrets and number of bytes. Numbers are
// big-endian; a width is the length of a version, a number of secrets or a number of bytes in this
// node, 0 to 8.
//
// Tree1 is the tree of stores of format 1, which can only be read.
package index

import (
	"bytes"
	"fmt"
	"slices"
	"sort"

	"inject/resolver/secret"
)

// NameSize is the length of a name in bytes.
const NameSize = 56

const (
	fanOut = 256
	// leafMax is how many names a leaf holds before it becomes an inner node: few enough that a leaf
	// is opened in microseconds, and many enough that a million names are three levels deep.
	leafMax = 128
)

// Name is the name of an entry. Names are of hashes, so that those with a common beginning are
// spread evenly behind it.
type Name [NameSize]byte

// Weight is what entries count for.
type Weight struct{ Secrets, Bytes uint64 }

func (w *Weight) add(more Weight) {
	w.Secrets += more.Secrets
	w.Bytes += more.Bytes
}

// Entry is a name in a leaf with the version of its record.
type Entry struct {
	Name    Name
	Version uint64
	Weight
}

// child is a node below an inner node.
type child struct {
	version uint64 // 0 if there is none
	Weight
}

// node is one node: a leaf, sorted by name, or inner.
type node struct {
	leaf     []Entry
	skip     []byte  // what the names of an inner node have in common after its prefix
	children []child // nil in a leaf
}

// Tree is the index inside one transaction. It is not safe for concurrent use. Its errors are those
// of Load and Save, and [secret.ErrCorrupt] for a node that is malformed.
type Tree struct {
	// Load returns the encoded node at prefix that was saved as version. It is valid until the next
	// call of Load or Save.
	Load func(prefix []byte, version uint64) ([]byte, error)
	// Save saves the encoded node n at prefix as version Now; a nil n removes the node.
	Save func(prefix, n []byte) error
	Root uint64 // the version of the root, whose prefix is empty
	Now  uint64 // the version of everything that is saved
}

// Empty returns an encoded root without names.
func Empty() []byte { return (&node{}).encode(0) }

// Find returns the entry of a name, with version 0 if there is none. It searches the nodes as they
// are encoded: a leaf has up to 128 entries, and one is wanted.
func (t *Tree) Find(want Name) (Entry, error) {
	e := Entry{Name: want}
	depth, version := 0, t.Root
	for {
		b, err := t.Load(want[:depth], version)
		if err != nil {
			return e, err
		}
		p, err := unpack(b, depth)
		switch {
		case err != nil:
			return e, err
		case p.leaf:
			suffix := want[depth:]
			if i, ok := sort.Find(p.count, func(i int) int { return bytes.Compare(suffix, p.suffix(i)) }); ok {
				e.Version, e.Weight = p.numbers(i)
			}
			return e, nil
		case !bytes.HasPrefix(want[depth:], p.skip):
			return e, nil
		}
		depth += len(p.skip)
		version, _ = p.numbers(int(want[depth]))
		if depth++; version == 0 {
			return e, nil
		}
	}
}

// Sum returns the weight of all names that begin with prefix. It loads the nodes above them only.
func (t *Tree) Sum(prefix []byte) (sum Weight, err error) {
	depth, version := 0, t.Root
	for {
		n, err := t.loadNode(prefix[:depth], version)
		if err != nil {
			return sum, err
		}
		for _, e := range n.leaf {
			if bytes.HasPrefix(e.Name[:], prefix) {
				sum.add(e.Weight)
			}
		}
		rest := prefix[depth:]
		switch {
		case n.children == nil:
			return sum, nil
		case bytes.HasPrefix(n.skip, rest): // all of n begins with prefix
			return n.weight(), nil
		case !bytes.HasPrefix(rest, n.skip):
			return sum, nil
		}
		c := n.children[rest[len(n.skip)]]
		if depth += len(n.skip) + 1; c.version == 0 || depth == len(prefix) {
			return c.Weight, nil
		}
		version = c.version
	}
}

// SetAll sets each of entries, which are in the order of their names, or removes its name if its
// version is 0, and saves every node from there up to the root. A node above several of them is
// saved once. Without entries it saves the root as version Now.
func (t *Tree) SetAll(entries []Entry) error {
	n, err := t.loadNode(nil, t.Root)
	if err != nil {
		return err
	}
	if err := t.setIn(&n, nil, entries); err != nil {
		return err
	}
	if err := t.Save(nil, n.encode(0)); err != nil {
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
	return decode(b, prefix)
}

// setIn sets entries, whose names begin with prefix, in n, the node there, and saves the nodes
// below it.
func (t *Tree) setIn(n *node, prefix []byte, entries []Entry) error {
	if n.children == nil {
		n.leaf = merge(n.leaf, entries)
		if len(n.leaf) <= leafMax {
			return nil
		}
		return t.split(n, prefix)
	}

	for _, e := range entries {
		if common := commonLength(n.skip, e.Name[len(prefix):]); e.Version != 0 && common < len(n.skip) {
			if err := t.lower(n, prefix, common); err != nil {
				return err
			}
		}
	}
	path := slices.Concat(prefix, n.skip)
	for len(entries) > 0 {
		if !bytes.HasPrefix(entries[0].Name[:], path) { // it shall be removed, and is not there
			entries = entries[1:]
			continue
		}
		end := sameUpTo(entries, len(path))
		if err := t.setBelow(n, entries[0].Name[:len(path)+1], entries[:end]); err != nil {
			return err
		}
		entries = entries[end:]
	}
	if !slices.ContainsFunc(n.children, func(c child) bool { return c.version != 0 }) {
		*n = node{}
	}
	return nil
}

// lower moves n, the inner node at prefix, below a new inner node in its place, whose names have
// only the first common bytes of n.skip in common.
func (t *Tree) lower(n *node, prefix []byte, common int) error {
	at := n.skip[common]
	lowered := node{skip: n.skip[common+1:], children: n.children}
	place := slices.Concat(prefix, n.skip[:common+1])
	if err := t.Save(place, lowered.encode(len(place))); err != nil {
		return err
	}
	*n = node{skip: n.skip[:common], children: make([]child, fanOut)}
	n.children[at] = child{t.Now, lowered.weight()}
	return nil
}

// setBelow sets entries, whose names begin with prefix, in the node there, which is below n, and
// saves it.
func (t *Tree) setBelow(n *node, prefix []byte, entries []Entry) error {
	c := &n.children[prefix[len(prefix)-1]]
	var below node
	if c.version != 0 {
		var err error
		if below, err = t.loadNode(prefix, c.version); err != nil {
			return err
		}
	}
	if err := t.setIn(&below, prefix, entries); err != nil {
		return err
	}
	switch {
	case below.children != nil || len(below.leaf) > 0:
		*c = child{t.Now, below.weight()}
		return t.Save(prefix, below.encode(len(prefix)))
	case c.version != 0:
		*c = child{}
		return t.Save(prefix, nil)
	}
	return nil
}

// split makes an inner node of n, a leaf at prefix with more entries than one may have.
func (t *Tree) split(n *node, prefix []byte) error {
	entries := n.leaf
	first, last := entries[0].Name[len(prefix):], entries[len(entries)-1].Name[len(prefix):]
	*n = node{skip: bytes.Clone(first[:commonLength(first, last)]), children: make([]child, fanOut)}
	at := len(prefix) + len(n.skip)
	for len(entries) > 0 {
		name, end := entries[0].Name, sameUpTo(entries, at)
		below := node{leaf: entries[:end:end]}
		entries = entries[end:]
		if len(below.leaf) > leafMax {
			if err := t.split(&below, name[:at+1]); err != nil {
				return err
			}
		}
		if err := t.Save(name[:at+1], below.encode(at+1)); err != nil {
			return err
		}
		n.children[name[at]] = child{t.Now, below.weight()}
	}
	return nil
}

// merge returns the sorted leaf with entries set, which are sorted, too.
func merge(leaf, entries []Entry) []Entry {
	merged := make([]Entry, 0, len(leaf)+len(entries))
	for _, e := range entries {
		i, exists := slices.BinarySearchFunc(leaf, e, byName)
		merged = append(merged, leaf[:i]...)
		if leaf = leaf[i:]; exists {
			leaf = leaf[1:]
		}
		if e.Version != 0 {
			merged = append(merged, e)
		}
	}
	return append(merged, leaf...)
}

func byName(a, b Entry) int { return bytes.Compare(a.Name[:], b.Name[:]) }

// Sort puts entries in the order that SetAll needs.
func Sort(entries []Entry) { slices.SortFunc(entries, byName) }

// sameUpTo returns how many of entries have the same bytes up to and with the one at depth as the
// first one.
func sameUpTo(entries []Entry, depth int) int {
	first := entries[0].Name[:depth+1]
	end := slices.IndexFunc(entries, func(e Entry) bool { return !bytes.HasPrefix(e.Name[:], first) })
	if end < 0 {
		return len(entries)
	}
	return end
}

func commonLength(a, b []byte) (n int) {
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

// Walk calls yield with every entry whose name begins with prefix and is greater than after, in
// order, until yield returns false. A nil after is less than every name.
func (t *Tree) Walk(prefix, after []byte, yield func(Entry) (bool, error)) error {
	_, err := t.walk(nil, t.Root, prefix, after, yield)
	return err
}

func (t *Tree) walk(
	at []byte, version uint64, prefix, after []byte, yield func(Entry) (bool, error),
) (more bool, err error) {
	n, err := t.loadNode(at, version)
	if err != nil {
		return false, err
	}
	for _, e := range n.leaf {
		if !bytes.HasPrefix(e.Name[:], prefix) || after != nil && bytes.Compare(e.Name[:], after) <= 0 {
			continue
		}
		if more, err := yield(e); !more || err != nil {
			return false, err
		}
	}
	path := slices.Concat(at, n.skip, []byte{0})
	for b, c := range n.children {
		path[len(path)-1] = byte(b)
		same := min(len(path), len(prefix))
		if c.version == 0 || !bytes.Equal(path[:same], prefix[:same]) ||
			after != nil && bytes.Compare(path, after[:min(len(path), len(after))]) < 0 {
			continue
		}
		if more, err := t.walk(path, c.version, prefix, after, yield); !more || err != nil {
			return false, err
		}
	}
	return true, nil
}

// Visit calls visit with every node: with its prefix, and its entries if it is a leaf; or with err
// if the node could not be loaded, whereupon nothing below it is visited. It returns the first
// error of visit, after which it visits no more. Leaves are visited in the order of names.
func (t *Tree) Visit(visit func(prefix []byte, entries []Entry, err error) error) error {
	return t.visit(nil, child{version: t.Root}, visit)
}

func (t *Tree) visit(at []byte, c child, visit func(prefix []byte, entries []Entry, err error) error) error {
	n, err := t.loadNode(at, c.version)
	if err == nil && len(at) > 0 && n.weight() != c.Weight {
		n, err = node{}, errMalformed
	}
	if err := visit(at, n.leaf, err); err != nil {
		return err
	}
	path := slices.Concat(at, n.skip, []byte{0})
	for b, c := range n.children {
		path[len(path)-1] = byte(b)
		if c.version == 0 {
			continue
		}
		if err := t.visit(path, c, visit); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) weight() (sum Weight) {
	for _, e := range n.leaf {
		sum.add(e.Weight)
	}
	for _, c := range n.children {
		sum.add(c.Weight)
	}
	return sum
}

// The first byte of an encoded node.
const (
	kindLeaf  = 0
	kindInner = 1
)

// encode returns n, whose prefix has depth bytes, as bytes.
func (n *node) encode(depth int) []byte {
	var widest [3]uint64
	n.each(func(_ []byte, numbers [3]uint64) {
		for i, v := range numbers {
			widest[i] = max(widest[i], v)
		}
	})
	b, items := []byte{kindLeaf}, len(n.leaf)
	if n.children != nil {
		b, items = append([]byte{kindInner, byte(len(n.skip))}, n.skip...), fanOut //nolint:gosec // shorter than a name
	}
	size := NameSize - depth
	for _, v := range widest {
		b = append(b, width(v))
		size += int(width(v))
	}
	widths := b[len(b)-3:]
	b = slices.Grow(b, items*size)
	n.each(func(name []byte, numbers [3]uint64) {
		if name != nil {
			b = append(b, name[depth:]...)
		}
		for i, v := range numbers {
			for w := int(widths[i]) - 1; w >= 0; w-- {
				b = append(b, byte(v>>(8*w))) //nolint:gosec // the digit of v
			}
		}
	})
	return b
}

// each calls do with the numbers of every item of n, and with the name of an entry.
func (n *node) each(do func(name []byte, numbers [3]uint64)) {
	for i := range n.leaf {
		e := &n.leaf[i]
		do(e.Name[:], [3]uint64{e.Version, e.Secrets, e.Bytes})
	}
	for _, c := range n.children {
		do(nil, [3]uint64{c.version, c.Secrets, c.Bytes})
	}
}

// width returns how many bytes v needs.
func width(v uint64) (w uint8) {
	for ; v > 0; v >>= 8 {
		w++
	}
	return w
}

var (
	errMalformed = fmt.Errorf("%w: a node of the index is malformed", secret.ErrCorrupt)
	errTooDeep   = fmt.Errorf("%w: the index is too deep", secret.ErrCorrupt)
)

// packed is an encoded node taken apart.
type packed struct {
	leaf   bool
	skip   []byte
	widths [3]int
	before int // the length of what an item has before its numbers
	size   int // of an item
	count  int // of items
	items  []byte
}

// unpack takes the encoded node b apart, whose prefix has depth bytes.
func unpack(b []byte, depth int) (p packed, err error) {
	switch {
	case len(b) > 0 && b[0] == kindLeaf:
		p.leaf, p.before, b = true, NameSize-depth, b[1:]
	case len(b) > 1 && b[0] == kindInner && len(b) >= 2+int(b[1]):
		p.skip, b = b[2:2+b[1]], b[2+b[1]:]
		if depth+len(p.skip)+1 >= NameSize {
			return p, errTooDeep
		}
	default:
		return p, errMalformed
	}
	if len(b) < len(p.widths) {
		return p, errMalformed
	}
	p.size = p.before
	for i := range p.widths {
		if p.widths[i] = int(b[i]); b[i] > 8 {
			return p, errMalformed
		}
		p.size += p.widths[i]
	}
	p.items, p.count = b[len(p.widths):], fanOut
	if p.leaf {
		p.count = len(p.items) / p.size
	}
	if len(p.items) != p.count*p.size {
		return p, errMalformed
	}
	return p, nil
}

// suffix returns the name of the entry i without the prefix.
func (p *packed) suffix(i int) []byte { return p.items[i*p.size:][:p.before] }

// numbers returns the numbers of the item i.
func (p *packed) numbers(i int) (version uint64, w Weight) {
	b := p.items[i*p.size+p.before:]
	for j, to := range []*uint64{&version, &w.Secrets, &w.Bytes} {
		for _, digit := range b[:p.widths[j]] {
			*to = *to<<8 | uint64(digit)
		}
		b = b[p.widths[j]:]
	}
	return version, w
}

// decode returns the encoded node b at prefix.
func decode(b, prefix []byte) (node, error) {
	p, err := unpack(b, len(prefix))
	if err != nil {
		return node{}, err
	}
	if !p.leaf {
		n := node{skip: bytes.Clone(p.skip), children: make([]child, fanOut)}
		for i := range n.children {
			n.children[i].version, n.children[i].Weight = p.numbers(i)
		}
		return n, nil
	}
	n := node{leaf: make([]Entry, p.count)}
	for i := range n.leaf {
		e := &n.leaf[i]
		copy(e.Name[copy(e.Name[:], prefix):], p.suffix(i))
		e.Version, e.Weight = p.numbers(i)
	}
	return n, nil
}
