package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"inject/cli"
	"inject/internal/tty"
	"inject/resolver/secret"
	"inject/resolver/store"
)

// verb returns "verb" with the one subcommand "secret", as Flyte's commands are.
func verb(name, short string, secretCommand *cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: name, Short: short, Args: cobra.ArbitraryArgs}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		err := fmt.Errorf("%w: %s what?", secret.ErrInvalid, cmd.CommandPath())
		if len(args) > 0 { // not quoted: a value may be among them
			err = fmt.Errorf("%w: %s knows secrets only", secret.ErrInvalid, cmd.CommandPath())
		}
		return secret.WithHint(err, "%s secret …", cmd.CommandPath())
	}
	cmd.AddCommand(secretCommand)
	return cmd
}

// keyArg checks that there are one key and at most more other arguments.
func keyArg(more int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return secret.WithHint(fmt.Errorf("%w: the secret's name is missing", secret.ErrInvalid), "%s NAME", cmd.CommandPath())
		}
		return atMost(1+more)(cmd, args)
	}
}

// atMost is [cobra.MaximumNArgs] in our words.
func atMost(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > n {
			return secret.WithHint(fmt.Errorf("%w: %d arguments are too many", secret.ErrInvalid, len(args)), "what holds spaces is quoted: %s", cmd.UseLine())
		}
		return nil
	}
}

func (a *app) createCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secret {NAME [VALUE] | --from-env-file FILE}",
		Short: "Create a secret, or all those of a .env file, at exactly one scope",
		Long: `Create a secret at the scope that -p and -d name: the whole org without them. The
value is an argument, a file, what is piped in, or else asked for without being
shown. Its bytes are kept as they are.

--from-env-file creates all secrets of a .env file, and prints "KEY created" for
each; or it creates none, and tells of every one that is in the way. The file has
lines KEY=value, or export KEY=value, blank ones, and comments that begin with #:
  KEY=value           a comment may follow: white space, then #
  KEY='value'         as it is
  KEY="value"         with \n \r \t \" \\ \$
A value in quotes may have several lines. Nothing is expanded: $VARIABLE stays
$VARIABLE. A line that programs read differently is refused, and not guessed at.
A server takes up to 4096 secrets and 4 MiB at once.`,
		Example: `  inject create secret MY_SECRET_KEY                     # asks for the value
  inject create secret MY_SECRET_KEY my_secret_value
  inject create secret -p my_project -d development TLS_KEY --from-file tls.key
  pass show api | inject create secret API_KEY           # all bytes, a final newline included
  inject create secret ghcr --type image_pull --registry ghcr.io --username me
  inject create secret --from-env-file .env -p my_project -d development`,
		Args: atMost(2),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if given(cmd, "from-env-file") {
			return a.importFile(cmd, args)
		}
		if err := keyArg(1)(cmd, args); err != nil {
			return err
		}
		return a.create(cmd, args)
	}
	s := &a.set
	a.settings.AddFlags(cmd, &s.Value, &s.Many, &s.Scope, &s.Type, &s.Store, &s.NewStore)
	return verb("create", "Create a secret", cmd)
}

func (a *app) create(cmd *cobra.Command, args []string) error {
	ref, err := a.ref(args[0])
	if err != nil {
		return err
	}
	value, typ, err := a.value(cmd, args[1:], ref)
	if err != nil {
		return err
	}
	s, err := a.openManager(cmd.Context())
	if err != nil {
		return err
	}
	err = s.Create(cmd.Context(), ref, value, typ)
	if errors.Is(err, secret.ErrExists) {
		err = secret.WithHint(err, "inject update secret %s%s replaces its value", ref.Key, ref.Scope.Flags())
	}
	return errors.Join(err, s.Close())
}

