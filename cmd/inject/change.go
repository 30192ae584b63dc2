package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"inject/resolver/secret"
	"inject/resolver/store"
)

func updateCommand(app *app) *cobra.Command {
	a := &secretsVerb{app: app}
	cmd := &cobra.Command{
		Use:   "secret {NAME [VALUE] | --from-env-file FILE}",
		Short: "Replace the value of a secret, or of all those of a .env file, at exactly one scope",
		Long: `Replace the value of a secret at the scope that -p and -d name: without them, that of the
whole org. The value comes from where create takes it.

--from-env-file replaces the values of all secrets of a .env file, one after the other, and
prints "KEY updated" for each. If a line of the file is wrong, it replaces none.`,
		Example: `  inject update secret MY_SECRET_KEY                     # asks for the value
  inject update secret -p my_project -d development TLS_KEY --from-file tls.key
  inject update secret --from-env-file .env -p my_project -d development`,
		Args:              atMost(2),
		ValidArgsFunction: a.completeKeys,
	}
	a.settings.AddFlags(cmd, &a.set.Value, &a.set.Many, &a.set.Scope, &a.set.Store)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if given(cmd, "from-env-file") {
			return a.importFile(cmd, args, update)
		}
		if err := keyArg(1)(cmd, args); err != nil {
			return err
		}
		ref, err := a.ref(args[0], secret.StoredKey)
		if err != nil {
			return err
		}
		// Read the value before the store is opened and locked: a person may take long to type.
		value, _, err := a.value(cmd, args[1:], ref)
		if err != nil {
			return err
		}
		s, err := a.openManager(cmd.Context())
		if err != nil {
			return err
		}
		did, err := update(cmd.Context(), s, store.New{Ref: ref, Value: value})
		switch {
		case err == nil:
			a.stored(did, ref, value)
		case errors.Is(err, secret.ErrNotFound):
			err = elsewhere(cmd, s, ref, err, "inject update secret ")
		}
		return errors.Join(err, s.Close())
	}
	return verb("update", "Replace the value of a secret", cmd)
}

// update replaces the value of a secret, and returns what it did.
func update(ctx context.Context, s store.Manager, n store.New) (did string, err error) {
	return "updated", s.Update(ctx, n.Ref, n.Value)
}

func deleteCommand(app *app) *cobra.Command {
	a := &secretsVerb{app: app}
	cmd := &cobra.Command{
		Use:   "secret NAME…",
		Short: "Delete secrets at exactly one scope",
		Example: `  inject delete secret MY_SECRET_KEY
  inject delete secret -p my_project -d development MY_SECRET_KEY OTHER_KEY
  inject get secret -p shop -o name | xargs -L1 inject delete secret -p shop`,
		Args:              keyArg(1 << 20), // more than fit in a command line
		ValidArgsFunction: a.completeKeys,
	}
	a.settings.AddFlags(cmd, &a.set.Scope, &a.set.Store)
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.delete(cmd, args) }
	return verb("delete", "Delete secrets", cmd)
}

// delete deletes the secrets with the given keys. One that cannot be deleted keeps none of the others.
func (a *secretsVerb) delete(cmd *cobra.Command, keys []string) error {
	var refs []secret.Ref
	var errs []error
	for _, key := range keys {
		ref, err := a.ref(key, secret.StoredKey)
		refs, errs = append(refs, ref), append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	s, err := a.openManager(cmd.Context())
	if err != nil {
		return err
	}
	for _, ref := range refs {
		err := s.Delete(cmd.Context(), ref)
		if errors.Is(err, secret.ErrNotFound) {
			err = elsewhere(cmd, s, ref, err, "")
		}
		if err == nil {
			_, err = fmt.Fprintf(a.stdout, "deleted secret %s at %s\n", ref.Key, ref.Scope)
		}
		errs = append(errs, err)
		if errors.Is(err, secret.ErrUnavailable) {
			break // each of the others would wait as long
		}
	}
	return errors.Join(append(errs, s.Close())...)
}
