package rpc

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"

	"inject/resolver/idl/flyteidl2/auth"
	"inject/resolver/secret"
)

// maxMetadata is the largest answer about logins, in bytes.
const maxMetadata = 64 << 10

// A Provider says where people get a token that a server accepts, and as which client they ask for
// it. It is in the server's words: nothing of it is checked.
type Provider struct {
	Issuer                string
	AuthorizationEndpoint string // "" if the issuer has no login in a browser
	TokenEndpoint         string
	DeviceEndpoint        string // "" if the issuer has no login on another device
	ClientID              string
	RedirectURI           string
	Audience              string // what the issuer is asked to put into the token; "" for nothing
	Scopes                []string
}

// Provider asks the server where people log in. It needs no credentials. The error wraps
// [secret.ErrInvalid] if the server offers no login.
func (c *Client) Provider(ctx context.Context) (Provider, error) {
	limit := grpc.MaxCallRecvMsgSize(maxMetadata)
	client, err := c.logins.GetPublicClientConfig(ctx, &auth.GetPublicClientConfigRequest{}, limit)
	var issuer *auth.GetOAuth2MetadataResponse
	if err == nil {
		issuer, err = c.logins.GetOAuth2Metadata(ctx, &auth.GetOAuth2MetadataRequest{}, limit)
	}
	if errors.Is(err, errUnimplemented) {
		return Provider{}, secret.WithHint(fmt.Errorf("%w: %s offers no login", secret.ErrInvalid, c.o.Address),
			"identify yourself with --token-file FILE or --cert-file FILE, or ask its operator for a login "+
				"(injectd serve --login)")
	}
	if err != nil {
		return Provider{}, fmt.Errorf("ask where to log in: %w", err)
	}
	return Provider{
		Issuer: issuer.GetIssuer(), AuthorizationEndpoint: issuer.GetAuthorizationEndpoint(),
		TokenEndpoint: issuer.GetTokenEndpoint(), DeviceEndpoint: issuer.GetDeviceAuthorizationEndpoint(),
		ClientID: client.GetClientId(), RedirectURI: client.GetRedirectUri(), Audience: client.GetAudience(),
		Scopes: client.GetScopes(),
	}, nil
}
