package redact

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// filter finds the places of a text where no form can begin, without looking at each byte.
//
// Let m be the length of the shortest form, but at most 20, and stride m-3. A piece is four
// bytes. Each form has a piece at each of its first stride offsets. Wherever a form is in a
// text, one of these pieces begins at a multiple of stride. So it is enough to look at these
// positions, and since none depends on what was found at another, eight are looked at
// together.
//
// A form of at least 2*stride+3 bytes has a second piece, one stride behind the first. Both
// must be in the table: words that a text shares with a form by chance, such as digits,
// seldom come in such pairs.
//
// Of a form that may be wrapped (wrap.go), the text may have the first minPiece bytes alone.
// So if there is such a form, m is at most minPiece, and a lone piece is enough. If there are
// many forms, lone pieces would be everywhere: then the stride is pairStride, with which
// minPiece bytes have two pieces.
//
// After a hit, the first bytes of the text at each of the stride
// places where the form may begin are looked up in a second table. Only if they are there,
// the automaton is asked.
type filter struct {
	stride int // 0 if a form is shorter than a piece: then there is no filter
	// pieces has a byte for each hash of a piece. The low half says which groups of forms
	// have the piece among their first ones, the high half which have it among their
	// second ones. A form belongs to one group, so the bits of its two pieces agree.
	// The last bit of the low half stands for the forms that are too short for a second
	// piece; the last bit of the high half is always set, so that it agrees with them.
	// If lone is true, each bit stands for pieces at offsets with that remainder by 8 instead.
	pieces []byte
	lone   bool
	// heads has a bit for each hash of the first bytes of a form, 8 or fewer.
	heads     []uint64
	headShift uint
	headMask  uint64
	// starts has a bit for each hash of the first 3 bytes of a form. It is for the ends of texts,
	// where the others see nothing: without it, a text in short writes takes 1.3 times as long.
	starts [startBits / 64]uint64
}

const (
	startLen  = 3
	startBits = 1 << 16
)

// mayStart reports whether a form may begin with the first 3 bytes of text, which must have 4.
func (f *filter) mayStart(text []byte) bool {
	h := f.startHash(binary.LittleEndian.Uint32(text))
	return f.starts[h/64]&(1<<(h%64)) != 0
}

func (f *filter) startHash(head uint32) uint32 { return head << 8 * pieceHash >> 16 }

const (
	pieceLen    = 4
	maxShortest = 20 // with a larger stride, pipes would still be slower

	groups    = 3
	single    = 1 << groups // the bit of forms that are too short for a second piece
	second    = 4           // the shift from the bit of a first piece to that of a second
	always    = single << second
	mask      = 127
	pieceHash = 0x9E3779B1 // 2^32 divided by the golden ratio
)

// The sizes of the table of pieces in bytes: a part of a processor's first cache, about all
// of it, a part of the second, and more than the second. A small table is fast because it
// stays in the cache; a full one is slow because most pieces of a text seem to be in it. So
// the smallest size is taken that has at least roomy bytes for each different piece. The third may be
// fuller, down to crowded, because the fourth leaves the cache.
//
// Each size earns its place. Without small, one value takes 2.4 times as long to get ready.
// Without medium, 100 values are searched for at 0.90 to 0.98 of the speed; without large,
// 1000 values at 0.7; without huge, 5000 values at 0.65.
const (
	small  = 1 << 14
	medium = 1 << 16
	large  = 1 << 18
	huge   = 1 << 20

	roomy   = 8
	crowded = 4

	bitsPerHead = 64 // so one in 64 of other heads passes

	// Lone pieces need more room: eight places are looked at together, and each may be a hit.
	// With 64, ten values are searched for at 0.75 of the speed.
	roomyLone  = 128
	maxLone    = large / roomyLone
	pairStride = (minPiece - pieceLen + 1) / 2
)

