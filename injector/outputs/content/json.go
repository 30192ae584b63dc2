package content

import (
	"encoding/json"
	"fmt"
	"slices"
	"unicode/utf8"
)

const (
	// maxNesting is that of encoding/json. What is deeper is a text like any other.
	maxNesting = 10_000
	// maxNumber bounds what is held back of a number, which becomes a mask as a whole.
	// What has a longer one is a text like any other.
	maxNumber = 64 << 10
	// maxMaskedKeys bounds what is remembered of masked keys, in all objects that are
	// open at a time.
	maxMaskedKeys = 1 << 16
)

// A jsonCheck tells whether a text is JSON (RFC 8259): one value or several, as in
// JSON Lines, with a byte order mark before them or without.
type jsonCheck struct {
	state  jsonState
	key    bool   // the string is the name of a member
	n      int    // of what is counted in a state
	rest   string // of a literal
	values int    // at the top
	depth  int
	object [maxNesting/64 + 1]uint64 // a bit for each level: it is an object, not an array
}

type jsonState uint8

const (
	jsonBegin  jsonState = iota // there may be a byte order mark
	jsonTop                     // between values
	jsonApart                   // behind a number or literal at the top
	jsonValue                   // a value must come
	jsonArray                   // a value or the end of the array
	jsonObject                  // a name or the end of the object
	jsonKey                     // a name must come
	jsonColon
	jsonAfter // behind a value
	jsonString
	jsonEscape
	jsonHex
	jsonLiteral
	jsonMinus
	jsonZero
	jsonDigits
	jsonPoint
	jsonFraction
	jsonExponent
	jsonSign
	jsonPower
	jsonBad
)

func (j *jsonCheck) reset() {
	j.state, j.values, j.depth, j.n = jsonBegin, 0, 0, 0
}

// write reports whether it may be JSON still.
func (j *jsonCheck) write(p []byte) bool {
	for i := 0; i < len(p); i++ {
		from := i
		switch j.state { // what most of a text is, without a call for each byte
		case jsonString:
			for i < len(p) && simple[p[i]] {
				i++
			}
		case jsonDigits, jsonFraction, jsonPower:
			for i < len(p) && digit(p[i]) {
				i++
			}
			j.n += i - from
		case jsonTop, jsonValue, jsonArray, jsonObject, jsonKey, jsonColon, jsonAfter:
			for i < len(p) && space(p[i]) {
				i++
			}
		}
		if i == len(p) {
			break
		}
		if j.state = j.next(p[i]); j.state == jsonBad {
			return false
		}
	}
	return j.state != jsonBad
}

// done reports whether it was JSON, now that it has ended.
func (j *jsonCheck) done() bool {
	switch j.state {
	case jsonZero, jsonDigits, jsonFraction, jsonPower:
		return j.depth == 0
	case jsonTop, jsonApart:
		return j.values > 0
	default:
		return false
	}
}

// simple are the bytes of a string that mean themselves.
var simple = func() (is [256]bool) {
	for c := range is {
		is[c] = c >= ' ' && c != '"' && c != '\\'
	}
	return is
}()

