package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"

	"inject/cli"
	"inject/injector/task"
	"inject/resolver/secret"
	"inject/resolver/store"
)

// The files beside the pod info by which a pod and its server know each other. Kubelet writes them and
// renews them, from a projected volume: a token that names the pod, and the ConfigMap with the
// authorities that may have signed the server's certificate.
const (
	podToken = task.PodDir + "/token"
	podCA    = task.PodDir + "/ca.crt"
)

// usePod takes the token and the authorities for the server at u from the pod's folder, each unless a
// flag or a variable gives another, or a person has logged in there. The folder is of the server in
// $INJECT_STORE, if that is set: a person who controls the command line alone cannot have the token
// sent to a server of their own. The error names the files that are missing.
func (a *app) usePod(u *url.URL) error {
	f := &a.set.Store
	token, ca := exists(podToken), exists(podCA)
	if u.Scheme != store.SchemeGRPCS || a.profile != "" || !token && !ca {
		return nil
	}
	if _, login := a.keptLogin(u); login {
		return nil
	}
	known := a.ownCredential() != ""
	if named := a.settings.Env(cli.Twin("store")); named != "" && !sameServer(u, named) {
		if known {
			return nil
		}
		return secret.WithHint(
			fmt.Errorf("%w: the token in %s goes only to the server in %s, and --store names another one",
				secret.ErrInvalid, podToken, cli.Twin("store")),
			"leave --store out, or say who you are there with --token-file FILE or --cert-file FILE")
	}
	var errs []error
	missing := func(path, flag string) {
		errs = append(errs, withPodHint(
			fmt.Errorf("%w: %s is not there, and there is no --%s", secret.ErrInvalid, path, flag)))
	}
	if !known {
		if f.TokenFile = podToken; !token {
			missing(podToken, "token-file")
		}
	}
	if f.CAFile == "" {
		if ca {
			f.CAFile = podCA
		} else if !known {
			missing(podCA, "ca-file")
		}
	}
	a.log.Debug("identified by the pod's folder", "token", f.TokenFile, "authorities", f.CAFile)
	return errors.Join(errs...)
}

// withPodHint adds to err how the pod's folder is filled.
func withPodHint(err error) error {
	return secret.WithHint(err, "kubelet fills %s: token is a serviceAccountToken for the audience inject, which"+
		" the user of this container must be able to read, and ca.crt is in the ConfigMap inject-ca of the pod's"+
		" namespace; --token-file and --ca-file name other files", task.PodDir)
}

// exists reports whether there is something at path. What cannot be looked at is reported by reading it.
func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil || errors.Is(err, fs.ErrPermission)
}
