package serve

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"inject/resolver"
	secretpb "inject/resolver/idl/flyteidl2/secret"
	injectv1 "inject/resolver/idl/inject/v1"
	"inject/resolver/secret"
	"inject/resolver/serve/policy"
	"inject/resolver/store"
)

// resolveService resolves the declared lists of tasks.
type resolveService struct{ *Server }

// Resolve implements our own service.
func (s *resolveService) Resolve(ctx context.Context, r *injectv1.ResolveRequest) (*injectv1.ResolveResponse, error) {
	g := s.guard(ctx)
	climbs, err := g.resolve(ctx, r)
	if err != nil {
		return nil, g.answer(err, secret.Ref{})
	}
	failed := false
	for _, c := range climbs {
		failed = failed || c.Err != nil
	}
	answer := &injectv1.ResolveResponse{Climbs: make([]*injectv1.Climb, len(climbs))}
	for i, c := range climbs {
		answer.Climbs[i] = g.climbed(c, !failed && !r.GetNamesOnly())
	}
	return answer, nil
}

// resolve binds the caller to a task's scope, resolves its declared list, and writes the
// audit line before anything is answered.
func (g *guard) resolve(ctx context.Context, req *injectv1.ResolveRequest) ([]resolver.Climb, error) {
	verb := "resolve"
	if req.GetNamesOnly() {
		verb = "explain"
	}
	// An empty org is not replaced by the default one: it stands for the org of the caller.
	asked := secret.Scope{
		Org: req.GetScope().GetOrganization(), Domain: req.GetScope().GetDomain(),
		Project: req.GetScope().GetProject(),
	}
	r := g.caller.record(verb, secret.Scope{})
	if n := length(req, len(req.GetSecrets())); n == 0 || n > maxDeclared {
		r.Reason = fmt.Sprintf("%d declarations", n)
		return nil, g.decided(ctx, r, invalid,
			fmt.Errorf("%w: the declared list has %d secrets (1 to %d are allowed)", secret.ErrInvalid, n, maxDeclared))
	}
	if err := g.scopeOf(req.GetScope()).Validate(); err != nil {
		r.Reason = reasonInvalid
		return nil, g.decided(ctx, r, invalid, err)
	}
	if err := g.ofThisOrg(ctx, verb, req.GetScope()); err != nil {
		return nil, err
	}
	err := g.afford(func(yield func(string) bool) {
		for _, d := range req.GetSecrets() {
			if !yield(d.GetKey()) {
				return
			}
		}
	})
	if err != nil {
		return nil, err
	}
	for _, d := range req.GetSecrets() {
		r.Secrets = append(r.Secrets, auditedSecret{Key: auditedKey(d.GetKey())})
	}

	scope, err := g.caller.grant.Bind(asked)
	if err != nil {
		if asked != (secret.Scope{}) {
			r.Claimed = &auditScope{asked.Org, asked.Domain, asked.Project}
		}
		r.Reason = "not the caller's scope"
		if !g.caller.grant.MayAny(policy.Resolve, store.Filter{}) {
			r.Reason = "not a task"
		}
		r.keep(shownOfDenied)
		return nil, g.decided(ctx, r, denied, &shownDenial{err})
	}
	r.Scope = auditedScope(scope)

	declared := make([]secret.Declaration, len(req.GetSecrets()))
	for i, d := range req.GetSecrets() {
		declared[i] = secret.Declaration{Group: d.GetGroup(), Key: d.GetKey(), Version: d.GetGroupVersion()}
	}

	climbing := g.climbing.Hold(g.caller.name())
	defer climbing.Close()
	if climbing.Grow(ctx, 1+int64(len(declared)/climbKeys)) != nil {
		return nil, g.exhausted(g.caller, "climb", "too many declared lists are resolved at the same time")
	}
	if g.reserve(ctx, len(declared), 0) != nil {
		return nil, g.exhausted(g.caller, "answer", busyAnswers)
	}
	task := taskReader{g, &values{names: req.GetNamesOnly(), keys: len(declared)}}
	var reader store.Reader = task
	if g.caller.grant.MayAny(policy.List, store.Filter{Org: scope.Org}) {
		reader = listingReader{task}
	}
	climbs, err := resolver.OverShared(reader, task).Climb(ctx, scope, declared)
	if err != nil {
		r.Reason = reasonInvalid
		return nil, g.decided(ctx, r, invalid, err)
	}

	decision, bytes := g.judge(r, climbs)
	var busy *connect.Error
	switch err := task.values.failed(); {
	case errors.As(err, &busy):
		return nil, busy
	case err != nil || bytes > maxAnswer && !req.GetNamesOnly(): // a key may be declared many times
		r.Reason = "the answer is too large"
		return nil, g.decided(ctx, r, invalid, fmt.Errorf(
			"%w: the values have more than %d bytes together", secret.ErrInvalid, maxAnswer))
	}

	if !req.GetNamesOnly() && g.reserve(ctx, len(declared), bytes) != nil {
		return nil, g.exhausted(g.caller, "answer", busyAnswers)
	}
	if err := g.decide(ctx, r, decision); err != nil {
		return nil, err
	}
	// After the deadline the whole request fails, instead of each secret on its own.
	return climbs, ctx.Err()
}

// judge enters into r how each climb ended. It returns the decision on all of them, and how many
// bytes of values they have.
func (g *guard) judge(r *record, climbs []resolver.Climb) (decision string, bytes int) {
	decision = allowed
	for i, c := range climbs {
		bytes += c.Value.Len()
		r.Secrets[i].Outcome = outcome(c.Err)
		if c.Err == nil {
			r.Secrets[i].At = auditedScope(c.Info.Ref.Scope)
		}
		if secret.ValidKey(c.Declaration.Key) == nil && !g.caller.grant.MayResolve(c.Declaration.Key) {
			decision, r.Secrets[i].Outcome = denied, denied
		}
	}
	return decision, bytes
}

// climbed returns c in the form of the wire, with its value if values is true.
func (g *guard) climbed(c resolver.Climb, values bool) *injectv1.Climb {
	out := &injectv1.Climb{}
	for _, rung := range c.Tried {
		out.Tried = append(out.Tried, &injectv1.Rung{Scope: toScope(rung.Scope), Failure: rungFailure(rung.Err)})
	}
	for _, s := range c.Elsewhere[:min(len(c.Elsewhere), maxElsewhere)] {
		out.Elsewhere = append(out.Elsewhere, toScope(s))
	}
	if c.Err != nil {
		out.Outcome = &injectv1.Climb_Failure{Failure: g.failure(c.Err)}
		return out
	}
	found := &injectv1.Found{
		Scope: toScope(c.Info.Ref.Scope), Type: secretpb.SecretType(c.Info.Type), //nolint:gosec // two small numbers
		CreatedTime: timestamppb.New(c.Info.Created), UpdatedTime: timestamppb.New(c.Info.Updated),
	}
	if values {
		found.Value = c.Value.Reveal()
	}
	out.Outcome = &injectv1.Climb_Found{Found: found}
	return out
}

// rungFailure returns only the kind of err, because the failure of the climb has the text.
func rungFailure(err error) *injectv1.Failure {
	if err == nil {
		return nil
	}
	return &injectv1.Failure{Code: injectv1.Failure_Code(endingOf(err).kind)}
}

func toScope(s secret.Scope) *injectv1.Scope {
	return &injectv1.Scope{Organization: s.Org, Domain: s.Domain, Project: s.Project}
}
