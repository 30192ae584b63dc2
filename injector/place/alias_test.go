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
		declared []secret.Declaration
		want     [][]string
	}{
		{[]secret.Declaration{file("", "key"), file("", "TLS_CERT"), {Key: "ENV"}, {Key: "AT", Mount: secret.File, Path: "/at"}}, [][]string{nil, {"tls_cert"}, nil, nil}},
		{[]secret.Declaration{file("AWS", "TOKEN"), file("db", "p")}, [][]string{{"AWS/TOKEN", "AWS/token", "aws/token", "token"}, {"db/p"}}},
		// What is declared itself, or would be two secrets', is neither's.
		{[]secret.Declaration{file("", "my_secret"), file("", "MY_SECRET")}, [][]string{{}, {}}},
		{[]secret.Declaration{file("", "My_Secret"), file("", "MY_SECRET")}, [][]string{{}, {}}},
		{[]secret.Declaration{file("g", "G"), file("x", "g")}, [][]string{{}, {"x/g"}}},
		// What would leave the folder, or hide what is ours.
		{[]secret.Declaration{file("../..", "k"), file("/etc", "l"), file(".links", "m"), file("a//b", "n"), file("a/../..", "o"), file("a\x00", "p")}, [][]string{nil, nil, nil, nil, nil, nil}},
		{[]secret.Declaration{file("a/b", "k")}, [][]string{{"a/b/k"}}},
	} {
		require.Equal(t, fmt.Sprintf("%q", c.want), fmt.Sprintf("%q", aliases(c.declared)))
	}
}
