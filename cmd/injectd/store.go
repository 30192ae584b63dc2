package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"inject/cli"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/all"
	"inject/resolver/store/sealed"
)

// keyVariable may have what opens the store: age identities or a passphrase.
const keyVariable = "INJECT_KEY"

// url returns the store's address: the user's own file if none was given.
func (a *app) url() (*url.URL, error) {
	if a.set.File.Store == "" {
		path, err := cli.UserPath(a.set.Found.DataHome, ".local/share", "secrets.db")
		return &url.URL{Scheme: store.SchemeFile, Path: path}, err
	}
	return store.ParseURL(a.set.File.Store, all.Schemes()...)
}

// filePath returns the path of the store, which must be a file, made absolute.
func (a *app) filePath() (string, error) {
	u, err := a.url()
	if err != nil {
		return "", err
	}
	if u.Scheme != store.SchemeFile {
		return "", secret.WithHint(fmt.Errorf("%w: --store: only a file:// store is one that injectd looks after", secret.ErrInvalid),
			"a dir:// store is whose who mounts it")
	}
	return filepath.Abs(u.Path)
}

// keyOf returns the key in a file, or what there is if file is "".
func (a *app) keyOf(file string) (sealed.Key, error) {
	key := sealed.Key{File: file, Passphrase: a.set.Served.Passphrase, Notice: func(text string) { a.log.Info(text) }}
	if t := cli.OpenTerminal(a.stdin, nil); t != nil {
		key.Ask = t.Passphrase
	}
	if file != "" {
		return key, nil
	}
	key.Text = a.set.Keys.Key
	var err error
	if key.File, err = cli.UserPath(a.set.Found.ConfigHome, ".config", "key.txt"); err != nil && key.Text.Len() > 0 {
		err = nil
	}
	return key, err
}

// sealedOptions returns how the sealed store at path is opened. served is the address
// at which it will be served, "" if it will not be.
func (a *app) sealedOptions(path, served string) (sealed.Options, error) {
	key, err := a.keyOf(a.set.File.KeyFile)
	return sealed.Options{
		Path: path, Write: true, Key: key, LockTimeout: a.set.File.LockTimeout, Address: served,
		Waiting: func(holder string) { a.log.Info("waiting for " + holder + ", who uses the store") },
	}, err
}

// openServed opens the store for serving it.
func (a *app) openServed(ctx context.Context, served string) (all.Store, *url.URL, error) {
	u, err := a.url()
	if err != nil {
		return nil, nil, err
	}
	o := all.Options{Org: a.set.Served.Org}
	if u.Scheme == store.SchemeFile {
		if o.Sealed, err = a.sealedOptions(u.Path, served); err != nil {
			return nil, nil, err
		}
	}
	s, err := all.Open(ctx, u.String(), o)
	return s, u, err
}

// openFile opens the sealed store for looking after it, and for changing it if write is
// set.
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
