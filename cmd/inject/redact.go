package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"inject/cli"
	"inject/exec/harden"
	"inject/exec/redact"
	"inject/injector/place"
	"inject/resolver/secret"
)

// redactVerb is inject redact.
type redactVerb struct {
	*app
	found finds
}

func redactCommand(app *app) *cobra.Command {
	a := &redactVerb{app: app}
	cmd := &cobra.Command{
		Use:   "redact [flags] [PATH…]",
		Short: "Mask the declared secrets in a stream or in files",
		Long: `redact copies stdin, or the files at PATH, to stdout, and masks the declared secrets and
other values. It finds a value in all forms in which programs usually write one: as it is,
in base64, hex, JSON, a URL, a shell's quotes and so on. The input may be text or binary,
and is copied as it arrives, not line by line.

With --check it only reports where values are, as PATH:BYTE: NAME (FORM), with BYTE counted
from 0, in an archive from the beginning of the member. It exits with 1 if it finds a value,
and with 2 if it could not look into everything.
With --in-place it replaces each file that holds a value by a masked one of the same
mode and owner; JSON stays valid JSON. An archive is an error, and so is a file that
another process is writing. For both, a folder means all files below it, without
following links. Without them, several files are one stream, as with cat.`,
		Example: `  make deploy 2>&1 | inject redact --secret API_KEY --secret DB_PASSWORD
  INJECT_MASK=$TOKEN inject redact --stats < build.log > masked.log
  vault-dump | inject redact --values-from - --check ./artifacts
  inject redact --task task.yaml --in-place core.log /var/log/task`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return a.run(cmd, args) },
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
	}
	s := &a.set
	a.settings.AddFlags(cmd, &s.Mask, &s.Values, &s.Redact, &s.Declare, &s.Scope, &s.Store, &s.Resolve)
	return cmd
}

func (a *redactVerb) run(cmd *cobra.Command, paths []string) error {
	r := &a.set.Redact
	if err := a.validate(cmd, paths); err != nil {
		return err
	}
	if err := a.loadPatterns(cmd.Context(), a.set.Values.From); err != nil {
		return err
	}
	if len(paths) == 0 {
		paths = []string{"-"}
	}
	var err error
	if r.Check || r.InPlace {
		err = a.scan(cmd.Context(), paths)
	} else {
		err = a.filter(paths, r.Stats)
	}
	if r.Stats {
		a.found.tell(a.masked(a.stderr), r.Check)
	} else if r.InPlace {
		a.say(fmt.Sprintf("masked %d; --stats tells what", a.found.total))
	}
	if err == nil && r.Check && a.found.total > 0 {
		a.status.Code = 1
	}
	return err
}

// validate refuses settings that exclude each other.
func (a *redactVerb) validate(cmd *cobra.Command, paths []string) error {
	r := &a.set.Redact
	wrong := func(what string) error { return fmt.Errorf("%w: %s", secret.ErrInvalid, what) }
	switch {
	case r.Check && r.InPlace:
		return wrong("--check and --in-place exclude each other: give one")
	case r.InPlace && (len(paths) == 0 || slices.Contains(paths, "-")):
		return secret.WithHint(wrong("--in-place needs files to replace"),
			"%s --in-place PATH…; without it stdin goes to stdout", cmd.CommandPath())
	case cmd.Flags().Changed("output") && !r.Check && a.settings.Env(cli.Twin("output")) == "":
		// INJECT_OUTPUT alone is no mistake, since it also means other verbs.
		return wrong("--output needs --check")
	case a.set.Values.From == "-" && (len(paths) == 0 || slices.Contains(paths, "-")):
		return secret.WithHint(
			wrong("stdin cannot be both the values and the text"),
			"--values-from FILE, or name the files to mask",
		)
	}
	return nil
}

// loadPatterns gives the redactor all values to mask.
func (a *redactVerb) loadPatterns(ctx context.Context, valuesFrom string) error {
	t, scope, err := a.loadTask()
	if err != nil {
		return err
	}
	var patterns []redact.Pattern
	if valuesFrom != "" {
		if patterns, err = a.readValues(valuesFrom); err != nil {
			return fmt.Errorf("--values-from: %w", err)
		}
	}
	var secrets []place.Secret
	if len(t.Declared) > 0 {
		if secrets, err = a.resolveNow(ctx, scope, t.Declared); err != nil {
			return err
		}
	}
	harden.Process(a.log.Debug)
	if err := place.Mask(a.redactor, secrets, a.log, patterns...); err != nil {
		return err
	}
	if a.redactor.Empty() {
		return secret.WithHint(
			fmt.Errorf("%w: there is nothing to mask", secret.ErrInvalid),
			"declare secrets with --secret KEY, or give values with --values-from FILE or INJECT_MASK, "+
				"of at least --redact-min-length bytes",
		)
	}
	return nil
}
