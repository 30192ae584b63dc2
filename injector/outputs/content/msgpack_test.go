package content

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"
	"google.golang.org/protobuf/proto"

	"inject/exec/redact"
	"inject/exec/redact/forms"
	"inject/internal/harness"
	"inject/resolver/idl/flyteidl2/core"
	"inject/resolver/idl/flyteidl2/task"
)

func packed(tag string, value []byte) *core.Literal {
	return scalar(&core.Scalar{Value: &core.Scalar_Binary{Binary: &core.Binary{Value: value, Tag: tag}}})
}

func outputsOf(literals ...*core.Literal) *task.Outputs {
	m := &task.Outputs{}
	for i, l := range literals {
		m.Literals = append(m.Literals, &task.NamedLiteral{Name: fmt.Sprintf("o%d", i), Value: l})
	}
	return m
}

// maskPacked masks outputs with one structured literal.
func maskPacked(t testing.TB, tag, value string) (Content, error) {
	t.Helper()
	return maskMessage(t, knows(secret), "outputs.pb", outputsOf(packed(tag, []byte(value))), &task.Outputs{})
}

// header returns a header with a length that has size bytes.
func header(code byte, size, n int) string {
	return string(append([]byte{code}, binary.BigEndian.AppendUint64(nil, uint64(n))[8-size:]...))
}

// awkwardMsgpack are values of msgpack in which nothing may change: each kind of header, also with
// more bytes than the value needs.
var awkwardMsgpack = map[string]string{
	"nil": "\xc0", "false": "\xc2", "true": "\xc3",
	"0": "\x00", "127": "\x7f", "-1": "\xff", "-32": "\xe0",
	"uint8": "\xcc\x01", "uint16": "\xcd\x00\x01", "uint32": "\xce\x00\x00\x00\x01",
	"uint64": "\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
	"int8":   "\xd0\x80", "int16": "\xd1\xff\xff", "int32": "\xd2\x80\x00\x00\x00",
	"int64":   "\xd3\x80\x00\x00\x00\x00\x00\x00\x00",
	"float32": "\xca\x3f\xc0\x00\x00", "float64": "\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00",
	"NaN": "\xcb\x7f\xf0\x00\x00\x00\x00\x00\x01", "-Inf": "\xca\xff\x80\x00\x00",
	"fixstr": "\xa2hi", "str8": header(0xd9, 1, 2) + "hi", "str16": header(0xda, 2, 2) + "hi",
	"str32": header(0xdb, 4, 2) + "hi", "str, empty": "\xa0", "str, not UTF-8": "\xa1\xff",
	"bin8": header(0xc4, 1, 2) + "\xff\x00", "bin16": header(0xc5, 2, 1) + "x", "bin32": header(0xc6, 4, 0),
	"fixext1": "\xd4\x05x", "fixext2": "\xd5\x05xy", "fixext4": "\xd6\xff1234", "fixext8": "\xd7\xff12345678",
	"fixext16": "\xd8\x051234567890abcdef", "ext8": header(0xc7, 1, 2) + "\x05xy",
	"ext16": header(0xc8, 2, 0) + "\x05", "ext32": header(0xc9, 4, 1) + "\x05x",
	"fixarray": "\x92\x01\x02", "array16": header(0xdc, 2, 1) + "\x01", "array32": header(0xdd, 4, 1) + "\xc0",
	"fixmap": "\x81\xa1a\x01", "map16": header(0xde, 2, 1) + "\x01\x02", "map32": header(0xdf, 4, 1) + "\x90\x80",
}

// Only the string changes, whatever stands beside it.
func TestMaskMsgpack(t *testing.T) {
	const masked = "\xa1kx[REDACTED:A]y"
	for name, other := range awkwardMsgpack {
		t.Run(name, func(t *testing.T) {
			item := "\x81\xa1k" + header(0xdb, 4, len(secret)+2) + "x" + secret + "y"
			in := "\x93" + other + item + other
			want := "\x93" + other + "\x81\xa1k\xae" + masked[2:] + other
			got := &task.Outputs{}
			m := outputsOf(packed("msgpack", []byte(in)))
			c, err := maskMessage(t, knows(secret), "outputs.pb", m, got)
			require.NoError(t, err)
			require.Equal(t, outputsPB, c.kind)
			require.Equal(t, map[string]int{"A": 1}, c.Found)
			require.Equal(t, want, string(got.GetLiterals()[0].GetValue().GetScalar().GetBinary().GetValue()))
		})
	}
}

