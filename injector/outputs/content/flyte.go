package content

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"inject/exec/redact"
	"inject/resolver/idl/flyteidl2/core"
	"inject/resolver/idl/flyteidl2/task"
)

// maxMessage bounds the size of a message in bytes, because all of it is held in memory.
const maxMessage = 8 << 20

// messageKinds are the names of the files that are messages of Flyte's. Flyte's copilot writes
// errors.pb instead of error.pb.
var messageKinds = map[string]kind{"outputs.pb": outputsPB, "error.pb": errorPB, "errors.pb": errorPB}

// message returns the content of the .pb file called name, in which values have been found or
// not. A number that holds a value is found here: its bytes are not those that a program prints.
func (in *Inspector) message(ctx context.Context, name string, at io.ReaderAt, size int64) (Content, error) {
	raw := Content{kind: rawBytes, Found: in.found, Why: "binary data"}
	because := func(why string) Content { return Content{kind: opaque, Found: in.found, Why: why} }
	clean := len(in.found) == 0
	k, ok := messageKinds[name]
	switch {
	case clean && (!ok || size > maxMessage):
		return raw, nil
	case name == "inputs.pb":
		return because("the inputs of another task, which would compute with the mask: give it the secret's name"), nil
	case !ok:
		return because("a .pb file of an unknown kind"), nil
	case size > maxMessage:
		return because(fmt.Sprintf("a message of more than %d MiB", maxMessage>>20)), nil
	}

	b := make([]byte, size)
	n, err := at.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		return Content{}, err
	}
	m := decode(k, b[:n])
	if m == nil {
		if clean {
			return raw, nil
		}
		return because("not the Flyte message that its name promises"), nil
	}

	number := false
	t := texts{done: ctx.Err, check: in.redactor.Writer(io.Discard), numbers: true}
	t.check.Found = func(f redact.Find) {
		number = true
		in.count(f)
	}
	if err := t.message(m.ProtoReflect()); err != nil {
		return Content{}, err
	}
	switch {
	case number:
		return because("a message with a value in a number"), nil
	case clean:
		return raw, nil
	}
	return Content{kind: k, Found: in.found, Why: raw.Why}, nil
}

// decode returns the message in b, or nil. A message in which not a single field is known does
// not count, because nearly any bytes can be decoded as one.
func decode(k kind, b []byte) proto.Message {
	var m proto.Message = &task.Outputs{}
	if k == errorPB {
		m = &core.ErrorDocument{}
	}
	if proto.Unmarshal(b, m) != nil {
		return nil
	}
	known := false
	r := m.ProtoReflect()
	r.Range(func(protoreflect.FieldDescriptor, protoreflect.Value) bool {
		known = true
		return false
	})
	if !known && len(r.GetUnknown()) > 0 {
		return nil
	}
	return m
}

// rewriteMessage writes the message r with the values in its texts masked. A value elsewhere,
// such as in a bytes field, is an error: a mask would break those bytes for their reader.
func (in *Inspector) rewriteMessage(ctx context.Context, k kind, r io.Reader, w io.Writer) error {
	b, err := io.ReadAll(io.LimitReader(r, maxMessage+1))
	if err != nil {
		return err
	}
	// Search what is left, with gaps in place of the masks, as a sink does. The gaps have the
	// length of the masks, because the lengths in the encoding are searched, too.
	left, err := in.masked(ctx, k, b, func(mask string) string { return strings.Repeat(string(gap), len(mask)) })
	if err != nil {
		return err
	}
	still := false
	check := in.redactor.Writer(io.Discard)
	check.Found = func(redact.Find) { still = true }
	if _, err := check.Write(left); err != nil {
		return err
	}
	if err := check.Close(); err != nil {
		return err
	}
	if still {
		return fmt.Errorf("%w: it is not in a text", ErrStill)
	}
	b, err = in.masked(ctx, k, b, func(mask string) string { return mask })
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// masked returns the message b with its values replaced by what stand returns for their masks.
func (in *Inspector) masked(ctx context.Context, k kind, b []byte, stand func(mask string) string) ([]byte, error) {
	m := decode(k, b)
	if m == nil || len(b) > maxMessage {
		return nil, fmt.Errorf("%w: it changed", ErrStill)
	}
	t := texts{done: ctx.Err, redactor: in.redactor, stand: stand, check: in.redactor.Writer(io.Discard)}
	t.check.Found = func(redact.Find) { t.found = true }
	outputs, isOutputs := m.(*task.Outputs)
	var names []string
	if isOutputs {
		names = namesOf(outputs)
	}
	if err := t.message(m.ProtoReflect()); err != nil {
		return nil, err
	}
	if isOutputs {
		// The names are the keys of a map on the wire, so they must be distinct.
		for i, name := range distinct(names, namesOf(outputs)) {
			outputs.Literals[i].Name = name
		}
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

func namesOf(m *task.Outputs) []string {
	names := make([]string, len(m.GetLiterals()))
	for i, l := range m.GetLiterals() {
		names[i] = l.GetName()
	}
	return names
}

// distinct returns masked with a number appended to each name that differs from its key and is
// already taken; without it one of two equal names would be lost.
func distinct(keys, masked []string) []string {
	taken := map[string]int{} // by name, the number of the next name like it
	for i, key := range keys {
		if masked[i] == key {
			taken[key] = 2
		}
	}
	names := slices.Clone(masked)
	for i, key := range keys {
		if masked[i] == key {
			continue
		}
		for taken[names[i]] > 0 {
			names[i] = fmt.Sprintf("%s-%d", masked[i], taken[masked[i]])
			taken[masked[i]]++
		}
		taken[names[i]] = 2
	}
	return names
}

// texts masks the texts of a message, or shows its numbers to check.
type texts struct {
	done     func() error
	redactor *redact.Redactor
	stand    func(mask string) string
	// check tells cheaply whether a text has anything to mask; most texts have not.
	check *redact.Writer
	found bool
	// numbers is set if only numbers are looked at, as a program would print them.
	numbers bool
}

func (t *texts) message(m protoreflect.Message) (err error) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			err = t.entries(f, v.Map())
		case f.IsList():
			for i := 0; i < v.List().Len() && err == nil; i++ {
				var item protoreflect.Value
				if item, err = t.value(f, v.List().Get(i)); err == nil {
					v.List().Set(i, item)
				}
			}
		default:
			if v, err = t.value(f, v); err == nil {
				m.Set(f, v)
			}
		}
		return err == nil
	})
	return err
}

