package serve_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"inject/resolver/idl/flyteidl2/auth/authconnect"
	"inject/resolver/idl/flyteidl2/cluster"
	"inject/resolver/idl/flyteidl2/cluster/clusterconnect"
	"inject/resolver/idl/flyteidl2/core"
	secretpb "inject/resolver/idl/flyteidl2/secret"
	"inject/resolver/idl/flyteidl2/secret/secretconnect"
	injectv1 "inject/resolver/idl/inject/v1"
	"inject/resolver/idl/inject/v1/injectv1connect"
	"inject/resolver/secret"
	"inject/resolver/serve/transport"
	"inject/resolver/store"
	"inject/resolver/store/storetest"
)

const wirePolicy = `
version: 1
rules:
  - name: everywhere
    identity: {spiffe: "spiffe://example.org/admin"}
    manage: [{org: "*", project: "*", domain: "*"}]
    list: [{org: "*", project: "*", domain: "*"}]
    resolve: {project: p, domain: d}
  - name: one project
    identity: {spiffe: "spiffe://example.org/one"}
    list: [{project: rare, domain: "*"}]
`

// overGRPC is the client of grpc-go with the methods of connect-go's.
type overGRPC struct{ secretpb.SecretServiceClient }

func (c overGRPC) CreateSecret(
	ctx context.Context, r *secretpb.CreateSecretRequest,
) (*secretpb.CreateSecretResponse, error) {
	return c.SecretServiceClient.CreateSecret(ctx, r)
}

func (c overGRPC) UpdateSecret(
	ctx context.Context, r *secretpb.UpdateSecretRequest,
) (*secretpb.UpdateSecretResponse, error) {
	return c.SecretServiceClient.UpdateSecret(ctx, r)
}

func (c overGRPC) GetSecret(ctx context.Context, r *secretpb.GetSecretRequest) (*secretpb.GetSecretResponse, error) {
	return c.SecretServiceClient.GetSecret(ctx, r)
}

func (c overGRPC) ListSecrets(
	ctx context.Context, r *secretpb.ListSecretsRequest,
) (*secretpb.ListSecretsResponse, error) {
	return c.SecretServiceClient.ListSecrets(ctx, r)
}

func (c overGRPC) DeleteSecret(
	ctx context.Context, r *secretpb.DeleteSecretRequest,
) (*secretpb.DeleteSecretResponse, error) {
	return c.SecretServiceClient.DeleteSecret(ctx, r)
}

type resolveOverGRPC struct{ injectv1.ResolveServiceClient }

func (c resolveOverGRPC) Resolve(ctx context.Context, r *injectv1.ResolveRequest) (*injectv1.ResolveResponse, error) {
	return c.ResolveServiceClient.Resolve(ctx, r)
}

type clusterOverGRPC struct{ cluster.ClusterServiceClient }

func (c clusterOverGRPC) SelectCluster(
	ctx context.Context, r *cluster.SelectClusterRequest,
) (*cluster.SelectClusterResponse, error) {
	return c.ClusterServiceClient.SelectCluster(ctx, r)
}

// A wire is one protocol for talking to the server.
type wire struct {
	secrets secretconnect.SecretServiceClient
	cluster clusterconnect.ClusterServiceClient
	resolve injectv1connect.ResolveServiceClient
}

