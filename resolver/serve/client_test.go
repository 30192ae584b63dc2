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

// rpcClient returns our own client, which shows the certificate in those files.
func (r *running) rpcClient(cert, key string) *rpc.Client {
	r.t.Helper()
	_, port, err := net.SplitHostPort(r.address)
	require.NoError(r.t, err)
	c, err := rpc.Open(rpc.Options{Address: "localhost:" + port, TLS: true, CAFile: r.Path("ca.pem"), CertFile: cert, KeyFile: key})
	require.NoError(r.t, err)
	r.t.Cleanup(func() { require.NoError(r.t, c.Close()) })
	return c
}

// untilEnd is a store whose reads end with the test. The server's go on for as long as
// somebody might want what is read.
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

// open starts a server over s, where everyone may do everything.
func open(t *testing.T, s store.Store) *rpc.Client {
	t.Helper()
	r := start(t, "version: 1\nrules: []\n", func(o *serve.Options) { o.Store, o.Authenticator, o.Policy = untilEnd{s, t}, nil, nil })
	return r.rpcClient("", "")
}

// Our client of a server is a resolver like the ladder in this process.
func TestResolver(t *testing.T) {
	resolvertest.Run(t, func(t *testing.T, s store.Store) resolvertest.Resolver {
		t.Helper()
		return open(t, s)
	})
}

// managed is a store that is managed over the wire, and read behind it. It is no
// [store.Importer]: over the wire only secrets of one scope are imported at once.
type managed struct {
	store.Manager

	reader store.Reader
}

// Get tells what Flyte's messages have a place for: not when the secret was updated.
func (m managed) Get(ctx context.Context, ref secret.Ref) (secret.Value, store.Info, error) {
	v, info, err := m.reader.Get(ctx, ref)
	info.Created, info.Updated = info.Created.UTC().Round(0), time.Time{}
	return v, info, err
}

// Our client of a server is a store like any other.
func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		t.Helper()
		s := storetest.Memory()
		return managed{open(t, s), s}
	})
}

// A task that does not say its scope gets its own, and one that says another is told what
// to do.
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
	for _, task := range []secret.Scope{{Org: "acme"}, {Org: "flyte", Project: "web"}, {Org: "flyte", Project: "shop", Domain: "development"}} {
		_, err := c.Resolve(t.Context(), task, resolvertest.Declare("K"))
		require.ErrorIs(t, err, secret.ErrDenied)
		require.EqualError(t, err, "resolve: access denied: this identity resolves as a task of project web, domain development and of no other scope")
		require.Equal(t, "leave the scope out of the request, or give -p web -d development", secret.Hint(err))
	}
}
