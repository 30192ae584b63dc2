package content

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxMsgpackDepth is how deep arrays and maps of msgpack may be nested: the limit of Python's own
// decoder (msgpack/unpack_template.h, MSGPACK_EMBED_STACK_SIZE), which reads what is masked here.
const maxMsgpackDepth = 1024

// errMsgpack says that bytes are not one complete value of msgpack.
var errMsgpack = errors.New("not msgpack")

// A msgpackEditor walks over one value of msgpack (https://github.com/msgpack/msgpack/blob/master/spec.md)
// and replaces strings in it. All other bytes stay as they are, even an encoding that is longer
// than it had to be: nothing is decoded into values of Go and encoded again.
type msgpackEditor struct {
	b  []byte
	at int // place of the next byte

	// text returns what stands for a string, which is valid UTF-8. A string that is not may be
	// any bytes, and stays.
	text func(string) (string, error)
	// number, if not nil, gets each number as a program would print it.
	number func(text []byte) error

	edits   []msgpackEdit
	keys    []msgpackKey // of the maps that are open
	scratch []byte
}

// A msgpackEdit replaces the bytes from at to end, which are a string with its header.
type msgpackEdit struct {
	at, end int
	text    string
}

// A msgpackKey is a string that is a key of a map.
type msgpackKey struct {
	at   int
	edit int // index of its edit, or -1
}

// run returns the value with its strings replaced. The error is errMsgpack, [ErrStill] if too many
// keys of a map are replaced, or one of text and number.
func (m *msgpackEditor) run() ([]byte, error) {
	if err := m.value(0); err != nil {
		return nil, err
	}
	if m.at != len(m.b) {
		return nil, errMsgpack
	}
	if len(m.edits) == 0 {
		return m.b, nil
	}
	var out []byte
	from := 0
	for _, e := range m.edits {
		out = append(out, m.b[from:e.at]...)
		out = appendMsgpackString(out, e.text)
		from = e.end
	}
	return append(out, m.b[from:]...), nil
}

// appendMsgpackString appends a string with the shortest header.
func appendMsgpackString(b []byte, s string) []byte {
	switch n := len(s); {
	case n < 32:
		b = append(b, 0xa0|byte(n))
	case n <= math.MaxUint8:
		b = append(b, 0xd9, byte(n))
	case n <= math.MaxUint16:
		b = binary.BigEndian.AppendUint16(append(b, 0xda), uint16(n))
	default:
		b = binary.BigEndian.AppendUint32(append(b, 0xdb), uint32(n)) //nolint:gosec // a message has a few MiB
	}
	return append(b, s...)
}

// take returns the next n bytes.
func (m *msgpackEditor) take(n uint64) ([]byte, error) {
	left := m.b[m.at:]
	if n > uint64(len(left)) {
		return nil, errMsgpack
	}
	m.at += int(n) //nolint:gosec // checked above
	return left[:n], nil
}

// unsigned reads a number of 1, 2, 4 or 8 bytes.
func (m *msgpackEditor) unsigned(size int) (uint64, error) {
	b, err := m.take(uint64(size)) //nolint:gosec // a constant
	n := uint64(0)
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return n, err
}

// value walks over a value.
func (m *msgpackEditor) value(depth int) error {
	begin := m.at
	head, err := m.take(1)
	if err != nil || depth > maxMsgpackDepth {
		return errMsgpack
	}
	switch c := head[0]; {
	case c <= 0x7f, c >= 0xe0: // a small integer
		return m.signed(int64(int8(c))) //nolint:gosec // the bits of a signed number
	case c <= 0x8f:
		return m.entries(uint64(c&0x0f), depth)
	case c <= 0x9f:
		return m.items(uint64(c&0x0f), depth)
	case c <= 0xbf:
		return m.str(begin, uint64(c&0x1f))
	case c == 0xc0, c == 0xc2, c == 0xc3: // nil, false, true
		return nil
	case c == 0xc1: // never used
		return errMsgpack
	case c == 0xca, c == 0xcb:
		return m.float(4 << (c - 0xca))
	case 0xd4 <= c && c <= 0xd8: // an extension of fixed length, behind its type
		_, err := m.take(1 + 1<<(c-0xd4))
		return err
	default:
		return m.long(c, begin, depth)
	}
}

// long walks over a value whose header c is followed by a number: the value itself, or its length.
func (m *msgpackEditor) long(c byte, begin, depth int) error {
	kind := slices.IndexFunc(msgpackLong, func(l msgpackRange) bool { return l.from <= c && c <= l.to })
	size := msgpackLong[kind].size << (c - msgpackLong[kind].from)
	n, err := m.unsigned(size)
	if err != nil {
		return err
	}
	switch msgpackLong[kind].what {
	case "bin":
		_, err = m.take(n)
	case "ext":
		_, err = m.take(n + 1)
	case "uint":
		if m.number != nil {
			err = m.print(strconv.AppendUint(m.scratch[:0], n, 10))
		}
	case "int":
		unused := 64 - 8*size
		err = m.signed(int64(n<<unused) >> unused) //nolint:gosec // the bits of a signed number
	case "str":
		err = m.str(begin, n)
	case "array":
		err = m.items(n, depth)
	case "map":
		err = m.entries(n, depth)
	}
	return err
}

