package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"inject/resolver/secret"
	"inject/resolver/serve/watch"
)

// authorities are the CAs of client certificates.
type authorities struct {
	certs []*x509.Certificate
	pool  *x509.CertPool
}

func parseAuthorities(file []byte) (*authorities, error) {
	a := &authorities{pool: x509.NewCertPool()}
	for block, rest := pem.Decode(file); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: certificate %d: %w", secret.ErrInvalid, len(a.certs)+1, err)
		}
		a.certs = append(a.certs, cert)
		a.pool.AddCert(cert)
	}
	if a.certs == nil {
		return nil, fmt.Errorf("%w: the file of client CAs holds no certificate", secret.ErrInvalid)
	}
	return a, nil
}

// revocations are the lists of a CRL file (RFC 5280, 5).
type revocations struct{ lists []*x509.RevocationList }

// The extensions of a list and of its entries that change what it means.
var (
	issuingPoint = asn1.ObjectIdentifier{2, 5, 29, 28} // says which certificates the list is about
	deltaList    = asn1.ObjectIdentifier{2, 5, 29, 27} // the list has only the changes of another one
)

// parseRevocations reads one or more lists, as PEM or one after the other as DER.
func parseRevocations(file []byte) (*revocations, error) {
	r := &revocations{}
	var ders [][]byte
	if bytes.Contains(file, []byte("-----BEGIN")) {
		for block, rest := pem.Decode(file); block != nil; block, rest = pem.Decode(rest) {
			if block.Type == "X509 CRL" {
				ders = append(ders, block.Bytes)
			}
		}
	} else {
		for rest := file; len(rest) > 0; {
			var one asn1.RawValue
			after, err := asn1.Unmarshal(rest, &one)
			if err != nil {
				return nil, fmt.Errorf("%w: neither PEM nor DER: %w", secret.ErrInvalid, err)
			}
			ders, rest = append(ders, one.FullBytes), after
		}
	}
	if ders == nil {
		return nil, fmt.Errorf("%w: the file holds no list of revoked certificates (X509 CRL)", secret.ErrInvalid)
	}
	for i, der := range ders {
		list, err := x509.ParseRevocationList(der)
		if err == nil {
			err = supported(list)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: list %d: %w", secret.ErrInvalid, i+1, err)
		}
		r.lists = append(r.lists, list)
	}
	return r, nil
}

// supported returns an error for a list with an extension without which it would be
// misunderstood: some certificates would not be revoked, or those of another CA.
func supported(list *x509.RevocationList) error {
	for _, e := range list.Extensions {
		if e.Id.Equal(deltaList) {
			return errors.New("it is a delta CRL: give the complete list")
		}
		if e.Critical && !e.Id.Equal(issuingPoint) {
			return fmt.Errorf("it has the critical extension %v, which is not supported", e.Id)
		}
	}
	for _, entry := range list.RevokedCertificateEntries {
		for _, e := range entry.Extensions {
			if e.Critical {
				return fmt.Errorf("an entry has the critical extension %v, which is not supported (indirect CRL)", e.Id)
			}
		}
	}
	return nil
}

// A trust decides which client certificates are good. Another one takes its place when a file
// that it is made from changes.
type trust struct {
	authorities *authorities
	revocations *revocations    // nil without a CRL file
	revoked     map[string]bool // by issuer and serial number
	warnings    []string        // about lists
	nextUpdate  time.Time       // the earliest of the lists that are used; zero for none
}

func newTrust(a *authorities, r *revocations) *trust {
	t := &trust{authorities: a, revocations: r, revoked: map[string]bool{}}
	if r == nil {
		return t
	}
	for i, list := range r.lists {
		if !a.signed(list) {
			// No error, because a CA that is removed while its list stays must not be trusted on.
			t.warnings = append(t.warnings, fmt.Sprintf(
				"list %d (of %.100q) is not used: it is signed by no CA of --client-ca-file",
				i+1, list.Issuer.String()))
			continue
		}
		t.nextUpdate = earlier(t.nextUpdate, list.NextUpdate)
		if !list.NextUpdate.IsZero() && time.Now().After(list.NextUpdate) {
			t.warnings = append(t.warnings, fmt.Sprintf("list %d (of %.100q) should have been renewed by %s",
				i+1, list.Issuer.String(), list.NextUpdate.UTC().Format(time.RFC3339)))
		}
		for _, entry := range list.RevokedCertificateEntries {
			t.revoked[string(list.RawIssuer)+entry.SerialNumber.String()] = true
		}
	}
	return t
}

func (a *authorities) signed(list *x509.RevocationList) bool {
	for _, ca := range a.certs {
		if bytes.Equal(ca.RawSubject, list.RawIssuer) && list.CheckSignatureFrom(ca) == nil {
			return true
		}
	}
	return false
}

