package rpc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"inject/internal/printable"
	secretpb "inject/resolver/idl/flyteidl2/secret"
	injectv1 "inject/resolver/idl/inject/v1"
	"inject/resolver/secret"
)

// maxMessage is how much of a message from the server is shown, in bytes.
const maxMessage = 300

// errFailed is the error of a failure whose kind package secret does not know.
var errFailed = errors.New("the server failed")

// errUnimplemented is the error of a call that the server does not offer.
var errUnimplemented = fmt.Errorf("%w with %s", errFailed, codes.Unimplemented)

// invoke makes every call: it adds the deadline and the token, and turns errors into those
// of package secret.
func (c *Client) invoke(
	ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, call grpc.UnaryInvoker,
	opts ...grpc.CallOption,
) error {
	var hidden [][]byte // secrets in the request: a message that repeats one is not shown
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
		return secret.WithHint(
			fmt.Errorf("%w: the request has %d bytes (at most %d)", secret.ErrInvalid, proto.Size(m), MaxRequest),
			"send less at a time: a server takes no larger request",
		)
	}

	if _, ok := ctx.Deadline(); !ok && c.o.Timeout > 0 {
		limited, cancel := context.WithTimeout(ctx, c.o.Timeout)
		defer cancel()
		ctx = limited
	}
	if c.hasToken() {
		token, err := c.token(ctx)
		if err != nil {
			return err
		}
		hidden = append(hidden, token.Reveal())
		opts = append(opts, grpc.PerRPCCredentials(bearer{token}))
	}

	err := patiently(ctx, method, func(opt grpc.CallOption) error {
		return call(ctx, method, request, reply, conn, append(opts, opt)...)
	})
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
	// A server that is too busy answers with the same code. A short value may be a part of the text.
	quota := code == codes.ResourceExhausted && strings.HasPrefix(message, secret.ErrQuota.Error())
	for _, b := range hidden {
		if len(b) > 0 && strings.Contains(message, string(b)) {
			message = ""
		}
	}
	if quota {
		message, hint, ok := strings.Cut(message, "; hint: ")
		if !ok {
			hint = "delete secrets that are no longer needed, or ask the operator of " + c.o.Address + " for more"
		}
		return secret.WithHint(withMessage(secret.ErrQuota, message), "%s", printable.Text(hint, maxMessage))
	}
	return c.explain(ctx, code, message)
}

// retryHeader is in the answer of a server that is too busy for a request now.
const retryHeader = "retry-after"

// maxPause is the longest wait before a request is repeated that the server was too busy for.
const maxPause = 5 * time.Second

