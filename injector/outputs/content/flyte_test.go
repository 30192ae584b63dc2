package content

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"inject/exec/redact"
	"inject/exec/redact/forms"
	"inject/resolver/idl/flyteidl2/core"
	"inject/resolver/idl/flyteidl2/task"
)

func str(s string) *core.Literal {
	p := &core.Primitive{Value: &core.Primitive_StringValue{StringValue: s}}
	return scalar(&core.Scalar{Value: &core.Scalar_Primitive{Primitive: p}})
}

func scalar(s *core.Scalar) *core.Literal {
	return &core.Literal{Value: &core.Literal_Scalar{Scalar: s}}
}

func structOf(pairs ...any) *structpb.Struct {
	s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for i := 0; i < len(pairs); i += 2 {
		v, err := structpb.NewValue(pairs[i+1])
		if err != nil {
			panic(err)
		}
		s.Fields[fmt.Sprint(pairs[i])] = v
	}
	return s
}

// everywhere returns outputs with s in every text field.
func everywhere(s string) *task.Outputs {
	literals := []*core.Literal{
		str(s),
		scalar(&core.Scalar{Value: &core.Scalar_Blob{Blob: &core.Blob{Uri: "s3://" + s}}}),
		scalar(&core.Scalar{Value: &core.Scalar_Binary{Binary: &core.Binary{Value: []byte{1, 0xff}, Tag: s}}}),
		scalar(&core.Scalar{Value: &core.Scalar_Schema{Schema: &core.Schema{Uri: s}}}),
		scalar(&core.Scalar{Value: &core.Scalar_Error{Error: &core.Error{FailedNodeId: s, Message: "no " + s}}}),
		scalar(&core.Scalar{Value: &core.Scalar_Generic{Generic: structOf("k "+s, []any{s, 1, map[string]any{s: nil}},
			"x", true)}}),
		scalar(&core.Scalar{Value: &core.Scalar_StructuredDataset{StructuredDataset: &core.StructuredDataset{Uri: s}}}),
		scalar(&core.Scalar{Value: &core.Scalar_Union{Union: &core.Union{Value: str(s)}}}),
		{Value: &core.Literal_Collection{
			Collection: &core.LiteralCollection{Literals: []*core.Literal{str(s), str("x")}},
		}},
		{Value: &core.Literal_Map{Map: &core.LiteralMap{Literals: map[string]*core.Literal{
			"m " + s: str(s),
			"y":      str("z"),
		}}}},
		{Value: &core.Literal_OffloadedMetadata{OffloadedMetadata: &core.LiteralOffloadedMetadata{
			Uri:       s,
			SizeBytes: 7,
		}}},
		{Hash: s, Metadata: map[string]string{s: s, "k": "v", "l": s}},
		scalar(&core.Scalar{Value: &core.Scalar_Primitive{
			Primitive: &core.Primitive{Value: &core.Primitive_Integer{Integer: 12345}},
		}}),
	}
	m := &task.Outputs{}
	for i, l := range literals {
		m.Literals = append(m.Literals, &task.NamedLiteral{Name: fmt.Sprintf("o%d", i), Value: l})
	}
	m.Literals[3].Name = s
	return m
}

func encode(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	require.NoError(t, err)
	return b
}

// maskMessage masks m as a file called name.
func maskMessage(t testing.TB, in *Inspector, name string, m, into proto.Message) (Content, error) {
	t.Helper()
	b := encode(t, m)
	c := look(t, in, name, b, whole)
	out, err := mask(t, in, c, b, every(whole))
	if err == nil {
		require.NoError(t, proto.Unmarshal([]byte(out), into))
	}
	return c, err
}

// Every text is masked, and all other fields are unchanged.
func TestMaskOutputs(t *testing.T) {
	for _, value := range []string{
		secret, "key\nof \\ two \"lines\"\n", "Ä€-\U0001f600", "123456789",
		strings.Repeat("long", 100),
	} {
		t.Run(fmt.Sprintf("%.20q", value), func(t *testing.T) {
			value = strings.TrimSpace(value)
			got := &task.Outputs{}
			c, err := maskMessage(t, knows(value), "outputs.pb", everywhere(value), got)
			require.NoError(t, err)
			require.Equal(t, outputsPB, c.kind)
			require.Equal(t, map[string]int{"A": 20}, c.Found)
			require.Truef(t, proto.Equal(everywhere("[REDACTED:A]"), got), "%v", got)
		})
	}
}

func TestMaskError(t *testing.T) {
	for _, name := range []string{"error.pb", "a/errors.pb"} {
		m := &core.ErrorDocument{Error: &core.ContainerError{
			Code: "USER:" + secret, Message: "said " + secret,
			Kind: core.ContainerError_RECOVERABLE,
		}}
		m.Error.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 9, protowire.VarintType), 7))
		got := &core.ErrorDocument{}
		c, err := maskMessage(t, knows(secret), name, m, got)
		require.NoError(t, err)
		require.Equal(t, errorPB, c.kind)
		m.Error.Code, m.Error.Message = "USER:[REDACTED:A]", "said [REDACTED:A]"
		require.True(t, proto.Equal(m, got))
	}
}