// newFilter returns the filter of sorted forms.
func newFilter(forms []sortable) *filter {
	f := &filter{}
	m := maxShortest
	for _, s := range forms {
		m = min(m, len(s.form.bytes))
		f.lone = f.lone || s.form.wraps
	}
	if f.lone {
		m = min(m, minPiece)
	}
	if m < pieceLen {
		return f
	}
	f.stride = m - pieceLen + 1
	f.lone = f.lone && f.long() > minPiece
	heads, pieces := f.count(forms)
	if f.lone && pieces > maxLone {
		f.lone, f.stride = false, pairStride
		heads, pieces = f.count(forms)
	}
	size, each := huge, roomy
	if f.lone {
		each = roomyLone
	}
	switch {
	case each*pieces <= small:
		size = small
	case each*pieces <= medium:
		size = medium
	case crowded*pieces <= large, f.lone:
		size = large
	}
	f.pieces = bytes.Repeat([]byte{always}, size)
	if f.lone {
		clear(f.pieces)
	}
	shift := 33 - bits.Len(uint(size))

	size = tableSize(max(bitsPerHead*heads, 64))
	f.heads, f.headShift = make([]uint64, size/64), 65-uint(bits.Len(uint(size)))
	f.headMask = ^uint64(0)
	if m < 8 {
		f.headMask = 1<<(8*m) - 1
	}

	f.each(forms, func(form []byte, from, to int, isNew bool) {
		// Forms with the same first piece are in one group: they often share others.
		group := byte(1) << (binary.LittleEndian.Uint32(form) * pieceHash >> 16 % groups)
		if len(form) < f.long() {
			group = single
		}
		for i := from; i < to; i++ {
			bit := group
			switch {
			case f.lone:
				bit = 1 << (i % 8)
			case i >= f.stride:
				bit <<= second
			}
			f.pieces[binary.LittleEndian.Uint32(form[i:])*pieceHash>>shift] |= bit
		}
		if isNew {
			var b [8]byte
			copy(b[:], form)
			h := f.hash(binary.LittleEndian.Uint64(b[:]))
			f.heads[h/64] |= 1 << (h % 64)
			s := f.startHash(binary.LittleEndian.Uint32(b[:]))
			f.starts[s/64] |= 1 << (s % 64)
		}
	})
	return f
}

// distinct returns about how many different pieces are in the table: lists of numbers share most
// of theirs.
func (f *filter) distinct(forms []sortable) (n int) {
	const shift = 12 // a bit for each hash of 20 bits
	seen := make([]uint64, 1<<(32-shift)/64)
	f.each(forms, func(form []byte, from, to int, _ bool) {
		for i := from; i < to; i++ {
			h := binary.LittleEndian.Uint32(form[i:]) * pieceHash >> shift
			if bit := uint64(1) << (h % 64); seen[h/64]&bit == 0 {
				seen[h/64] |= bit
				n++
			}
		}
	})
	return n
}

// shortest returns the length of the shortest form, or less.
func (f *filter) shortest() int {
	if f.stride == 0 {
		return 1
	}
	return f.stride + pieceLen - 1
}

// long is the least length of a form that has two pieces wherever it is in a text.
func (f *filter) long() int { return 2*f.stride + pieceLen - 1 }

// count returns about how many different first bytes and pieces the forms have.
func (f *filter) count(forms []sortable) (heads, pieces int) {
	f.each(forms, func(_ []byte, from, to int, isNew bool) {
		pieces += to - from
		if isNew {
			heads++
		}
	})
	if roomy*pieces > small {
		pieces = f.distinct(forms)
	}
	return heads, pieces
}

// each calls do for each form. The pieces at the offsets below from are those of the form
// before it, and are left out. isNew reports whether the first 8 bytes differ from those of
// the form before it.
func (f *filter) each(forms []sortable, do func(form []byte, from, to int, isNew bool)) {
	for _, s := range forms {
		form, shared, from, to := s.form.bytes, int(s.shared), 0, f.stride
		switch {
		case f.lone:
			from = min(to, max(0, shared-pieceLen+1))
		case len(form) >= f.long():
			// If the form before it was too short, the shared pieces are in the table as
			// single, and need no second piece.
			to *= 2
			from = min(to, max(0, shared-pieceLen+1))
		}
		do(form, from, to, shared < 8)
	}
}

