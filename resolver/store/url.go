package store

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"inject/resolver/secret"
)

// The schemes of a store's address that [ParseURL] knows.
const (
	SchemeFile  = "file"  // a sealed file: file:///path
	SchemeDir   = "dir"   // a mounted folder: dir:///path
	SchemeGRPCS = "grpcs" // a server, over TLS: grpcs://host:port
	SchemeGRPC  = "grpc"  // a server on this machine, in the clear: grpc://127.0.0.1:port
	SchemeKube  = "kube"  // the Secrets of a namespace of Kubernetes: kube://NAMESPACE
)

// forms show what the addresses of each scheme look like, for hints.
var forms = map[string]struct{ what, form string }{
	SchemeFile:  {"a file", "file:///path/to/secrets.db"},
	SchemeDir:   {"a mounted folder", "dir:///path/to/folder"},
	SchemeGRPCS: {"a server", "grpcs://host:port"},
	SchemeGRPC:  {"a server on this machine", "grpc://127.0.0.1:port"},
	SchemeKube:  {"a namespace of Kubernetes", "kube://NAMESPACE"},
}

// ParseURL parses a store's address. name is what errors call it: the flag that gave it, mostly
// --store. schemes are those that the caller can open. A file:// or dir:// address has a Path in
// the file system, absolute or, as in file:secrets.db, relative. A grpcs:// or grpc:// address has
// a Host with a port and nothing else; the host of grpc:// is [Loopback]. A kube:// address has a
// namespace as its Host, or "" for that of the kubeconfig or of the pod, and a Query that may have
// a kubeconfig and a context of it. The error for anything else wraps [secret.ErrInvalid] and does
// not quote text, which may hold a password.
func ParseURL(name, text string, schemes ...string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" {
		return nil, secret.WithHint(fmt.Errorf("%w: %s is not a URL", secret.ErrInvalid, name), "%s", whatIs(schemes))
	}
	if u.Scheme == SchemeKube && !slices.Contains(schemes, SchemeKube) {
		return nil, secret.WithHint(
			fmt.Errorf("%w: %s: only injectd opens kube://, the Secrets of Kubernetes", secret.ErrInvalid, name),
			"name the server that serves them: %s", forms[SchemeGRPCS].form)
	}
	if !slices.Contains(schemes, u.Scheme) {
		return nil, secret.WithHint(fmt.Errorf("%w: %s: unknown scheme %.20q", secret.ErrInvalid, name, u.Scheme),
			"%s", known(schemes))
	}
	if u.User != nil {
		return nil, secret.WithHint(fmt.Errorf("%w: %s: the URL names a user", secret.ErrInvalid, name),
			"an address has no user and no password: %s", forms[u.Scheme].form)
	}
	check := checkPath
	switch u.Scheme {
	case SchemeGRPCS, SchemeGRPC:
		check = checkServer
	case SchemeKube:
		check = checkKube
	}
	if err := check(name, u); err != nil {
		return nil, err
	}
	return u, nil
}

// checkPath returns nil if u is a path in the file system, and sets u.Path to it.
func checkPath(name string, u *url.URL) error {
	if u.Opaque != "" { // file:relative/path
		var err error
		if u.Path, err = url.PathUnescape(u.Opaque); err != nil {
			u.Path = u.Opaque
		}
	}
	if u.RawQuery != "" || u.Fragment != "" || u.ForceQuery {
		return secret.WithHint(fmt.Errorf("%w: %s: a path has no query or fragment", secret.ErrInvalid, name),
			"in a URL a ? of a path is %%3F, and a # is %%23")
	}
	if u.Host != "" || u.Path == "" {
		return secret.WithHint(fmt.Errorf("%w: %s: a path is missing", secret.ErrInvalid, name),
			"three slashes begin an absolute path: %s:///path", u.Scheme)
	}
	return nil
}

// checkServer returns nil if u has a host and a port and nothing else.
func checkServer(name string, u *url.URL) error {
	form := forms[u.Scheme].form
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil || port == 0 || u.Hostname() == "" {
		return secret.WithHint(fmt.Errorf("%w: %s: the host or port of the server is missing", secret.ErrInvalid, name),
			"a server's address is %s", form)
	}
	if u.Path != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return secret.WithHint(fmt.Errorf("%w: %s: a server's address has no path, query or fragment",
			secret.ErrInvalid, name), "it ends with the port: %s", form)
	}
	if u.Scheme == SchemeGRPC && !Loopback(u.Hostname()) {
		return secret.WithHint(
			fmt.Errorf("%w: %s: grpc:// has no TLS and would send values over the network in the clear, "+
				"so only this machine may be named", secret.ErrInvalid, name),
			"use TLS: grpcs://%s", u.Host)
	}
	return nil
}

// checkKube returns nil if u has the parts of a kube:// address and nothing else.
func checkKube(name string, u *url.URL) error {
	const form = "its forms are kube://NAMESPACE, kube://NAMESPACE?kubeconfig=PATH&context=NAME and " +
		"kube:///?kubeconfig=PATH"
	refuse := func(what string) error {
		return secret.WithHint(fmt.Errorf("%w: %s: %s", secret.ErrInvalid, name, what), "%s", form)
	}
	query, err := url.ParseQuery(u.RawQuery)
	switch {
	case u.Opaque != "" || strings.Trim(u.Path, "/") != "" || u.Fragment != "":
		return refuse("a kube:// address has no path and no fragment")
	case u.Host != "" && !isNamespace(u.Host):
		return refuse("what follows kube:// is not the name of a namespace: a-z, 0-9 and -, at most 63")
	case err != nil:
		return refuse("what follows ? cannot be parsed")
	}
	for key, values := range query {
		if key != "kubeconfig" && key != "context" || len(values) != 1 || values[0] == "" {
			return refuse("after ? a kube:// address has a kubeconfig and a context, each once, and nothing else")
		}
	}
	if query.Has("context") && !query.Has("kubeconfig") {
		return refuse("a context is one of a kubeconfig, which is missing")
	}
	return nil
}

// isNamespace reports whether name is a label of RFC 1123, as the names of namespaces are.
func isNamespace(name string) bool {
	return len(name) <= 63 && strings.Trim(name, "-") == name && !strings.ContainsFunc(name, func(r rune) bool {
		return r != '-' && (r < 'a' || 'z' < r) && (r < '0' || '9' < r)
	})
}

// whatIs returns "a file is file:///path/to/secrets.db, a mounted folder dir:///…".
func whatIs(schemes []string) string {
	parts := make([]string, len(schemes))
	for i, s := range schemes {
		verb := ""
		if i == 0 {
			verb = " is"
		}
		parts[i] = forms[s].what + verb + " " + forms[s].form
	}
	return strings.Join(parts, ", ")
}

// known returns "known are file:///path/to/secrets.db and dir:///…".
func known(schemes []string) string {
	parts := make([]string, len(schemes))
	for i, s := range schemes {
		parts[i] = forms[s].form
	}
	if len(parts) == 1 {
		return "known is " + parts[0]
	}
	last := len(parts) - 1
	return "known are " + strings.Join(parts[:last], ", ") + " and " + parts[last]
}
