// Package cli is what the command lines of inject and injectd have in common: settings, which
// are flags and environment variables; errors that quote no argument, since an argument may
// be a secret value; and questions on a terminal.
//
// The programs themselves declare their settings, implement their verbs and turn errors into
// messages.
package cli

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"inject/resolver/secret"
)

// NoArgs is [cobra.NoArgs], but its error quotes no argument. It wraps [secret.ErrInvalid].
func NoArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return secret.WithHint(fmt.Errorf("%w: %s takes no arguments", secret.ErrInvalid, cmd.CommandPath()),
			"%s --help", cmd.CommandPath())
	}
	return nil
}

// UserPath returns the path of a user's own file, by the XDG Base Directory Specification
// (https://specifications.freedesktop.org/basedir-spec): BASE/inject/NAME. base is the text
// of one of the specification's variables, such as XDG_DATA_HOME. If it is not an absolute
// path, fallback below the home folder is used. The error wraps [secret.ErrInvalid]: there is
// no home folder.
func UserPath(base, fallback, name string) (string, error) {
	if !filepath.IsAbs(base) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", secret.WithHint(
				fmt.Errorf("%w: no home folder for the store: %w", secret.ErrInvalid, err),
				"set HOME, or choose a store with --store file:///path/to/secrets.db",
			)
		}
		base = filepath.Join(home, fallback)
	}
	return filepath.Join(base, "inject", name), nil
}
