package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"inject/cli"
	"inject/internal/spelling"
	"inject/internal/strictyaml"
	"inject/resolver/secret"
)

// maxConfig is the size limit of the file with the profiles, in bytes. A larger one is there by
// mistake.
const maxConfig = 1 << 20

const profileForm = "profiles: {NAME: {store: grpcs://HOST:PORT}}"

// useProfile sets the store, and the identity for it, that --profile or INJECT_PROFILE names. What a
// profile has goes to the store of that profile and to no other: with --store, a profile of the
// variable is not read, and with a profile, no variable of a store is used.
func (a *app) useProfile() error {
	f := &a.set.Store
	if f.Profile == "" {
		return nil
	}
	typed := a.typed("profile", f.Profile)
	switch {
	case a.typed("store", f.URL) && typed:
		return secret.WithHint(fmt.Errorf("%w: --profile and --store both name a store", secret.ErrInvalid), "give one")
	case a.typed("store", f.URL):
		return nil
	case f.URL != "" && !typed:
		return secret.WithHint(
			fmt.Errorf("%w: INJECT_PROFILE and INJECT_STORE both name a store", secret.ErrInvalid),
			"unset one of them, or give --profile or --store")
	}
	path, err := cli.UserPath(a.set.Found.ConfigHome, ".config", "config.yaml")
	if err != nil {
		return err
	}
	profile, err := readProfile(path, f.Profile)
	if err != nil {
		return err
	}
	f.URL = profile["store"]
	for name, setting := range map[string]*string{
		"key-file": &f.KeyFile, "token-file": &f.TokenFile, "ca-file": &f.CAFile,
		"cert-file": &f.CertFile, "cert-key-file": &f.CertKeyFile,
	} {
		if a.typed(name, *setting) {
			continue
		}
		*setting = profile[name]
		if *setting != "" && !filepath.IsAbs(*setting) {
			*setting = filepath.Join(filepath.Dir(path), *setting)
		}
	}
	a.set.Keys.Key, a.set.Keys.Token = secret.Value{}, secret.Value{}
	a.profile = f.Profile
	return nil
}

// readProfile returns the settings of the profile name in the file at path, by the names of their
// flags. The error names every mistake in the file by its line, and quotes no text of it.
func readProfile(path, name string) (map[string]string, error) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxConfig {
		what := fmt.Sprintf("it is not a file of at most %d bytes", maxConfig)
		if err != nil {
			what = err.Error()
		}
		return nil, secret.WithHint(fmt.Errorf("%w: --profile: %s", secret.ErrInvalid, what),
			"%s has the profiles, in the form "+profileForm, path)
	}
	text, err := os.ReadFile(path) //nolint:gosec // the user's own file
	if err != nil {
		return nil, fmt.Errorf("%w: --profile: %w", secret.ErrInvalid, err)
	}
	root, err := strictyaml.Parse(text)
	if err != nil {
		line := 1
		if e, ok := errors.AsType[*strictyaml.SyntaxError](err); ok {
			line = max(e.Line, 1)
		}
		return nil, secret.WithHint(
			fmt.Errorf("%w: %s:%d is not YAML, or has no profiles", secret.ErrInvalid, path, line), profileForm)
	}
	var names []string
	profiles := map[string]map[string]string{}
	top, ok := root.Known("profiles")
	if node := top["profiles"]; ok && node.Node != nil {
		all, _ := node.Fields()
		for _, f := range all {
			names = append(names, f.Name)
			profiles[f.Name] = profileOf(f.Value)
		}
	}
	if first, _ := root.Mistakes(); len(first) > 0 {
		var errs []error
		for _, m := range first {
			errs = append(errs, fmt.Errorf("%w: %s:%d: %s: %w", secret.ErrInvalid, path, m.Line,
				cmp.Or(m.Path, "the file"), m.Err))
		}
		return nil, errors.Join(errs...)
	}
	profile, there := profiles[name]
	if !there {
		hint := "it has " + strings.Join(names, ", ")
		if near := spelling.Nearest(name, names); near != "" {
			hint = "did you mean " + near + "?"
		}
		return nil, secret.WithHint(fmt.Errorf("%w: %s has no such profile", secret.ErrInvalid, path), "%s", hint)
	}
	return profile, nil
}

// profileOf returns the settings of a profile.
func profileOf(n strictyaml.Node) map[string]string {
	fields, ok := n.Known("store", "key-file", "token-file", "ca-file", "cert-file", "cert-key-file")
	if !ok {
		return nil
	}
	settings := map[string]string{}
	for name, value := range fields {
		if value.Node != nil && !value.Null() {
			settings[name], _ = value.Text()
		}
	}
	if settings["store"] == "" {
		n.Fail("the store is missing")
	}
	return settings
}
