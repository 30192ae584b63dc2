package serve

import (
	"cmp"
	"context"
	"net/http"

	"google.golang.org/protobuf/types/known/structpb"

	"inject/resolver/idl/flyteidl2/auth"
	"inject/resolver/idl/flyteidl2/auth/authconnect"
	injectv1 "inject/resolver/idl/inject/v1"
	"inject/resolver/idl/inject/v1/injectv1connect"
	"inject/resolver/secret"
)

// maxPermissions is how many bytes of names a list of permissions may have.
const maxPermissions = 4 << 10

// whoAmIService tells callers as whom they are known: inject's, and in the terms of OpenID Connect
// Flyte's.
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

// UserInfo implements Flyte's IdentityService with the answer of WhoAmI. The subject is that of the
// JWT, or else the name of the identity; the profile is the one that a JWT has. The method, the rule
// and the issuer have no field of their own, so they are claims.
func (s *whoAmIService) UserInfo(ctx context.Context, _ *auth.UserInfoRequest) (*auth.UserInfoResponse, error) {
	who, err := s.WhoAmI(ctx, nil)
	if err != nil {
		return nil, err
	}
	of := func(attribute string) string {
		values := s.guard(ctx).caller.identity.Attribute(attribute)
		if len(values) != 1 {
			return ""
		}
		return values[0]
	}
	claims := map[string]*structpb.Value{"method": structpb.NewStringValue(who.GetMethod())}
	for name, value := range map[string]string{"rule": who.GetRule(), "iss": of("issuer")} {
		if value != "" {
			claims[name] = structpb.NewStringValue(value)
		}
	}
	return &auth.UserInfoResponse{
		Subject: cmp.Or(of("subject"), who.GetName()), Name: of("claim.name"),
		PreferredUsername: of("claim.preferred_username"), GivenName: of("claim.given_name"),
		FamilyName: of("claim.family_name"), Email: of("claim.email"), Picture: of("claim.picture"),
		AdditionalClaims: &structpb.Struct{Fields: claims},
	}, nil
}

// isWhoAmI reports whether a path is one of whoAmIService, which also answers callers that no rule
// matches.
func isWhoAmI(path string) bool {
	return path == injectv1connect.WhoAmIServiceWhoAmIProcedure || path == authconnect.IdentityServiceUserInfoProcedure
}

// small bounds the body of a request that needs none.
func small(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, openBody)
		next.ServeHTTP(w, r)
	})
}