// A value outside of texts is an error.
func TestMaskOutputsNotInText(t *testing.T) {
	in := knows(secret)
	unknown := protowire.AppendString(protowire.AppendTag(nil, 99, protowire.BytesType), secret)
	long := strings.Repeat("cr3t-v\"lue/", 'A')[:'A']
	for name, change := range map[string]func(*task.Outputs){
		"bytes": func(m *task.Outputs) {
			m.GetLiterals()[2].GetValue().GetScalar().GetBinary().Value = []byte("\x81\xa1k\xac" + secret)
		},
		"unknown":           func(m *task.Outputs) { m.ProtoReflect().SetUnknown(unknown) },
		"unknown, deeper":   func(m *task.Outputs) { m.GetLiterals()[0].GetValue().ProtoReflect().SetUnknown(unknown) },
		"its length and it": func(m *task.Outputs) { m.Literals[0].Value = str(long) },
	} {
		t.Run(name, func(t *testing.T) {
			in := in
			if strings.Contains(name, "length") {
				in = knows("A" + long) // A is the length, so only a part of the value is in a text
			}
			m := everywhere("nothing")
			change(m)
			c, err := maskMessage(t, in, "outputs.pb", m, &task.Outputs{})
			require.Equal(t, outputsPB, c.kind, name)
			require.Len(t, c.Found, 1, name)
			require.ErrorIs(t, err, ErrStill, name)
		})
	}
	// Bytes in which no field is known are not a message.
	c := look(t, in, "outputs.pb", unknown, whole)
	require.Equal(t, Content{
		kind: opaque, Found: map[string]int{"A": 1},
		Why: "not the Flyte message that its name promises",
	}, c)
	// An unknown field beside known ones is kept.
	m := everywhere(secret)
	m.ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, 99, protowire.BytesType), "harmless"))
	got := &task.Outputs{}
	_, err := maskMessage(t, in, "outputs.pb", m, got)
	require.NoError(t, err)
	require.Equal(t, m.ProtoReflect().GetUnknown(), got.ProtoReflect().GetUnknown())
}

// Entries whose names become equal are both kept.
func TestMaskNames(t *testing.T) {
	in := knows(secret)
	base64 := ""
	for _, f := range forms.Of([]byte(secret), 6) {
		if f.Kind == forms.KindBase64 && base64 == "" {
			base64 = string(f.Bytes)
		}
	}
	keys := []string{secret, base64, "[REDACTED:A]-2", "other", "x" + secret}
	want := []string{"[REDACTED:A]", "[REDACTED:A]-3", "[REDACTED:A]-2", "other", "x[REDACTED:A]"}
	m := &task.Outputs{}
	inner := &core.LiteralMap{Literals: map[string]*core.Literal{}}
	for i, key := range keys {
		m.Literals = append(m.Literals, &task.NamedLiteral{Name: key, Value: str(fmt.Sprint(i))})
		inner.Literals[key] = str(fmt.Sprint(i))
	}
	m.Literals = append(m.Literals, &task.NamedLiteral{
		Name:  "map",
		Value: &core.Literal{Value: &core.Literal_Map{Map: inner}},
	})
	got := &task.Outputs{}
	_, err := maskMessage(t, in, "outputs.pb", m, got)
	require.NoError(t, err)
	masked := got.GetLiterals()[len(keys)].GetValue().GetMap().GetLiterals()
	require.Len(t, masked, len(keys))
	for i, name := range want {
		require.Equal(t, name, got.GetLiterals()[i].GetName())
		require.Equal(t, fmt.Sprint(i), got.GetLiterals()[i].GetValue().GetScalar().GetPrimitive().GetStringValue())
	}
	all := map[string]bool{}
	for key, v := range masked {
		all[v.GetScalar().GetPrimitive().GetStringValue()] = true
		if !strings.HasPrefix(key, "[REDACTED:A]") {
			require.Contains(t, want, key)
		}
	}
	require.Len(t, all, len(keys), "no entry took the place of another")

	require.Equal(t, []string{"m-2", "a", "m-3", "m-4", "m"},
		distinct([]string{"x", "a", "y", "z", "m"}, []string{"m", "a", "m", "m", "m"}))
}

// A value may begin within a character; what is left is valid UTF-8.
func TestMaskOutputsInRunes(t *testing.T) {
	in := knows("\xa4secret\xe2\x82")
	got := &task.Outputs{}
	_, err := maskMessage(t, in, "outputs.pb",
		&task.Outputs{Literals: []*task.NamedLiteral{{Name: "o0", Value: str("xäsecret€y")}}}, got)
	require.NoError(t, err)
	require.Equal(t, "x[REDACTED:A]y", got.GetLiterals()[0].GetValue().GetScalar().GetPrimitive().GetStringValue())
}

