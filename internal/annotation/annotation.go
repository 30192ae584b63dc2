// Package annotation is the form in which a pod's annotations declare secrets: that of Flyte's own
// marshaler (flyteplugins/go/tasks/pluginmachinery/utils/secrets marshaler.go at v2.0.43).
package annotation

import (
	"encoding/base32"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/prototext"

	"inject/resolver/idl/flyteidl2/core"
	"inject/resolver/secret"
)

// Prefix begins the name of a pod's annotation that declares a secret. A number, counted from 0,
// follows.
const Prefix = "flyte.secrets/s"

// MaxBytes is how many bytes Kubernetes accepts in all annotations of an object together.
const MaxBytes = 256 << 10

// encoding is Flyte's base32, which has no padding and an alphabet of its own.
var encoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz123456").WithPadding(base32.NoPadding)

// Encode returns the value of an annotation that declares d, as Flyte writes it. It
// leaves out d.Path, which Flyte's declarations do not have.
func Encode(d secret.Declaration) string {
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
	return encoding.EncodeToString([]byte(b.String()))
}

// Of returns the names and values of the annotations with which a pod declares the list,
// in its order.
func Of(declared []secret.Declaration) iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		for i, d := range declared {
			if !yield(Prefix+strconv.Itoa(i), Encode(d)) {
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

// Decode reads the value of an annotation that declares a secret. No error quotes it.
func Decode(text string) (secret.Declaration, error) {
	if len(text) > MaxBytes {
		return secret.Declaration{}, fmt.Errorf("%w: it is %d bytes long, more than Kubernetes accepts (%d)",
			secret.ErrInvalid, len(text), MaxBytes)
	}
	b, err := encoding.DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") { // package base32 skips line ends
		return secret.Declaration{}, fmt.Errorf("%w: it is not Flyte's base32", secret.ErrInvalid)
	}
	s := &core.Secret{}
	if err := prototext.Unmarshal(b, s); err != nil {
		lax := prototext.UnmarshalOptions{DiscardUnknown: true}
		return secret.Declaration{}, BadSecret("text format", lax.Unmarshal(b, s) == nil)
	}
	return FromMessage(s)
}

// BadSecret returns the error for a message in format that is not a Secret of Flyte's: it has an
// unknown field, or cannot be read at all.
func BadSecret(format string, unknownField bool) error {
	if unknownField {
		return secret.WithHint(fmt.Errorf("%w: it has an unknown field", secret.ErrInvalid),
			"it may come from a newer Flyte;"+
				" this inject knows group, group_version, key, mount_requirement and env_var")
	}
	return fmt.Errorf("%w: it is not a Secret of Flyte's in protobuf's %s", secret.ErrInvalid, format)
}

// FromMessage returns the declaration that s is, or an error if it cannot be placed as declared.
func FromMessage(s *core.Secret) (secret.Declaration, error) {
	if len(s.ProtoReflect().GetUnknown()) > 0 {
		return secret.Declaration{}, BadSecret("binary format", true)
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
