package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"inject/cli"
	"inject/exec/harden"
	"inject/injector"
	"inject/injector/place"
	"inject/resolver"
	"inject/resolver/rpc"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/dir"
	"inject/resolver/store/sealed"
)

// The variables with secrets of inject itself, for messages.
const (
	keyVar   = "INJECT_KEY"
	tokenVar = "INJECT_TOKEN"
)

// answerTime is how long a server may take to answer any request but resolving, which has
// --resolve-timeout.
const answerTime = time.Minute

// reader is a store that is open for reading.
type reader struct {
	store.Lister
	resolver.Resolver
	io.Closer
	// explain returns how each secret of a list was looked up. A server sends no values then.
	explain func(context.Context, secret.Scope, []secret.Declaration) ([]resolver.Climb, error)
}

// manager is a store that is open for changing it; perhaps a [store.Importer].
type manager interface {
	store.Manager
	io.Closer
}

// openReader opens the store for reading.
func (a *app) openReader(ctx context.Context) (*reader, error) {
	u, err := a.storeURL()
	if err != nil {
		return nil, err
	}
	if isServer(u) {
		c, err := a.openServer(u)
		if err != nil {
			return nil, err
		}
		return &reader{c, c, c, c.Explain}, nil
	}
	var s interface {
		store.Reader
		store.Lister
		io.Closer
	}
	if u.Scheme == store.SchemeDir {
		s, err = dir.Open(u.Path, a.orgName())
	} else if err = a.madeYet(u); err == nil {
		s, err = a.openSealed(ctx, u.Path, false)
	}
	if err != nil {
		return nil, err
	}
	ladder := resolver.Over(s)
	return &reader{s, ladder, s, ladder.Climb}, nil
}

// madeYet returns an error if u, which the user gave, is that of a store file that does not exist: a
// mistyped path would look like a store without secrets. Without a path the store is the user's own,
// which the first secret makes.
func (a *app) madeYet(u *url.URL) error {
	if a.set.Store.URL == "" {
		return nil
	}
	if _, err := os.Lstat(u.Path); !errors.Is(err, fs.ErrNotExist) { //nolint:gosec // the user's own choice
		return nil
	}
	return secret.WithHint(fmt.Errorf("%w: there is no store at %s", secret.ErrInvalid, u.Path),
		"check --store and INJECT_STORE; inject create secret makes the file with the first secret")
}

// ownStoreMissing returns the path of the user's own store file, if that is used and not there.
func (a *app) ownStoreMissing() string {
	if a.set.Store.URL != "" {
		return ""
	}
	u, err := a.storeURL()
	if err != nil {
		return ""
	}
	if _, err := os.Lstat(u.Path); !errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return u.Path
}

// suggest adds to the errors of a declared list which key was probably meant, if the store is one that
// can be listed at once: a server would note in its audit log what a task may not list.
func (a *app) suggest(ctx context.Context, err error) {
	e, ok := errors.AsType[*resolver.Error](err)
	u, err := a.storeURL()
	scope, err2 := a.scope()
	if !ok || errors.Join(err, err2) != nil || isServer(u) {
		return
	}
	a.stdin = nil // nothing is asked for once more
	ctx, cancel := context.WithTimeout(ctx, completeTime)
	defer cancel()
	s, err := a.openReader(ctx)
	if err != nil {
		return
	}
	defer s.Close() //nolint:errcheck // read only
	var keys []string
	for info, err := range store.All(ctx, s, store.Filter{Org: scope.Org}) {
		if err != nil {
			break // a guess from fewer keys
		}
		if slices.Contains(scope.Ladder(), info.Ref.Scope) {
			keys = append(keys, info.Ref.Key)
		}
	}
	for i, c := range e.Failed {
		if near := nearKey(c.Declaration.Key, keys); near != "" && errors.Is(c.Err, secret.ErrNotFound) {
			e.Failed[i].Err = secret.WithHint(c.Err, "did you mean %s?", near)
		}
	}
}

// withoutStore adds to err, if it is that a secret was not found, that there is no store: after sudo
// or in a job of cron, HOME is often that of another user.
func (a *app) withoutStore(err error) error {
	path := a.ownStoreMissing()
	if path == "" || !errors.Is(err, secret.ErrNotFound) {
		return err
	}
	return errors.Join(secret.WithHint(fmt.Errorf("there is no store at %s", path),
		"--store or INJECT_STORE names another one, HOME says where your own is, "+
			"and inject create secret makes it with the first secret"), err)
}

