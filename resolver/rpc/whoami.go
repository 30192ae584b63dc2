package rpc

import (
	"context"
	"fmt"

	injectv1 "inject/resolver/idl/inject/v1"
)

// An Identity is a caller as a server knows it.
type Identity struct {
	Method      string       // mtls, jwt or token; none if the server checks no credentials
	Name        string       // as in the server's audit log
	Rule        string       // of the policy; "" if none matches
	Everything  bool         // whether everything is allowed, since nothing is checked
	Permissions []Permission // what the rule allows
	Truncated   bool         // whether Permissions are not all
}

// A Permission is a verb of the server's policy that is allowed where the patterns match: *
// is any name and none, "" is none.
type Permission struct {
	Verb                 string // manage, list or resolve
	Org, Domain, Project string
	Keys                 []string // of resolve; nil for all
}

// WhoAmI asks the server as whom it knows the caller, and what the caller may do.
func (c *Client) WhoAmI(ctx context.Context) (Identity, error) {
	answer, err := c.knowing.WhoAmI(ctx, &injectv1.WhoAmIRequest{})
	if err != nil {
		return Identity{}, fmt.Errorf("whoami: %w", err)
	}
	id := Identity{
		Method: answer.GetMethod(), Name: answer.GetName(), Rule: answer.GetRule(),
		Everything: answer.GetEverything(), Truncated: answer.GetTruncated(),
	}
	for _, p := range answer.GetPermissions() {
		id.Permissions = append(id.Permissions, Permission{
			Verb: p.GetVerb(), Org: p.GetOrganization(), Domain: p.GetDomain(), Project: p.GetProject(),
			Keys: p.GetKeys(),
		})
	}
	return id, nil
}
