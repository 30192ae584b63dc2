// Package rpc is the client's end of the wire: a resolver, and a store that can
// be managed, behind an injectd. It speaks gRPC, checks what it sends and what
// comes back, and gives the errors of the server the words of package secret.
//
// It decides nothing: who is calling, and what they may, is the server's. It
// knows no other store, keeps nothing of what it was told, and changes nothing
// twice.
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

	secretpb "inject/resolver/idl/flyteidl2/secret"
	injectv1 "inject/resolver/idl/inject/v1"
	"inject/resolver/secret"
	"inject/resolver/store"
)

// MaxRequest is the longest request, in bytes: what gRPC servers take by default.
const MaxRequest = 4 << 20

const (
	// maxResolved is the longest answer to a declared list, in bytes. With it a
	// server that is none cannot take all memory that a task has.
	maxResolved = 64 << 20
	// maxFile is how much is read of a file with certificates, in bytes.
	maxFile = 1 << 20
	// maxToken is the longest token, in bytes. Headers of several times that are
	// refused by servers and by what is before them.
	maxToken = 16 << 10
)

// retryAfter is the first wait before a call is repeated; the others are three times as long
// each. Tests shorten it.
var retryAfter = 100 * time.Millisecond

// serviceConfig repeats calls that change nothing when the server is not there, for about 40
// times retryAfter in all, which is 4 s: what a restart takes. A change is never repeated,
// because it may have been made. gRPC varies the waits by a fifth.
func serviceConfig() string {
	return fmt.Sprintf(`{"methodConfig": [{
	"name": [
		{"service": "inject.v1.ResolveService"},
		{"service": "flyteidl2.secret.SecretService", "method": "GetSecret"},
		{"service": "flyteidl2.secret.SecretService", "method": "ListSecrets"}
	],
	"retryPolicy": {
		"maxAttempts": 5, "initialBackoff": "%.3fs", "backoffMultiplier": 3, "maxBackoff": "5s",
		"retryableStatusCodes": ["UNAVAILABLE"]
	}
}]}`, retryAfter.Seconds())
}

// connecting is how often a connection is tried: often enough that one of the repeated
// calls finds a server that has come back.
func connecting() grpc.ConnectParams {
	return grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: retryAfter, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 10 * retryAfter},
		MinConnectTimeout: 10 * time.Second,
	}
}

// Options say where a server is and how it and its client know each other.
type Options struct {
	// Address is host:port. The server's certificate must be for the host.
	Address string
	// TLS is false only for a server on this machine's own loopback interface,
	// which is then told neither a token nor who is calling.
	TLS bool
	// CAFile holds the certificates of the authorities that the server's may be
	// of, in PEM; "" for those of the system.
	CAFile string
	// CertFile holds the client's certificate, in PEM, and KeyFile its private key;
	// KeyFile is "" if the key is in CertFile, too. They are read for each
	// connection, so that they can be renewed. Both "" for none.
	CertFile, KeyFile string
	// TokenFile holds a bearer token, which is read for each call, since it is
	// renewed, too; "" for the one in Token, or none. It is sent to Address and
	// nowhere else.
	TokenFile string
	// Token is a bearer token, as a file would hold it; empty for none. Not beside
	// TokenFile.
	Token secret.Value
	// Timeout ends a call whose context has no deadline, so that a server that never
	// answers is an error. Zero for no limit.
	Timeout time.Duration
}

// A Client is a server that is asked over one connection: a [resolver.Resolver]
// and a [store.Importer]. Safe for concurrent use.
type Client struct {
	conn      *grpc.ClientConn
	o         Options
	handshake *handshake

	resolving injectv1.ResolveServiceClient
	importing injectv1.ImportServiceClient
	secrets   secretpb.SecretServiceClient
}

// Open returns a client of the server that o names, and connects with its first
// call. Its errors wrap [secret.ErrInvalid]: o is wrong, or a file in it. The
// proxy that HTTPS_PROXY names is used as everywhere; TLS ends at the server.
func Open(o Options) (*Client, error) {
	host, port, err := net.SplitHostPort(o.Address)
	if err != nil || host == "" || port == "" {
		return nil, secret.WithHint(fmt.Errorf("%w: the address of a server is host:port", secret.ErrInvalid), "such as grpcs://injectd.example.com:8443")
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
		grpc.WithDisableServiceConfig(), // the one in DNS: whoever answers there decides nothing here
		grpc.WithDefaultServiceConfig(serviceConfig()),
		grpc.WithConnectParams(connecting()),
		grpc.WithUnaryInterceptor(c.invoke),
	}
	if !o.TLS {
		// Go exempts localhost from HTTPS_PROXY, but not LocalHost or localhost. with a dot:
		// values would leave the machine in the clear.
		options = append(options, grpc.WithNoProxy())
	}
	c.conn, err = grpc.NewClient("dns:///"+o.Address, options...)
	if err != nil {
		return nil, fmt.Errorf("%w: the address of the server: %w", secret.ErrInvalid, err)
	}
	c.resolving, c.importing = injectv1.NewResolveServiceClient(c.conn), injectv1.NewImportServiceClient(c.conn)
	c.secrets = secretpb.NewSecretServiceClient(c.conn)
	return c, nil
}

