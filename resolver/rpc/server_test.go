package rpc_test

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"inject/internal/harness"
	"inject/resolver"
	"inject/resolver/idl/flyteidl2/auth"
	secretpb "inject/resolver/idl/flyteidl2/secret"
	injectv1 "inject/resolver/idl/inject/v1"
	"inject/resolver/rpc"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/storetest"
)

// proxied is the name of a server that can be reached only through the proxy of these tests.
const proxied = "injectd.test"

// behindProxy passes the address of that server to the proxy.
var behindProxy = make(chan string, 1)

// TestMain gives the process a proxy, because Go reads HTTPS_PROXY only once. Requests to
// loopback never use it. With -short, calls are repeated sooner.
func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		rpc.Hasten()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	_ = os.Setenv("HTTPS_PROXY", "http://"+l.Addr().String())
	go tunnel(l)
	code := m.Run()
	_ = l.Close()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// tunnel is an HTTP proxy that handles CONNECT to one server.
func tunnel(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		r := bufio.NewReader(conn)
		request, err := http.ReadRequest(r)
		if err != nil || request.Method != http.MethodConnect || request.Host != proxied+":443" {
			_ = conn.Close()
			continue
		}
		server, err := net.Dial("tcp", <-behindProxy)
		if err != nil {
			_ = conn.Close()
			continue
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(server, r); _ = server.Close() }()
		go func() { _, _ = io.Copy(conn, server); _ = conn.Close() }()
	}
}

// authority is an authority whose certificates a test passes on in PEM.
type authority struct {
	*harness.Authority

	t    *testing.T
	file string // its own certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := harness.NewAuthority(t, t.TempDir())
	return &authority{a, t, a.CA()}
}

func (a *authority) write(name string, b []byte) string {
	require.NoError(a.t, os.WriteFile(a.Path(name), b, 0o600))
	return a.Path(name)
}

// issue returns a certificate and its key in PEM.
func (a *authority) issue(name string, ends time.Time) (cert, key []byte) {
	a.t.Helper()
	certFile, keyFile := a.Issue(name, harness.Expires(ends), func(c *x509.Certificate) { c.DNSNames = []string{name} })
	cert, err := os.ReadFile(certFile)
	require.NoError(a.t, err)
	key, err = os.ReadFile(keyFile)
	require.NoError(a.t, err)
	return cert, key
}

// tls returns the configuration of a server with a certificate for name.
func (a *authority) tls(name string, ends time.Time) *tls.Config {
	pair, err := tls.X509KeyPair(a.issue(name, ends))
	require.NoError(a.t, err)
	return &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: a.Pool()}
}

func (a *authority) server() *tls.Config { return a.tls("localhost", time.Now().Add(time.Hour)) }

// server is a small injectd over a store.
type server struct {
	injectv1.UnimplementedResolveServiceServer
	injectv1.UnimplementedImportServiceServer
	secretpb.UnimplementedSecretServiceServer

	store store.Store
	stop  func()

	login auth.AuthMetadataServiceServer // nil for none

	bound secret.Scope // of a task that sends no scope; zero for the default org

	mu       sync.Mutex
	requests []proto.Message // in the order of arrival
	tokens   []string
	callers  []string                                            // the names in certificates
	before   func(proto.Message) (answer proto.Message, _ error) // may answer instead; nil for none
}

func config(t *testing.T) (*authority, *tls.Config) {
	a := newAuthority(t)
	return a, a.server()
}

