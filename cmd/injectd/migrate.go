package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"inject/cli"
	"inject/resolver/secret"
	"inject/resolver/serve"
	"inject/resolver/store"
	"inject/resolver/store/all"
	"inject/resolver/store/kube"
	"inject/resolver/store/migrate"
	"inject/resolver/store/sealed"
)

// toKeyVariable is the variable that may hold the key of the store that migrate copies to.
const toKeyVariable = "INJECTD_TO_KEY"

func (a *app) migrateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate --from URL --to URL",
		Short: "Copy all secrets of one store to another",
		Long: `migrate copies every secret of --from to --to, with its type and as far as possible its
times, and reads each one back. No value is printed.

It may be interrupted, and run again at any time: it compares the stores secret by
secret, and changes nothing that is equal. A secret that --to has with another value is
named and kept, unless --overwrite says otherwise.

It prints a line for each secret that is not equal already, and exits with 0 if --to
then has all that --from has. --dry-run prints what would be done, and changes nothing.

--delete-equal is a step of its own, for the time when nothing reads --from any more: it
copies nothing, and deletes from --from what --to has with the same value and type.

A file that a server has open cannot be migrated. A backup of it can, and is taken while
it is served. A namespace of Kubernetes can be migrated while servers use it.`,
		Example: `  injectd migrate --dry-run --from file:///old.db --from-key-file old.txt \
      --to file:///new.db --to-key-file new.txt
  injectd migrate --from dir:///etc/secrets --to file:///srv/secrets.db
  injectd migrate --from "kube://flyte?kubeconfig=$KUBECONFIG" \
      --to "kube://inject-secrets?kubeconfig=$KUBECONFIG"
  injectd migrate --delete-equal --from file:///a.db --to file:///b.db`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.migrate(cmd.Context()) },
	}
	s := &a.set
	a.settings.AddFlags(cmd, &s.Migrate, &s.Form, &s.Wait, &s.Served, &s.Org, &s.Audit)
	return cmd
}

// A side is one of the two stores of a migration.
type side struct {
	flag string // that gives its address
	url  *url.URL
	path string     // of a file, absolute; "" for another store
	key  sealed.Key // of a file
}

// side returns the store at the address text, which flag gave.
func (a *app) side(flag, text, keyFile string, key secret.Value, variable string) (side, error) {
	s := side{flag: flag}
	if text == "" {
		return s, secret.WithHint(fmt.Errorf("%w: %s is missing", secret.ErrInvalid, flag),
			"injectd migrate --from URL --to URL")
	}
	var err error
	if s.url, err = store.ParseURL(flag, text, all.Schemes()...); err != nil {
		if strings.HasPrefix(text, store.SchemeGRPC) {
			err = secret.WithHint(err, "a server tells no values: migrate the store that it serves, on its machine")
		}
		return s, err
	}
	if s.url.Scheme != store.SchemeFile {
		if keyFile != "" {
			return s, fmt.Errorf("%w: %s-key-file is for file:// in %s", secret.ErrInvalid, flag, flag)
		}
		return s, nil
	}
	if s.path, err = filepath.Abs(s.url.Path); err != nil {
		return s, err
	}
	if s.key, err = a.keyFrom(keyFile, key, variable); err != nil {
		return s, err
	}
	s.key.Flag = flag + "-key-file"
	if ask := s.key.Ask; ask != nil { // there may be two passphrases
		s.key.Ask = func(prompt string, confirm bool) (secret.Value, error) {
			return ask(prompt+" in "+flag, confirm)
		}
	}
	return s, nil
}

// sides returns both stores of the settings.
func (a *app) sides() (from, to side, err error) {
	m, key, variable := &a.set.Migrate, a.set.Keys.Key, keyVariable
	from, err = a.side("--from", m.From, m.FromKeyFile, key, variable)
	if a.set.Keys.ToKey.Len() > 0 {
		key, variable = a.set.Keys.ToKey, toKeyVariable
	}
	to, err2 := a.side("--to", m.To, m.ToKeyFile, key, variable)
	if err := errors.Join(err, err2); err != nil {
		return from, to, err
	}
	if from.path != "" {
		there, err := os.Stat(from.path)
		if err != nil {
			return from, to, fmt.Errorf("%w: --from: there is no store: %w", secret.ErrInvalid, err)
		}
		if other, err := os.Stat(to.path); err == nil && os.SameFile(there, other) {
			return from, to, fmt.Errorf("%w: --from and --to are the same file", secret.ErrInvalid)
		}
	}
	return from, to, nil
}