// grpcConn returns a connection of grpc-go.
func (r *running) grpcConn(cert *tls.Certificate) *grpc.ClientConn {
	r.t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(r.Cert)
	config := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	conn, err := grpc.NewClient("dns:///"+r.address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// http1 is client, but without HTTP/2.
func (r *running) http1(cert *tls.Certificate) *http.Client {
	c := r.client(cert)
	transport, ok := c.Transport.(*http.Transport)
	require.True(r.t, ok)
	transport.ForceAttemptHTTP2 = false
	transport.Protocols = new(http.Protocols)
	transport.Protocols.SetHTTP1(true)
	return c
}

func (r *running) wires(cert *tls.Certificate) map[string]wire {
	url := "https://" + r.address
	made := func(c *http.Client, o ...connect.ClientOption) wire {
		return wire{
			secretconnect.NewSecretServiceClient(c, url, o...), clusterconnect.NewClusterServiceClient(c, url, o...),
			injectv1connect.NewResolveServiceClient(c, url, o...),
		}
	}
	conn, one, two := r.grpcConn(cert), r.http1(cert), r.client(cert)
	return map[string]wire{
		"Connect JSON, HTTP/1.1":        made(one, connect.WithProtoJSON()),
		"Connect JSON, HTTP/2":          made(two, connect.WithProtoJSON()),
		"Connect proto, gzip, HTTP/1.1": made(one, connect.WithSendGzip()),
		"Connect proto, gzip, HTTP/2":   made(two, connect.WithSendGzip()),
		"gRPC-Web, HTTP/1.1":            made(one, connect.WithGRPCWeb()),
		"gRPC-Web JSON, HTTP/2":         made(two, connect.WithGRPCWeb(), connect.WithProtoJSON()),
		"gRPC, connect-go":              made(two, connect.WithGRPC(), connect.WithSendGzip()),
		"gRPC, grpc-go": {
			overGRPC{secretpb.NewSecretServiceClient(conn)},
			clusterOverGRPC{cluster.NewClusterServiceClient(conn)},
			resolveOverGRPC{injectv1.NewResolveServiceClient(conn)},
		},
	}
}

// failed returns the code and the message of an error over any wire.
func failed(t *testing.T, err error) (connect.Code, string) {
	t.Helper()
	require.Error(t, err)
	if s, ok := status.FromError(err); ok && s.Code() != codes.Unknown {
		return connect.Code(s.Code()), s.Message()
	}
	var e *connect.Error
	require.ErrorAs(t, err, &e)
	return e.Code(), e.Message()
}

func idOf(ref secret.Ref) *secretpb.SecretIdentifier {
	return &secretpb.SecretIdentifier{Name: ref.Key, Organization: ref.Org, Domain: ref.Domain, Project: ref.Project}
}

func text(v string) *secretpb.SecretSpec {
	return &secretpb.SecretSpec{Value: &secretpb.SecretSpec_StringValue{StringValue: v}}
}

func blob(v []byte, t secretpb.SecretType) *secretpb.SecretSpec {
	return &secretpb.SecretSpec{Value: &secretpb.SecretSpec_BinaryValue{BinaryValue: v}, Type: t}
}

// Flyte's clients get the same over every wire: the answers of Flyte's server, except for its
// bugs.
func TestWires(t *testing.T) {
	for _, name := range []string{
		"Connect JSON, HTTP/1.1", "Connect JSON, HTTP/2", "Connect proto, gzip, HTTP/1.1",
		"Connect proto, gzip, HTTP/2",
		"gRPC-Web, HTTP/1.1", "gRPC-Web JSON, HTTP/2", "gRPC, connect-go", "gRPC, grpc-go",
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, wirePolicy, nil)
			w, ok := r.wires(certOf(r.Authority, "admin", "spiffe://example.org/admin"))[name]
			require.True(t, ok)
			testManaged(t, r, w)
			testRefused(t, r, w)
			testSizes(t, r, w)
			testPages(t, r, w)
			testResolved(t, r, w)
			answer, err := w.cluster.SelectCluster(t.Context(), &cluster.SelectClusterRequest{
				Operation: cluster.SelectClusterRequest_OPERATION_USE_SECRETS,
			})
			require.NoError(t, err)
			require.True(
				t, proto.Equal(&cluster.SelectClusterResponse{}, answer),
				"the endpoint that they have is the one to use",
			)
		})
	}
}

