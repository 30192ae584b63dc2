package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"slices"
	"time"

	"inject/resolver/secret"
)

// back is by how much certificates begin earlier than they are made, for clients whose clocks are slow.
const back = 5 * time.Minute

// An authority signs certificates of servers.
type authority struct {
	cert *x509.Certificate
	key  secret.Value // PKCS #8 in PEM
	// crossed is the certificate that the authority before has signed for the same key, nil if there was
	// none. Servers send it behind their own.
	crossed *x509.Certificate
}

// newAuthority makes an authority, which before signs if it is not nil.
func newAuthority(now time.Time, life time.Duration, before *authority) (*authority, error) {
	key, text, err := newKey()
	if err != nil {
		return nil, err
	}
	// The name differs from that of all others: clients find the certificate of a signature by its name.
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "inject authority " + now.UTC().Format("2006-01-02T15:04:05.000Z")},
		NotBefore: now.Add(-back), NotAfter: now.Add(life),
		IsCA: true, BasicConstraintsValid: true, MaxPathLen: 1,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	a := &authority{key: text}
	if a.cert, err = sign(template, template, key.Public(), key); err != nil || before == nil {
		return a, err
	}
	signer, err := before.signer()
	if err != nil {
		return nil, err
	}
	template.MaxPathLen, template.MaxPathLenZero = 0, true
	template.NotAfter = earlier(template.NotAfter, before.cert.NotAfter)
	a.crossed, err = sign(template, before.cert, key.Public(), signer)
	return a, err
}

func (a *authority) signer() (crypto.Signer, error) {
	block, _ := pem.Decode(a.key.Reveal()) // to sign
	if block == nil {
		return nil, errors.New("it is not PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("it is no private key in PKCS #8") // the error might quote it
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("it is no key that signs")
	}
	return signer, nil
}

// issue makes the certificate of a server, which does not last longer than the authority.
func (a *authority) issue(now time.Time, life time.Duration, names []string) (*pair, error) {
	signer, err := a.signer()
	if err != nil {
		return nil, err
	}
	key, text, err := newKey()
	if err != nil {
		return nil, err
	}
	cert, err := sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "inject"}, DNSNames: names,
		NotBefore: now.Add(-back), NotAfter: earlier(now.Add(life), a.cert.NotAfter),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a.cert, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	chain := []*x509.Certificate{cert}
	if a.crossed != nil && now.Before(a.crossed.NotAfter) {
		chain = append(chain, a.crossed)
	}
	return newPair(encode(chain...), text)
}

// A pair is the certificate of a server with its key.
type pair struct {
	cert []byte       // PEM: the certificate, and those that are sent with it
	key  secret.Value // PEM
	tls  *tls.Certificate
}

// newPair returns an error if cert and key do not belong together. The error quotes neither.
func newPair(cert []byte, key secret.Value) (*pair, error) {
	both, err := tls.X509KeyPair(cert, key.Reveal()) // for handshakes
	if err != nil {
		return nil, err
	}
	return &pair{cert, key, &both}, nil
}

// begin and end are those of the certificate.
func (p *pair) begin() time.Time { return p.tls.Leaf.NotBefore }
func (p *pair) end() time.Time   { return p.tls.Leaf.NotAfter }

// good returns nil if clients that trust roots accept the certificate at a time, for each of names.
func (p *pair) good(now time.Time, names []string, roots []*x509.Certificate) error {
	o := x509.VerifyOptions{CurrentTime: now, Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool()}
	for _, root := range roots {
		o.Roots.AddCert(root)
	}
	for _, der := range p.tls.Certificate[1:] {
		if between, err := x509.ParseCertificate(der); err == nil {
			o.Intermediates.AddCert(between)
		}
	}
	if _, err := p.tls.Leaf.Verify(o); err != nil {
		return err
	}
	for _, name := range names {
		if err := p.tls.Leaf.VerifyHostname(name); err != nil {
			return err
		}
	}
	return nil
}

// has reports whether the certificate has exactly these names.
func (p *pair) has(names []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(p.tls.Leaf.DNSNames)), slices.Sorted(slices.Values(names)))
}

func newKey() (crypto.Signer, secret.Value, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, secret.Value{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, secret.Value{}, err
	}
	return key, secret.NewValue(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}

func sign(template, parent *x509.Certificate, key crypto.PublicKey, by crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, by)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func encode(certs ...*x509.Certificate) []byte {
	var text bytes.Buffer
	for _, c := range certs {
		_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a buffer takes all
	}
	return text.Bytes()
}

// decode returns the certificates in text, which has nothing else.
func decode(text []byte) (all []*x509.Certificate, err error) {
	for len(bytes.TrimSpace(text)) > 0 {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("it has something else than certificates in PEM")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errors.New("one of its certificates cannot be parsed")
		}
		all = append(all, cert)
	}
	return all, nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
