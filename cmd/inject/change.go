package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"inject/resolver/secret"
	"inject/resolver/store"
)

func updateCommand(app *app) *cobra.Command {
	a := &secretsVerb{app: app}
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
		// Read the value before the store is opened and locked: a person may take long to type.
		value, _, err := a.value(cmd, args[1:], ref)
		if err != nil {
			return err
		}
		return a.change(cmd, ref, "update", func(s store.Manager) error {
			err := s.Update(cmd.Context(), ref, value)
			if err == nil {
				a.stored("updated", ref, value)
			}
			return err
		})
	}
	return verb("update", "Replace the value of a secret", cmd)
}

func deleteCommand(app *app) *cobra.Command {
	a := &secretsVerb{app: app}
	cmd := &cobra.Command{
		Use:   "secret NAME",
		Short: "Delete a secret at exactly one scope",
		Example: `  inject delete secret MY_SECRET_KEY
  inject delete secret -p my_project -d development MY_SECRET_KEY`,
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

// change runs fn on the store. If ref does not exist, the error's hint names the scopes that
// have its key.
func (a *secretsVerb) change(cmd *cobra.Command, ref secret.Ref, verb string, fn func(store.Manager) error) error {
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
