package parts

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

const (
	// maxNesting is how deep the objects and arrays of a document are looked into.
	maxNesting = 64
	// maxYAML is the length in bytes of the longest text that is read as YAML, which takes
	// a hundred times its length in memory.
	maxYAML = 128 << 10
	// maxDocument is the length in bytes of the longest JSON that gets the kind document.
	maxDocument = 16 << 10
)

// A node is a value of JSON.
type node struct {
	open  byte // '{', '[', or 0
	names []string
	items []*node
	text  string // of a string or a number; else true, false or null
	kind  byte   // of a text: 's' for a string, 'n' for a number, 0
}

var errTooLarge = errors.New("too deep, or too many values")

// reader reads JSON within bounds.
type reader struct {
	*json.Decoder
	nodes int
}

func (r *reader) read(depth int) (*node, error) {
	token, err := r.Token()
	if err != nil {
		return nil, err
	}
	if r.nodes++; r.nodes > maxFields || depth > maxNesting {
		return nil, errTooLarge
	}
	switch t := token.(type) {
	case json.Delim:
		n := &node{open: byte(t)} //nolint:gosec // one of {}[]
		for r.More() {
			if t == '{' {
				name, err := r.Token()
				if err != nil {
					return nil, err
				}
				s, _ := name.(string)
				n.names = append(n.names, s)
			}
			item, err := r.read(depth + 1)
			if err != nil {
				return nil, err
			}
			n.items = append(n.items, item)
		}
		_, err = r.Token()
		return n, err
	case string:
		return &node{text: t, kind: 's'}, nil
	case json.Number:
		return &node{text: t.String(), kind: 'n'}, nil
	case bool:
		return &node{text: strconv.FormatBool(t)}, nil
	}
	return &node{text: "null"}, nil
}

