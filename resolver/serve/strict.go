package serve

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"inject/internal/spelling"
	secretpb "inject/resolver/idl/flyteidl2/secret"
	injectv1 "inject/resolver/idl/inject/v1"
)

// A field of a message that the server does not know is ignored, because a newer client of Flyte
// may send it. Not so where the field may say at which scope a secret is: without it the secret
// would be another one, at a wider scope. So an identifier with a misspelt project is refused. In
// the binary form a field cannot be misspelt, but a newer Flyte may add one that narrows the scope:
// clients send only fields that are set.

var (
	idMessage   = (&secretpb.SecretIdentifier{}).ProtoReflect().Descriptor()
	listMessage = (&secretpb.ListSecretsRequest{}).ProtoReflect().Descriptor()
	ownMessages = injectv1.File_inject_v1_resolve_proto
)

// scopeFields are the fields that say at which scope a secret is.
var scopeFields = []string{"organization", "domain", "project"}

// isScope reports whether every field of a message says which secret is meant.
func isScope(d protoreflect.MessageDescriptor) bool {
	return d.FullName() == idMessage.FullName() || d.Parent() == ownMessages && d.Name() == "Scope"
}

// knowsAll reports whether a message in JSON may have no unknown field. Our own requests are among
// them: a misspelt scope in one of them would be left out as a whole, and their newer clients send
// the binary form.
func knowsAll(d protoreflect.MessageDescriptor) bool {
	return isScope(d) || d.ParentFile() == ownMessages
}

// misspelt returns an error if an unknown field in the JSON b of a message of type d may be one that
// says where a secret is. Decoding reports what is not JSON.
func misspelt(b []byte, d protoreflect.MessageDescriptor) error {
	var fields map[string]json.RawMessage
	_ = json.Unmarshal(b, &fields)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		field := d.Fields().ByJSONName(name)
		if field == nil {
			field = d.Fields().ByTextName(name)
		}
		switch {
		case field == nil && (knowsAll(d) || d == listMessage && isLikeScope(name)):
			return unknownField(d, name)
		case field == nil || field.Message() == nil || field.IsMap() || !knowsAll(field.Message()):
		case field.IsList():
			var all []json.RawMessage
			_ = json.Unmarshal(fields[name], &all)
			for _, one := range all {
				if err := misspelt(one, field.Message()); err != nil {
					return err
				}
			}
		default:
			if err := misspelt(fields[name], field.Message()); err != nil {
				return err
			}
		}
	}
	return nil
}

// isLikeScope reports whether a name may be meant for one of scopeFields, such as org or projectId.
func isLikeScope(name string) bool {
	name = strings.ToLower(name)
	return spelling.Nearest(name, scopeFields) != "" || slices.ContainsFunc(scopeFields, func(known string) bool {
		return strings.HasPrefix(name, known) || len(name) > 2 && strings.HasPrefix(known, name)
	})
}

// plainName matches names of fields that may be repeated in an error.
var plainName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,40}$`)

func unknownField(d protoreflect.MessageDescriptor, name string) error {
	var known []string
	for i := range d.Fields().Len() {
		known = append(known, d.Fields().Get(i).JSONName())
	}
	shown := "an unknown field"
	if plainName.MatchString(name) {
		shown = fmt.Sprintf("the unknown field %q", name)
	}
	meant := ""
	if near := spelling.Nearest(strings.ToLower(name), known); near != "" {
		meant = fmt.Sprintf(": did you mean %q?", near)
	}
	return fmt.Errorf("a %s has %s%s; its fields are %s; nothing was done", d.FullName(), shown, meant,
		strings.Join(known, ", "))
}

// unknownNumber returns the error for a field of a scope that the server does not know.
func unknownNumber(d protoreflect.MessageDescriptor, number protoreflect.FieldNumber) error {
	return fmt.Errorf("a %s has the field number %d, which this server does not know and which may narrow the scope; "+
		"use a server that is as new as the client; nothing was done", d.FullName(), number)
}
