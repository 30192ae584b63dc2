package redact

import "encoding/binary"

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
	shift  uint
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

func newFilter(forms []form) *filter {
	f := &filter{}
	m := maxHead
	for _, form := range forms {
		m = min(m, len(form.bytes))
	}
	if m < pieceLen {
		return f
	}
	f.stride = m - pieceLen + 1
	// At least 20 places a piece where that fits a core's own cache, so that few
	// places of a text look like one that is there.
	bits := uint(20)
	switch pieces := len(forms) * f.stride; {
	case pieces <= 1<<14/20:
		bits = 14
	case pieces <= 1<<17/20:
		bits = 17
	}
	f.pieces, f.shift = make([]byte, 1<<bits), 32-bits
	for i := range f.groups {
		f.groups[i] = 1 << (i & 7)
	}
	headBits := uint(10)
	for 1<<headBits < 256*len(forms) {
		headBits++
	}
	f.heads, f.headShift = make([]uint64, 1<<headBits/64), 64-headBits
	f.headMask = ^uint64(0)
	if m < 8 {
		f.headMask = 1<<(8*m) - 1
	}
	for _, form := range forms {
		for i := range f.stride {
			x := binary.LittleEndian.Uint32(form.bytes[i:])
			f.pieces[x*pieceHash>>f.shift] |= f.groups[x>>24]
		}
		var b [8]byte
		copy(b[:], form.bytes)
		h := f.head(binary.LittleEndian.Uint64(b[:]))
		f.heads[h/64] |= 1 << (h % 64)
	}
	return f
}

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
	step := f.stride
	pieces, groups, shift := f.pieces, &f.groups, f.shift
	at := func(b []byte) byte {
		x := binary.LittleEndian.Uint32(b)
		return pieces[x*pieceHash>>shift] & groups[x>>24]
	}
	for ; p+7*step+pieceLen <= len(text); p += 8 * step {
		b := text[p : p+7*step+pieceLen]
		if at(b)|at(b[step:])|at(b[2*step:])|at(b[3*step:])|at(b[4*step:])|at(b[5*step:])|at(b[6*step:])|at(b[7*step:]) != 0 {
			break
		}
	}
	for ; p+pieceLen <= len(text); p += step {
		if at(text[p:]) != 0 {
			break
		}
	}
	return p
}
