package task

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

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
	p := parser{file: file}
	if trimmed := bytes.TrimSpace(text); len(trimmed) > 0 && trimmed[0] == '{' {
		if t, is, err := parseJSON(file, trimmed); is {
			return t, err
		}
		// YAML has no tabs between tokens, JSON has no others.
		text = bytes.ReplaceAll(text, []byte("\t"), []byte(" "))
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	err := decoder.Decode(&doc)
	switch {
	case errors.Is(err, io.EOF):
		return Task{}, fmt.Errorf("%w: %s is empty", secret.ErrInvalid, file)
	case err != nil:
		return Task{}, fmt.Errorf("%w: %s is neither YAML nor JSON%s", secret.ErrInvalid, file, atLine(err))
	case !errors.Is(decoder.Decode(&more), io.EOF):
		return Task{}, fmt.Errorf("%w: %s holds more than one document", secret.ErrInvalid, file)
	}
	var t Task
	p.fields(doc.Content[0], "", map[string]func(string, *yaml.Node){
		"name":    func(at string, n *yaml.Node) { t.Name = p.text(at, n) },
		"project": func(at string, n *yaml.Node) { t.Project = p.text(at, n) },
		"domain":  func(at string, n *yaml.Node) { t.Domain = p.text(at, n) },
		"secrets": func(at string, n *yaml.Node) { t.Declared = p.secrets(at, n) },
	})
	return t, errors.Join(p.errs...)
}

// atLine returns where a syntax error is. The rest of its text may quote the file.
func atLine(err error) string {
	if m := regexp.MustCompile(`line (\d+)`).FindString(err.Error()); m != "" {
		return ": " + m
	}
	return ""
}

// maxErrors is how many mistakes of one file are told at once.
const maxErrors = 20

type parser struct {
	file string
	errs []error
}

func (p *parser) fail(at string, n *yaml.Node, format string, args ...any) {
	if at == "" {
		at = "the task"
	}
	if len(p.errs) == maxErrors {
		p.errs = append(p.errs, fmt.Errorf("%w: %s: there are more mistakes", secret.ErrInvalid, p.file))
	}
	if len(p.errs) > maxErrors {
		return
	}
	p.errs = append(p.errs, fmt.Errorf("%w: %s:%d: %s: "+format, append([]any{secret.ErrInvalid, p.file, n.Line, at}, args...)...))
}

// fields calls the function of each field of the mapping n.
func (p *parser) fields(n *yaml.Node, at string, known map[string]func(at string, n *yaml.Node)) {
	if n = resolve(n); n.Kind != yaml.MappingNode {
		p.fail(at, n, "expected fields, found %s", kind(n))
		return
	}
	if at != "" {
		at += "."
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], resolve(n.Content[i+1])
		field := known[key.Value]
		switch {
		case field == nil:
			names := make([]string, 0, len(known))
			for name := range known {
				names = append(names, name)
			}
			slices.Sort(names)
			p.fail(at+fieldName(key.Value), key, "unknown field (known: %s)", strings.Join(names, ", "))
		case seen[key.Value]:
			p.fail(at+key.Value, key, "given twice")
		case value.Tag != "!!null":
			field(at+key.Value, value)
		}
		seen[key.Value] = true
	}
}

// fieldName returns a field's name if it looks like one.
func fieldName(name string) string {
	if len(name) <= 40 && secret.ValidKey(name) == nil {
		return name
	}
	return "?"
}

func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

func kind(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "fields"
	case yaml.SequenceNode:
		return "a list"
	default:
		if name, ok := map[string]string{"!!str": "a text", "!!int": "a number", "!!float": "a number", "!!bool": "a truth value", "!!null": "null"}[n.Tag]; ok {
			return name
		}
		return "something else" // a time, binary data
	}
}

func (p *parser) text(at string, n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
		p.fail(at, n, "expected text, found %s", kind(n))
		return ""
	}
	return n.Value
}

// secrets reads what flyte calls a SecretRequest: one, or a list.
func (p *parser) secrets(at string, n *yaml.Node) []secret.Declaration {
	if n.Kind != yaml.SequenceNode {
		return []secret.Declaration{p.secret(at, n)}
	}
	var declared []secret.Declaration
	for i, item := range n.Content {
		declared = append(declared, p.secret(fmt.Sprintf("%s[%d]", at, i), resolve(item)))
	}
	return declared
}

// secret reads one declaration by the rules of flyte.Secret: a variable if
// as_env_var is given, with mount or without; a file if only mount is; else the
// default variables.
func (p *parser) secret(at string, n *yaml.Node) secret.Declaration {
	d := secret.Declaration{Mount: secret.EnvVar}
	before := len(p.errs)
	mounted, hasKey := false, false
	if n.Kind == yaml.ScalarNode {
		hasKey = true
		d.Key = p.text(at, n)
	} else {
		p.fields(n, at, map[string]func(string, *yaml.Node){
			"key":   func(at string, n *yaml.Node) { d.Key, hasKey = p.text(at, n), true },
			"group": func(at string, n *yaml.Node) { d.Group = p.text(at, n) },
			"as_env_var": func(at string, n *yaml.Node) {
				d.EnvVar = p.text(at, n)
				if n.Tag == "!!str" && !secret.ValidEnvVar(d.EnvVar) {
					p.fail(at, n, "not a variable's name (not shown): it is of A-Z, 0-9 and _")
				}
			},
			"mount": func(at string, n *yaml.Node) {
				mounted = true
				if p.text(at, n) != mountPath && n.Tag == "!!str" {
					p.fail(at, n, "unsupported mount: only %s is, as in Flyte", mountPath)
				}
			},
		})
	}
	if mounted && d.EnvVar == "" {
		d.Mount = secret.File
	}
	if len(p.errs) > before || len(p.errs) > maxErrors {
		return d
	}
	if !hasKey {
		p.fail(at, n, "the key is missing")
	} else if err := d.Validate(); err != nil {
		p.fail(at, n, "%w", err)
	}
	return d
}
