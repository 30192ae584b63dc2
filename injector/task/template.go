package task

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"inject/internal/annotation"
	"inject/resolver/idl/flyteidl2/core"
	"inject/resolver/secret"
)

// isBinary reports whether b has a byte that no text file has. Every protobuf message that
// declares a secret has one: the tag of its list of secrets is 0x12.
func isBinary(b []byte) bool {
	return !utf8.Valid(b) || bytes.ContainsFunc(b, func(r rune) bool {
		return r < ' ' && r != '\t' && r != '\n' && r != '\r' && r != '\f'
	})
}

// parseBinary reads a core.TaskTemplate or core.SecurityContext. A protobuf message does not tell
// its type, so it must look like one of the two: it has secrets and only fields of a
// SecurityContext, or it has a task's name or type.
func parseBinary(file string, b []byte) (Task, error) {
	security := &core.SecurityContext{}
	if proto.Unmarshal(b, security) == nil && looksSecurity(security) {
		return fromMessages(file, nil, security)
	}
	template := &core.TaskTemplate{}
	if err := proto.Unmarshal(b, template); err != nil {
		return Task{}, fmt.Errorf("%w: %s is neither text nor a protobuf message of Flyte's, or is cut short",
			secret.ErrInvalid, file)
	}
	if !looksTemplate(template) {
		return Task{}, secret.WithHint(
			fmt.Errorf("%w: %s is a protobuf message, but not a TaskTemplate or a SecurityContext with secrets",
				secret.ErrInvalid, file),
			"--task takes flyteidl2.core.TaskTemplate or SecurityContext, binary or JSON,"+
				" or a TaskEnvironment in YAML or JSON")
	}
	return fromMessages(file, template.GetId(), template.GetSecurityContext())
}

// looksSecurity reports whether s was a SecurityContext with secrets before it was read as one.
func looksSecurity(s *core.SecurityContext) bool {
	for _, one := range s.GetSecrets() {
		if one.GetKey() == "" && len(unknownNumbers(one)) > 0 {
			return false
		}
	}
	return len(s.GetSecrets()) > 0 && len(unknownNumbers(s)) == 0
}

// looksTemplate reports whether t was a TaskTemplate before it was read as one.
func looksTemplate(t *core.TaskTemplate) bool {
	for _, m := range []protoreflect.Message{t.ProtoReflect(), t.GetId().ProtoReflect()} {
		known := m.Descriptor().Fields()
		for _, n := range numbers(m.GetUnknown()) {
			if known.ByNumber(n) != nil {
				return false // this field has another type in a TaskTemplate
			}
		}
	}
	return t.GetId().GetName() != "" || t.GetType() != ""
}

// numbers returns the numbers of the fields in b. Package proto has checked that b is whole.
func numbers(b []byte) []protoreflect.FieldNumber {
	var all []protoreflect.FieldNumber
	for len(b) > 0 {
		number, _, n := protowire.ConsumeField(b)
		if n < 0 {
			break
		}
		all, b = append(all, number), b[n:]
	}
	return all
}

// fromMessages returns the task that the two messages of file describe. Either may be nil.
func fromMessages(file string, id *core.Identifier, security *core.SecurityContext) (Task, error) {
	var l list
	if len(unknownNumbers(security)) > 0 {
		l.add(file, secret.Declaration{}, annotation.BadSecret("binary format", true))
	}
	for i, one := range security.GetSecrets() {
		d, err := annotation.FromMessage(one)
		l.add(fmt.Sprintf("%s: secrets[%d]", file, i), d, err)
	}
	t := Task{Name: id.GetName(), Project: id.GetProject(), Domain: id.GetDomain(), Declared: l.declared}
	return t, joinSome(l.errs)
}

// The fields of a TaskTemplate and a SecurityContext, as protobuf's JSON spells them.
var (
	templateFields = []string{
		"id", "type", "metadata", "interface", "custom", "container", "k8sPod", "sql",
		"taskTypeVersion", "securityContext", "extendedResources", "config",
	}
	securityFields = []string{"runAs", "secrets", "tokens"}
)