// openManager opens the store for changing it.
func (a *app) openManager(ctx context.Context) (manager, error) {
	u, err := a.storeURL()
	switch {
	case err != nil:
		return nil, err
	case isServer(u) && a.set.NewStore.Passphrase && a.settings.Env(cli.Twin("passphrase")) == "":
		return nil, fmt.Errorf(
			"%w: --passphrase is for a new store file of your own; a server has settings of its own for that",
			secret.ErrInvalid,
		)
	case isServer(u):
		return a.openServer(u)
	case u.Scheme == store.SchemeDir:
		return nil, secret.WithHint(fmt.Errorf("%w: a dir:// store is read-only", secret.ErrInvalid),
			"change the source of the files in %s", u.Path)
	}
	return a.openSealed(ctx, u.Path, true)
}

// storeURL returns the store's address.
func (a *app) storeURL() (*url.URL, error) {
	f := &a.set.Store
	u := &url.URL{Scheme: store.SchemeFile}
	var err error
	if f.URL == "" {
		u.Path, err = cli.UserPath(a.set.Found.DataHome, ".local/share", "secrets.db")
	} else {
		u, err = store.ParseURL("--store", f.URL,
			store.SchemeFile, store.SchemeDir, store.SchemeGRPCS, store.SchemeGRPC)
	}
	if err != nil || isServer(u) {
		return u, err
	}
	// A user who gives flags for a server but forgot --store must not change the local store.
	for flag, value := range map[string]string{
		"token-file": f.TokenFile, "ca-file": f.CAFile, "cert-file": f.CertFile, "cert-key-file": f.CertKeyFile,
	} {
		if a.typed(flag, value) {
			return nil, secret.WithHint(
				fmt.Errorf("%w: --%s is for a server, and the store is %s", secret.ErrInvalid, flag, u.Path),
				"name the server: --store grpcs://host:port",
			)
		}
	}
	return u, nil
}

func isServer(u *url.URL) bool { return u.Scheme == store.SchemeGRPCS || u.Scheme == store.SchemeGRPC }

// typed reports whether the value of a flag is from the command line, not from its variable.
func (a *app) typed(flag, value string) bool {
	return value != "" && value != a.settings.Env(cli.Twin(flag))
}

// openServer returns a client of the server at u. It does not connect yet.
func (a *app) openServer(u *url.URL) (*rpc.Client, error) {
	f := &a.set.Store
	key, err := a.certKeyFile()
	if err := errors.Join(err, a.usePod(u)); err != nil {
		return nil, err
	}
	o := rpc.Options{CertFile: f.CertFile, KeyFile: key, TokenFile: f.TokenFile}
	variable := cli.Twin("token-file")
	if f.TokenFile == "" {
		variable = tokenVar
		o.Token = a.set.Keys.Token
	}
	// A token from the environment goes only to the server of the environment. Otherwise a
	// person who controls the command line alone could have it sent to a server of their own.
	if a.profile == "" && (o.Token.Len() > 0 || f.TokenFile != "" && !a.typed("token-file", f.TokenFile)) &&
		!sameServer(u, a.settings.Env(cli.Twin("store"))) {
		return nil, secret.WithHint(
			fmt.Errorf("%w: the token of %s goes only to the server in %s, and --store names another one",
				secret.ErrInvalid, variable, cli.Twin("store")),
			"set %s=%s://%s beside it, or unset it and give --token-file FILE beside --store",
			cli.Twin("store"),
			u.Scheme,
			u.Host,
		)
	}
	if keep, ok := a.keptLogin(u); ok {
		o.Again = "the server does not accept the token of the login; log in again: " + keep.Again
		o.TokenFunc = a.tokenOf(keep)
	}
	return a.dial(u, o)
}

// dial returns a client of the server at u with the identity in o. It does not connect yet.
func (a *app) dial(u *url.URL, o rpc.Options) (*rpc.Client, error) {
	o.Address, o.TLS = u.Host, u.Scheme == store.SchemeGRPCS
	o.CAFile, o.Timeout = a.set.Store.CAFile, answerTime
	harden.Process(a.log.Debug) // before a token or key is read
	// GODEBUG=http2debug would log received headers and data, secrets included, by package log.
	log.SetOutput(io.Discard)
	c, err := rpc.Open(o)
	if err == nil || o.TokenFile != podToken && o.CAFile != podCA {
		return c, err
	}
	errs := cli.Each(err)
	for i, err := range errs {
		errs[i] = withPodHint(err)
	}
	return nil, errors.Join(errs...)
}

