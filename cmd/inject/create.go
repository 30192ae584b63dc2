package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"inject/resolver/secret"
	"inject/resolver/store"
)

func createCommand(app *app) *cobra.Command {
	a := &secretsVerb{app: app}
	cmd := &cobra.Command{
		Use:   "secret {NAME [VALUE] | --from-env-file FILE}",
		Short: "Create a secret, or all those of a .env file, at exactly one scope",
		Long: `Create a secret at the scope that -p and -d name: without them, for the whole org. The value
comes from an argument, a file or a pipe. Otherwise inject asks for it, without echo: type
a line, or paste anything, such as a whole key. Its bytes are stored unchanged.

--from-env-file creates all secrets of a .env file and prints "KEY created" for each, or it
creates none and reports every line and secret that prevents it. The file has lines
KEY=value, lines export KEY=value, blank lines, and comments that begin with #:
  KEY=value           a comment may follow: white space, then #
  KEY='value'         as it is
  KEY="value"         with \n \r \t \" \\ \$
A value in quotes may have several lines. Nothing is expanded: $VARIABLE stays $VARIABLE,
and ${…} or $(…) outside single quotes is an error, as is any line that other programs
read differently. A server accepts up to 4096 secrets and 4 MiB at once.

--upsert replaces the value of a secret that exists. Those of a file are then stored one
after the other.`,
		Example: `  inject create secret MY_SECRET_KEY                     # asks for the value
  inject create secret MY_SECRET_KEY my_secret_value
  inject create secret -p my_project -d development TLS_KEY --from-file tls.key
  pass show api | inject create secret API_KEY           # all bytes of it
  inject create secret ghcr --type image_pull --registry ghcr.io --username me
  inject create secret --from-env-file .env -p my_project -d development`,
		Args: atMost(2),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if given(cmd, "from-env-file") {
			return a.importFile(cmd, args, a.put)
		}
		if err := keyArg(1)(cmd, args); err != nil {
			return err
		}
		return a.create(cmd, args)
	}
	s := &a.set
	a.settings.AddFlags(cmd, &s.Value, &s.Upsert, &s.Many, &s.Scope, &s.Type, &s.Store, &s.NewStore)
	return verb("create", "Create a secret", cmd)
}

func (a *secretsVerb) create(cmd *cobra.Command, args []string) error {
	ref, err := a.ref(args[0], secret.ValidKey)
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
	did, err := a.put(cmd.Context(), s, store.New{Ref: ref, Value: value, Type: typ})
	if err == nil {
		a.stored(did, ref, value)
	}
	if errors.Is(err, secret.ErrExists) {
		err = secret.WithHint(err, "inject update secret %s%s replaces its value, and so does create --upsert",
			ref.Key, ref.Scope.Flags())
	}
	return errors.Join(err, s.Close())
}

// put creates a secret, or with --upsert replaces the value of one that exists. It returns which of
// the two it did.
func (a *secretsVerb) put(ctx context.Context, s store.Manager, n store.New) (did string, err error) {
	err = s.Create(ctx, n.Ref, n.Value, n.Type)
	if errors.Is(err, secret.ErrExists) && a.set.Upsert.Upsert {
		return "updated", s.Update(ctx, n.Ref, n.Value)
	}
	return "created", err
}
