package rpc_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"inject/resolver/idl/flyteidl2/auth"
	"inject/resolver/rpc"
	"inject/resolver/secret"
)

func TestProvider(t *testing.T) {
	s := memory()
	_, err := serve(t, s).Provider(t.Context())
	require.ErrorIs(t, err, secret.ErrInvalid)
	require.ErrorContains(t, err, "offers no login")
	require.Contains(t, secret.Hint(err), "--login")

	s = memory()
	s.login = auth.UnimplementedAuthMetadataServiceServer{} // before answers
	metadata := &auth.GetOAuth2MetadataResponse{
		Issuer: "i", AuthorizationEndpoint: "a", TokenEndpoint: "t", DeviceAuthorizationEndpoint: "d",
	}
	client := &auth.GetPublicClientConfigResponse{
		ClientId: "c", RedirectUri: "r", Audience: "for", Scopes: []string{"x", "y"},
	}
	s.before = func(m proto.Message) (proto.Message, error) {
		if _, ok := m.(*auth.GetOAuth2MetadataRequest); ok {
			return metadata, nil
		}
		return client, nil
	}
	c := serve(t, s)
	p, err := c.Provider(t.Context())
	require.NoError(t, err)
	require.Equal(t, rpc.Provider{
		Issuer: "i", AuthorizationEndpoint: "a", TokenEndpoint: "t", DeviceEndpoint: "d", ClientID: "c",
		RedirectURI: "r", Audience: "for", Scopes: []string{"x", "y"},
	}, p)
	metadata.Issuer = strings.Repeat("x", 64<<10)
	_, err = c.Provider(t.Context())
	require.ErrorContains(t, err, "larger than max")
	metadata.Issuer, client.ClientId = "i", strings.Repeat("x", 64<<10)
	_, err = c.Provider(t.Context())
	require.ErrorContains(t, err, "larger than max")
}
