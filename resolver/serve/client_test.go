package serve_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/resolver/resolvertest"
	"inject/resolver/rpc"
	"inject/resolver/secret"
	"inject/resolver/serve"
	"inject/resolver/store"
	"inject/resolver/store/storetest"
)

// rpcClient returns a client of package rpc with the certificate in those files.
func (r *running) rpcClient(cert, key string) *rpc.Client {
	r.t.Helper()
	_, port, err := net.SplitHostPort(r.address)
	require.NoError(r.t, err)
	c, err := rpc.Open(
		rpc.Options{Address: "localhost:" + port, TLS: true, CAFile: r.Path("ca.pem"), CertFile: cert, KeyFile: key},
	)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { require.NoError(r.t, c.Close()) })
	return c
}

// untilEnd is a store whose reads end with the test. The server lets a shared read go on
// while any request may need it.
type untilEnd struct {
	store.Store

	t *testing.T
}

func (u untilEnd) Get(ctx context.Context, ref secret.Ref) (secret.Value, store.Info, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(u.t.Context(), cancel)
	defer stop()
	return u.Store.Get(ctx, ref)
}

func (u untilEnd) Remote() bool { return store.IsRemote(u.Store) }

// open starts a server over s in which every caller may do everything.
func open(t *testing.T, s store.Store) *rpc.Client {
	t.Helper()
	r := start(
		t, "version: 1\nrules: []\n",
		func(o *serve.Options) { o.Store, o.Authenticator, o.Policy = untilEnd{s, t}, nil, nil },
	)
	return r.rpcClient("", "")
}

// The client of a server passes the suite of resolvers.
func TestResolver(t *testing.T) {
	resolvertest.RunServed(t, func(t *testing.T, s store.Store) resolvertest.Resolver {
		t.Helper()
		return open(t, s)
	})
}

// So it does if the store of the server is remote.
func TestResolverOfRemote(t *testing.T) {
	resolvertest.RunServed(t, func(t *testing.T, s store.Store) resolvertest.Resolver {
		t.Helper()
		return open(t, struct {
			store.Store
			remote
		}{s, remote{}})
	})
}

// remote makes a store that embeds it one whose reads are round trips.
type remote struct{}

func (remote) Remote() bool { return true }

// managed is a store that is managed over the wire and read directly. It is not a
// [store.Importer], because a server imports the secrets of one scope at a time.
type managed struct {
	store.Manager

	reader store.Reader
}

// Get returns only fields that Flyte's messages have, so Updated is zero.
func (m managed) Get(ctx context.Context, ref secret.Ref) (secret.Value, store.Info, error) {
	v, info, err := m.reader.Get(ctx, ref)
	info.Created, info.Updated = info.Created.UTC().Round(0), time.Time{}
	return v, info, err
}

// The client of a server passes the suite of stores.
func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		t.Helper()
		s := storetest.Memory()
		return managed{open(t, s), s}
	})
}

// A task without a scope in its request gets its own; for another scope it gets an error with
// a hint.
func TestClientScope(t *testing.T) {
	r := start(t, matrixPolicy, nil)
	cert, key := r.Path("task.pem"), r.Path("task.key")
	certOf(r.Authority, "task", "spiffe://example.org/project/web/domain/development/task/t")
	c := r.rpcClient(cert, key)
	value := r.seedAt(secret.Ref{Scope: webDevelopment, Key: "K"})
	for _, task := range []secret.Scope{{Org: "flyte"}, webDevelopment} {
		got, err := c.Resolve(t.Context(), task, resolvertest.Declare("K"))
		require.NoError(t, err)
		require.Equal(t, value, got[0].Value.Reveal())
		climbs, err := c.Explain(t.Context(), task, resolvertest.Declare("K", "ABSENT"))
		require.NoError(t, err)
		require.Equal(t, webDevelopment, climbs[1].Tried[0].Scope)
		require.Len(t, climbs[1].Tried, 4)
	}
	for _, task := range []secret.Scope{{Org: "acme"}, {Org: "flyte", Project: "web"}, {
		Org: "flyte", Project: "shop", Domain: "development",
	}} {
		_, err := c.Resolve(t.Context(), task, resolvertest.Declare("K"))
		require.ErrorIs(t, err, secret.ErrDenied)
		require.Regexp(
			t, "^resolve: access denied: this identity resolves as a task of project web, domain development and of "+
				`no other scope \(request [0-9a-f]{16}, caller mtls spiffe://example.org/.*\)$`, err.Error(),
		)
		require.Equal(t, "leave the scope out of the request, or give -p web -d development", secret.Hint(err))
	}
}
