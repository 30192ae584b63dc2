package serve

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/types/known/timestamppb"

	"inject/resolver/idl/flyteidl2/cluster"
	"inject/resolver/idl/flyteidl2/common"
	secretpb "inject/resolver/idl/flyteidl2/secret"
	injectv1 "inject/resolver/idl/inject/v1"
	"inject/resolver/secret"
	"inject/resolver/store"
)

// maxPage is the largest number of secrets in a page of a list.
const maxPage = 1000

// secretService is Flyte's management of secrets. None of its methods returns a value.
type secretService struct{ *Server }

// refOf returns the secret that id names. The guard validates it.
func (s *Server) refOf(id *secretpb.SecretIdentifier) secret.Ref {
	return secret.Ref{
		Scope: secret.Scope{
			Org: s.org(id.GetOrganization()), Domain: id.GetDomain(), Project: id.GetProject(),
		},
		Key: id.GetName(),
	}
}

// valueOf returns the value in spec. The error's text is that of Flyte's server.
func valueOf(spec *secretpb.SecretSpec) (secret.Value, error) {
	switch v := spec.GetValue().(type) {
	case *secretpb.SecretSpec_StringValue:
		return secret.NewValue([]byte(v.StringValue)), nil
	case *secretpb.SecretSpec_BinaryValue:
		return secret.NewValue(v.BinaryValue), nil
	}
	return secret.Value{}, fmt.Errorf("%w: string or binary value expected, got <nil>", secret.ErrInvalid)
}

func typeOf(t secretpb.SecretType) (store.Type, error) {
	switch t {
	case secretpb.SecretType_SECRET_TYPE_GENERIC:
		return store.Regular, nil
	case secretpb.SecretType_SECRET_TYPE_IMAGE_PULL_SECRET:
		return store.ImagePull, nil
	}
	return 0, fmt.Errorf("%w: type %d is unknown", secret.ErrInvalid, t)
}

// CreateSecret implements Flyte's service.
func (s *secretService) CreateSecret(
	ctx context.Context, r *secretpb.CreateSecretRequest,
) (*secretpb.CreateSecretResponse, error) {
	g, ref := s.guard(ctx), s.refOf(r.GetId())
	v, err := valueOf(r.GetSecretSpec())
	t, err2 := typeOf(r.GetSecretSpec().GetType())
	if err = errors.Join(err, err2); err == nil {
		err = g.Create(ctx, ref, v, t)
	} else {
		err = g.refuse(ctx, "create", ref, err)
	}
	return &secretpb.CreateSecretResponse{}, g.answer(err, ref)
}

// UpdateSecret implements Flyte's service. A secret keeps its type.
func (s *secretService) UpdateSecret(
	ctx context.Context, r *secretpb.UpdateSecretRequest,
) (*secretpb.UpdateSecretResponse, error) {
	g, ref := s.guard(ctx), s.refOf(r.GetId())
	v, err := valueOf(r.GetSecretSpec())
	if err == nil {
		err = g.Update(ctx, ref, v)
	} else {
		err = g.refuse(ctx, "update", ref, err)
	}
	return &secretpb.UpdateSecretResponse{}, g.answer(err, ref)
}

// refuse audits a request that cannot be understood, and returns its error.
func (g *guard) refuse(ctx context.Context, verb string, ref secret.Ref, why error) error {
	r := g.caller.record(verb, ref.Scope)
	r.Key, r.Reason = auditedKey(ref.Key), reasonInvalid
	if err := g.decide(ctx, r, invalid); err != nil {
		return err
	}
	return errors.Join(why, ref.Validate()) // everything that is wrong
}

// GetSecret implements Flyte's service.
func (s *secretService) GetSecret(
	ctx context.Context, r *secretpb.GetSecretRequest,
) (*secretpb.GetSecretResponse, error) {
	g, ref := s.guard(ctx), s.refOf(r.GetId())
	info, err := g.Describe(ctx, ref)
	if err != nil {
		return nil, g.answer(err, ref)
	}
	return &secretpb.GetSecretResponse{Secret: s.described(info)}, nil
}

// DeleteSecret implements Flyte's service.
func (s *secretService) DeleteSecret(
	ctx context.Context, r *secretpb.DeleteSecretRequest,
) (*secretpb.DeleteSecretResponse, error) {
	g, ref := s.guard(ctx), s.refOf(r.GetId())
	return &secretpb.DeleteSecretResponse{}, g.answer(g.Delete(ctx, ref), ref)
}

// ListSecrets implements Flyte's service.
func (s *secretService) ListSecrets(
	ctx context.Context, r *secretpb.ListSecretsRequest,
) (*secretpb.ListSecretsResponse, error) {
	g := s.guard(ctx)
	f := store.Filter{
		Org: s.org(r.GetOrganization()), Domain: r.GetDomain(), Project: r.GetProject(),
	}
	limit := maxPage
	if n := int(r.GetLimit()); n > 0 {
		limit = min(n, maxPage)
	}
	page, next, err := g.List(ctx, f, limit, r.GetToken())
	if err != nil {
		return nil, g.answer(err, secret.Ref{})
	}
	answer := &secretpb.ListSecretsResponse{Token: next}
	for _, info := range page {
		answer.Secrets = append(answer.Secrets, s.described(info))
	}
	return answer, nil
}

