package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"inject/cli"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/all"
	"inject/resolver/store/sealed"
)

// keyVariable is the variable that may hold the store's key: age identities or a passphrase.
const keyVariable = "INJECTD_KEY"

// url returns the store's address, which is the user's own file by default.
func (a *app) url() (*url.URL, error) {
	if a.set.File.Store == "" {
		path, err := cli.UserPath(a.set.Found.DataHome, ".local/share", "secrets.db")
		return &url.URL{Scheme: store.SchemeFile, Path: path}, err
	}
	u, err := store.ParseURL("--store", a.set.File.Store, all.Schemes()...)
	if err != nil && strings.HasPrefix(a.set.File.Store, store.SchemeGRPC) {
		err = secret.WithHint(err, "injectd keeps a store itself, file:///PATH, dir:///PATH or kube://NAMESPACE, in "+
			"--store or $INJECTD_STORE; the address of a server, as in $INJECT_STORE, is for inject")
	}
	return u, err
}

// filePath returns the absolute path of the store, which must be a file.
func (a *app) filePath() (string, error) {
	u, err := a.url()
	if err != nil {
		return "", err
	}
	if u.Scheme != store.SchemeFile {
		hint := "a dir:// store is managed by whatever mounts the folder"
		if u.Scheme == store.SchemeKube {
			hint = "what is in kube:// is in the cluster's etcd: the cluster backs it up and encrypts it; injectd " +
				"migrate copies it to a file, which is a backup by itself"
		}
		return "", secret.WithHint(
			fmt.Errorf("%w: --store: injectd maintains file:// stores only", secret.ErrInvalid), "%s", hint)
	}
	return filepath.Abs(u.Path)
}

// keyOf returns the key in a file. Without a file it is the one in $INJECTD_KEY, or else the
// user's own key file.
func (a *app) keyOf(file string) (sealed.Key, error) {
	return a.keyFrom(file, a.set.Keys.Key, keyVariable)
}

// keyFrom is keyOf with another variable than $INJECTD_KEY, and its text.
func (a *app) keyFrom(file string, text secret.Value, variable string) (sealed.Key, error) {
	key := sealed.Key{
		File: file, Passphrase: a.set.Served.Passphrase, Variable: variable,
		Notice: func(text string) { a.log.Info(text) },
	}
	if t := cli.OpenTerminal(a.stdin, nil, true); t != nil {
		key.Ask = t.Passphrase
	}
	if file != "" {
		return key, nil
	}
	key.Text = text
	var err error
	if key.File, err = cli.UserPath(a.set.Found.ConfigHome, ".config", "key.txt"); err != nil && key.Text.Len() > 0 {
		err = nil
	}
	return key, err
}

// sealedOptions returns how to open the sealed store at path for changes. served is the address
// at which it will be served, "" if it will not be. Other processes that want the store show it.
func (a *app) sealedOptions(path, served string) (sealed.Options, error) {
	key, err := a.keyOf(a.set.File.KeyFile)
	o := a.openOptions(path, key)
	o.Address = served
	return o, err
}

// openOptions returns how to open the sealed store at path with key for changes.
func (a *app) openOptions(path string, key sealed.Key) sealed.Options {
	return sealed.Options{
		Path: path, Write: true, Key: key, LockTimeout: a.set.Wait.LockTimeout,
		Waiting: func(holder string) { a.log.Info("waiting for " + holder + ", which uses the store") },
	}
}

// openServed opens the store in order to serve it.
func (a *app) openServed(ctx context.Context, served string) (all.Store, *url.URL, error) {
	u, err := a.url()
	if err != nil {
		return nil, nil, err
	}
	o := all.Options{Org: a.set.Org.Name}
	if u.Scheme != store.SchemeFile && a.set.Served.Passphrase {
		return nil, nil, secret.WithHint(
			fmt.Errorf("%w: --passphrase protects a new file, and --store is %s://", secret.ErrInvalid, u.Scheme),
			"leave it out: injectd does not encrypt what is in such a store")
	}
	if u.Scheme == store.SchemeFile {
		if o.Sealed, err = a.sealedOptions(u.Path, served); err != nil {
			return nil, nil, err
		}
	}
	s, err := all.Open(ctx, u.String(), o)
	return s, u, err
}

// openFile opens the sealed store for maintenance, and with write for changes.
func (a *app) openFile(ctx context.Context, write bool) (*sealed.Store, error) {
	path, err := a.filePath()
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("%w: there is no store: %w", secret.ErrInvalid, err)
	}
	o, err := a.sealedOptions(path, "")
	if err != nil {
		return nil, err
	}
	o.Write = write
	return sealed.Open(ctx, o)
}