// A string gets the shortest header for its new length.
func TestMsgpackHeaders(t *testing.T) {
	for n, code := range map[int]byte{
		0: 0xa0, 31: 0xbf, 32: 0xd9, 255: 0xd9, 256: 0xda, 65_535: 0xda, 65_536: 0xdb, 100_000: 0xdb,
	} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			s := strings.Repeat("z", n)
			m := msgpackEditor{b: []byte("\x92\xa1a\x07"), text: func(string) (string, error) { return s, nil }}
			out, err := m.run()
			require.NoError(t, err)
			require.Equal(t, code, out[1])
			var back []any
			require.NoError(t, msgpack.Unmarshal(out, &back))
			require.Equal(t, []any{s, int8(7)}, back)
		})
	}
}

// Keys that become equal are both kept, also beside a key that is a mask already.
func TestMaskMsgpackKeys(t *testing.T) {
	hex := fmt.Sprintf("%x", secret)
	keys := []string{secret, hex, "[REDACTED:A]-2", "other", "x" + secret, "[REDACTED:A]x"}
	want := []string{"[REDACTED:A]", "[REDACTED:A]-3", "[REDACTED:A]-2", "other", "x[REDACTED:A]", "[REDACTED:A]x"}
	build := func(keys []string) []byte {
		b := []byte{0x80 | byte(len(keys))}
		for _, key := range keys {
			inner := appendMsgpackString([]byte{0x82}, key) // the same keys, one map deeper
			inner = append(appendMsgpackString(append(inner, 0x01), keys[0]), 0x02)
			b = append(appendMsgpackString(b, key), inner...)
		}
		return b
	}
	got := &task.Outputs{}
	_, err := maskMessage(t, knows(secret), "outputs.pb", outputsOf(packed("msgpack", build(keys))), got)
	require.NoError(t, err)
	d := msgpack.NewDecoder(bytes.NewReader(got.GetLiterals()[0].GetValue().GetScalar().GetBinary().GetValue()))
	n, err := d.DecodeMapLen()
	require.NoError(t, err)
	require.Equal(t, len(keys), n)
	for _, name := range want {
		key, err := d.DecodeString()
		require.NoError(t, err)
		require.Equal(t, name, key)
		require.NoError(t, d.Skip())
	}
}

// A value in bytes, an extension or a number is refused, as is one in what is no msgpack.
func TestMaskMsgpackRefused(t *testing.T) {
	str := "\xa1k" + header(0xd9, 1, len(secret)) + secret
	for name, b := range map[string]string{
		"bin":                header(0xc4, 1, len(secret)) + secret,
		"bin, and a string":  "\x82" + str + "\xa1b" + header(0xc4, 1, len(secret)) + secret,
		"bin as a key":       "\x81" + header(0xc4, 1, len(secret)) + secret + "\x01",
		"ext":                header(0xc7, 1, len(secret)) + "\x05" + secret,
		"fixext":             "\xd8\x05" + secret + "1234",
		"not UTF-8":          header(0xd9, 1, len(secret)+1) + secret + "\xff",
		"cut short":          "\x82" + str,
		"more behind it":     "\x81" + str + "\x01",
		"a reserved header":  "\x92\xc1" + str[2:],
		"a length too long":  "\x92" + str[2:] + header(0xdb, 4, math.MaxUint32) + "x",
		"an array too long":  header(0xdd, 4, math.MaxUint32) + str[2:],
		"a map too long":     header(0xdf, 4, math.MaxUint32) + str,
		"an ext too long":    "\x92" + str[2:] + header(0xc9, 4, math.MaxUint32) + "\x01x",
		"nested too deep":    strings.Repeat("\x91", maxMsgpackDepth+1) + str[2:],
		"too deep in a map":  strings.Repeat("\x81\x01", maxMsgpackDepth+1) + str[2:],
		"too deep in a key":  strings.Repeat("\x81", maxMsgpackDepth+1) + str[2:] + strings.Repeat("\x01", 1025),
		"many names in maps": manyNames(maxMaskedKeys + 1),
	} {
		t.Run(name, func(t *testing.T) {
			c, err := maskPacked(t, "msgpack", b)
			require.Equal(t, outputsPB, c.kind)
			require.NotEmpty(t, c.Found)
			require.ErrorIs(t, err, ErrStill)
			require.NotContains(t, err.Error(), secret)
		})
	}
	for name, b := range map[string]string{ // the twins
		"nested deep": strings.Repeat("\x91", maxMsgpackDepth) + str[2:],
		"many names":  manyNames(maxMaskedKeys),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := maskPacked(t, "msgpack", b)
			require.NoError(t, err)
		})
	}
	// Another tag is another encoding: a pickle holds such a string, too.
	_, err := maskPacked(t, "pickle", "\x81"+str)
	require.ErrorIs(t, err, ErrStill)
}

