package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// usageWidth is the longest line of a help, in columns.
const usageWidth = 100

// section is the flags under one heading of a help.
type section struct {
	heading string
	flags   *pflag.FlagSet
}

// writeUsage writes the part of the help of cmd that cobra leaves to a program.
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