func testManaged(t *testing.T, r *running, w wire) {
	t.Helper()
	ctx := t.Context()
	// The error names the Kubernetes object that Flyte would use, as Flyte's server does.
	for _, test := range []struct {
		scope  secret.Scope
		object string
	}{
		{secret.Scope{Org: "flyte", Project: "flytesnacks", Domain: "development"}, "6520715ae703d984865e0ee37c4cbb23"},
		{secret.Scope{Org: "flyte", Domain: "development"}, "ac1b3f56a9a9d8d7ccb90fb14b420c81"},
		{secret.Scope{Org: "flyte"}, "5947121bb37213fc24b176e00397dd1f"},
		{secret.Scope{Org: "flyte", Project: "flytesnacks"}, "771000b979e50338b76fa1e57a00afe7"}, // which Flyte refuses
		{secret.Scope{Org: "acme", Project: "flytesnacks", Domain: "development"}, ""},
	} {
		ref := secret.Ref{Scope: test.scope, Key: "MY_SECRET_KEY"}
		id := idOf(ref)
		if id.GetOrganization() == "flyte" {
			id.Organization = ""
		}
		value := storetest.Value(t, 60)
		created, err := w.secrets.CreateSecret(
			ctx,
			&secretpb.CreateSecretRequest{
				Id: id, SecretSpec: blob(value, secretpb.SecretType_SECRET_TYPE_IMAGE_PULL_SECRET),
			},
		)
		require.NoError(t, err)
		require.True(t, proto.Equal(&secretpb.CreateSecretResponse{}, created))
		requireValueAt(t, r, ref, value)
		code, message := failed(
			t,
			errOf(w.secrets.CreateSecret(ctx, &secretpb.CreateSecretRequest{Id: id, SecretSpec: text("another")})),
		)
		require.Equal(t, connect.CodeAlreadyExists, code)
		if test.object != "" {
			require.Equal(t, `secrets "`+test.object+`" already exists`, message)
		}
		requireValueAt(t, r, ref, value)

		got, err := w.secrets.GetSecret(ctx, &secretpb.GetSecretRequest{Id: id})
		require.NoError(t, err)
		s := got.GetSecret()
		require.True(t, proto.Equal(idOf(ref), s.GetId()), "%v", s)
		require.Equal(t, secretpb.SecretType_SECRET_TYPE_IMAGE_PULL_SECRET, s.GetSecretMetadata().GetType())
		require.WithinDuration(t, time.Now(), s.GetSecretMetadata().GetCreatedTime().AsTime(), time.Minute)
		require.Equal(
			t, secretpb.OverallStatus_FULLY_PRESENT, s.GetSecretMetadata().GetSecretStatus().GetOverallStatus(),
		)
		clusters := s.GetSecretMetadata().GetSecretStatus().GetClusterStatus()
		require.Len(t, clusters, 1)
		require.Equal(t, "test", clusters[0].GetCluster().GetName())
		require.Equal(t, secretpb.SecretPresenceStatus_PRESENT, clusters[0].GetPresenceStatus())

		// The type stays, even if an update has another one.
		_, err = w.secrets.UpdateSecret(ctx, &secretpb.UpdateSecretRequest{Id: id, SecretSpec: text("a string: ü\n")})
		require.NoError(t, err)
		requireValueAt(t, r, ref, []byte("a string: ü\n"))
		again, err := w.secrets.GetSecret(ctx, &secretpb.GetSecretRequest{Id: id})
		require.NoError(t, err)
		require.True(t, proto.Equal(s, again.GetSecret()))

		_, err = w.secrets.DeleteSecret(ctx, &secretpb.DeleteSecretRequest{Id: id})
		require.NoError(t, err)
		for _, err := range []error{
			errOf(w.secrets.GetSecret(ctx, &secretpb.GetSecretRequest{Id: id})),
			errOf(w.secrets.UpdateSecret(ctx, &secretpb.UpdateSecretRequest{Id: id, SecretSpec: text("v")})),
			errOf(w.secrets.DeleteSecret(ctx, &secretpb.DeleteSecretRequest{Id: id})),
		} {
			code, message := failed(t, err)
			require.Equal(t, connect.CodeNotFound, code)
			require.Equal(t, "secret MY_SECRET_KEY not found", message)
		}
	}
}

func errOf[T any](_ T, err error) error { return err }

func requireValueAt(t *testing.T, r *running, ref secret.Ref, want []byte) {
	t.Helper()
	v, _, err := r.backend.Get(t.Context(), ref)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, v.Reveal()))
}

