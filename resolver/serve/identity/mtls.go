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

// MTLS knows client certificates that crypto/tls has verified against the server's client
// CAs. The identity is the certificate's SPIFFE ID if it has one, by the rules of SPIFFE's
// X509-SVID, else its DNS names; its common name is nobody's. Method is mtls, Name the
// SPIFFE ID or the first DNS name.
type MTLS struct{}

const mtls = "mtls"

// Authenticate implements [Authenticator]. Without a client certificate it is ErrNone.
func (MTLS) Authenticate(_ context.Context, c Credentials) (Identity, error) {
	if c.TLS == nil || len(c.TLS.PeerCertificates) == 0 {
		return Identity{}, fmt.Errorf("%w: no client certificate", ErrNone)
	}
	// What the peer sent is its own word until there is a chain.
	if len(c.TLS.VerifiedChains) == 0 || len(c.TLS.VerifiedChains[0]) == 0 {
		return Identity{}, refuse(mtls, ReasonUnverified, "the certificate was not verified at the handshake")
	}
	// A connection may outlive its certificate, or that of the CA.
	if until := validUntil(c.TLS.VerifiedChains); !time.Now().Before(until) {
		return Identity{}, refuse(mtls, ReasonExpired, "the certificate, or one that signed it, has expired (%s)", until.UTC().Format(time.RFC3339))
	}
	leaf := c.TLS.VerifiedChains[0][0]
	if leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return Identity{}, refuse(mtls, ReasonCA, "the certificate is one of a CA")
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
	return Identity{}, refuse(mtls, ReasonName, "the certificate has no SPIFFE ID and no DNS name (its common name does not count)")
}

// validUntil returns the end of the chain that is valid longest.
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

// A SPIFFE ID is a trust domain and a path of plain segments, and nothing else that a URL
// may have. One that names somebody has a path (SPIFFE-ID 2, X509-SVID 5.2).
var spiffe = regexp.MustCompile(`^spiffe://([a-z0-9._-]+)(?:/[a-zA-Z0-9._-]+)+$`)

// spiffeID returns the SPIFFE ID among the URIs of a certificate, "" if none of them has
// its scheme. Beside it there may be no other: which of two is meant nobody could tell.
func spiffeID(uris []*url.URL) (string, error) {
	found := false
	for _, u := range uris {
		found = found || u.Scheme == "spiffe"
	}
	if !found {
		return "", nil
	}
	if len(uris) != 1 {
		return "", refuse(mtls, ReasonName, "the certificate has %d URIs; with a SPIFFE ID there may be no other", len(uris))
	}
	id := uris[0].String() // with whatever it has of user, port, escapes, query and fragment
	m := spiffe.FindStringSubmatch(id)
	if m == nil || len(id) > maxSPIFFE || len(m[1]) > maxTrustDomain {
		return "", refuse(mtls, ReasonName, "the certificate's SPIFFE ID is not a valid one")
	}
	for segment := range strings.SplitSeq(id, "/") {
		if segment == "." || segment == ".." {
			return "", refuse(mtls, ReasonName, "the certificate's SPIFFE ID is not a valid one")
		}
	}
	return id, nil
}
