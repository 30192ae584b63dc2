package forms

import (
	"bytes"
	"hash/maphash"
	"sync"
)

// A builder collects forms in one buffer: a value has up to a hundred, and an allocation
// for each would slow down the start.
type builder struct {
	minLength int
	maxBytes  int  // of the arena
	full      bool // something was left out, because the arena would have had more
	arena     []byte
	spans     []span
	index     []int32 // open hash table, at most half full: 1 + the index of a span, or 0
}

// A span is a form, arena[from:to].
type span struct {
	kind     string
	from, to int
	hash     uint64
}

// builders keeps builders for the next value, without their arena: a thousand values would make
// garbage of which most is theirs.
var builders = sync.Pool{New: func() any {
	return &builder{spans: make([]span, 0, 96), index: make([]int32, 4*96)}
}}

var seed = maphash.MakeSeed()

// add makes arena[from:to] a form, unless it is too short or there is such a form already.
func (b *builder) add(kind string, from, to int) {
	short := 0
	switch kind {
	case KindLines, KindCase, KindBase64, KindBase64URL, KindHex:
		short = minEncoded
	}
	if to-from < max(b.minLength, short) {
		return
	}
	form := b.arena[from:to]
	hash := maphash.Bytes(seed, form)
	i := b.slot(hash)
	for ; b.index[i] != 0; i = (i + 1) % len(b.index) {
		if s := &b.spans[b.index[i]-1]; s.hash == hash && bytes.Equal(b.arena[s.from:s.to], form) {
			return
		}
	}
	b.spans = append(b.spans, span{kind, from, to, hash})
	b.index[i] = int32(len(b.spans)) //nolint:gosec // a value has fewer than 2^31 forms
	if 2*len(b.spans) < len(b.index) {
		return
	}
	b.index = make([]int32, 2*len(b.index))
	for n := range b.spans {
		i := b.slot(b.spans[n].hash)
		for b.index[i] != 0 {
			i = (i + 1) % len(b.index)
		}
		b.index[i] = int32(n + 1)
	}
}

// slot returns where the search for a hash begins in the index.
func (b *builder) slot(hash uint64) int { return int(hash % uint64(len(b.index))) } //nolint:gosec // below len(b.index)

// room reports whether a form of n bytes or more may be added. Nothing is once one was not.
func (b *builder) room(n int) bool {
	b.full = b.full || len(b.arena)+n > b.maxBytes
	return !b.full
}

// tail makes a form of arena[from:]. If it does not become one, the arena is cut back to
// from.
func (b *builder) tail(kind string, from int) {
	n := len(b.spans)
	if b.room(0) {
		b.add(kind, from, len(b.arena))
	}
	if len(b.spans) == n {
		b.arena = b.arena[:from]
	}
}

// copy appends form to the arena and makes it a form.
func (b *builder) copy(kind string, form []byte) {
	if !b.room(len(form)) {
		return
	}
	from := len(b.arena)
	b.arena = append(b.arena, form...)
	b.tail(kind, from)
}
