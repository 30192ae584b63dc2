package forms

import (
	"bytes"
	"hash/maphash"
)

// A builder collects forms in one buffer, so that many cost few allocations.
type builder struct {
	minLength int
	arena     []byte
	spans     []span
	index     []int32 // an open hash table of len(spans) at most half full: 1 + a span's number
}

// A span is a form, arena[from:to].
type span struct {
	kind     string
	from, to int
	hash     uint64
}

var seed = maphash.MakeSeed()

// add makes arena[from:to] a form, unless it is too short or one already.
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
	b.index[i] = int32(len(b.spans)) //nolint:gosec // a value has fewer lines than that
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

func (b *builder) slot(hash uint64) int { return int(hash % uint64(len(b.index))) } //nolint:gosec // below len(b.index)

// tail makes a form of what was appended to the arena since from. The next one
// goes over what was none.
func (b *builder) tail(kind string, from int) {
	n := len(b.spans)
	if b.add(kind, from, len(b.arena)); len(b.spans) == n {
		b.arena = b.arena[:from]
	}
}

func (b *builder) copy(kind string, form []byte) {
	from := len(b.arena)
	b.arena = append(b.arena, form...)
	b.tail(kind, from)
}