func space(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

func digit(c byte) bool { return '0' <= c && c <= '9' }

func hexDigit(c byte) bool { return digit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' }

const mark = "\xef\xbb\xbf" // of the byte order, in UTF-8

// next returns the state behind c.
func (j *jsonCheck) next(c byte) jsonState {
	switch j.state {
	case jsonBegin:
		switch {
		case c == mark[j.n]:
			if j.n++; j.n == len(mark) {
				return jsonTop
			}
			return jsonBegin
		case j.n > 0:
			return jsonBad
		}
		return j.begin(c, jsonTop)
	case jsonString:
		switch {
		case c == '"' && j.key:
			return jsonColon
		case c == '"':
			return j.after(jsonTop)
		case c == '\\':
			return jsonEscape
		case c < ' ':
			return jsonBad
		}
		return jsonString
	case jsonEscape:
		switch c {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			return jsonString
		case 'u':
			j.n = 0
			return jsonHex
		}
		return jsonBad
	case jsonHex:
		if j.n++; !hexDigit(c) {
			return jsonBad
		} else if j.n == 4 {
			return jsonString
		}
		return jsonHex
	case jsonLiteral:
		if c != j.rest[0] {
			return jsonBad
		}
		if j.rest = j.rest[1:]; j.rest == "" {
			return j.after(jsonApart)
		}
		return jsonLiteral
	case jsonMinus, jsonZero, jsonDigits, jsonPoint, jsonFraction, jsonExponent, jsonSign, jsonPower:
		return j.number(c)
	default:
		return j.between(c)
	}
}

// between returns the state behind c, which is in no string, number or literal.
func (j *jsonCheck) between(c byte) jsonState {
	if space(c) {
		if j.state == jsonApart {
			return jsonTop
		}
		return j.state
	}
	switch j.state {
	case jsonTop, jsonValue:
		return j.begin(c, jsonBad)
	case jsonArray:
		if c == ']' {
			return j.end()
		}
		return j.begin(c, jsonBad)
	case jsonObject, jsonKey:
		if c == '"' {
			j.key = true
			return jsonString
		}
		if c == '}' && j.state == jsonObject {
			return j.end()
		}
	case jsonColon:
		if c == ':' {
			return jsonValue
		}
	case jsonAfter:
		switch {
		case c == ',' && j.inObject():
			return jsonKey
		case c == ',':
			return jsonValue
		case c == '}' && j.inObject(), c == ']' && !j.inObject():
			return j.end()
		}
	}
	return jsonBad
}

// begin returns the state behind the first byte of a value, and blank behind one
// of white space.
func (j *jsonCheck) begin(c byte, blank jsonState) jsonState {
	j.n = 0
	switch {
	case c == '{':
		return j.open(1, jsonObject)
	case c == '[':
		return j.open(0, jsonArray)
	case c == '"':
		j.key = false
		return jsonString
	case c == 't':
		return j.literal("true")
	case c == 'f':
		return j.literal("false")
	case c == 'n':
		return j.literal("null")
	case c == '-':
		return jsonMinus
	case c == '0':
		return jsonZero
	case digit(c):
		return jsonDigits
	case space(c):
		return blank
	}
	return jsonBad
}

func (j *jsonCheck) literal(text string) jsonState {
	j.rest = text[1:]
	return jsonLiteral
}

// number returns the state behind c in a number, or behind one.
func (j *jsonCheck) number(c byte) jsonState {
	if j.n++; j.n >= maxNumber {
		return jsonBad
	}
	switch j.state {
	case jsonMinus:
		switch {
		case c == '0':
			return jsonZero
		case digit(c):
			return jsonDigits
		}
		return jsonBad
	case jsonDigits:
		if digit(c) {
			return jsonDigits
		}
	case jsonPoint, jsonFraction:
		if digit(c) {
			return jsonFraction
		}
	case jsonExponent, jsonSign, jsonPower:
		switch {
		case digit(c):
			return jsonPower
		case (c == '+' || c == '-') && j.state == jsonExponent:
			return jsonSign
		}
	}
	switch {
	case j.state == jsonPoint, j.state == jsonExponent, j.state == jsonSign:
		return jsonBad
	case c == '.' && (j.state == jsonZero || j.state == jsonDigits):
		return jsonPoint
	case c|0x20 == 'e' && j.state != jsonPower:
		return jsonExponent
	}
	j.state = j.after(jsonApart)
	return j.between(c)
}

func (j *jsonCheck) inObject() bool { return j.object[j.depth>>6]>>(j.depth&63)&1 != 0 }

func (j *jsonCheck) open(object uint64, behind jsonState) jsonState {
	if j.depth++; j.depth > maxNesting {
		return jsonBad
	}
	bits := &j.object[j.depth>>6]
	*bits = *bits&^(1<<(j.depth&63)) | object<<(j.depth&63)
	return behind
}

func (j *jsonCheck) end() jsonState {
	j.depth--
	return j.after(jsonTop)
}

// after returns the state behind a value, which at the top is that.
func (j *jsonCheck) after(top jsonState) jsonState {
	if j.depth > 0 {
		return jsonAfter
	}
	j.values++
	return top
}

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
