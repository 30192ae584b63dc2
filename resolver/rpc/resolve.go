package rpc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc"

	"inject/resolver"
	"inject/resolver/idl/flyteidl2/core"
	injectv1 "inject/resolver/idl/inject/v1"
	"inject/resolver/secret"
	"inject/resolver/store"
)

var _ resolver.Resolver = (*Client)(nil)

// Resolve implements [resolver.Resolver] in one round trip.
func (c *Client) Resolve(
	ctx context.Context, task secret.Scope, declared []secret.Declaration,
) ([]resolver.Resolved, error) {
	climbs, err := c.Climb(ctx, task, declared)
	if err != nil {
		return nil, err
	}
	return resolver.Values(climbs)
}

// Climb returns how the server resolves each declaration, in the order declared,
// failures included. If one of them failed, the others have no value. It returns an error
// for an invalid scope, or if the server could not be asked.
//
// A task of the default org without a domain and a project has no scope of its own: the
// server takes the scope of the caller. That is the scope of the first rung, and the other
// rungs are of its ladder.
func (c *Client) Climb(
	ctx context.Context, task secret.Scope, declared []secret.Declaration,
) ([]resolver.Climb, error) {
	return c.climb(ctx, task, declared, false)
}

// Explain is Climb without values: the server does not send them.
func (c *Client) Explain(
	ctx context.Context, task secret.Scope, declared []secret.Declaration,
) ([]resolver.Climb, error) {
	return c.climb(ctx, task, declared, true)
}

func (c *Client) climb(
	ctx context.Context, task secret.Scope, declared []secret.Declaration, namesOnly bool,
) ([]resolver.Climb, error) {
	if err := task.Validate(); err != nil {
		return nil, err
	}
	climbs := make([]resolver.Climb, len(declared))
	request := &injectv1.ResolveRequest{NamesOnly: namesOnly}
	said := task != secret.Scope{Org: secret.DefaultOrg}
	if said {
		request.Scope = toScope(task)
	}

	var asked, refused []*resolver.Climb
	for i, d := range declared {
		climbs[i].Declaration = d
		if climbs[i].Err = secret.ValidKey(d.Key); climbs[i].Err != nil { // not sent, since it may be a value
			refused = append(refused, &climbs[i])
			request.NamesOnly = true // it fails as a whole, but all failures are reported at once
			continue
		}
		// The server needs nothing that only shapes the names of variables and files.
		request.Secrets = append(request.Secrets, &core.Secret{
			Group: strings.ToValidUTF8(
				d.Group, "\ufffd",
			), GroupVersion: strings.ToValidUTF8(d.Version, "\ufffd"), Key: d.Key,
		})
		asked = append(asked, &climbs[i])
	}

	if len(asked) > 0 {
		response, err := c.resolving.Resolve(ctx, request, grpc.MaxCallRecvMsgSize(maxResolved))
		if err != nil {
			return nil, fmt.Errorf("resolve: %w", err)
		}
		if len(response.GetClimbs()) != len(asked) {
			return nil, fmt.Errorf(
				"resolve: %w",
				c.nonsense("%d answers to %d declarations", len(response.GetClimbs()), len(asked)),
			)
		}
		if first := response.GetClimbs()[0].GetTried(); !said && len(first) > 0 {
			task = fromScope(first[0].GetScope())
			if err := task.Validate(); err != nil {
				return nil, fmt.Errorf("resolve: %w", c.nonsense("%w", err))
			}
		}
		for i, climb := range asked {
			if err := c.fill(ctx, task, climb, response.GetClimbs()[i], request.GetNamesOnly()); err != nil {
				return nil, fmt.Errorf("resolve %s: %w", climb.Declaration.Key, err)
			}
		}
	}

	for _, climb := range refused {
		climb.Tried = []resolver.Rung{{Scope: task, Err: climb.Err}}
	}
	return climbs, nil
}

// fill copies the server's answer for one declaration into climb.
func (c *Client) fill(
	ctx context.Context, task secret.Scope, climb *resolver.Climb, answer *injectv1.Climb, namesOnly bool,
) error {
	key := climb.Declaration.Key
	for _, r := range answer.GetTried() {
		rung := resolver.Rung{Scope: fromScope(r.GetScope())}
		if r.GetFailure() != nil {
			rung.Err = failure(ctx, r.GetFailure())
		}
		climb.Tried = append(climb.Tried, rung)
		if !slices.Contains(task.Ladder(), rung.Scope) {
			return c.nonsense("it looked at a scope outside the ladder of this task")
		}
	}
	for _, s := range answer.GetElsewhere() {
		climb.Elsewhere = append(climb.Elsewhere, fromScope(s))
		if err := fromScope(s).Validate(); err != nil {
			return c.nonsense("%w", err)
		}
	}

	switch outcome := answer.GetOutcome().(type) {
	case *injectv1.Climb_Failure:
		climb.Err = failure(ctx, outcome.Failure)
	case *injectv1.Climb_Found:
		found := outcome.Found
		if !namesOnly {
			climb.Value = secret.NewValue(found.GetValue())
		}
		found.Value = nil
		climb.Info = store.Info{
			Ref: secret.Ref{Scope: fromScope(found.GetScope()), Key: key}, Type: store.Type(found.GetType()),
		}
		climb.Info.Created, climb.Info.Updated = timeOf(found.GetCreatedTime()), timeOf(found.GetUpdatedTime())
		// A server with a wrong scope may have the wrong secret, too.
		if !slices.Contains(task.Ladder(), climb.Info.Ref.Scope) {
			return c.nonsense("it found the secret at a scope outside the ladder of this task")
		}
	default:
		return c.nonsense("neither a secret nor a failure")
	}
	return nil
}

// failure returns the error for a failure on the wire.
func failure(ctx context.Context, f *injectv1.Failure) error {
	sentinel := secret.Kind(f.GetCode()).Err()
	if sentinel == nil { // of no kind, or of a kind that only a newer server knows
		sentinel = errFailed
	}
	err := withMessage(sentinel, f.GetMessage())
	if ours := ctx.Err(); ours != nil && errors.Is(err, secret.ErrUnavailable) {
		err = fmt.Errorf("%w: %w", err, ours)
	}
	return err
}

func toScope(s secret.Scope) *injectv1.Scope {
	return &injectv1.Scope{Organization: s.Org, Domain: s.Domain, Project: s.Project}
}

func fromScope(s *injectv1.Scope) secret.Scope {
	return scope(s.GetOrganization(), s.GetDomain(), s.GetProject())
}

// scope returns the scope that is named on the wire, where an empty org stands for the
// default one.
func scope(org, domain, project string) secret.Scope {
	if org == "" {
		org = secret.DefaultOrg
	}
	return secret.Scope{Org: org, Domain: domain, Project: project}
}
