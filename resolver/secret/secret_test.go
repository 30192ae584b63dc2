package secret_test

import (
	"crypto/md5" // the object names of Flyte's Kubernetes store
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"inject/resolver/secret"
)

func TestLadder(t *testing.T) {
	full := secret.Scope{Org: "o", Domain: "d", Project: "p"}
	for _, c := range []struct {
		task secret.Scope
		want []secret.Scope
	}{
		{full, []secret.Scope{full, {Org: "o", Project: "p"}, {Org: "o", Domain: "d"}, {Org: "o"}}},
		{secret.Scope{Org: "o", Project: "p"}, []secret.Scope{{Org: "o", Project: "p"}, {Org: "o"}}},
		{secret.Scope{Org: "o", Domain: "d"}, []secret.Scope{{Org: "o", Domain: "d"}, {Org: "o"}}},
		{secret.Scope{Org: "o"}, []secret.Scope{{Org: "o"}}},
	} {
		t.Run(c.task.String(), func(t *testing.T) {
			require.Equal(t, c.want, c.task.Ladder())
		})
	}
}

// Vectors: Flyte's EncodeSecretName and EncodeK8sSecretName at v2.0.43.
func TestID(t *testing.T) {
	for _, c := range []struct{ domain, project, key, id, object string }{
		{
			"development", "flytesnacks", "MY_SECRET_KEY",
			"u__org__flyte__domain__development__project__flytesnacks__key__MY_SECRET_KEY",
			"6520715ae703d984865e0ee37c4cbb23",
		},
		{
			"development", "", "MY_SECRET_KEY",
			"u__org__flyte__domain__development__project____key__MY_SECRET_KEY", "ac1b3f56a9a9d8d7ccb90fb14b420c81",
		},
		{
			"", "", "MY_SECRET_KEY", "u__org__flyte__domain____project____key__MY_SECRET_KEY",
			"5947121bb37213fc24b176e00397dd1f",
		},
		{
			"", "flytesnacks", "MY_SECRET_KEY",
			"u__org__flyte__domain____project__flytesnacks__key__MY_SECRET_KEY", "771000b979e50338b76fa1e57a00afe7",
		},
		{
			"", "", "repro_secret", "u__org__flyte__domain____project____key__repro_secret",
			"d6a91cc8a72f2ae4c7651db23c2d9cdf",
		},
	} {
		t.Run(c.id, func(t *testing.T) {
			ref := secret.Ref{Scope: secret.Scope{Org: "flyte", Domain: c.domain, Project: c.project}, Key: c.key}
			require.Equal(t, c.id, ref.ID())
			sum := md5.Sum([]byte(ref.ID()))
			require.Equal(t, c.object, hex.EncodeToString(sum[:]))
		})
	}
}

// Two valid refs never share an id.
func TestIDIsOneToOne(t *testing.T) {
	name := rapid.StringMatching(`[a_-]{0,6}`)
	draw := func(t *rapid.T, label string) secret.Ref {
		return secret.Ref{Scope: secret.Scope{
			Org: name.Draw(
				t, label+" org",
			), Domain: name.Draw(t, label+" domain"), Project: name.Draw(t, label+" project"),
		}, Key: rapid.SampledFrom([]string{"a", "__key__", "a__key__a", "_", "__project____key__a"}).Draw(t,
			label+" key")}
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw(t, "a"), draw(t, "b")
		if a.Validate() == nil && b.Validate() == nil && a != b && a.ID() == b.ID() {
			t.Fatalf("%v and %v have the same id %s", a, b, a.ID())
		}
	})
}

func TestValidate(t *testing.T) {
	long := strings.Repeat("x", 64)
	for _, name := range []string{"a__b", "a/b", "a\x00b", long, "_a", "a_", "..", "a b", "a\nb", "\xff"} {
		for _, scope := range []secret.Scope{{Org: name}, {Org: "o", Domain: name}, {Org: "o", Project: name}} {
			err := scope.Validate()
			require.ErrorIsf(t, err, secret.ErrInvalid, "%q", name)
			require.NotContains(t, err.Error(), "\x00")
		}
	}
	require.NoError(t, secret.Scope{Org: "o", Domain: long[:63], Project: "a-b_c.d"}.Validate())
	require.ErrorIs(t, secret.Scope{}.Validate(), secret.ErrInvalid)
	both := secret.Scope{Org: "o", Domain: "a__b", Project: "c/d"}.Validate()
	require.ErrorContains(t, both, "a__b")
	require.ErrorContains(t, both, "c/d")

	for _, key := range []string{"", "a b", "a.b", "a/b", "ä", "a\n", strings.Repeat("k", 254)} {
		require.ErrorIsf(t, secret.ValidKey(key), secret.ErrInvalid, "%q", key)
	}
	require.NoError(t, secret.ValidKey("-a_Z9"))
}

func TestDeclaration(t *testing.T) {
	for _, c := range []struct {
		d    secret.Declaration
		want []string
	}{
		{secret.Declaration{Key: "s3-token", Group: "aws"}, []string{"AWS_S3_TOKEN", "_UNION_S3-TOKEN"}},
		{secret.Declaration{Key: "db-config"}, []string{"DB_CONFIG", "_UNION_DB-CONFIG"}},
		{secret.Declaration{Key: "k", EnvVar: "E"}, []string{"E"}},
		{secret.Declaration{Key: "k", Mount: secret.File}, nil},
		{secret.Declaration{Key: "k", Mount: secret.File, EnvVar: "E"}, []string{"E"}},
	} {
		t.Run(fmt.Sprint(c.want), func(t *testing.T) {
			require.Equal(t, c.want, c.d.EnvVars())
			require.NoError(t, c.d.Validate())
		})
	}
	for _, d := range []secret.Declaration{
		{},
		{Key: "a b"},
		{Key: "1st"},
		{Key: "k", EnvVar: "lower"},
		{Key: "k", EnvVar: "A\n"},
		{Key: "k", EnvVar: "PATH"},
		{Key: "path"},
		{Key: "k", EnvVar: "LD_PRELOAD"},
		{Key: "k", EnvVar: "INJECT_STORE"},
		{Key: "k", Path: "/x"},
	} {
		require.ErrorIsf(t, d.Validate(), secret.ErrInvalid, "%+v", d)
	}
	err := secret.Declaration{Key: "API_KEY", EnvVar: "hunter2"}.Validate()
	require.NotContains(t, err.Error()+secret.Hint(err), "hunter2")
	require.Contains(t, err.Error(), "API_KEY")
	require.Equal(t, "ANY ENV_VAR FILE", fmt.Sprint(secret.Any, secret.EnvVar, secret.File)[0:16])
}

func TestError(t *testing.T) {
	ref := secret.Ref{Scope: secret.Scope{Org: "flyte", Domain: "d", Project: "p"}, Key: "K"}
	err := secret.WithHint(&secret.Error{Op: "get", Ref: ref, Err: secret.ErrDenied}, "ask %s", "them")
	require.Equal(t, "get K at project p, domain d: access denied", err.Error())
	require.ErrorIs(t, err, secret.ErrDenied)
	require.Equal(t, "ask them", secret.Hint(fmt.Errorf("x: %w", err)))
	require.Empty(t, secret.Hint(errors.New("x")))
	require.Equal(t, "org acme", secret.Scope{Org: "acme"}.String())
	require.Equal(t, "domain d, org acme", secret.Scope{Org: "acme", Domain: "d"}.String())
	require.Equal(t, " --org acme -p p -d d", secret.Scope{Org: "acme", Project: "p", Domain: "d"}.Flags())
}
