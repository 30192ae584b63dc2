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

// AnnotationPrefix begins the name of a pod's annotation that declares a secret;
// its number, from 0, ends it (flyteplugins/go/tasks/pluginmachinery/utils/secrets
// marshaler.go at v2.0.43, as everything of an annotation's form).
const AnnotationPrefix = "flyte.secrets/s"

// maxAnnotation is as much as Kubernetes takes of all annotations of an object, in
// bytes.
const maxAnnotation = 256 << 10

// annotationEncoding is Flyte's base32: an alphabet of its own, which is legal in a
// label, and no padding.
var annotationEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz123456").WithPadding(base32.NoPadding)

// EncodeAnnotation returns the value of an annotation that declares d, as Flyte
// writes it. What a declaration has beyond Flyte's, its Path, is not in it.
func EncodeAnnotation(d secret.Declaration) string {
	// Not by prototext, which changes its white space at random.
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

// Annotations returns the annotations, names and values, by which a pod declares the
// list, in order.
func Annotations(declared []secret.Declaration) iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		for i, d := range declared {
			if !yield(AnnotationPrefix+strconv.Itoa(i), EncodeAnnotation(d)) {
				return
			}
		}
	}
}

// quote returns text as golang/protobuf's text format has it, and "" for "".
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

// DecodeAnnotation reads the value of an annotation that declares a secret. Errors
// say what is wrong and quote nothing.
func DecodeAnnotation(text string) (secret.Declaration, error) {
	if len(text) > maxAnnotation {
		return secret.Declaration{}, fmt.Errorf("%w: it is %d bytes long, more than Kubernetes takes (%d)",
			secret.ErrInvalid, len(text), maxAnnotation)
	}
	b, err := annotationEncoding.DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") { // which package base32 skips
		return secret.Declaration{}, fmt.Errorf("%w: it is not Flyte's base32", secret.ErrInvalid)
	}
	s := &core.Secret{}
	if err := prototext.Unmarshal(b, s); err != nil {
		lax := prototext.UnmarshalOptions{DiscardUnknown: true}
		return secret.Declaration{}, badSecret("the text format", lax.Unmarshal(b, s) == nil)
	}
	return declaration(s)
}

// badSecret says why a message in some format is no Secret of Flyte's.
func badSecret(format string, unknownField bool) error {
	if unknownField {
		return secret.WithHint(fmt.Errorf("%w: it has a field that is not known", secret.ErrInvalid),
			"it may come from a newer Flyte;"+
				" this inject knows group, group_version, key, mount_requirement and env_var")
	}
	return fmt.Errorf("%w: it is no Secret of Flyte's in %s of protobuf", secret.ErrInvalid, format)
}

// declaration returns what s declares, if it can be placed.
func declaration(s *core.Secret) (secret.Declaration, error) {
	if len(s.ProtoReflect().GetUnknown()) > 0 {
		return secret.Declaration{}, badSecret("the binary format", true)
	}
	d := secret.Declaration{
		Group: s.GetGroup(), Key: s.GetKey(), Version: s.GetGroupVersion(),
		Mount: secret.Mount(s.GetMountRequirement()), EnvVar: s.GetEnvVar(),
	}
	if s.GetMountRequirement().Descriptor().Values().ByNumber(s.GetMountRequirement().Number()) == nil {
		return d, fmt.Errorf("%w: %s: mount requirement %d is not known", secret.ErrInvalid, d.Key, d.Mount)
	}
	return d, d.Validate()
}

// list is a declared list as it is read.
type list struct {
	declared []secret.Declaration
	seen     map[secret.Declaration]bool
	errs     []error
}

// add adds d, unless it is there: Flyte lists a secret twice that two places ask for,
// and reads it once. An error is that of what is called where.
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

// maxErrors is how many mistakes of one source are told at once.
const maxErrors = 20

// joinSome joins errors, of many only the first.
func joinSome(errs []error) error {
	if len(errs) > maxErrors {
		more := fmt.Errorf("%w: there are %d more mistakes", secret.ErrInvalid, len(errs)-maxErrors)
		errs = append(errs[:maxErrors:maxErrors], more)
	}
	return errors.Join(errs...)
}

// unknownNumbers returns the numbers of the fields of m that its type does not have,
// or has with another type on the wire.
func unknownNumbers(m proto.Message) []protoreflect.FieldNumber {
	return numbers(m.ProtoReflect().GetUnknown())
}