// Close ends the connection, and what is being asked over it.
func (c *Client) Close() error { return c.conn.Close() }

// loopback prepares a connection without TLS.
func (c *Client) loopback(host string) error {
	if !store.Loopback(host) {
		return secret.WithHint(fmt.Errorf("%w: without TLS a server is asked on localhost only, not at %.80q", secret.ErrInvalid, host), "grpcs://%s", c.o.Address)
	}
	if c.hasToken() || c.o.CAFile != "" || c.o.CertFile != "" || c.o.KeyFile != "" {
		return secret.WithHint(fmt.Errorf("%w: a token or a certificate needs TLS", secret.ErrInvalid), "grpcs://%s, or leave them out", c.o.Address)
	}
	c.handshake.TransportCredentials = insecure.NewCredentials()
	return nil
}

// secure prepares a connection with TLS. What is wrong with a file is told now
// and not by a server, of which it would be read too late.
func (c *Client) secure() error {
	config := &tls.Config{MinVersion: tls.VersionTLS13}
	var errs []error
	if c.o.CAFile != "" {
		pem, err := readFile("authorities", c.o.CAFile, maxFile)
		config.RootCAs = x509.NewCertPool()
		if err == nil && !config.RootCAs.AppendCertsFromPEM(pem) {
			err = fmt.Errorf("%w: there is no certificate in %s", secret.ErrInvalid, c.o.CAFile)
		}
		errs = append(errs, err)
	}
	if c.o.KeyFile != "" && c.o.CertFile == "" {
		errs = append(errs, secret.WithHint(fmt.Errorf("%w: a private key without its certificate", secret.ErrInvalid), "--cert-file FILE names it"))
	}
	if c.o.CertFile != "" {
		_, err := c.certificate()
		errs = append(errs, err)
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.certificate() }
	}
	if c.hasToken() {
		_, err := c.token()
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
		key, err = readFile("private key", c.o.KeyFile, maxFile)
	}
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if c.o.KeyFile == "" {
		clear(key)
	}
	if err != nil { // which says what of PEM is missing, never what is there
		where := c.o.CertFile
		if c.o.KeyFile != "" {
			where += " and " + c.o.KeyFile
		}
		return nil, secret.WithHint(fmt.Errorf("%w: the client's certificate and key in %s: %w", secret.ErrInvalid, where, err),
			"PEM: the certificate in --cert-file, its private key there, too, or in --key-file, which for a server is that key")
	}
	return &pair, nil
}

func (c *Client) hasToken() bool { return c.o.TokenFile != "" || c.o.Token.Len() > 0 }

// token returns the bearer token. Errors say where it is, never what it is.
func (c *Client) token() (secret.Value, error) {
	b, where := c.o.Token.Reveal(), "that was given"
	if c.o.TokenFile != "" {
		var err error
		if b, err = readFile("token", c.o.TokenFile, maxToken+2); err != nil {
			return secret.Value{}, err
		}
		where = "in " + c.o.TokenFile
	}
	for _, end := range []byte("\n\r") { // of a line, as editors and Windows leave it
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
			why = "is more than one word of printable ASCII"
		}
	}
	if why != "" {
		return secret.Value{}, fmt.Errorf("%w: the token %s %s", secret.ErrInvalid, where, why)
	}
	return secret.NewValue(b), nil
}

// readFile returns what is in a file, which is at most limit bytes long. An error says
// what it was to be.
func readFile(what, path string, limit int64) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // the user's own, as they have named it
	if err != nil {
		return nil, fmt.Errorf("%w: the file with the %s for the server: %w", secret.ErrInvalid, what, err)
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

// bearer is a token for one call. gRPC refuses to send it without TLS.
type bearer struct{ token secret.Value }

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b.token.Reveal())}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

// handshake keeps the error of the last one, of which gRPC keeps the text only.
type handshake struct {
	credentials.TransportCredentials

	failed atomic.Pointer[error]
}

func (h *handshake) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := h.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		h.failed.Store(&err)
		return nil, nil, err
	}
	h.failed.Store(nil)
	return refused{conn}, info, nil
}

// Clone returns h itself: gRPC clones to change the server's name, which is not
// done here.
func (h *handshake) Clone() credentials.TransportCredentials { return h }

// refused is a connection that a server may end because of who is calling. In TLS
// 1.3 it says so only after the client's handshake, and often when the client has
// begun to write: then writing fails, and the reason is left to be read.
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
