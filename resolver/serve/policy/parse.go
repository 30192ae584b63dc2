package policy

import (
	"bytes"
	_ "embed" // the schema
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"inject/internal/printable"
	"inject/internal/strictyaml"
	"inject/resolver/secret"
)

//go:embed policy.schema.json
var schema []byte

// Schema returns the JSON Schema (draft 2020-12) of a policy file, for editors. Every file that
// [Parse] accepts is valid by it. Parse also refuses what a schema cannot express: two rules
// with one name, captures that do not fit together, duplicates.
func Schema() []byte { return bytes.Clone(schema) }

const (
	// maxSize is the largest policy file in bytes: that of a Kubernetes ConfigMap.
	maxSize = 1 << 20
	// maxName is the longest name of a rule in bytes. The audit log repeats it in each line.
	maxName = 100
)

// Parse reads a policy file. org is that of the scopes that name none. The error wraps
// [secret.ErrInvalid] and names the line and the field of every mistake, up to 20. It does not
// quote the patterns of tokens, because a token may stand in their place.
func Parse(text []byte, org string) (*Policy, error) {
	if len(text) > maxSize {
		return nil, fmt.Errorf("%w policy: %d bytes (at most %d)", secret.ErrInvalid, len(text), maxSize)
	}
	root, err := strictyaml.Parse(text)
	if err != nil {
		return nil, syntax(err)
	}
	p := &parser{org: org, policy: &Policy{}, names: map[string]int{}, quotaNames: map[string]int{}}
	p.file(root)
	if err := mistakes(root); err != nil {
		return nil, err
	}
	return p.policy, nil
}

// syntax returns an error in the YAML, with a hint for the most common mistake.
func syntax(err error) error {
	said := err.Error()
	if strings.Contains(said, "unknown anchor") || strings.Contains(said, "alphabetic or numeric") {
		said += ` (a pattern that begins with * needs quotes: "*")`
	}
	return fmt.Errorf("%w policy: %s", secret.ErrInvalid, said)
}

// mistakes returns all mistakes in the file of root as one error, or nil if there are none.
func mistakes(root strictyaml.Node) error {
	first, more := root.Mistakes()
	if len(first) == 0 {
		return nil
	}
	if len(first) == 1 {
		return fmt.Errorf("%w policy: %w", secret.ErrInvalid, first[0])
	}
	var all []string
	for _, m := range first {
		all = append(all, m.Error())
	}
	if more > 0 {
		all = append(all, fmt.Sprintf("and %d more", more))
	}
	return fmt.Errorf("%w policy:\n  %s", secret.ErrInvalid, strings.Join(all, "\n  "))
}

type parser struct {
	org        string
	policy     *Policy
	names      map[string]int // of rules, with their lines
	quotaNames map[string]int // of quotas
}

// text returns the text of n, which must not be empty.
func text(n strictyaml.Node) (string, bool) {
	if n.Kind == yaml.MappingNode && len(n.Content) == 2 && validCapture(n.Content[0].Value) &&
		n.Content[1].ShortTag() == "!!null" {
		n.Fail(`expected text, found fields: a capture needs quotes, "{%s}"`, n.Content[0].Value)
		return "", false
	}
	text, ok := n.Text()
	if ok && text == "" {
		n.Fail("empty: leave it out or give a text")
		return "", false
	}
	return text, ok
}

func (p *parser) file(n strictyaml.Node) {
	got, ok := n.Known("version", "rules", "quotas")
	if !ok {
		return
	}
	if version, given := got["version"]; given {
		version.Version()
	} else {
		n.Below("version").Fail("missing: the version is 1")
	}
	rules, given := got["rules"]
	if !given {
		n.Below("rules").Fail(`missing: to allow nothing, write "rules: []"`)
		return
	}
	items, _ := rules.List()
	for _, item := range items {
		p.rule(item)
	}
	if quotas, given := got["quotas"]; given {
		items, _ := quotas.List()
		for _, item := range items {
			p.quota(item)
		}
	}
}

// captures are the captures of the rule that is being parsed.
type captures []struct {
	name string
	used bool
}

func (c captures) index(name string) int {
	for i := range c {
		if c[i].name == name {
			return i
		}
	}
	return -1
}