func testRefused(t *testing.T, r *running, w wire) {
	t.Helper()
	ctx := t.Context()
	at := func(key string) *secretpb.SecretIdentifier { return &secretpb.SecretIdentifier{Name: key} }
	for _, test := range []struct {
		id      *secretpb.SecretIdentifier
		spec    *secretpb.SecretSpec
		message string
	}{
		{at("K"), nil, "string or binary value expected, got <nil>"},
		{at("K"), &secretpb.SecretSpec{}, "string or binary value expected, got <nil>"},
		{at("bad name/!"), text("v"), "the key has ' ' at position 4 (only letters, digits, - and _ are allowed)"},
		{nil, text("v"), "the key is empty"},
		{at(strings.Repeat("k", 254)), text("v"), "the key is 254 bytes long (at most 253)"},
		{&secretpb.SecretIdentifier{Name: "K", Project: "a__b", Domain: "c/d"}, text("v"), `domain "c/d" ` +
			`contains "/"; project "a__b" contains "__"`},
		{at(""), nil, "string or binary value expected, got <nil>; the key is empty"},
	} {
		code, message := failed(
			t,
			errOf(w.secrets.CreateSecret(ctx, &secretpb.CreateSecretRequest{Id: test.id, SecretSpec: test.spec})),
		)
		require.Equal(t, connect.CodeInvalidArgument, code)
		require.Equal(t, test.message, message)
		code, message = failed(
			t,
			errOf(w.secrets.UpdateSecret(ctx, &secretpb.UpdateSecretRequest{Id: test.id, SecretSpec: test.spec})),
		)
		require.Equal(t, connect.CodeInvalidArgument, code)
		require.Equal(t, test.message, message)
		if test.spec.GetValue() != nil {
			code, message = failed(t, errOf(w.secrets.DeleteSecret(ctx, &secretpb.DeleteSecretRequest{Id: test.id})))
			require.Equal(t, connect.CodeInvalidArgument, code)
			require.Equal(t, test.message, message)
		}
	}
	// A key with a dot may exist, and is only not created.
	code, message := failed(
		t, errOf(w.secrets.CreateSecret(ctx, &secretpb.CreateSecretRequest{Id: at("bad.name"), SecretSpec: text("v")})),
	)
	require.Equal(t, connect.CodeInvalidArgument, code)
	require.Equal(t, "the key has '.' at position 4 (only letters, digits, - and _ are allowed)", message)
	for _, err := range []error{
		errOf(w.secrets.UpdateSecret(ctx, &secretpb.UpdateSecretRequest{Id: at("bad.name"), SecretSpec: text("v")})),
		errOf(w.secrets.DeleteSecret(ctx, &secretpb.DeleteSecretRequest{Id: at("bad.name")})),
	} {
		code, message = failed(t, err)
		require.Equal(t, connect.CodeNotFound, code)
		require.Equal(t, "secret bad.name not found", message)
	}
	code, message = failed(
		t,
		errOf(
			w.secrets.CreateSecret(ctx, &secretpb.CreateSecretRequest{Id: at("K"), SecretSpec: blob([]byte("v"), 7)}),
		),
	)
	require.Equal(t, connect.CodeInvalidArgument, code)
	require.Equal(t, "type 7 is unknown", message)
	require.Empty(t, everything(t, r))
}

// everything returns the names of all secrets in the store.
func everything(t *testing.T, r *running) (all []secret.Ref) {
	t.Helper()
	for info, err := range store.All(t.Context(), r.backend, store.Filter{}) {
		require.NoError(t, err)
		all = append(all, info.Ref)
	}
	return all
}

