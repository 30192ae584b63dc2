package rpc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"inject/internal/printable"
	secretpb "inject/resolver/idl/flyteidl2/secret"
	injectv1 "inject/resolver/idl/inject/v1"
	"inject/resolver/secret"
)

// maxMessage is how much is shown of what a server says, in bytes.
const maxMessage = 300

// errFailed is a failure of no kind that package secret knows.
var errFailed = errors.New("the server failed")

// invoke makes every call: it adds the token, and gives errors the words of
// package secret.
func (c *Client) invoke(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	var hidden [][]byte // of which a server that repeats it is not quoted
	switch r := request.(type) {
	case *secretpb.CreateSecretRequest:
		hidden = append(hidden, r.GetSecretSpec().GetBinaryValue())
	case *secretpb.UpdateSecretRequest:
		hidden = append(hidden, r.GetSecretSpec().GetBinaryValue())
	case *injectv1.ImportRequest:
		for _, n := range r.GetSecrets() {
			hidden = append(hidden, n.GetValue())
		}
	}
	if m, ok := request.(proto.Message); ok && proto.Size(m) > MaxRequest {
		return secret.WithHint(fmt.Errorf("%w: %d bytes are too many for one request (at most %d)", secret.ErrInvalid, proto.Size(m), MaxRequest), "split what is sent: that is the most a server takes at once")
	}
	if _, ok := ctx.Deadline(); !ok && c.o.Timeout > 0 {
		limited, cancel := context.WithTimeout(ctx, c.o.Timeout)
		defer cancel()
		ctx = limited
	}
	if c.hasToken() {
		token, err := c.token()
		if err != nil {
			return err
		}
		hidden = append(hidden, token.Reveal())
		opts = append(opts, grpc.PerRPCCredentials(bearer{token}))
	}
	err := call(ctx, method, request, reply, conn, opts...)
	if err == nil {
		return nil
	}
	code, message := codes.Unknown, err.Error()
	if s, ok := errors.AsType[interface {
		error
		GRPCStatus() *status.Status
	}](err); ok {
		code, message = s.GRPCStatus().Code(), s.GRPCStatus().Message()
	}
	for _, b := range hidden {
		if len(b) > 0 && strings.Contains(message, string(b)) {
			message = ""
		}
	}
	return c.explain(ctx, code, message)
}

// explain returns what a status means, and what to do.
func (c *Client) explain(ctx context.Context, code codes.Code, message string) error {
	if err := ended(ctx, code); err != nil {
		err = fmt.Errorf("%w: no answer from %s in time: %w", secret.ErrUnavailable, c.o.Address, err)
		if failed := c.handshake.failed.Load(); failed != nil {
			err = fmt.Errorf("%w (%s)", err, printable.Text((*failed).Error(), maxMessage))
		}
		return err
	}
	switch code {
	case codes.NotFound: // whose text, like the next one's, only names the secret
		return secret.ErrNotFound
	case codes.AlreadyExists:
		return secret.ErrExists
	case codes.PermissionDenied:
		message, hint, ok := strings.Cut(message, "; hint: ")
		if !ok {
			hint = c.o.Address + " knows who is calling, and does not let them do this; its operator can"
		}
		return secret.WithHint(withMessage(secret.ErrDenied, message), "%s", printable.Text(hint, maxMessage))
	case codes.Unauthenticated:
		hint := c.o.Address + " does not know who is calling: --token-file FILE, or --cert-file FILE, says it"
		if c.hasToken() || c.o.CertFile != "" {
			hint = "is the token or certificate one for " + c.o.Address + ", and has it expired?"
		}
		return secret.WithHint(withMessage(secret.ErrDenied, message), "%s", hint)
	case codes.ResourceExhausted:
		if strings.HasPrefix(message, "grpc: received message") { // by our own limit
			return secret.WithHint(withMessage(secret.ErrInvalid, message), "declare fewer, or smaller, secrets at a time")
		}
		return withMessage(secret.ErrUnavailable, message)
	case codes.DeadlineExceeded, codes.Canceled: // by the server itself
		return withMessage(secret.ErrUnavailable, message)
	case codes.Unavailable:
		return c.unavailable(message)
	}
	if sentinel := secret.KindOfStatus(uint32(code)).Err(); sentinel != nil {
		return withMessage(sentinel, message)
	}
	return secret.WithHint(withMessage(fmt.Errorf("%w with %s", errFailed, code), message),
		"what answers at %s is not an injectd, or an older one, or has a fault that its log tells", c.o.Address)
}

