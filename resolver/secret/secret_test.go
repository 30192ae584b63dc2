package secret_test

import (
	"crypto/md5" // the object names of Flyte's Kubernetes store
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
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
		if got, err := secret.ParseID(a.ID()); a.Validate() == nil && (err != nil || got != a) {
			t.Fatalf("the id of %v is parsed as %v, %v", a, got, err)
		}
	})
}

func TestParseID(t *testing.T) {
	for _, text := range []string{
		"", "u", "K", "u__org__flyte__domain____project____key", "u__org__flyte__domain____project____key__",
		"u__org____domain____project____key__K", "u__org__a__b__domain____project____key__K",
		"u__org__flyte__domain____project____kez__K", "x__org__flyte__domain____project____key__K",
		"u__org__flyte__domain____project____key__a b", "u__org__flyte__domain____project____key__..",
	} {
		_, err := secret.ParseID(text)
		require.ErrorIsf(t, err, secret.ErrInvalid, "%q", text)
	}
	got, err := secret.ParseID("u__org__flyte__domain____project____key__odd.name_x")
	require.NoError(t, err)
	require.Equal(t, secret.Ref{Scope: secret.Scope{Org: "flyte"}, Key: "odd.name_x"}, got)
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

	for _, key := range []string{"", "a b", "a/b", "ä", "a\n", ".", "..", "..data", strings.Repeat(".", 254)} {
		require.ErrorIsf(t, secret.StoredKey(key), secret.ErrInvalid, "%q", key)
	}
	for _, key := range []string{"-a_Z9", "odd.name_x", ".x", strings.Repeat("k.", 126)} {
		require.NoErrorf(t, secret.StoredKey(key), "%q", key)
		require.NoErrorf(t, secret.Ref{Scope: secret.Scope{Org: "o"}, Key: key}.Validate(), "%q", key)
	}
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
		// Groups of v1's secrets: a Secret of Kubernetes, and one of AWS.
		{secret.Declaration{Key: "a-b", Group: "1.x", Mount: secret.EnvVar}, []string{"_UNION_A-B"}},
		{secret.Declaration{Key: "k", Group: "arn:aws:x"}, []string{"_UNION_K"}},
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
		{Key: "k", Group: "a b", Mount: secret.EnvVar},
	} {
		require.ErrorIsf(t, d.Validate(), secret.ErrInvalid, "%+v", d)
	}
	err := secret.Declaration{Key: "API_KEY", EnvVar: "hunter2"}.Validate()
	require.NotContains(t, err.Error()+secret.Hint(err), "hunter2")
	require.Contains(t, err.Error(), "API_KEY")
	require.Equal(t, "ANY ENV_VAR FILE", fmt.Sprint(secret.Any, secret.EnvVar, secret.File)[0:16])
}