// next returns the first place from i on where a form may begin. Near the end of the text,
// where the pieces cannot be seen, a form may begin everywhere.
func (f *filter) next(text []byte, i int) int {
	switch len(f.pieces) {
	case small:
		if f.lone {
			return searchLone((*[small]byte)(f.pieces), f, text, i)
		}
		return search((*[small]byte)(f.pieces), f, text, i)
	case medium:
		if f.lone {
			return searchLone((*[medium]byte)(f.pieces), f, text, i)
		}
		return search((*[medium]byte)(f.pieces), f, text, i)
	case large:
		if f.lone {
			return searchLone((*[large]byte)(f.pieces), f, text, i)
		}
		return search((*[large]byte)(f.pieces), f, text, i)
	case huge:
		return search((*[huge]byte)(f.pieces), f, text, i)
	}
	return i // there is no filter
}

// search is next for one size of the table. The compiler knows the size as a constant, so
// that it need not check each index.
func search[T [small]byte | [medium]byte | [large]byte | [huge]byte](pieces *T, f *filter, text []byte, i int) int {
	shift := 33 - bits.Len(uint(len(*pieces)))
	step := f.stride
	// Eight places at once. The mask changes none of their distances, because none is above
	// it: else the constant below would be negative, which does not compile. It only shows
	// the compiler that they are inside the window.
	const (
		_      = uint(mask - 7*(maxShortest-pieceLen+1))
		window = mask + pieceLen
	)
	d1, d2, d3, d4 := step&mask, 2*step&mask, 3*step&mask, 4*step&mask
	d5, d6, d7 := 5*step&mask, 6*step&mask, 7*step&mask

	last := byte(0) // the byte of pieces for the place before p
	p := i + step - 1
	for p+window <= len(text) {
		w := (*[window]byte)(text[p:])
		a0 := (*pieces)[binary.LittleEndian.Uint32(w[0:4])*pieceHash>>shift]
		a1 := (*pieces)[binary.LittleEndian.Uint32(w[d1:d1+4])*pieceHash>>shift]
		a2 := (*pieces)[binary.LittleEndian.Uint32(w[d2:d2+4])*pieceHash>>shift]
		a3 := (*pieces)[binary.LittleEndian.Uint32(w[d3:d3+4])*pieceHash>>shift]
		a4 := (*pieces)[binary.LittleEndian.Uint32(w[d4:d4+4])*pieceHash>>shift]
		a5 := (*pieces)[binary.LittleEndian.Uint32(w[d5:d5+4])*pieceHash>>shift]
		a6 := (*pieces)[binary.LittleEndian.Uint32(w[d6:d6+4])*pieceHash>>shift]
		a7 := (*pieces)[binary.LittleEndian.Uint32(w[d7:d7+4])*pieceHash>>shift]
		h0, h1, h2, h3 := last&(a0>>second), a0&(a1>>second), a1&(a2>>second), a2&(a3>>second)
		h4, h5, h6, h7 := a3&(a4>>second), a4&(a5>>second), a5&(a6>>second), a6&(a7>>second)
		if h0|h1|h2|h3|h4|h5|h6|h7 != 0 {
			hits := uint64(h0) | uint64(h1)<<8 | uint64(h2)<<16 | uint64(h3)<<24 |
				uint64(h4)<<32 | uint64(h5)<<40 | uint64(h6)<<48 | uint64(h7)<<56
			for hits != 0 {
				k := bits.TrailingZeros64(hits) / 8
				hits &^= 0xff << (8 * k)
				at := p + (k-1)*step
				if from := f.head(text, max(i, at-step+1), at); from <= at {
					return from
				}
			}
		}
		last = a7
		p += 8 * step
	}

	// The rest of the text, one place at a time.
	for ; p+pieceLen <= len(text); p += step {
		a := (*pieces)[binary.LittleEndian.Uint32(text[p:])*pieceHash>>shift]
		if last&(a>>second) != 0 {
			if from := f.head(text, max(i, p-2*step+1), p-step); from <= p-step {
				return from
			}
		}
		last = a
	}
	if from := max(i, p-step+1); last&(1<<second-1) == 0 {
		return f.head(text, from, len(text))
	}
	return f.head(text, max(i, p-2*step+1), len(text)) // the second piece cannot be seen
}

