// Package strictyaml walks a YAML file that people write and that must not be
// misunderstood: every field is known, given once and of the expected type, and all mistakes
// are reported at once with line and field. It quotes no value of the file, since one may be
// a secret that stands in the wrong place.
//
// It does not decode into structs: the caller asks each [Node] for the type that it must have,
// and reports mistakes of its own with [Node.Fail].
package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"inject/internal/spelling"
)

const (
	// maxNodes is how many texts, lists and maps are read when each alias counts as all that
	// it stands for. Without it a few aliases of lists of aliases would fill the memory.
	maxNodes = 200_000
	// maxMistakes is how many mistakes are reported at once.
	maxMistakes = 20
	// maxName is the longest name of a field, in bytes, that is quoted.
	maxName = 60
)

// ErrEmpty is the error of a file without a document.
var ErrEmpty = errors.New("the file is empty")

// A SyntaxError says that a file is not YAML, or more than one document.
type SyntaxError struct {
	Line   int  // 0 if it is not known
	Second bool // a second document begins there
	// Text is what the parser says, with the line. It may quote an anchor or a tag of the
	// file, and nothing else.
	Text string
}

func (e *SyntaxError) Error() string { return e.Text }

// A Mistake is one thing that is wrong with a file.
type Mistake struct {
	Line int
	Path string // of the field, such as rules[0].name; "" for the whole file
	Err  error
}

// Error returns "line 3: rules[0].name: text".
func (m Mistake) Error() string {
	if m.Path == "" {
		return fmt.Sprintf("line %d: %v", m.Line, m.Err)
	}
	return fmt.Sprintf("line %d: %s: %v", m.Line, m.Path, m.Err)
}

// Unwrap returns the error that was given to [Node.Fail].
func (m Mistake) Unwrap() error { return m.Err }

// document is what the nodes of one file share.
type document struct {
	mistakes []Mistake
	nodes    int
	full     bool // over maxNodes: the walk ends, and no more mistakes are reported
}

// A Node is a place in a file. The zero Node is of no file.
type Node struct {
	*yaml.Node // never an alias

	Path string // as in [Mistake]

	doc *document
}

// A Field is one entry of a map.
type Field struct {
	Name       string
	Key, Value Node // both with the path of the field
}

// Parse returns the root of the one document in text. Its error is [ErrEmpty] or a
// [*SyntaxError].
func Parse(text []byte) (Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	switch err := decoder.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return Node{}, ErrEmpty
	case err != nil:
		return Node{}, syntax(err)
	}
	switch err := decoder.Decode(&more); {
	case err == nil:
		return Node{}, &SyntaxError{
			Line: more.Line, Second: true,
			Text: fmt.Sprintf("line %d: a second document: only one is allowed", more.Line),
		}
	case !errors.Is(err, io.EOF):
		return Node{}, syntax(err)
	}
	return (&document{}).node("", doc.Content[0]), nil
}

// Read parses text, and has walk read it. It returns the error of [Parse], or all mistakes that walk
// reported, as [Node.Err] does.
func Read(text []byte, walk func(Node)) error {
	root, err := Parse(text)
	if err != nil {
		return err
	}
	walk(root)
	return root.Err()
}

func syntax(err error) error {
	e := &SyntaxError{Text: "not YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}
	if _, rest, ok := strings.Cut(e.Text, "line "); ok {
		_, _ = fmt.Sscanf(rest, "%d", &e.Line) // else it stays 0
	}
	return e
}

// node counts n and follows aliases.
func (d *document) node(path string, n *yaml.Node) Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	at := Node{n, path, d}
	if d.nodes++; d.nodes == maxNodes {
		at.At("").Fail("too large: over %d texts, lists and maps, aliases counted as what they stand for", maxNodes)
		d.full = true
	}
	return at
}

// At returns n with another path, for a mistake about a field that is missing in n.
func (n Node) At(path string) Node {
	n.Path = path
	return n
}

// Below returns n with the path of its field name.
func (n Node) Below(name string) Node {
	if name = fieldName(name); n.Path != "" {
		name = n.Path + "." + name
	}
	return n.At(name)
}

// fieldName returns name if it looks like one, else "?": it may be a value.
func fieldName(name string) string {
	odd := func(r rune) bool {
		return !strings.ContainsRune("-_./:", r) && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}
	if name == "" || len(name) > maxName || strings.ContainsFunc(name, odd) {
		return "?"
	}
	return name
}

// Fail reports a mistake at n. The text must not quote a value of the file.
func (n Node) Fail(format string, args ...any) {
	if n.doc.full {
		return
	}
	n.doc.mistakes = append(n.doc.mistakes, Mistake{n.Line, n.Path, fmt.Errorf(format, args...)})
}