// described returns a secret in Flyte's form. Our store appears as one cluster, in which
// every secret is present.
func (s *Server) described(info store.Info) *secretpb.Secret {
	return &secretpb.Secret{
		Id: &secretpb.SecretIdentifier{
			Name: info.Ref.Key, Organization: info.Ref.Org, Domain: info.Ref.Domain,
			Project: info.Ref.Project,
		},
		SecretMetadata: &secretpb.SecretMetadata{
			CreatedTime: timestamppb.New(info.Created),
			SecretStatus: &secretpb.SecretStatus{
				OverallStatus: secretpb.OverallStatus_FULLY_PRESENT,
				ClusterStatus: []*secretpb.ClusterSecretStatus{{
					Cluster:        &common.ClusterIdentifier{Organization: info.Ref.Org, Name: s.o.Cluster},
					PresenceStatus: secretpb.SecretPresenceStatus_PRESENT,
				}},
			},
			Type: secretpb.SecretType(info.Type), //nolint:gosec // there are two types
		},
	}
}

// clusterService answers the question that Flyte's clients ask before each call about
// secrets: which server to use. It is always this one.
type clusterService struct{ *Server }

// SelectCluster implements Flyte's service.
func (s *clusterService) SelectCluster(
	ctx context.Context, _ *cluster.SelectClusterRequest,
) (*cluster.SelectClusterResponse, error) {
	g := s.guard(ctx)
	err := g.decide(ctx, g.caller.record("cluster", secret.Scope{}), allowed)
	return &cluster.SelectClusterResponse{}, g.answer(err, secret.Ref{})
}

// importService creates many secrets at once.
type importService struct{ *Server }

// Import implements our own service.
func (s *importService) Import(ctx context.Context, r *injectv1.ImportRequest) (*injectv1.ImportResponse, error) {
	g := s.guard(ctx)
	scope := s.scopeOf(r.GetScope())
	if err := g.ofThisOrg(ctx, "import", r.GetScope()); err != nil {
		return nil, g.answer(err, secret.Ref{Scope: scope})
	}
	if n := length(r, len(r.GetSecrets())); n > maxDeclared {
		line := g.caller.record("import", secret.Scope{})
		line.Reason = fmt.Sprintf("%d secrets", n)
		return nil, g.answer(g.decided(
			ctx, line, invalid,
			fmt.Errorf(
				"%w: the import has %d secrets (at most %d)", secret.ErrInvalid, n, maxDeclared,
			),
		), secret.Ref{Scope: scope})
	}
	secrets := make([]store.New, len(r.GetSecrets()))
	for i, in := range r.GetSecrets() {
		t, err := typeOf(in.GetType())
		ref := secret.Ref{Scope: scope, Key: in.GetName()}
		if err != nil {
			return nil, g.answer(g.refuse(ctx, "import", ref, err), ref)
		}
		secrets[i] = store.New{Ref: ref, Value: secret.NewValue(in.GetValue()), Type: t}
	}
	err := g.Import(ctx, secrets)
	failures, ok := g.importFailures(err)
	if !ok {
		return nil, g.answer(err, secret.Ref{Scope: scope})
	}
	return &injectv1.ImportResponse{Failures: failures}, nil
}

// importFailures returns the failures of the secrets of an import that err joins. ok is
// false if err is about something else.
func (g *guard) importFailures(err error) (failures []*injectv1.ImportFailure, ok bool) {
	switch e := err.(type) { //nolint:errorlint // it is taken apart level by level
	case nil:
		return nil, true
	case *secret.Error:
		return []*injectv1.ImportFailure{{Name: auditedKey(e.Ref.Key), Failure: g.failure(e)}}, true
	case interface{ Unwrap() []error }:
		for _, err := range e.Unwrap() {
			more, ok := g.importFailures(err)
			if !ok {
				return nil, false
			}
			failures = append(failures, more...)
		}
		return failures, true
	}
	return nil, false
}

// ofThisOrg denies a request for an org that the server does not have.
func (g *guard) ofThisOrg(ctx context.Context, verb string, asked *injectv1.Scope) error {
	err := g.foreign(asked.GetOrganization())
	if err == nil {
		return nil
	}
	line := g.caller.record(verb, secret.Scope{})
	line.Claimed = auditedScope(secret.Scope{
		Org: asked.GetOrganization(), Domain: asked.GetDomain(), Project: asked.GetProject(),
	})
	line.Reason = "not the server's org"
	return g.decided(ctx, line, denied, &shownDenial{err})
}

// scopeOf returns the scope that a request names.
func (s *Server) scopeOf(asked *injectv1.Scope) secret.Scope {
	return secret.Scope{
		Org: s.org(asked.GetOrganization()), Domain: asked.GetDomain(), Project: asked.GetProject(),
	}
}
