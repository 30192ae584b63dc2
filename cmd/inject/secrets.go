package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"inject/internal/spelling"
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
		Use: name + " secret", DisableFlagsInUseLine: true, Short: short, Args: cobra.ArbitraryArgs,
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		err := fmt.Errorf("%w: %s needs a noun", secret.ErrInvalid, cmd.CommandPath())
		rest := "…"
		if len(args) > 0 { // not quoted: a value may be among them
			err = fmt.Errorf("%w: the noun of %s is secret", secret.ErrInvalid, cmd.CommandPath())
			if name[0] != 'g' && plainKey.MatchString(args[0]) {
				rest = args[0]
			}
		}
		return secret.WithHint(err, "%s secret %s", cmd.CommandPath(), rest)
	}
	secretCommand.Aliases = []string{"secrets"}
	cmd.AddCommand(secretCommand)
	return cmd
}

// plainKey is a key that may be shown where a value may stand: it is hardly one.
var plainKey = regexp.MustCompile(`^[A-Z]+(_[A-Z]+)*$`)

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

// elsewhere adds to err, the error that ref was not found, the scopes that have its key, or the key
// at its scope that was probably meant. command is what is tried there, with the key to follow, or
// "" to delete: a wider scope is not named then, because its secret is also that of others.
func elsewhere(cmd *cobra.Command, l store.Lister, ref secret.Ref, err error, command string) error {
	var found []secret.Scope
	var keys []string
	for info, err2 := range store.All(cmd.Context(), l, store.Filter{Org: ref.Org}) {
		if err2 != nil {
			if len(found) == 0 {
				return err // no scope is known
			}
			break // the hint names fewer scopes
		}
		if info.Ref.Scope == ref.Scope {
			keys = append(keys, info.Ref.Key)
		}
		wider := slices.Contains(ref.Scope.Ladder(), info.Ref.Scope)
		if info.Ref.Key == ref.Key && (command != "" || !wider) {
			found = append(found, info.Ref.Scope)
		}
	}
	near := nearKey(ref.Key, keys)
	switch {
	case len(found) > 0 && command == "":
		return secret.WithHint(err, "it is at %s: -p and -d name the scope to delete it at", scopes(found))
	case len(found) > 0:
		return secret.WithHint(err, "it is at %s: %s%s%s", scopes(found), command, ref.Key, found[0].Flags())
	case near != "":
		return secret.WithHint(err, "did you mean %s?", near)
	case command == "":
		return secret.WithHint(err, "inject get secret lists the secrets and their scopes")
	}
	return secret.WithHint(err, "no scope of org %s has it; inject get secret lists the secrets", ref.Org)
}

// nearKey returns the key among known that key is most probably a misspelling of, "" for none. Upper
// and lower case count as the same, and so do - and _.
func nearKey(key string, known []string) string {
	plain := func(key string) string { return strings.ReplaceAll(strings.ToUpper(key), "-", "_") }
	all := map[string]string{}
	var list []string
	for _, k := range known {
		if k != key {
			all[plain(k)] = k
			list = append(list, plain(k))
		}
	}
	if near, same := all[plain(key)]; same || len(key) < 4 { // any short key is near any other
		return near
	}
	return all[spelling.Nearest(plain(key), list)]
}

// ref returns the secret of the settings with a key. valid is the rule for the key: [secret.ValidKey] of a
// new secret, [secret.StoredKey] of one that exists.
func (a *secretsVerb) ref(key string, valid func(string) error) (secret.Ref, error) {
	scope, err := a.scope()
	ref := secret.Ref{Scope: scope, Key: key}
	return ref, errors.Join(valid(key), err)
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
	if len(args) > 0 && cmd.Parent().Name() != "delete" {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.offered(cmd, within, func(scope secret.Scope, ref secret.Ref) string {
		// Only get may name a secret that is at another scope: it says where that is.
		if (cmd.Parent().Name() == "get" || ref.Scope == scope) && !slices.Contains(args, ref.Key) {
			return ref.Key
		}
		return ""
	}), cobra.ShellCompDirectiveNoFileComp
}

// completeFlag completes a key that a task of the scope could declare, or a project.
func (a *app) completeFlag(cmd *cobra.Command, what string) []string {
	ofOrg := func(scope secret.Scope) store.Filter { return store.Filter{Org: scope.Org} }
	return a.offered(cmd, ofOrg, func(scope secret.Scope, ref secret.Ref) string {
		switch {
		case what == "project":
			return ref.Scope.Project
		case slices.Contains(scope.Ladder(), ref.Scope):
			return ref.Key
		}
		return ""
	})
}

// offered returns the texts that text makes of the secrets in the store, sorted, each once, and without
// "". They are none if the store does not open without a question. The scope is that of the flags.
func (a *app) offered(
	cmd *cobra.Command, filter func(secret.Scope) store.Filter, text func(secret.Scope, secret.Ref) string,
) (texts []string) {
	if a.settings.Apply(cmd) != nil || a.useProfile() != nil {
		return nil
	}
	a.stdin, a.stderr = nil, nil
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTime)
	defer cancel()
	s, err := a.openReader(ctx)
	if err != nil {
		return nil
	}
	defer s.Close() //nolint:errcheck // read only
	scope := secret.Scope{Org: a.orgName(), Project: a.set.Scope.Project, Domain: a.set.Scope.Domain}
	for info, err := range store.All(ctx, s, filter(scope)) {
		if err != nil {
			break
		}
		if found := text(scope, info.Ref); found != "" {
			texts = append(texts, found)
		}
	}
	slices.Sort(texts)
	return slices.Compact(texts)
}
