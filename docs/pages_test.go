package docs_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// TestPackageMap checks that docs/architecture.md has a line for each package, and no other line.
func TestPackageMap(t *testing.T) {
	t.Parallel()
	list := exec.CommandContext(t.Context(), "go", "list", "./...")
	list.Dir = root
	out, err := list.Output()
	require.NoError(t, err)
	text, ok := section(readPage(t, "docs/architecture.md"), "Package map")
	require.True(t, ok)

	seen := map[string]bool{} // whether a package matches the row
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)`").FindAllStringSubmatch(text, -1) {
		seen[row[1]] = false
	}
	var missing []string
	for name := range strings.FieldsSeq(string(out)) {
		name = strings.TrimPrefix(name, "inject/")
		row := name
		for dir := name; dir != "."; dir = filepath.Dir(dir) {
			if _, ok := seen[dir+"/**"]; ok {
				row = dir + "/**"
			}
		}
		if _, ok := seen[row]; !ok {
			missing = append(missing, name)
		}
		seen[row] = true
	}
	require.Empty(t, missing, "the map has no line for these packages")
	for row, ok := range seen {
		require.True(t, ok, "the map names %s, and no such package exists", row)
	}
}

// TestLinks checks that the files and headings that pages link to exist.
func TestLinks(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, p := range pages(t) {
		for n, line := range p.prose() {
			for _, found := range link.FindAllStringSubmatch(line, -1) {
				path, anchor, _ := strings.Cut(found[1], "#")
				if strings.Contains(path, ":") {
					continue
				}
				target := p.name
				if path != "" {
					target = filepath.Join(filepath.Dir(p.name), path)
				}
				_, err := os.Stat(filepath.Join(root, target))
				require.NoError(t, err, "%s:%d", p.name, n)
				if anchor != "" {
					_, ok := section(readPage(t, target), anchor)
					require.True(t, ok, "%s:%d: %s has no heading #%s", p.name, n, target, anchor)
				}
			}
		}
	}
}

// TestIndex checks that the index links to every page in docs.
func TestIndex(t *testing.T) {
	t.Parallel()
	index := strings.Join(readPage(t, "docs/README.md").lines, "\n")
	for _, p := range pages(t) {
		if path, ok := strings.CutPrefix(p.name, "docs/"); ok && path != "README.md" {
			require.Contains(t, index, "("+path+")")
		}
	}
}

// TestWidth checks that lines end at 100 columns. Tables, lines with addresses, and blocks may be
// wider, because they cannot be broken.
func TestWidth(t *testing.T) {
	t.Parallel()
	var wide []string
	for _, p := range pages(t) {
		for n, line := range p.prose() {
			free := strings.HasPrefix(strings.TrimSpace(line), "|") || strings.Contains(line, "://")
			if !free && utf8.RuneCountInString(line) > 100 {
				wide = append(wide, fmt.Sprintf("%s:%d", p.name, n))
			}
		}
	}
	slices.Sort(wide)
	require.Empty(t, wide, "lines of more than 100 columns")
}

// TestMakeTargets checks that the Makefile has the targets that the pages name.
func TestMakeTargets(t *testing.T) {
	t.Parallel()
	makefile, err := os.ReadFile("../Makefile")
	require.NoError(t, err)
	named := regexp.MustCompile("`make ([a-z0-9-]+)`")
	for _, p := range pages(t) {
		for _, target := range named.FindAllStringSubmatch(strings.Join(p.lines, "\n"), -1) {
			require.Regexp(t, `(?m)^`+regexp.QuoteMeta(target[1])+`:`, string(makefile), "%s names make %s", p.name,
				target[1])
		}
	}
}

// TestMessages checks that the messages in docs/troubleshooting.md are printed by the code: each
// part of a heading between two … must be in a string of the code. A message that was reworded
// fails here. Those of Flyte's command line are in the test that provokes them.
func TestMessages(t *testing.T) {
	t.Parallel()
	var texts strings.Builder
	for _, path := range files(t) {
		isTest := strings.HasSuffix(path, "_test.go") && path != "cmd/injectd/mistakes_linux_test.go"
		if !strings.HasSuffix(path, ".go") || isTest || strings.Contains(path, "/idl/") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, path), nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
				text, err := strconv.Unquote(literal.Value)
				require.NoError(t, err)
				texts.WriteString(text + "\x00")
			}
			return true
		})
	}

	all := texts.String()
	var missing []string
	headings := 0
	for _, line := range readPage(t, "docs/troubleshooting.md").lines {
		message, ok := strings.CutPrefix(line, "### `")
		if !ok {
			continue
		}
		headings++
		for part := range strings.SplitSeq(strings.TrimSuffix(message, "`"), "…") {
			part = strings.Trim(part, " :,")
			if !strings.Contains(all, part) {
				missing = append(missing, part)
			}
		}
	}
	require.Empty(t, missing, "no text of the code has these parts of a message")
	require.Greater(t, headings, 20)
}
