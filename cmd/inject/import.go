package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"inject/cli/envfile"
	"inject/internal/printable"
	"inject/resolver/secret"
	"inject/resolver/store"
)

// importFile stores all secrets of an env file at one scope: by put, or, to create them, all or none.
func (a *secretsVerb) importFile(
	cmd *cobra.Command, args []string, put func(context.Context, store.Manager, store.New) (string, error),
) error {
	if len(args) > 0 { // not quoted: a value may be among them
		return fmt.Errorf(
			"%w: --from-env-file names the secrets itself; NAME and VALUE do not go with it",
			secret.ErrInvalid,
		)
	}
	for _, name := range []string{
		"value", "from-file", "registry", "username", "password",
		"from-docker-config", "docker-config-path", "registries",
	} {
		if given(cmd, name) {
			return fmt.Errorf("%w: --from-env-file and --%s exclude each other: give one", secret.ErrInvalid, name)
		}
	}
	scope, err := a.scope()
	if err != nil {
		return err
	}
	typ, err := a.storeType(scope)
	if err != nil {
		return err
	}
	// Read the file before the store is opened and locked: stdin may be slow.
	secrets, refused := a.readEnvFile(a.set.Many.FromEnvFile)
	for i := range secrets {
		secrets[i].Ref.Scope, secrets[i].Type = scope, typ
	}
	if len(secrets) == 0 {
		return errors.Join(refused, notStored(refused, scope))
	}
	s, err := a.openManager(cmd.Context())
	if err != nil {
		return errors.Join(refused, err, notStored(secret.ErrInvalid, scope))
	}
	if cmd.Parent().Name() == "create" && !a.set.Upsert.Upsert {
		return errors.Join(a.importAll(cmd.Context(), s, secrets, refused), s.Close())
	}
	if refused != nil {
		return errors.Join(refused, errNotStored, s.Close())
	}
	return errors.Join(a.putAll(cmd, s, secrets, put), s.Close())
}

// putAll stores secrets by put, one after the other, and prints the keys of those that it stored.
func (a *secretsVerb) putAll(
	cmd *cobra.Command, s store.Manager, secrets []store.New,
	put func(context.Context, store.Manager, store.New) (string, error),
) error {
	var done strings.Builder
	err := newProgress(a.app, nil).during(fmt.Sprintf("storing %d secrets", len(secrets)), func() error {
		var errs []error
		for _, n := range secrets {
			did, err := put(cmd.Context(), s, n)
			switch {
			case err == nil:
				done.WriteString(n.Ref.Key + " " + did + "\n")
				continue
			case errors.Is(err, secret.ErrNotFound):
				err = secret.WithHint(err, "create it: inject create secret --upsert does both")
			}
			if errs = append(errs, err); errors.Is(err, secret.ErrUnavailable) {
				break // each of the others would wait as long
			}
		}
		return errors.Join(errs...)
	})
	_, errOut := io.WriteString(a.stdout, done.String())
	return errors.Join(err, errOut)
}

// importAll stores secrets and prints their keys. If lines of the file were refused, it stores
// nothing, and its error also names the secrets that exist already.
func (a *secretsVerb) importAll(ctx context.Context, s store.Manager, secrets []store.New, refused error) error {
	scope := secrets[0].Ref.Scope
	importer, ok := s.(store.Importer)
	if !ok {
		err := fmt.Errorf("%w: this store creates one secret at a time", secret.ErrInvalid)
		return errors.Join(secret.WithHint(err, "inject create secret NAME%s", scope.Flags()), notStored(err, scope))
	}
	if refused != nil {
		err := errors.Join(refused, existing(ctx, s, secrets))
		return errors.Join(err, notStored(err, scope))
	}
	bar := newProgress(a.app, nil)
	if a.set.NewStore.Passphrase {
		bar = &progress{} // no bar, since the question for a passphrase is in its place
	}
	err := bar.during(
		fmt.Sprintf("storing %d secrets", len(secrets)),
		func() error { return importer.Import(ctx, secrets) },
	)
	if err != nil {
		return errors.Join(err, notStored(err, scope))
	}
	var b strings.Builder
	for _, n := range secrets {
		b.WriteString(n.Ref.Key + " created\n")
	}
	_, err = io.WriteString(a.stdout, b.String())
	return err
}

// existing returns an error for each of secrets that the store has already.
func existing(ctx context.Context, l store.Lister, secrets []store.New) error {
	scope := secrets[0].Ref.Scope
	there := map[secret.Ref]bool{}
	for info, err := range store.All(ctx, l, within(scope)) {
		if err != nil {
			break // fewer are named; nothing is stored anyway
		}
		there[info.Ref] = true
	}
	var errs []error
	for _, n := range secrets {
		if there[n.Ref] {
			errs = append(errs, &secret.Error{Op: "create", Ref: n.Ref, Err: secret.ErrExists})
		}
	}
	return errors.Join(errs...)
}

// notStored returns the error that says what a failed import has stored: nothing, or, if its
// outcome is unknown, all or nothing.
func notStored(err error, scope secret.Scope) error {
	switch {
	case secret.KindOf(err) == secret.KindUnknown || errors.Is(err, secret.ErrUnavailable): // see [store.Manager]
		return secret.WithHint(errors.New("either all of the secrets were stored or none"),
			"inject get secret%s lists what is there", scope.Flags())
	case errors.Is(err, secret.ErrExists):
		return secret.WithHint(errNotStored, "--upsert replaces the values of those that exist")
	}
	return errNotStored
}

var errNotStored = errors.New("nothing was stored")

// readEnvFile returns the secrets of an env file, without their scope. The error joins one for
// each bad line.
func (a *secretsVerb) readEnvFile(path string) ([]store.New, error) {
	name := printable.Name(path)
	if path == "-" {
		name = "stdin"
	}
	f, err := a.open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: --from-env-file: %w", secret.ErrInvalid, err)
	}
	defer f.Close() //nolint:errcheck // read only
	text, err := io.ReadAll(io.LimitReader(f, envfile.MaxLen+1))
	if err != nil {
		return nil, fmt.Errorf("%w: --from-env-file: %w", secret.ErrInvalid, err)
	}
	if len(text) > envfile.MaxLen {
		return nil, fmt.Errorf("%w: %s has more than %d MiB", secret.ErrInvalid, name, envfile.MaxLen>>20)
	}
	return envfile.Parse(name, text)
}
