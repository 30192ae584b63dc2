package cli

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"inject/internal/spelling"
	"inject/resolver/secret"
)

// Each returns the errors that [errors.Join] joined into err, in order and at any depth. Of
// any other error it returns that error alone, and of nil none.
func Each(err error) []error {
	if err == nil {
		return nil
	}
	list, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	// An error that wraps several causes in one text, by several %w, is one error.
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

// flagName is a name that is shown although it is of no flag: it is hardly a value.
var flagName = regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)

// FlagError is for [cobra.Command.SetFlagErrorFunc]. It returns an error that says what is
// wrong with a flag and which flag was probably meant. It does not quote the argument of a flag, nor
// a flag that does not look like one: either may be a secret value. The error wraps [secret.ErrInvalid].
func FlagError(cmd *cobra.Command, err error) error {
	what, near := "an unknown flag", ""
	e, unknown := errors.AsType[*pflag.NotExistError](err)
	if unknown && len(e.GetSpecifiedShortnames()) == 1 {
		what += ": -" + e.GetSpecifiedShortnames()
	}
	if unknown && e.GetSpecifiedShortnames() == "" {
		if flagName.MatchString(e.GetSpecifiedName()) {
			what += ": --" + e.GetSpecifiedName()
		}
		var known []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden { // an old name
				known = append(known, f.Name)
			}
		})
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
		"%s --help lists the flags; an argument that begins with - goes after --", cmd.CommandPath())
}
