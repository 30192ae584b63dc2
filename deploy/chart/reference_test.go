package chart_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// referenceHead is what the page says before the values.
const referenceHead = `# Reference: values of the chart

<!-- Written by make chart from deploy/chart/values.schema.json and values.yaml. -->

The chart [` + "`deploy/chart`" + `](../../deploy/chart) takes these values and no others: Helm names each key
that it does not know, and each value that has the wrong form. [Install it](../how-to/kubernetes.md)
needs ` + "`taskNamespaces`, `claimers.accounts` and `images.registry`" + `.
`

// A schema is a part of a JSON Schema, in the order of its file.
type schema struct{ yaml.Node }

func (s *schema) field(name string) *schema {
	for i := 0; i+1 < len(s.Content); i += 2 {
		if s.Content[i].Value == name {
			return &schema{*s.Content[i+1]}
		}
	}
	return nil
}

// each calls fn for each field, in order.
func (s *schema) each(fn func(name string, value *schema)) {
	if s == nil {
		return
	}
	for i := 0; i+1 < len(s.Content); i += 2 {
		fn(s.Content[i].Value, &schema{*s.Content[i+1]})
	}
}

// A page is what is written of a schema.
type page struct {
	t    *testing.T
	root *schema
	strings.Builder
}

func (p *page) printf(format string, args ...any) { _, _ = fmt.Fprintf(p, format, args...) }

// resolve returns the schema that s refers to, with the name of the definition, or s and "".
func (p *page) resolve(s *schema) (*schema, string) {
	ref := s.field("$ref")
	if ref == nil {
		return s, ""
	}
	name := strings.TrimPrefix(ref.Value, "#/definitions/")
	target := p.root.field("definitions").field(name)
	require.NotNil(p.t, target, ref.Value)
	return target, name
}

// rows writes a row for each value at a path that is not made of others, or is one of several kinds that
// have a section of their own.
func (p *page) rows(path string, s *schema, def any) {
	s.field("properties").each(func(name string, of *schema) {
		at := strings.TrimPrefix(path+"."+name, ".")
		values, _ := def.(object)
		value, given := values[name]
		target, kind := p.resolve(of)
		words := of.field("description")
		if words == nil {
			words = target.field("description")
		}
		require.NotNil(p.t, words, "%s has no description", at)
		if kind == "" && target.field("properties") != nil {
			p.rows(at, target, value)
			if all, ok := value.(object); !ok || len(all) > 0 {
				return
			}
		}
		says := strings.ReplaceAll(words.Value, "|", `\|`)
		items := target.field("items")
		if items != nil {
			if item, of := p.resolve(items); of != "" && item.field("properties") != nil {
				target, kind = item, of
			}
		}
		if kind != "" && target.field("properties") != nil {
			says += fmt.Sprintf(" ([%s](#%s))", kind, strings.ToLower(kind))
		}
		if enum := target.field("enum"); enum != nil && len(enum.Content) > 1 {
			var all []string
			for _, one := range enum.Content {
				if one.Tag != "!!bool" { // YAML reads off as false
					all = append(all, "`"+one.Value+"`")
				}
			}
			says += ": " + strings.Join(all, ", ")
		}
		text := ""
		if given {
			data, err := json.Marshal(value)
			require.NoError(p.t, err)
			text = "`" + string(data) + "`"
		}
		p.printf("| `%s` | %s | %s |\n", at, text, says)
		if items != nil && items.field("properties") != nil {
			p.rows(at+"[]", items, nil)
		}
	})
}

func (p *page) table(title, says, path string, s *schema, def any) {
	p.printf("\n## %s\n\n", title)
	if says != "" {
		p.printf("%s.\n\n", says)
	}
	p.printf("| value | default | |\n|---|---|---|\n")
	p.rows(path, s, def)
}

// TestReference compares docs/reference/chart.md with the schema and the defaults of the values.
// INJECT_TEST_UPDATE writes the page.
func TestReference(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("values.schema.json")
	require.NoError(t, err)
	var document yaml.Node
	require.NoError(t, yaml.Unmarshal(data, &document)) // JSON is YAML; yaml.Node keeps the order
	p := &page{t: t, root: &schema{*document.Content[0]}}
	defaults := read(t, "values.yaml")

	p.WriteString(referenceHead)
	general := &schema{yaml.Node{Content: []*yaml.Node{{Value: "properties"}, {Kind: yaml.MappingNode}}}}
	var groups []func()
	p.root.field("properties").each(func(name string, s *schema) {
		if s.field("properties") == nil {
			one := s.Node
			general.Content[1].Content = append(general.Content[1].Content, &yaml.Node{Value: name}, &one)
			return
		}
		words := s.field("description")
		require.NotNil(t, words, "%s has no description", name)
		groups = append(groups, func() { p.table(name, words.Value, name, s, defaults[name]) })
	})
	p.table("General", "", "", general, defaults)
	for _, write := range groups {
		write()
	}
	p.root.field("definitions").each(func(name string, s *schema) {
		if s.field("properties") != nil {
			p.table(name, "", "", s, nil)
		}
	})

	const file = "../../docs/reference/chart.md"
	if os.Getenv("INJECT_TEST_UPDATE") != "" {
		require.NoError(t, os.WriteFile(file, []byte(p.String()), 0o600))
	}
	got, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, p.String(), string(got), "make chart")
}