func testSizes(t *testing.T, r *running, w wire) {
	t.Helper()
	ctx := t.Context()
	for name, spec := range map[string]*secretpb.SecretSpec{
		"EMPTY": blob(nil, 0), "EMPTY_TEXT": text(""), "LARGE": blob(storetest.Value(t, store.MaxValue), 0),
		"LARGE_TEXT": text(strings.Repeat("\"", store.MaxValue)),
	} {
		ref := secret.Ref{Scope: secret.Scope{Org: "flyte", Domain: "sizes"}, Key: name}
		_, err := w.secrets.CreateSecret(ctx, &secretpb.CreateSecretRequest{Id: idOf(ref), SecretSpec: spec})
		require.NoError(t, err, name)
		requireValueAt(t, r, ref, append(spec.GetBinaryValue(), spec.GetStringValue()...))
		require.NoError(t, r.backend.Delete(ctx, ref))
	}
	for _, spec := range []*secretpb.SecretSpec{
		blob(make([]byte, store.MaxValue+1), 0), text(strings.Repeat("x", store.MaxValue+1)),
	} {
		code, message := failed(
			t,
			errOf(
				w.secrets.CreateSecret(
					ctx,
					&secretpb.CreateSecretRequest{Id: &secretpb.SecretIdentifier{Name: "K"}, SecretSpec: spec},
				),
			),
		)
		require.Equal(t, connect.CodeInvalidArgument, code)
		require.Equal(t, "the value is 1048577 bytes long (at most 1048576)", message)
	}
	code, message := failed(
		t,
		errOf(
			w.secrets.CreateSecret(
				ctx,
				&secretpb.CreateSecretRequest{
					Id: &secretpb.SecretIdentifier{Name: "K"}, SecretSpec: blob(make([]byte, 5<<20), 0),
				},
			),
		),
	)
	require.Equal(t, connect.CodeResourceExhausted, code)
	require.Contains(t, message, "larger than configured max")
	require.Empty(t, everything(t, r))
}

// pages lists everything page by page. between is called after each.
func pages(t *testing.T, w wire, f secret.Scope, limit int32, between func()) (all []secret.Ref, count int) {
	t.Helper()
	request := &secretpb.ListSecretsRequest{Organization: f.Org, Domain: f.Domain, Project: f.Project, Limit: limit}
	for {
		page, err := w.secrets.ListSecrets(t.Context(), request)
		require.NoError(t, err)
		if limit > 0 {
			require.LessOrEqual(t, len(page.GetSecrets()), int(limit))
		}
		for _, s := range page.GetSecrets() {
			require.Empty(t, s.GetSecretMetadata().GetSecretStatus().GetClusterStatus()[1:])
			all = append(
				all,
				secret.Ref{
					Scope: secret.Scope{
						Org: s.GetId().GetOrganization(), Domain: s.GetId().GetDomain(),
						Project: s.GetId().GetProject(),
					},
					Key: s.GetId().GetName(),
				},
			)
		}
		count++
		if request.Token = page.GetToken(); request.GetToken() == "" {
			return all, count
		}
		between()
	}
}

