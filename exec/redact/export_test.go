package redact

import "unsafe"

// Size returns the bytes of the tables of the automaton.
func (r *Redactor) Size() int {
	a := r.whole()
	size := tableBytes(a.trie.next) + tableBytes(a.last) + tableBytes(a.parents) + tableBytes(a.branches) +
		tableBytes(a.links) + tableBytes(a.outs) + tableBytes(a.lengths) + tableBytes(a.ids) +
		tableBytes(a.pieces) + tableBytes(a.heads) +
		tableBytes(a.forms) + tableBytes(a.names) + tableBytes(a.masks)
	for i, name := range a.names {
		size += len(name) + len(a.masks[i])
	}
	return size
}

func tableBytes[T any](table []T) int {
	var one T
	return cap(table) * int(unsafe.Sizeof(one))
}

// Order has the kinds of forms in the order in which they are kept.
var Order = order

// Stubs makes the first automaton of r have n bytes of each form.
func (r *Redactor) Stubs(n int) *Redactor {
	r.stub = n
	return r
}

// Relinked reports whether each link that is made again, as by a goroutine that is late, is the one
// that is there.
func (r *Redactor) Relinked() bool {
	t := r.whole().trie
	for node := range t.links {
		if t.link(int32(node)) != t.makeLink(int32(node)) {
			return false
		}
	}
	return true
}
