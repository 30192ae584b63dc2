package store_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
	"inject/resolver/store"
)

func TestParseURL(t *testing.T) {
	local := []string{store.SchemeFile, store.SchemeDir}
	every := []string{store.SchemeFile, store.SchemeDir, store.SchemeGRPCS, store.SchemeGRPC}
	kube := []string{store.SchemeFile, store.SchemeKube}
	for _, c := range []struct{ text, scheme, path, host string }{
		{"file:///a/b.db", "file", "/a/b.db", ""},
		{"FILE:///a", "file", "/a", ""},
		{"file:a/b.db", "file", "a/b.db", ""},
		{"file:a%3Fb%23c", "file", "a?b#c", ""},
		{"file:///a%20b%25", "file", "/a b%", ""},
		{"dir:///", "dir", "/", ""},
		{"grpcs://example.com:8093", "grpcs", "", "example.com:8093"},
		{"grpcs://[2001:db8::1]:1", "grpcs", "", "[2001:db8::1]:1"},
		{"grpcs://127.0.0.1:65535", "grpcs", "", "127.0.0.1:65535"},
		{"grpc://localhost:8093", "grpc", "", "localhost:8093"},
		{"grpc://LocalHost:8093", "grpc", "", "LocalHost:8093"},
		{"grpc://127.0.0.1:8093", "grpc", "", "127.0.0.1:8093"},
		{"grpc://127.255.3.4:8093", "grpc", "", "127.255.3.4:8093"},
		{"grpc://[::1]:8093", "grpc", "", "[::1]:8093"},
		{"kube://inject-secrets", "kube", "", "inject-secrets"},
		{"kube://ns/?kubeconfig=a/b&context=x%20y", "kube", "/", "ns"},
		{"kube:///?kubeconfig=/a/b", "kube", "/", ""},
		{"kube://", "kube", "", ""},
	} {
		t.Run(c.text, func(t *testing.T) {
			t.Run(c.text, func(t *testing.T) {
				u, err := store.ParseURL("--store", c.text, append(every, store.SchemeKube)...)
				require.NoError(t, err)
				require.Equal(t, c.scheme, u.Scheme)
				require.Equal(t, c.path, u.Path)
				require.Equal(t, c.host, u.Host)
			})
		})
	}

	const noServer, noPath = "the host or port of the server is missing", "a path is missing"
	for _, c := range []struct {
		schemes          []string
		text, want, hint string
	}{
		{
			local, "", "--from is not a URL",
			"a file is file:///path/to/secrets.db, a mounted folder dir:///path/to/folder",
		},
		{local, "/a/b.db", "--from is not a URL", "a file is file:///path/to/secrets.db"},
		{local, "://findme", "--from is not a URL", ""},
		{local, "file://findme:findme\x7f@h/p", "--from is not a URL", ""},
		{
			local, "https://h/p", `unknown scheme "https"`,
			"known are file:///path/to/secrets.db and dir:///path/to/folder",
		},
		{local, "grpcs://h:1", `unknown scheme "grpcs"`, ""},
		{[]string{"dir"}, "file:///a", `unknown scheme "file"`, "known is dir:///path/to/folder"},
		{
			every, "https://h", `unknown scheme "https"`,
			"known are file:///path/to/secrets.db, dir:///path/to/folder, grpcs://host:port and grpc://127.0.0.1:port",
		},
		{local, "file:///a?b", "no query or fragment", "%3F"},
		{local, "file:///a?", "no query or fragment", ""},
		{local, "file:///a#b", "no query or fragment", ""},
		{local, "file://relative/path", noPath, "three slashes begin an absolute path: file:///path"},
		{local, "dir:", noPath, "dir:///path"},
		{local, "dir://", noPath, ""},
		{local, "file://findme:findme@/a", "the URL names a user", "file:///path"},
		{every, "grpcs://findme:findme@h:1", "the URL names a user", "grpcs://host:port"},
		{every, "grpcs://findme@h:1", "the URL names a user", ""},
		{every, "grpcs://h", noServer, "grpcs://host:port"},
		{every, "grpcs://:8093", noServer, ""},
		{every, "grpcs://h:0", noServer, ""},
		{every, "grpcs://h:65536", noServer, ""},
		{every, "grpcs://h:", noServer, ""},
		{every, "grpcs:h:8093", noServer, ""},
		{every, "grpc:///path", noServer, "grpc://127.0.0.1:port"},
		{every, "grpcs://h:1/", "no path, query or fragment", "ends with the port"},
		{every, "grpcs://h:1/p", "no path, query or fragment", ""},
		{every, "grpcs://h:1?q", "no path, query or fragment", ""},
		{every, "grpcs://h:1#f", "no path, query or fragment", ""},
		{every, "grpc://example.com:8093", "in the clear", "use TLS: grpcs://example.com:8093"},
		{every, "grpc://localhost.example.com:1", "in the clear", ""},
		{every, "grpc://128.0.0.1:1", "in the clear", ""},
		{every, "grpc://0.0.0.0:1", "in the clear", ""},
		{every, "grpc://[::]:1", "in the clear", "grpcs://[::]:1"},
		{every, "kube://ns", "only injectd opens kube://", "name the server that serves them: grpcs://host:port"},
		{kube, "kube:ns", "no path and no fragment", "kube://NAMESPACE?kubeconfig=PATH&context=NAME"},
		{kube, "kube://ns/findme", "no path and no fragment", ""},
		{kube, "kube://ns#findme", "no path and no fragment", ""},
		{kube, "kube://NS", "not the name of a namespace", ""},
		{kube, "kube://ns:1", "not the name of a namespace", ""},
		{kube, "kube://-", "not the name of a namespace", ""},
		{kube, "kube://findme:findme@ns", "the URL names a user", "kube://NAMESPACE"},
		{kube, "kube://ns?kubeconfig=%", "cannot be parsed", ""},
		{kube, "kube://ns?token=findme", "nothing else", ""},
		{kube, "kube://ns?kubeconfig=a&kubeconfig=b", "each once", ""},
		{kube, "kube://ns?kubeconfig=", "each once", ""},
		{kube, "kube://ns?context=a", "which is missing", ""},
	} {
		t.Run(c.text, func(t *testing.T) {
			t.Run(c.text, func(t *testing.T) {
				_, err := store.ParseURL("--from", c.text, c.schemes...)
				require.ErrorIs(t, err, secret.ErrInvalid)
				require.ErrorContains(t, err, "invalid: --from")
				require.ErrorContains(t, err, c.want)
				require.Contains(t, secret.Hint(err), c.hint)
				require.NotEmpty(t, secret.Hint(err))
				require.NotContains(t, err.Error()+secret.Hint(err), "findme")
			})
		})
	}
}
