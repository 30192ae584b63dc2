package redact

import (
	"encoding/binary"
	"math/bits"
)

// filter tells where in a text no form can begin, without looking at each byte.
//
// Let m be the length of the shortest form, or 20 if that is less. Of the m-3
// four-byte pieces in the first m bytes of a form, one begins at a place that is
// a multiple of m-3, wherever the form is: so it is enough to look at the text
// there, at places that do not depend on one another. A place where the text has
// none of the forms' pieces rules out m-3 beginnings; at another the first bytes
// of each of them are looked up before the automaton is asked.
type filter struct {
	stride int // m-3; 0 if a form is too short for this
	// pieces is, by hash, which pieces there are, as eight tables in one: bit
	// groups[last byte of the piece] tells.
	pieces []byte
	groups [256]byte
	// heads is a set of bits: the hashes of the forms' first bytes, width of them.
	heads     []uint64
	headShift uint
	headMask  uint64
}

const (
	pieceLen = 4
	maxHead  = 20 // more would be fewer places to look at, which no pipe can show
)

// newFilter returns the filter of sorted forms.
func newFilter(forms []sortable) *filter {
	f := &filter{}
	m := maxHead
	for _, s := range forms {
		m = min(m, len(s.form.bytes))
	}
	if m < pieceLen {
		return f
	}
	f.stride = m - pieceLen + 1
	for i := range f.groups {
		f.groups[i] = 1 << (i & 7)
	}
	// What a form shares with the one before it has been put in.
	each := func(do func(head []byte, shared int)) {
		var last []byte
		for _, s := range forms {
			head := s.form.bytes[:min(maxHead, len(s.form.bytes))]
			if shared := sharedPrefix(last, head); shared < m {
				do(head, shared)
			}
			last = head
		}
	}
	heads, pieces := 0, 0
	each(func(_ []byte, shared int) {
		pieces += f.stride - max(0, shared-pieceLen+1)
		if shared < 8 {
			heads++
		}
	})
	switch {
	case placesPerPiece*pieces <= small:
		f.pieces = make([]byte, small)
	case placesPerPiece*pieces <= medium:
		f.pieces = make([]byte, medium)
	case 4*pieces <= large:
		f.pieces = make([]byte, large)
	default:
		f.pieces = make([]byte, huge)
	}
	shift := 33 - bits.Len(uint(len(f.pieces)))
	size := tableSize(max(bitsPerHead*heads, 64))
	f.heads, f.headShift = make([]uint64, size/64), 65-uint(bits.Len(uint(size))) //nolint:gosec // small
	f.headMask = ^uint64(0)
	if m < 8 {
		f.headMask = 1<<(8*m) - 1
	}
	each(func(head []byte, shared int) {
		for i := max(0, shared-pieceLen+1); i < f.stride; i++ {
			x := binary.LittleEndian.Uint32(head[i:])
			f.pieces[x*pieceHash>>shift] |= f.groups[x>>24]
		}
		var b [8]byte
		copy(b[:], head)
		h := f.hash(binary.LittleEndian.Uint64(b[:]))
		f.heads[h/64] |= 1 << (h % 64)
	})
	return f
}

// The sizes of the table of pieces: about a third of a processor's first cache;
// what is left of the second beside a pipe's; and what so many pieces need that
// no cache has it. Up to large at least placesPerPiece, so that few places of a
// text look like a piece that is there.
const (
	small  = 1 << 14
	medium = 1 << 16
	large  = 1 << 18
	huge   = 1 << 20

	placesPerPiece = 20
	bitsPerHead    = 64
)

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
	step, groups := f.stride, &f.groups
	// Eight places at once. Their distances are masked, which does not change them,
	// so that the compiler knows that they are inside the window.
	d1, d2, d3, d4, d5, d6, d7 := step&127, 2*step&127, 3*step&127, 4*step&127, 5*step&127, 6*step&127, 7*step&127
	p := i + step - 1
	for p+132 <= len(text) {
		w := (*[132]byte)(text[p:])
		x0 := binary.LittleEndian.Uint32(w[0:4])
		x1 := binary.LittleEndian.Uint32(w[d1 : d1+4])
		x2 := binary.LittleEndian.Uint32(w[d2 : d2+4])
		x3 := binary.LittleEndian.Uint32(w[d3 : d3+4])
		x4 := binary.LittleEndian.Uint32(w[d4 : d4+4])
		x5 := binary.LittleEndian.Uint32(w[d5 : d5+4])
		x6 := binary.LittleEndian.Uint32(w[d6 : d6+4])
		x7 := binary.LittleEndian.Uint32(w[d7 : d7+4])
		h0 := (*pieces)[x0*pieceHash>>shift] & groups[x0>>24]
		h1 := (*pieces)[x1*pieceHash>>shift] & groups[x1>>24]
		h2 := (*pieces)[x2*pieceHash>>shift] & groups[x2>>24]
		h3 := (*pieces)[x3*pieceHash>>shift] & groups[x3>>24]
		h4 := (*pieces)[x4*pieceHash>>shift] & groups[x4>>24]
		h5 := (*pieces)[x5*pieceHash>>shift] & groups[x5>>24]
		h6 := (*pieces)[x6*pieceHash>>shift] & groups[x6>>24]
		h7 := (*pieces)[x7*pieceHash>>shift] & groups[x7>>24]
		if h0|h1|h2|h3|h4|h5|h6|h7 != 0 {
			hits := uint64(h0) | uint64(h1)<<8 | uint64(h2)<<16 | uint64(h3)<<24 | uint64(h4)<<32 | uint64(h5)<<40 | uint64(h6)<<48 | uint64(h7)<<56
			for hits != 0 {
				k := bits.TrailingZeros64(hits) / 8
				hits &^= 0xff << (8 * k)
				at := p + k*step
				if from := f.head(text, max(i, at-step+1), at); from <= at {
					return from
				}
			}
		}
		p += 8 * step
	}
	for ; p+pieceLen <= len(text); p += step {
		x := binary.LittleEndian.Uint32(text[p:])
		if (*pieces)[x*pieceHash>>shift]&groups[x>>24] != 0 {
			if from := f.head(text, max(i, p-step+1), p); from <= p {
				return from
			}
		}
	}
	return max(i, p-step+1)
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

const pieceHash = 0x9E3779B1 // 2^32 divided by the golden ratio

func (f *filter) hash(head uint64) uint64 {
	return (head & f.headMask) * 0x9E3779B97F4A7C15 >> f.headShift
}
