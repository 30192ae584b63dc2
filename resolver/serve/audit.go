package serve

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"inject/resolver/secret"
)

// The decisions in the audit log.
const (
	allowed         = "allowed"
	denied          = "denied"
	invalid         = "invalid"         // the request could not be understood, so nothing was decided
	refused         = "refused"         // a rate or a share of the caller was used up, so nothing was decided
	unauthenticated = "unauthenticated" // the caller could not be identified
)

// The events of the audit log. Each decision has one line; a change that was allowed has a
// second one with its outcome, and the same request.
const (
	eventDecision = "decision"
	eventOutcome  = "outcome"
	eventReload   = "reload" // a file of the server has changed, and is in use or was refused
	eventProbe    = "probe"  // the log could not be written, and the server tries again
)

// A record is a line of the audit log: the caller, the operation, the secret and the
// decision. It holds only names that are valid, because an invalid one may be a value that
// was given in place of a name.
type record struct {
	Time     time.Time       `json:"time"`
	Event    string          `json:"event"`             // one of those above
	Request  string          `json:"request,omitempty"` // our own id of the request
	Client   string          `json:"client,omitempty"`  // the client's id of the request
	Remote   string          `json:"remote,omitempty"`  // address
	Method   string          `json:"method,omitempty"`  // how the caller was identified
	Who      string          `json:"who,omitempty"`     // the caller
	Claims   auditedClaims   `json:"claims,omitempty"`  // of a JWT what the policy names, its pod; of a pod what it is
	Rule     string          `json:"rule,omitempty"`    // of the policy
	Verb     string          `json:"verb,omitempty"`    // create, update, delete, import, get, list, resolve, explain
	Scope    *auditScope     `json:"scope,omitempty"`   // of the secret, the filter or the task
	Key      string          `json:"key,omitempty"`     // of the secret
	Secrets  []auditedSecret `json:"secrets,omitempty"` // of a declared list or an import
	Path     string          `json:"path,omitempty"`    // of a file: a backup, a new key, what was reloaded
	Token    string          `json:"token,omitempty"`   // the name of a new token
	Decision string          `json:"decision,omitempty"`
	Outcome  string          `json:"outcome,omitempty"` // how an allowed operation ended
	Reason   string          `json:"reason,omitempty"`  // why it was denied or invalid
	Count    int             `json:"count,omitempty"`   // how many secrets were listed
	Omitted  int             `json:"omitted,omitempty"` // how many of Secrets the line has no room for
	Claimed  *auditScope     `json:"claimed,omitempty"` // the scope in the request, if it is not the caller's
}

type auditedClaims map[string][]string

type auditScope struct {
	Org     string `json:"org,omitempty"`
	Domain  string `json:"domain,omitempty"`
	Project string `json:"project,omitempty"`
}

type auditedSecret struct {
	Key     string      `json:"key,omitempty"`
	Outcome string      `json:"outcome,omitempty"`
	At      *auditScope `json:"at,omitempty"` // the rung where the secret was found
}

func auditedScope(s secret.Scope) *auditScope {
	if s == (secret.Scope{}) || s.Validate() != nil {
		return nil
	}
	return &auditScope{s.Org, s.Domain, s.Project}
}

func auditedKey(key string) string {
	if secret.StoredKey(key) != nil {
		return ""
	}
	return key
}

// An Audit is the audit log, with one JSON object on each line. It is safe for concurrent
// use.
type Audit struct {
	path string // "" if the writer is not a file that OpenAudit opened

	// turn is a mutex of the fields below: it is held by the goroutine that put an element
	// into it. Unlike for a sync.Mutex, waiting can end with the request.
	turn chan struct{}
	w    io.Writer
	cut  bool // the last line was written in part

	err atomic.Pointer[error] // of the last line
}

// NewAudit returns the audit log that is written to w.
func NewAudit(w io.Writer) *Audit {
	return &Audit{turn: make(chan struct{}, 1), w: w}
}

// OpenAudit returns the audit log in the file at path. It appends to the file, or creates
// it with mode 0600.
func OpenAudit(path string) (*Audit, error) {
	f, cut, err := openAuditFile(path)
	if err != nil {
		return nil, err
	}
	a := NewAudit(f)
	a.path, a.cut = path, cut
	return a, nil
}

