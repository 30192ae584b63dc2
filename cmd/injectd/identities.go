package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"

	"inject/resolver/secret"
	"inject/resolver/serve/identity"
	"inject/resolver/serve/policy"
	"inject/resolver/serve/transport"
)

// check returns an error for every setting of s that is missing or contradicts another.
func (f *accessSettings) check() error {
	var errs []error
	refuse := func(hint, format string, args ...any) {
		errs = append(errs, secret.WithHint(fmt.Errorf("%w: "+format, append([]any{secret.ErrInvalid}, args...)...),
			"%s", hint))
	}
	given := map[string]bool{
		"cert-file": f.CertFile != "", "cert-key-file": f.CertKeyFile != "", "client-ca-file": f.ClientCAFile != "",
		"jwt": f.JWT != nil, "tokens-file": f.TokenFile != "", "policy": f.Policy != "",
		"client-crl-file": f.ClientCRL != "", "login": f.Login != "", "kube-identity": f.Pods != "",
		"kube-identity-kubeconfig": f.PodsConfig != "", "kube-accept-unprotected": f.PodsAnyway,
		"kube-certificates": f.Kept != "", "kube-certificates-kubeconfig": f.KeptConfig != "",
	}
	if f.Insecure {
		for _, name := range []string{
			"cert-file", "cert-key-file", "client-ca-file", "client-crl-file", "jwt", "login", "tokens-file", "policy",
			"kube-identity", "kube-identity-kubeconfig", "kube-accept-unprotected", "kube-certificates",
			"kube-certificates-kubeconfig",
		} {
			if given[name] {
				refuse("leave one of the two out", "--insecure checks no credentials, and --%s is for checking them",
					name)
			}
		}
		return errors.Join(errs...)
	}
	if !given["cert-file"] && !given["kube-certificates"] {
		refuse("give a certificate, or --insecure to develop on this machine alone",
			"--cert-file is missing: values are only sent over TLS")
	}
	for _, name := range []string{"cert-file", "cert-key-file"} {
		if given[name] && given["kube-certificates"] {
			refuse("leave one of the two out", "--kube-certificates makes the server's certificate, and --%s names one",
				name)
		}
	}
	if given["kube-certificates-kubeconfig"] && !given["kube-certificates"] {
		refuse("say which certificates with --kube-certificates",
			"--kube-certificates-kubeconfig is for certificates in Kubernetes, and none is kept there")
	}
	if !given["client-ca-file"] && !given["jwt"] && !given["tokens-file"] && !given["kube-identity"] {
		refuse("say how callers are known: --client-ca-file, --jwt, --tokens-file or --kube-identity",
			"no caller could be identified")
	}
	for _, name := range []string{"kube-identity-kubeconfig", "kube-accept-unprotected"} {
		if given[name] && !given["kube-identity"] {
			refuse("say which policies vouch for pods with --kube-identity", "--%s is for pods, and none is known",
				name)
		}
	}
	if f.PodsMargin < 0 {
		refuse("the default is 1m", "--kube-identity-margin is not negative")
	}
	if given["client-crl-file"] && !given["client-ca-file"] {
		refuse("name the CAs that sign the lists with --client-ca-file",
			"--client-crl-file revokes client certificates, and no CA of such certificates is given")
	}
	if given["login"] && !given["jwt"] {
		refuse("say whose tokens are accepted with --jwt",
			"--login tells clients where to get a token, and the tokens of no issuer are accepted")
	}
	if !given["policy"] {
		refuse("docs/reference/policy.md is its format; injectd policy prints its schema",
			"--policy is missing, and what it does not allow is denied")
	}
	return errors.Join(errs...)
}

// access identifies callers and decides what each may do. It follows changes of its files.
type access struct {
	certificates *transport.Certificates // nil with --insecure, as are the fields below
	chain        identity.Chain
	pods         *pods           // nil without --kube-identity
	kept         *kept           // nil without --kube-certificates
	login        *identity.Login // nil without --login
	policy       *policy.File
	// by flag; Err tells why the content in force is older than the file
	sources map[string]interface{ Err() error }
}

// files returns the files that are read again when they change, with their names in metrics. That
// of an issuer's keys is not among them.
func (f *accessSettings) files() map[string]string {
	files := map[string]string{
		f.Policy: "policy", f.TokenFile: "tokens-file", f.ClientCAFile: "client-ca-file",
		f.ClientCRL: "client-crl-file", f.CertKeyFile: "cert-key-file", f.CertFile: "cert-file",
		f.Pods: "kube-identity", f.Kept: "kube-certificates",
	}
	delete(files, "") // those that are not given
	return files
}

// open reads every file and URL that the settings name, and follows their changes until ctx
// ends. org is that of scopes in the policy that name none. The error names every file and URL
// that cannot be used.
func (f *accessSettings) open(ctx context.Context, org string, log hclog.Logger) (*access, error) {
	if err := f.check(); err != nil || f.Insecure {
		return &access{sources: map[string]interface{ Err() error }{}}, err
	}
	return f.load(ctx, org, log)
}