func testPages(t *testing.T, r *running, w wire) {
	t.Helper()
	var there []secret.Ref
	for _, org := range []string{"flyte", "acme"} {
		for _, scope := range []secret.Scope{
			{Org: org},
			{Org: org, Domain: "d"},
			{Org: org, Project: "p"},
			{Org: org, Domain: "d", Project: "p"},
			{Org: org, Domain: "e", Project: "p"},
		} {
			for i := range 5 {
				ref := secret.Ref{Scope: scope, Key: fmt.Sprintf("K%d", i)}
				r.seedAt(ref)
				there = append(there, ref)
			}
		}
	}
	nothing := func() {}
	for _, f := range []secret.Scope{
		{},
		{Org: "flyte"},
		{Org: "acme"},
		{Domain: "d"},
		{Project: "p"},
		{Domain: "d", Project: "p"},
		{Org: "acme", Project: "p"},
		{Domain: "nowhere"},
	} {
		var want []secret.Ref
		org := f
		if org.Org == "" {
			org.Org = "flyte"
		}
		for _, ref := range there {
			if store.Filter(org).Match(ref) {
				want = append(want, ref)
			}
		}
		for _, limit := range []int32{0, -1, 4, 100_000} {
			got, count := pages(t, w, f, limit, nothing)
			require.ElementsMatchf(t, want, got, "%+v", f)
			if limit > 0 {
				require.GreaterOrEqual(t, count, (len(want)+int(limit)-1)/int(limit))
			} else {
				require.Equal(t, 1, count)
			}
		}
	}
	// A listing while other clients create secrets.
	n := 0
	write := func() {
		n++
		for _, key := range []string{"A", "K1X", "Z"} {
			ref := secret.Ref{Scope: secret.Scope{Org: "flyte", Domain: "d"}, Key: fmt.Sprintf("%s%d", key, n)}
			r.seedAt(ref)
			if n%2 == 0 {
				require.NoError(t, r.backend.Delete(t.Context(), ref))
			}
		}
	}
	got, _ := pages(t, w, secret.Scope{Org: "flyte"}, 3, write)
	seen := map[secret.Ref]int{}
	for _, ref := range got {
		seen[ref]++
	}
	for _, ref := range there {
		if ref.Org == "flyte" {
			require.Equalf(t, 1, seen[ref], "%s is listed once", ref)
		}
	}
	for _, token := range []string{"nonsense", "0", "\x00", strings.Repeat("x", 10<<10)} {
		code, _ := failed(t, errOf(w.secrets.ListSecrets(t.Context(), &secretpb.ListSecretsRequest{Token: token})))
		require.Equal(t, connect.CodeInvalidArgument, code)
	}
	code, _ := failed(t, errOf(w.secrets.ListSecrets(t.Context(), &secretpb.ListSecretsRequest{Domain: "a__b"})))
	require.Equal(t, connect.CodeInvalidArgument, code)
	for _, ref := range everything(t, r) {
		require.NoError(t, r.backend.Delete(t.Context(), ref))
	}
}

func testResolved(t *testing.T, r *running, w wire) {
	t.Helper()
	value := r.seedAt(secret.Ref{Scope: secret.Scope{Org: "flyte", Project: "p", Domain: "d"}, Key: "K"})
	answer, err := w.resolve.Resolve(t.Context(), &injectv1.ResolveRequest{Secrets: []*core.Secret{{Key: "K"}}})
	require.NoError(t, err)
	require.True(t, bytes.Equal(value, answer.GetClimbs()[0].GetFound().GetValue()))
	code, message := failed(
		t,
		errOf(
			w.resolve.Resolve(
				t.Context(),
				&injectv1.ResolveRequest{Scope: &injectv1.Scope{Project: "q"}, Secrets: []*core.Secret{{Key: "K"}}},
			),
		),
	)
	require.Equal(t, connect.CodePermissionDenied, code)
	require.Contains(t, message, "give -p p -d d")
}