func (p *parser) rule(n strictyaml.Node) {
	got, ok := n.Known("name", "identity", "manage", "list", "resolve")
	if !ok {
		return
	}
	r := &rule{}
	if name, given := got["name"]; given {
		r.name = p.name(name, "rule", p.names)
	} else {
		n.Below("name").Fail("missing: the audit log names the rule")
	}

	var c captures
	before := n.Count()
	identity, given := got["identity"]
	if given {
		c = p.identity(identity, r)
	} else {
		n.Below("identity").Fail("missing: it says whom the rule is for")
	}
	known := n.Count() == before // otherwise a capture may be missing because of a mistake

	for _, verb := range []Verb{Manage, List} {
		if n, given := got[verb.String()]; given {
			items, _ := n.List()
			for _, item := range items {
				got, _ := item.Known("org", "project", "domain")
				r.scopes[verb] = append(r.scopes[verb], p.scopes(got, true, c, known))
			}
		}
	}
	if n, given := got["resolve"]; given {
		r.resolve = p.task(n, c, known)
		if r.resolve.declared && known && !r.isPod(p.policy.attributes) {
			n.Below("declared").Fail("needs %s in identity: of other callers it is not known what they declare",
				podNamespace)
		}
	}

	if known && n.Count() == before {
		for _, capture := range c {
			if !capture.used {
				identity.Fail(`capture {%s} is not used: write "*" to capture nothing`, capture.name)
			}
		}
	}
	p.policy.rules = append(p.policy.rules, r)
}

// task reads what a rule lets an identity resolve.
func (p *parser) task(n strictyaml.Node, c captures, known bool) *task {
	got, _ := n.Known("org", "project", "domain", "keys", "declared", "also")
	t := &task{scopes: p.scopes(got, false, c, known)}
	if keys, given := got["keys"]; given {
		t.keys = p.keys(keys, "to allow all keys of the scope leave keys out, and to allow none leave resolve out")
	}
	if declared, given := got["declared"]; given {
		if declared.Kind != yaml.ScalarNode || declared.ShortTag() != "!!bool" || declared.Value != "true" {
			declared.Fail("not true: to allow what is not declared leave it out")
		}
		t.declared = true
	}
	if also, given := got["also"]; given {
		t.also = p.keys(also, "leave it out")
		if !t.declared {
			also.Fail("needs declared beside it, to which it adds")
		}
	}
	return t
}

// isPod reports whether the rule is for pods of Kubernetes.
func (r *rule) isPod(attributes []string) bool {
	return slices.ContainsFunc(r.identity, func(m matcher) bool {
		return attributes[m.attribute] == podNamespace
	})
}

// name returns the name n of a rule or quota, which must not be one of names, and adds it to them.
func (p *parser) name(n strictyaml.Node, of string, names map[string]int) string {
	name, ok := text(n)
	first, taken := names[name]
	switch {
	case !ok:
	case len(name) > maxName:
		n.Fail("%d bytes long (at most %d)", len(name), maxName)
	case !printable.Is(name) || strings.TrimSpace(name) != name:
		n.Fail("begins or ends with white space, or has a character that cannot be printed")
	case taken:
		n.Fail("%q is already the name of the %s in line %d", name, of, first)
	default:
		names[name] = n.Line
	}
	return name
}

// attributes are the attributes of an identity, for errors; claim.NAME stands for any claim, and
// kubernetes.label.KEY for any label.
var attributes = []string{
	"spiffe", "dns", "issuer", "subject", "audience", "token", "claim.NAME", podNamespace, "kubernetes.serviceaccount",
	"kubernetes.pod", "kubernetes.node", "kubernetes.project", "kubernetes.domain", podLabel + "KEY",
}

const (
	podAttribute = "kubernetes."
	podNamespace = podAttribute + "namespace"
	podLabel     = podAttribute + "label."
)

