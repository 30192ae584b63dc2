// Package idl_test compares our copies of Flyte's messages with Flyte's own.
package idl_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"inject/resolver/idl/flyteidl2/auth"
	"inject/resolver/idl/flyteidl2/cluster"
	"inject/resolver/idl/flyteidl2/common"
	"inject/resolver/idl/flyteidl2/core"
	"inject/resolver/idl/flyteidl2/secret"
	"inject/resolver/idl/flyteidl2/task"
	injectv1 "inject/resolver/idl/inject/v1"
	kinds "inject/resolver/secret"
)

// Every message, field and enum of ours is also Flyte's, with the same full name, number,
// type and oneof.
func TestDescriptors(t *testing.T) {
	theirs := words{}
	for _, path := range []string{"testdata/flyteidl2.protoset", "testdata/flyteidl2-secret.protoset"} {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		var set descriptorpb.FileDescriptorSet
		require.NoError(t, proto.Unmarshal(b, &set))
		for _, f := range set.GetFile() {
			theirs.file(f)
		}
	}
	ours := words{}
	for _, f := range []protoreflect.FileDescriptor{
		core.File_flyteidl2_core_security_proto, core.File_flyteidl2_core_tasks_proto,
		core.File_flyteidl2_core_literals_proto, core.File_flyteidl2_core_execution_proto,
		task.File_flyteidl2_task_common_proto,
		common.File_flyteidl2_common_identifier_proto,
		secret.File_flyteidl2_secret_definition_proto, secret.File_flyteidl2_secret_payload_proto,
		secret.File_flyteidl2_secret_secret_proto,
		auth.File_flyteidl2_auth_identity_proto, auth.File_flyteidl2_auth_auth_service_proto,
		cluster.File_flyteidl2_cluster_payload_proto, cluster.File_flyteidl2_cluster_service_proto,
	} {
		ours.file(protodesc.ToFileDescriptorProto(f))
	}
	require.Greater(t, len(ours), 150)
	for name, what := range ours {
		require.Contains(t, theirs, name)
		require.Equal(t, theirs[name], what, name)
	}
	// These must be complete: an unknown field is reported as a mistake, and a missing method
	// would fail for Flyte's clients.
	for name := range theirs {
		if strings.HasPrefix(name, ".flyteidl2.core.Secret.") || strings.HasPrefix(name, ".flyteidl2.secret.") ||
			strings.HasPrefix(name, ".flyteidl2.auth.") {
			require.Contains(t, ours, name)
		}
	}
}

// The kinds of errors have the same names and numbers on the wire as in package secret.
func TestKinds(t *testing.T) {
	ours := map[string]int32{"CODE_UNSPECIFIED": int32(kinds.KindUnknown)}
	for _, kind := range kinds.Kinds() {
		ours["CODE_"+strings.ToUpper(strings.ReplaceAll(kind.String(), " ", "_"))] = int32(kind)
	}
	require.Equal(t, ours, injectv1.Failure_Code_value)
}

// words maps every name in a file to its definition.
type words map[string]string

func (w words) file(f *descriptorpb.FileDescriptorProto) {
	for _, m := range f.GetMessageType() {
		w.message("."+f.GetPackage(), m)
	}
	for _, e := range f.GetEnumType() {
		w.enum("."+f.GetPackage(), e)
	}
	for _, s := range f.GetService() {
		for _, m := range s.GetMethod() {
			w["."+f.GetPackage()+"."+s.GetName()+"/"+m.GetName()] = fmt.Sprint(
				m.GetInputType(), m.GetOutputType(), m.GetClientStreaming(), m.GetServerStreaming(),
			)
		}
	}
}

func (w words) message(in string, m *descriptorpb.DescriptorProto) {
	name := in + "." + m.GetName()
	w[name] = "a message"
	for _, f := range m.GetField() {
		what := fmt.Sprint(f.GetLabel(), f.GetType(), f.GetTypeName(), f.GetNumber())
		if f.OneofIndex != nil {
			what += " of " + m.GetOneofDecl()[f.GetOneofIndex()].GetName()
		}
		w[name+"."+f.GetName()] = what
	}
	for _, n := range m.GetNestedType() {
		w.message(name, n)
	}
	for _, e := range m.GetEnumType() {
		w.enum(name, e)
	}
}

func (w words) enum(in string, e *descriptorpb.EnumDescriptorProto) {
	for _, v := range e.GetValue() {
		w[in+"."+e.GetName()+"."+v.GetName()] = fmt.Sprint(v.GetNumber())
	}
}
