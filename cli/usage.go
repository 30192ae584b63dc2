package cli

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// helpWidth is how many columns a line of the help may have.
const helpWidth = 80

// section is the flags under one heading of the help.
type section struct {
	heading string
	flags   *pflag.FlagSet
}

// Help is for [cobra.Command.SetHelpFunc]. It writes the text of cmd, with lines of at most 80
// columns, and then its usage.
func Help(cmd *cobra.Command, _ []string) {
	text := cmd.Long
	if text == "" {
		text = cmd.Short
	}
	_, _ = io.WriteString(cmd.OutOrStdout(), reflow(strings.TrimSpace(text))+"\n\n"+cmd.UsageString())
}

// reflow fills the lines of each paragraph. Lines that begin with a space stay as they are.
func reflow(text string) string {
	var lines, words []string
	flush := func() {
		if words != nil {
			lines = append(lines, fill(words, 0)...)
		}
		words = nil
	}
	for line := range strings.SplitSeq(text, "\n") {
		if line == "" || line[0] == ' ' || line[0] == '\t' {
			flush()
			lines = append(lines, line)
			continue
		}
		words = append(words, strings.Fields(line)...)
	}
	flush()
	return strings.Join(lines, "\n")
}

// fill returns lines of words, indented by indent columns. A word that is too long for a line is
// broken after a comma.
func fill(words []string, indent int) []string {
	space := strings.Repeat(" ", indent)
	var lines []string
	line := space
	add := func(word, gap string) {
		if len(line) > indent && utf8.RuneCountInString(line+gap+word) > helpWidth {
			lines, line = append(lines, line), space
		}
		if len(line) > indent {
			line += gap
		}
		line += word
	}
	for _, word := range words {
		if utf8.RuneCountInString(word) <= helpWidth-indent {
			add(word, " ")
			continue
		}
		gap := " "
		for part := range strings.SplitAfterSeq(word, ",") {
			add(part, gap)
			gap = ""
		}
	}
	return append(lines, line)
}

// writeUsage writes the usage, verbs, examples and flags of cmd.
func writeUsage(cmd *cobra.Command, sections []section) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage:\n  %s\n", cmd.UseLine())
	if cmd.HasAvailableSubCommands() {
		b.WriteString("\nVerbs:\n")
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() || sub.Name() == "help" {
				text := strings.Join(fill(strings.Fields(sub.Short), 15), "\n")
				fmt.Fprintf(&b, "  %-12s %s\n", sub.Name(), strings.TrimLeft(text, " "))
			}
		}
	}
	if cmd.HasExample() {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", cmd.Example)
	}
	for _, s := range sections {
		fmt.Fprintf(&b, "\n%s:\n", strings.ToUpper(s.heading[:1])+s.heading[1:])
		s.flags.VisitAll(func(f *pflag.Flag) { writeFlag(&b, f) })
	}
	_, err := io.WriteString(cmd.OutOrStderr(), b.String())
	return err
}

// writeFlag writes a flag, and its help below it.
func writeFlag(b *strings.Builder, f *pflag.Flag) {
	short := "    "
	if f.Shorthand != "" {
		short = "-" + f.Shorthand + ", "
	}
	arg, text := pflag.UnquoteUsage(f)
	if arg != "" {
		arg = " " + arg
	}
	switch f.DefValue {
	case "", "false", "[]", "0", "0s": // as if it were not set
	default:
		text += " (default " + f.DefValue + ")"
	}
	fmt.Fprintf(b, "  %s--%s%s\n%s\n", short, f.Name, arg, strings.Join(fill(strings.Fields(text), 8), "\n"))
}
