// Package rpc is the client of a server, injectd: a resolver, and a store whose secrets can
// be managed. It speaks gRPC, checks requests and responses, and turns the server's errors
// into those of package secret.
//
// It makes no access decisions: the server identifies the caller and applies its policy. It
// caches nothing, and never sends a change twice.
package rpc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"inject/internal/keyfile"
	"inject/resolver/idl/flyteidl2/auth"
	secretpb "inject/resolver/idl/flyteidl2/secret"
	injectv1 "inject/resolver/idl/inject/v1"
	"inject/resolver/secret"
	"inject/resolver/store"
)

// MaxRequest is the largest request in bytes: the default limit of gRPC servers.
const MaxRequest = 4 << 20

const (
	// maxResolved is the largest answer to a declared list, in bytes. Without the limit a
	// faulty or hostile server could exhaust the task's memory.
	maxResolved = 64 << 20
	// maxFile is the largest file of certificates, in bytes.
	maxFile = 1 << 20
	// maxToken is the longest token, in bytes. Servers and proxies refuse headers that are
	// several times as long.
	maxToken = 16 << 10
)

// retryAfter is the wait before a call is repeated; each further wait is three times as
// long. Tests shorten it.
var retryAfter = 100 * time.Millisecond

// serviceConfig makes gRPC repeat calls that change nothing while the server is unavailable:
// for about 40 times retryAfter in all, which is 4 s, as long as a restart takes. A change is
// never repeated, because the first attempt may have succeeded. gRPC varies each wait by a
// fifth.
func serviceConfig() string {
	return fmt.Sprintf(`{"methodConfig": [{
	"name": [
		{"service": "inject.v1.ResolveService"},
		{"service": "inject.v1.WhoAmIService"},
		{"service": "flyteidl2.secret.SecretService", "method": "GetSecret"},
		{"service": "flyteidl2.secret.SecretService", "method": "ListSecrets"}
	],
	"retryPolicy": {
		"maxAttempts": 5, "initialBackoff": "%.3fs", "backoffMultiplier": 3, "maxBackoff": "5s",
		"retryableStatusCodes": ["UNAVAILABLE"]
	}
}]}`, retryAfter.Seconds())
}

// connecting says how often gRPC tries to connect: often enough that a repeated call finds a
// server that has restarted.
func connecting() grpc.ConnectParams {
	return grpc.ConnectParams{
		Backoff: backoff.Config{
			BaseDelay: retryAfter, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 10 * retryAfter,
		},
		MinConnectTimeout: 10 * time.Second,
	}
}

// Options say where a server is and how the two sides authenticate each other.
type Options struct {
	// Address is host:port. The server's certificate must be valid for the host.
	Address string
	// TLS may be false only for a server on the loopback interface of this machine. It
	// then gets neither a token nor a certificate.
	TLS bool
	// CAFile holds the certificates, in PEM, of the authorities that may sign the
	// server's; "" for those of the system.
	CAFile string
	// CertFile holds the client's certificate, in PEM, and KeyFile its private key;
	// KeyFile is "" if CertFile holds the key, too. Both are "" for a client without a
	// certificate. They are read for each connection, so they can be renewed.
	CertFile, KeyFile string
	// TokenFile holds a bearer token. It is read for each call, so it can be renewed.
	// "" for the token in Token, or for none.
	TokenFile string
	// Token is a bearer token, as a file would hold it; empty for none. It must be empty
	// if TokenFile is set.
	Token secret.Value
	// TokenFunc returns a bearer token. It is called for each call, so it can renew the token; nil
	// if there is another token, or none.
	TokenFunc func(context.Context) (secret.Value, error)
	// Again says what to do if the server does not accept the token; "" for what fits any token.
	Again string
	// Timeout ends a call whose context has no deadline, so that the call fails if the
	// server never answers. Zero for no limit.
	Timeout time.Duration
}

// A Client is a [resolver.Resolver] and a [store.Importer] that asks a server over one
// connection. It is safe for concurrent use.
type Client struct {
	conn      *grpc.ClientConn
	o         Options
	handshake *handshake

	resolving injectv1.ResolveServiceClient
	importing injectv1.ImportServiceClient
	knowing   injectv1.WhoAmIServiceClient
	secrets   secretpb.SecretServiceClient
	logins    auth.AuthMetadataServiceClient
}