// load is open without a check of what is missing: it opens what is given.
func (f *accessSettings) load(ctx context.Context, org string, log hclog.Logger) (*access, error) {
	a := &access{sources: map[string]interface{ Err() error }{}}
	var errs []error
	failed := func(flag string, err error) bool {
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
		}
		return err != nil
	}
	files := transport.CertificateFiles{
		Cert: f.CertFile, Key: f.CertKeyFile, ClientCA: f.ClientCAFile, ClientCRL: f.ClientCRL,
	}
	if f.Kept != "" {
		kept, err := f.openKept(ctx, log.Named("certificates"))
		if !failed("kube-certificates", err) {
			a.kept, a.sources["kube-certificates"] = kept, kept.file
			files.Kept = kept.Certificate
		}
	}
	if f.CertFile != "" || files.Kept != nil {
		certificates, err := transport.LoadCertificates(ctx, files, log.Named("certificates"))
		if err == nil {
			a.certificates = certificates
			for flag, source := range certificates.Sources() {
				a.sources[flag] = source
			}
		}
		errs = append(errs, err) // the error names the file
	}
	if f.ClientCAFile != "" {
		a.chain = append(a.chain, identity.MTLS{})
	}
	if f.Pods != "" { // before the issuers: the cluster may be one of them
		pods, err := f.openPods(ctx, log.Named("pods"))
		if !failed("kube-identity", err) {
			a.pods, a.sources["kube-identity"] = pods, pods.file
			a.chain = append(a.chain, pods)
		}
	}
	var issuers []identity.JWTOptions
	for _, text := range f.JWT {
		o, err := parseJWT(text)
		if failed("jwt", err) {
			continue
		}
		issuers = append(issuers, o)
		if a.sources["jwt "+o.Issuer] != nil {
			failed("jwt", secret.WithHint(fmt.Errorf("%w: the issuer %s is given twice", secret.ErrInvalid, o.Issuer),
				"give each issuer once: a token names its issuer, so it cannot choose between two"))
			continue
		}
		o.Log = log.Named("jwt")
		j, err := identity.NewJWT(ctx, o)
		if !failed("jwt", err) {
			a.chain = append(a.chain, j)
			a.sources["jwt "+j.Issuer()] = j
		}
	}
	if f.Login != "" {
		login, err := parseLogin(f.Login, issuers, log.Named("login"))
		if !failed("login", err) {
			a.login = login
		}
	}
	if f.TokenFile != "" {
		tokens, err := identity.NewTokens(ctx, f.TokenFile, log.Named("tokens"))
		if !failed("tokens-file", err) {
			a.chain = append(a.chain, tokens)
			a.sources["tokens-file"] = tokens
		}
	}
	if f.Policy != "" {
		file, err := policy.Open(ctx, f.Policy, org, log.Named("policy"))
		if !failed("policy", err) {
			a.policy, a.sources["policy"] = file, file
		}
	}
	return a, errors.Join(errs...)
}

// wayIn returns nil if a caller may be identified: an issuer's tokens are no way in before its keys
// were read once. With other ways in, an issuer that does not answer is only logged and counted.
func (a *access) wayIn() error {
	var errs []error
	for _, one := range a.chain {
		j, ok := one.(*identity.JWT)
		if !ok || j.HasKeys() {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", j.Issuer(), j.Err()))
	}
	return errors.Join(errs...)
}

// parseJWT parses the argument of --jwt.
func parseJWT(text string) (o identity.JWTOptions, err error) {
	ok := parseList(text, func(name, value string) bool {
		switch name {
		case "issuer":
			o.Issuer = value
		case "audience":
			o.Audience = value
		case "keys":
			o.Keys = value
		case "ca":
			o.CAFile = value
		case "token":
			o.TokenFile = value
		case "algorithms":
			o.Algorithms = strings.Split(value, "+")
		default:
			return false
		}
		return true
	})
	if !ok {
		return o, badList("--jwt issuer=https://issuer.example.org,audience=inject," +
			"keys=https://issuer.example.org/keys")
	}
	return o, nil
}

// parseList calls set for each NAME=VALUE of a list with commas. It returns false if the text is no
// such list, a name is there twice, or set returns false.
func parseList(text string, set func(name, value string) bool) bool {
	seen := map[string]bool{}
	for part := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(part, "=")
		if !ok || value == "" || seen[name] || !set(name, value) {
			return false
		}
		seen[name] = true
	}
	return true
}

func badList(example string) error {
	return secret.WithHint(fmt.Errorf("%w: it is a list of NAME=VALUE with commas, each name once", secret.ErrInvalid),
		"%s", example)
}

// parseLogin parses the argument of --login. The issuer is one of those of --jwt.
func parseLogin(text string, issuers []identity.JWTOptions, log hclog.Logger) (*identity.Login, error) {
	o := identity.LoginOptions{Scopes: []string{"openid"}, RedirectURI: defaultRedirect, Log: log}
	ok := parseList(text, func(name, value string) bool {
		switch name {
		case "client-id":
			o.ClientID = value
		case "issuer":
			o.Issuer = value
		case "audience":
			o.Audience = value
		case "scopes":
			o.Scopes = strings.Split(value, "+")
		case "redirect-uri":
			o.RedirectURI = value
		default:
			return false
		}
		return true
	})
	if !ok {
		return nil, badList("--login client-id=inject; issuer, audience, scopes and redirect-uri may follow")
	}
	var accepted []string
	for _, j := range issuers {
		if accepted = append(accepted, j.Issuer); j.Issuer == o.Issuer || o.Issuer == "" {
			o.CAFile = j.CAFile
		}
	}
	switch {
	case o.Issuer != "" && !slices.Contains(accepted, o.Issuer):
		return nil, secret.WithHint(
			fmt.Errorf("%w: tokens of %s are not accepted", secret.ErrInvalid, o.Issuer),
			"the issuer is one of those of --jwt, spelled as there: %s", strings.Join(accepted, ", "))
	case o.Issuer == "" && len(accepted) != 1:
		return nil, secret.WithHint(fmt.Errorf("%w: there are several issuers", secret.ErrInvalid),
			"name one of them: issuer=URL")
	case o.Issuer == "":
		o.Issuer = accepted[0]
	}
	return identity.NewLogin(o)
}

// defaultRedirect is the address at which Flyte's clients wait for the browser, unless they are told
// another (flyte 2.12.1).
const defaultRedirect = "http://localhost:53593/callback"
