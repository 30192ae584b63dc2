package strictyaml_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/internal/strictyaml"
)

// read walks a file of a name and some items, and returns what is wrong with it.
func read(t *testing.T, text string) (name string, items, mistakes []string) {
	root, err := strictyaml.Parse([]byte(text))
	require.NoError(t, err)
	got, ok := root.Known("name", "items")
	if ok {
		if n, given := got["name"]; given && !n.Null() {
			name, _ = n.Text()
		} else if !given {
			root.Below("name").Fail("missing")
		}
		if n, given := got["items"]; given {
			all, _ := n.List()
			for _, item := range all {
				text, _ := item.Text()
				items = append(items, text)
			}
		}
	}
	first, more := root.Mistakes()
	for _, m := range first {
		mistakes = append(mistakes, m.Error())
	}
	if more > 0 {
		mistakes = append(mistakes, fmt.Sprint(more))
	}
	return name, items, mistakes
}

func TestGood(t *testing.T) {
	for _, c := range []struct {
		name, text, want string
		items            []string
	}{
		{"YAML", "name: a\nitems: [b, 'c']\n", "a", []string{"b", "c"}},
		{"JSON", `{"name": "a", "items": ["b"]}`, "a", []string{"b"}},
		{"null", "name:\n", "", nil},
		{"aliases", "name: &n a\nitems: [*n, *n]\n", "a", []string{"a", "a"}},
		{"markers", "---\nname: a\n...\n", "a", nil},
		{"an empty text", "name: ''\n", "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			name, items, mistakes := read(t, c.text)
			require.Empty(t, mistakes)
			require.Equal(t, c.want, name)
			require.Equal(t, c.items, items)
		})
	}
}

func TestMistakes(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"a list", "[]", []string{"line 1: expected fields, found a list"}},
		{"nothing", "---\n", []string{"line 2: expected fields, found nothing"}},
		{"a set", "!!set {}", []string{"line 1: expected fields, found fields"}},
		{"an unknown field", "name: a\nhunter: x", []string{"line 2: hunter: unknown field (known: name, items)"}},
		{
			"a misspelt field", "name: a\nitms: x",
			[]string{"line 2: itms: unknown field, did you mean items? (known: name, items)"},
		},
		{"a value as field", "name: a\nhunter2 x: x", []string{"line 2: ?: unknown field (known: name, items)"}},
		{
			"a long field", "name: a\n" + strings.Repeat("x", 61) + ": x",
			[]string{"line 2: ?: unknown field (known: name, items)"},
		},
		{"a field twice", "name: a\nname: b", []string{"line 2: name: given twice, first in line 1"}},
		{"a missing field", "items: []", []string{"line 1: name: missing"}},
		{"a number as field", "name: a\n1: x", []string{"line 2: a field's name must be text, found a number"}},
		{"a merge", "name: a\n<<: {}", []string{"line 2: a field's name must be text, found something else"}},
		{"a number", "name: 1", []string{"line 1: name: expected text, found a number: it needs quotes"}},
		{"a fraction", "name: 1.5", []string{"line 1: name: expected text, found a number: it needs quotes"}},
		{"a truth value", "name: true", []string{"line 1: name: expected text, found a truth value: it needs quotes"}},
		{"a date", "name: 2001-01-01", []string{"line 1: name: expected text, found something else: it needs quotes"}},
		{"bytes", "name: !!binary aGk=", []string{"line 1: name: expected text, found something else"}},
		{"fields", "name: {}", []string{"line 1: name: expected text, found fields"}},
		{"text", "name: a\nitems: x", []string{"line 2: items: expected a list, found text"}},
		{"an item", "name: a\nitems: [b, [c]]", []string{"line 2: items[1]: expected text, found a list"}},
		{"in order", "x: 1\nname: 2", []string{
			"line 1: x: unknown field (known: name, items)",
			"line 2: name: expected text, found a number: it needs quotes",
		}},
		{"itself", "&a {name: *a}", []string{"line 1: name: expected text, found fields"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, mistakes := read(t, c.text)
			require.Equal(t, c.want, mistakes)
		})
	}
}

func TestVersion(t *testing.T) {
	for text, want := range map[string]string{
		"1": "", "2": "not 1", `"1"`: "not 1", "1.0": "not 1", "01": "not 1", "0x1": "not 1", "[1]": "not 1", "": "not 1",
	} {
		root, err := strictyaml.Parse([]byte("version: " + text))
		require.NoError(t, err)
		got, _ := root.Known("version")
		got["version"].Version()
		if want == "" {
			require.NoError(t, root.Err(), text)
		} else {
			require.ErrorContains(t, root.Err(), "line 1: version: "+want, text)
		}
	}
}

func TestManyMistakes(t *testing.T) {
	_, _, mistakes := read(t, "name: a\nitems:\n"+strings.Repeat("- []\n", 25))
	require.Len(t, mistakes, 21)
	require.Equal(t, "line 22: items[19]: expected text, found a list", mistakes[19])
	require.Equal(t, "5", mistakes[20])
}

// A few lines of aliases cannot stand for more than memory holds.
func TestBound(t *testing.T) {
	root, err := strictyaml.Parse([]byte("a: &a [" + strings.Repeat("x, ", 1000) + "]\nb: [" +
		strings.Repeat("*a, ", 1000) + "]\n"))
	require.NoError(t, err)
	read := 0
	var walk func(n strictyaml.Node)
	walk = func(n strictyaml.Node) {
		read++
		if n.Found() == "a list" {
			items, _ := n.List()
			for _, item := range items {
				walk(item)
			}
		}
	}
	fields, ok := root.Fields()
	require.True(t, ok)
	for _, f := range fields {
		walk(f.Value)
	}
	first, more := root.Mistakes()
	require.Len(t, first, 1)
	require.Zero(t, more)
	require.EqualError(t, first[0], "line 1: too large: over 200000 texts, lists and maps, aliases counted as what "+
		"they stand for")
	require.Less(t, read, 200_000)
}

func TestSyntax(t *testing.T) {
	for _, c := range []struct {
		name, text, want string
		line             int
	}{
		{"a bracket", "a: [\n", "not YAML: line 1: did not find expected node content", 1},
		{"two documents", "a: b\n---\nc: d\n", "line 2: a second document: only one is allowed", 2},
		{"a second that is none", "a: b\n---\n[\n", "not YAML: line 3: did not find expected node content", 3},
		{"bytes", "\xff", "not YAML: invalid leading UTF-8 octet", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := strictyaml.Parse([]byte(c.text))
			e, ok := errors.AsType[*strictyaml.SyntaxError](err)
			require.True(t, ok, "%v", err)
			require.EqualError(t, e, c.want)
			require.Equal(t, c.line, e.Line)
		})
	}
	for _, text := range []string{"", "# only a comment\n", "\n\n"} {
		_, err := strictyaml.Parse([]byte(text))
		require.ErrorIs(t, err, strictyaml.ErrEmpty)
	}
}

// What a mistake wraps can be asked for, such as a hint.
func TestUnwrap(t *testing.T) {
	root, err := strictyaml.Parse([]byte("name: a"))
	require.NoError(t, err)
	cause := errors.New("cause")
	root.Below("name").Fail("bad: %w", cause)
	require.Equal(t, 1, root.Count())
	first, _ := root.Mistakes()
	require.ErrorIs(t, first[0], cause)
}
