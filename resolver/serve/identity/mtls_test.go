package identity_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
	"inject/resolver/serve/identity"
)

func key(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return k
}

func caTemplate() *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: "a CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(time.Hour),
	}
}

// certify returns a certificate from template for a key, signed by the authority.
func certify(
	t *testing.T, a *harness.Authority, template *x509.Certificate, public crypto.PublicKey,
) *x509.Certificate {
	t.Helper()
	der := a.Sign(template, public)
	cert, err := x509.ParseCertificate(der)
	if err != nil { // crypto/tls refuses it, too
		return &x509.Certificate{Raw: der}
	}
	return cert
}

// client returns a client certificate that change has edited.
func client(
	t *testing.T, a *harness.Authority, change func(*x509.Certificate), between ...*harness.Authority,
) *tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		Subject:  pkix.Name{CommonName: "common.example.com"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		NotAfter: time.Now().Add(time.Hour),
	}
	change(template)
	k := key(t)
	c := &tls.Certificate{PrivateKey: k, Certificate: [][]byte{certify(t, a, template, k.Public()).Raw}}
	for _, b := range between {
		c.Certificate = append(c.Certificate, b.Cert.Raw)
	}
	return c
}

// names are the subject alternative names, with URIs as texts.
func names(t *testing.T, dns []string, uris ...string) func(*x509.Certificate) {
	t.Helper()
	return func(c *x509.Certificate) {
		var all []asn1.RawValue
		for _, name := range dns {
			all = append(all, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte(name)})
		}
		for _, u := range uris {
			all = append(all, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(u)})
		}
		if all == nil {
			return
		}
		der, err := asn1.Marshal(all)
		require.NoError(t, err)
		c.ExtraExtensions = append(
			c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: der},
		)
	}
}

// handshake returns the server's state of a connection after a real handshake.
func handshake(t *testing.T, server *tls.Config, client *tls.Certificate) (*tls.ConnectionState, error) {
	t.Helper()
	ca := harness.NewAuthority(t, t.TempDir())
	k := key(t)
	own := certify(t, ca, &x509.Certificate{
		IPAddresses: []net.IP{
			net.IPv4(127, 0, 0, 1),
		}, NotAfter: time.Now().Add(time.Hour), NotBefore: time.Now().Add(-72 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, k.Public())
	server.Certificates = []tls.Certificate{{Certificate: [][]byte{own.Raw}, PrivateKey: k}}
	listener, err := tls.Listen("tcp", netip.MustParseAddrPort("127.0.0.1:0").String(), server)
	require.NoError(t, err)
	defer listener.Close() //nolint:errcheck // a test's

	done := make(chan struct{})
	go func() {
		defer close(done)
		config := &tls.Config{
			RootCAs: ca.Pool(),
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if client == nil {
					return &tls.Certificate{}, nil
				}
				return client, nil
			},
		}
		conn, err := tls.Dial("tcp", listener.Addr().String(), config)
		if err == nil {
			_, _ = conn.Read(make([]byte, 1)) // until the server closes
			_ = conn.Close()
		}
	}()
	conn, err := listener.Accept()
	require.NoError(t, err)
	tlsConn, ok := conn.(*tls.Conn)
	require.True(t, ok)
	err = tlsConn.Handshake()
	state := tlsConn.ConnectionState()
	require.NoError(t, conn.Close())
	<-done
	return &state, err
}

func verifying(ca *harness.Authority) *tls.Config {
	return &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: ca.Pool()}
}

// over returns the credentials of a client with that certificate, which passes the handshake.
func over(t *testing.T, server *tls.Config, client *tls.Certificate) identity.Credentials {
	t.Helper()
	state, err := handshake(t, server, client)
	require.NoError(t, err)
	return identity.Credentials{TLS: state}
}

func TestMTLS(t *testing.T) {
	ca := harness.NewAuthority(t, t.TempDir())
	id := accepts(
		t, identity.MTLS{},
		over(t, verifying(ca), client(t, ca, names(t, nil, "spiffe://example.org/ns/flyte/sa/task-1_a.b"))),
	)
	require.Equal(t, "mtls", id.Method)
	require.Equal(t, "spiffe://example.org/ns/flyte/sa/task-1_a.b", id.Name)
	require.Equal(t, []string{id.Name}, id.Attribute("spiffe"))
	require.Empty(t, id.Attribute("dns"))

	id = accepts(
		t, identity.MTLS{},
		over(t, verifying(ca), client(t, ca, names(t, []string{"A.example.com", "b.example.com"}))),
	)
	require.Equal(t, "a.example.com", id.Name)
	require.Equal(t, []string{"a.example.com", "b.example.com"}, id.Attribute("dns"))
	require.Empty(t, id.Attribute("spiffe"))

	id = accepts(
		t, identity.MTLS{},
		over(t, verifying(ca), client(t, ca, names(t, []string{"a.example.com"}, "spiffe://example.org/x"))),
	)
	require.Equal(t, "spiffe://example.org/x", id.Name)
	require.Equal(t, []string{"a.example.com"}, id.Attribute("dns"))

	// Other URIs are no identity, and the DNS name still is.
	id = accepts(
		t, identity.MTLS{},
		over(t, verifying(ca), client(t, ca, names(t, []string{"a.example.com"}, "https://a.example.com/x", "urn:y"))),
	)
	require.Equal(t, "a.example.com", id.Name)

	passesOn(t, identity.MTLS{}, identity.Credentials{})
	passesOn(t, identity.MTLS{}, over(t, verifying(ca), nil))
	passesOn(t, identity.MTLS{}, bearer("x"))
}

