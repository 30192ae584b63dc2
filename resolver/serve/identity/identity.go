// Package identity finds out who is calling the store service: by a client certificate
// ([MTLS]), a signed token of an issuer ([JWT]) or a token of our own file ([Tokens]),
// asked one after the other ([Chain]).
//
// It stops at who: what an identity may do is the policy's, what a refused caller is
// told is the server's. It reads nothing of a request but its credentials. An error
// says to the operator what is wrong with them, and never holds a token, a part of one,
// or text that only its sender has vouched for.
package identity

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"inject/resolver/secret"
)

var (
	// ErrNone says that there are no credentials of the kind that an [Authenticator]
	// knows; of a [Chain], that there are none at all.
	ErrNone = errors.New("no credentials")
	// ErrUnauthenticated says that nobody is known by the credentials. [Reason] says why in
	// a word. A source of keys that does not answer is [secret.ErrUnavailable] instead.
	ErrUnauthenticated = errors.New("unauthenticated")
)

// Credentials are what a request came with.
type Credentials struct {
	Bearer secret.Value         // what followed "Bearer " in the authorization header; zero if there was none
	TLS    *tls.ConnectionState // of its connection; nil without TLS
}

// An Identity is a caller as an [Authenticator] knows it. It does not change; several
// goroutines may use it. The zero Identity is nobody and has no attributes.
type Identity struct {
	Method string // how it was found out: mtls, jwt, token
	Name   string // for people and the audit log; see New

	attributes map[string][]string
}

// maxName is how many bytes of a name are shown. A longer one has a digest after them, so
// it is no other's name, whole or cut.
const maxName = 200

// New returns an identity, for authenticators outside this package. Name becomes
// printable, by the escapes of a Go string, and at most 256 bytes long, by a digest in
// the place of its end: two names that differ stay different. The attributes belong to the
// Identity from then on.
func New(method, name string, attributes map[string][]string) Identity {
	quoted := strconv.Quote(name)
	quoted = quoted[1 : len(quoted)-1]
	if len(quoted) > maxName {
		sum := sha256.Sum256([]byte(name))
		quoted = strings.ToValidUTF8(quoted[:maxName], "") + "..." + hex.EncodeToString(sum[:16])
	}
	return Identity{Method: method, Name: quoted, attributes: attributes}
}

// Attribute returns the values of the attribute called name, which is what a policy may
// match on; none if i has no such attribute:
//
//	spiffe             mtls: the SPIFFE ID of the certificate
//	dns                mtls: each DNS name of the certificate, in lower case
//	issuer, subject    jwt
//	audience           jwt: each audience that the token is for
//	claim.NAME         jwt: a claim that is a text, a number or a boolean, as JSON writes
//	                   it but without quotes, or each text of a list of texts
//	token              token: its name
//
// A claim inside of another is claim.OUTER.INNER. A dot that belongs to a name is \. and
// a backslash \\, as in kubectl's JSONPath, so no two claims share a name: a Kubernetes
// token's pod is claim.kubernetes\.io.pod.name. Claims of other kinds, null, and those
// more than sixteen deep are no attributes.
func (i Identity) Attribute(name string) []string { return slices.Clone(i.attributes[name]) }

// An Authenticator knows one kind of credentials. Several goroutines may use it.
type Authenticator interface {
	// Authenticate returns whose credentials c are. An error that wraps ErrNone says that
	// there is nothing of its kind in c, so the next one is asked; any other refuses the
	// request, and wraps ErrUnauthenticated or secret.ErrUnavailable.
	Authenticate(ctx context.Context, c Credentials) (Identity, error)
}

// A Chain asks its authenticators one after the other. The first that knows the kind of
// credentials decides: a request whose certificate is refused is not looked at for a
// token.
type Chain []Authenticator

// Authenticate implements [Authenticator]. If none knows the credentials the error wraps
// ErrUnauthenticated, and ErrNone only if there are none.
func (a Chain) Authenticate(ctx context.Context, c Credentials) (Identity, error) {
	for _, one := range a {
		id, err := one.Authenticate(ctx, c)
		if !errors.Is(err, ErrNone) {
			return id, err
		}
	}
	if c.Bearer.Len() == 0 && (c.TLS == nil || len(c.TLS.PeerCertificates) == 0) {
		return Identity{}, fmt.Errorf("%w: %w", ErrUnauthenticated, ErrNone)
	}
	return Identity{}, refuse("", ReasonUnknown, "a credential of a kind, or of an issuer, that nothing here knows")
}

// Why credentials are refused, in a word each: for audit logs and the labels of metrics.
const (
	ReasonNone        = "none"        // there are no credentials
	ReasonUnknown     = "unknown"     // of no kind or issuer that is known; a token that is not in the file
	ReasonMalformed   = "malformed"   // of the right kind, but not well made
	ReasonUnverified  = "unverified"  // a certificate that the handshake did not verify
	ReasonCA          = "ca"          // a certificate that may sign others is nobody's
	ReasonName        = "name"        // without a name that counts, or with one that is none
	ReasonExpired     = "expired"     // its time is over
	ReasonNotYet      = "not_yet"     // its time is to come
	ReasonLifetime    = "lifetime"    // without an end, or valid for too long
	ReasonAlgorithm   = "algorithm"   // signed by an algorithm that is not allowed
	ReasonKey         = "key"         // signed by a key that is not known
	ReasonSignature   = "signature"   // the signature is wrong
	ReasonAudience    = "audience"    // meant for somebody else
	ReasonSize        = "size"        // too large
	ReasonUnavailable = "unavailable" // not refused: nobody can tell now
	ReasonOther       = "other"       // of an authenticator that gives no reason
)

// Reason returns which of the reasons err has, "" for nil.
func Reason(err error) string {
	r, ok := errors.AsType[*refusal](err)
	switch {
	case err == nil:
		return ""
	case ok:
		return r.reason
	case errors.Is(err, secret.ErrUnavailable):
		return ReasonUnavailable
	case errors.Is(err, ErrNone):
		return ReasonNone
	}
	return ReasonOther
}

// A refusal is an ErrUnauthenticated with its reason.
type refusal struct{ who, reason, text string }

// refuse says that who (the authenticator) refuses, and why. Text is what the operator
// or we have written, never the caller.
func refuse(who, reason, format string, args ...any) error {
	return &refusal{who, reason, fmt.Sprintf(format, args...)}
}

func (r *refusal) Error() string {
	if r.who == "" {
		return ErrUnauthenticated.Error() + ": " + r.text
	}
	return ErrUnauthenticated.Error() + ": " + r.who + ": " + r.text
}

func (*refusal) Unwrap() error { return ErrUnauthenticated }
