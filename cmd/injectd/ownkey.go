package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"inject/internal/keyfile"
	"inject/resolver/secret"
	"inject/resolver/store/sealed"
)

// A server reads its key once, at its start. If the key file then changes, or the store gets
// another key, all goes on until the next start, which fails. This file notices that before.

// ownKey returns the key with which this process would open the store if it started now. It is
// false if that cannot be known: a pipe can be read only once.
func (a *app) ownKey() (key sealed.Key, ok bool, err error) {
	if key, err = a.keyOf(a.set.File.KeyFile); err != nil || key.Text.Len() > 0 {
		return key, err == nil, err
	}
	if info, err := os.Stat(key.File); err == nil && !info.Mode().IsRegular() {
		return key, false, nil
	}
	return key, true, nil
}

// ownKeyName names the key of this process in messages.
func ownKeyName(key sealed.Key) string {
	if key.Text.Len() > 0 {
		return keyVariable
	}
	return "key file " + key.File
}

// staysOpen returns nil if this server could start again with a store that has the data key
// wrapped for the identities in the file path. A key that asks a person or a plugin is not tried.
func (a *app) staysOpen(wrapped []byte, path string) error {
	key, ok, err := a.ownKey()
	if err != nil {
		return err
	}
	tried := false
	if ok {
		tried, err = key.Opens(wrapped)
	}
	switch {
	case !tried:
		a.log.Warn("it is not known whether the server's own key opens the store after the rotation",
			"key", ownKeyName(key))
		return nil
	case err == nil:
		return nil
	}
	refused := fmt.Errorf("%w: the server could not start again: its %s does not hold the identity in %s (%w); "+
		"nothing was changed", secret.ErrInvalid, ownKeyName(key), path, err)
	if key.Text.Len() > 0 {
		return secret.WithHint(refused, "first start the server with the new identity in a line of %s too; then run "+
			"this again; then remove the old identity", keyVariable)
	}
	file, err := filepath.Abs(key.File)
	if err != nil {
		file = key.File
	}
	return secret.WithHint(refused, "first add the new identity to the server's key file: cat %s >> %s; then run this "+
		"again; then remove the old identity from that file", path, file)
}

// keyWatch follows whether the server's own key still opens the store. It is safe for concurrent
// use.
type keyWatch struct {
	a     *app
	store maintainer
	again chan struct{} // asks for a check; has room for one element

	mu   sync.Mutex
	err  error
	seen [sha256.Size]byte // of the key and the store's wrapped data key at the last check
}

func newKeyWatch(a *app, store maintainer) *keyWatch {
	return &keyWatch{a: a, store: store, again: make(chan struct{}, 1)}
}

// Err returns why the next start of the server would fail, or nil.
func (k *keyWatch) Err() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

// soon asks for a check.
func (k *keyWatch) soon() {
	select {
	case k.again <- struct{}{}:
	default: // one is asked for already
	}
}

// run checks until ctx ends: when it is asked to, and every few seconds, because there are no
// events of files on network file systems.
func (k *keyWatch) run(ctx context.Context) {
	const every = 5 * time.Second
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		k.check(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-k.again:
		}
	}
}

// check tries the key unless neither it nor the store has changed since the last check: a
// passphrase takes a second to try.
func (k *keyWatch) check(ctx context.Context) {
	wrapped, err := k.store.Wrapped(ctx)
	if err != nil || wrapped == nil {
		return // readiness reports a store that cannot be read; without a file there is no key to fit
	}
	key, ok, err := k.a.ownKey()
	if !ok && err == nil {
		return
	}
	content := []byte(nil)
	if key.Text.Len() == 0 && err == nil {
		content, _ = os.ReadFile(key.File) // Opens reads it again and reports what is wrong
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%x %x %v", wrapped, sha256.Sum256(content), keyfile.Check(key.File)))
	k.mu.Lock()
	defer k.mu.Unlock()
	if sum == k.seen {
		return
	}
	k.seen = sum
	was := k.err
	if err == nil {
		_, err = key.Opens(wrapped)
	}
	k.err = err
	switch {
	case err != nil:
		k.a.log.Error("the server's key no longer opens the store: it goes on, but its next start would fail",
			"error", err, "hint", "put the identity that opens the store back, or see docs/how-to/server.md, "+
				"\"Change the key\"")
	case was != nil:
		k.a.log.Info("the server's key opens the store again")
	}
}
