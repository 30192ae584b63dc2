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
	default:
		f.pieces = make([]byte, large)
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
		h := f.head(binary.LittleEndian.Uint64(b[:]))
		f.heads[h/64] |= 1 << (h % 64)
	})
	return f
}

// The sizes of the table of pieces: a part of a processor's first cache, of its
// second, and about all of that, for more pieces than can be told apart in less.
const (
	small  = 1 << 14
	medium = 1 << 17
	large  = 1 << 19
)

const (
	// placesPerPiece is how empty the table is to be, so that few places of a text
	// look like a piece that is there.
	placesPerPiece = 20
	bitsPerHead    = 64
)

const pieceHash = 0x9E3779B1 // 2^32 divided by the golden ratio

func (f *filter) head(x uint64) uint64 {
	return (x & f.headMask) * 0x9E3779B97F4A7C15 >> f.headShift
}

// next returns the first place at or behind i at which a form may begin, as far
// as can be seen; beyond what cannot be seen, every place may.
func (f *filter) next(text []byte, i int) int {
	if f.stride == 0 {
		return i
	}
	for p := i + f.stride - 1; ; p += f.stride {
		p = f.piece(text, p)
		from := max(i, p-f.stride+1)
		if p+pieceLen > len(text) {
			return from
		}
		for ; from <= p; from++ {
			if from+8 > len(text) {
				return from
			}
			h := f.head(binary.LittleEndian.Uint64(text[from:]))
			if f.heads[h/64]&(1<<(h%64)) != 0 {
				return from
			}
		}
	}
}

// piece returns the first place of p, p+stride, p+2*stride … at which a piece of
// a form may be, or one behind which the text ends too soon for one.
func (f *filter) piece(text []byte, p int) int {
	switch len(f.pieces) {
	case small:
		return search((*[small]byte)(f.pieces), &f.groups, f.stride, text, p)
	case medium:
		return search((*[medium]byte)(f.pieces), &f.groups, f.stride, text, p)
	}
	return search((*[large]byte)(f.pieces), &f.groups, f.stride, text, p)
}

// search is piece for one size of the table, which the compiler knows then, and
// needs no checks.
func search[T [small]byte | [medium]byte | [large]byte](pieces *T, groups *[256]byte, step int, text []byte, p int) int {
	shift := 33 - bits.Len(uint(len(*pieces)))
	// Eight places at once. Their distances are masked, which does not change them,
	// so that the compiler knows that they are inside the window.
	d1, d2, d3, d4, d5, d6, d7 := step&127, 2*step&127, 3*step&127, 4*step&127, 5*step&127, 6*step&127, 7*step&127
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
		if (*pieces)[x0*pieceHash>>shift]&groups[x0>>24]|
			(*pieces)[x1*pieceHash>>shift]&groups[x1>>24]|
			(*pieces)[x2*pieceHash>>shift]&groups[x2>>24]|
			(*pieces)[x3*pieceHash>>shift]&groups[x3>>24]|
			(*pieces)[x4*pieceHash>>shift]&groups[x4>>24]|
			(*pieces)[x5*pieceHash>>shift]&groups[x5>>24]|
			(*pieces)[x6*pieceHash>>shift]&groups[x6>>24]|
			(*pieces)[x7*pieceHash>>shift]&groups[x7>>24] != 0 {
			break
		}
		p += 8 * step
	}
	for ; p+pieceLen <= len(text); p += step {
		x := binary.LittleEndian.Uint32(text[p:])
		if (*pieces)[x*pieceHash>>shift]&groups[x>>24] != 0 {
			break
		}
	}
	return p
}
