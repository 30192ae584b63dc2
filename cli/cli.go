// Package cli is what the command lines of inject and injectd have in common:
// settings, which are flags and variables; errors that quote no argument, since a
// value may be one; a terminal on which a person can be asked.
//
// What the settings are, what a verb does and what an error means is the mains'.
package cli

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"inject/resolver/secret"
)

// NoArgs is [cobra.NoArgs] without quoting what was given. Its error wraps
// [secret.ErrInvalid].
func NoArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return secret.WithHint(
			fmt.Errorf("%w: %s takes no arguments", secret.ErrInvalid, cmd.CommandPath()),
			"%s --help",
			cmd.CommandPath(),
		)
	}
	return nil
}

// UserPath returns where the user keeps the file of ours called name, by the XDG
// Base Directory Specification: in the folder base, the text of one of its variables, or in
// fallback below the home folder if base is no absolute path. Its error wraps
// [secret.ErrInvalid]: there is no home.
func UserPath(base, fallback, name string) (string, error) {
	if !filepath.IsAbs(base) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", secret.WithHint(
				fmt.Errorf("%w: there is no home folder for a store: %w", secret.ErrInvalid, err),
				"set HOME, or choose a store with --store file:///path/to/secrets.db",
			)
		}
		base = filepath.Join(home, fallback)
	}
	return filepath.Join(base, "inject", name), nil
}