func manyNames(n int) string {
	b := []byte(header(0xdf, 4, n))
	for i := range n {
		b = append(appendMsgpackString(b, fmt.Sprint(secret, i)), 0xc0)
	}
	return string(b)
}

// A number that is printed with a value in it is a find, and the message is refused. The bytes of
// the number do not hold that text.
func TestNumbersOfMessages(t *testing.T) {
	number := func(n float64) *core.Literal {
		return scalar(&core.Scalar{Value: &core.Scalar_Generic{Generic: structOf("n", []any{n})}})
	}
	primitive := func(p *core.Primitive) *core.Literal {
		return scalar(&core.Scalar{Value: &core.Scalar_Primitive{Primitive: p}})
	}
	integer := func(n int64) *core.Literal {
		return primitive(&core.Primitive{Value: &core.Primitive_Integer{Integer: n}})
	}
	float := func(n float64) *core.Literal {
		return primitive(&core.Primitive{Value: &core.Primitive_FloatValue{FloatValue: n}})
	}
	double := binary.BigEndian.AppendUint64([]byte{0xcb}, math.Float64bits(1234567.25))
	single := binary.BigEndian.AppendUint32([]byte{0xca}, math.Float32bits(0.123456))
	for name, c := range map[string]struct {
		value   string
		literal *core.Literal
	}{
		"integer":           {"12345678", integer(12345678)},
		"part of it":        {"12345678", integer(-9123456789)},
		"float":             {"1234567.25", float(1234567.25)},
		"exponent":          {"1.2345e+30", float(1.2345e30)},
		"generic":           {"12345678", number(12345678)},
		"uint32":            {"12345678", packed("msgpack", []byte("\x81\xa1n\xce\x00\xbc\x61\x4e"))},
		"uint64":            {"18446744073709551615", packed("msgpack", []byte(awkwardMsgpack["uint64"]))},
		"int64":             {"-9223372036854775808", packed("msgpack", []byte(awkwardMsgpack["int64"]))},
		"int32":             {"-2147483648", packed("msgpack", []byte("\x81"+awkwardMsgpack["int32"]+"\xc0"))},
		"msgpack's float64": {"1234567.25", packed("msgpack", double)},
		"msgpack's float32": {"0.123456", packed("msgpack", single)},
	} {
		t.Run(name, func(t *testing.T) {
			nested := &core.Literal{Value: &core.Literal_Collection{
				Collection: &core.LiteralCollection{Literals: []*core.Literal{
					str("x"), scalar(&core.Scalar{Value: &core.Scalar_Union{Union: &core.Union{Value: c.literal}}}),
				}},
			}}
			b := encode(t, outputsOf(str("nothing"), nested))
			require.NotContains(t, string(b), c.value)
			want := Content{kind: opaque, Found: map[string]int{"A": 1}, Why: "a message with a value in a number"}
			require.Equal(t, want, withOne(look(t, knows(c.value), "outputs.pb", b, whole)))
			require.Empty(t, look(t, knows("7"+c.value), "outputs.pb", b, whole).Found)
		})
	}
}

