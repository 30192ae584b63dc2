package docs_test

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

var (
	flagName = regexp.MustCompile(`--[a-z][a-z-]+`)
	variable = regexp.MustCompile(`\bINJECTD?_[A-Z_]*[A-Z]\b`)
)

// help returns the help text of a verb.
func help(t *testing.T, command string) string {
	t.Helper()
	words := append(strings.Fields(command), "--help")
	out, err := exec.CommandContext(t.Context(), filepath.Join(bin, words[0]), words[1:]...).Output()
	require.NoError(t, err)
	return string(out)
}

// verbs returns a command and all commands below it.
func verbs(t *testing.T, command string) []string {
	t.Helper()
	all := []string{command}
	_, list, _ := strings.Cut(help(t, command), "\nVerbs:\n")
	list, _, _ = strings.Cut(list, "\n\n")
	for line := range strings.Lines(list) {
		name, _, _ := strings.Cut(strings.TrimPrefix(line, "  "), " ")
		if name != "" && name != "completion" && name != "help" { // every program has them; a longer line is wrapped
			all = append(all, verbs(t, command+" "+name)...)
		}
	}
	return all
}

// flagsOf returns the flags in a help text. Each has a line with the name of its argument, above its
// description.
func flagsOf(help string) map[string]bool {
	flags := map[string]bool{}
	for _, line := range regexp.MustCompile(`(?m)^ {2,6}(?:-\w, )?(--[a-z-]+)(?: \S+)?$`).FindAllStringSubmatch(help, -1) {
		flags[line[1]] = true
	}
	return flags
}

// section returns the section of a page below a heading, and whether the page has that heading.
func section(p page, title string) (string, bool) {
	var lines []string
	level := 0
	for _, line := range p.lines {
		marks, heading, ok := strings.Cut(line, " ")
		isHeading := ok && marks != "" && strings.Trim(marks, "#") == ""
		switch {
		case isHeading && level == 0 && slug(heading) == slug(title):
			level = len(marks)
		case isHeading && level > 0 && len(marks) <= level:
			return strings.Join(lines, "\n"), true
		case level > 0:
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n"), level > 0
}

// slug returns the anchor that GitHub makes for a heading.
func slug(heading string) string {
	heading = regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(heading), "")
	return strings.ReplaceAll(heading, " ", "-")
}

// inTables returns the flags in the first cells of a section's tables.
func inTables(text string) map[string]bool {
	flags := map[string]bool{}
	for line := range strings.Lines(text) {
		if cell, ok := strings.CutPrefix(line, "| "); ok {
			cell, _, _ = strings.Cut(cell, " |")
			for _, flag := range flagName.FindAllString(cell, -1) {
				flags[flag] = true
			}
		}
	}
	return flags
}

// TestFlags compares the flags in each verb's section of cli.md, and in the groups that the section
// links to, with those in the verb's help.
func TestFlags(t *testing.T) {
	t.Parallel()
	p := readPage(t, "docs/reference/cli.md")
	for _, verb := range slices.Concat(verbs(t, "inject"), verbs(t, "injectd")) {
		want := flagsOf(help(t, verb))
		if len(want) == 0 || verb == "inject" { // inject alone is inject run
			continue
		}
		t.Run(verb, func(t *testing.T) {
			text, ok := section(p, verb)
			require.True(t, ok, "cli.md has no section %q", verb)
			got := inTables(text)
			if _, list, ok := strings.Cut(text, "\nFlags: "); ok {
				list, _, _ = strings.Cut(list, "\n\n")
				groups := regexp.MustCompile(`\(#([a-z-]+)\)( but for [^,.]+)?`)
				for _, group := range groups.FindAllStringSubmatch(list, -1) {
					of, ok := section(p, group[1])
					require.True(t, ok, "cli.md has no section %q", group[1])
					maps.Copy(got, inTables(of))
					for _, flag := range flagName.FindAllString(group[2], -1) {
						delete(got, flag)
					}
				}
			}
			require.Equal(t, slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got)))
		})
	}
}

// TestVariables checks that files-and-variables.md has every variable that a help text names, and
// no other, except those that have no flag.
func TestVariables(t *testing.T) {
	t.Parallel()
	want := map[string]bool{
		"INJECT_KEY": true, "INJECT_TOKEN": true, "INJECT_PARENT": true, "INJECTD_KEY": true,
		"INJECT_SECRET": true, "INJECT_SECRET_FILE": true,
	}
	for _, verb := range slices.Concat(verbs(t, "inject"), verbs(t, "injectd")) {
		for _, name := range variable.FindAllString(help(t, verb), -1) {
			want[name] = true
		}
	}
	got := map[string]bool{}
	p := readPage(t, "docs/reference/files-and-variables.md")
	for _, name := range variable.FindAllString(strings.Join(p.lines, "\n"), -1) {
		got[name] = true
	}
	require.Equal(t, slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got)))
}

// Each alert links to its section of the page of alerts, and each section of an alert is about one
// that exists.
func TestAlerts(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, "deploy/chart/monitoring/alerts.yaml"))
	require.NoError(t, err)
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert       string
				Annotations map[string]string
			}
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &rules))
	const path = "docs/how-to/alerts.md"
	var alerts, sections []string
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			alerts = append(alerts, r.Alert)
			anchor, ok := strings.CutPrefix(r.Annotations["runbook"], path+"#")
			require.True(t, ok, r.Alert)
			require.Equal(t, strings.ToLower(r.Alert), anchor)
		}
	}
	for _, line := range readPage(t, path).lines {
		if name, ok := strings.CutPrefix(line, "### "); ok {
			sections = append(sections, name)
		}
	}
	require.NotEmpty(t, alerts)
	require.ElementsMatch(t, sections, alerts)
}
