package transport

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"inject/internal/keyfile"
	"inject/resolver/secret"
	"inject/resolver/serve/watch"
)

// CertificateFiles name the server's certificate and the CAs of its clients.
type CertificateFiles struct {
	Cert string // PEM: the certificate and the intermediate ones up to its CA
	Key  string // PEM: the private key, not open to others; "" if Cert holds it, too
	// Kept returns the server's certificate in place of Cert and Key, if it is not nil. It is called for each
	// connection. The certificate is nil before there is one; an error beside it says why it may be an old one.
	Kept     func() (*tls.Certificate, error)
	ClientCA string // PEM: the CAs of client certificates; "" to ask for none
	// ClientCRL holds lists of revoked client certificates, PEM or DER, each signed by one of
	// the CAs; "" for none. It needs ClientCA.
	ClientCRL string
}

// Certificates follow changes of the files: a new connection uses their current contents.
// Existing connections stay open, but those of clients that are no longer trusted; see
// [Certificates.Guard]. It is safe for concurrent use.
type Certificates struct {
	log       hclog.Logger
	cert, key *watch.Watched[[]byte]           // nil with kept
	kept      func() (*tls.Certificate, error) // nil if the certificate is in files
	clients   *clients                         // nil to ask for no client certificate

	mu        sync.Mutex
	pair      *tls.Certificate
	made      [2][]byte // the files that pair was made from
	refused   [2][]byte // the files that could not be used
	lastError error
}

// LoadCertificates reads the files and watches them until ctx ends. If the certificate and
// the key do not match, as happens while they are replaced one after the other, the previous
// pair stays in use.
func LoadCertificates(ctx context.Context, files CertificateFiles, log hclog.Logger) (*Certificates, error) {
	keep := func(what, path string, check func(string) error) (*watch.Watched[[]byte], error) {
		w, err := watch.Load(ctx, path, func(b []byte) ([]byte, error) { return b, check(path) }, log)
		if err != nil {
			err = fmt.Errorf("%w: %s: %w", secret.ErrInvalid, what, err)
		}
		return w, err
	}
	c := &Certificates{log: log, kept: files.Kept}
	var err, err2, err3 error
	if c.kept == nil {
		c.cert, err = keep("--cert-file", files.Cert, func(string) error { return nil })
		c.key, err2 = keep("--cert-key-file", cmp.Or(files.Key, files.Cert), keyfile.Check)
	}
	if err2 != nil && files.Key == "" {
		err2 = secret.WithHint(err2, "if the private key is in a file of its own, give that with --cert-key-file")
	}
	if files.ClientCA != "" {
		c.clients, err3 = loadClients(ctx, files.ClientCA, files.ClientCRL, log)
	}
	if c.kept == nil && err == nil && err2 == nil { // also beside an error of the CAs: all are reported at once
		_, err = c.current()
	}
	if err := errors.Join(err, err2, err3); err != nil {
		return nil, err
	}
	return c, nil
}

// OwnCA is the flaw of a server's certificate that is also a CA's, as a self-signed one usually is. Go's
// clients accept it, and those with rustls, such as Flyte's command line, refuse it with
// CaUsedAsEndEntity.
const OwnCA = "is a CA's, which Flyte's command line refuses: make a CA, and have it sign another certificate for " +
	"the server"