func (p *parser) identity(n strictyaml.Node, r *rule) captures {
	all, ok := n.Fields()
	if !ok {
		return nil
	}
	if len(n.Content) == 0 {
		n.Fail("empty: it would match every caller")
	}
	var c captures
	has := func(name string) bool {
		return slices.ContainsFunc(all, func(f strictyaml.Field) bool { return f.Name == name })
	}
	issuer, namespace := has("issuer"), has(podNamespace)
	for _, f := range all {
		attribute := f.Name
		claim, isClaim := strings.CutPrefix(attribute, "claim.")
		label, isLabel := strings.CutPrefix(attribute, podLabel)
		switch {
		case isClaim && !isPlain(claim):
			f.Key.Fail("not the name of a claim, which must be ASCII without white space")
			continue
		case isLabel && !isPlain(label):
			f.Key.Fail("not the key of a label, which must be ASCII without white space")
			continue
		case !isClaim && !isLabel && !slices.Contains(attributes, attribute):
			f.Unknown("attribute", attributes)
			continue
		case !issuer && (isClaim || attribute == "subject" || attribute == "audience"):
			f.Key.Fail("needs issuer beside it: without one it would accept the word of any issuer")
		case !namespace && strings.HasPrefix(attribute, podAttribute):
			f.Key.Fail("needs %s beside it: such names are unique in their namespace only", podNamespace)
		}
		if m, ok := p.matcher(attribute, f.Value, &c); ok {
			r.identity = append(r.identity, m)
		}
	}
	return c
}

// isPlain reports whether the name of a claim or a label is ASCII without white space.
func isPlain(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// matcher returns the pattern of an attribute and adds its captures to c.
func (p *parser) matcher(attribute string, n strictyaml.Node, c *captures) (matcher, bool) {
	pattern, ok := text(n)
	if !ok {
		return matcher{}, false
	}
	tokens, err := lex(pattern)
	if attribute == "issuer" && strings.ContainsAny(pattern, "*{}") {
		err = errors.New("an issuer is literal: wildcards and captures are not allowed")
	}
	if attribute == "spiffe" && !strings.HasPrefix(pattern, "spiffe://") {
		err = errors.New("a SPIFFE ID begins with spiffe://")
	}
	if err != nil {
		n.Fail("%v", err)
		return matcher{}, false
	}

	m := matcher{}
	for _, t := range tokens {
		if t.kind != capture {
			continue
		}
		m.captures = true
		switch {
		case c.index(t.text) >= 0:
			n.Fail("{%s} is captured twice", t.text)
			return matcher{}, false
		case len(*c) == maxCaptures:
			n.Fail("a rule has more than %d captures", maxCaptures)
			return matcher{}, false
		}
		*c = append(*c, struct {
			name string
			used bool
		}{name: t.text})
	}

	sep := "/"
	if attribute == "dns" {
		sep = "."
	}
	if m.pattern, err = compile(tokens, sep, c.index); err != nil {
		n.Fail("%v", err)
		return matcher{}, false
	}
	if m.attribute = slices.Index(p.policy.attributes, attribute); m.attribute < 0 {
		m.attribute = len(p.policy.attributes)
		p.policy.attributes = append(p.policy.attributes, attribute)
	}
	return m, true
}

// scopes reads the levels in got. stars allows wildcards, and known says that c has all
// captures of the identity.
func (p *parser) scopes(got map[string]strictyaml.Node, stars bool, c captures, known bool) scopes {
	s := scopes{org: level{pieces: []string{p.org}}}
	for _, l := range []struct {
		name string
		to   *level
	}{{"org", &s.org}, {"project", &s.project}, {"domain", &s.domain}} {
		n, given := got[l.name]
		if !given {
			continue
		}
		name, ok := text(n)
		if !ok {
			continue
		}
		tokens, err := lex(name)
		if err == nil {
			*l.to, err = compileLevel(tokens, stars, c.index)
		}
		if err != nil {
			n.Fail("%v", err)
			continue
		}
		for _, t := range tokens {
			switch i := c.index(t.text); {
			case t.kind != capture:
			case i >= 0:
				c[i].used = true
			case known:
				n.Fail("{%s} is not captured by the rule's identity", t.text)
			}
		}
	}
	return s
}

// keys reads a list of keys. empty is what to do about an empty one.
func (p *parser) keys(n strictyaml.Node, empty string) map[string]bool {
	keys := map[string]bool{}
	items, ok := n.List()
	for _, n := range items {
		key, ok := text(n)
		switch err := secret.ValidKey(key); {
		case !ok:
		case strings.Contains(key, "*"):
			n.Fail("a wildcard is not allowed: name each key, or leave keys out to allow all of the scope")
		case err != nil:
			n.Fail("%v", err)
		case keys[key]:
			n.Fail("%s is given twice", key)
		}
		keys[key] = true
	}
	if ok && len(items) == 0 {
		n.Fail("empty: %s", empty)
	}
	return keys
}
