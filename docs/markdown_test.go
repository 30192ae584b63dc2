package docs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// root is the folder of the repository.
const root = ".."

// A block is a fenced block of code in a page.
type block struct {
	line     int    // the line of its fence, counted from 1
	language string // the rest of the fence's line
	text     string
}

// A page is a Markdown file of the repository.
type page struct {
	name   string // its path in the repository
	lines  []string
	blocks []block
}

// files returns the paths of all files of the repository that git does not ignore.
func files(t *testing.T) []string {
	t.Helper()
	git := exec.CommandContext(t.Context(), "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	git.Dir = root
	out, err := git.Output()
	require.NoError(t, err)

	var paths []string
	for path := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		if info, err := os.Lstat(filepath.Join(root, path)); err == nil && info.Mode().IsRegular() {
			paths = append(paths, path)
		}
	}
	return paths
}

// pages returns every Markdown file of the repository.
func pages(t *testing.T) []page {
	t.Helper()
	var all []page
	for _, path := range files(t) {
		if strings.HasSuffix(path, ".md") {
			all = append(all, readPage(t, path))
		}
	}
	require.NotEmpty(t, all)
	return all
}

func readPage(t *testing.T, path string) page {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	require.NoError(t, err)
	p := page{name: path, lines: strings.Split(string(text), "\n")}

	var open *block
	indent := "" // of a block that belongs to an item of a list
	for i, line := range p.lines {
		fence, ok := strings.CutPrefix(strings.TrimLeft(line, " "), "```")
		switch {
		case !ok && open != nil:
			open.text += strings.TrimPrefix(line, indent) + "\n"
		case ok && open == nil:
			open = &block{line: i + 1, language: fence}
			indent = line[:strings.Index(line, "`")]
		case ok:
			p.blocks, open = append(p.blocks, *open), nil
		}
	}
	require.Nil(t, open, "%s: a block is not closed", path)
	return p
}

// prose returns the lines outside of blocks, by line number.
func (p page) prose() map[int]string {
	lines := map[int]string{}
	inside := false
	for i, line := range p.lines {
		if strings.HasPrefix(strings.TrimLeft(line, " "), "```") {
			inside = !inside
		} else if !inside {
			lines[i+1] = line
		}
	}
	return lines
}
