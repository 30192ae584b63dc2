// Package all is the list of every backend: it opens the store at an address. Only the
// server links it, as each backend of a vendor brings that vendor's library.
package all

import (
	"context"
	"io"
	"net/url"
	"slices"

	"inject/resolver/store"
	"inject/resolver/store/dir"
	"inject/resolver/store/sealed"
)

// Store is an open store. It is a [store.Manager] or a [store.Importer], too, if its
// backend is one. The caller closes it.
type Store interface {
	store.Reader
	store.Lister
	io.Closer
}

// Options are what backends need to know besides the address.
type Options struct {
	// Org is whose secrets a dir:// store has.
	Org string
	// Sealed opens a file:// store, for writing. Its Path and Write are set by Open.
	Sealed sealed.Options
}

var backends = map[string]func(context.Context, *url.URL, Options) (Store, error){
	store.SchemeDir: func(_ context.Context, u *url.URL, o Options) (Store, error) { return dir.Open(u.Path, o.Org) },
	store.SchemeFile: func(ctx context.Context, u *url.URL, o Options) (Store, error) {
		o.Sealed.Path, o.Sealed.Write = u.Path, true
		return sealed.Open(ctx, o.Sealed)
	},
}

// Open opens the store at address, for this process to serve: for writing, where its
// backend can be written. The error is the backend's, or that of [store.ParseURL].
func Open(ctx context.Context, address string, o Options) (Store, error) {
	u, err := store.ParseURL(address, Schemes()...)
	if err != nil {
		return nil, err
	}
	return backends[u.Scheme](ctx, u, o)
}

// Schemes returns those of the addresses that Open opens, in order.
func Schemes() []string {
	all := make([]string, 0, len(backends))
	for scheme := range backends {
		all = append(all, scheme)
	}
	slices.Sort(all)
	return all
}