// Open returns a client of the server that o names. The client connects on its first
// call. Errors wrap [secret.ErrInvalid]: an option or a file that it names is wrong. With
// TLS the proxy in HTTPS_PROXY is used; it cannot read the traffic, since TLS ends at the
// server.
func Open(o Options) (*Client, error) {
	host, port, err := net.SplitHostPort(o.Address)
	if err != nil || host == "" || port == "" {
		return nil, secret.WithHint(
			fmt.Errorf("%w: the address of a server is host:port", secret.ErrInvalid),
			"such as grpcs://injectd.example.com:8443",
		)
	}
	c := &Client{o: o, handshake: &handshake{}}
	if o.TLS {
		err = c.secure()
	} else {
		err = c.loopback(host)
	}
	if err != nil {
		return nil, err
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(c.handshake),
		grpc.WithDisableServiceConfig(), // ignore settings from DNS, which an attacker may control
		grpc.WithDefaultServiceConfig(serviceConfig()),
		grpc.WithConnectParams(connecting()),
		grpc.WithUnaryInterceptor(c.invoke),
	}
	if !o.TLS {
		// Go exempts localhost from HTTPS_PROXY, but neither LocalHost nor "localhost." with a
		// dot: values would leave the machine in the clear.
		options = append(options, grpc.WithNoProxy())
	}
	c.conn, err = grpc.NewClient("dns:///"+o.Address, options...)
	if err != nil {
		return nil, fmt.Errorf("%w: the address of the server: %w", secret.ErrInvalid, err)
	}
	c.resolving, c.importing = injectv1.NewResolveServiceClient(c.conn), injectv1.NewImportServiceClient(c.conn)
	c.knowing = injectv1.NewWhoAmIServiceClient(c.conn)
	c.secrets, c.logins = secretpb.NewSecretServiceClient(c.conn), auth.NewAuthMetadataServiceClient(c.conn)
	return c, nil
}

// Close closes the connection. Calls in progress fail.
func (c *Client) Close() error { return c.conn.Close() }

// loopback prepares a connection without TLS.
func (c *Client) loopback(host string) error {
	if !store.Loopback(host) {
		return secret.WithHint(
			fmt.Errorf("%w: without TLS only a server on this machine can be used, not %.80q", secret.ErrInvalid, host),
			"use TLS: grpcs://%s",
			c.o.Address,
		)
	}
	if c.hasToken() || c.o.CAFile != "" || c.o.CertFile != "" || c.o.KeyFile != "" {
		return secret.WithHint(
			fmt.Errorf("%w: a token or a certificate can only be sent over TLS", secret.ErrInvalid),
			"use grpcs://%s, or give neither",
			c.o.Address,
		)
	}
	c.handshake.TransportCredentials = insecure.NewCredentials()
	return nil
}

// secure prepares a connection with TLS. It checks the files now: otherwise a bad file
// would surface only at the first handshake.
func (c *Client) secure() error {
	config := &tls.Config{MinVersion: tls.VersionTLS13}
	var errs []error
	if c.o.CAFile != "" {
		pem, err := readFile("authorities", c.o.CAFile, maxFile)
		config.RootCAs = x509.NewCertPool()
		if err == nil && !config.RootCAs.AppendCertsFromPEM(pem) {
			err = fmt.Errorf("%w: %s holds no certificate", secret.ErrInvalid, c.o.CAFile)
		}
		errs = append(errs, err)
	}
	if c.o.KeyFile != "" && c.o.CertFile == "" {
		errs = append(
			errs,
			secret.WithHint(
				fmt.Errorf("%w: a private key is given without its certificate", secret.ErrInvalid),
				"name the certificate with --cert-file FILE",
			),
		)
	}
	if c.o.CertFile != "" {
		_, err := c.certificate()
		errs = append(errs, err)
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate,
			error,
		) {
			return c.certificate()
		}
	}
	if c.hasToken() && c.o.TokenFunc == nil {
		_, err := c.token(context.Background())
		errs = append(errs, err)
	}
	c.handshake.TransportCredentials = credentials.NewTLS(config)
	return errors.Join(errs...)
}

