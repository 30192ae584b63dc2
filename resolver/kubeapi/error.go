package kubeapi

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"inject/internal/printable"
	"inject/resolver/secret"
)

// ErrConflict is the error of a change of an object that was changed or replaced meanwhile.
var ErrConflict = errors.New("the object was changed meanwhile")

// maxMessage is the length in bytes of what errors quote of the server's words.
const maxMessage = 400

// A failure is the error of a call. Its kind is one of the sentinels, which may have a hint.
type failure struct {
	call call
	kind error
	err  error
}

// Error returns "kind: Kubernetes: verb resource name in namespace: what the server said".
func (f *failure) Error() string {
	return f.kind.Error() + ": Kubernetes: " + f.call.String() + ": " + printable.Text(f.err.Error(), maxMessage)
}

// Missing returns the right that a user needs for a call which the API server refused as RBAC does, such as
// "list pods in namespace a", and "" if err is not such an error.
func Missing(err error) string {
	if f, ok := errors.AsType[*failure](err); ok && apierrors.IsForbidden(f.err) && errors.Is(err, secret.ErrDenied) {
		return f.call.String()
	}
	return ""
}

// Unwrap returns the kind and the cause.
func (f *failure) Unwrap() []error { return []error{f.kind, f.err} }

// String names a call for people.
func (c call) String() string {
	text := c.verb + " " + c.resource.String()
	if c.name != "" {
		text += " " + c.name
	}
	if c.namespace != "" {
		text += " in namespace " + c.namespace
	}
	return text
}

// failed returns the error of a call.
func (c *Client) failed(ctx context.Context, what call, err error) error {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		err = unanswered(ctx, err)
		return &failure{what, secret.WithHint(secret.ErrUnavailable, "%s", c.whyUnanswered(err)), err}
	}
	s := status.Status()
	if s.Code != http.StatusUnauthorized {
		return &failure{what, kindOf(what, s), err}
	}
	if why := c.cluster.expired(); why != "" {
		err = fmt.Errorf("%w: %s", err, why)
	}
	kind := secret.WithHint(secret.ErrDenied, "the API server does not accept the credentials of %s", c.cluster.who)
	return &failure{what, kind, err}
}

// kindOf returns the kind of an answer of the API server, or of something in between.
func kindOf(what call, s metav1.Status) error {
	switch {
	case s.Code == http.StatusForbidden:
		return forbidden(what, s)
	case s.Code == http.StatusNotFound && isAbsent(what, s):
		return secret.ErrNotFound
	case s.Code == http.StatusNotFound && s.Details != nil && s.Details.Kind == Namespaces.resource:
		return secret.WithHint(secret.ErrUnavailable,
			"create the namespace (kubectl create namespace %s), or name another one", what.namespace)
	case s.Code == http.StatusNotFound:
		return secret.WithHint(secret.ErrUnavailable,
			"what answered is not the API server, or it does not know %s", what.resource)
	case isGenerated(s): // by something in between, which knows nothing of the object
		return secret.ErrUnavailable
	case s.Reason == metav1.StatusReasonAlreadyExists:
		return secret.ErrExists
	case s.Code == http.StatusConflict:
		return ErrConflict
	case s.Code == http.StatusBadRequest, s.Code == http.StatusUnprocessableEntity,
		s.Code == http.StatusRequestEntityTooLarge:
		return secret.ErrInvalid
	}
	return secret.ErrUnavailable
}

// forbidden tells apart why a call is refused with 403.
func forbidden(what call, s metav1.Status) error {
	switch {
	case has(s, corev1.NamespaceTerminatingCause):
		return secret.WithHint(secret.ErrUnavailable, "the namespace %s is being deleted", what.namespace)
	case strings.Contains(s.Message, "exceeded quota:"): // of the admission plugin ResourceQuota
		return secret.WithHint(secret.ErrQuota, "raise the ResourceQuota of namespace %s, or delete objects there",
			what.namespace)
	case !strings.Contains(s.Message, " cannot "+what.verb+" "): // an admission policy or webhook refused it
		return secret.ErrDenied
	case what.namespace == "":
		return secret.WithHint(secret.ErrDenied, "RBAC: add the verb %s on %s to the ClusterRole of that user",
			what.verb, what.resource)
	}
	return secret.WithHint(secret.ErrDenied,
		"RBAC: add the verb %s on %s to the Role of that user in namespace %s, if there is such a namespace", what.verb,
		what.resource, what.namespace)
}

// isAbsent reports whether the API server itself says that this object is not there.
func isAbsent(what call, s metav1.Status) bool {
	return s.Reason == metav1.StatusReasonNotFound && !isGenerated(s) && s.Details != nil &&
		s.Details.Kind == what.resource.name && s.Details.Group == what.resource.group.Group &&
		what.name != "" && s.Details.Name == what.name
}

// isGenerated reports whether client-go made up s, because the answer has no status of the API.
func isGenerated(s metav1.Status) bool { return has(s, metav1.CauseTypeUnexpectedServerResponse) }

func has(s metav1.Status, cause metav1.CauseType) bool {
	return s.Details != nil &&
		slices.ContainsFunc(s.Details.Causes, func(c metav1.StatusCause) bool { return c.Type == cause })
}

// unanswered returns the error of a call that got no answer, without the address of the server and with
// the reason why ctx ended.
func unanswered(ctx context.Context, err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	for _, also := range []error{ctx.Err(), context.Cause(ctx)} {
		if also != nil && !errors.Is(err, also) {
			err = fmt.Errorf("%w: %w", also, err)
		}
	}
	return err
}

// whyUnanswered returns a hint for a call that got no answer.
func (c *Client) whyUnanswered(err error) string {
	if _, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		return "the certificate of the API server at " + c.cluster.config.Host + " is not valid"
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "the certificate authority of " + c.cluster.who + " is not that of the API server at " +
			c.cluster.config.Host
	}
	return "the API server is " + c.cluster.config.Host + ", by " + c.cluster.who
}
