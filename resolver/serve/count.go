package serve

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	injectv1 "inject/resolver/idl/inject/v1"
)

// An empty message in a list takes two bytes on the wire, and fifty times as many when it is
// decoded. So the elements of a message are counted on the wire, before it is decoded.
const (
	maxFields = 16 * maxDeclared // in all parts of a message
	maxDepth  = 100              // of messages in messages; ours have 3
)

// A tally counts the elements of a message on the wire.
type tally struct {
	fields  int   // and elements of lists, in all parts of the message
	longest int   // list
	unknown error // about a field that may say at which scope a secret is
}

// binary counts in the binary form of a message of type d. It stops where b is not valid,
// because there decoding fails.
func (t *tally) binary(b []byte, d protoreflect.MessageDescriptor, depth int) {
	if depth > maxDepth {
		t.fields = maxFields + 1
		return
	}
	var lists [32]int // ours have fewer fields; a higher number counts as one of these, too
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			return
		}
		field := d.Fields().ByNumber(number)
		t.fields++
		// All fields of a scope are strings. Decoding skips one of another type as it does an unknown one.
		if isScope(d) && t.unknown == nil && (field == nil || kind != protowire.BytesType) {
			t.unknown = unknownNumber(d, number)
		}
		if field != nil && field.Cardinality() == protoreflect.Repeated { // also a map
			list := int(number) % len(lists)
			lists[list]++
			t.longest = max(t.longest, lists[list])
		}
		if field != nil && kind == protowire.BytesType {
			switch inner, _ := protowire.ConsumeBytes(b); {
			case field.Message() != nil && t.fields <= maxFields:
				t.binary(inner, field.Message(), depth+1)
			case field.IsPacked():
				t.fields += len(inner)
			}
		}
		b = b[n:]
	}
}

// json counts in JSON. It counts at least what is there, also if b is not valid.
func (t *tally) json(b []byte) {
	var around [8]struct { // what the position is in, from the outside in; further in only fields count
		list   bool
		length int
	}
	depth, text := 0, false
	for i := 0; i < len(b); i++ {
		c := b[i]
		switch {
		case text && c == '\\':
			i++
		case c == '"':
			text = !text
		case text:
		case c == '{' || c == '[':
			t.fields++
			depth++
			if depth < len(around) {
				around[depth].list, around[depth].length = c == '[', 1 //nolint:gosec // just compared
			}
		case c == '}' || c == ']':
			depth = max(depth-1, 0)
		case c == ',':
			t.fields++
			if depth < len(around) && around[depth].list {
				around[depth].length++
				t.longest = max(t.longest, around[depth].length)
			}
		}
	}
}

// check returns whether m may be decoded. If a declared list or an import is too long, m gets
// its length for [length] instead, so that the request is audited as others are.
func (t *tally) check(m proto.Message) (decode bool, err error) {
	if t.longest > maxDeclared {
		switch m.(type) {
		case *injectv1.ResolveRequest, *injectv1.ImportRequest:
			b := protowire.AppendTag(nil, protowire.MaxValidNumber, protowire.VarintType)
			m.ProtoReflect().SetUnknown(protowire.AppendVarint(b, uint64(t.longest)))
			return false, nil
		}
		return false, fmt.Errorf("a list of the message has %d elements (at most %d)", t.longest, maxDeclared)
	}
	if t.fields > maxFields {
		return false, errors.New("the message has too many fields")
	}
	return t.unknown == nil, t.unknown
}

// length returns the length of the list in m: n, its decoded length, unless it was too long
// to be decoded. Codecs drop unknown fields, so a client cannot say that.
func length(m proto.Message, n int) int {
	b := m.ProtoReflect().GetUnknown()
	if len(b) == 0 {
		return n
	}
	_, _, tag := protowire.ConsumeTag(b)
	v, _ := protowire.ConsumeVarint(b[tag:])
	return int(v) //nolint:gosec // what check has written
}

// binaryCodec replaces the library's binary codec under the same name.
type binaryCodec struct{}

// Name implements [connect.Codec].
func (binaryCodec) Name() string { return "proto" }

// Marshal implements [connect.Codec].
func (c binaryCodec) Marshal(message any) ([]byte, error) { return c.MarshalAppend(nil, message) }

// MarshalAppend lets the library reuse its buffers.
func (binaryCodec) MarshalAppend(b []byte, message any) ([]byte, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is not a message", message)
	}
	return proto.MarshalOptions{}.MarshalAppend(b, m)
}

// Unmarshal implements [connect.Codec].
func (binaryCodec) Unmarshal(b []byte, message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is not a message", message)
	}
	var t tally
	t.binary(b, m.ProtoReflect().Descriptor(), 0)
	if decode, err := t.check(m); !decode {
		return err
	}
	return proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, m)
}
