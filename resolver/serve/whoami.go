package serve

import (
	"context"
	"net/http"

	injectv1 "inject/resolver/idl/inject/v1"
	"inject/resolver/secret"
)

// maxPermissions is how many bytes of names a list of permissions may have.
const maxPermissions = 4 << 10

// whoAmIService tells callers as whom they are known.
type whoAmIService struct{ *Server }

// WhoAmI implements our own service. It names nothing but the caller's own identity and the
// rule that matches it, so it reveals nothing about secrets.
func (s *whoAmIService) WhoAmI(ctx context.Context, _ *injectv1.WhoAmIRequest) (*injectv1.WhoAmIResponse, error) {
	g := s.guard(ctx)
	if err := g.decide(ctx, g.caller.record("whoami", secret.Scope{}), allowed); err != nil {
		return nil, g.answer(err, secret.Ref{})
	}
	answer := &injectv1.WhoAmIResponse{
		Method: g.caller.identity.Method, Name: g.caller.identity.Name, Rule: g.caller.grant.Rule(),
		Everything: g.caller.grant.IsEverything(),
	}
	left := maxPermissions
	for _, p := range g.caller.grant.Permissions() {
		one := &injectv1.Permission{
			Verb: p.Verb.String(), Organization: p.Org, Domain: p.Domain, Project: p.Project, Keys: p.Keys,
		}
		left -= len(one.Verb) + len(p.Org) + len(p.Domain) + len(p.Project) + 16
		for _, key := range p.Keys {
			left -= len(key) + 2
		}
		if left < 0 {
			answer.Truncated = true
			break
		}
		answer.Permissions = append(answer.Permissions, one)
	}
	return answer, nil
}

// small bounds the body of a request that needs none.
func small(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, openBody)
		next.ServeHTTP(w, r)
	})
}
