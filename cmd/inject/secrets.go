package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"inject/resolver/secret"
	"inject/resolver/store"
)

// secretsVerb is the verbs that manage secrets: create, update, get and delete.
type secretsVerb struct {
	*app
	asked bool // a person was asked for the value
}

// verb returns the command NAME whose only subcommand is "secret", as in Flyte's command line.
func verb(name, short string, secretCommand *cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: name + " secret …", DisableFlagsInUseLine: true, Short: short, Args: cobra.ArbitraryArgs,
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		err := fmt.Errorf("%w: %s needs a noun", secret.ErrInvalid, cmd.CommandPath())
		if len(args) > 0 { // not quoted: a value may be among them
			err = fmt.Errorf("%w: the noun of %s is secret", secret.ErrInvalid, cmd.CommandPath())
		}
		return secret.WithHint(err, "%s secret …", cmd.CommandPath())
	}
	cmd.AddCommand(secretCommand)
	return cmd
}

// within selects the secrets at scope and below it.
func within(scope secret.Scope) store.Filter {
	return store.Filter{Org: scope.Org, Domain: scope.Domain, Project: scope.Project}
}

// keyArg checks that there is a key, and at most more arguments behind it.
func keyArg(more int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return secret.WithHint(fmt.Errorf("%w: the secret's name is missing", secret.ErrInvalid), "%s NAME",
				cmd.CommandPath())
		}
		return atMost(1+more)(cmd, args)
	}
}

// atMost is [cobra.MaximumNArgs] with an error of ours, which quotes no argument.
func atMost(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > n {
			return secret.WithHint(fmt.Errorf("%w: %d arguments are too many", secret.ErrInvalid, len(args)),
				"put an argument with spaces in quotes: %s", cmd.UseLine())
		}
		return nil
	}
}

// elsewhere adds to err, the error that ref was not found, the scopes that have its key.
func elsewhere(cmd *cobra.Command, l store.Lister, ref secret.Ref, err error, command string) error {
	var found []secret.Scope
	for info, err2 := range store.All(cmd.Context(), l, store.Filter{Org: ref.Org}) {
		if err2 != nil {
			if len(found) == 0 {
				return err // no scope is known
			}
			break // the hint names fewer scopes
		}
		if info.Ref.Key == ref.Key {
			found = append(found, info.Ref.Scope)
		}
	}
	if len(found) == 0 {
		return secret.WithHint(err, "no scope of org %s has it; inject get secret lists the secrets", ref.Org)
	}
	return secret.WithHint(err, "it is at %s: %s%s", scopes(found), command, found[0].Flags())
}

func (a *secretsVerb) ref(key string) (secret.Ref, error) {
	scope, err := a.scope()
	ref := secret.Ref{Scope: scope, Key: key}
	return ref, errors.Join(secret.ValidKey(key), err)
}

// given reports whether a flag was given; a boolean one counts if it is true.
func given(cmd *cobra.Command, name string) bool {
	f := cmd.Flags().Lookup(name)
	return f != nil && f.Changed && (f.Value.Type() != "bool" || f.Value.String() == "true")
}

// completeTime bounds how long a person waits for a completion.
const completeTime = 2 * time.Second

// completeKeys completes the name of a secret, if the store opens without a question.
func (a *secretsVerb) completeKeys(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 || a.settings.Apply(cmd) != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	a.stdin, a.stderr = nil, nil
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTime)
	defer cancel()
	s, err := a.openReader(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer s.Close() //nolint:errcheck // read only
	var keys []string
	scope := secret.Scope{Org: a.orgName(), Project: a.set.Scope.Project, Domain: a.set.Scope.Domain}
	for info, err := range store.All(ctx, s, within(scope)) {
		if err != nil {
			break
		}
		keys = append(keys, info.Ref.Key)
	}
	return keys, cobra.ShellCompDirectiveNoFileComp
}