// withOne returns c with one find of each value: a float is printed in two ways.
func withOne(c Content) Content {
	for name := range c.Found {
		c.Found[name] = 1
	}
	return c
}

// Structured literals are masked wherever a literal may be.
func TestMaskNestedMsgpack(t *testing.T) {
	one := func(s string) *core.Literal {
		return packed("msgpack", appendMsgpackString([]byte("\x81\xa1k"), s))
	}
	build := func(s string) *task.Outputs {
		return outputsOf(
			one(s),
			scalar(&core.Scalar{Value: &core.Scalar_Union{Union: &core.Union{Value: one(s)}}}),
			&core.Literal{Value: &core.Literal_Collection{
				Collection: &core.LiteralCollection{Literals: []*core.Literal{one(s), one("x")}},
			}},
			&core.Literal{Value: &core.Literal_Map{
				Map: &core.LiteralMap{Literals: map[string]*core.Literal{"m": one(s), s: one(s)}},
			}},
		)
	}
	got := &task.Outputs{}
	_, err := maskMessage(t, knows(secret), "outputs.pb", build(secret), got)
	require.NoError(t, err)
	require.True(t, proto.Equal(build("[REDACTED:A]"), got))
}

// An archive in the bytes of a message does not keep the texts beside it from being masked. A value
// in the archive does.
func TestMaskBesideArchive(t *testing.T) {
	build := func(text, member string) *task.Outputs {
		z := harness.Gzip(t, []byte(strings.Repeat("some text ", 30)+member))
		b := appendMsgpackString([]byte("\x82\xa1k"), text)
		return outputsOf(packed("msgpack", []byte(string(b)+"\xa1z"+header(0xc4, 1, len(z))+string(z))))
	}
	got := &task.Outputs{}
	c, err := maskMessage(t, knows(secret), "outputs.pb", build(secret, "x"), got)
	require.NoError(t, err)
	require.Equal(t, outputsPB, c.kind)
	require.True(t, proto.Equal(build("[REDACTED:A]", "x"), got))

	c = look(t, knows(secret), "outputs.pb", encode(t, build("nothing", secret)), whole)
	require.Equal(t, Content{kind: opaque, Found: map[string]int{"A": 1}, Why: "a gzip archive"}, c)
}

// tree returns the value that d reads next: strings as strings, maps as pairs in order, and
// everything else as its bytes.
func tree(d *msgpack.Decoder, depth int) (any, error) {
	if depth > maxMsgpackDepth {
		return nil, errors.New("too deep")
	}
	code, err := d.PeekCode()
	if err != nil {
		return nil, err
	}
	items := func(n int, err error) (any, error) {
		all := []any{}
		for range max(n, 0) {
			item, err := tree(d, depth+1)
			if err != nil {
				return nil, err
			}
			all = append(all, item)
		}
		return all, err
	}
	switch {
	case msgpcode.IsString(code):
		return d.DecodeString()
	case msgpcode.IsFixedArray(code), code == msgpcode.Array16, code == msgpcode.Array32:
		return items(d.DecodeArrayLen())
	case msgpcode.IsFixedMap(code), code == msgpcode.Map16, code == msgpcode.Map32:
		n, err := d.DecodeMapLen()
		return items(2*n, err)
	default:
		raw, err := d.DecodeRaw()
		return []byte(raw), err
	}
}