// start serves s on a port of its own, or at address, until the test ends.
func (s *server) start(t *testing.T, address string, config *tls.Config) string {
	t.Helper()
	l, err := net.Listen("tcp", address)
	require.NoError(t, err)
	options := []grpc.ServerOption{grpc.UnaryInterceptor(s.intercept)}
	if config != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(config)))
	}
	g := grpc.NewServer(options...)
	injectv1.RegisterResolveServiceServer(g, s)
	injectv1.RegisterImportServiceServer(g, s)
	secretpb.RegisterSecretServiceServer(g, s)
	if s.login != nil {
		auth.RegisterAuthMetadataServiceServer(g, s.login)
	}
	ended := make(chan error, 1)
	go func() { ended <- g.Serve(l) }()
	s.stop = sync.OnceFunc(func() {
		g.Stop()
		if err := <-ended; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(s.stop)
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	return "localhost:" + port
}

// open returns a client, which is closed when the test ends.
func open(t *testing.T, o rpc.Options) *rpc.Client {
	t.Helper()
	c, err := rpc.Open(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// serve returns a client of s over TLS.
func serve(t *testing.T, s *server) *rpc.Client {
	t.Helper()
	a, config := config(t)
	return open(t, rpc.Options{Address: s.start(t, "127.0.0.1:0", config), TLS: true, CAFile: a.file})
}

func (s *server) intercept(
	ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler,
) (any, error) {
	message, _ := request.(proto.Message)
	s.mu.Lock()
	s.requests = append(s.requests, message)
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		s.tokens = append(s.tokens, md.Get("authorization")...)
	}
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			for _, cert := range info.State.PeerCertificates {
				s.callers = append(s.callers, cert.Subject.CommonName)
			}
		}
	}
	before := s.before
	s.mu.Unlock()
	if before != nil {
		if answer, err := before(message); answer != nil || err != nil {
			return answer, err
		}
	}
	answer, err := handle(ctx, request)
	if err == nil {
		return answer, nil
	}
	code := codes.Code(secret.KindOf(err).Status())
	switch {
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	}
	return nil, status.Error(code, err.Error())
}

func (s *server) seen() []proto.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

func fail(err error) *injectv1.Failure {
	if err == nil {
		return nil
	}
	return &injectv1.Failure{Code: injectv1.Failure_Code(secret.KindOf(err)), Message: err.Error()}
}

func onWire(s secret.Scope) *injectv1.Scope {
	return &injectv1.Scope{Organization: s.Org, Domain: s.Domain, Project: s.Project}
}

func (s *server) Resolve(ctx context.Context, r *injectv1.ResolveRequest) (*injectv1.ResolveResponse, error) {
	var declared []secret.Declaration
	for _, d := range r.GetSecrets() {
		declared = append(
			declared, secret.Declaration{Group: d.GetGroup(), Key: d.GetKey(), Version: d.GetGroupVersion()},
		)
	}
	scope := secret.Scope{
		Org: r.GetScope().GetOrganization(), Domain: r.GetScope().GetDomain(),
		Project: r.GetScope().GetProject(),
	}
	if r.GetScope() == nil {
		scope = s.bound
		scope.Org = cmp.Or(scope.Org, secret.DefaultOrg)
	}
	climbs, err := resolver.Over(s.store).Climb(ctx, scope, declared)
	if err != nil {
		return nil, err
	}
	answer := &injectv1.ResolveResponse{}
	for _, c := range climbs {
		climb := &injectv1.Climb{Outcome: &injectv1.Climb_Failure{Failure: fail(c.Err)}}
		if c.Err == nil {
			found := &injectv1.Found{
				Scope: onWire(c.Info.Ref.Scope), Type: secretpb.SecretType(c.Info.Type),
				CreatedTime: timestamppb.New(c.Info.Created), UpdatedTime: timestamppb.New(c.Info.Updated),
			}
			if !r.GetNamesOnly() {
				found.Value = c.Value.Reveal()
			}
			climb.Outcome = &injectv1.Climb_Found{Found: found}
		}
		for _, rung := range c.Tried {
			climb.Tried = append(climb.Tried, &injectv1.Rung{Scope: onWire(rung.Scope), Failure: fail(rung.Err)})
		}
		for _, e := range c.Elsewhere {
			climb.Elsewhere = append(climb.Elsewhere, onWire(e))
		}
		answer.Climbs = append(answer.Climbs, climb)
	}
	return answer, nil
}