// current returns the certificate in use. The error says why it is not that of the files.
func (c *Certificates) current() (*tls.Certificate, error) {
	if c.kept != nil {
		return c.kept()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := [2][]byte{c.cert.Current(), c.key.Current()}
	same := func(a, b [2][]byte) bool { return bytes.Equal(a[0], b[0]) && bytes.Equal(a[1], b[1]) }
	switch {
	case c.pair != nil && same(now, c.made):
		c.lastError = nil
		return c.pair, nil
	case c.lastError != nil && same(now, c.refused):
		return c.pair, c.lastError
	}
	pair, err := tls.X509KeyPair(now[0], now[1])
	if err != nil {
		err = fmt.Errorf("%w: the server's certificate and key: %w", secret.ErrInvalid, err)
		c.refused, c.lastError = now, err
		if c.pair != nil {
			c.log.Error("the certificates cannot be used, so the previous ones stay in use", "error", err)
		}
		return c.pair, err
	}
	if c.pair != nil {
		c.log.Info("the certificates were replaced", "expires", pair.Leaf.NotAfter)
	}
	if pair.Leaf.IsCA {
		c.log.Warn("the server's certificate "+OwnCA, "subject", pair.Leaf.Subject.String())
	}
	c.pair, c.made, c.lastError = &pair, now, nil
	return &pair, nil
}

// Err returns why the contents of the files are not in use, or nil if they are.
func (c *Certificates) Err() error {
	_, err := c.current()
	if c.kept == nil {
		err = errors.Join(err, c.cert.Err(), c.key.Err())
	}
	if c.clients != nil {
		err = errors.Join(err, c.clients.authorities.Err())
		if c.clients.revocations != nil {
			err = errors.Join(err, c.clients.revocations.Err())
		}
	}
	return err
}

// A Source tells by Err why what a file holds now is not in use, nil if it is.
type Source interface{ Err() error }

// Sources returns the files by the names of their flags. That of the certificate also tells if it
// does not match its key.
func (c *Certificates) Sources() map[string]Source {
	all := map[string]Source{}
	if c.kept == nil {
		all["cert-file"], all["cert-key-file"] = pairSource{c}, c.key
	}
	if c.clients != nil {
		all["client-ca-file"] = c.clients.authorities
		if c.clients.revocations != nil {
			all["client-crl-file"] = c.clients.revocations
		}
	}
	return all
}

type pairSource struct{ *Certificates }

// Err implements [Source].
func (p pairSource) Err() error {
	_, err := p.current()
	return errors.Join(err, p.cert.Err())
}

// Revoked returns how many client certificates the lists revoke, and what is wrong with a
// list although it can be read: its CA is not trusted, or it should have been renewed. Such
// a list of a trusted CA stays in force.
func (c *Certificates) Revoked() (certificates int, warnings []string) {
	if c.clients == nil {
		return 0, nil
	}
	t := c.clients.current()
	return len(t.revoked), t.warnings
}

// NotAfter returns when the server's certificate expires, the zero time if there is none yet.
func (c *Certificates) NotAfter() time.Time {
	pair, _ := c.current()
	if pair == nil {
		return time.Time{}
	}
	return pair.Leaf.NotAfter
}

// ClientCANotAfter returns when the first of the CAs of client certificates expires, the zero
// time without such CAs.
func (c *Certificates) ClientCANotAfter() (first time.Time) {
	if c.clients == nil {
		return first
	}
	for _, ca := range c.clients.current().authorities.certs {
		first = earlier(first, ca.NotAfter)
	}
	return first
}

// ClientCRLNextUpdate returns when the first of the lists of revoked certificates that are
// used should be renewed, the zero time if no list says so.
func (c *Certificates) ClientCRLNextUpdate() time.Time {
	if c.clients == nil {
		return time.Time{}
	}
	return c.clients.current().nextUpdate
}

// earlier returns the earlier of two times, of which the zero time is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// TLS returns the configuration of a listener: TLS 1.3 with HTTP/2 or HTTP/1.1. If there is
// a CA for them, client certificates are requested and verified, but not required, because a
// client may send a token instead.
func (c *Certificates) TLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2", "http/1.1"},
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if one := under(hello.Conn); one != nil {
				one.compute()
			}
			pair, err := c.current()
			if pair == nil {
				return nil, err
			}
			one := &tls.Config{
				MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"},
				Certificates: []tls.Certificate{*pair},
				// A session ticket would still admit a client after its CA is removed.
				SessionTicketsDisabled: true,
			}
			if c.clients == nil {
				return one, nil
			}
			one.ClientAuth, one.ClientCAs = tls.VerifyClientCertIfGiven, c.clients.current().authorities.pool
			// Not hello itself: the connection keeps this function, and with it the 2 KB of hello.
			peer, ok := hello.Conn.(*peerConn)
			one.VerifyConnection = func(s tls.ConnectionState) error {
				if !ok {
					return errors.New("a port that Listen did not open")
				}
				if len(s.PeerCertificates) == 0 {
					return nil
				}
				return c.clients.admit(peer, s.PeerCertificates)
			}
			return one, nil
		},
	}
}