// parseJSON reads a core.TaskTemplate or core.SecurityContext in JSON, and reports whether text
// is one. Another text may be a TaskEnvironment.
func parseJSON(file string, text []byte) (Task, bool, error) {
	if !json.Valid(text) {
		return Task{}, false, nil // the YAML parser reports what is wrong
	}
	fields, twice := object(text)
	switch {
	case hasAny(fields, "id", "type", "securityContext", "taskTypeVersion", "container", "k8sPod"):
	case hasAny(fields, "runAs", "tokens") || declaresMessages(fields["secrets"]):
		fields = map[string]json.RawMessage{"securityContext": text}
	default:
		return Task{}, false, nil
	}
	if err := onlyFields(fields, templateFields); err != nil {
		return Task{}, true, fmt.Errorf("%w: %s: TaskTemplate: %w", secret.ErrInvalid, file, err)
	}
	if twice != "" {
		return Task{}, true, fmt.Errorf("%w: %s: %s is given twice", secret.ErrInvalid, file, twice)
	}

	id := &core.Identifier{}
	if raw, ok := fields["id"]; ok {
		if protojson.Unmarshal(raw, id) != nil { // a field that is misspelt would be a scope that is lost
			return Task{}, true, fmt.Errorf("%w: %s: id is not an Identifier of Flyte's", secret.ErrInvalid, file)
		}
	}
	all, err := secretsOfJSON(fields["securityContext"])
	if err != nil {
		return Task{}, true, fmt.Errorf("%s: %w", file, err)
	}
	t, err := fromMessages(file, id, &core.SecurityContext{Secrets: all})
	return t, true, err
}

// secretsOfJSON returns the secrets of a SecurityContext in JSON, none for "".
func secretsOfJSON(security json.RawMessage) ([]*core.Secret, error) {
	if len(security) == 0 {
		return nil, nil
	}
	fields, twice := object(security)
	if fields == nil {
		return nil, fmt.Errorf("%w: securityContext is not an object", secret.ErrInvalid)
	}
	if err := onlyFields(fields, securityFields); err != nil {
		return nil, fmt.Errorf("%w: SecurityContext: %w", secret.ErrInvalid, err)
	}
	if twice != "" {
		return nil, fmt.Errorf("%w: securityContext: %s is given twice", secret.ErrInvalid, twice)
	}

	var list []json.RawMessage
	if raw := fields["secrets"]; raw != nil && json.Unmarshal(raw, &list) != nil {
		return nil, fmt.Errorf("%w: securityContext.secrets is not a list", secret.ErrInvalid)
	}
	all := make([]*core.Secret, len(list))
	var errs []error
	for i, raw := range list {
		all[i] = &core.Secret{}
		if err := protojson.Unmarshal(raw, all[i]); err != nil {
			lax := protojson.UnmarshalOptions{DiscardUnknown: true}
			errs = append(errs, fmt.Errorf("secrets[%d]: %w", i, annotation.BadSecret("JSON",
				lax.Unmarshal(raw, all[i]) == nil)))
		}
	}
	return all, joinSome(errs)
}

// declaresMessages reports whether secrets is a list of Flyte's messages: one of them has a field
// that a TaskEnvironment spells differently.
func declaresMessages(secrets json.RawMessage) bool {
	var list []json.RawMessage
	_ = json.Unmarshal(secrets, &list) // anything but a list leaves list empty
	return slices.ContainsFunc(list, func(raw json.RawMessage) bool {
		fields, _ := object(raw) // none for a key alone, which is a string
		return hasAny(fields, "groupVersion", "mountRequirement", "envVar")
	})
}

// hasAny reports whether fields has one of names.
func hasAny(fields map[string]json.RawMessage, names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { _, ok := fields[name]; return ok })
}

// object returns the fields of text, which is valid JSON, by their names as protobuf's JSON
// spells them. As protobuf does, it also reads the names of the .proto file. It returns nil if
// text is not an object. If a field is given twice, it also returns that name, which may be any
// text of the file.
func object(text json.RawMessage) (fields map[string]json.RawMessage, twice string) {
	d := json.NewDecoder(bytes.NewReader(text))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, ""
	}
	fields = map[string]json.RawMessage{}
	for d.More() {
		name, err := d.Token()
		text, ok := name.(string)
		var raw json.RawMessage
		if err != nil || !ok || d.Decode(&raw) != nil {
			return nil, ""
		}
		if text = camelCase(text); fields[text] != nil {
			twice = text
		}
		fields[text] = raw
	}
	return fields, twice
}

// camelCase returns the name of a .proto file as protobuf's JSON spells it: aName for a_name.
func camelCase(name string) string {
	words := strings.Split(name, "_")
	for i, word := range words[1:] {
		if word == "" {
			return name
		}
		words[i+1] = strings.ToUpper(word[:1]) + word[1:]
	}
	return strings.Join(words, "")
}

// onlyFields returns an error if fields has a name that is not in known. It does not quote that
// name.
func onlyFields(fields map[string]json.RawMessage, known []string) error {
	for name := range fields {
		if !slices.Contains(known, name) {
			return fmt.Errorf("unknown field, not shown (known: %s)", strings.Join(known, ", "))
		}
	}
	return nil
}