// openAuditFile opens the file for appending. cut reports whether its last line is not
// complete: then a line end must be written first.
func openAuditFile(path string) (f *os.File, cut bool, err error) {
	f, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600) //nolint:gosec // the operator's file
	if err != nil {
		return nil, false, fmt.Errorf("%w: audit log: %w", secret.ErrUnavailable, err)
	}
	return f, endsWithin(path), nil
}

// endsWithin reports whether a file ends within a line. It returns false if the file is not
// regular or cannot be read.
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

// Reopen opens the file again, after log rotation has moved it away. If that fails, the log
// stays in the old file. It does nothing for a log from [NewAudit].
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

// Close closes the file of a log from [OpenAudit].
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

// Probe returns nil if the log can be written. If the last line failed, it tries to write
// another one, without a request. Otherwise a server that is not ready, and so gets no
// requests, would never become ready again.
func (a *Audit) Probe(ctx context.Context) error {
	if a.Err() == nil {
		return nil
	}
	return a.write(ctx, &record{Time: time.Now().UTC(), Event: eventProbe, Request: newRequest()})
}

// Maintenance is what a user of this machine does to the store or the access of the server.
type Maintenance struct {
	Verb  string // backup, restore, rotate or token
	User  int    // the number of the user (uid)
	Path  string // of the backup, the new key or the tokens file
	Token string // the name of a new token
}

// Begin writes the line of m before it is done. If that fails, it must not be done. The
// returned function writes the line of the outcome.
func (a *Audit) Begin(ctx context.Context, m Maintenance) (end func(error), err error) {
	r := &record{
		Time: time.Now().UTC(), Event: eventDecision, Request: newRequest(),
		Method: "uid", Who: strconv.Itoa(m.User), Verb: m.Verb, Path: m.Path, Token: m.Token, Decision: allowed,
	}
	if err := a.write(ctx, r); err != nil {
		return nil, err
	}
	return func(err error) {
		r.ended(err)
		_ = a.write(context.WithoutCancel(ctx), r)
	}, nil
}

// ended turns the line of a decision into that of its outcome.
func (r *record) ended(err error) {
	r.Time, r.Event, r.Decision, r.Outcome = time.Now().UTC(), eventOutcome, "", outcome(err)
	r.Secrets, r.Claims = nil, nil // the line of the decision has them
}

// Reloaded writes the line of a file that has changed: with nil if the change is in use, else
// with why it is not. The line has no more than the kind of err, because its text may quote
// the file.
func (a *Audit) Reloaded(ctx context.Context, path string, err error) error {
	return a.write(ctx, &record{Time: time.Now().UTC(), Event: eventReload, Path: path, Outcome: outcome(err)})
}

// notWaited is the error of a request that ended before its line was written. It does not
// mean that the log is broken.
type notWaited struct{ err error }

func (e *notWaited) Error() string { return "the request ended before it was logged: " + e.err.Error() }

func (e *notWaited) Unwrap() []error { return []error{secret.ErrUnavailable, e.err} }

// keep leaves the first n secrets in r, and counts the rest.
func (r *record) keep(n int) {
	if len(r.Secrets) > n {
		r.Secrets, r.Omitted = r.Secrets[:n], len(r.Secrets)-n
	}
}

// The bounds of a line, in bytes. Container runtimes cut lines of 16 KiB.
const (
	maxLine  = 16 << 10
	restLine = 6 << 10 // for all but the secrets
	maxWho   = 512     // each of which JSON may write in six bytes
	// lineCost is what a line without a list counts, and keyCost what each of its keys counts
	// beside its own length.
	lineCost = 1 << 10
	keyCost  = 128
)

// line returns r as JSON. What exceeds maxLine is left out, and counted in the line.
func (r *record) line() ([]byte, error) {
	short := *r
	if len(short.Who) > maxWho {
		short.Who = strings.ToValidUTF8(short.Who[:maxWho], "") + "..."
	}
	for i, room := 0, maxLine-restLine; i < len(r.Secrets); i++ {
		b, err := json.Marshal(r.Secrets[i])
		if err != nil {
			return nil, err
		}
		if room -= len(b) + 1; room < 0 {
			short.Secrets, short.Omitted = r.Secrets[:i], r.Omitted+len(r.Secrets)-i
			break
		}
	}
	return json.Marshal(&short)
}

// write appends r. If it fails, the caller must neither do nor answer what r records.
func (a *Audit) write(ctx context.Context, r *record) error {
	line, err := r.line()
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
	if a.cut { // the disk was full
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
