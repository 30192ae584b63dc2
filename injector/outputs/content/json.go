package content

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"
)

const (
	// maxNesting is encoding/json's own limit. Deeper JSON is masked as a text.
	maxNesting = 10_000
	// maxNumber bounds the length of a number in bytes: it is held back, because a mask
	// replaces it as a whole. JSON with a longer one is masked as a text.
	maxNumber = 64 << 10
	// maxToken bounds the length of a string in bytes. JSON with a longer one may be masked as
	// a text.
	maxToken = 16 << 20
	// maxMaskedKeys bounds how many masked names are remembered, in all objects that are open
	// at the same time.
	maxMaskedKeys = 1 << 16
)

var errLongToken = errors.New("a token is too long")

// isJSON reports whether r is JSON (RFC 8259): one value, or several as in JSON Lines, with or
// without a byte order mark in front. An error is one of reading.
//
// It reads token by token, so that a file of any size needs only the memory of its longest
// token.
func isJSON(r io.Reader) (bool, error) {
	bounded := &tokenReader{r: bufio.NewReader(r)}
	if begin, _ := bounded.r.Peek(len(mark)); string(begin) == mark {
		_, _ = bounded.r.Discard(len(mark))
	}
	d := json.NewDecoder(bounded)
	d.UseNumber() // otherwise a number that does not fit into a float64 is an error

	values, depth := 0, 0
	for {
		bounded.n = 0
		token, err := d.Token()
		if err != nil {
			return err == io.EOF && depth == 0 && values > 0, bounded.err
		}

		switch token := token.(type) {
		case json.Delim:
			if token == '{' || token == '[' {
				depth++
			} else {
				depth--
			}
		case json.Number:
			if len(token) > maxNumber {
				return false, nil
			}
		}
		if depth > maxNesting {
			return false, nil
		}
		if depth > 0 {
			continue
		}

		values++
		// The decoder reads 1{} and truefalse as two values each; other programs do not.
		if _, isDelim := token.(json.Delim); !isDelim && !spaceFollows(token, d.Buffered()) {
			return false, nil
		}
	}
}

// spaceFollows reports whether a value at the top level is clearly ended: it is a string, or
// white space or the end of the file follows.
func spaceFollows(token json.Token, behind io.Reader) bool {
	if _, isString := token.(string); isString {
		return true
	}
	var next [1]byte
	n, _ := behind.Read(next[:]) // a buffer returns no error but io.EOF
	return n == 0 || space(next[0])
}

// A tokenReader returns an error when a token is too long, and keeps an error of r apart from
// those of the syntax.
type tokenReader struct {
	r   *bufio.Reader
	n   int // bytes read since the last token
	err error
}

// Read implements [io.Reader].
func (t *tokenReader) Read(p []byte) (int, error) {
	if t.n > maxToken {
		return 0, errLongToken
	}
	n, err := t.r.Read(p)
	t.n += n
	if err != io.EOF {
		t.err = err
	}
	return n, err
}

// simple are the bytes that stand for themselves in a string.
var simple = func() (is [256]bool) {
	for c := range is {
		is[c] = c >= ' ' && c != '"' && c != '\\'
	}
	return is
}()

