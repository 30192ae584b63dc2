// Package all is the list of all backends: it opens the store at an address. Only the server may
// import it, because a backend of a vendor links the library of that vendor.
package all

import (
	"context"
	"io"
	"net/url"
	"slices"

	"inject/resolver/store"
	"inject/resolver/store/dir"
	"inject/resolver/store/kube"
	"inject/resolver/store/sealed"
)

// Store is an open store. It is also a [store.Manager], a [store.Importer] or a [store.Remote] if its
// backend is one.
// The caller closes it.
type Store interface {
	store.Reader
	store.Lister
	io.Closer
}

// Options is what backends need besides the address.
type Options struct {
	// Org is the org that a dir:// store belongs to.
	Org string
	// Sealed is how a file:// store is opened. Open sets its Path and Write.
	Sealed sealed.Options
}

var backends = map[string]func(context.Context, *url.URL, Options) (Store, error){
	store.SchemeDir: func(_ context.Context, u *url.URL, o Options) (Store, error) { return dir.Open(u.Path, o.Org) },
	store.SchemeFile: func(ctx context.Context, u *url.URL, o Options) (Store, error) {
		o.Sealed.Path, o.Sealed.Write = u.Path, true
		return sealed.Open(ctx, o.Sealed)
	},
	store.SchemeKube: func(ctx context.Context, u *url.URL, _ Options) (Store, error) {
		query := u.Query()
		return kube.Open(ctx, kube.Options{
			Namespace: u.Host, Kubeconfig: query.Get("kubeconfig"), Context: query.Get("context"),
		})
	},
}

// Open opens the store at address to be served by this process: for writing, if its backend can be
// changed. Errors are those of the backend and of [store.ParseURL].
func Open(ctx context.Context, address string, o Options) (Store, error) {
	u, err := store.ParseURL("--store", address, Schemes()...)
	if err != nil {
		return nil, err
	}
	return backends[u.Scheme](ctx, u, o)
}

// Schemes returns the schemes of the addresses that Open accepts, sorted.
func Schemes() []string {
	all := make([]string, 0, len(backends))
	for scheme := range backends {
		all = append(all, scheme)
	}
	slices.Sort(all)
	return all
}