// The HTTP status matches the code of Connect, and a request has an id.
func TestHTTPStatus(t *testing.T) {
	r := start(t, wirePolicy, nil)
	cert := certOf(r.Authority, "admin", "spiffe://example.org/admin")
	for version, client := range map[string]*http.Client{"HTTP/1.1": r.http1(cert), "HTTP/2.0": r.client(cert)} {
		key := strings.NewReplacer("/", "_", ".", "_").Replace(version)
		for _, test := range []struct {
			method, body string
			status       int
			code         string
		}{
			{"CreateSecret", `{"id":{"name":"` + key + `"},"secretSpec":{"stringValue":"v"}}`, http.StatusOK, ""},
			{
				"CreateSecret", `{"id":{"name":"` + key + `"},"secretSpec":{"stringValue":"v"}}`,
				http.StatusConflict, "already_exists",
			},
			{"GetSecret", `{"id":{"name":"nope"}}`, http.StatusNotFound, "not_found"},
			{
				"UpdateSecret", `{"id":{"name":"nope"},"secretSpec":{"binaryValue":"dg=="}}`, http.StatusNotFound,
				"not_found",
			},
			{"DeleteSecret", `{"id":{"name":"nope"}}`, http.StatusNotFound, "not_found"},
			{"CreateSecret", `{"id":{"name":"` + key + `"}}`, http.StatusBadRequest, "invalid_argument"},
			{"CreateSecret", `{}`, http.StatusBadRequest, "invalid_argument"},
			{"ListSecrets", `{"token":"nonsense"}`, http.StatusBadRequest, "invalid_argument"},
			{"ListSecrets", `{"limit":10}`, http.StatusOK, ""},
		} {
			a := r.ask(client, secrets+test.method, test.body)
			require.Equalf(t, test.status, a.status, "%s: %s", test.method, a.raw)
			if test.code != "" {
				require.Equal(t, test.code, a.body["code"])
			}
			require.Len(t, a.header.Get("X-Request-Id"), 16)
			require.Equal(t, "application/json", a.header.Get("Content-Type"))
		}
		for _, path := range []string{"no.such.Service/Method", "", "secrets/api/v1"} {
			a := r.ask(client, path, "{}")
			require.Equal(t, http.StatusNotImplemented, a.status)
			require.Equal(t, "unimplemented", a.body["code"])
			require.Contains(t, a.body["message"], "no such service: this is injectd")
		}
		for _, ask := range []*http.Request{
			r.request(secrets+"Nothing", "{}"), r.request("no.such.Service/Method", "{}", "Content-Type", "text/plain"),
		} {
			answer, err := client.Do(ask)
			require.NoError(t, err)
			b, err := io.ReadAll(answer.Body)
			require.NoError(t, err)
			_ = answer.Body.Close()
			require.Equal(t, version, answer.Proto)
			require.Equal(t, http.StatusNotFound, answer.StatusCode)
			require.Equal(t, "404 page not found\n", string(b))
		}
	}
	conn := r.grpcConn(cert)
	err := conn.Invoke(t.Context(), "/"+secrets+"Nothing", &secretpb.GetSecretRequest{}, &secretpb.GetSecretResponse{})
	require.Equal(t, codes.Unimplemented, status.Code(err))
	for range 2 * transport.MaxRefused { // a known client may ask as often as it likes
		err = conn.Invoke(t.Context(), "/flyteidl.service.AdminService/ListProjects", &secretpb.GetSecretRequest{},
			&secretpb.GetSecretResponse{})
		require.Equal(t, codes.Unimplemented, status.Code(err))
		require.Contains(t, status.Convert(err).Message(), "use the command line flyte 2.0 or later")
	}
	require.NoError(
		t,
		conn.Invoke(
			t.Context(), "/"+secrets+"ListSecrets", &secretpb.ListSecretsRequest{},
			&secretpb.ListSecretsResponse{},
		),
	)
}

// The requests of Flyte's Python client, byte for byte except for the values.
func TestFlyteClient(t *testing.T) {
	r := start(t, wirePolicy, nil)
	client := r.client(certOf(r.Authority, "admin", "spiffe://example.org/admin"))
	value := storetest.Value(t, 50)
	send := func(method string, m proto.Message, answer proto.Message) {
		b, err := proto.Marshal(m)
		require.NoError(t, err)
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		_, err = w.Write(b)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		request := r.request(
			method, z.String(), "Content-Type", "application/proto", "Connect-Protocol-Version", "1",
			"Content-Encoding", "gzip", "Accept-Encoding", "gzip", "User-Agent", "connectrpc/0.10",
			"X-Request-Id", "a1b2c3d4-0000-4000-8000-000000000001",
		)
		got, err := client.Do(request)
		require.NoError(t, err)
		defer got.Body.Close() //nolint:errcheck // read whole
		body := io.Reader(got.Body)
		if got.Header.Get("Content-Encoding") == "gzip" {
			body, err = gzip.NewReader(got.Body)
			require.NoError(t, err)
		}
		b, err = io.ReadAll(body)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, got.StatusCode, string(b))
		require.NoError(t, proto.Unmarshal(b, answer))
	}
	send(
		clusterconnect.ClusterServiceName+"/SelectCluster",
		&cluster.SelectClusterRequest{Operation: cluster.SelectClusterRequest_OPERATION_USE_SECRETS},
		&cluster.SelectClusterResponse{},
	)
	id := &secretpb.SecretIdentifier{Name: "K", Project: "p", Domain: "d"}
	send(
		secrets+"CreateSecret", &secretpb.CreateSecretRequest{Id: id, SecretSpec: blob(value, 0)},
		&secretpb.CreateSecretResponse{},
	)
	list := &secretpb.ListSecretsResponse{}
	send(secrets+"ListSecrets", &secretpb.ListSecretsRequest{Limit: 10}, list)
	require.Len(t, list.GetSecrets(), 1)
	requireValueAt(t, r, secret.Ref{Scope: secret.Scope{Org: "flyte", Project: "p", Domain: "d"}, Key: "K"}, value)
	require.Contains(t, r.audit.String(), `"client":"a1b2c3d4-0000-4000-8000-000000000001"`)
}

