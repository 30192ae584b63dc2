package transport

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"inject/resolver/secret"
	"inject/resolver/serve/watch"
)

// CertificateFiles name the server's certificate and the CAs of its clients.
type CertificateFiles struct {
	Cert     string // PEM: the certificate and the intermediate ones up to its CA
	Key      string // PEM: the private key; "" if Cert holds it, too
	ClientCA string // PEM: the CAs of client certificates; "" to ask for none
}

// Certificates follow changes of the files: a new connection uses their current contents,
// and existing connections stay open. It is safe for concurrent use.
type Certificates struct {
	log               hclog.Logger
	cert, key, client *watch.Watched[[]byte] // client is nil to ask for none

	mu        sync.Mutex
	pair      *tls.Certificate
	ca        *x509.CertPool
	made      [3][]byte // the files that pair and ca were made from
	refused   [3][]byte // the files that could not be used
	lastError error
}

// LoadCertificates reads the files and watches them until ctx ends. If the certificate and
// the key do not match, as happens while they are replaced one after the other, the previous
// pair stays in use.
func LoadCertificates(ctx context.Context, files CertificateFiles, log hclog.Logger) (*Certificates, error) {
	keep := func(what, path string) (*watch.Watched[[]byte], error) {
		w, err := watch.Load(ctx, path, func(b []byte) ([]byte, error) { return b, nil }, log)
		if err != nil {
			err = fmt.Errorf("%w: %s: %w", secret.ErrInvalid, what, err)
		}
		return w, err
	}
	c := &Certificates{log: log}
	var err, err2, err3 error
	c.cert, err = keep("--cert-file", files.Cert)
	c.key, err2 = keep("--cert-key-file", cmp.Or(files.Key, files.Cert))
	if files.ClientCA != "" {
		c.client, err3 = keep("--client-ca-file", files.ClientCA)
	}
	if err := errors.Join(err, err2, err3); err != nil {
		return nil, err
	}
	if _, _, err := c.current(); err != nil {
		return nil, err
	}
	return c, nil
}

// current returns the certificate and the CAs in use. The error says why they are not those
// in the files.
func (c *Certificates) current() (*tls.Certificate, *x509.CertPool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := [3][]byte{c.cert.Current(), c.key.Current()}
	if c.client != nil {
		now[2] = c.client.Current()
	}
	same := func(a, b [3][]byte) bool {
		return bytes.Equal(a[0], b[0]) && bytes.Equal(a[1], b[1]) && bytes.Equal(a[2], b[2])
	}
	switch {
	case c.pair != nil && same(now, c.made):
		c.lastError = nil
		return c.pair, c.ca, nil
	case c.lastError != nil && same(now, c.refused):
		return c.pair, c.ca, c.lastError
	}
	pair, ca, err := parseCertificates(now)
	if err != nil {
		c.refused, c.lastError = now, err
		if c.pair != nil {
			c.log.Error("the certificates cannot be used, so the previous ones stay in use", "error", err)
		}
		return c.pair, c.ca, err
	}
	if c.pair != nil {
		c.log.Info("the certificates were replaced", "expires", pair.Leaf.NotAfter)
	}
	c.pair, c.ca, c.made, c.lastError = pair, ca, now, nil
	return pair, ca, nil
}

func parseCertificates(files [3][]byte) (*tls.Certificate, *x509.CertPool, error) {
	pair, err := tls.X509KeyPair(files[0], files[1])
	if err != nil {
		return nil, nil, fmt.Errorf("%w: the server's certificate and key: %w", secret.ErrInvalid, err)
	}
	if files[2] == nil {
		return &pair, nil, nil
	}
	ca := x509.NewCertPool()
	if !ca.AppendCertsFromPEM(files[2]) {
		return nil, nil, fmt.Errorf("%w: the file of client CAs holds no certificate", secret.ErrInvalid)
	}
	return &pair, ca, nil
}

// Err returns why the contents of the files are not in use, or nil if they are.
func (c *Certificates) Err() error {
	_, _, err := c.current()
	watched := []*watch.Watched[[]byte]{c.cert, c.key}
	if c.client != nil {
		watched = append(watched, c.client)
	}
	for _, w := range watched {
		err = errors.Join(err, w.Err())
	}
	return err
}

// NotAfter returns when the server's certificate expires.
func (c *Certificates) NotAfter() time.Time {
	pair, _, _ := c.current()
	return pair.Leaf.NotAfter
}

// TLS returns the configuration of a listener: TLS 1.3 with HTTP/2 or HTTP/1.1. If there is
// a CA for them, client certificates are requested and verified, but not required, because a
// client may send a token instead.
func (c *Certificates) TLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2", "http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			pair, ca, _ := c.current()
			one := &tls.Config{
				MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"},
				Certificates: []tls.Certificate{*pair},
				// A session ticket would still admit a client after its CA is removed.
				SessionTicketsDisabled: true,
			}
			if ca != nil {
				one.ClientAuth, one.ClientCAs = tls.VerifyClientCertIfGiven, ca
			}
			return one, nil
		},
	}
}
