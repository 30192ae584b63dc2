package serve

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"inject/internal/shares"
	"inject/resolver/secret"
	"inject/resolver/serve/identity"
	"inject/resolver/serve/policy"
	"inject/resolver/store"
)

// A caller is the sender of one request, with its permissions.
type caller struct {
	identity identity.Identity
	grant    policy.Grant
	claims   auditedClaims
	request  string // our id of the request
	client   string // the client's id of the request
	remote   string // address
	control  *http.ResponseController
	place    *shares.Hold // of Server.arrivals, then of Server.requests
	body     *shares.Hold // of Server.bodies
	answer   *shares.Hold // of Server.answers
	// paid is true if the share of the audit log has been charged with the line of the request, and
	// lined if the line has been written. reason is why the request ends without a decision.
	paid, lined bool
	reason      string
}

// name is the key of the caller in every limit of identities.
func (c *caller) name() string { return c.identity.Method + " " + c.identity.Name }

// cutOff ends an answer that the client reads slowly.
func (c *caller) cutOff() { _ = c.control.SetWriteDeadline(time.Unix(1, 0)) }

// asked is the end of the text of a denial. The request's id finds the line of the audit log,
// and the name of the caller is often the whole answer: another certificate or token was sent
// than the one that was meant.
func (c *caller) asked() string { return " (request " + c.request + ", caller " + c.name() + ")" }

// record begins a line of the audit log.
func (c *caller) record(verb string, scope secret.Scope) *record {
	return &record{
		Time: time.Now().UTC(), Event: eventDecision, Request: c.request, Client: c.client, Remote: c.remote,
		Method: c.identity.Method, Who: c.identity.Name, Claims: c.claims, Rule: c.grant.Rule(),
		Verb: verb, Scope: auditedScope(scope),
	}
}

// afford takes the rest of what a request costs that asks for keys. It is called before the
// request does anything.
func (g *guard) afford(keys iter.Seq[string]) error {
	if g.o.Authenticator == nil {
		return nil
	}
	n, bytes := 0, 0
	for key := range keys {
		n, bytes = n+1, bytes+keyCost+len(key)
	}
	if n > 1 && !g.limits.allow(g.caller.name(), n-1) { // one was taken with the request
		return g.tooMany(g.caller)
	}
	if !g.audited.allow(g.caller.name(), min(bytes, maxLine)) {
		return g.tooLoud(g.caller)
	}
	return nil
}

// shownOfDenied is how many keys are in the line of a denial of a whole list.
const shownOfDenied = 8

// A guard is the store for one request: it decides and audits every operation before it is
// done, and hides what the caller may not know.
type guard struct {
	*Server

	caller *caller
}

var _ store.Importer = (*guard)(nil)

// decide writes the line of a decision.
func (g *guard) decide(ctx context.Context, r *record, decision string) error {
	g.caller.lined = true
	r.Decision = decision
	g.metrics.decided(r.Verb, decision)
	return g.log(ctx, r)
}

// decided writes the line of a decision that ends the request with err, and returns err. If
// the line cannot be written, it returns that error instead.
func (g *guard) decided(ctx context.Context, r *record, decision string, err error) error {
	if failed := g.decide(ctx, r, decision); failed != nil {
		return failed
	}
	return err
}

func (s *Server) log(ctx context.Context, r *record) error {
	err := s.o.Audit.write(ctx, r)
	if _, ours := errors.AsType[*notWaited](err); err != nil && !ours {
		s.metrics.auditErrors.Inc()
		s.o.Log.Error("the audit log cannot be written, so requests are not answered", "error", err)
	}
	return err
}

// decoy returns the ref of a secret that does not exist. Looking it up takes as long as for
// any absent secret.
func decoy(at secret.Scope) secret.Ref {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (Go 1.24)
	return secret.Ref{Scope: at, Key: "absent-" + hex.EncodeToString(b[:])}
}

// change decides on a change of ref, makes it by calling on, and logs how it ended. If the
// caller may not even know whether ref exists, on gets a decoy.
func (g *guard) change(
	ctx context.Context, verb string, ref secret.Ref, v secret.Value, on func(store.Manager, secret.Ref) error,
) error {
	r := g.caller.record(verb, ref.Scope)
	r.Key = auditedKey(ref.Key)
	valid := store.Writable
	if verb == "create" {
		valid = store.Creatable
	}
	err := valid(ref, v)
	if err != nil {
		r.Reason = reasonInvalid
		return g.decided(ctx, r, invalid, g.opError(verb, ref, err))
	}
	if !g.caller.grant.May(policy.Manage, ref.Scope) {
		if err := g.decide(ctx, r, denied); err != nil {
			return err
		}
		switch {
		case verb == "create", g.caller.grant.May(policy.List, ref.Scope):
			return g.opError(verb, ref, secret.ErrDenied)
		case g.manager != nil:
			_ = on(g.manager, decoy(ref.Scope))
		}
		return g.opError(verb, ref, secret.ErrNotFound)
	}
	if err := g.decide(ctx, r, allowed); err != nil {
		return err
	}
	err = g.changeable(g.manager != nil, verb)
	if err == nil {
		err = g.timed(verb, func() error { return on(g.manager, ref) })
	}
	g.ended(ctx, r, err)
	return err
}

