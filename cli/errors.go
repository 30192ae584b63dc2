package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"inject/internal/spelling"
	"inject/resolver/secret"
)

// Each takes err apart where errors were joined, as by [errors.Join], and returns
// them in order; an error that is none of these is returned alone, and of a nil
// error nothing.
func Each(err error) []error {
	if err == nil {
		return nil
	}
	list, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	// A list, and not a text with several causes.
	var lines []string
	var all []error
	for _, e := range list.Unwrap() {
		lines = append(lines, e.Error())
		all = append(all, Each(e)...)
	}
	if err.Error() != strings.Join(lines, "\n") {
		return []error{err}
	}
	return all
}

// FlagError is for [cobra.Command.SetFlagErrorFunc]. It says what is wrong with a
// flag, and what was probably meant, without quoting the argument, in which a value
// may be. What it returns wraps [secret.ErrInvalid].
func FlagError(cmd *cobra.Command, err error) error {
	what, near := "an unknown flag", ""
	if e, ok := errors.AsType[*pflag.NotExistError](err); ok && e.GetSpecifiedShortnames() == "" {
		var known []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
		if near = spelling.Nearest(e.GetSpecifiedName(), known); near != "" {
			near = "; did you mean --" + near + "?"
		}
	} else if e, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		what = "no argument for --" + e.GetFlag().Name
	} else if e, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		name := "--" + e.GetFlag().Name
		if _, ok := e.GetFlag().Value.(*choice); !ok {
			name = "the argument of " + name
		}
		what = mismatch(name, e.GetFlag().Value) + " (not shown)"
	}
	return secret.WithHint(fmt.Errorf("%w: %s%s", secret.ErrInvalid, what, near),
		"%s --help tells the flags; an argument that begins with - goes behind --", cmd.CommandPath())
}
