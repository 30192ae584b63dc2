package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// usageWidth is how many columns a line of the help may have.
const usageWidth = 100

// section is the flags under one heading of the help.
type section struct {
	heading string
	flags   *pflag.FlagSet
}

// writeUsage writes the usage, verbs, examples and flags of cmd; cobra writes the text above.
func writeUsage(cmd *cobra.Command, sections []section) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage:\n  %s\n", cmd.UseLine())
	if cmd.HasAvailableSubCommands() {
		b.WriteString("\nVerbs:\n")
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() || sub.Name() == "help" {
				fmt.Fprintf(&b, "  %-12s %s\n", sub.Name(), sub.Short)
			}
		}
	}
	if cmd.HasExample() {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", cmd.Example)
	}
	for _, s := range sections {
		title := strings.ToUpper(s.heading[:1]) + s.heading[1:]
		fmt.Fprintf(&b, "\n%s:\n%s", title, s.flags.FlagUsagesWrapped(usageWidth))
	}
	_, err := io.WriteString(cmd.OutOrStderr(), b.String())
	return err
}