func space(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

const mark = "\xef\xbb\xbf" // the byte order mark in UTF-8

// A jsonMasker masks JSON so that it stays JSON with the same values at the same places. It
// gets bytes that isJSON has accepted, and follows all of them, covered or not:
//
//   - In a string, the mask replaces each run of covered bytes. A character that is partly
//     covered, escaped or not, is covered as a whole; so is a pair of surrogates.
//   - A number or a literal that is partly covered is replaced by a string with the mask.
//   - White space, quotes and brackets stay, even if they are covered.
//
// Names that become equal in one object are numbered; otherwise a program that reads the object
// would keep only the last of them.
type jsonMasker struct {
	out   *sink
	ready []byte // output that is not written yet

	mask   string // mask of the current run, escaped for a string
	masked bool   // the mask is written already, in the string or for the number

	where place
	unit  []byte // the character, number or literal that has begun
	need  int    // length of the character, as far as it is known
	drop  bool   // the unit is covered

	open   []object // objects and arrays that are open
	key    bool     // this string, or the next one, is a name
	renew  bool     // this name has a mask in it
	hash   uint64   // hash of the name, with its escapes resolved
	hashes int      // number of names remembered in open
}

// A place is the position of the masker in JSON's grammar.
type place uint8

const (
	outside place = iota
	inString
	inScalar // a number or literal
)

// An object is an open object or array.
type object struct {
	array bool
	names map[uint64]int // by the hash of a masked name, the number of the next name like it
}

// flushSize is how many bytes are written at a time.
const flushSize = 32 << 10

// Write implements [io.Writer].
func (m *jsonMasker) Write(p []byte) (int, error) { return len(p), m.follow(p, false) }

func (m *jsonMasker) covered(p []byte, mask string) error {
	if mask != "" {
		quoted, err := json.Marshal(mask)
		if err != nil {
			return err
		}
		m.mask, m.masked = string(quoted[1:len(quoted)-1]), false
	}
	return m.follow(p, true)
}

func (m *jsonMasker) follow(p []byte, covered bool) error {
	for i := 0; i < len(p); {
		if !covered && len(m.unit) == 0 {
			n := m.plain(p[i:])
			m.ready = append(m.ready, p[i:i+n]...)
			if i += n; i == len(p) {
				break
			}
		}
		used, err := m.step(p[i], covered)
		if err != nil {
			return err
		}
		if used {
			i++
		}
	}
	if len(m.ready) < flushSize {
		return nil
	}
	return m.flush()
}

// plain returns how many bytes at the beginning of p can be copied without following them.
func (m *jsonMasker) plain(p []byte) (n int) {
	switch m.where {
	case outside:
		for n < len(p) && (space(p[n]) || p[n] == ':') {
			n++
		}
	case inString:
		for n < len(p) && simple[p[n]] && p[n] < 0x80 {
			n++
		}
		if m.key {
			m.hash = hash(m.hash, p[:n])
		}
	}
	return n
}

func (m *jsonMasker) flush() error {
	_, err := m.out.Write(m.ready)
	m.ready = m.ready[:0]
	return err
}

// step follows c. used is false if c only ended a unit, and must be followed again.
func (m *jsonMasker) step(c byte, covered bool) (used bool, err error) {
	switch {
	case m.where == outside:
		return true, m.between(c, covered)
	case m.where == inScalar:
		if space(c) || c == ',' || c == ']' || c == '}' {
			m.end()
			m.where = outside
			return false, nil
		}
		return true, m.take(c, covered)
	case len(m.unit) == 0 && c == '"':
		err := m.closeString()
		m.where = outside
		return true, err
	case len(m.unit) == 0:
		m.need = length(c)
	case c != '\\' && len(m.unit) == m.need, m.unit[0] >= 0x80 && utf8.RuneStart(c):
		m.end() // a surrogate without its other half, or a value that is not UTF-8
		return false, nil
	}
	if err := m.take(c, covered); err != nil {
		return true, err
	}
	if m.need = m.longer(); len(m.unit) == m.need && !m.high() {
		m.end()
	}
	return true, nil
}

// length returns how many bytes a character has that begins with c. An escape may turn out
// to be longer.
func length(c byte) int {
	switch {
	case c == '\\':
		return 2
	case c < 0xc0:
		return 1
	case c < 0xe0:
		return 2
	case c < 0xf0:
		return 3
	}
	return 4
}

// high reports whether the unit is a complete escape of the first half of a surrogate pair.
func (m *jsonMasker) high() bool {
	u := m.unit
	return len(u) == 6 && u[0] == '\\' && u[2]|0x20 == 'd' &&
		(u[3] == '8' || u[3] == '9' || u[3]|0x20 == 'a' || u[3]|0x20 == 'b')
}

// longer returns the length of the unit, now that more of it is known. The escape behind the
// first half of a pair is part of the unit, even if it is not a second half.
func (m *jsonMasker) longer() int {
	switch u := m.unit; {
	case len(u) == 2 && u[0] == '\\' && u[1] == 'u':
		return 6
	case len(u) == 7:
		return 8
	case len(u) == 8 && u[7] == 'u':
		return 12
	}
	return m.need
}

// take adds c to the unit, or drops both.
func (m *jsonMasker) take(c byte, covered bool) error {
	if covered && (m.where == inString || !m.drop) { // a number gets one mask
		m.drop = true
		if err := m.stand(); err != nil {
			return err
		}
	}
	switch {
	case m.where == inString, !m.drop:
		m.unit = append(m.unit, c)
	default:
		m.unit = append(m.unit[:0], c) // only that there is a unit matters
	}
	if len(m.unit) > maxNumber {
		return fmt.Errorf("%w: it changed", ErrStill) // isJSON accepts no number of that length
	}
	return nil
}

// stand writes the mask, unless it is written already.
func (m *jsonMasker) stand() error {
	if m.masked {
		return nil
	}
	m.masked = true
	if m.where == inScalar {
		m.ready = append(m.ready, '"')
	}
	if err := m.flush(); err != nil {
		return err
	}
	if err := m.out.mask(m.mask); err != nil {
		return err
	}
	if m.where == inScalar {
		m.ready = append(m.ready, '"')
	} else if m.key {
		m.renew, m.hash = true, hash(m.hash, m.mask)
	}
	return nil
}

// end ends the unit and writes it, unless it is covered.
func (m *jsonMasker) end() {
	if !m.drop {
		m.ready = append(m.ready, m.unit...)
		if m.where == inString && m.key {
			m.hash = hash(m.hash, meaning(m.unit))
		}
	}
	m.unit, m.need, m.drop = m.unit[:0], 0, false
}

// meaning returns the character that a unit stands for, because equal names may be escaped
// differently.
func meaning(unit []byte) []byte {
	if len(unit) == 0 || unit[0] != '\\' {
		return unit
	}
	var s string
	if json.Unmarshal(slices.Concat([]byte{'"'}, unit, []byte{'"'}), &s) != nil {
		return unit
	}
	return []byte(s)
}

// between follows c, which is outside of strings, numbers and literals.
func (m *jsonMasker) between(c byte, covered bool) error {
	switch c {
	case '"':
		m.where, m.masked, m.renew, m.hash = inString, false, false, fnvBasis
	case '{', '[':
		if len(m.open) > maxNesting {
			return fmt.Errorf("%w: it changed", ErrStill)
		}
		m.open = append(m.open, object{array: c == '['})
		m.key = c == '{'
	case '}', ']':
		if n := len(m.open); n > 0 {
			m.hashes -= len(m.open[n-1].names)
			m.open = m.open[:n-1]
		}
		m.key = false
	case ',':
		m.key = len(m.open) > 0 && !m.open[len(m.open)-1].array
	case ':', ' ', '\n', '\r', '\t', mark[0], mark[1], mark[2]:
	default:
		m.where, m.masked = inScalar, false
		return m.take(c, covered)
	}
	m.ready = append(m.ready, c)
	return nil
}

// closeString ends a string. To a name with a mask in it, it appends a number if the object
// already has that name.
func (m *jsonMasker) closeString() error {
	if m.key && m.renew && len(m.open) > 0 {
		o := &m.open[len(m.open)-1]
		if o.names == nil {
			o.names = map[uint64]int{}
		}
		number, h := "", m.hash
		for n := max(o.names[h], 2); o.names[h] > 0; n++ {
			number = fmt.Sprintf("-%d", n)
			h = hash(m.hash, number)
			o.names[m.hash] = n + 1
		}
		o.names[h] = 2
		m.ready = append(m.ready, number...)
		if m.hashes++; m.hashes > maxMaskedKeys {
			return fmt.Errorf("%w: more than %d names in one object hold a value", ErrStill, maxMaskedKeys)
		}
	}
	m.key = false
	m.ready = append(m.ready, '"')
	return nil
}

// finish writes what is held back at the end of the text.
func (m *jsonMasker) finish() error {
	m.end()
	return m.flush()
}

// Constants of the 64-bit FNV-1a hash. If two different names have the same hash, one of them
// gets a number that it does not need.
const (
	fnvBasis = 14695981039346656037
	fnvPrime = 1099511628211
)

func hash[T string | []byte](h uint64, s T) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * fnvPrime
	}
	return h
}
