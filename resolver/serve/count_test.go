package serve

import (
	"encoding/json"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"inject/resolver/idl/flyteidl2/core"
	secretpb "inject/resolver/idl/flyteidl2/secret"
	injectv1 "inject/resolver/idl/inject/v1"
)

// What is too long is counted, and not decoded.
func TestCountedBeforeDecoded(t *testing.T) {
	declared := func(n int) *injectv1.ResolveRequest {
		r := &injectv1.ResolveRequest{}
		for range n {
			r.Secrets = append(r.Secrets, &core.Secret{Group: `a,"[{`, Key: "K"})
		}
		return r
	}
	for _, n := range []int{0, 1, 2, maxDeclared, maxDeclared + 1, 3 * maxDeclared} {
		binary, err := proto.Marshal(declared(n))
		require.NoError(t, err)
		text, err := jsonCodec("json").Marshal(declared(n))
		require.NoError(t, err)
		for name, unmarshal := range map[string]func(any) error{
			"binary": func(m any) error { return binaryCodec{}.Unmarshal(binary, m) },
			"JSON":   func(m any) error { return jsonCodec("json").Unmarshal(text, m) },
		} {
			var m injectv1.ResolveRequest
			require.NoError(t, unmarshal(&m), name)
			require.Equal(t, n, length(&m, len(m.GetSecrets())), name)
			if n > maxDeclared {
				require.Empty(t, m.GetSecrets(), name)
			} else {
				require.True(t, proto.Equal(declared(n), &m), name)
			}
		}
	}

	// A client cannot say the length itself.
	forged := protowire.AppendVarint(protowire.AppendTag(nil, protowire.MaxValidNumber, protowire.VarintType), 1)
	var m injectv1.ResolveRequest
	require.NoError(t, binaryCodec{}.Unmarshal(forged, &m))
	require.Zero(t, length(&m, 0))

	many := strings.Repeat("\x12\x00", MaxMessage/2)
	keys := make(map[string]string, 100_000)
	for i := range 100_000 {
		keys[string(rune('a'+i%26))+strings.Repeat("x", i/26%50)+string(rune(i))] = ""
	}
	object, err := json.Marshal(map[string]any{"perClusterTokens": keys, "x": keys})
	require.NoError(t, err)
	for name, unmarshal := range map[string]func() error{
		"binary": func() error { return binaryCodec{}.Unmarshal([]byte(many), &injectv1.ResolveRequest{}) },
		"another message": func() error {
			if (binaryCodec{}).Unmarshal([]byte(many), &secretpb.UpdateSecretRequest{}) == nil {
				t.Error("it was decoded")
			}
			return nil
		},
		"a JSON object": func() error {
			if jsonCodec("json").Unmarshal(object, &secretpb.ListSecretsRequest{}) == nil {
				t.Error("it was decoded")
			}
			return nil
		},
		"JSON": func() error {
			return jsonCodec("json").Unmarshal(
				[]byte(`{"secrets":[`+strings.Repeat(`{},`, MaxMessage/3-10)+`{}]}`), &injectv1.ResolveRequest{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			require.NoError(t, unmarshal())
			runtime.ReadMemStats(&after)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(3*MaxMessage), "as many bytes as were sent")
		})
	}
}
