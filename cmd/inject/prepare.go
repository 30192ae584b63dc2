package main

import (
	"fmt"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"inject/exec/redact"
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
	if f := cmd.Flags().Lookup("org"); f != nil && f.Changed && a.set.Scope.Org == "" {
		return fmt.Errorf("%w: the org is empty", secret.ErrInvalid)
	}
	if a.set.Outputs.Dirs != nil && a.set.Outputs.NoRedact {
		return fmt.Errorf("%w: --outputs and --no-redact exclude each other: give one", secret.ErrInvalid)
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
