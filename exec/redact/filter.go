package redact

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// filter tells where in a text no form can begin, without looking at each byte.
//
// Let m be the length of the shortest form, or 20 if that is less, and stride
// m-3. Of the four-byte pieces that begin at the first stride places of a form one
// begins at a place of the text that is a multiple of stride, wherever the form
// is; so it is enough to look there, at places that do not depend on one another.
// A form that is long enough has another piece one stride on, and both must be
// there: words that a text shares with it by chance, such as digits, seldom are.
// Where they are, the first bytes of a form are looked up at each of the stride
// places at which one may begin, before the automaton is asked.
type filter struct {
	stride int // 0 if a form is too short for this
	// pieces is, by hash, which pieces there are: in the low half of a byte those of
	// the first stride places of forms, in the high half those one stride on. A bit
	// is a group of forms, so that two pieces of one form are in one bit. In the low
	// half the last bit is that of forms that are too short for a second piece; in
	// the high half it is always set.
	pieces []byte
	// heads is a set of bits: the hashes of the forms' first bytes.
	heads     []uint64
	headShift uint
	headMask  uint64
}

const (
	pieceLen    = 4
	maxShortest = 20 // more would be fewer places to look at, which no pipe can show

	groups    = 3
	single    = 1 << groups // the bit of forms of one piece
	second    = 4           // from a bit to that of the second piece
	always    = single << second
	mask      = 127
	pieceHash = 0x9E3779B1 // 2^32 divided by the golden ratio
)

// The sizes of the table of pieces: a part of a processor's first cache, about
// all of it, a part of the second, and more than it has room for. The least is
// taken of which few places look like a piece that is there: the first two have
// roomy places a piece; the third is faster than the fourth down to crowded.
const (
	small  = 1 << 14
	medium = 1 << 16
	large  = 1 << 18
	huge   = 1 << 20

	roomy   = 8
	crowded = 4

	bitsPerHead = 64 // one in 64 of other heads looks like one that is there
)

// newFilter returns the filter of sorted forms.
func newFilter(forms []sortable) *filter {
	f := &filter{}
	m := maxShortest
	for _, s := range forms {
		m = min(m, len(s.form.bytes))
	}
	if m < pieceLen {
		return f
	}
	f.stride = m - pieceLen + 1
	heads, pieces := 0, 0
	f.each(forms, func(_ []byte, from, to int, isNew bool) {
		pieces += to - from
		if isNew {
			heads++
		}
	})
	size := huge
	switch {
	case roomy*pieces <= small:
		size = small
	case roomy*pieces <= medium:
		size = medium
	case crowded*pieces <= large:
		size = large
	}
	f.pieces = bytes.Repeat([]byte{always}, size)
	shift := 33 - bits.Len(uint(size))
	size = tableSize(max(bitsPerHead*heads, 64))
	f.heads, f.headShift = make([]uint64, size/64), 65-uint(bits.Len(uint(size)))
	f.headMask = ^uint64(0)
	if m < 8 {
		f.headMask = 1<<(8*m) - 1
	}
	f.each(forms, func(form []byte, from, to int, isNew bool) {
		// By their first piece, so that forms that share pieces are in one group.
		group := byte(1) << (binary.LittleEndian.Uint32(form) * pieceHash >> 16 % groups)
		if len(form) < f.long() {
			group = single
		}
		for i := from; i < to; i++ {
			bit := group
			if i >= f.stride {
				bit <<= second
			}
			f.pieces[binary.LittleEndian.Uint32(form[i:])*pieceHash>>shift] |= bit
		}
		if isNew {
			var b [8]byte
			copy(b[:], form)
			h := f.hash(binary.LittleEndian.Uint64(b[:]))
			f.heads[h/64] |= 1 << (h % 64)
		}
	})
	return f
}

// long is the length of forms that have two pieces wherever they are.
func (f *filter) long() int { return 2*f.stride + pieceLen - 1 }

// each calls do for each form with the places of its pieces, but for those that
// it shares with the one before it, and whether its head is new.
func (f *filter) each(forms []sortable, do func(form []byte, from, to int, isNew bool)) {
	var last []byte
	for _, s := range forms {
		form, from, to := s.form.bytes, 0, f.stride
		shared := sharedPrefix(last, form)
		if len(form) >= f.long() {
			// What it shares with one that is too short needs no second piece.
			to *= 2
			from = min(to, max(0, shared-pieceLen+1))
		}
		do(form, from, to, shared < 8)
		last = form
	}
}

// next returns the first place at or behind i at which a form may begin, as far
// as can be seen; beyond what cannot be seen, every place may.
func (f *filter) next(text []byte, i int) int {
	switch len(f.pieces) {
	case small:
		return search((*[small]byte)(f.pieces), f, text, i)
	case medium:
		return search((*[medium]byte)(f.pieces), f, text, i)
	case large:
		return search((*[large]byte)(f.pieces), f, text, i)
	case huge:
		return search((*[huge]byte)(f.pieces), f, text, i)
	}
	return i // there is no filter
}

// search is next for one size of the table, which the compiler knows then, and
// needs no checks.
func search[T [small]byte | [medium]byte | [large]byte | [huge]byte](pieces *T, f *filter, text []byte, i int) int {
	shift := 33 - bits.Len(uint(len(*pieces)))
	step := f.stride
	// Eight places at once. Their distances are masked, so that the compiler knows
	// that they are inside the window; it does not change them as long as the next
	// constant is not negative, which would not compile.
	const (
		_      = uint(mask - 7*(maxShortest-pieceLen+1))
		window = mask + pieceLen
	)
	d1, d2, d3, d4 := step&mask, 2*step&mask, 3*step&mask, 4*step&mask
	d5, d6, d7 := 5*step&mask, 6*step&mask, 7*step&mask
	last := byte(0) // what is at the place before p
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
	for ; p+pieceLen <= len(text); p += step {
		a := (*pieces)[binary.LittleEndian.Uint32(text[p:])*pieceHash>>shift]
		if last&(a>>second) != 0 {
			if from := f.head(text, max(i, p-2*step+1), p-step); from <= p-step {
				return from
			}
		}
		last = a
	}
	if last&(1<<second-1) == 0 {
		return max(i, p-step+1)
	}
	return f.head(text, max(i, p-2*step+1), p-step) // the second piece cannot be seen
}

// head returns the first place from there on to which the text has what may be
// the first bytes of a form, or whose first bytes cannot be seen; or one behind
// to.
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

func (f *filter) hash(head uint64) uint64 {
	return (head & f.headMask) * 0x9E3779B97F4A7C15 >> f.headShift
}