// certKeyFile returns the file of the private key for a server, "" if --cert-file has it. Before
// --cert-key-file there was only --key-file, which still gives it, with a warning. A variable is
// taken for it only where the key is missing: INJECT_KEY_FILE may well be of another store.
func (a *app) certKeyFile() (string, error) {
	f := &a.set.Store
	typed := a.typed("key-file", f.KeyFile)
	switch {
	case typed && f.CertKeyFile != "":
		return "", secret.WithHint(
			fmt.Errorf("%w: --key-file opens a store file, and the store is a server", secret.ErrInvalid),
			"leave --key-file out: --cert-key-file is the private key of --cert-file",
		)
	case typed:
		a.log.Warn("--key-file is the old name of --cert-key-file for a server, and the next release does not take it")
		return f.KeyFile, nil
	case f.CertKeyFile == "" && f.KeyFile != "" && f.CertFile != "" && !hasPrivateKey(f.CertFile):
		a.log.Warn("INJECT_KEY_FILE is the old name of INJECT_CERT_KEY_FILE for a server, " +
			"and the next release does not read it")
		return f.KeyFile, nil
	}
	return f.CertKeyFile, nil
}

// hasPrivateKey reports whether a PEM file has a private key beside its certificate.
func hasPrivateKey(path string) bool {
	text, err := os.ReadFile(path) //nolint:gosec // the user's choice
	return err == nil && bytes.Contains(text, []byte("PRIVATE KEY-----"))
}

// sameServer reports whether address names the same server as u.
func sameServer(u *url.URL, address string) bool {
	other, err := store.ParseURL("--store", address, store.SchemeGRPCS, store.SchemeGRPC)
	return err == nil && other.Scheme == u.Scheme && strings.EqualFold(other.Host, u.Host)
}

func (a *app) openSealed(ctx context.Context, path string, write bool) (*sealed.Store, error) {
	key := sealed.Key{
		File:       a.set.Store.KeyFile,
		Passphrase: a.set.NewStore.Passphrase,
		Variable:   keyVar,
		Notice:     func(text string) { a.say(text) },
	}
	if ask := a.terminal(); ask != nil {
		key.Ask = ask.Passphrase
	}
	if key.File == "" {
		key.Text = a.set.Keys.Key
		var err error
		key.File, err = cli.UserPath(a.set.Found.ConfigHome, ".config", "key.txt")
		if err != nil && key.Text.Len() == 0 {
			return nil, err
		}
	}
	return sealed.Open(ctx, sealed.Options{
		Path: path, Write: write, Key: key, LockTimeout: a.set.Store.LockTimeout,
		Waiting: func(holder string) { a.say("waiting for " + holder + ", which uses the store") },
	})
}

// resolveNow opens the store, resolves a declared list and closes the store.
func (a *app) resolveNow(
	ctx context.Context,
	scope secret.Scope,
	declared []secret.Declaration,
) ([]place.Secret, error) {
	resolved, err := fromStore(ctx, a, func(ctx context.Context, s *reader) ([]resolver.Resolved, error) {
		return s.Resolve(ctx, scope, declared)
	})
	return injector.Secrets(resolved), err
}

// explainNow opens the store, explains a declared list and closes the store.
func (a *app) explainNow(
	ctx context.Context,
	scope secret.Scope,
	declared []secret.Declaration,
) ([]resolver.Climb, error) {
	return fromStore(ctx, a,
		func(ctx context.Context, s *reader) ([]resolver.Climb, error) { return s.explain(ctx, scope, declared) })
}

// fromStore calls fn with the open store, for --resolve-timeout at most, and closes the store.
func fromStore[T any](ctx context.Context, a *app, fn func(context.Context, *reader) ([]T, error)) ([]T, error) {
	s, err := a.openReader(ctx)
	if err != nil {
		return nil, err
	}
	defer s.Close() //nolint:errcheck // read only
	ctx, cancel := context.WithTimeout(ctx, a.set.Resolve.Timeout)
	defer cancel()
	return fn(ctx, s)
}
