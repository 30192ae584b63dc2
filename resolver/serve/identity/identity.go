// Package identity authenticates the callers of the server: by a client certificate
// ([MTLS]), a signed token of an issuer ([JWT]) or a token whose hash is in a file
// ([Tokens]), tried one after the other ([Chain]). Package kube authenticates pods.
//
// It does not decide what an identity may do, which is package policy's, nor how a refusal
// is answered, which is package serve's. It reads nothing of a request but its credentials.
// Errors tell the operator what is wrong with the credentials. They never quote a token, a
// part of one, or any text of the caller that has not been verified.
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
	// ErrNone says that the request has no credentials that the [Authenticator] handles. From
	// a [Chain]: it has no credentials at all.
	ErrNone = errors.New("no credentials")
	// ErrUnauthenticated says that the credentials are not valid. [Reason] returns why, in one
	// word. If the keys to verify them cannot be read, the error is [secret.ErrUnavailable].
	ErrUnauthenticated = errors.New("unauthenticated")
)

// Credentials are those of one request.
type Credentials struct {
	Bearer secret.Value         // from the header "Authorization: Bearer …"; zero without one
	TLS    *tls.ConnectionState // of the connection; nil without TLS
}

// An Identity is an authenticated caller. It is immutable, so goroutines may share it. The
// zero Identity is no caller, and has no attributes.
type Identity struct {
	Method string // how it was authenticated: mtls, jwt, token, kubernetes
	Name   string // for people and the audit log; see New

	attributes map[string][]string
}

// maxName is how many bytes of a name are kept. A longer name is cut and gets a digest, so
// that it differs from every other name.
const maxName = 200

// New returns an identity. It makes name printable with the escapes of a Go string, and at
// most 256 bytes long by replacing its end with a digest; different names stay different.
// The caller must not change attributes afterwards.
func New(method, name string, attributes map[string][]string) Identity {
	quoted := strconv.Quote(name)
	quoted = quoted[1 : len(quoted)-1]
	if len(quoted) > maxName {
		sum := sha256.Sum256([]byte(name))
		quoted = strings.ToValidUTF8(quoted[:maxName], "") + "..." + hex.EncodeToString(sum[:16])
	}
	return Identity{Method: method, Name: quoted, attributes: attributes}
}

// Attribute returns the values of an attribute, which a policy can match, or nil if i does
// not have it:
//
//	spiffe             mtls: the SPIFFE ID of the certificate
//	dns                mtls: each DNS name of the certificate, in lower case
//	issuer, subject    jwt
//	audience           jwt: each audience of the token
//	claim.NAME         jwt: a claim that is a string, a number or a boolean, in the form of
//	                   JSON without quotes, or each string of a list of strings
//	token              token: its name
//	kubernetes.NAME    kubernetes: see below
//
// A pod of Kubernetes has these:
//
//	kubernetes.namespace, kubernetes.serviceaccount, kubernetes.pod, kubernetes.node
//	                     names of the pod's namespace, account, node, and its own
//	kubernetes.project, kubernetes.domain
//	                     the scope of its task, for which the cluster vouches
//	kubernetes.label.KEY a label; it says what the maker of the pod wrote
//	kubernetes.declared  each key that its task declares; no pattern can match it
//	kubernetes.uid       the uid of the pod, as in kubernetes.parent, NAME/UID of each pod whose
//	                     secrets it inherits, and kubernetes.protection, which is unprotected if
//	                     the server was told to serve it although others may reach its secrets:
//	                     for the audit log only
//
// A claim INNER of the claim OUTER is claim.OUTER.INNER. A dot within a name is written \. and
// a backslash \\, as in kubectl's JSONPath, so that no two claims share a name: the pod of a
// Kubernetes token is claim.kubernetes\.io.pod.name. Claims of other types, null, and claims
// more than sixteen levels deep are left out.
func (i Identity) Attribute(name string) []string { return slices.Clone(i.attributes[name]) }

// An Authenticator handles one kind of credentials. It is safe for concurrent use.
type Authenticator interface {
	// Authenticate returns the identity that c proves. An error that wraps ErrNone means
	// that c has no credentials of its kind, so another authenticator may be tried. Any
	// other error refuses the request, and wraps ErrUnauthenticated or
	// secret.ErrUnavailable.
	Authenticate(ctx context.Context, c Credentials) (Identity, error)
}

// A Chain tries its authenticators in order. The first that handles the credentials decides:
// a request with a refused certificate is refused, even if it has a valid token.
type Chain []Authenticator

// Authenticate implements [Authenticator]. If no authenticator handles the credentials, the
// error wraps ErrUnauthenticated, and also ErrNone if there are no credentials.
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
	return Identity{}, refuse("", ReasonUnknown, "credentials of an unknown kind or issuer")
}

// Why credentials are refused, each in one word, for the audit log.
const (
	ReasonNone        = "none"        // the request has no credentials
	ReasonUnknown     = "unknown"     // of an unknown kind or issuer, or a token that is not in the file
	ReasonMalformed   = "malformed"   // of a known kind, but malformed
	ReasonUnverified  = "unverified"  // the certificate was not verified in the handshake
	ReasonCA          = "ca"          // the certificate is a CA's, which identifies no caller
	ReasonName        = "name"        // it has no usable name
	ReasonExpired     = "expired"     // it is expired
	ReasonNotYet      = "not_yet"     // it is not valid yet
	ReasonLifetime    = "lifetime"    // it has no expiry, or a lifetime that is too long
	ReasonAlgorithm   = "algorithm"   // it is signed with an algorithm that is not allowed
	ReasonKey         = "key"         // it is signed by an unknown key
	ReasonSignature   = "signature"   // the signature is wrong
	ReasonAudience    = "audience"    // it is meant for another service
	ReasonSize        = "size"        // it is too large
	ReasonUnavailable = "unavailable" // not refused: it cannot be verified now
	ReasonOther       = "other"       // the authenticator gives no reason
)

// Reason returns the reason of an error from Authenticate, or "" for nil.
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

// Advice returns what the caller can do about a refusal, "" if it is told nothing. Only a caller whose
// credentials are genuine gets advice.
func Advice(err error) string {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.advice
	}
	return ""
}

// A refusal is an ErrUnauthenticated with its reason.
type refusal struct{ who, reason, text, advice string }

// refuse returns a refusal by the authenticator named who. The error must not quote text of
// the caller.
func refuse(who, reason, format string, args ...any) error {
	return &refusal{who, reason, fmt.Sprintf(format, args...), ""}
}

// A Refusal is why an authenticator of another package refuses credentials: see [Refuse].
type Refusal struct {
	Who    string // the authenticator
	Reason string // one word, for the audit log
	Text   string // for the server's log; quotes no text of the caller that is not verified
	Advice string // for a caller whose credentials are genuine: what to do; "" for no answer but no
}

// Refuse returns r as an error that wraps [ErrUnauthenticated].
func Refuse(r Refusal) error { return &refusal{r.Who, r.Reason, r.Text, r.Advice} }

func (r *refusal) Error() string {
	if r.who == "" {
		return ErrUnauthenticated.Error() + ": " + r.text
	}
	return ErrUnauthenticated.Error() + ": " + r.who + ": " + r.text
}

func (*refusal) Unwrap() error { return ErrUnauthenticated }