// entries masks the keys and values of a map field.
func (t *texts) entries(f protoreflect.FieldDescriptor, m protoreflect.Map) error {
	type pair struct{ key, value protoreflect.Value }
	var pairs []pair
	m.Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
		pairs = append(pairs, pair{key.Value(), value})
		return true
	})
	slices.SortFunc(pairs, func(a, b pair) int { return strings.Compare(a.key.String(), b.key.String()) })
	keys, masked := make([]string, len(pairs)), make([]string, len(pairs))
	for i, p := range pairs {
		key, err := t.value(f.MapKey(), p.key)
		if err != nil {
			return err
		}
		if pairs[i].value, err = t.value(f.MapValue(), p.value); err != nil {
			return err
		}
		keys[i], masked[i] = p.key.String(), key.String()
	}
	names := distinct(keys, masked)
	for i, p := range pairs {
		if names[i] != keys[i] {
			m.Clear(p.key.MapKey()) // all old names go before a new entry may take one of them
			pairs[i].key = protoreflect.ValueOfString(names[i])
		}
	}
	for _, p := range pairs {
		m.Set(p.key.MapKey(), p.value)
	}
	return nil
}

// value returns v, a value of the field f, masked.
func (t *texts) value(f protoreflect.FieldDescriptor, v protoreflect.Value) (protoreflect.Value, error) {
	switch f.Kind() {
	case protoreflect.StringKind:
		s, err := t.mask(v.String())
		return protoreflect.ValueOfString(s), err
	case protoreflect.MessageKind, protoreflect.GroupKind:
		if b, ok := v.Message().Interface().(*core.Binary); ok {
			if err := t.binary(b); err != nil {
				return v, err
			}
		}
		return v, t.message(v.Message())
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return v, t.number(appendFloat(nil, v.Float(), 64))
	case protoreflect.BoolKind, protoreflect.EnumKind, protoreflect.BytesKind:
		return v, nil
	default:
		return v, t.number([]byte(v.String()))
	}
}

// number shows a number to check.
func (t *texts) number(text []byte) error {
	if !t.numbers {
		return nil
	}
	_, err := t.check.Write(append(text, gap...))
	return err
}

// binary masks the strings of a structured literal: a dataclass, a pydantic model, a dict. Bytes
// that are not what the tag promises stay as they are, and a value in them remains.
func (t *texts) binary(b *core.Binary) error {
	if b.GetTag() != "msgpack" {
		return nil
	}
	m := msgpackEditor{b: b.GetValue(), text: t.mask}
	if t.numbers {
		m.number = t.number
	}
	masked, err := m.run()
	switch {
	case errors.Is(err, errMsgpack):
		return nil
	case err == nil:
		b.Value = masked
	}
	return err
}

// holdsGap reports whether s has the byte of a gap in it: check may then find a value too late.
func holdsGap(s string) bool { return strings.Contains(s, string(gap)) }

// mask returns s masked. A character that is partly covered is dropped with the value, because
// a text in a message must be valid UTF-8.
func (t *texts) mask(s string) (string, error) {
	if err := t.done(); err != nil || t.numbers {
		return s, err
	}
	t.found = false
	if _, err := io.WriteString(t.check, s+string(gap)); err != nil || !t.found && !holdsGap(s) {
		return s, err
	}
	var out bytes.Buffer
	found := false
	w := t.redactor.Writer(&out)
	w.Covered = func(_ []byte, mask string) error {
		if found = true; mask != "" {
			out.WriteString(t.stand(mask))
		}
		return nil
	}
	if _, err := io.WriteString(w, s); err != nil {
		return "", err
	}
	if err := w.Close(); err != nil || !found {
		return s, err
	}
	return strings.ToValidUTF8(out.String(), ""), nil
}
