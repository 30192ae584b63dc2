package harness

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// ManPages fails the test unless the man pages in dir are those of root, of the commands
// below it and of the settings that root has: one page a command, in section 1. If
// INJECT_TEST_UPDATE is set it writes them instead.
func ManPages(t *testing.T, dir string, root *cobra.Command, settings any) {
	t.Helper()
	made := t.TempDir()
	makePages(t, made, root, environment(settings))

	if os.Getenv("INJECT_TEST_UPDATE") != "" {
		old, err := filepath.Glob(filepath.Join(dir, root.Name()+`[.\-]*`))
		check(t, err)
		for _, path := range old {
			check(t, os.Remove(path))
		}
		check(t, os.CopyFS(dir, os.DirFS(made)))
	}
	pages, err := os.ReadDir(made)
	check(t, err)
	for _, p := range pages {
		want, err := os.ReadFile(filepath.Join(made, p.Name())) //nolint:gosec // just made
		check(t, err)
		got, _ := os.ReadFile(filepath.Join(dir, p.Name())) //nolint:gosec // of the repository
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not of this command tree: make man", filepath.Join(dir, p.Name()))
		}
	}
	there, err := filepath.Glob(filepath.Join(dir, root.Name()+`[.\-]*`))
	check(t, err)
	if len(there) != len(pages) {
		t.Errorf("%s has %d pages of %s, and there are %d commands: make man", dir, len(there), root.Name(), len(pages))
	}
}

// makePages writes the pages of root and the commands below it to dir, and more at the end
// of that of root.
func makePages(t *testing.T, dir string, root *cobra.Command, more string) {
	t.Helper()
	var when time.Time
	header := doc.GenManHeader{Section: "1", Source: root.Name(), Manual: "inject", Date: &when}
	root.InitDefaultHelpCmd()
	root.DisableAutoGenTag = true
	markExamples(root)
	check(t, doc.GenManTree(root, &header, dir))

	pages, err := os.ReadDir(dir)
	check(t, err)
	for _, p := range pages {
		path := filepath.Join(dir, p.Name())
		text, err := os.ReadFile(path) //nolint:gosec // just made
		check(t, err)
		// A page with a date would differ every month.
		text = bytes.Replace(text, []byte(`"`+when.Format("Jan 2006")+`"`), []byte(`""`), 1)
		if p.Name() == root.Name()+".1" {
			text = append(text, more...)
		}
		check(t, os.WriteFile(path, text, 0o644)) //nolint:gosec // a page is for everyone
	}
}

// markExamples turns the indented lines in the descriptions of cmd and of the commands below it
// into code blocks of Markdown, so that the man page keeps their line breaks.
func markExamples(cmd *cobra.Command) {
	var b strings.Builder
	was := false
	for line := range strings.Lines(cmd.Long) {
		is := strings.HasPrefix(line, "  ")
		if is != was {
			b.WriteString("\n")
		}
		if is {
			line = "  " + line
		}
		was = is
		b.WriteString(line)
	}
	cmd.Long = b.String()
	for _, c := range cmd.Commands() {
		markExamples(c)
	}
}

// environment returns the section of a man page about the variables that have no flag.
func environment(settings any) string {
	var b strings.Builder
	b.WriteString(".SH ENVIRONMENT\nEach flag can be given by the variable that its description ends with.\n" +
		"A flag on the command line comes first. Other variables are\n")
	for group := range reflect.TypeOf(settings).Elem().Fields() {
		for f := range group.Type.Fields() {
			if f.Tag.Get("flag") == "" {
				fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", f.Tag.Get("env"), f.Tag.Get("help"))
			}
		}
	}
	return b.String()
}

// HelpWidth checks that the help of root, and of each command below it, fits 80 columns.
func HelpWidth(t *testing.T, root *cobra.Command) {
	t.Helper()
	root.InitDefaultHelpCmd()
	commands := []*cobra.Command{root}
	for len(commands) > 0 {
		cmd := commands[0]
		commands = append(commands[1:], cmd.Commands()...)
		var b bytes.Buffer
		cmd.SetOut(&b)
		check(t, cmd.Help())
		if !strings.Contains(b.String(), "Usage:") {
			t.Errorf("%s has no help", cmd.CommandPath())
		}
		for line := range strings.Lines(b.String()) {
			if utf8.RuneCountInString(strings.TrimSuffix(line, "\n")) > 80 {
				t.Errorf("the help of %s is wider than 80 columns: %s", cmd.CommandPath(), line)
			}
		}
	}
}
