package serve

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	"inject/resolver/idl/flyteidl2/auth"
)

// loginService tells Flyte's clients how to log in. It needs no credentials: clients ask it in order
// to get some.
type loginService struct{ *Server }

var errNoLogin = connect.NewError(connect.CodeUnimplemented, errors.New(
	"this server offers no login: its operator has not started it with --login; "+
		"use authType ExternalCommand with a command that prints a token"))

// GetOAuth2Metadata implements Flyte's service.
func (s *loginService) GetOAuth2Metadata(
	ctx context.Context, _ *auth.GetOAuth2MetadataRequest,
) (*auth.GetOAuth2MetadataResponse, error) {
	if s.o.Login == nil {
		return nil, errNoLogin
	}
	m, err := s.o.Login.Metadata(ctx)
	if err != nil {
		return nil, connect.NewError(connect.CodeUnavailable, errors.New(hinted(err.Error(), err)))
	}
	return &auth.GetOAuth2MetadataResponse{
		Issuer: m.Issuer, AuthorizationEndpoint: m.AuthorizationEndpoint, TokenEndpoint: m.TokenEndpoint,
		DeviceAuthorizationEndpoint: m.DeviceAuthorizationEndpoint, JwksUri: m.JWKSURI,
		ResponseTypesSupported: m.ResponseTypes, ScopesSupported: m.Scopes,
		TokenEndpointAuthMethodsSupported: m.TokenAuthMethods, CodeChallengeMethodsSupported: m.CodeChallengeMethods,
		GrantTypesSupported: m.GrantTypes,
	}, nil
}

// GetPublicClientConfig implements Flyte's service.
func (s *loginService) GetPublicClientConfig(
	context.Context, *auth.GetPublicClientConfigRequest,
) (*auth.GetPublicClientConfigResponse, error) {
	if s.o.Login == nil {
		return nil, errNoLogin
	}
	o := s.o.Login.Options()
	return &auth.GetPublicClientConfigResponse{
		ClientId: o.ClientID, RedirectUri: o.RedirectURI, Scopes: o.Scopes, Audience: o.Audience,
		AuthorizationMetadataKey: "authorization",
	}, nil
}
