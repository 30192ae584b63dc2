// Package cli is what the command lines of inject and injectd have in common:
// flags in groups, with a variable each; errors that quote no argument, since a
// value may be one; a terminal on which a person can be asked.
//
// What the flags are, what a verb does and what an error means is the mains'.
package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"inject/resolver/secret"
)

// A Group is flags that belong together, under a heading of the help.
type Group struct {
	Name string
	Set  *pflag.FlagSet
}

// NewGroup returns the group of the flags that define defines. To the usage of each
// it adds its variable, unless the usage names one.
func NewGroup(name string, define func(*pflag.FlagSet)) Group {
	set := pflag.NewFlagSet(name, pflag.ContinueOnError)
	set.SortFlags = false
	define(set)
	set.VisitAll(func(f *pflag.Flag) {
		if !strings.Contains(f.Usage, "[$") {
			f.Usage += " [$" + Twin(f.Name) + "]"
		}
	})
	return Group{name, set}
}

// AddGroups gives owner the flags of the groups, and a help that shows them under
// their headings.
func AddGroups(owner *cobra.Command, groups ...Group) {
	owner.Flags().SortFlags = false
	for _, g := range groups {
		owner.Flags().AddFlagSet(g.Set)
	}
	owner.SetUsageFunc(func(cmd *cobra.Command) error {
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
		for _, g := range groups {
			if cmd != owner { // which has inherited this function, not the flags
				break
			}
			fmt.Fprintf(&b, "\n%s:\n%s", strings.ToUpper(g.Name[:1])+g.Name[1:], g.Set.FlagUsages())
		}
		_, err := io.WriteString(cmd.OutOrStderr(), b.String())
		return err
	})
}

// Twin returns the variable that stands for a flag.
func Twin(flag string) string {
	return "INJECT_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// ApplyTwins sets every flag of cmd that was not given from its variable, but for
// those called except, whose variables mean something else. An empty variable is
// as good as none. The error names every variable that does not fit, and wraps
// [secret.ErrInvalid].
func ApplyTwins(cmd *cobra.Command, except ...string) error {
	var errs []error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		name := Twin(f.Name)
		value := os.Getenv(name)
		if f.Changed || value == "" || f.Name == "help" || slices.Contains(except, f.Name) {
			return
		}
		if f.Value.Set(value) != nil { // whose error quotes the value
			err := fmt.Errorf("%w: %s is not a %s, as --%s needs (not shown)", secret.ErrInvalid, name, f.Value.Type(), f.Name)
			if f.Name == "passphrase" {
				err = secret.WithHint(err, "it only says whether a new store gets a passphrase; the passphrase itself goes in INJECT_KEY")
			}
			errs = append(errs, err)
			return
		}
		f.Changed = true
	})
	return errors.Join(errs...)
}

// NoArgs is [cobra.NoArgs] without quoting what was given. Its error wraps
// [secret.ErrInvalid].
func NoArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return secret.WithHint(fmt.Errorf("%w: %s takes no arguments", secret.ErrInvalid, cmd.CommandPath()), "%s --help", cmd.CommandPath())
	}
	return nil
}

// UserPath returns where the user keeps the file of ours called name, by the XDG
// Base Directory Specification: in the folder that variable names, or in fallback
// below the home folder. Its error wraps [secret.ErrInvalid]: there is no home.
func UserPath(variable, fallback, name string) (string, error) {
	base := os.Getenv(variable)
	if !filepath.IsAbs(base) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", secret.WithHint(fmt.Errorf("%w: there is no home folder for a store: %w", secret.ErrInvalid, err), "set HOME, or choose a store with --store file:///path/to/secrets.db")
		}
		base = filepath.Join(home, fallback)
	}
	return filepath.Join(base, "inject", name), nil
}