// msgpackRange is a range of headers of one kind. The number behind each has twice as many bytes
// as that of the header before it; size is that of the first.
type msgpackRange struct {
	from, to byte
	size     int
	what     string
}

// msgpackLong are the kinds of headers that are followed by a number.
var msgpackLong = []msgpackRange{
	{0xc4, 0xc6, 1, "bin"},
	{0xc7, 0xc9, 1, "ext"},
	{0xcc, 0xcf, 1, "uint"},
	{0xd0, 0xd3, 1, "int"},
	{0xd9, 0xdb, 1, "str"},
	{0xdc, 0xdd, 2, "array"},
	{0xde, 0xdf, 2, "map"},
}

func (m *msgpackEditor) signed(n int64) error {
	if m.number == nil {
		return nil
	}
	return m.print(strconv.AppendInt(m.scratch[:0], n, 10))
}

// float walks over a float of size bytes.
func (m *msgpackEditor) float(size int) error {
	bits, err := m.unsigned(size)
	if err != nil || m.number == nil {
		return err
	}
	f := math.Float64frombits(bits)
	if size == 4 {
		f = float64(math.Float32frombits(uint32(bits))) //nolint:gosec // it has four bytes
	}
	return m.print(appendFloat(m.scratch[:0], f, 8*size))
}

func (m *msgpackEditor) print(text []byte) error {
	m.scratch = text
	return m.number(text)
}

// appendFloat appends f as programs print it: with and without an exponent.
func appendFloat(b []byte, f float64, bits int) []byte {
	b = strconv.AppendFloat(b, f, 'f', -1, bits)
	b = append(b, gap...)
	return strconv.AppendFloat(b, f, 'e', -1, bits)
}

// str walks over a string of n bytes, whose header began at a place.
func (m *msgpackEditor) str(begin int, n uint64) error {
	b, err := m.take(n)
	if err != nil || !utf8.Valid(b) {
		return err
	}
	s := string(b)
	masked, err := m.text(s)
	if err == nil && masked != s {
		m.edits = append(m.edits, msgpackEdit{begin, m.at, masked})
	}
	return err
}

// items walks over the n items of an array.
func (m *msgpackEditor) items(n uint64, depth int) error {
	for range n {
		if err := m.value(depth + 1); err != nil {
			return err
		}
	}
	return nil
}

// entries walks over the n keys and values of a map. Keys that become equal are numbered.
func (m *msgpackEditor) entries(n uint64, depth int) error {
	from, edited := len(m.keys), 0
	for range n {
		key := msgpackKey{m.at, -1}
		edits := len(m.edits)
		if err := m.value(depth + 1); err != nil {
			return err
		}
		if len(m.edits) > edits && m.edits[edits].at == key.at {
			key.edit = edits
			edited++
		}
		if isMsgpackString(m.b[key.at]) {
			m.keys = append(m.keys, key)
		}
		if err := m.value(depth + 1); err != nil {
			return err
		}
	}
	if edited > maxMaskedKeys {
		return fmt.Errorf("%w: more than %d names in one object hold a value", ErrStill, maxMaskedKeys)
	}
	if edited > 0 {
		m.distinct(m.keys[from:])
	}
	m.keys = m.keys[:from]
	return nil
}

func isMsgpackString(head byte) bool { return head&^0x1f == 0xa0 || 0xd9 <= head && head <= 0xdb }

// distinct appends a number to each replaced key that another key of its map is equal to. Of the
// other keys it looks only at those that a replaced one may become equal to: there may be millions.
func (m *msgpackEditor) distinct(keys []msgpackKey) {
	replaced := map[string]bool{}
	for _, k := range keys {
		if k.edit >= 0 {
			replaced[m.edits[k.edit].text] = true
		}
	}
	var before, after []string
	var edits []int
	for _, k := range keys {
		old := msgpackString(m.b[k.at:])
		if k.edit >= 0 {
			before, after = append(before, string(old)), append(after, m.edits[k.edit].text)
			edits = append(edits, k.edit)
			continue
		}
		base := strings.TrimRight(string(old), "0123456789")
		if replaced[string(old)] || replaced[strings.TrimSuffix(base, "-")] {
			before, after, edits = append(before, string(old)), append(after, string(old)), append(edits, -1)
		}
	}
	for i, name := range distinct(before, after) {
		if edits[i] >= 0 {
			m.edits[edits[i]].text = name
		}
	}
}

// msgpackString returns the bytes of the string at the beginning of b, which is complete.
func msgpackString(b []byte) []byte {
	m := msgpackEditor{b: b, at: 1}
	n := uint64(b[0] & 0x1f)
	if b[0] >= 0xd9 {
		n, _ = m.unsigned(1 << (b[0] - 0xd9))
	}
	s, _ := m.take(n)
	return s
}
