package task

import (
	"encoding/base32"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"inject/resolver/idl/flyteidl2/core"
	"inject/resolver/secret"
)

// AnnotationPrefix begins the name of a pod's annotation that declares a secret. A number,
// counted from 0, follows. The form of these annotations is that of Flyte's own marshaler
// (flyteplugins/go/tasks/pluginmachinery/utils/secrets marshaler.go at v2.0.43).
const AnnotationPrefix = "flyte.secrets/s"

// maxAnnotation is how many bytes Kubernetes accepts in all annotations of an object together.
const maxAnnotation = 256 << 10

// annotationEncoding is Flyte's base32, which has no padding and an alphabet of its own.
var annotationEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz123456").WithPadding(base32.NoPadding)

// EncodeAnnotation returns the value of an annotation that declares d, as Flyte writes it. It
// leaves out d.Path, which Flyte's declarations do not have.
func EncodeAnnotation(d secret.Declaration) string {
	// Package prototext cannot write it, since it varies its white space on purpose.
	var b strings.Builder
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s: %s\n", name, value)
		}
	}
	field("group", quote(d.Group))
	field("group_version", quote(d.Version))
	field("key", quote(d.Key))
	if d.Mount != secret.Any {
		field("mount_requirement", d.Mount.String())
	}
	field("env_var", quote(d.EnvVar))
	return annotationEncoding.EncodeToString([]byte(b.String()))
}

// Annotations returns the names and values of the annotations with which a pod declares the list,
// in its order.
func Annotations(declared []secret.Declaration) iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		for i, d := range declared {
			if !yield(AnnotationPrefix+strconv.Itoa(i), EncodeAnnotation(d)) {
				return
			}
		}
	}
}

// quote returns text as a string of protobuf's text format, written as golang/protobuf writes it,
// and "" for "".
func quote(text string) string {
	if text == "" {
		return ""
	}
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(text) {
		switch c := text[i]; {
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\r':
			b.WriteString(`\r`)
		case c == '\t':
			b.WriteString(`\t`)
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < 0x20 || c > 0x7e:
			fmt.Fprintf(&b, `\%03o`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// DecodeAnnotation reads the value of an annotation that declares a secret. No error quotes it.
func DecodeAnnotation(text string) (secret.Declaration, error) {
	if len(text) > maxAnnotation {
		return secret.Declaration{}, fmt.Errorf("%w: it is %d bytes long, more than Kubernetes accepts (%d)",
			secret.ErrInvalid, len(text), maxAnnotation)
	}
	b, err := annotationEncoding.DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") { // package base32 skips line ends
		return secret.Declaration{}, fmt.Errorf("%w: it is not Flyte's base32", secret.ErrInvalid)
	}
	s := &core.Secret{}
	if err := prototext.Unmarshal(b, s); err != nil {
		lax := prototext.UnmarshalOptions{DiscardUnknown: true}
		return secret.Declaration{}, badSecret("text format", lax.Unmarshal(b, s) == nil)
	}
	return declaration(s)
}

// badSecret returns the error for a message in format that is not a Secret of Flyte's: it has an
// unknown field, or cannot be read at all.
func badSecret(format string, unknownField bool) error {
	if unknownField {
		return secret.WithHint(fmt.Errorf("%w: it has an unknown field", secret.ErrInvalid),
			"it may come from a newer Flyte;"+
				" this inject knows group, group_version, key, mount_requirement and env_var")
	}
	return fmt.Errorf("%w: it is not a Secret of Flyte's in protobuf's %s", secret.ErrInvalid, format)
}

// declaration returns the declaration that s is, or an error if it cannot be placed as declared.
func declaration(s *core.Secret) (secret.Declaration, error) {
	if len(s.ProtoReflect().GetUnknown()) > 0 {
		return secret.Declaration{}, badSecret("binary format", true)
	}
	d := secret.Declaration{
		Group: s.GetGroup(), Key: s.GetKey(), Version: s.GetGroupVersion(),
		Mount: secret.Mount(s.GetMountRequirement()), EnvVar: s.GetEnvVar(),
	}
	if s.GetMountRequirement().Descriptor().Values().ByNumber(s.GetMountRequirement().Number()) == nil {
		return d, fmt.Errorf("%w: %s: mount requirement %d is unknown", secret.ErrInvalid, d.Key, d.Mount)
	}
	return d, d.Validate()
}

// list is a declared list while it is read.
type list struct {
	declared []secret.Declaration
	seen     map[secret.Declaration]bool
	errs     []error
}

// add adds d unless the list has it already: Flyte lists a secret once for each place that asks
// for it, and reads it once. If err is not nil, add records it with where, the name of d's place.
func (l *list) add(where string, d secret.Declaration, err error) {
	switch {
	case err != nil:
		l.errs = append(l.errs, fmt.Errorf("%s: %w", where, err))
	case !l.seen[d]:
		if l.seen == nil {
			l.seen = map[secret.Declaration]bool{}
		}
		l.declared, l.seen[d] = append(l.declared, d), true
	}
}

// maxErrors is how many mistakes of one source are reported.
const maxErrors = 20

// joinSome joins the first maxErrors of errs, and says how many more there are.
func joinSome(errs []error) error {
	if len(errs) > maxErrors {
		more := fmt.Errorf("%w: there are %d more mistakes", secret.ErrInvalid, len(errs)-maxErrors)
		errs = append(errs[:maxErrors:maxErrors], more)
	}
	return errors.Join(errs...)
}

// unknownNumbers returns the numbers of those fields of m that its type does not have, or has
// with another wire type.
func unknownNumbers(m proto.Message) []protoreflect.FieldNumber {
	return numbers(m.ProtoReflect().GetUnknown())
}
