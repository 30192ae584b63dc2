package task

import (
	"bytes"
	"errors"
	"fmt"

	"go.yaml.in/yaml/v3"

	"inject/internal/strictyaml"
	"inject/resolver/secret"
)

// mountPath is the only mount that Flyte's SDK accepts (flyte-sdk src/flyte/_secret.py).
const mountPath = "/etc/flyte/secrets"

// Parse reads text, the content of the task file called file. It is a flyte.TaskEnvironment in
// YAML or JSON, with name, project, domain and secrets, each a key or {key, group, as_env_var,
// mount}. Or it is a flyteidl2.core.TaskTemplate or SecurityContext in protobuf's JSON, told
// apart by its fields.
//
// The error names the file, line and field of everything that is wrong with it, and quotes no
// value. task.schema.json describes the same TaskEnvironment for editors.
func Parse(file string, text []byte) (Task, error) {
	if trimmed := bytes.TrimSpace(text); len(trimmed) > 0 && trimmed[0] == '{' {
		if t, is, err := parseJSON(file, trimmed); is {
			return t, err
		}
		// JSON may have tabs between tokens, and only there. YAML does not allow them.
		text = bytes.ReplaceAll(text, []byte("\t"), []byte(" "))
	}
	root, err := strictyaml.Parse(text)
	if err != nil {
		return Task{}, syntaxError(file, err)
	}
	var t Task
	if fields, ok := root.Known("domain", "name", "project", "secrets"); ok {
		t = Task{Name: textOf(fields["name"]), Project: textOf(fields["project"]), Domain: textOf(fields["domain"])}
		t.Declared = secrets(fields["secrets"])
	}
	return t, mistakes(file, root)
}

// syntaxError returns the error for a file that is not YAML. It leaves out the text of err, which
// may quote the file.
func syntaxError(file string, err error) error {
	e, ok := errors.AsType[*strictyaml.SyntaxError](err)
	switch {
	case errors.Is(err, strictyaml.ErrEmpty):
		return fmt.Errorf("%w: %s is empty", secret.ErrInvalid, file)
	case ok && e.Second:
		return fmt.Errorf("%w: %s:%d: more than one document", secret.ErrInvalid, file, e.Line)
	case ok && e.Line > 0:
		return fmt.Errorf("%w: %s is neither YAML nor JSON: line %d", secret.ErrInvalid, file, e.Line)
	}
	return fmt.Errorf("%w: %s is neither YAML nor JSON", secret.ErrInvalid, file)
}

// mistakes returns an error that names everything that was wrong in the file of root, or nil.
func mistakes(file string, root strictyaml.Node) error {
	first, more := root.Mistakes()
	var errs []error
	for _, m := range first {
		at := m.Path
		if at == "" {
			at = "the task"
		}
		errs = append(errs, fmt.Errorf("%w: %s:%d: %s: %w", secret.ErrInvalid, file, m.Line, at, m.Err))
	}
	if more > 0 {
		errs = append(errs, fmt.Errorf("%w: %s: there are %d more mistakes", secret.ErrInvalid, file, more))
	}
	return errors.Join(errs...)
}

// given reports whether n is a field that the file has. A field that is null counts as missing.
func given(n strictyaml.Node) bool { return n.Node != nil && !n.Null() }

// textOf returns the text of the field n, or "" if it is not given.
func textOf(n strictyaml.Node) string {
	if !given(n) {
		return ""
	}
	s, _ := n.Text()
	return s
}

// secrets reads one declaration or a list of them, which Flyte's SDK calls a SecretRequest.
func secrets(n strictyaml.Node) []secret.Declaration {
	switch {
	case !given(n):
		return nil
	case n.Kind != yaml.SequenceNode:
		return []secret.Declaration{declared(n)}
	}
	items, _ := n.List()
	var all []secret.Declaration
	for _, item := range items {
		all = append(all, declared(item))
	}
	return all
}

// declared reads one declaration by the rules of flyte.Secret. If as_env_var is given, the secret
// is placed in that variable, even if mount is given, too. If only mount is given, it is placed
// in a file, and otherwise in the default variables.
func declared(n strictyaml.Node) secret.Declaration {
	before := n.Count()
	d := secret.Declaration{Mount: secret.EnvVar}
	if n.Kind == yaml.ScalarNode {
		d.Key, _ = n.Text()
		validate(n, d, before)
		return d
	}
	fields, ok := n.Known("as_env_var", "group", "key", "mount")
	if !ok {
		return d
	}

	key, variable, mount := fields["key"], fields["as_env_var"], fields["mount"]
	d.Key, d.Group, d.EnvVar = textOf(key), textOf(fields["group"]), textOf(variable)
	if given(variable) && n.Count() == before && !secret.ValidEnvVar(d.EnvVar) {
		variable.Fail("not a variable's name (not shown): use A-Z, 0-9 and _")
	}
	if given(mount) {
		if path, ok := mount.Text(); ok && path != mountPath {
			mount.Fail("unsupported mount: only %s is, as in Flyte", mountPath)
		}
		if d.EnvVar == "" {
			d.Mount = secret.File
		}
	}

	if !given(key) && n.Count() == before {
		n.Fail("the key is missing")
	}
	validate(n, d, before)
	return d
}

// validate reports a mistake of n if d cannot be placed. before is the number of mistakes before n
// was read: if there are more now, n has a mistake already, and validate reports nothing.
func validate(n strictyaml.Node, d secret.Declaration, before int) {
	if n.Count() > before {
		return
	}
	if err := d.Validate(); err != nil {
		n.Fail("%w", err)
	}
}
