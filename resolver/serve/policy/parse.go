package policy

import (
	"bytes"
	_ "embed" // the schema
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"

	"inject/resolver/secret"
)

//go:embed policy.schema.json
var schema []byte

// Schema returns the JSON Schema (draft 2020-12) of a policy file, for editors. [Parse]
// accepts nothing that it refuses, and refuses besides what a schema cannot tell: two
// rules of one name, captures that do not fit together, what is given twice.
func Schema() []byte { return bytes.Clone(schema) }

const (
	// maxSize is the largest policy file in bytes: that of a Kubernetes ConfigMap.
	maxSize = 1 << 20
	// maxNodes is how many texts, lists and maps a policy may have when each alias counts
	// as all that it stands for: some ten thousand rules.
	maxNodes = 200_000
	// maxErrors is how many mistakes are told at once.
	maxErrors = 20
	// maxName is the longest name of a rule in bytes: it is in each line of the audit log.
	maxName = 100
)

// Parse reads a policy file. Its error wraps [secret.ErrInvalid] and names line and field
// of everything that is wrong, up to 20 mistakes. It quotes no token.
func Parse(text []byte) (*Policy, error) {
	if len(text) > maxSize {
		return nil, fmt.Errorf("%w policy: %d bytes (at most %d)", secret.ErrInvalid, len(text), maxSize)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	switch err := decoder.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%w policy: the file is empty", secret.ErrInvalid)
	case err != nil:
		return nil, badYAML(err)
	}
	switch err := decoder.Decode(&more); {
	case err == nil:
		return nil, fmt.Errorf("%w policy: line %d: a second document: a policy is one", secret.ErrInvalid, more.Line)
	case !errors.Is(err, io.EOF):
		return nil, badYAML(err)
	}
	p := &parser{policy: &Policy{}, names: map[string]int{}}
	p.file(doc.Content[0])
	if err := p.err(); err != nil {
		return nil, err
	}
	return p.policy, nil
}

// badYAML tells a syntax error, with a word on the one that everybody makes.
func badYAML(err error) error {
	said := strings.TrimPrefix(err.Error(), "yaml: ")
	err = fmt.Errorf("%w policy: no YAML: %s", secret.ErrInvalid, said)
	if strings.Contains(said, "unknown anchor") || strings.Contains(said, "alphabetic or numeric") {
		return fmt.Errorf(`%w (a pattern that begins with * needs quotes: "*")`, err)
	}
	return err
}

type parser struct {
	policy *Policy
	names  map[string]int // of rules, and their lines
	nodes  int
	full   bool
	errs   []mistake
}

type mistake struct {
	line int
	what string
}

func (p *parser) fail(at string, n *yaml.Node, format string, args ...any) {
	if at != "" {
		at += ": "
	}
	p.errs = append(p.errs, mistake{n.Line, fmt.Sprintf("line %d: %s", n.Line, at) + fmt.Sprintf(format, args...)})
}

func (p *parser) err() error {
	if len(p.errs) == 0 {
		return nil
	}
	slices.SortStableFunc(p.errs, func(a, b mistake) int { return a.line - b.line })
	var all []string
	for i, m := range p.errs {
		if i == maxErrors {
			all = append(all, fmt.Sprintf("and %d more", len(p.errs)-i))
			break
		}
		all = append(all, m.what)
	}
	if len(all) == 1 {
		return fmt.Errorf("%w policy: %s", secret.ErrInvalid, all[0])
	}
	return fmt.Errorf("%w policy:\n  %s", secret.ErrInvalid, strings.Join(all, "\n  "))
}