// patiently makes a call, and repeats it while the server says that it is too busy and that the
// request can be sent again. It gives up when ctx would end before the next attempt. Many tasks
// that start at the same time must not come back at the same time, so each wait is random. A
// change is not repeated: its caller is a person, who should see that.
func patiently(ctx context.Context, method string, call func(grpc.CallOption) error) error {
	for wait := retryAfter; ; wait = min(2*wait, maxPause) {
		var trailer metadata.MD
		err := call(grpc.Trailer(&trailer))
		if status.Code(err) != codes.ResourceExhausted || len(trailer.Get(retryHeader)) == 0 ||
			method != injectv1.ResolveService_Resolve_FullMethodName {
			return err
		}
		pause := wait/2 + rand.N(wait) //nolint:gosec // it only spreads the attempts
		if end, ok := ctx.Deadline(); ok && time.Until(end) <= pause {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// explain returns the error for a gRPC status, with a hint.
func (c *Client) explain(ctx context.Context, code codes.Code, message string) error {
	if err := ended(ctx, code); err != nil {
		err = fmt.Errorf("%w: no answer from %s in time: %w", secret.ErrUnavailable, c.o.Address, err)
		if failed := c.handshake.failed.Load(); failed != nil {
			err = fmt.Errorf("%w (%s)", err, printable.Text((*failed).Error(), maxMessage))
		}
		return err
	}

	switch code {
	case codes.NotFound: // its message, like the next one's, only names the secret
		return secret.ErrNotFound
	case codes.AlreadyExists:
		return secret.ErrExists
	case codes.PermissionDenied:
		message, hint, ok := strings.Cut(message, "; hint: ")
		if !ok {
			hint = c.o.Address + " knows the caller, but its policy does not allow this; ask its operator"
		}
		return secret.WithHint(withMessage(secret.ErrDenied, message), "%s", printable.Text(hint, maxMessage))
	case codes.Unauthenticated:
		message, hint, ok := strings.Cut(message, "; hint: ")
		switch {
		case c.o.Again != "":
			hint = c.o.Again
		case ok:
		case c.hasToken() || c.o.CertFile != "":
			hint = "is the token or certificate meant for " + c.o.Address + ", and has it expired?"
		default:
			hint = c.o.Address + " does not know the caller: identify it with --token-file FILE or --cert-file FILE, " +
				"or log in with inject login if it offers that"
		}
		return secret.WithHint(withMessage(secret.ErrDenied, message), "%s", printable.Text(hint, maxMessage))
	case codes.ResourceExhausted:
		if strings.HasPrefix(message, "grpc: received message") { // over our own limit, maxResolved
			return secret.WithHint(
				withMessage(secret.ErrInvalid, message), "declare fewer, or smaller, secrets at a time",
			)
		}
		return withMessage(secret.ErrUnavailable, message)
	case codes.DeadlineExceeded, codes.Canceled: // the server gave up; our own deadline is handled above
		return withMessage(secret.ErrUnavailable, message)
	case codes.Unavailable:
		return c.unavailable(message)
	}

	if sentinel := secret.KindOfStatus(uint32(code)).Err(); sentinel != nil {
		return withMessage(sentinel, message)
	}
	failed := fmt.Errorf("%w with %s", errFailed, code)
	if code == codes.Unimplemented {
		failed = errUnimplemented
	}
	return secret.WithHint(withMessage(failed, message),
		"is %s an injectd of this version? its log may say more", c.o.Address)
}

// ended returns the error of ctx if it is the reason for code. The server knows our
// deadline, too, and may report it first. Then ended waits until ctx agrees, so that a
// caller who asks ctx gets the same answer.
func ended(ctx context.Context, code codes.Code) error {
	if deadline, ok := ctx.Deadline(); ok && code == codes.DeadlineExceeded && time.Until(deadline) < time.Second {
		<-ctx.Done()
	}
	if err := ctx.Err(); err != nil {
		if cause := context.Cause(ctx); cause != err { //nolint:errorlint // the very same, or not
			return fmt.Errorf("%w: %w", err, cause)
		}
		return err
	}
	return nil
}

// wrapping is the text that gRPC puts around the error of a connection.
var wrapping = sync.OnceValue(func() *regexp.Regexp { // not compiled in a run without failures
	return regexp.MustCompile(`^.*desc = ("transport: (?:Error while dialing: )?.*"|".*")$`)
})

// unavailable returns the error for a server without a connection, with a hint.
func (c *Client) unavailable(message string) error {
	if m := wrapping().FindStringSubmatch(message); m != nil {
		if text, err := strconv.Unquote(m[1]); err == nil {
			message = strings.TrimPrefix(strings.TrimPrefix(text, "transport: "), "Error while dialing: ")
		}
	}
	if failed := c.handshake.failed.Load(); failed != nil && strings.Contains(message, (*failed).Error()) {
		return secret.WithHint(
			withMessage(fmt.Errorf("%w: TLS with %s", secret.ErrUnavailable, c.o.Address), (*failed).Error()),
			"%s", c.tlsHint(*failed),
		)
	}
	if _, alert, ok := strings.Cut(message, alertText); ok { // only our side had completed the handshake
		return secret.WithHint(
			withMessage(
				fmt.Errorf("%w: %s does not accept the client certificate", secret.ErrDenied, c.o.Address),
				alert,
			),
			"name a certificate that the server accepts with --cert-file FILE, and its key with --cert-key-file FILE",
		)
	}
	hint := "is an injectd running there, and may this machine connect to it?"
	if !c.o.TLS && strings.Contains(message, "server preface") {
		hint = "does the server expect TLS? grpcs://" + c.o.Address
	}
	return secret.WithHint(withMessage(fmt.Errorf("%w: %s", secret.ErrUnavailable, c.o.Address), message), "%s", hint)
}

// alertText begins the text of an alert from the other side. crypto/tls has no exported
// type for it.
const alertText = "remote error: tls: "

func isAlert(text string) bool { return strings.Contains(text, alertText) }

// tlsHint returns a hint for a failed handshake.
func (c *Client) tlsHint(err error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		if c.o.CAFile != "" {
			return "the server's certificate is signed by none of the authorities in " + c.o.CAFile
		}
		return "name the authority that signs the server's certificate with --ca-file FILE"
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		return "renew the server's certificate, or set the clock of this machine right"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "the server's certificate must be valid for the host in --store"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "the server does not speak TLS on that port: is it another port, or, on this machine, grpc://" +
			c.o.Address + "?"
	}
	if text := err.Error(); isAlert(text) || strings.Contains(text, "protocol version") {
		return "the server ended the handshake: it must speak TLS 1.3, and accept the client certificate if it " +
			"asks for one"
	}
	return "is the server an injectd?"
}

// nonsense returns the error for an answer that no injectd of this version gives.
func (c *Client) nonsense(format string, args ...any) error {
	return secret.WithHint(fmt.Errorf("the answer of %s cannot be used: %w", c.o.Address, fmt.Errorf(format, args...)),
		"is it an injectd of this version?")
}

// withMessage returns err with the server's message, if that says more.
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

// A serverError is an error in the server's words.
type serverError struct {
	text string
	err  error
}

func (e *serverError) Error() string { return e.text }
func (e *serverError) Unwrap() error { return e.err }