// A mask that holds the bytes of a value is not a find.
func TestMaskOutputsEqualsValue(t *testing.T) {
	in := NewInspector(redact.New(6, redact.Pattern{Name: "password", Value: []byte("password")}))
	got := &task.Outputs{}
	_, err := maskMessage(t, in, "outputs.pb", everywhere("password"), got)
	require.NoError(t, err)
	require.True(t, proto.Equal(everywhere("[REDACTED:password]"), got))
}

func TestLongOutputs(t *testing.T) {
	in := knows(secret)
	m := &task.Outputs{Literals: []*task.NamedLiteral{{
		Name:  "o0",
		Value: str(secret + strings.Repeat("x", maxMessage)),
	}}}
	b := encode(t, m)
	c := look(t, in, "outputs.pb", b, whole)
	require.Equal(t, Content{kind: opaque, Found: map[string]int{"A": 1}, Why: "a message of more than 8 MiB"}, c)
	// It has grown since it was inspected.
	require.ErrorIs(t, in.Rewrite(t.Context(), Content{kind: outputsPB}, bytes.NewReader(b), &bytes.Buffer{}), ErrStill)
	require.ErrorIs(t, in.Rewrite(t.Context(), Content{kind: errorPB}, strings.NewReader("no message"),
		&bytes.Buffer{}), ErrStill)
}

// textsOf returns the texts of a message, including the keys of its maps.
func textsOf(m protoreflect.Message) (all []string) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		one := func(f protoreflect.FieldDescriptor, v protoreflect.Value) {
			switch f.Kind() {
			case protoreflect.StringKind:
				all = append(all, v.String())
			case protoreflect.MessageKind:
				all = append(all, textsOf(v.Message())...)
			}
		}
		switch {
		case f.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				one(f.MapKey(), k.Value())
				one(f.MapValue(), v)
				return true
			})
		case f.IsList():
			for i := range v.List().Len() {
				one(f, v.List().Get(i))
			}
		default:
			one(f, v)
		}
		return true
	})
	return all
}

// holdsMessage asserts what is true of any bytes in a file with one of Flyte's names.
func holdsMessage(t testing.TB, in *Inspector, name string, b []byte) {
	t.Helper()
	c := look(t, in, name, b, whole)
	if c.kind != outputsPB && c.kind != errorPB {
		require.False(t, c.Maskable())
		k := messageKinds[name]
		if m := decode(k, b); m != nil { // without a value, a message does not change
			if len(c.Found) > 0 {
				return // an archive
			}
			out, err := mask(t, in, Content{kind: k}, b, every(whole))
			require.NoError(t, err)
			require.True(t, proto.Equal(m, decode(k, []byte(out))))
		}
		return
	}
	out, err := mask(t, in, c, b, every(whole))
	if err != nil {
		require.ErrorIs(t, err, ErrStill)
		return
	}
	before, after := decode(c.kind, b), decode(c.kind, []byte(out))
	require.NotNil(t, after)
	require.Len(t, textsOf(after.ProtoReflect()), len(textsOf(before.ProtoReflect())))
	require.Empty(t, finds(t, in, out))
	out2, err := mask(t, in, c, []byte(out), every(whole))
	require.NoError(t, err)
	require.Equal(t, out, out2)
}

func TestMaskOutputsAtRandom(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 5))
	t.Logf("seed %d", seed)
	for range 300 {
		values := []string{awkward(random), awkward(random)}
		in := knows(values...)
		var s strings.Builder
		for range random.IntN(4) {
			all := forms.Of([]byte(values[random.IntN(2)]), 6)
			if len(all) > 0 {
				s.Write(all[random.IntN(len(all))].Bytes)
			}
			s.WriteString([]string{"", " and ", "ä"}[random.IntN(3)])
		}
		holdsMessage(t, in, "outputs.pb", encode(t, everywhere(strings.ToValidUTF8(s.String(), "?"))))
		holdsMessage(t, in, "error.pb", encode(t,
			&core.ErrorDocument{Error: &core.ContainerError{Message: strings.ToValidUTF8(s.String(), "?")}}))
	}
}

func FuzzFlyte(f *testing.F) {
	f.Add(encode(f, everywhere(secret)), []byte(secret))
	f.Add(encode(f, everywhere("12345678")), []byte("12345678"))
	f.Add(encode(f, &core.ErrorDocument{Error: &core.ContainerError{Code: secret, Message: "x"}}), []byte(secret))
	f.Add([]byte{}, []byte(secret))
	f.Add([]byte("text "+secret), []byte(secret))
	f.Fuzz(func(t *testing.T, data, value []byte) {
		if bytes.ContainsAny(value, "[]\x00") || strings.Contains("REDACTED:A", string(value)) {
			return // such a value may be found in a mask, or across one
		}
		in := knows(string(value))
		for name := range messageKinds {
			holdsMessage(t, in, name, data)
		}
	})
}
