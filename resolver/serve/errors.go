package serve

import (
	"context"
	"crypto/md5" //nolint:gosec // Flyte names objects so
	"encoding/hex"
	"errors"
	"strings"

	"connectrpc.com/connect"

	injectv1 "inject/resolver/idl/inject/v1"
	"inject/resolver/secret"
)

const reasonInvalid = "a name, a scope or a value is invalid"

// shownDenial is a denial whose text and hint the caller gets. It names nothing but the
// request's own scope and the scope that the caller is bound to.
type shownDenial struct{ err error }

func (t *shownDenial) Error() string { return t.err.Error() }
func (t *shownDenial) Unwrap() error { return t.err }

// An ending classifies the error of an operation.
type ending struct {
	kind    secret.Kind
	err     error  // its text is the answer if no more may be said
	outcome string // in the audit log and in metrics
	code    connect.Code
}

// gaveUp are the endings of a request that was canceled or took too long. They are no kinds
// of their own: in the answer to a Resolve such a secret is unavailable.
var gaveUp = []ending{
	{secret.KindUnavailable, context.Canceled, "canceled", connect.CodeCanceled},
	{secret.KindUnavailable, context.DeadlineExceeded, "too late", connect.CodeDeadlineExceeded},
}

// endingOf classifies err by its kind.
func endingOf(err error) ending {
	kind := secret.KindOf(err)
	if kind == secret.KindUnavailable || kind == secret.KindUnknown {
		for _, e := range gaveUp {
			if errors.Is(err, e.err) {
				return e
			}
		}
	}
	return ending{kind, kind.Err(), kind.String(), connect.Code(kind.Status())}
}

// outcome returns the outcome for the audit log and for metrics.
func outcome(err error) string {
	if err == nil {
		return "done"
	}
	return endingOf(err).outcome
}

// hintMark is between a text and its hint. Package rpc splits them there.
const hintMark = "; hint: "

// hinted returns text with the hint of err behind it, if that has one.
func hinted(text string, err error) string {
	if hint := secret.Hint(err); hint != "" {
		return text + hintMark + hint
	}
	return text
}

// answer returns err as the client gets it. Details about the store's files, disks and peers
// go to our log only; names that the client sent, and what is wrong with them, go back to
// it. The texts about existing and absent secrets are those of Flyte's server
// (flyteorg/flyte v2.0.43, secret/service/secret_service.go).
func (g *guard) answer(err error, ref secret.Ref) error {
	if err == nil {
		return nil
	}
	if refused, ok := errors.AsType[*connect.Error](err); ok { // a share is used up
		return refused
	}
	k := endingOf(err)
	var text string
	switch k.code {
	case connect.CodeInternal:
		g.o.Log.Error("a request failed", "request", g.caller.request, "error", err)
		text = "request " + g.caller.request + " failed: the server's log says why"
	case connect.CodeInvalidArgument:
		text = causes(err)
	case connect.CodePermissionDenied:
		text = k.err.Error() + g.caller.asked()
		if t, ok := errors.AsType[*shownDenial](err); ok {
			text = hinted(t.Error()+g.caller.asked(), t)
		}
	case connect.CodeResourceExhausted: // a quota; package rpc tells it by its text
		_, text, _ = strings.Cut(err.Error(), secret.ErrQuota.Error())
		text = hinted(secret.ErrQuota.Error()+text, err)
	case connect.CodeAlreadyExists:
		// Flyte stores a secret as a Kubernetes object, and names that object here.
		sum := md5.Sum([]byte(ref.ID())) //nolint:gosec // as above
		text = `secrets "` + hex.EncodeToString(sum[:]) + `" already exists`
	case connect.CodeNotFound:
		text = "secret " + ref.Key + " not found"
	case connect.CodeUnavailable, connect.CodeDataLoss:
		g.o.Log.Error("the store failed", "request", g.caller.request, "error", err)
		text = k.err.Error() + " (request " + g.caller.request + ": the server's log says more)"
	default:
		text = k.err.Error()
	}
	return connect.NewError(k.code, errors.New(text))
}

// causes returns the message of an error of the kind invalid on one line, without "invalid:",
// the operation and the secret, which the client knows.
func causes(err error) string {
	if e, ok := errors.AsType[*secret.Error](err); ok {
		err = e.Err
	}
	lines := strings.Split(err.Error(), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(line, secret.ErrInvalid.Error()+": ")
	}
	return strings.Join(lines, "; ")
}

// failure returns err for the answer to a Resolve or an Import, or nil if err is nil.
func (g *guard) failure(err error) *injectv1.Failure {
	if err == nil {
		return nil
	}
	kind := endingOf(err).kind
	f := &injectv1.Failure{Code: injectv1.Failure_Code(kind)}
	switch kind {
	case secret.KindInvalid:
		f.Message = causes(err)
	case secret.KindUnknown:
		g.o.Log.Error("a request failed", "request", g.caller.request, "error", err)
		f.Message = "request " + g.caller.request + ": the server's log says more"
	case secret.KindUnavailable, secret.KindCorrupt:
		g.o.Log.Error("the store failed", "request", g.caller.request, "error", err)
		f.Message = "request " + g.caller.request + ": the server's log says more"
	}
	return f
}