// node counts n and returns it, or what it is an alias of: without the count a few aliases
// of lists of aliases would be more than memory holds.
func (p *parser) node(n *yaml.Node) *yaml.Node {
	if p.nodes++; p.nodes == maxNodes {
		p.full = true
		p.fail("", n, "too large: over %d texts, lists and maps, aliases counted as what they stand for", maxNodes)
	}
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// pair is a field of a map.
type pair struct{ key, value *yaml.Node }

// pairs returns the fields of the map n, each once.
func (p *parser) pairs(at string, n *yaml.Node) (all []pair, ok bool) {
	if n.Kind != yaml.MappingNode || n.ShortTag() != "!!map" {
		p.fail(at, n, "expected fields, found %s", kind(n))
		return nil, false
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content) && !p.full; i += 2 {
		key, value := p.node(n.Content[i]), p.node(n.Content[i+1])
		first, twice := seen[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str":
			p.fail(at, key, "a field's name must be text, found %s", kind(key))
		case twice:
			p.fail(join(at, fieldName(key.Value)), key, "given twice, first in line %d", first)
		default:
			seen[key.Value] = key.Line
			all = append(all, pair{key, value})
		}
	}
	return all, true
}

// fields returns the values of n's fields, all of which must be known.
func (p *parser) fields(at string, n *yaml.Node, known ...string) map[string]*yaml.Node {
	all, ok := p.pairs(at, n)
	if !ok {
		return nil
	}
	values := map[string]*yaml.Node{}
	for _, f := range all {
		if !slices.Contains(known, f.key.Value) {
			p.unknown(at, f.key, "field", known)
			continue
		}
		values[f.key.Value] = f.value
	}
	return values
}

func (p *parser) unknown(at string, key *yaml.Node, what string, known []string) {
	near := ""
	for _, name := range known {
		if near == "" && distance(key.Value, name) <= max(1, len(name)/3) {
			near = ", did you mean " + name + "?"
		}
	}
	p.fail(join(at, fieldName(key.Value)), key, "unknown %s%s (known: %s)", what, near, strings.Join(known, ", "))
}

// distance is that of Levenshtein, but for an a that is so much longer than b that it is
// not near in any case.
func distance(a, b string) int {
	if len(a) > 2*len(b) {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// fieldName returns a field's name if it looks like one.
func fieldName(name string) string {
	if len(name) <= 100 && printable(name) {
		return name
	}
	return "?"
}

func join(at, field string) string {
	if at == "" {
		return field
	}
	return at + "." + field
}

func printable(s string) bool {
	return s != "" && s[0] != ' ' && s[len(s)-1] != ' ' && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

func kind(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "fields"
	case yaml.SequenceNode:
		return "a list"
	}
	if name, ok := map[string]string{"!!str": "text", "!!int": "a number", "!!float": "a number", "!!bool": "a truth value", "!!null": "nothing"}[n.ShortTag()]; ok {
		return name
	}
	return "something else" // a time, binary data, a tag
}

func (p *parser) text(at string, n *yaml.Node) (string, bool) {
	switch {
	case n.Kind == yaml.MappingNode && len(n.Content) == 2 && validCapture(n.Content[0].Value) && n.Content[1].ShortTag() == "!!null":
		p.fail(at, n, `expected text, found fields: a capture needs quotes, "{%s}"`, n.Content[0].Value)
	case n.Kind == yaml.ScalarNode && slices.Contains([]string{"!!int", "!!float", "!!bool", "!!timestamp"}, n.ShortTag()):
		p.fail(at, n, "expected text, found %s: it needs quotes", kind(n))
	case n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str":
		p.fail(at, n, "expected text, found %s", kind(n))
	case n.Value == "":
		p.fail(at, n, "empty: leave it out or say something")
	default:
		return n.Value, true
	}
	return "", false
}

func (p *parser) list(at string, n *yaml.Node, item func(at string, n *yaml.Node)) {
	if n.Kind != yaml.SequenceNode || n.ShortTag() != "!!seq" {
		p.fail(at, n, "expected a list, found %s", kind(n))
		return
	}
	for i, n := range n.Content {
		if p.full {
			return
		}
		item(fmt.Sprintf("%s[%d]", at, i), p.node(n))
	}
}

func (p *parser) file(n *yaml.Node) {
	got := p.fields("", n, "version", "rules")
	if got == nil {
		return
	}
	switch version := got["version"]; {
	case version == nil:
		p.fail("version", n, "missing: this is version 1")
	case version.Kind != yaml.ScalarNode || version.ShortTag() != "!!int" || version.Value != "1":
		p.fail("version", version, "not 1, the only one there is")
	}
	if got["rules"] == nil {
		p.fail("rules", n, `missing: without any nothing is allowed, which is said with "rules: []"`)
		return
	}
	p.list("rules", got["rules"], p.rule)
}

// captures are those of the rule that is being parsed.
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

func (p *parser) rule(at string, n *yaml.Node) {
	got := p.fields(at, n, "name", "identity", "manage", "list", "resolve")
	if got == nil {
		return
	}
	r := &rule{}
	if got["name"] == nil {
		p.fail(at+".name", n, "missing: the audit log needs it")
	} else {
		r.name = p.name(at+".name", got["name"])
	}
	var c captures
	identity := got["identity"]
	before := len(p.errs)
	if identity == nil {
		p.fail(at+".identity", n, "missing: who is this rule for?")
	} else {
		c = p.identity(at+".identity", identity, r)
	}
	known := len(p.errs) == before // else a capture may be missing for another reason
	for _, verb := range []Verb{Manage, List} {
		if got[verb.String()] != nil {
			p.list(at+"."+verb.String(), got[verb.String()], func(at string, n *yaml.Node) {
				got := p.fields(at, n, "org", "project", "domain")
				r.scopes[verb] = append(r.scopes[verb], p.scopes(at, got, true, c, known))
			})
		}
	}
	if n := got["resolve"]; n != nil {
		at += ".resolve"
		got := p.fields(at, n, "org", "project", "domain", "keys")
		r.resolve = &task{scopes: p.scopes(at, got, false, c, known)}
		if got["keys"] != nil {
			r.resolve.keys = p.keys(at+".keys", got["keys"])
		}
	}
	if known && len(p.errs) == before {
		for _, capture := range c {
			if !capture.used {
				p.fail(at+".identity", identity, `capture {%s} is not used: "*" is what captures nothing`, capture.name)
			}
		}
	}
	p.policy.rules = append(p.policy.rules, r)
}

func (p *parser) name(at string, n *yaml.Node) string {
	name, ok := p.text(at, n)
	first, taken := p.names[name]
	switch {
	case !ok:
	case len(name) > maxName:
		p.fail(at, n, "%d bytes long (at most %d)", len(name), maxName)
	case !printable(name):
		p.fail(at, n, "has white space at an end, or a character that cannot be printed")
	case taken:
		p.fail(at, n, "%q is the name of the rule in line %d, too", name, first)
	default:
		p.names[name] = n.Line
	}
	return name
}

// attributes are those that an identity may have, as they are told; claim.NAME is any
// claim.
var attributes = []string{"spiffe", "dns", "issuer", "subject", "audience", "token", "claim.NAME"}

func (p *parser) identity(at string, n *yaml.Node, r *rule) captures {
	all, ok := p.pairs(at, n)
	if !ok {
		return nil
	}
	if len(n.Content) == 0 {
		p.fail(at, n, "empty: that would match everybody")
	}
	var c captures
	issuer := slices.ContainsFunc(all, func(f pair) bool { return f.key.Value == "issuer" })
	for _, f := range all {
		attribute := f.key.Value
		claim, isClaim := strings.CutPrefix(attribute, "claim.")
		switch {
		case isClaim && (claim == "" || strings.ContainsFunc(claim, func(r rune) bool { return r <= ' ' || r >= 0x7f })):
			p.fail(join(at, fieldName(attribute)), f.key, "not a claim's name: it is ASCII without white space")
			continue
		case !isClaim && (attribute == "claim.NAME" || !slices.Contains(attributes, attribute)):
			p.unknown(at, f.key, "attribute", attributes)
			continue
		case !issuer && (isClaim || attribute == "subject" || attribute == "audience"):
			p.fail(at+"."+attribute, f.key, "needs issuer beside it: alone it is whoever any issuer says")
		}
		if m, ok := p.matcher(at+"."+attribute, attribute, f.value, &c); ok {
			r.identity = append(r.identity, m)
		}
	}
	return c
}

// matcher reads the pattern of an attribute and adds its captures to c.
func (p *parser) matcher(at, attribute string, n *yaml.Node, c *captures) (matcher, bool) {
	text, ok := p.text(at, n)
	if !ok {
		return matcher{}, false
	}
	tokens, err := lex(text)
	if attribute == "issuer" && strings.ContainsAny(text, "*{}") {
		err = errors.New("an issuer is literal: no wildcard and no capture")
	}
	if attribute == "spiffe" && !strings.HasPrefix(text, "spiffe://") {
		err = errors.New("a SPIFFE ID begins with spiffe://")
	}
	if err != nil {
		p.fail(at, n, "%v", err)
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
			p.fail(at, n, "{%s} is captured twice", t.text)
			return matcher{}, false
		case len(*c) == maxCaptures:
			p.fail(at, n, "over %d captures in a rule", maxCaptures)
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
		p.fail(at, n, "%v", err)
		return matcher{}, false
	}
	if m.attribute = slices.Index(p.policy.attributes, attribute); m.attribute < 0 {
		m.attribute = len(p.policy.attributes)
		p.policy.attributes = append(p.policy.attributes, attribute)
	}
	return m, true
}

// scopes reads the levels in got. Stars tells whether wildcards may be used, and known
// whether c is all that the identity captures.
func (p *parser) scopes(at string, got map[string]*yaml.Node, stars bool, c captures, known bool) scopes {
	s := scopes{org: level{pieces: []string{secret.DefaultOrg}}}
	for _, l := range []struct {
		name string
		to   *level
	}{{"org", &s.org}, {"project", &s.project}, {"domain", &s.domain}} {
		n, at := got[l.name], at+"."+l.name
		if n == nil {
			continue
		}
		text, ok := p.text(at, n)
		if !ok {
			continue
		}
		tokens, err := lex(text)
		if err == nil {
			*l.to, err = compileLevel(tokens, stars, c.index)
		}
		if err != nil {
			p.fail(at, n, "%v", err)
			continue
		}
		for _, t := range tokens {
			switch i := c.index(t.text); {
			case t.kind != capture:
			case i >= 0:
				c[i].used = true
			case known:
				p.fail(at, n, "{%s} is not captured by the rule's identity", t.text)
			}
		}
	}
	return s
}

func (p *parser) keys(at string, n *yaml.Node) map[string]bool {
	keys := map[string]bool{}
	p.list(at, n, func(at string, n *yaml.Node) {
		key, ok := p.text(at, n)
		switch err := secret.ValidKey(key); {
		case !ok:
		case strings.Contains(key, "*"):
			p.fail(at, n, "a wildcard is refused: each key is named, or keys left out for all of the scope")
		case err != nil:
			p.fail(at, n, "%v", err)
		case keys[key]:
			p.fail(at, n, "%s is given twice", key)
		}
		keys[key] = true
	})
	if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		p.fail(at, n, "empty: without keys all of the scope may be resolved, so none must be said by leaving resolve out")
	}
	return keys
}