func TestMTLSRefuses(t *testing.T) {
	ca, other := harness.NewAuthority(t, t.TempDir()), harness.NewAuthority(t, t.TempDir())
	good := names(t, nil, "spiffe://example.org/x")
	accepts(t, identity.MTLS{}, over(t, verifying(ca), client(t, ca, good)))

	t.Run("common name only", func(t *testing.T) {
		refuses(t, identity.MTLS{}, over(t, verifying(ca), client(t, ca, names(t, nil))), identity.ReasonName)
		refuses(
			t, identity.MTLS{},
			over(t, verifying(ca), client(t, ca, names(t, nil, "https://example.org/x"))),
			identity.ReasonName,
		)
	})
	t.Run("another CA", func(t *testing.T) {
		_, err := handshake(t, verifying(ca), client(t, other, good))
		require.Error(t, err)
		// If a server by mistake does not verify certificates, they are refused, too.
		lax := &tls.Config{ClientAuth: tls.RequireAnyClientCert, ClientCAs: ca.Pool()}
		for _, signer := range []*harness.Authority{ca, other} {
			refuses(t, identity.MTLS{}, over(t, lax, client(t, signer, good)), identity.ReasonUnverified)
		}
	})
	t.Run("a CA", func(t *testing.T) {
		for _, change := range []func(*x509.Certificate){
			func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true },
			func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign },
			func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign },
		} {
			for _, named := range []func(*x509.Certificate){good, names(t, []string{"a.example.com"})} {
				client := client(t, ca, func(c *x509.Certificate) { named(c); change(c) })
				refuses(t, identity.MTLS{}, over(t, verifying(ca), client), identity.ReasonCA)
			}
		}
	})
	t.Run("expired meanwhile", func(t *testing.T) {
		yesterday := func() *tls.Config {
			c := verifying(ca)
			c.Time = func() time.Time { return time.Now().Add(-24 * time.Hour) } // of the handshake
			return c
		}
		accepts(t, identity.MTLS{}, over(t, yesterday(), client(t, ca, good)))
		expired := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }
		refuses(
			t, identity.MTLS{},
			over(t, yesterday(), client(t, ca, func(c *x509.Certificate) { good(c); expired(c) })),
			identity.ReasonExpired,
		)

		for _, dead := range []bool{false, true} { // the one between leaf and root
			template := caTemplate()
			template.Subject.CommonName = "a CA between"
			if dead {
				expired(template)
			}
			between := &harness.Authority{Key: key(t)}
			between.Cert = certify(t, ca, template, between.Key.Public())
			c := over(t, yesterday(), client(t, between, good, between))
			if dead {
				refuses(t, identity.MTLS{}, c, identity.ReasonExpired)
			} else {
				accepts(t, identity.MTLS{}, c)
			}
		}
	})
}

func TestMTLSSpiffe(t *testing.T) {
	ca := harness.NewAuthority(t, t.TempDir())
	path := func(n int) string { return strings.Repeat("/abc", n/4) + strings.Repeat("x", n%4) }
	for _, id := range []string{
		"spiffe://example.org/x", "spiffe://a/b", "spiffe://1.2.3.4/x", "spiffe://a_b-c.d/A-Z_0.9/...",
		"spiffe://a/.b/c..",
		"spiffe://a" + path(2048-len("spiffe://a")), "spiffe://" + strings.Repeat("a.", 120) + "b/x",
	} {
		got := accepts(t, identity.MTLS{}, over(t, verifying(ca), client(t, ca, names(t, nil, id))))
		require.Equal(t, []string{id}, got.Attribute("spiffe"))
		require.LessOrEqual(t, len(got.Name), 256)
	}
	refused, failed := 0, 0
	for _, ids := range [][]string{
		{"spiffe://a/b", "spiffe://a/c"},
		{"spiffe://a/b", "spiffe://a/b"},
		{"spiffe://a/b", "https://a/b"},
		{"https://a/b", "spiffe://a/b"},
		{"spiffe://a"},
		{"spiffe://a/"},
		{"spiffe://a/b/"},
		{"spiffe://a//b"},
		{"spiffe:///b"},
		{"spiffe:a/b"},
		{"spiffe://"},
		{"spiffe:"},
		{"spiffe://a/."},
		{"spiffe://a/.."},
		{"spiffe://a/./b"},
		{"spiffe://a/b/../c"},
		{"spiffe://A/b"},
		{"spiffe://a:1/b"},
		{"spiffe://u@a/b"},
		{"spiffe://u:p@a/b"},
		{"spiffe://a:/b"},
		{"spiffe://[::1]/b"},
		{"spiffe://a/b?"},
		{"spiffe://a/b?c=d"},
		{"spiffe://a/b#c"},
		{"spiffe://a/%62"},
		{"spiffe://a/b%2fc"},
		{"spiffe://%61/b"},
		{"spiffe://a/b c"},
		{"spiffe://a/b*"},
		{"spiffe://a/b\n"},
		{"spiffe://a/\x00"},
		{"spiffe://a~/b"},
		{"spiffe://a/ü"},
		{"spiffe://a" + path(2049-len("spiffe://a"))},
		{"spiffe://" + strings.Repeat("ab.", 85) + "c/x"},
	} {
		// A DNS name beside it does not make it valid.
		state, err := handshake(t, verifying(ca), client(t, ca, names(t, []string{"a.example.com"}, ids...)))
		if err != nil { // crypto/x509 does not even parse it
			failed++
			continue
		}
		refused++
		refuses(t, identity.MTLS{}, identity.Credentials{TLS: state}, identity.ReasonName)
	}
	require.Greater(t, refused, failed)
}