// Count returns how many mistakes n's file has so far.
func (n Node) Count() int { return len(n.doc.mistakes) }

// Mistakes returns the first 20 mistakes of n's file, in the order of its lines, and how
// many more there are.
func (n Node) Mistakes() (first []Mistake, more int) {
	all := slices.Clone(n.doc.mistakes)
	slices.SortStableFunc(all, func(a, b Mistake) int { return a.Line - b.Line })
	first = all[:min(len(all), maxMistakes)]
	return first, len(all) - len(first)
}

// Err returns what [Node.Mistakes] returns as one error, nil if there is no mistake.
func (n Node) Err() error {
	first, more := n.Mistakes()
	var all []error
	for _, m := range first {
		all = append(all, m)
	}
	if more > 0 {
		all = append(all, fmt.Errorf("and %d more", more))
	}
	return errors.Join(all...)
}

// Fields returns the fields of the map n, each once. It fails for anything else.
func (n Node) Fields() (all []Field, ok bool) {
	if n.Kind != yaml.MappingNode || n.ShortTag() != "!!map" {
		n.Fail("expected fields, found %s", n.Found())
		return nil, false
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content) && !n.doc.full; i += 2 {
		path := n.Below(n.Content[i].Value).Path
		key, value := n.doc.node(path, n.Content[i]), n.doc.node(path, n.Content[i+1])
		first, twice := seen[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str":
			key.At(n.Path).Fail("a field's name must be text, found %s", key.Found())
		case twice:
			key.Fail("given twice, first in line %d", first)
		default:
			seen[key.Value] = key.Line
			all = append(all, Field{key.Value, key, value})
		}
	}
	return all, true
}

// Known returns the values of the fields of the map n, by name. It fails for a field whose
// name is none of known.
func (n Node) Known(known ...string) (values map[string]Node, ok bool) {
	all, ok := n.Fields()
	if !ok {
		return nil, false
	}
	values = map[string]Node{}
	for _, f := range all {
		if !slices.Contains(known, f.Name) {
			f.Unknown("field", known)
			continue
		}
		values[f.Name] = f.Value
	}
	return values, true
}

// Needed is [Node.Known] for fields of which needed must be there. It fails for each that is missing.
func (n Node) Needed(needed []string, other ...string) (values map[string]Node, ok bool) {
	if values, ok = n.Known(slices.Concat(needed, other)...); !ok {
		return nil, false
	}
	for _, name := range needed {
		if _, given := values[name]; !given {
			n.Below(name).Fail("missing")
		}
	}
	return values, true
}

// Version fails for anything but the number 1, the only version that the files of the programs have.
func (n Node) Version() {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || n.Value != "1" {
		n.Fail("not 1, which is the only version")
	}
}

// Unknown reports that the name of f is none of known. what says what f is, such as "field".
func (f Field) Unknown(what string, known []string) {
	near := spelling.Nearest(f.Name, known)
	if near != "" {
		near = ", did you mean " + near + "?"
	}
	f.Key.Fail("unknown %s%s (known: %s)", what, near, strings.Join(known, ", "))
}

// List returns the items of the list n. It fails for anything else.
func (n Node) List() (items []Node, ok bool) {
	if n.Kind != yaml.SequenceNode || n.ShortTag() != "!!seq" {
		n.Fail("expected a list, found %s", n.Found())
		return nil, false
	}
	for i, item := range n.Content {
		if n.doc.full {
			return nil, false
		}
		items = append(items, n.doc.node(fmt.Sprintf("%s[%d]", n.Path, i), item))
	}
	return items, true
}

// Text returns the text of n. It fails for anything else: a number or a date that was meant
// as text would be read as YAML writes it, not as it stands there.
func (n Node) Text() (text string, ok bool) {
	switch {
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str":
		return n.Value, true
	case n.Kind == yaml.ScalarNode && slices.Contains([]string{"!!int", "!!float", "!!bool", "!!timestamp"},
		n.ShortTag()):
		n.Fail("expected text, found %s: it needs quotes", n.Found())
	default:
		n.Fail("expected text, found %s", n.Found())
	}
	return "", false
}

// Matching returns the text of n, which must match form. expected says in words how such a text looks.
func (n Node) Matching(form *regexp.Regexp, expected string) string {
	text, ok := n.Text()
	if ok && !form.MatchString(text) {
		n.Fail("not %s", expected)
	}
	return text
}

// Null reports whether n is null, or left empty.
func (n Node) Null() bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// Found names the type of n for people.
func (n Node) Found() string {
	switch n.Kind {
	case yaml.MappingNode:
		return "fields"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!str":
		return "text"
	case "!!int", "!!float":
		return "a number"
	case "!!bool":
		return "a truth value"
	case "!!null":
		return "nothing"
	}
	return "something else" // a date, binary data, a tag of one's own
}
