package serve

import (
	"context"
	"crypto/md5" //nolint:gosec // a name's form, of Flyte's
	"encoding/hex"
	"errors"
	"strings"

	"connectrpc.com/connect"

	injectv1 "inject/resolver/idl/inject/v1"
	"inject/resolver/secret"
)

const reasonInvalid = "a name, a scope or a value is not one"

// shownDenial is a denial that the caller is told in full, with what to do about it: it names
// nothing but what they have said themselves, and what they are bound to.
type shownDenial struct{ err error }

func (t *shownDenial) Error() string { return t.err.Error() }
func (t *shownDenial) Unwrap() error { return t.err }

// An ending is how an operation ended that failed.
type ending struct {
	kind    secret.Kind
	err     error  // whose text stands for all of the kind
	outcome string // in the audit log and in metrics
	code    connect.Code
}

// gaveUp are the endings of a request whose client, or whose time, is gone. They are not
// kinds of their own on the wire of Resolve, where the store was unavailable.
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

// outcome is a word for how an operation ended.
func outcome(err error) string {
	if err == nil {
		return "done"
	}
	return endingOf(err).outcome
}

// answer returns err as the caller is told it. What the store says of its own files,
// disks and peers is for our log; names that the caller gave, and what is wrong with
// them, are theirs. The texts about secrets that are and are not there are those of
// Flyte's server (flyteorg/flyte v2.0.43, secret/service/secret_service.go).
func (g *guard) answer(err error, ref secret.Ref) error {
	if err == nil {
		return nil
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
		text = k.err.Error()
		if t, ok := errors.AsType[*shownDenial](err); ok {
			text = t.Error()
			if hint := secret.Hint(t); hint != "" {
				text += "; hint: " + hint // where package rpc cuts it
			}
		}
	case connect.CodeAlreadyExists:
		// There the secret is an object of Kubernetes, and this is the object's name.
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

// causes is what an error of the kind invalid says, without the kind, the operation and
// the secret, which the caller has named, and without lines.
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

// failure is err in the answer to a Resolve or an Import; nil if err is.
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
	case secret.KindDenied, secret.KindUnavailable, secret.KindCorrupt: // the policy's denials look absent here
		g.o.Log.Error("the store failed", "request", g.caller.request, "error", err)
		f.Message = "request " + g.caller.request + ": the server's log says more"
	}
	return f
}