// json looks into one JSON object or array, or several behind each other.
func (f *finder) json(name string, text []byte, secret bool, depth int) bool {
	if text[0] != '{' && text[0] != '[' {
		return false
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	r := &reader{Decoder: d}
	var roots []*node
	for {
		n, err := r.read(0)
		if errors.Is(err, errTooLarge) {
			f.lost = true
			return true
		}
		if errors.Is(err, io.EOF) && r.InputOffset() == int64(len(text)) {
			break
		}
		if err != nil {
			return false
		}
		roots = append(roots, n)
	}
	for _, n := range roots {
		f.walk(name, n, depth)
	}
	if secret && len(roots) == 1 && len(text) <= maxDocument {
		for _, l := range layouts {
			f.add(name, KindDocument, l.append(nil, roots[0], 0))
		}
	}
	return true
}

// walk looks into the fields of n. The items of an array have the name of the array.
func (f *finder) walk(name string, n *node, depth int) {
	switch {
	case n.open == '{':
		named := slices.ContainsFunc(n.names, isValue)
		for i, child := range n.items {
			if named && child.kind == 's' && namesValue(n.names[i]) {
				name = child.text
			}
		}
		for i, child := range n.items {
			f.walk(nameIn(n.names[i], name, named), child, depth)
		}
	case n.open == '[':
		if name == "" {
			name = item
		}
		for _, child := range n.items {
			f.walk(name, child, depth)
		}
	case n.kind != 0:
		f.field(name, []byte(n.text), depth)
	}
}

// namesValue reports whether a field of that name has the name of the value beside it, as in the env
// of a container: {"name": "DB_PASSWORD", "value": "…"}.
func namesValue(name string) bool {
	return strings.EqualFold(name, "name") || strings.EqualFold(name, "key")
}

// nameIn returns the name of a field of an object, which may be one with a value and its name: then
// the value has the name of the object, and key is no name of a secret.
func nameIn(field, object string, named bool) string {
	switch {
	case named && isValue(field) && object != "" && object != item:
		return object
	case named && namesValue(field):
		return "name"
	}
	return field
}

func isValue(name string) bool { return strings.EqualFold(name, "value") }

// A layout is a way to print JSON.
type layout struct {
	comma, colon string
	indent       string // of each level; "" for a document of one line
	sorted       bool   // by name
	escape       escape
}

// escape says which characters of strings are escaped that need not be.
type escape int

const (
	plain escape = iota
	html         // & < > and the line separators, as Go does
	ascii        // all that are not ASCII, and DEL, as Python does
)

// layouts are those of jq, JavaScript, Go, Python, PHP and Ruby.
var layouts = func() (all []layout) {
	for _, l := range []layout{
		{comma: ",", colon: ":"},
		{comma: ", ", colon: ": "},
		{comma: ",", colon: ": ", indent: "  "},
		{comma: ",", colon: ": ", indent: "    "},
		{comma: ",", colon: ": ", indent: "\t"},
	} {
		for _, l.escape = range []escape{plain, html, ascii} {
			for _, l.sorted = range []bool{false, true} {
				all = append(all, l)
			}
		}
	}
	return all
}()

func (l layout) append(dst []byte, n *node, level int) []byte {
	if n.open == 0 {
		if n.kind == 's' {
			return l.quote(dst, n.text)
		}
		return append(dst, n.text...)
	}
	dst = append(dst, n.open)
	order := make([]int, len(n.items))
	for i := range order {
		order[i] = i
	}
	if l.sorted && n.open == '{' {
		slices.SortStableFunc(order, func(a, b int) int { return strings.Compare(n.names[a], n.names[b]) })
	}
	for at, i := range order {
		if at > 0 {
			dst = append(dst, l.comma...)
		}
		dst = l.newline(dst, level+1)
		if n.open == '{' {
			dst = append(l.quote(dst, n.names[i]), l.colon...)
		}
		dst = l.append(dst, n.items[i], level+1)
	}
	if len(n.items) > 0 {
		dst = l.newline(dst, level)
	}
	return append(dst, n.open+2) // } is two behind {, and ] behind [
}

func (l layout) newline(dst []byte, level int) []byte {
	if l.indent == "" {
		return dst
	}
	dst = append(dst, '\n')
	for range level {
		dst = append(dst, l.indent...)
	}
	return dst
}

// quote appends s as a string of JSON.
func (l layout) quote(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for _, r := range s {
		switch i := strings.IndexRune("\"\\\b\f\n\r\t", r); {
		case i >= 0:
			dst = append(dst, '\\', `"\bfnrt`[i])
		case r < ' ',
			l.escape == html && strings.ContainsRune("&<>\u2028\u2029", r),
			l.escape == ascii && r >= '\x7f' && r < 0x10000:
			dst = unicodeEscape(dst, r)
		case l.escape == ascii && r >= 0x10000:
			high, low := utf16.EncodeRune(r)
			dst = unicodeEscape(unicodeEscape(dst, high), low)
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return append(dst, '"')
}

// unicodeEscape appends \uXXXX.
func unicodeEscape(dst []byte, r rune) []byte {
	const hexadecimal = "0123456789abcdef"
	return append(dst, '\\', 'u', hexadecimal[r>>12&15], hexadecimal[r>>8&15], hexadecimal[r>>4&15], hexadecimal[r&15])
}

// yaml looks into YAML documents whose roots are maps or lists. An alias stands for what is
// looked into where its anchor is, so it costs nothing.
func (f *finder) yaml(text []byte, depth int) bool {
	if !looksYAML(text) {
		return false
	}
	if len(text) > maxYAML {
		f.lost = true
		return false
	}
	var roots []*yaml.Node
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var root yaml.Node
		err := d.Decode(&root)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return false
		}
		if len(root.Content) == 1 {
			roots = append(roots, root.Content[0])
		}
	}
	if !slices.ContainsFunc(roots, func(n *yaml.Node) bool { return n.Kind != yaml.ScalarNode }) {
		return false
	}
	for _, n := range roots {
		f.walkYAML("", n, 0, depth)
	}
	return true
}

func (f *finder) walkYAML(name string, n *yaml.Node, nesting, depth int) {
	if nesting > maxNesting {
		f.lost = true
		return
	}
	switch n.Kind {
	case yaml.MappingNode:
		named := false
		for i := 0; i+1 < len(n.Content); i += 2 {
			named = named || isValue(n.Content[i].Value)
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if named && n.Content[i+1].Kind == yaml.ScalarNode && namesValue(n.Content[i].Value) {
				name = n.Content[i+1].Value
			}
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			f.walkYAML(nameIn(n.Content[i].Value, name, named), n.Content[i+1], nesting+1, depth)
		}
	case yaml.SequenceNode:
		if name == "" {
			name = item
		}
		for _, child := range n.Content {
			f.walkYAML(name, child, nesting+1, depth)
		}
	case yaml.ScalarNode:
		f.field(name, []byte(n.Value), depth)
	}
}

// looksYAML reports whether the first lines of text are such as YAML begins with: it has to be
// cheap, because most values are no YAML.
func looksYAML(text []byte) bool {
	for range 50 {
		line, rest, more := bytes.Cut(text, []byte("\n"))
		line = bytes.TrimSpace(line)
		switch {
		case len(line) == 0, line[0] == '#', line[0] == '%', bytes.Equal(line, []byte("---")):
		case line[0] == '{', line[0] == '[', bytes.HasPrefix(line, []byte("- ")):
			return true
		default:
			at := bytes.IndexByte(line, ':')
			return at > 0 && (at+1 == len(line) || line[at+1] == ' ' || line[at+1] == '\t') &&
				bytes.IndexByte(line[:at], '=') < 0 && !bytes.HasPrefix(line, []byte("-----"))
		}
		if !more {
			return false
		}
		text = rest
	}
	return false
}