// ended writes a second line with the outcome of an allowed change. The change is made and
// its decision logged, so an error of the log now is only counted.
func (g *guard) ended(ctx context.Context, r *record, err error) {
	r.ended(err)
	_ = g.log(context.WithoutCancel(ctx), r)
}

func (g *guard) opError(verb string, ref secret.Ref, err error) error {
	return &secret.Error{Op: verb, Ref: ref, Err: err}
}

// Create implements [store.Manager].
func (g *guard) Create(ctx context.Context, ref secret.Ref, v secret.Value, t store.Type) error {
	return g.change(
		ctx, "create", ref, v, func(m store.Manager, ref secret.Ref) error { return m.Create(ctx, ref, v, t) },
	)
}

// Update implements [store.Manager].
func (g *guard) Update(ctx context.Context, ref secret.Ref, v secret.Value) error {
	return g.change(ctx, "update", ref, v, func(m store.Manager, ref secret.Ref) error { return m.Update(ctx, ref, v) })
}

// Delete implements [store.Manager].
func (g *guard) Delete(ctx context.Context, ref secret.Ref) error {
	return g.change(
		ctx, "delete", ref, secret.Value{},
		func(m store.Manager, ref secret.Ref) error { return m.Delete(ctx, ref) },
	)
}

// Import implements [store.Importer]. All secrets must be at one scope.
func (g *guard) Import(ctx context.Context, secrets []store.New) error {
	if len(secrets) == 0 {
		r := g.caller.record("import", secret.Scope{})
		r.Reason = "0 secrets"
		return g.decided(ctx, r, invalid, fmt.Errorf("%w: the import has no secrets", secret.ErrInvalid))
	}
	err := g.afford(func(yield func(string) bool) {
		for _, n := range secrets {
			if !yield(n.Ref.Key) {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	if g.reserve(ctx, len(secrets), 0) != nil {
		return g.exhausted(g.caller, "answer", busyAnswers)
	}
	scope := secrets[0].Ref.Scope
	r := g.caller.record("import", scope)
	var errs []error
	for _, n := range secrets {
		r.Secrets = append(r.Secrets, auditedSecret{Key: auditedKey(n.Ref.Key)})
		if err := store.Creatable(n.Ref, n.Value); err != nil {
			errs = append(errs, g.opError("create", n.Ref, err))
		}
	}
	if errs != nil {
		r.Reason = reasonInvalid
		return g.decided(ctx, r, invalid, errors.Join(errs...))
	}
	if !g.caller.grant.May(policy.Manage, scope) {
		return g.decided(ctx, r, denied, fmt.Errorf("import: %w", secret.ErrDenied))
	}
	if err := g.decide(ctx, r, allowed); err != nil {
		return err
	}
	err = g.changeable(g.manager != nil, "import")
	if err == nil && g.importer == nil {
		err = errNoImport
	}
	if err == nil {
		err = g.timed("import", func() error { return g.importer.Import(ctx, secrets) })
	}
	g.ended(ctx, r, err)
	return err
}

var (
	errReadOnly = fmt.Errorf("%w: this store is read-only", secret.ErrInvalid)
	errNoQuotas = fmt.Errorf("%w: the policy has quotas, and this store cannot keep them", secret.ErrInvalid)
)

// errNoImport answers an import into a store that creates secrets one by one.
var errNoImport = connect.NewError(connect.CodeUnimplemented, &noImport{})

type noImport struct{}

func (*noImport) Error() string {
	return "inject.v1.ImportService stores all secrets or none, and this server's store creates them one by one"
}

func (*noImport) Unwrap() error { return secret.ErrInvalid } // for the audit log

// changeable returns nil if the backend can be changed, which has says, and keeps the policy's
// quotas, if it has any. A delete, of the verbs, exceeds none.
func (g *guard) changeable(has bool, verb string) error {
	switch {
	case !has:
		return errReadOnly
	case verb != "delete" && !g.counts && g.o.Authenticator != nil && g.o.Policy().HasQuotas():
		return errNoQuotas
	}
	return nil
}

// Describe implements [store.Lister].
func (g *guard) Describe(ctx context.Context, ref secret.Ref) (store.Info, error) {
	r := g.caller.record("get", ref.Scope)
	r.Key = auditedKey(ref.Key)
	if err := ref.Validate(); err != nil {
		r.Reason = reasonInvalid
		return store.Info{}, g.decided(ctx, r, invalid, g.opError("get", ref, err))
	}
	may := g.caller.grant.May(policy.List, ref.Scope)
	at, decision := ref, allowed
	if !may {
		at, decision = decoy(ref.Scope), denied
	}
	var info store.Info
	err := g.timed("get", func() (err error) {
		info, err = g.backend.Describe(ctx, at)
		return err
	})
	if may {
		r.Outcome = outcome(err)
	}
	if err := g.decide(ctx, r, decision); err != nil {
		return store.Info{}, err
	}
	if !may {
		if err == nil || errors.Is(err, secret.ErrNotFound) {
			err = secret.ErrNotFound
		}
		return store.Info{}, g.opError("get", ref, err)
	}
	return info, err
}

// maxPages is how many pages of maxPage secrets are read from the backend to fill one page
// with secrets that the caller may list.
const maxPages = 16

// List implements [store.Lister]. It returns the secrets selected by f that the caller may
// list.
func (g *guard) List(
	ctx context.Context, f store.Filter, limit int, token string,
) (page []store.Info, next string, err error) {
	r := g.caller.record("list", secret.Scope{})
	if scope := (secret.Scope{Org: f.Org, Domain: f.Domain, Project: f.Project}); scope.Validate() != nil {
		r.Reason = reasonInvalid
		return nil, "", g.decided(ctx, r, invalid, scope.Validate())
	}
	r.Scope = &auditScope{f.Org, f.Domain, f.Project}
	if !g.caller.grant.MayAny(policy.List, f) {
		return nil, "", g.decided(ctx, r, denied, fmt.Errorf("list: %w", secret.ErrDenied))
	}
	if g.reserve(ctx, limit, 0) != nil {
		return nil, "", g.exhausted(g.caller, "answer", busyAnswers)
	}
	scan := g.scanning.Hold(g.caller.name())
	defer scan.Close()
	if scan.Grow(ctx, 1) != nil {
		return nil, "", g.exhausted(g.caller, "scan", "too many lists at the same time")
	}
	err = g.timed("list", func() (err error) {
		page, next, err = g.visible(ctx, f, limit, token)
		return err
	})
	r.Outcome, r.Count = outcome(err), len(page)
	if err := g.decided(ctx, r, allowed, err); err != nil {
		return nil, "", err
	}
	return page, next, nil
}

// visible returns a page of secrets that the caller may list. The page has limit secrets if
// there are so many, and a token only if there are more: otherwise a short page would
// reveal that secrets are hidden, and how many. The page ends with a secret that the caller
// may see, because the token may contain its name. Only after 16,000 hidden secrets in a
// row does a page end early.
func (g *guard) visible(
	ctx context.Context, f store.Filter, limit int, token string,
) (page []store.Info, next string, err error) {
	next = token
	size := limit
	for range maxPages {
		all, after, err := g.backend.List(ctx, f, size, next)
		if n := upTo(all, limit-len(page), g.mayList); err == nil && n < len(all) {
			all, after, err = g.backend.List(ctx, f, n, next)
		}
		if err != nil {
			return nil, "", err
		}
		for _, info := range all {
			if g.mayList(info) {
				page = append(page, info)
			}
		}
		if next = after; next == "" {
			return page, "", nil
		}
		if len(page) >= limit {
			break
		}
		size = maxPage
	}

	at, size := next, 1 // mostly the caller may see the next secret, too
	for range maxPages {
		all, after, err := g.backend.List(ctx, f, size, at)
		if err != nil {
			return nil, "", err
		}
		if slices.ContainsFunc(all, g.mayList) {
			return page, next, nil
		}
		if after == "" {
			return page, "", nil
		}
		at, size = after, maxPage
	}
	return page, next, nil
}

func (g *guard) mayList(info store.Info) bool { return g.caller.grant.May(policy.List, info.Ref.Scope) }

// upTo returns the length of the shortest prefix of all with n secrets for which may is
// true, or len(all) if there are fewer.
func upTo(all []store.Info, n int, may func(store.Info) bool) int {
	for i, info := range all {
		if may(info) {
			if n--; n == 0 {
				return i + 1
			}
		}
	}
	return len(all)
}

// taskReader is the store of the ladder of one Resolve, and its bounds. It decides on each key; the
// request is audited as a whole before it is answered. It is not a [store.Lister], as the guard is,
// because the ladder would use it to list secrets that the task may not list.
type taskReader struct {
	g      *guard
	values *values
}

// values are those that a Resolve has read. Reading stops when they are more than one answer may
// have, or a share is used up.
type values struct {
	names bool // the request is for names alone: no value is kept
	keys  int

	mu    sync.Mutex
	bytes int
	err   error // of all further reads
}

// keyAnswer is how many bytes of an answer each key counts beside its value: for names, scopes and
// the text of a failure.
const keyAnswer = 512

const busyAnswers = "too many answers are read or sent at the same time"

// reserve takes the share of the answers for one about so many keys, with values of so many bytes,
// which are held twice: as they are and encoded.
func (g *guard) reserve(ctx context.Context, keys, bytes int) error {
	size := step(answerSteps, int64(keys)*keyAnswer+2*int64(bytes))
	return g.caller.answer.Grow(ctx, size-g.caller.answer.Size())
}

func (s *values) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Keep implements [resolver.Bounds]: it counts v, which takes its share.
func (t taskReader) Keep(ctx context.Context, v secret.Value) error {
	s := t.values
	if s.names {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes += v.Len()
	switch {
	case s.err != nil:
	case s.bytes > maxAnswer:
		s.err = fmt.Errorf(
			"%w: the values have more than %d bytes together", secret.ErrInvalid, maxAnswer)
	case t.g.reserve(ctx, s.keys, s.bytes) != nil:
		s.err = t.g.exhausted(t.g.caller, "answer", busyAnswers)
	}
	return s.err
}

// A place is what the climb of one key takes of the reads. It is given back by the last of the climb
// and the reads of the backend that the climb has caused: they go on when they are given up, because
// others may use them, and a client that takes back its requests must not cause more and more.
type place struct {
	*shares.Hold

	users atomic.Int32
}

type placeKey struct{}

func (p *place) leave() {
	if p.users.Add(-1) == 0 {
		p.Close()
	}
}

// Enter implements [resolver.Bounds]. The number of lists that are resolved at the same time bounds how
// long it waits. It does so as long as the request may take: to refuse one that has read a part of its
// secrets would make the store, which is slow then, do it again.
func (t taskReader) Enter(ctx context.Context, n int) (context.Context, func(), error) {
	if err := t.values.failed(); err != nil {
		return nil, nil, err
	}
	p := &place{Hold: t.g.reading.Hold(t.g.caller.name())}
	p.users.Store(1)
	if !p.Try(int64(n)) && p.Wait(ctx, int64(n)) != nil {
		p.leave()
		return nil, nil, fmt.Errorf("%w: %w", secret.ErrUnavailable, context.Cause(ctx))
	}
	return context.WithValue(ctx, placeKey{}, p), p.leave, nil
}

// observe is the [flight.Observer] of the server: it counts the reads of the backend.
func (s *Server) observe(ctx context.Context) (ended func(time.Duration, error)) {
	p, remote := ctx.Value(placeKey{}).(*place)
	if remote {
		p.users.Add(1) // the climb has not left it, because its call goes on
	}
	return func(took time.Duration, err error) {
		s.metrics.backend("read", took, err)
		if remote {
			p.leave()
		}
	}
}

// Remote implements [store.Remote].
func (t taskReader) Remote() bool { return store.IsRemote(t.g.backend) }

// Get implements [store.Reader].
func (t taskReader) Get(ctx context.Context, ref secret.Ref) (v secret.Value, info store.Info, err error) {
	if err := ref.Validate(); err != nil { // reveals nothing: the caller can check that, too
		return v, info, t.g.opError("get", ref, err)
	}
	if err := t.values.failed(); err != nil {
		return v, info, err
	}
	at := ref
	may := t.g.caller.grant.MayResolve(ref.Key)
	if !may {
		at = decoy(ref.Scope)
	}
	v, info, err = t.g.backend.Get(ctx, at)
	err = ofStore(err)
	if !may && err == nil {
		v, info, err = secret.Value{}, store.Info{}, secret.ErrNotFound
	}
	if e, ok := errors.AsType[*secret.Error](err); ok && !may { // the error names the decoy
		err = e.Err
	}
	if t.values.names {
		v = secret.Value{}
	}
	return v, info, err
}

// listingReader is a taskReader for a caller who may list something: for a secret that was
// not found, the ladder looks for other scopes that the caller may list.
type listingReader struct{ taskReader }

// Describe implements [store.Lister]. The ladder does not call it.
func (l listingReader) Describe(ctx context.Context, ref secret.Ref) (store.Info, error) {
	return l.g.Describe(ctx, ref)
}

// List implements [store.Lister]. It reads a whole org only to improve a hint, so it fails instead
// of waiting for its share of the lists.
func (l listingReader) List(
	ctx context.Context, f store.Filter, limit int, token string,
) (page []store.Info, next string, err error) {
	scan := l.g.scanning.Hold(l.g.caller.name())
	defer scan.Close()
	if !scan.Try(1) {
		return nil, "", fmt.Errorf("%w: other searches are under way", secret.ErrUnavailable)
	}
	all, next, err := l.g.backend.List(ctx, f, limit, token)
	for _, info := range all {
		if l.g.mayList(info) {
			page = append(page, info)
		}
	}
	return page, next, err
}
