package idl_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// Programs of the last release understand today's messages, and the other way round: what that
// release had is still there with the same number, name, type and oneof, or it was deleted and its
// number and name are reserved. Numbers are never reused.
func TestReleased(t *testing.T) {
	set := released(t)
	require.Empty(t, broken(t, set, protoregistry.GlobalFiles))
	fields := 0
	for _, f := range set.GetFile() {
		for _, m := range f.GetMessageType() {
			fields += len(m.GetField())
		}
	}
	require.Greater(t, fields, 50)
}

// Each way to break the wire is noticed, and what is allowed is not.
func TestBroken(t *testing.T) {
	const file = "inject/v1/resolve.proto"
	message := func(f *descriptorpb.FileDescriptorProto, name string) *descriptorpb.DescriptorProto {
		all := f.GetMessageType()
		return all[slices.IndexFunc(all, func(m *descriptorpb.DescriptorProto) bool { return m.GetName() == name })]
	}
	type change func(*descriptorpb.FileDescriptorProto)
	scope := func(do func(*descriptorpb.DescriptorProto)) change {
		return func(f *descriptorpb.FileDescriptorProto) { do(message(f, "Scope")) }
	}
	third := []*descriptorpb.DescriptorProto_ReservedRange{{Start: new(int32(3)), End: new(int32(4))}}
	for name, c := range map[string]struct {
		change change
		want   []string
	}{
		"nothing": {func(*descriptorpb.FileDescriptorProto) {}, nil},
		"a new field": {scope(func(m *descriptorpb.DescriptorProto) {
			added, _ := proto.Clone(m.GetField()[0]).(*descriptorpb.FieldDescriptorProto)
			added.Name, added.JsonName, added.Number = new("new"), new("new"), new(int32(9))
			m.Field = append(m.Field, added)
		}), nil},
		"a deleted field": {
			scope(func(m *descriptorpb.DescriptorProto) { m.Field = m.Field[:2] }),
			[]string{"inject.v1.Scope.project: gone, and not reserved"},
		},
		"a deleted field with its number reserved": {
			scope(func(m *descriptorpb.DescriptorProto) {
				m.Field = m.Field[:2]
				m.ReservedRange = third
			}), []string{"inject.v1.Scope.project: gone, and not reserved"},
		},
		"a deleted field that is reserved": {scope(func(m *descriptorpb.DescriptorProto) {
			m.Field = m.Field[:2]
			m.ReservedRange = third
			m.ReservedName = []string{"project"}
		}), nil},
		"another number": {
			scope(func(m *descriptorpb.DescriptorProto) { m.Field[2].Number = new(int32(4)) }),
			[]string{"inject.v1.Scope.project: gone, and not reserved"},
		},
		"another name": {
			scope(func(m *descriptorpb.DescriptorProto) {
				m.Field[2].Name, m.Field[2].JsonName = new("team"), new("team")
			}), []string{"inject.v1.Scope.project: was optional string project, is optional string team"},
		},
		"another type": {
			scope(func(m *descriptorpb.DescriptorProto) {
				m.Field[2].Type = descriptorpb.FieldDescriptorProto_TYPE_BYTES.Enum()
			}), []string{"inject.v1.Scope.project: was optional string project, is optional bytes project"},
		},
		"a list": {
			scope(func(m *descriptorpb.DescriptorProto) {
				m.Field[2].Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
			}), []string{"inject.v1.Scope.project: was optional string project, is repeated string project"},
		},
		"out of its oneof": {
			func(f *descriptorpb.FileDescriptorProto) { message(f, "Climb").GetField()[1].OneofIndex = nil },
			[]string{"inject.v1.Climb.failure: was optional inject.v1.Failure failure of outcome, " +
				"is optional inject.v1.Failure failure"},
		},
		"another number of a code": {
			func(f *descriptorpb.FileDescriptorProto) {
				message(f, "Failure").GetEnumType()[0].GetValue()[6].Number = new(int32(7))
			}, []string{"inject.v1.Failure.CODE_INVALID: gone, and not reserved"},
		},
		"a deleted method": {
			func(f *descriptorpb.FileDescriptorProto) { f.Service[2].Method = nil },
			[]string{"inject.v1.WhoAmIService.WhoAmI: gone"},
		},
		"another answer": {
			func(f *descriptorpb.FileDescriptorProto) {
				f.Service[2].Method[0].OutputType = new(".inject.v1.Scope")
			}, []string{"inject.v1.WhoAmIService.WhoAmI: another request or answer"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			set := released(t)
			for _, f := range set.GetFile() {
				if f.GetName() == file {
					c.change(f)
				}
			}
			now, err := protodesc.NewFiles(set)
			require.NoError(t, err)
			require.Equal(t, c.want, broken(t, released(t), now))
		})
	}
}

