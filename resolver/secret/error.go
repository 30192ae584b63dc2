package secret

import (
	"errors"
	"fmt"
)

// The ways in which an operation on a secret fails. Stores classify their
// errors by wrapping one of these; callers ask with [errors.Is].
var (
	// ErrNotFound: there is no such secret at exactly that scope. It is the only
	// error on which the ladder climbs, so a store that cannot tell absence from
	// damage must not return it.
	ErrNotFound = errors.New("secret not found")
	// ErrExists: the secret that should be created exists already.
	ErrExists = errors.New("secret already exists")
	// ErrDenied: the caller may not perform the operation.
	ErrDenied = errors.New("access denied")
	// ErrUnavailable: the store did not answer; the same call may succeed later.
	ErrUnavailable = errors.New("store unavailable")
	// ErrInvalid: the request can never succeed unless it is changed.
	ErrInvalid = errors.New("invalid")
	// ErrQuota: the secrets at a scope would take more than its quota allows. The same change
	// succeeds only after others were deleted there, or the quota was raised.
	ErrQuota = errors.New("quota exceeded")
	// ErrCorrupt: the store holds something that it did not write.
	ErrCorrupt = errors.New("store damaged")
)

// An Error says which operation failed on which secret, in the manner of
// [io/fs.PathError]. It never holds a value.
type Error struct {
	Op  string // the operation: get, create, update, delete, describe
	Ref Ref    // the secret
	Err error  // the cause, wrapping one of the sentinels
}

// Error returns "op KEY at scope: cause".
func (e *Error) Error() string { return e.Op + " " + e.Ref.String() + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// WithHint returns err with a hint on what to do about it, which [Hint] returns. The
// text of the error stays the same.
func WithHint(err error, format string, args ...any) error {
	return &hinted{err, fmt.Sprintf(format, args...)}
}

type hinted struct {
	error

	hint string
}

func (h *hinted) Unwrap() error { return h.error }

// Hint returns the outermost hint in err's tree, or "" if it has none.
func Hint(err error) string {
	if h, ok := errors.AsType[*hinted](err); ok {
		return h.hint
	}
	return ""
}
