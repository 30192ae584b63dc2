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
)

// forms show what the addresses of each scheme look like, for hints.
var forms = map[string]struct{ what, form string }{
	SchemeFile:  {"a file", "file:///path/to/secrets.db"},
	SchemeDir:   {"a mounted folder", "dir:///path/to/folder"},
	SchemeGRPCS: {"a server", "grpcs://host:port"},
	SchemeGRPC:  {"a server on this machine", "grpc://127.0.0.1:port"},
}

// ParseURL parses a store's address, the --store of the command line. schemes are
// those that the caller can open. A file:// or dir:// address has a Path in the file
// system, absolute or, as in file:secrets.db, relative. A grpcs:// or grpc:// address
// has a Host with a port and nothing else; the host of grpc:// is [Loopback]. The
// error for anything else wraps [secret.ErrInvalid] and does not quote text, which
// may hold a password.
func ParseURL(text string, schemes ...string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" {
		return nil, secret.WithHint(fmt.Errorf("%w: --store is not a URL", secret.ErrInvalid), "%s", whatIs(schemes))
	}
	if !slices.Contains(schemes, u.Scheme) {
		return nil, secret.WithHint(fmt.Errorf("%w: --store: unknown scheme %.20q", secret.ErrInvalid, u.Scheme), "%s",
			known(schemes))
	}
	if u.User != nil {
		return nil, secret.WithHint(fmt.Errorf("%w: --store: the URL names a user", secret.ErrInvalid),
			"an address has no user and no password: %s", forms[u.Scheme].form)
	}
	check := checkPath
	if u.Scheme == SchemeGRPCS || u.Scheme == SchemeGRPC {
		check = checkServer
	}
	if err := check(u); err != nil {
		return nil, err
	}
	return u, nil
}

// checkPath returns nil if u is a path in the file system, and sets u.Path to it.
func checkPath(u *url.URL) error {
	if u.Opaque != "" { // file:relative/path
		var err error
		if u.Path, err = url.PathUnescape(u.Opaque); err != nil {
			u.Path = u.Opaque
		}
	}
	if u.RawQuery != "" || u.Fragment != "" || u.ForceQuery {
		return secret.WithHint(fmt.Errorf("%w: --store: a path has no query or fragment", secret.ErrInvalid),
			"in a URL a ? of a path is %%3F, and a # is %%23")
	}
	if u.Host != "" || u.Path == "" {
		return secret.WithHint(fmt.Errorf("%w: --store: a path is missing", secret.ErrInvalid),
			"three slashes begin an absolute path: %s:///path", u.Scheme)
	}
	return nil
}

// checkServer returns nil if u has a host and a port and nothing else.
func checkServer(u *url.URL) error {
	form := forms[u.Scheme].form
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil || port == 0 || u.Hostname() == "" {
		return secret.WithHint(fmt.Errorf("%w: --store: the host or port of the server is missing", secret.ErrInvalid),
			"a server's address is %s", form)
	}
	if u.Path != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return secret.WithHint(fmt.Errorf("%w: --store: a server's address has no path, query or fragment",
			secret.ErrInvalid), "it ends with the port: %s", form)
	}
	if u.Scheme == SchemeGRPC && !Loopback(u.Hostname()) {
		return secret.WithHint(
			fmt.Errorf("%w: --store: grpc:// has no TLS and would send values over the network in the clear, "+
				"so only this machine may be named", secret.ErrInvalid),
			"use TLS: grpcs://%s", u.Host)
	}
	return nil
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