// searchLone is search for a table of lone pieces.
func searchLone[T [small]byte | [medium]byte | [large]byte](pieces *T, f *filter, text []byte, i int) int {
	shift := 33 - bits.Len(uint(len(*pieces)))
	step := f.stride
	d1, d2, d3, d4 := step&mask, 2*step&mask, 3*step&mask, 4*step&mask
	d5, d6, d7 := 5*step&mask, 6*step&mask, 7*step&mask
	p := i + step - 1
	for p+mask+pieceLen <= len(text) {
		w := (*[mask + pieceLen]byte)(text[p:])
		a0 := (*pieces)[binary.LittleEndian.Uint32(w[0:4])*pieceHash>>shift]
		a1 := (*pieces)[binary.LittleEndian.Uint32(w[d1:d1+4])*pieceHash>>shift]
		a2 := (*pieces)[binary.LittleEndian.Uint32(w[d2:d2+4])*pieceHash>>shift]
		a3 := (*pieces)[binary.LittleEndian.Uint32(w[d3:d3+4])*pieceHash>>shift]
		a4 := (*pieces)[binary.LittleEndian.Uint32(w[d4:d4+4])*pieceHash>>shift]
		a5 := (*pieces)[binary.LittleEndian.Uint32(w[d5:d5+4])*pieceHash>>shift]
		a6 := (*pieces)[binary.LittleEndian.Uint32(w[d6:d6+4])*pieceHash>>shift]
		a7 := (*pieces)[binary.LittleEndian.Uint32(w[d7:d7+4])*pieceHash>>shift]
		if a0|a1|a2|a3|a4|a5|a6|a7 != 0 {
			for k, a := range [...]byte{a0, a1, a2, a3, a4, a5, a6, a7} {
				if at := p + k*step; a != 0 {
					if from := f.headOf(a, text, max(i, at-step+1), at); from <= at {
						return from
					}
				}
			}
		}
		p += 8 * step
	}
	for ; p+pieceLen <= len(text); p += step { // the rest of the text
		a := (*pieces)[binary.LittleEndian.Uint32(text[p:])*pieceHash>>shift]
		if from := f.headOf(a, text, max(i, p-step+1), p); from <= p {
			return from
		}
	}
	return f.head(text, max(i, p-step+1), len(text))
}

// head returns the first place between from and to where the first bytes of a form may be,
// or which is too near to the end of the text to tell; to+1 if there is none.
func (f *filter) head(text []byte, from, to int) int {
	for ; from <= to; from++ {
		if from+8 > len(text) {
			break
		}
		h := f.hash(binary.LittleEndian.Uint64(text[from:]))
		if f.heads[h/64]&(1<<(h%64)) != 0 {
			break
		}
	}
	return from
}

// headOf is head for a lone piece at to, whose byte of the table is a.
func (f *filter) headOf(a byte, text []byte, from, to int) int {
	for ; a != 0 && from <= to; from++ {
		if a>>((to-from)%8)&1 != 0 && f.head(text, from, from) == from {
			return from
		}
	}
	return to + 1
}

func (f *filter) hash(head uint64) uint64 {
	return (head & f.headMask) * 0x9E3779B97F4A7C15 >> f.headShift
}