func (a *app) updateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secret NAME [VALUE]",
		Short: "Replace the value of a secret at exactly one scope",
		Example: `  inject update secret MY_SECRET_KEY                     # asks for the value
  inject update secret -p my_project -d development TLS_KEY --from-file tls.key`,
		Args:              keyArg(1),
		ValidArgsFunction: a.completeKeys,
	}
	a.settings.AddFlags(cmd, &a.set.Value, &a.set.Scope, &a.set.Store)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ref, err := a.ref(args[0])
		if err != nil {
			return err
		}
		// Before the store is opened: whoever gives it may take their time.
		value, _, err := a.value(cmd, args[1:], ref)
		if err != nil {
			return err
		}
		return a.change(cmd, ref, "update", func(s store.Manager) error { return s.Update(cmd.Context(), ref, value) })
	}
	return verb("update", "Replace the value of a secret", cmd)
}

func (a *app) deleteCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "secret NAME",
		Short:             "Delete a secret at exactly one scope",
		Example:           "  inject delete secret MY_SECRET_KEY\n  inject delete secret -p my_project -d development MY_SECRET_KEY",
		Args:              keyArg(0),
		ValidArgsFunction: a.completeKeys,
	}
	a.settings.AddFlags(cmd, &a.set.Scope, &a.set.Store)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ref, err := a.ref(args[0])
		if err != nil {
			return err
		}
		return a.change(cmd, ref, "delete", func(s store.Manager) error {
			if err := s.Delete(cmd.Context(), ref); err != nil {
				return err
			}
			_, err := fmt.Fprintf(a.stdout, "deleted secret %s at %s\n", ref.Key, ref.Scope)
			return err
		})
	}
	return verb("delete", "Delete a secret", cmd)
}

// change runs fn on the store, and says where else the secret is if it is not
// where it was to be changed.
func (a *app) change(cmd *cobra.Command, ref secret.Ref, verb string, fn func(store.Manager) error) error {
	s, err := a.openManager(cmd.Context())
	if err != nil {
		return err
	}
	err = fn(s)
	if errors.Is(err, secret.ErrNotFound) {
		err = elsewhere(cmd, s, ref, err, "inject "+verb+" secret "+ref.Key)
	}
	return errors.Join(err, s.Close())
}

// elsewhere adds to err, that ref was not found, the scopes where its key is.
func elsewhere(cmd *cobra.Command, l store.Lister, ref secret.Ref, err error, command string) error {
	var found []secret.Scope
	for info, err2 := range store.All(cmd.Context(), l, store.Filter{Org: ref.Org}) {
		if err2 != nil {
			if len(found) == 0 {
				return err // nobody knows
			}
			break // less help
		}
		if info.Ref.Key == ref.Key {
			found = append(found, info.Ref.Scope)
		}
	}
	if len(found) == 0 {
		return secret.WithHint(err, "it is at no scope of org %s; inject get secret lists what is", ref.Org)
	}
	return secret.WithHint(err, "it is at %s: %s%s", scopes(found), command, found[0].Flags())
}

func (a *app) ref(key string) (secret.Ref, error) {
	scope, err := a.scope()
	ref := secret.Ref{Scope: scope, Key: key}
	return ref, errors.Join(secret.ValidKey(key), err)
}

// value returns the value of a create or update from wherever it is given.
func (a *app) value(cmd *cobra.Command, args []string, ref secret.Ref) (secret.Value, store.Type, error) {
	typ, err := a.storeType(ref.Scope)
	if err != nil {
		return secret.Value{}, typ, err
	}
	var sources []string
	if len(args) > 0 {
		sources = append(sources, "VALUE")
	}
	for _, name := range []string{"value", "from-file", "registry", "from-docker-config"} {
		if given(cmd, name) {
			sources = append(sources, "--"+name)
		}
	}
	if len(sources) > 1 {
		return secret.Value{}, typ, fmt.Errorf("%w: the value comes from one place, not from %v", secret.ErrInvalid, sources)
	}
	if typ == store.ImagePull {
		value, err := a.imagePull(cmd, sources)
		return value, typ, err
	}
	if len(sources) == 1 && (sources[0] == "--registry" || sources[0] == "--from-docker-config") {
		return secret.Value{}, typ, secret.WithHint(fmt.Errorf("%w: %s is for image pull secrets", secret.ErrInvalid, sources[0]), "add --type image_pull")
	}
	value, err := a.plainValue(cmd, args, sources)
	return value, typ, err
}