// open opens the store s. With write it will be changed.
func (a *app) open(ctx context.Context, s side, write bool) (opened all.Store, err error) {
	if s.path == "" {
		opened, err = all.Open(ctx, s.url.String(), all.Options{Org: a.set.Org.Name})
	} else {
		opened, err = a.openSealed(ctx, s, write)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.flag, err)
	}
	return opened, nil
}

// openSealed opens the file s.
func (a *app) openSealed(ctx context.Context, s side, write bool) (*sealed.Store, error) {
	if err := alone(ctx, s.path); err != nil {
		if s.flag == "--from" && !write {
			err = secret.WithHint(err, "migrate a backup, which is taken while the store is served: injectd backup "+
				"--store %s BACKUP, and then --from file:///PATH/OF/BACKUP; or end the server first", s.url)
		}
		return nil, err
	}
	o := a.openOptions(s.path, s.key)
	o.Write = write
	return sealed.Open(ctx, o)
}

// changeable returns the opened store as one that can be changed: by verbs, if it is in Kubernetes. If
// nothing will be changed, it looks whether it could be.
func (a *app) changeable(ctx context.Context, at side, opened all.Store, verbs ...string) (store.Store, error) {
	changed, ok := opened.(store.Store)
	if !ok {
		return nil, fmt.Errorf("%w: %s: a %s:// store cannot be changed", secret.ErrInvalid, at.flag, at.url.Scheme)
	}
	if s, ok := opened.(*kube.Store); ok {
		if err := mayChange(ctx, s, verbs...); err != nil {
			return nil, fmt.Errorf("%s: %w", at.flag, err)
		}
	}
	if at.path == "" || !a.set.Migrate.DryRun {
		return changed, nil
	}
	err := unix.Access(at.path, unix.W_OK)
	if errors.Is(err, fs.ErrNotExist) {
		err = errors.Join(canBeMade(at.path), keyCanBeMade(at.key))
	} else if err != nil {
		err = fmt.Errorf("%w: store file %s: %w", secret.ErrDenied, at.path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at.flag, err)
	}
	return changed, nil
}

func (a *app) migrate(ctx context.Context) (err error) {
	ctx, release := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer release()
	context.AfterFunc(ctx, release) // the next signal ends us at once
	tuneCollector(a.set.Found.GoGC, a.set.Found.GoMemLimit, growRoom)
	set := &a.set.Migrate
	overwrite := map[string]migrate.Overwrite{"none": migrate.None, "older": migrate.Older, "all": migrate.All}
	if set.DeleteEqual && set.Overwrite != "none" {
		return fmt.Errorf("%w: --delete-equal copies nothing, so --overwrite does not go with it", secret.ErrInvalid)
	}
	from, to, err := a.sides()
	if err != nil {
		return err
	}
	source, err := a.open(ctx, from, set.DeleteEqual && !set.DryRun)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	target, err := a.open(ctx, to, !set.DeleteEqual && !set.DryRun)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()

	if a, ok := source.(*kube.Store); ok {
		if b, ok := target.(*kube.Store); ok && a.SameAs(ctx, b) {
			return fmt.Errorf("%w: --from and --to are the same namespace", secret.ErrInvalid)
		}
	}
	var s store.Store
	verb := "migrate"
	if set.DeleteEqual {
		verb = "migrate --delete-equal"
		s, err = a.changeable(ctx, from, source, "get", "list", "delete")
	} else {
		verbs := []string{"get", "create"}
		if set.Overwrite != "none" {
			verbs = append(verbs, "update")
		}
		s, err = a.changeable(ctx, to, target, verbs...)
	}
	if err != nil {
		return err
	}
	m := a.newMigration(from, to)
	o := migrate.Options{Overwrite: overwrite[set.Overwrite], DryRun: set.DryRun, Report: m.add}
	do := func() error {
		if set.DeleteEqual {
			return m.finish(migrate.DeleteEqual(ctx, s, target, o))
		}
		return m.finish(migrate.Copy(ctx, source, s, o))
	}
	if set.DryRun {
		return do()
	}
	line := serve.Maintenance{Verb: verb, User: os.Getuid(), Path: from.url.String() + " " + to.url.String()}
	return a.recorded(context.WithoutCancel(ctx), line, do)
}
