package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"inject/cli"
	"inject/exec/redact"
	"inject/injector/guard"
	"inject/internal/printable"
	"inject/internal/spelling"
	"inject/internal/tty"
	"inject/resolver/secret"
)

// prepare checks the settings before a verb runs. Cobra calls it when the flags are parsed.
func (a *app) prepare(cmd *cobra.Command, _ []string) error {
	// Before Apply, which gives a flag the text of its variable.
	masks := cmd.Flags().Changed("mask")
	a.outputsFlag = cmd.Flags().Changed("outputs")
	if err := a.settings.Apply(cmd); err != nil {
		return err
	}
	if err := a.useProfile(); err != nil {
		return err
	}
	a.message.path = a.set.Message.TerminationLog
	if err := a.message.keep(); err != nil {
		return fmt.Errorf("%w: --termination-log: %w", secret.ErrInvalid, err)
	}
	if cmd.Flags().Lookup("log-level") != nil {
		level := hclog.LevelFromString(a.set.Store.LogLevel)
		if level == hclog.NoLevel {
			return fmt.Errorf("%w: --log-level is debug, info, warn, error or off", secret.ErrInvalid)
		}
		a.log.SetLevel(level)
	}
	a.warnOfVariables(cmd)
	if f := cmd.Flags().Lookup("org"); f != nil && f.Changed && a.set.Scope.Org == "" {
		return fmt.Errorf("%w: the org is empty", secret.ErrInvalid)
	}
	if a.set.Outputs.Dirs != nil && a.set.Outputs.NoRedact {
		return fmt.Errorf("%w: --outputs and --no-redact exclude each other: give one", secret.ErrInvalid)
	}
	if guard.Mode(a.set.Outputs.Storage) == guard.On && a.set.Outputs.NoRedact {
		return secret.WithHint(
			fmt.Errorf("%w: --storage guard and --no-redact exclude each other: a guard masks what the command"+
				" uploads, and --no-redact masks nothing", secret.ErrInvalid),
			"write --storage off beside --no-redact, or leave --no-redact out;"+
				" they may come from INJECT_STORAGE and INJECT_NO_REDACT")
	}
	if cmd.Flags().Lookup("redact-min-length") != nil && a.set.Mask.MinLength < 1 {
		return fmt.Errorf("%w: --redact-min-length is at least 1", secret.ErrInvalid)
	}
	if masks && tty.Is(a.stderr) {
		a.say("hint: all users can read --mask TEXT in the list of processes; put a secret in INJECT_MASK")
	}
	a.redactor = redact.New(max(a.set.Mask.MinLength, 1))
	var patterns []redact.Pattern
	for i, text := range a.set.Mask.Texts {
		patterns = append(patterns, redact.Pattern{Name: fmt.Sprintf("mask-%d", i+1), Value: []byte(text)})
	}
	if err := a.redactor.Add(patterns...); err != nil {
		return fmt.Errorf("%w: --mask: %w", secret.ErrInvalid, err)
	}
	return nil
}

// othersVariable matches variables that begin with INJECT_ and are not settings: those that
// Kubernetes makes of a Service whose name is or begins with inject, and those of our own tests.
var othersVariable = regexp.MustCompile(`^INJECT_(TEST_.*|([A-Z0-9_]+_)?` +
	`(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?))$`)

// warnOfVariables warns of variables that were meant for inject and are not read.
func (a *app) warnOfVariables(cmd *cobra.Command) {
	if strings.HasPrefix(cmd.Name(), "__") { // a shell asks for completions
		return
	}
	for _, name := range a.settings.Unknown(os.Environ(), "INJECT_") {
		if othersVariable.MatchString(name) {
			continue
		}
		hint := ""
		if near := spelling.Nearest(name, a.settings.Known("INJECT_")); near != "" {
			hint = "; did you mean " + near + "?"
		}
		a.log.Warn("the variable " + printable.Name(name) + " is not one of inject's, and is not read" + hint)
	}
	if cmd.Flags().Lookup("outputs") != nil && strings.Contains(a.settings.Env(cli.Twin("output")), "/") {
		a.log.Warn("INJECT_OUTPUT is the format of lists, and not read here; did you mean INJECT_OUTPUTS?")
	}
}