// certificate reads the client's certificate and its key.
func (c *Client) certificate() (*tls.Certificate, error) {
	cert, err := readFile("certificate", c.o.CertFile, maxFile)
	key := cert
	if err == nil && c.o.KeyFile != "" {
		key, err = readSecret("private key", c.o.KeyFile, maxFile)
	} else if err == nil {
		if err = checkFile("private key", c.o.CertFile); err != nil { // its hint is for a forgotten flag
			err = secret.WithHint(err, "if the private key is in a file of its own, give that with --cert-key-file")
		}
	}
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if c.o.KeyFile == "" {
		clear(key)
	}
	if err != nil { // it names missing parts of the PEM and quotes none of it
		where := c.o.CertFile
		if c.o.KeyFile != "" {
			where += " and " + c.o.KeyFile
		}
		return nil, secret.WithHint(
			fmt.Errorf("%w: the client's certificate and key in %s: %w", secret.ErrInvalid, where, err),
			"both are PEM: the certificate in --cert-file; the private key there, too, or in --cert-key-file",
		)
	}
	return &pair, nil
}

func (c *Client) hasToken() bool {
	return c.o.TokenFile != "" || c.o.Token.Len() > 0 || c.o.TokenFunc != nil
}

// token returns the bearer token. Errors say where it comes from and never quote it.
func (c *Client) token(ctx context.Context) (secret.Value, error) {
	b, where := c.o.Token.Reveal(), "in the options"
	if c.o.TokenFunc != nil {
		v, err := c.o.TokenFunc(ctx)
		if err != nil {
			return secret.Value{}, err
		}
		b, where = v.Reveal(), "of the login"
	}
	if c.o.TokenFile != "" {
		var err error
		if b, err = readSecret("token", c.o.TokenFile, maxToken+2); err != nil {
			return secret.Value{}, err
		}
		where = "in " + c.o.TokenFile
	}
	for _, end := range []byte("\n\r") { // editors, also on Windows, end a file with a line end
		if n := len(b); n > 0 && b[n-1] == end {
			b = b[:n-1]
		}
	}
	why := ""
	switch {
	case len(b) == 0:
		why = "is empty"
	case len(b) > maxToken:
		why = fmt.Sprintf("is over %d bytes long", maxToken)
	}
	for _, char := range b {
		if char <= ' ' || char > '~' {
			why = "has a character other than printable ASCII without spaces"
		}
	}
	if why != "" {
		return secret.Value{}, fmt.Errorf("%w: the token %s %s", secret.ErrInvalid, where, why)
	}
	return secret.NewValue(b), nil
}

// readSecret is readFile for a file that others may not read.
func readSecret(what, path string, limit int64) ([]byte, error) {
	if err := checkFile(what, path); err != nil {
		return nil, err
	}
	return readFile(what, path, limit)
}

func checkFile(what, path string) error {
	if err := keyfile.Check(path); err != nil {
		return fmt.Errorf("%w: the file of the %s, %s: %w", secret.ErrInvalid, what, path, err)
	}
	return nil
}

// readFile returns the contents of a file of at most limit bytes. Errors name the file by
// what, its intended contents.
func readFile(what, path string, limit int64) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // the user names the file
	if err != nil {
		return nil, fmt.Errorf("%w: the file of the %s: %w", secret.ErrInvalid, what, err)
	}
	defer f.Close() //nolint:errcheck // read only
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", secret.ErrInvalid, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%w: %s is over %d bytes long", secret.ErrInvalid, path, limit)
	}
	return b, nil
}

// bearer is the token of one call. gRPC refuses to send it without TLS.
type bearer struct{ token secret.Value }

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b.token.Reveal())}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

// handshake keeps the error of the last handshake, because gRPC passes on only its text.
type handshake struct {
	credentials.TransportCredentials

	failed atomic.Pointer[error]
}

func (h *handshake) ClientHandshake(
	ctx context.Context, authority string, raw net.Conn,
) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := h.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		h.failed.Store(&err)
		return nil, nil, err
	}
	h.failed.Store(nil)
	return refused{conn}, info, nil
}

// Clone returns h itself. gRPC clones credentials to change the server's name, which never
// happens here.
func (h *handshake) Clone() credentials.TransportCredentials { return h }

// refused is a connection that reports why the server closed it. In TLS 1.3 a server
// refuses a client's certificate only after the client's handshake. By then the client often
// writes already: the write fails, and the reason has to be read from the connection.
type refused struct{ net.Conn }

func (r refused) Write(p []byte) (int, error) {
	n, err := r.Conn.Write(p)
	if err != nil && r.SetReadDeadline(time.Now().Add(time.Second)) == nil {
		if _, why := r.Read(make([]byte, 1)); why != nil && isAlert(why.Error()) {
			err = why
		}
	}
	return n, err
}