// A caller lists its few secrets, in pages, among many hidden ones.
func TestListOfFew(t *testing.T) {
	r := start(t, wirePolicy, nil)
	var want []secret.Ref
	for i := range 200 {
		r.seedAt(secret.Ref{Scope: secret.Scope{Org: "flyte", Project: fmt.Sprintf("p%d", i)}, Key: "K"})
		if i%60 == 30 {
			ref := secret.Ref{
				Scope: secret.Scope{Org: "flyte", Project: "rare", Domain: fmt.Sprintf("d%d", i)}, Key: "K",
			}
			r.seedAt(ref)
			want = append(want, ref)
		}
	}
	for name, w := range r.wires(certOf(r.Authority, "one", "spiffe://example.org/one")) {
		for _, limit := range []int32{0, 1, 7} {
			got, _ := pages(t, w, secret.Scope{}, limit, func() {})
			require.ElementsMatch(t, want, got, name)
		}
		code, _ := failed(t, errOf(w.secrets.ListSecrets(t.Context(), &secretpb.ListSecretsRequest{Project: "p1"})))
		require.Equal(t, connect.CodePermissionDenied, code)
	}
}

// Health and reflection answer every client, with or without a certificate.
func TestHealthAndReflection(t *testing.T) {
	r := start(t, wirePolicy, nil)
	services := []string{
		secretconnect.SecretServiceName, clusterconnect.ClusterServiceName, injectv1connect.ResolveServiceName,
		injectv1connect.ImportServiceName, injectv1connect.WhoAmIServiceName, authconnect.IdentityServiceName,
	}
	conn := r.grpcConn(nil)
	health := grpc_health_v1.NewHealthClient(conn)
	for _, name := range append(services, "") {
		answer, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: name})
		require.NoError(t, err)
		require.Equal(t, grpc_health_v1.HealthCheckResponse_SERVING, answer.GetStatus())
	}
	_, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "no.such.Service"})
	require.Equal(t, codes.NotFound, status.Code(err))

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	require.NoError(t, err)
	require.NoError(
		t,
		stream.Send(
			&grpc_reflection_v1.ServerReflectionRequest{
				MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{},
			},
		),
	)
	answer, err := stream.Recv()
	require.NoError(t, err)
	var names []string
	for _, s := range answer.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	services = append(services, grpc_health_v1.Health_ServiceDesc.ServiceName)
	require.Subset(t, names, services)
	for _, service := range services {
		require.NoError(
			t,
			stream.Send(
				&grpc_reflection_v1.ServerReflectionRequest{
					MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_FileContainingSymbol{
						FileContainingSymbol: service,
					},
				},
			),
		)
		answer, err := stream.Recv()
		require.NoError(t, err)
		require.NotEmpty(t, answer.GetFileDescriptorResponse().GetFileDescriptorProto(), service)
	}
	old, err := grpc_reflection_v1alpha.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	require.NoError(t, err)
	require.NoError(
		t,
		old.Send(
			&grpc_reflection_v1alpha.ServerReflectionRequest{ //nolint:staticcheck // older clients use it
				MessageRequest: &grpc_reflection_v1alpha.ServerReflectionRequest_ListServices{},
			},
		),
	)
	_, err = old.Recv()
	require.NoError(t, err)
	require.Empty(t, r.audit.String(), "nothing was decided")

	_, err = secretpb.NewSecretServiceClient(conn).ListSecrets(t.Context(), &secretpb.ListSecretsRequest{})
	require.Equal(t, codes.Unauthenticated, status.Code(err))
}