// storeType returns the type that the flags name, if there may be one at scope.
func (a *app) storeType(scope secret.Scope) (store.Type, error) {
	if a.set.Type.Type != store.ImagePull.String() {
		return store.Regular, nil
	}
	if scope.Project != "" || scope.Domain != "" {
		return 0, fmt.Errorf("%w: project and domain must not be set when creating an image pull secret", secret.ErrInvalid)
	}
	return store.ImagePull, nil
}

// given reports whether a flag was given, and not to say no.
func given(cmd *cobra.Command, name string) bool {
	f := cmd.Flags().Lookup(name)
	return f != nil && f.Changed && (f.Value.Type() != "bool" || f.Value.String() == "true")
}

func (a *app) plainValue(cmd *cobra.Command, args []string, sources []string) (secret.Value, error) {
	switch {
	case len(args) > 0:
		a.historyHint()
		return secret.NewValue([]byte(args[0])), nil
	case cmd.Flags().Changed("value"):
		if a.settings.Env(cli.Twin("value")) == "" {
			a.historyHint()
		}
		return secret.NewValue([]byte(a.set.Value.Text)), nil
	case a.set.Value.FromFile == "-":
		return readValue(a.stdin, "stdin")
	case len(sources) > 0:
		f, err := os.Open(a.set.Value.FromFile)
		if err != nil {
			return secret.Value{}, fmt.Errorf("%w: --from-file: %w", secret.ErrInvalid, err)
		}
		defer f.Close() //nolint:errcheck // read only
		return readValue(f, a.set.Value.FromFile)
	case tty.Is(a.stdin):
		t := a.terminal()
		if t == nil {
			break
		}
		return t.Ask("Enter secret value: ")
	default:
		value, err := readValue(a.stdin, "stdin")
		if err != nil || value.Len() > 0 {
			return value, err
		}
	}
	return secret.Value{}, secret.WithHint(fmt.Errorf("%w: no value was given: stdin is empty", secret.ErrInvalid),
		"pipe it in, name a file with --from-file, or say that it is empty with --value ''")
}

// readValue reads all bytes of r.
func readValue(r io.Reader, name string) (secret.Value, error) {
	b, err := io.ReadAll(io.LimitReader(r, store.MaxValue+1))
	if err != nil {
		return secret.Value{}, fmt.Errorf("%w: read the value from %s: %w", secret.ErrInvalid, name, err)
	}
	if len(b) > store.MaxValue {
		return secret.Value{}, fmt.Errorf("%w: the value in %s is over %d bytes long", secret.ErrInvalid, name, store.MaxValue)
	}
	return secret.NewValue(b), nil
}

// historyHint tells a person, and only a person, where an argument ends up.
func (a *app) historyHint() {
	if tty.Is(a.stderr) {
		_, _ = fmt.Fprintln(a.stderr, "hint: the value is in your shell's history now; without it on the command line it is asked for")
	}
}

// completeTime is how long somebody who has pressed a key is left to wait.
const completeTime = 2 * time.Second

// completeKeys completes a secret's name, from a store that opens without
// asking anybody.
func (a *app) completeKeys(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
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
	for info, err := range store.All(ctx, s, store.Filter{Org: a.orgName(), Domain: a.set.Scope.Domain, Project: a.set.Scope.Project}) {
		if err != nil {
			break
		}
		keys = append(keys, info.Ref.Key)
	}
	return keys, cobra.ShellCompDirectiveNoFileComp
}