func TestGroupEnvVars(t *testing.T) {
	for _, c := range []struct {
		name     string
		prefix   string
		declared []secret.Declaration
		want     [][]string
		errs     []string
	}{
		{
			"with a group", "", []secret.Declaration{
				{Group: "prod", Key: "db-pass", Mount: secret.EnvVar, EnvVar: "DB"},
				{Group: "Prod", Key: "x"},
				{Group: "prod", Key: "f", Mount: secret.File},
			}, [][]string{
				{"_FSEC_PROD_DB-PASS", "_UNION_PROD_DB-PASS"}, {"_FSEC_PROD_X", "_UNION_PROD_X"}, nil,
			}, nil,
		},
		{
			"without one", "", []secret.Declaration{{Key: "a"}, {Key: "b", EnvVar: "B"}}, [][]string{nil, nil}, nil,
		},
		{
			"another prefix", "X_", []secret.Declaration{
				{Key: "a-b"}, {Key: "b", EnvVar: "B"}, {Group: "g", Key: "c", EnvVar: "C"},
			}, [][]string{{"X_A-B"}, nil, {"X_G_C", "_FSEC_G_C", "_UNION_G_C"}}, nil,
		},
		{
			"a name that is declared", "", []secret.Declaration{
				{Group: "g", Key: "a", EnvVar: "A"},
				{Key: "f", Mount: secret.File, EnvVar: "_UNION_G_A"},
				{Group: "g", Key: "b", EnvVar: "_FSEC_G_B"},
			}, [][]string{{"_FSEC_G_A"}, nil, {"_UNION_G_B"}}, nil,
		},
		{
			"one key twice", "", []secret.Declaration{
				{Group: "g", Key: "a", EnvVar: "A"}, {Group: "G", Key: "a", EnvVar: "B"},
			}, [][]string{{"_FSEC_G_A", "_UNION_G_A"}, nil}, nil,
		},
		{
			"two keys", "", []secret.Declaration{
				{Group: "a", Key: "b_c", EnvVar: "A"}, {Group: "a_b", Key: "c", EnvVar: "B"},
			}, nil, []string{
				"b_c and c would both be in the variable _FSEC_A_B_C",
				"b_c and c would both be in the variable _UNION_A_B_C",
			},
		},
		{
			"a default of another", "",
			[]secret.Declaration{{Key: "g_a"}, {Group: "g", Key: "a", EnvVar: "A"}},
			nil,
			[]string{"g_a and a would both be in the variable _UNION_G_A"},
		},
		{
			"names that Kubernetes refuses", "", []secret.Declaration{
				{Group: "a=b", Key: "k", EnvVar: "A"},
				{Group: "a\nb", Key: "k", EnvVar: "B"},
				{Group: "ı", Key: "k", EnvVar: "C"},
				{Group: "a:b c", Key: "k", EnvVar: "D"},
			}, [][]string{nil, nil, nil, {"_FSEC_A:B C_K", "_UNION_A:B C_K"}}, nil,
		},
		{"a bad prefix of no use", "LD_", []secret.Declaration{{Key: "f", Mount: secret.File}}, [][]string{nil}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := secret.GroupEnvVars(c.declared, c.prefix)
			if c.errs == nil {
				require.NoError(t, err)
				require.Equal(t, c.want, got)
				return
			}
			require.ErrorIs(t, err, secret.ErrInvalid)
			require.Len(t, strings.Split(err.Error(), "\n"), len(c.errs))
			for _, text := range c.errs {
				require.ErrorContains(t, err, text)
			}
		})
	}
}

func TestPrefix(t *testing.T) {
	declared := []secret.Declaration{{Key: "D_PRELOAD"}}
	for _, prefix := range []string{"", "_FSEC_", "_UNION_", "a1_", "_"} {
		_, err := secret.GroupEnvVars(declared, prefix)
		require.NoError(t, err, prefix)
	}
	for _, prefix := range []string{
		"L", "LD_", "LD_X_", "INJECT_", "INJECTD_", "INJECT_X_",
		"FSEC", "1_", "A-_", "A.B_", " _", "_\n", "_=_", "ı_", "\x00_",
	} {
		_, err := secret.GroupEnvVars(declared, prefix)
		require.ErrorIs(t, err, secret.ErrInvalid, prefix)
		require.ErrorContains(t, err, "FLYTE_SECRETS_ENV_PREFIX")
	}
	_, err := secret.GroupEnvVars(declared, "hunter2")
	require.NotContains(t, err.Error()+secret.Hint(err), "hunter2")
}

// No variable that is derived steers the loader or inject, whatever the group and the prefix are.
func TestGroupEnvVarsSteerNothing(t *testing.T) {
	text := rapid.StringMatching(`(L|LD|LD_|P|I|INJECT|INJECT_|INJECTD_|D_|[A-Z_=]{0,3})[a-z_.-]{0,3}`)
	key := rapid.StringMatching(`(k[a-zA-Z_-]{0,9}|D_PRELOAD|_PRELOAD|ATH|NJECT_X|_X)`)
	steers := regexp.MustCompile(`^(LD_|INJECTD?_|PATH$)|=|\x00`)
	rapid.Check(t, func(t *rapid.T) {
		d := secret.Declaration{Group: text.Draw(t, "group"), Key: key.Draw(t, "key")}
		all, err := secret.GroupEnvVars([]secret.Declaration{d}, text.Draw(t, "prefix"))
		if err != nil {
			return
		}
		for _, name := range all[0] {
			if steers.MatchString(name) {
				t.Fatalf("%+v: %s", d, name)
			}
		}
	})
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
