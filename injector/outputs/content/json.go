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
	// maxNesting is that of encoding/json. What is deeper is a text like any other.
	maxNesting = 10_000
	// maxNumber bounds what is held back of a number, which becomes a mask as a whole.
	// What has a longer one is a text like any other.
	maxNumber = 64 << 10
	// maxToken bounds what is held of a string. What has a longer one is a text like any
	// other.
	maxToken = 16 << 20
	// maxMaskedKeys bounds what is remembered of masked keys, in all objects that are
	// open at a time.
	maxMaskedKeys = 1 << 16
)

var errLongToken = errors.New("a token is too long")

// isJSON reports whether r is JSON (RFC 8259): one value or several, as in JSON Lines, with
// a byte order mark before them or without. An error is r's own.
//
// encoding/json reads it token by token, so that a file of any size needs the memory of
// its longest token.
func isJSON(r io.Reader) (bool, error) {
	bounded := &tokenReader{r: bufio.NewReader(r)}
	if begin, _ := bounded.r.Peek(len(mark)); string(begin) == mark {
		_, _ = bounded.r.Discard(len(mark))
	}
	d := json.NewDecoder(bounded)
	d.UseNumber() // a number of any size is one
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
		// The decoder reads 1{} and truefalse as two values, which no other reader does.
		if _, isDelim := token.(json.Delim); !isDelim && !spaceFollows(token, d.Buffered()) {
			return false, nil
		}
	}
}

// spaceFollows reports whether a value at the top is the last one, or ends by itself as a
// string does, or white space is behind it.
func spaceFollows(token json.Token, behind io.Reader) bool {
	if _, isString := token.(string); isString {
		return true
	}
	var next [1]byte
	n, _ := behind.Read(next[:]) // of a buffer
	return n == 0 || space(next[0])
}

// A tokenReader ends when a token is too long to be held, and keeps the error of r.
type tokenReader struct {
	r   *bufio.Reader
	n   int // read since the last token
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

// simple are the bytes of a string that mean themselves.
var simple = func() (is [256]bool) {
	for c := range is {
		is[c] = c >= ' ' && c != '"' && c != '\\'
	}
	return is
}()

func space(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

const mark = "\xef\xbb\xbf" // of the byte order, in UTF-8

// A jsonMasker masks JSON so that it stays that, with as many values at the same
// places. It gets what a [jsonCheck] has found to be JSON, and follows the bytes
// that were there, covered or not:
//
//   - In a string the mask stands for what is covered, once for each run. A
//     character that is partly covered, escaped or not, is covered; so is a pair of
//     surrogates.
//   - A number or a literal that is partly covered becomes a string, the mask.
//   - White space and what is around strings stay.
//
// Names that become equal in one object are numbered: a program that reads them
// would keep the last one only.
type jsonMasker struct {
	out   *sink
	ready []byte // to be written

	mask   string // of the run, as it stands in a string
	masked bool   // it stands already, in the string or for the number

	where place
	unit  []byte // the begun character, number or literal
	need  int    // how long the character is, as far as that is known
	drop  bool   // the unit is covered

	open   []object // all that are, and arrays
	key    bool     // the next string is a name, or this one
	renew  bool     // this name has a mask in it
	hash   uint64   // of what this name means
	hashes int      // how many are remembered
}

// A place is where the masker is in a text.
type place uint8

const (
	outside place = iota
	inString
	inScalar // a number or literal
)

// An object is one, or an array.
type object struct {
	array bool
	names map[uint64]int // of each that holds a mask, the number of the next one like it
}

// flushSize is as much as is written at a time.
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

// plain returns how many bytes p begins with that stay and change nothing.
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

// step goes on by c, or to before it: used is false if it only ended something.
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
		m.end() // a surrogate without its other half, or a value that is no UTF-8
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

// length returns how many bytes the character has that begins with c; one of a
// backslash grows.
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

// high reports whether the unit is the first half of a pair, whole.
func (m *jsonMasker) high() bool {
	u := m.unit
	return len(u) == 6 && u[0] == '\\' && u[2]|0x20 == 'd' && (u[3] == '8' || u[3] == '9' || u[3]|0x20 == 'a' || u[3]|0x20 == 'b')
}

// longer returns how long the unit is, now that there is more of it. The escape
// behind a first half is part of it, even if it is no second one.
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
	if covered && (m.where == inString || !m.drop) { // of a number there is one mask
		m.drop = true
		if err := m.stand(); err != nil {
			return err
		}
	}
	switch {
	case m.where == inString, !m.drop:
		m.unit = append(m.unit, c)
	default:
		m.unit = append(m.unit[:0], c) // that there is one is all that matters
	}
	if len(m.unit) > maxNumber {
		return fmt.Errorf("%w: it changed", ErrStill) // a number is not that long
	}
	return nil
}

// stand writes the mask, if it is not there yet.
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

// end ends the unit.
func (m *jsonMasker) end() {
	if !m.drop {
		m.ready = append(m.ready, m.unit...)
		if m.where == inString && m.key {
			m.hash = hash(m.hash, meaning(m.unit))
		}
	}
	m.unit, m.need, m.drop = m.unit[:0], 0, false
}

// meaning returns the character that a unit is: a name may be written in two ways.
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

// between follows c, which is in no string, number or literal.
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

// closeString ends a string, and makes a name that has a mask in it different from
// the others of its object.
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
			return fmt.Errorf("%w: more than %d names in one object hold one", ErrStill, maxMaskedKeys)
		}
	}
	m.key = false
	m.ready = append(m.ready, '"')
	return nil
}

// finish writes what is held back: the text has ended.
func (m *jsonMasker) finish() error {
	m.end()
	return m.flush()
}

// The hash of Fowler, Noll and Vo. Names that share one by chance get a number that
// they do not need.
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
