package harness

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// Authority is a certificate authority of one test. It is valid from two days ago to two
// days ahead.
type Authority struct {
	Dir  string // holds ca.pem, and the files of [Authority.Issue]
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey

	t T
}

// NewAuthority makes an authority and writes its certificate to ca.pem in dir, which is
// made if it does not exist.
func NewAuthority(t T, dir string) *Authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	return newAuthority(t, dir, key)
}

// Renewed is [NewAuthority] with the name and the key of a, and another certificate.
func (a *Authority) Renewed(dir string) *Authority { return newAuthority(a.t, dir, a.Key) }

func newAuthority(t T, dir string, key *ecdsa.PrivateKey) *Authority {
	a := &Authority{Dir: dir, Key: key, t: t}
	check(t, os.MkdirAll(dir, 0o700))
	a.Cert = &x509.Certificate{
		Subject: pkix.Name{CommonName: "test CA"},
		IsCA:    true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der := a.Sign(a.Cert, a.Key.Public())
	var err error
	a.Cert, err = x509.ParseCertificate(der)
	check(t, err)
	a.write("ca.pem", "CERTIFICATE", der)
	return a
}

// Path returns the path of a file of the authority's folder.
func (a *Authority) Path(name string) string { return filepath.Join(a.Dir, name) }

// CA returns the path of the authority's certificate.
func (a *Authority) CA() string { return a.Path("ca.pem") }

// Pool returns the authority as the only one that a peer trusts.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.Cert)
	return pool
}

// Sign signs template for a key and returns the certificate's DER. It fills in the serial
// number and, where the template leaves it open, the validity.
func (a *Authority) Sign(template *x509.Certificate, public crypto.PublicKey) []byte {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	check(a.t, err)
	template.SerialNumber = serial
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-48 * time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(48 * time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.Cert, public, a.Key)
	check(a.t, err)
	return der
}

// Issue makes a certificate for clients and servers, as the changes want it, and writes it
// and its key to NAME.pem and NAME.key. It returns the paths of both.
func (a *Authority) Issue(name string, changes ...func(*x509.Certificate)) (cert, key string) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(a.t, err)
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, change := range changes {
		change(template)
	}
	der := a.Sign(template, k.Public())
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	check(a.t, err)
	a.write(name+".pem", "CERTIFICATE", der)
	a.write(name+".key", "PRIVATE KEY", pkcs8)
	return a.Path(name + ".pem"), a.Path(name + ".key")
}

// Pair is [Authority.Issue] for a peer inside the test.
func (a *Authority) Pair(name string, changes ...func(*x509.Certificate)) tls.Certificate {
	pair, err := tls.LoadX509KeyPair(a.Issue(name, changes...))
	check(a.t, err)
	return pair
}

// Revoke returns the DER of the authority's list of revoked certificates, with those that
// [Authority.Issue] made under names.
func (a *Authority) Revoke(names ...string) []byte {
	list := &x509.RevocationList{
		Number: big.NewInt(time.Now().UnixNano()), ThisUpdate: time.Now().Add(-time.Hour),
		NextUpdate: time.Now().Add(time.Hour),
	}
	for _, name := range names {
		text, err := os.ReadFile(a.Path(name + ".pem"))
		check(a.t, err)
		block, _ := pem.Decode(text)
		cert, err := x509.ParseCertificate(block.Bytes)
		check(a.t, err)
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: cert.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.Cert, a.Key)
	check(a.t, err)
	return der
}

func (a *Authority) write(name, kind string, der []byte) {
	check(a.t, os.WriteFile(a.Path(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

// Local makes a certificate one of a server on this machine.
func Local(c *x509.Certificate) {
	c.DNSNames, c.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
}

// SPIFFE makes a certificate one of a client with a SPIFFE ID.
func (a *Authority) SPIFFE(id string) func(*x509.Certificate) {
	u, err := url.Parse(id)
	check(a.t, err)
	return func(c *x509.Certificate) { c.URIs = []*url.URL{u} }
}

// Expires ends a certificate's validity at a time.
func Expires(at time.Time) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.NotAfter = at }
}