func (s *server) Import(ctx context.Context, r *injectv1.ImportRequest) (*injectv1.ImportResponse, error) {
	var all []store.New
	for _, i := range r.GetSecrets() {
		all = append(all, store.New{
			Ref: secret.Ref{
				Scope: secret.Scope{
					Org: r.GetScope().GetOrganization(), Domain: r.GetScope().GetDomain(),
					Project: r.GetScope().GetProject(),
				},
				Key: i.GetName(),
			},
			Value: secret.NewValue(i.GetValue()), Type: store.Type(i.GetType()),
		})
	}
	answer := &injectv1.ImportResponse{}
	err := s.store.(store.Importer).Import(ctx, all) //nolint:errcheck // storetest's memory store is an Importer
	if list, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range list.Unwrap() {
			e, _ := errors.AsType[*secret.Error](err)
			answer.Failures = append(answer.Failures, &injectv1.ImportFailure{Name: e.Ref.Key, Failure: fail(e.Err)})
		}
		err = nil
	}
	return answer, err
}

func refOf(id *secretpb.SecretIdentifier) secret.Ref {
	return secret.Ref{
		Scope: secret.Scope{Org: id.GetOrganization(), Domain: id.GetDomain(), Project: id.GetProject()},
		Key:   id.GetName(),
	}
}

func (s *server) CreateSecret(
	ctx context.Context, r *secretpb.CreateSecretRequest,
) (*secretpb.CreateSecretResponse, error) {
	return &secretpb.CreateSecretResponse{}, s.store.Create(
		ctx, refOf(r.GetId()), secret.NewValue(r.GetSecretSpec().GetBinaryValue()),
		store.Type(r.GetSecretSpec().GetType()),
	)
}

func (s *server) UpdateSecret(
	ctx context.Context, r *secretpb.UpdateSecretRequest,
) (*secretpb.UpdateSecretResponse, error) {
	return &secretpb.UpdateSecretResponse{}, s.store.Update(
		ctx, refOf(r.GetId()), secret.NewValue(r.GetSecretSpec().GetBinaryValue()),
	)
}

func (s *server) DeleteSecret(
	ctx context.Context, r *secretpb.DeleteSecretRequest,
) (*secretpb.DeleteSecretResponse, error) {
	return &secretpb.DeleteSecretResponse{}, s.store.Delete(ctx, refOf(r.GetId()))
}

func (s *server) GetSecret(ctx context.Context, r *secretpb.GetSecretRequest) (*secretpb.GetSecretResponse, error) {
	info, err := s.store.Describe(ctx, refOf(r.GetId()))
	return &secretpb.GetSecretResponse{Secret: described(info)}, err
}

func (s *server) ListSecrets(
	ctx context.Context, r *secretpb.ListSecretsRequest,
) (*secretpb.ListSecretsResponse, error) {
	page, next, err := s.store.List(
		ctx, store.Filter{Org: r.GetOrganization(), Domain: r.GetDomain(), Project: r.GetProject()},
		int(r.GetLimit()), r.GetToken(),
	)
	answer := &secretpb.ListSecretsResponse{Token: next}
	for _, info := range page {
		answer.Secrets = append(answer.Secrets, described(info))
	}
	return answer, err
}

func described(info store.Info) *secretpb.Secret {
	return &secretpb.Secret{
		Id: &secretpb.SecretIdentifier{
			Organization: info.Ref.Org, Domain: info.Ref.Domain, Project: info.Ref.Project,
			Name: info.Ref.Key,
		},
		SecretMetadata: &secretpb.SecretMetadata{
			CreatedTime: timestamppb.New(info.Created), Type: secretpb.SecretType(info.Type),
		},
	}
}

// remote is a store that is managed over the wire and read directly.
type remote struct {
	store.Manager

	reader store.Reader
}

// Get returns only fields that Flyte's messages have, so Updated is zero.
func (r remote) Get(ctx context.Context, ref secret.Ref) (secret.Value, store.Info, error) {
	v, info, err := r.reader.Get(ctx, ref)
	info.Created, info.Updated = info.Created.UTC().Round(0), time.Time{}
	return v, info, err
}

func memory() *server { return &server{store: storetest.Memory()} }
