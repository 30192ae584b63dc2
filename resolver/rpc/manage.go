package rpc

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	secretpb "inject/resolver/idl/flyteidl2/secret"
	injectv1 "inject/resolver/idl/inject/v1"
	"inject/resolver/secret"
	"inject/resolver/store"
)

var _ store.Importer = (*Client)(nil)

// Create implements [store.Manager].
func (c *Client) Create(ctx context.Context, ref secret.Ref, v secret.Value, t store.Type) error {
	return do("create", ref, store.Creatable(ref, v), func() error {
		_, err := c.secrets.CreateSecret(ctx, &secretpb.CreateSecretRequest{Id: toID(ref), SecretSpec: spec(v, t)})
		return err
	})
}

// Update implements [store.Manager].
func (c *Client) Update(ctx context.Context, ref secret.Ref, v secret.Value) error {
	return do("update", ref, store.Writable(ref, v), func() error {
		_, err := c.secrets.UpdateSecret(
			ctx, &secretpb.UpdateSecretRequest{Id: toID(ref), SecretSpec: spec(v, store.Regular)},
		)
		return err
	})
}

// Delete implements [store.Manager].
func (c *Client) Delete(ctx context.Context, ref secret.Ref) error {
	return do("delete", ref, ref.Validate(), func() error {
		_, err := c.secrets.DeleteSecret(ctx, &secretpb.DeleteSecretRequest{Id: toID(ref)})
		return err
	})
}

// Describe implements [store.Lister]. Updated is zero, because Flyte's messages have no
// field for it.
func (c *Client) Describe(ctx context.Context, ref secret.Ref) (info store.Info, err error) {
	err = do("describe", ref, ref.Validate(), func() error {
		response, err := c.secrets.GetSecret(ctx, &secretpb.GetSecretRequest{Id: toID(ref)})
		if err != nil {
			return err
		}
		if info = toInfo(response.GetSecret()); info.Ref != ref {
			return c.nonsense("it is about another secret")
		}
		return nil
	})
	if err != nil {
		return store.Info{}, err
	}
	return info, nil
}

// List implements [store.Lister]. Updated is zero, as in Describe.
func (c *Client) List(ctx context.Context, f store.Filter, limit int, token string) ([]store.Info, string, error) {
	response, err := c.secrets.ListSecrets(ctx, &secretpb.ListSecretsRequest{
		Organization: f.Org, Domain: f.Domain, Project: f.Project,
		Limit: int32(min(max(limit, 0), math.MaxInt32)), Token: token,
	})
	if err != nil {
		return nil, "", fmt.Errorf("list: %w", err)
	}
	var page []store.Info
	for _, s := range response.GetSecrets() {
		info := toInfo(s)
		if err := info.Ref.Validate(); err != nil {
			return nil, "", fmt.Errorf("list: %w", c.nonsense("%w", err))
		}
		page = append(page, info)
	}
	if next := response.GetToken(); next == "" || next != token {
		return page, next, nil
	}
	return nil, "", fmt.Errorf("list: %w", c.nonsense("the same page again"))
}

// Import implements [store.Importer]. All secrets must be at one scope and fit into one
// request of [MaxRequest] bytes.
func (c *Client) Import(ctx context.Context, secrets []store.New) error {
	if len(secrets) == 0 {
		return nil
	}
	scope := secrets[0].Ref.Scope

	refused := store.Importable(secrets)
	request := &injectv1.ImportRequest{Scope: toScope(scope)}
	sent := make(map[string]bool, len(secrets))
	for i, s := range secrets {
		sent[s.Ref.Key] = true
		if refused[i] == nil && s.Ref.Scope != scope {
			refused[i] = &secret.Error{
				Op: "create", Ref: s.Ref,
				Err: fmt.Errorf("%w: a server imports the secrets of one scope at a time", secret.ErrInvalid),
			}
		}
		request.Secrets = append(request.Secrets, &injectv1.ImportedSecret{
			Name: s.Ref.Key, Value: s.Value.Reveal(),
			Type: secretpb.SecretType(s.Type), //nolint:gosec // there are two types
		})
	}
	if err := errors.Join(refused...); err != nil {
		return err
	}

	response, err := c.importing.Import(ctx, request)
	if errors.Is(err, errUnimplemented) { // so nothing was stored
		err = secret.WithHint(
			fmt.Errorf("%w: %s stores no secrets all at once: its store creates them one by one", secret.ErrInvalid,
				c.o.Address),
			"inject create secret --from-env-file FILE --upsert stores one after the other")
	}
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	var errs []error
	for _, f := range response.GetFailures() {
		if !sent[f.GetName()] {
			return fmt.Errorf("import: %w", c.nonsense("it reports a secret that was not sent"))
		}
		errs = append(
			errs,
			&secret.Error{
				Op: "create", Ref: secret.Ref{Scope: scope, Key: f.GetName()},
				Err: failure(ctx, f.GetFailure()),
			},
		)
	}
	return errors.Join(errs...)
}

// do calls fn unless err is set. The error that it returns names the operation and the
// secret.
func do(op string, ref secret.Ref, err error, fn func() error) error {
	if err == nil {
		err = fn()
	}
	if err != nil {
		return &secret.Error{Op: op, Ref: ref, Err: err}
	}
	return nil
}

// spec returns a value and its type in Flyte's form.
func spec(v secret.Value, t store.Type) *secretpb.SecretSpec {
	return &secretpb.SecretSpec{
		Value: &secretpb.SecretSpec_BinaryValue{BinaryValue: v.Reveal()},
		Type:  secretpb.SecretType(t), //nolint:gosec // there are two types
	}
}

func toID(r secret.Ref) *secretpb.SecretIdentifier {
	return &secretpb.SecretIdentifier{Organization: r.Org, Domain: r.Domain, Project: r.Project, Name: r.Key}
}

func toInfo(s *secretpb.Secret) store.Info {
	id, meta := s.GetId(), s.GetSecretMetadata()
	return store.Info{
		Ref:     secret.Ref{Scope: scope(id.GetOrganization(), id.GetDomain(), id.GetProject()), Key: id.GetName()},
		Type:    store.Type(meta.GetType()),
		Created: timeOf(meta.GetCreatedTime()),
	}
}

// timeOf returns t as a time, which is zero if t is not set.
func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}
