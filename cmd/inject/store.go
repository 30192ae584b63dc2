package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"

	"inject/injector"
	"inject/resolver"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/dir"
	"inject/resolver/store/sealed"
)

// reader is a store that is open for reading.
type reader interface {
	store.Reader
	store.Lister
	io.Closer
}

// openReader opens the store for reading.
func (a *app) openReader(ctx context.Context) (reader, error) {
	u, err := a.storeURL()
	if err != nil {
		return nil, err
	}
	if u.Scheme == "dir" {
		return dir.Open(u.Path, a.flags.orgName())
	}
	return a.openSealed(ctx, u.Path, false)
}

// openManager opens the store for changing it.
func (a *app) openManager(ctx context.Context) (*sealed.Store, error) {
	u, err := a.storeURL()
	if err != nil {
		return nil, err
	}
	if u.Scheme == "dir" {
		return nil, secret.WithHint(fmt.Errorf("%w: a dir:// store is read-only", secret.ErrInvalid), "change the files in %s where they come from", u.Path)
	}
	return a.openSealed(ctx, u.Path, true)
}

// storeURL returns the store's address, with a path of the file system.
func (a *app) storeURL() (*url.URL, error) {
	if a.flags.store == "" {
		path, err := userPath("XDG_DATA_HOME", ".local/share", "secrets.db")
		return &url.URL{Scheme: "file", Path: path}, err
	}
	// What is not a URL is not quoted: userinfo may be in it.
	u, err := url.Parse(a.flags.store)
	if err != nil || u.Scheme == "" {
		return nil, secret.WithHint(fmt.Errorf("%w: --store is not a URL", secret.ErrInvalid), "a file is file:///path/to/secrets.db, a mounted folder dir:///path/to/folder")
	}
	if u.Scheme != "file" && u.Scheme != "dir" {
		return nil, secret.WithHint(fmt.Errorf("%w: --store: unknown scheme %.20q", secret.ErrInvalid, u.Scheme), "known are file:///path/to/secrets.db and dir:///path/to/folder")
	}
	if u.Opaque != "" { // file:relative/path
		if u.Path, err = url.PathUnescape(u.Opaque); err != nil {
			u.Path = u.Opaque
		}
	}
	if u.RawQuery != "" || u.Fragment != "" || u.ForceQuery {
		return nil, secret.WithHint(fmt.Errorf("%w: --store: a path has no query or fragment", secret.ErrInvalid), "in a URL a ? of a path is %%3F, and a # is %%23")
	}
	if u.Host != "" || u.Path == "" {
		return nil, secret.WithHint(fmt.Errorf("%w: --store: a path is missing", secret.ErrInvalid), "three slashes begin an absolute path: %s:///path", u.Scheme)
	}
	return u, nil
}

// userPath returns where the user keeps a file of ours, by the XDG Base
// Directory Specification.
func userPath(variable, fallback, name string) (string, error) {
	base := os.Getenv(variable)
	if !filepath.IsAbs(base) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", secret.WithHint(fmt.Errorf("%w: there is no home folder for a store: %w", secret.ErrInvalid, err), "set HOME, or choose a store with --store file:///path/to/secrets.db")
		}
		base = filepath.Join(home, fallback)
	}
	return filepath.Join(base, "inject", name), nil
}

func (a *app) openSealed(ctx context.Context, path string, write bool) (*sealed.Store, error) {
	key := sealed.Key{
		File:       a.flags.keyFile,
		Passphrase: a.flags.passphrase,
		Notice:     func(text string) { a.say(text) },
	}
	if ask := a.terminal(); ask != nil {
		key.Ask = ask.passphrase
	}
	if key.File == "" {
		if text := os.Getenv("INJECT_KEY"); text != "" {
			key.Text = secret.NewValue([]byte(text))
		}
		var err error
		if key.File, err = userPath("XDG_CONFIG_HOME", ".config", "key.txt"); err != nil && key.Text.Len() == 0 {
			return nil, err
		}
	}
	return sealed.Open(ctx, sealed.Options{
		Path: path, Write: write, Key: key, LockTimeout: a.flags.lockTimeout,
		Opened:  func() { injector.Hide(a.log) },
		Waiting: func(holder string) { a.say("waiting for " + holder + ", who uses the store") },
	})
}

// resolveNow resolves a declared list and gives the store back.
func (a *app) resolveNow(ctx context.Context, scope secret.Scope, declared []secret.Declaration) ([]resolver.Resolved, error) {
	climbs, err := a.climbNow(ctx, scope, declared)
	if err != nil {
		return nil, err
	}
	return resolver.Values(climbs)
}

func (a *app) climbNow(ctx context.Context, scope secret.Scope, declared []secret.Declaration) ([]resolver.Climb, error) {
	s, err := a.openReader(ctx)
	if err != nil {
		return nil, err
	}
	defer s.Close() //nolint:errcheck // read only
	ctx, cancel := context.WithTimeout(ctx, a.flags.resolveTimeout)
	defer cancel()
	return resolver.Over(s).Climb(ctx, scope, declared)
}