// verify returns the chains from a peer's certificates to a CA. It is what crypto/tls does at
// the handshake, and looks for revoked certificates, too.
func (t *trust) verify(certs []*x509.Certificate) ([][]*x509.Certificate, error) {
	o := x509.VerifyOptions{
		Roots: t.authorities.pool, Intermediates: x509.NewCertPool(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, cert := range certs[1:] {
		o.Intermediates.AddCert(cert)
	}
	chains, err := certs[0].Verify(o)
	if err != nil {
		return nil, err
	}
	return chains, t.check(chains)
}

var errRevoked = errors.New("the certificate, or one that signed it, is revoked")

// check returns errRevoked if a certificate of any chain is revoked.
func (t *trust) check(chains [][]*x509.Certificate) error {
	for _, chain := range chains {
		for _, cert := range chain {
			if len(t.revoked) > 0 && t.revoked[string(cert.RawIssuer)+cert.SerialNumber.String()] {
				return errRevoked
			}
		}
	}
	return nil
}

// clients follows which client certificates are trusted, and ends the connections of those
// that no longer are.
type clients struct {
	log         hclog.Logger
	authorities *watch.Watched[*authorities]
	revocations *watch.Watched[*revocations] // nil without a CRL file

	mu    sync.Mutex
	trust *trust
	open  map[*peerConn]struct{} // those with a verified certificate
}

// loadClients reads the files of the CAs and, if crl is not "", of revoked certificates.
func loadClients(ctx context.Context, ca, crl string, log hclog.Logger) (*clients, error) {
	c := &clients{log: log, open: map[*peerConn]struct{}{}}
	ready := make(chan struct{})
	ctx = watch.Notify(ctx, func(string, error) {
		<-ready // both files are loaded
		c.sweep()
	})
	var err, err2 error
	if c.authorities, err = watch.Load(ctx, ca, parseAuthorities, log); err != nil {
		err = fmt.Errorf("%w: --client-ca-file: %w", secret.ErrInvalid, err)
	}
	if crl != "" {
		if c.revocations, err2 = watch.Load(ctx, crl, parseRevocations, log); err2 != nil {
			err2 = fmt.Errorf("%w: --client-crl-file: %w", secret.ErrInvalid, err2)
		}
	}
	if err := errors.Join(err, err2); err != nil {
		return nil, err
	}
	c.current()
	close(ready)
	return c, nil
}

// current returns the trust in force.
func (c *clients) current() *trust {
	c.mu.Lock() // also while the files are read: an older trust must not replace a newer one
	defer c.mu.Unlock()
	a := c.authorities.Current()
	var r *revocations
	if c.revocations != nil {
		r = c.revocations.Current()
	}
	if c.trust == nil || c.trust.authorities != a || c.trust.revocations != r {
		c.trust = newTrust(a, r)
		for _, warning := range c.trust.warnings {
			c.log.Warn("a list of revoked certificates", "warning", warning)
		}
	}
	return c.trust
}

// sweep closes every connection whose certificate is no longer trusted.
func (c *clients) sweep() {
	t := c.current()
	c.mu.Lock()
	open := make([]*peerConn, 0, len(c.open))
	for conn := range c.open {
		open = append(open, conn)
	}
	c.mu.Unlock()
	ended := 0
	for _, conn := range open {
		if _, err := conn.trusted(t); err != nil {
			_ = conn.Close()
			ended++
		}
	}
	if ended > 0 {
		c.log.Info("connections were ended, because their certificates are no longer trusted", "connections", ended)
	}
}

// admit is called at the end of a handshake with a client certificate.
func (c *clients) admit(conn *peerConn, certs []*x509.Certificate) error {
	conn.certs = certs
	c.mu.Lock()
	c.open[conn] = struct{}{}
	c.mu.Unlock()
	// Only now, so that a change that comes during the handshake is noticed either here or by
	// sweep.
	_, err := conn.trusted(c.current())
	return err
}

// A peerConn is a connection that may have a client certificate.
type peerConn struct {
	net.Conn

	clients *clients
	certs   []*x509.Certificate // of the client; set once, before the handshake ends

	mu     sync.Mutex
	by     *trust // what has verified certs last, with its result
	chains [][]*x509.Certificate
	err    error
}

// trusted returns the chains of the client's certificate under t.
func (p *peerConn) trusted(t *trust) ([][]*x509.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.by != t {
		p.by = t
		p.chains, p.err = t.verify(p.certs)
	}
	return p.chains, p.err
}

// Close implements [net.Conn].
func (p *peerConn) Close() error {
	p.clients.mu.Lock()
	delete(p.clients.open, p)
	p.clients.mu.Unlock()
	return p.Conn.Close()
}

// peerListener makes its connections known to clients once they have a certificate.
type peerListener struct {
	net.Listener

	clients *clients
}

func (l peerListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &peerConn{Conn: conn, clients: l.clients}, nil
}

type peerKey struct{}

// Guard makes server verify the client certificate of a connection again, at each request
// after its CAs or the lists of revoked certificates have changed. Idle connections and
// running requests of a certificate that is no longer trusted are ended when the change is
// noticed. The server must serve a port of [Listen] with the same c. A nil c, for a port
// without TLS, changes nothing.
func (c *Certificates) Guard(server *http.Server) {
	if c == nil || c.clients == nil {
		return
	}
	before := server.ConnContext
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		if before != nil {
			ctx = before(ctx, conn)
		}
		if t, ok := conn.(*tls.Conn); ok {
			ctx = context.WithValue(ctx, peerKey{}, t.NetConn())
		}
		return ctx
	}
	next := server.Handler
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			next.ServeHTTP(w, r)
			return
		}
		peer, ok := r.Context().Value(peerKey{}).(*peerConn)
		if !ok {
			panic("a port that Listen did not open")
		}
		chains, err := peer.trusted(c.clients.current())
		if err != nil {
			_ = peer.Close()
			panic(http.ErrAbortHandler)
		}
		state := *r.TLS
		state.VerifiedChains = chains
		r.TLS = &state
		next.ServeHTTP(w, r)
	})
}
