package task

import (
	"bytes"
	"errors"
	"fmt"

	"go.yaml.in/yaml/v3"

	"inject/internal/strictyaml"
	"inject/resolver/secret"
)

// mountPath is the only mount that Flyte's SDK accepts (flyte-sdk
// src/flyte/_secret.py).
const mountPath = "/etc/flyte/secrets"

// Parse reads a task in YAML or JSON, shaped as a flyte.TaskEnvironment: name,
// project, domain, and secrets, each a key or {key, group, as_env_var, mount}; or a
// flyteidl2.core.TaskTemplate or SecurityContext in protobuf's JSON, told apart by its
// fields. Errors name file, line and field of everything that is wrong at once, and
// quote no scalar. task.schema.json is the same for editors.
func Parse(file string, text []byte) (Task, error) {
	if trimmed := bytes.TrimSpace(text); len(trimmed) > 0 && trimmed[0] == '{' {
		if t, is, err := parseJSON(file, trimmed); is {
			return t, err
		}
		// YAML has no tabs between tokens, JSON has no others.
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

// syntaxError says where file is not YAML. It leaves out the text of err, which may quote
// the file.
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

// mistakes returns what was found wrong in the file of root, with file, line and field.
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

// given reports whether the file has the field that n is: null counts as absent.
func given(n strictyaml.Node) bool { return n.Node != nil && !n.Null() }

// textOf returns the text of the field n, "" if it is not given.
func textOf(n strictyaml.Node) string {
	if !given(n) {
		return ""
	}
	s, _ := n.Text()
	return s
}

// secrets reads what flyte calls a SecretRequest: one, or a list.
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

// declared reads one declaration by the rules of flyte.Secret: a variable if
// as_env_var is given, with mount or without; a file if only mount is; else the
// default variables.
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
		variable.Fail("not a variable's name (not shown): it is of A-Z, 0-9 and _")
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

// validate reports why d cannot be placed, unless n has a mistake already.
func validate(n strictyaml.Node, d secret.Declaration, before int) {
	if n.Count() > before {
		return
	}
	if err := d.Validate(); err != nil {
		n.Fail("%w", err)
	}
}
