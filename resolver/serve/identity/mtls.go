package identity

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// MTLS authenticates client certificates that crypto/tls has verified against the server's
// client CAs. The identity is the certificate's SPIFFE ID, by the rules of SPIFFE's X509-SVID,
// or without one its DNS names. The common name is ignored. Method is mtls, and Name the
// SPIFFE ID or the first DNS name.
type MTLS struct{}

const mtls = "mtls"

// Authenticate implements [Authenticator]. Without a client certificate it returns ErrNone.
func (MTLS) Authenticate(_ context.Context, c Credentials) (Identity, error) {
	if c.TLS == nil || len(c.TLS.PeerCertificates) == 0 {
		return Identity{}, fmt.Errorf("%w: no client certificate", ErrNone)
	}
	// The certificate proves nothing until a chain to a CA is verified.
	if len(c.TLS.VerifiedChains) == 0 || len(c.TLS.VerifiedChains[0]) == 0 {
		return Identity{}, refuse(mtls, ReasonUnverified, "the certificate was not verified at the handshake")
	}
	// A connection may outlive its certificate, or that of the CA.
	if until := validUntil(c.TLS.VerifiedChains); !time.Now().Before(until) {
		return Identity{}, refuse(
			mtls, ReasonExpired, "the certificate, or one that signed it, has expired (%s)",
			until.UTC().Format(time.RFC3339),
		)
	}
	leaf := c.TLS.VerifiedChains[0][0]
	if leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return Identity{}, refuse(mtls, ReasonCA, "the certificate is that of a CA")
	}
	attributes := map[string][]string{}
	for _, name := range leaf.DNSNames {
		attributes["dns"] = append(attributes["dns"], strings.ToLower(name))
	}
	id, err := spiffeID(leaf.URIs)
	switch {
	case err != nil:
		return Identity{}, err
	case id != "":
		attributes["spiffe"] = []string{id}
		return New(mtls, id, attributes), nil
	case len(attributes["dns"]) > 0:
		return New(mtls, attributes["dns"][0], attributes), nil
	}
	return Identity{}, refuse(
		mtls, ReasonName, "the certificate has no SPIFFE ID and no DNS name (the common name is ignored)",
	)
}

// validUntil returns when the last of the chains expires.
func validUntil(chains [][]*x509.Certificate) time.Time {
	var longest time.Time
	for _, chain := range chains {
		if len(chain) == 0 {
			continue
		}
		end := chain[0].NotAfter
		for _, cert := range chain[1:] {
			if cert.NotAfter.Before(end) {
				end = cert.NotAfter
			}
		}
		if end.After(longest) {
			longest = end
		}
	}
	return longest
}

const (
	maxSPIFFE      = 2048 // bytes of a SPIFFE ID (SPIFFE-ID 2.3)
	maxTrustDomain = 255
)

// spiffe matches a SPIFFE ID: a trust domain and a path of plain segments, without the other
// parts of a URL. The ID of a workload has a path (SPIFFE-ID 2, X509-SVID 5.2).
var spiffe = regexp.MustCompile(`^spiffe://([a-z0-9._-]+)(?:/[a-zA-Z0-9._-]+)+$`)

// spiffeID returns the SPIFFE ID among the URIs of a certificate, or "" if there is none. A
// certificate with a SPIFFE ID and another URI is refused, because its identity is ambiguous
// (X509-SVID 2).
func spiffeID(uris []*url.URL) (string, error) {
	found := false
	for _, u := range uris {
		found = found || u.Scheme == "spiffe"
	}
	if !found {
		return "", nil
	}
	if len(uris) != 1 {
		return "", refuse(
			mtls, ReasonName, "the certificate has %d URIs; with a SPIFFE ID, only one is allowed", len(uris),
		)
	}
	id := uris[0].String() // including a user, port, escapes, query or fragment, which spiffe refuses
	m := spiffe.FindStringSubmatch(id)
	if m == nil || len(id) > maxSPIFFE || len(m[1]) > maxTrustDomain {
		return "", refuse(mtls, ReasonName, "the certificate's SPIFFE ID is invalid")
	}
	for segment := range strings.SplitSeq(id, "/") {
		if segment == "." || segment == ".." {
			return "", refuse(mtls, ReasonName, "the certificate's SPIFFE ID is invalid")
		}
	}
	return id, nil
}