// holdsMsgpack compares what is masked with another decoder's reading of the same bytes. It
// reports whether that decoder can read them.
func holdsMsgpack(t testing.TB, b []byte, text func(string) string) bool {
	t.Helper()
	called := 0
	m := msgpackEditor{b: b, text: func(s string) (string, error) { called++; return text(s), nil }}
	out, err := m.run()
	d := msgpack.NewDecoder(bytes.NewReader(b))
	before, theirs := tree(d, 0)
	if theirs == nil {
		if _, more := d.PeekCode(); !errors.Is(more, io.EOF) {
			theirs = errors.New("more bytes")
		}
	}
	if theirs != nil {
		require.Error(t, err, "%x: %v", b, theirs)
		return false
	}
	require.NoError(t, err, "%x", b)

	after, err := tree(msgpack.NewDecoder(bytes.NewReader(out)), 0)
	require.NoError(t, err, "%x became %x", b, out)
	changed := 0
	var compare func(before, after any)
	compare = func(before, after any) {
		switch before := before.(type) {
		case string:
			got, _ := after.(string)
			want := before
			if utf8.ValidString(before) {
				want = text(before)
			}
			if want != before {
				changed++
				got = got[:min(len(want), len(got))] // a number may follow in a key
			}
			require.Equal(t, want, got)
		case []any:
			require.IsType(t, before, after)
			after, _ := after.([]any)
			require.Len(t, after, len(before))
			for i := range before {
				compare(before[i], after[i])
			}
		default:
			require.Equal(t, before, after)
		}
	}
	compare(before, after)
	if changed == 0 {
		require.Equal(t, b, out)
	}
	return true
}

// randomMsgpack appends a value with strings of words, in awkward encodings.
func randomMsgpack(r *rand.Rand, b []byte, words []string, depth int) []byte {
	kind := r.IntN(8)
	if depth > 5 {
		kind = r.IntN(5)
	}
	n := r.IntN(5)
	switch kind {
	case 0, 1, 2:
		s := ""
		for range n {
			s += words[r.IntN(len(words))]
		}
		switch r.IntN(3) {
		case 0:
			return append(b, header(0xdb, 4, len(s))+s...)
		case 1:
			return append(b, header(0xda, 2, len(s))+s...)
		}
		return appendMsgpackString(b, s)
	case 3, 4:
		names := make([]string, 0, len(awkwardMsgpack))
		for name := range awkwardMsgpack {
			names = append(names, name)
		}
		return append(b, awkwardMsgpack[names[r.IntN(len(names))]]...)
	case 5:
		b = append(b, header(0xdc, 2, n)...)
	case 6:
		b = append(b, 0x80|byte(n))
		n *= 2
	case 7:
		b = append(b, header(0xdf, 4, n)...)
		n *= 2
	}
	for range n {
		b = randomMsgpack(r, b, words, depth+1)
	}
	return b
}

func TestMsgpackAtRandom(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	words := []string{"XY", "ä", "plain ", strings.Repeat("long", 20), "mask", "mask-2"}
	for range 2000 {
		require.True(t, holdsMsgpack(t, randomMsgpack(r, nil, words, 0),
			func(s string) string { return strings.ReplaceAll(s, "XY", "mask") }))
	}
	for range 300 { // as part of outputs, with real values
		value := awkward(r)
		all := forms.Of([]byte(value), 6)
		if len(all) == 0 || !utf8.ValidString(value) {
			continue
		}
		form := strings.ToValidUTF8(string(all[r.IntN(len(all))].Bytes), "?")
		b := randomMsgpack(r, nil, []string{form, " and ", "ä"}, 0)
		holdsMessage(t, knows(value), "outputs.pb", encode(t, outputsOf(packed("msgpack", b))))
	}
}

func FuzzMsgpack(f *testing.F) {
	for _, b := range awkwardMsgpack {
		f.Add([]byte(b))
		f.Add([]byte("\x82\xa2XY" + b + "\xa2" + "Xx" + b))
	}
	f.Add([]byte("\x82\xa2XY\x01\xa4mask\xa2XY"))
	in := NewInspector(redact.New(6, redact.Pattern{Name: "A", Value: []byte(secret)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		holdsMsgpack(t, b, func(s string) string { return strings.ReplaceAll(s, "X", "a longer mask") })
		b = bytes.ReplaceAll(b, []byte("XY"), []byte(secret))
		holdsMessage(t, in, "outputs.pb", encode(t, outputsOf(packed("msgpack", b))))
	})
}