// ended returns the error of ctx if it is the reason for code. The server counts
// our deadline, too, and may be the first to say so: then the last moment is waited
// for, so that who asks ctx is told the same.
func ended(ctx context.Context, code codes.Code) error {
	if deadline, ok := ctx.Deadline(); ok && code == codes.DeadlineExceeded && time.Until(deadline) < time.Second {
		<-ctx.Done()
	}
	if err := ctx.Err(); err != nil {
		if cause := context.Cause(ctx); cause != err { //nolint:errorlint // the same, or one that was given
			return fmt.Errorf("%w: %w", err, cause)
		}
		return err
	}
	return nil
}

// wrapping is what gRPC puts around the error of a connection.
var wrapping = sync.OnceValue(func() *regexp.Regexp { // a run in which nothing fails does without
	return regexp.MustCompile(`^.*desc = ("transport: (?:Error while dialing: )?.*"|".*")$`)
})

// unavailable says why there is no connection, and what to do about it.
func (c *Client) unavailable(message string) error {
	if m := wrapping().FindStringSubmatch(message); m != nil {
		if text, err := strconv.Unquote(m[1]); err == nil {
			message = strings.TrimPrefix(strings.TrimPrefix(text, "transport: "), "Error while dialing: ")
		}
	}
	if failed := c.handshake.failed.Load(); failed != nil && strings.Contains(message, (*failed).Error()) {
		return secret.WithHint(withMessage(fmt.Errorf("%w: TLS with %s", secret.ErrUnavailable, c.o.Address), (*failed).Error()), "%s", c.tlsHint(*failed))
	}
	if _, alert, ok := strings.Cut(message, alertText); ok { // after a handshake that was ours alone
		return secret.WithHint(withMessage(fmt.Errorf("%w: %s does not accept our certificate", secret.ErrDenied, c.o.Address), alert),
			"--cert-file FILE, and --key-file FILE if the key is not in it, name one that the server accepts")
	}
	hint := "is an injectd running there, and may this machine connect to it?"
	if !c.o.TLS && strings.Contains(message, "server preface") {
		hint = "does the server want TLS? grpcs://" + c.o.Address
	}
	return secret.WithHint(withMessage(fmt.Errorf("%w: %s", secret.ErrUnavailable, c.o.Address), message), "%s", hint)
}

// alertText is what crypto/tls says of an alert of the other side, which has no
// type that could be asked for.
const alertText = "remote error: tls: "

func isAlert(text string) bool { return strings.Contains(text, alertText) }

// tlsHint says what to do when a handshake has failed.
func (c *Client) tlsHint(err error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		if c.o.CAFile != "" {
			return "the server's certificate is of another authority than those in " + c.o.CAFile
		}
		return "--ca-file FILE names the authority that the server's certificate is of"
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		return "the server's certificate must be renewed, unless the clock of this machine is wrong"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "--store names the server as its certificate does; the certificate must be for the name in --store"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "the server does not speak TLS there: is it another port, or, on this machine, grpc://" + c.o.Address + "?"
	}
	if text := err.Error(); isAlert(text) || strings.Contains(text, "protocol version") {
		return "the server has ended the handshake: it must speak TLS 1.3, and accept our certificate if it asks for one"
	}
	return "is it an injectd that answers there?"
}

// nonsense is the error of an answer that no injectd gives.
func (c *Client) nonsense(format string, args ...any) error {
	return secret.WithHint(fmt.Errorf("the answer of %s makes no sense: %w", c.o.Address, fmt.Errorf(format, args...)),
		"what answers there is not an injectd, or an older or newer one")
}

// withMessage returns err with what the server says about it, if that says more.
func withMessage(err error, message string) error {
	message = printable.Text(message, maxMessage)
	switch {
	case message == "" || message == err.Error():
		return err
	case strings.Contains(message, err.Error()):
		return &serverError{message, err}
	}
	return fmt.Errorf("%w: %s", err, message)
}

// serverError is an error in the server's words.
type serverError struct {
	text string
	err  error
}

func (e *serverError) Error() string { return e.text }
func (e *serverError) Unwrap() error { return e.err }