// released returns the descriptors of the last release, as its server answered them.
func released(t *testing.T) *descriptorpb.FileDescriptorSet {
	b, err := os.ReadFile("testdata/released.json")
	require.NoError(t, err)
	var recording struct{ Descriptors []byte }
	require.NoError(t, json.Unmarshal(b, &recording))
	var set descriptorpb.FileDescriptorSet
	require.NoError(t, proto.Unmarshal(recording.Descriptors, &set))
	return &set
}

// broken returns what of the messages and services then cannot be understood now, or means
// something else.
func broken(t *testing.T, then *descriptorpb.FileDescriptorSet, now *protoregistry.Files) (all []string) {
	files, err := protodesc.NewFiles(then)
	require.NoError(t, err)
	files.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Messages().Len() {
			all = append(all, brokenMessage(f.Messages().Get(i), now)...)
		}
		for i := range f.Enums().Len() {
			all = append(all, brokenEnum(f.Enums().Get(i), now)...)
		}
		for i := range f.Services().Len() {
			methods := f.Services().Get(i).Methods()
			for i := range methods.Len() {
				m := methods.Get(i)
				d, err := now.FindDescriptorByName(m.FullName())
				is, ok := d.(protoreflect.MethodDescriptor)
				switch {
				case err != nil || !ok:
					all = append(all, fmt.Sprintf("%s: gone", m.FullName()))
				case is.Input().FullName() != m.Input().FullName() || is.Output().FullName() != m.Output().FullName() ||
					is.IsStreamingClient() != m.IsStreamingClient() || is.IsStreamingServer() != m.IsStreamingServer():
					all = append(all, fmt.Sprintf("%s: another request or answer", m.FullName()))
				}
			}
		}
		return true
	})
	return all
}

func brokenMessage(m protoreflect.MessageDescriptor, now *protoregistry.Files) (all []string) {
	d, err := now.FindDescriptorByName(m.FullName())
	is, ok := d.(protoreflect.MessageDescriptor)
	if err != nil || !ok {
		return []string{fmt.Sprintf("%s: gone", m.FullName())}
	}
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		switch same := is.Fields().ByNumber(f.Number()); {
		case same == nil && is.ReservedRanges().Has(f.Number()) && is.ReservedNames().Has(f.Name()):
		case same == nil:
			all = append(all, fmt.Sprintf("%s: gone, and not reserved", f.FullName()))
		case define(f) != define(same):
			all = append(all, fmt.Sprintf("%s: was %s, is %s", f.FullName(), define(f), define(same)))
		}
	}
	for i := range m.Messages().Len() {
		all = append(all, brokenMessage(m.Messages().Get(i), now)...)
	}
	for i := range m.Enums().Len() {
		all = append(all, brokenEnum(m.Enums().Get(i), now)...)
	}
	return all
}

// define returns all of a field that the wire has, but its number: in binary and, by its name, in
// JSON.
func define(f protoreflect.FieldDescriptor) string {
	kind := f.Kind().String()
	if f.Message() != nil {
		kind = string(f.Message().FullName())
	}
	if f.Enum() != nil {
		kind = string(f.Enum().FullName())
	}
	s := fmt.Sprintf("%s %s %s", f.Cardinality(), kind, f.JSONName())
	if o := f.ContainingOneof(); o != nil {
		s += " of " + string(o.Name())
	}
	return s
}

func brokenEnum(e protoreflect.EnumDescriptor, now *protoregistry.Files) (all []string) {
	d, err := now.FindDescriptorByName(e.FullName())
	is, ok := d.(protoreflect.EnumDescriptor)
	if err != nil || !ok {
		return []string{fmt.Sprintf("%s: gone", e.FullName())}
	}
	for i := range e.Values().Len() {
		v := e.Values().Get(i)
		same := is.Values().ByNumber(v.Number())
		reserved := is.ReservedRanges().Has(v.Number()) && is.ReservedNames().Has(v.Name())
		if same == nil && !reserved || same != nil && same.Name() != v.Name() {
			all = append(all, fmt.Sprintf("%s: gone, and not reserved", v.FullName()))
		}
	}
	return all
}
