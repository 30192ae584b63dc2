package place

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
)

func TestAliases(t *testing.T) {
	file := func(group, key string) secret.Declaration {
		return secret.Declaration{Group: group, Key: key, Mount: secret.File}
	}
	for _, c := range []struct {
		name     string
		declared []secret.Declaration
		want     [][]string
	}{
		{
			"files in the folder alone", []secret.Declaration{
				file("", "key"), file("", "TLS_CERT"),
				{Key: "ENV", Mount: secret.EnvVar},
				{Key: "AT", Mount: secret.File, Path: "/at"},
			}, [][]string{nil, {"tls_cert"}, nil, nil},
		},
		{
			"of a group",
			[]secret.Declaration{file("AWS", "TOKEN"), file("db", "p"), file("a/b", "k")},
			[][]string{{"AWS/TOKEN", "AWS/token", "aws/token", "token"}, {"db/p"}, {"a/b/k"}},
		},
		{"declared itself", []secret.Declaration{file("", "my_secret"), file("", "MY_SECRET")}, [][]string{{}, {}}},
		{"of two secrets", []secret.Declaration{file("", "My_Secret"), file("", "MY_SECRET")}, [][]string{{}, {}}},
		{
			"of one secret in two groups",
			[]secret.Declaration{file("a", "K"), {Group: "b", Key: "K"}, file("b", "K")},
			[][]string{{"a/K", "a/k", "k"}, {"b/K", "b/k"}, {}},
		},
		{"of two secrets in one group", []secret.Declaration{file("a", "Kk"), {Group: "A", Key: "kK"}}, [][]string{
			{"a/Kk"}, {"A/kK", "A/kk"},
		}},
		{"a file and a folder", []secret.Declaration{file("g", "G"), file("x", "g")}, [][]string{{}, {"x/g"}}},
		{
			"outside the folder, or hidden", []secret.Declaration{
				file("../..", "k"), file("/etc", "l"), file(".links", "m"),
				file("a//b", "n"), file("a/../..", "o"), file("a\x00", "p"),
			}, [][]string{nil, nil, nil, nil, nil, nil},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, fmt.Sprintf("%q", c.want), fmt.Sprintf("%q", aliases(c.declared)))
		})
	}
}
