package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"inject/exec"
	"inject/injector/place"
	"inject/resolver/secret"
)

// dockerConfig is Docker's config.json, and the value of an image pull secret.
type dockerConfig struct {
	Auths map[string]dockerAuth `json:"auths"`

	CredHelpers map[string]string `json:"credHelpers,omitempty"`
	CredsStore  string            `json:"credsStore,omitempty"`
}

type dockerAuth struct {
	Auth string `json:"auth,omitempty"` // base64 of "user:password"
}

func newDockerAuth(user, password string) dockerAuth {
	return dockerAuth{base64.StdEncoding.EncodeToString([]byte(user + ":" + password))}
}

// imagePull builds the value of an image pull secret, the same JSON as Flyte's
// command does: {"auths":{REGISTRY:{"auth":base64("user:password")}}}.
func (a *app) imagePull(cmd *cobra.Command, sources []string) (secret.Value, error) {
	if len(sources) == 1 && sources[0] != "--registry" && sources[0] != "--from-docker-config" {
		return secret.Value{}, secret.WithHint(fmt.Errorf("%w: %s is not for image pull secrets", secret.ErrInvalid, sources[0]),
			"give --registry, --username and --password, or --from-docker-config")
	}
	v := &a.set.Type
	if !v.FromDockerConfig && (v.DockerConfigPath != "" || v.Registries != "") {
		return secret.Value{}, fmt.Errorf("%w: --docker-config-path and --registries need --from-docker-config", secret.ErrInvalid)
	}
	config := dockerConfig{Auths: map[string]dockerAuth{}}
	if v.FromDockerConfig {
		if err := a.readDockerConfig(cmd.Context(), config.Auths); err != nil {
			return secret.Value{}, err
		}
	} else if err := a.askRegistry(config.Auths); err != nil {
		return secret.Value{}, err
	}
	b, err := json.Marshal(config)
	return secret.NewValue(b), err
}

// askRegistry adds the credentials that the flags name; what they do not is
// asked for.
func (a *app) askRegistry(auths map[string]dockerAuth) error {
	v := &a.set.Type
	t := a.terminal()
	var missing []string
	for _, q := range []struct {
		flag   string
		answer *string
		ask    func() (string, error)
	}{
		{"registry", &v.Registry, func() (string, error) { return t.Line("Registry (e.g., ghcr.io, docker.io): ") }},
		{"username", &v.Username, func() (string, error) { return t.Line("Username: ") }},
		{"password", &v.Password, func() (string, error) {
			value, err := t.Ask("Password: ")
			return string(value.Reveal()), err
		}},
	} {
		if *q.answer != "" {
			continue
		}
		if t == nil {
			missing = append(missing, "--"+q.flag)
			continue
		}
		var err error
		if *q.answer, err = q.ask(); err != nil {
			return err
		}
	}
	if missing != nil {
		return fmt.Errorf("%w: an image pull secret needs %s, and there is no terminal to ask on", secret.ErrInvalid, strings.Join(missing, ", "))
	}
	auths[v.Registry] = newDockerAuth(v.Username, v.Password)
	return nil
}

// readDockerConfig adds the credentials that docker has, from its configuration
// and the credential helpers that this names.
func (a *app) readDockerConfig(ctx context.Context, auths map[string]dockerAuth) error {
	v := &a.set.Type
	path := v.DockerConfigPath
	if path == "" {
		dir := a.set.Found.DockerConfig
		if dir == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return fmt.Errorf("%w: docker's configuration: %w", secret.ErrInvalid, err)
			}
			dir = filepath.Join(home, ".docker")
		}
		path = filepath.Join(dir, "config.json")
	}
	b, err := os.ReadFile(path) //nolint:gosec // the user's own file
	if err != nil {
		return fmt.Errorf("%w: docker's configuration: %w", secret.ErrInvalid, err)
	}
	var config dockerConfig
	if json.Unmarshal(b, &config) != nil { // whose error may quote the file
		return fmt.Errorf("%w: docker's configuration: %s is not JSON", secret.ErrInvalid, path)
	}
	var registries []string
	if v.Registries != "" {
		registries = strings.Split(v.Registries, ",")
	} else {
		for r := range config.Auths {
			registries = append(registries, r)
		}
		for r := range config.CredHelpers {
			if _, ok := config.Auths[r]; !ok {
				registries = append(registries, r)
			}
		}
		slices.Sort(registries)
	}
	var errs []error
	for _, r := range registries {
		auth, err := config.credentials(ctx, strings.TrimSpace(r))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		auths[strings.TrimSpace(r)] = auth
	}
	if len(registries) == 0 {
		return fmt.Errorf("%w: docker's configuration: %s has no credentials", secret.ErrInvalid, path)
	}
	return errors.Join(errs...)
}

// credentials returns docker's credentials for a registry: a helper's, if there
// is one, else what the file itself has.
func (c *dockerConfig) credentials(ctx context.Context, registry string) (dockerAuth, error) {
	if auth, ok := c.Auths[registry]; ok && auth.Auth != "" {
		return auth, nil
	}
	helper := c.CredHelpers[registry]
	if helper == "" {
		helper = c.CredsStore
	}
	if helper == "" || strings.ContainsAny(helper, "/\x00") {
		return dockerAuth{}, fmt.Errorf("%w: docker has no credentials for %s", secret.ErrInvalid, registry)
	}
	// What opens the store is not the helper's.
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, place.OwnPrefix) })
	out, err := exec.Output(ctx, env, registry, "docker-credential-"+helper, "get")
	if err != nil {
		return dockerAuth{}, fmt.Errorf("%w: credentials for %s: %w", secret.ErrInvalid, registry, err)
	}
	var got struct{ Username, Secret string }
	if json.NewDecoder(bytes.NewReader(out)).Decode(&got) != nil {
		return dockerAuth{}, fmt.Errorf("%w: credentials for %s: docker-credential-%s gave no JSON", secret.ErrInvalid, registry, helper)
	}
	return newDockerAuth(got.Username, got.Secret), nil
}
