package secret

import "errors"

// A Kind is one way in which an operation on a secret fails. It classifies errors for
// programs: logs, metrics, exit reports and the wire. Its number is that of
// inject.v1.Failure.Code, so it is never reused.
type Kind int32

// The kinds. A new one needs, besides its line here: a sentinel in error.go, a line in the
// table below, and a line with the same number and name in
// resolver/idl/inject/v1/resolve.proto (then make generate). Tests fail if one of them is missing.
const (
	KindUnknown Kind = iota // none of the others, such as a bug of ours
	KindNotFound
	KindExists
	KindDenied
	KindUnavailable // the only kind that is reported as retryable
	KindCorrupt
	KindInvalid
	KindQuota
)

// kinds is the one table of kinds, the worst first: an error that wraps two sentinels is of
// the kind that comes first. For example, a secret that is damaged is not cured by creating
// another one.
//
// status is the code of gRPC (google.golang.org/grpc/codes) that servers answer with. Each
// kind has one of its own, because clients tell kinds apart by it. These codes are taken:
// CANCELED (1) and DEADLINE_EXCEEDED (4), which package rpc reads as unavailable, and
// UNAUTHENTICATED (16), which it reads as denied. A server that is too busy answers with
// RESOURCE_EXHAUSTED (8), too: package rpc reads it as unavailable unless its text begins with that
// of [ErrQuota].
var kinds = []struct {
	kind   Kind
	err    error
	name   string
	status uint32
}{
	{KindCorrupt, ErrCorrupt, "corrupt", 15},             // DATA_LOSS
	{KindDenied, ErrDenied, "denied", 7},                 // PERMISSION_DENIED
	{KindInvalid, ErrInvalid, "invalid", 3},              // INVALID_ARGUMENT
	{KindQuota, ErrQuota, "over quota", 8},               // RESOURCE_EXHAUSTED
	{KindExists, ErrExists, "exists", 6},                 // ALREADY_EXISTS
	{KindNotFound, ErrNotFound, "not found", 5},          // NOT_FOUND
	{KindUnavailable, ErrUnavailable, "unavailable", 14}, // UNAVAILABLE
	{KindUnknown, nil, "failed", 13},                     // INTERNAL
}

// Kinds returns every kind except [KindUnknown], the worst first.
func Kinds() []Kind {
	var all []Kind
	for _, k := range kinds {
		if k.err != nil {
			all = append(all, k.kind)
		}
	}
	return all
}

// KindOf returns the kind of err: the worst one whose sentinel err wraps, or
// [KindUnknown], also for nil.
func KindOf(err error) Kind {
	for _, k := range kinds {
		if k.err != nil && errors.Is(err, k.err) {
			return k.kind
		}
	}
	return KindUnknown
}

// KindNamed returns the kind whose String is name, or [KindUnknown].
func KindNamed(name string) Kind {
	for _, k := range kinds {
		if k.name == name {
			return k.kind
		}
	}
	return KindUnknown
}

// KindOfStatus returns the kind with that code of gRPC, or [KindUnknown].
func KindOfStatus(code uint32) Kind {
	for _, k := range kinds {
		if k.status == code {
			return k.kind
		}
	}
	return KindUnknown
}

// Err returns k's sentinel, or nil for [KindUnknown] and for a number that is no kind,
// such as one from a newer server.
func (k Kind) Err() error {
	for _, known := range kinds {
		if known.kind == k {
			return known.err
		}
	}
	return nil
}

// String returns k in one or two words for logs and metrics; "failed" for [KindUnknown].
func (k Kind) String() string {
	for _, known := range kinds {
		if known.kind == k {
			return known.name
		}
	}
	return KindUnknown.String()
}

// Status returns the code of gRPC that a server answers with for an error of the kind k.
func (k Kind) Status() uint32 {
	for _, known := range kinds {
		if known.kind == k {
			return known.status
		}
	}
	return KindUnknown.Status()
}
