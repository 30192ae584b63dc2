package serve

import (
	"encoding/json"
	"fmt"
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
	specMessage = (&secretpb.SecretSpec{}).ProtoReflect().Descriptor()
	// A declared secret without its misspelt group or key would be another one.
	declaredMessage = (&injectv1.ResolveRequest{}).ProtoReflect().Descriptor().Fields().ByName("secrets").Message()
	ownMessages     = injectv1.File_inject_v1_resolve_proto
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
	return isScope(d) || d.ParentFile() == ownMessages || d.FullName() == declaredMessage.FullName()
}

// misspelt returns an error if an unknown field in the JSON b of a message of type d may be one that
// says where a secret is. b must have been decoded before, so that it is valid.
func misspelt(b []byte, d protoreflect.MessageDescriptor) error {
	w := walker{b: b}
	return w.value(d)
}

// A walker goes through valid JSON without a copy of it, which may be large.
type walker struct {
	b  []byte
	at int
}

// next skips white space, and returns the byte behind it.
func (w *walker) next() byte {
	for strings.IndexByte(" \t\r\n", w.b[w.at]) >= 0 {
		w.at++
	}
	return w.b[w.at]
}

// text returns the string at the position, with its quotes.
func (w *walker) text() []byte {
	from := w.at
	for w.at++; w.b[w.at] != '"'; w.at++ {
		if w.b[w.at] == '\\' {
			w.at++
		}
	}
	w.at++
	return w.b[from:w.at]
}

// value goes through one value. d is the message that it is, or whose list it is, and nil for one
// that may have any field.
func (w *walker) value(d protoreflect.MessageDescriptor) error {
	switch c := w.next(); c {
	case '"':
		w.text()
	case '[', '{':
		for w.at++; w.next() != c+2; { // in ASCII ] and } are two behind [ and {
			inner := d
			if c == '{' {
				var name string
				var err error
				_ = json.Unmarshal(w.text(), &name) // valid
				if inner, err = within(d, name); err != nil {
					return err
				}
				w.next()
				w.at++ // the colon
			}
			if err := w.value(inner); err != nil {
				return err
			}
			if w.next() == ',' {
				w.at++
			}
		}
		w.at++
	default: // a number or a word
		for w.at < len(w.b) && strings.IndexByte(",]} \t\r\n", w.b[w.at]) < 0 {
			w.at++
		}
	}
	return nil
}

// within returns the message that the field of d with a name in JSON has, nil if that may have any
// field. It returns an error if d may not have the field.
func within(d protoreflect.MessageDescriptor, name string) (inner protoreflect.MessageDescriptor, err error) {
	if d == nil {
		return inner, err
	}
	field := d.Fields().ByJSONName(name)
	if field == nil {
		field = d.Fields().ByTextName(name)
	}
	switch {
	case field == nil && (knowsAll(d) || d == listMessage && isLikeScope(name)),
		field == nil && d == specMessage && isLikeValue(name):
		err = unknownField(d, name)
	case field != nil && field.Message() != nil && (knowsAll(field.Message()) || field.Message() == specMessage):
		inner = field.Message()
	}
	return inner, err
}

// isLikeScope reports whether a name may be meant for one of scopeFields, such as org or projectId.
func isLikeScope(name string) bool {
	name = strings.ToLower(name)
	return spelling.Nearest(name, scopeFields) != "" || slices.ContainsFunc(scopeFields, func(known string) bool {
		return strings.HasPrefix(name, known) || len(name) > 2 && strings.HasPrefix(known, name)
	})
}

// isLikeValue reports whether a name may be meant for a field with the value of a secret, without which
// the error would only be that there is none.
func isLikeValue(name string) bool {
	name = strings.ToLower(name)
	return spelling.Nearest(name, []string{"stringvalue", "binaryvalue"}) != "" ||
		len(name) > 3 && strings.Contains("stringvalue", name)
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
	return fmt.Errorf("the message %s has %s%s; its fields are %s; nothing was done", d.FullName(), shown, meant,
		strings.Join(known, ", "))
}

// unknownNumber returns the error for a field of a scope that the server does not know.
func unknownNumber(d protoreflect.MessageDescriptor, number protoreflect.FieldNumber) error {
	return fmt.Errorf("the message %s has the field number %d, which this server does not know and which may narrow "+
		"the scope; use a server that is as new as the client; nothing was done", d.FullName(), number)
}
