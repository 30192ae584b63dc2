package serve

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"inject/resolver/secret"
)

// Decisions, as the audit log has them.
const (
	allowed         = "allowed"
	denied          = "denied"
	invalid         = "invalid"         // the request could not be understood: there was nothing to decide
	unauthenticated = "unauthenticated" // nobody that we know
)

// A record is a line of the audit log: who, what, where, what was decided. It holds
// names that are valid as such only: what is no name may be a value that was put in
// its place.
type record struct {
	Time     time.Time       `json:"time"`
	Request  string          `json:"request"`           // our own number of it
	Client   string          `json:"client,omitempty"`  // the caller's number of it
	Remote   string          `json:"remote,omitempty"`  // address
	Method   string          `json:"method,omitempty"`  // how the caller was identified
	Who      string          `json:"who,omitempty"`     // the caller
	Rule     string          `json:"rule,omitempty"`    // of the policy
	Verb     string          `json:"verb"`              // create, update, delete, import, get, list, resolve, explain
	Scope    *auditScope     `json:"scope,omitempty"`   // of the secret, the filter or the task
	Key      string          `json:"key,omitempty"`     // of the secret
	Secrets  []auditedSecret `json:"secrets,omitempty"` // of a declared list or an import
	Decision string          `json:"decision"`          // see above
	Outcome  string          `json:"outcome,omitempty"` // of what was allowed
	Reason   string          `json:"reason,omitempty"`  // why not
	Count    int             `json:"count,omitempty"`   // of the secrets that were listed
	Claimed  *auditScope     `json:"claimed,omitempty"` // what the request said of its own scope, if that is another one
}

type auditScope struct {
	Org     string `json:"org,omitempty"`
	Domain  string `json:"domain,omitempty"`
	Project string `json:"project,omitempty"`
}

type auditedSecret struct {
	Key     string      `json:"key,omitempty"`
	Outcome string      `json:"outcome,omitempty"`
	At      *auditScope `json:"at,omitempty"` // the rung that won
}

func auditedScope(s secret.Scope) *auditScope {
	if s == (secret.Scope{}) || s.Validate() != nil {
		return nil
	}
	return &auditScope{s.Org, s.Domain, s.Project}
}

func auditedKey(key string) string {
	if secret.ValidKey(key) != nil {
		return ""
	}
	return key
}

// An Audit is the audit log, one JSON object a line. Safe for concurrent use.
type Audit struct {
	path string // "" if it is no file of its own

	// turn holds a token: whoever has put it there may use what follows. (Waiting for a
	// mutex would not end with the request.)
	turn chan struct{}
	w    io.Writer
	cut  bool // the last line was written in part

	err atomic.Pointer[error] // of the last line
}

// NewAudit returns the audit log that is written to w.
func NewAudit(w io.Writer) *Audit {
	return &Audit{turn: make(chan struct{}, 1), w: w}
}

// OpenAudit returns the audit log in the file at path, which is made, private, if it
// is not there, and else appended to.
func OpenAudit(path string) (*Audit, error) {
	f, cut, err := openAuditFile(path)
	if err != nil {
		return nil, err
	}
	a := NewAudit(f)
	a.path, a.cut = path, cut
	return a, nil
}

// openAuditFile opens the file to append to it, and tells whether its last line was
// written in part: what is appended to that would be no line of its own.
func openAuditFile(path string) (f *os.File, cut bool, err error) {
	f, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600) //nolint:gosec // the operator's file
	if err != nil {
		return nil, false, fmt.Errorf("%w: audit log: %w", secret.ErrUnavailable, err)
	}
	return f, endsWithin(path), nil
}

// endsWithin reports whether the last byte of a file ends no line. Of what may be written
// only, or is no file, nothing is known.
func endsWithin(path string) bool {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return false
	}
	f, err := os.Open(path) //nolint:gosec // the operator's file
	if err != nil {
		return false
	}
	defer f.Close() //nolint:errcheck // read only
	var last [1]byte
	_, err = f.ReadAt(last[:], info.Size()-1)
	return err == nil && last[0] != '\n'
}

// Reopen opens the file again, after it was moved away to be archived. If that fails
// the log stays in the file that it was in. A log that is no file of its own is left
// as it is.
func (a *Audit) Reopen() error {
	if a.path == "" {
		return nil
	}
	a.turn <- struct{}{}
	f, cut, err := openAuditFile(a.path)
	if err != nil {
		<-a.turn
		return err
	}
	old := a.w
	a.w, a.cut = f, cut
	<-a.turn
	return closeFile(old)
}

// Close closes the file, if it is one of its own.
func (a *Audit) Close() error {
	if a.path == "" {
		return nil
	}
	a.turn <- struct{}{}
	defer func() { <-a.turn }()
	return closeFile(a.w)
}

func closeFile(w io.Writer) error {
	if c, ok := w.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// Err returns why the last line could not be written, nil if it was.
func (a *Audit) Err() error {
	if err := a.err.Load(); err != nil {
		return *err
	}
	return nil
}

// Probe returns nil if the log can be written. After a line that could not be it tries
// one that tells of nothing, so that who sends requests only to a server that is ready
// learns when it is so again.
func (a *Audit) Probe(ctx context.Context) error {
	if a.Err() == nil {
		return nil
	}
	return a.write(ctx, &record{Time: time.Now().UTC(), Request: newRequest(), Verb: "probe", Decision: allowed})
}

// notWaited says that a request ended while it waited for its turn to be logged, which
// says nothing of the log.
type notWaited struct{ err error }

func (e *notWaited) Error() string { return "the request ended before it was logged: " + e.err.Error() }

func (e *notWaited) Unwrap() []error { return []error{secret.ErrUnavailable, e.err} }

// write appends r. When it fails the caller must not do, or tell, what r says.
func (a *Audit) write(ctx context.Context, r *record) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("%w: audit log: %w", secret.ErrUnavailable, err)
	}
	select {
	case a.turn <- struct{}{}:
	default:
		select {
		case a.turn <- struct{}{}:
		case <-ctx.Done():
			return &notWaited{context.Cause(ctx)}
		}
	}
	defer func() { <-a.turn }()
	if a.cut { // on a disk that was full
		line = append([]byte("\n"), line...)
	}
	n, err := a.w.Write(append(line, '\n'))
	a.cut = err != nil && (a.cut || n > 0)
	if err != nil {
		err = fmt.Errorf("%w: audit log: %w", secret.ErrUnavailable, err)
		a.err.Store(&err)
		return err
	}
	a.err.Store(nil)
	return nil
}
